"""An attachment as JSON values, for the journal, and back. Exactly: what is decoded equals what was encoded.

The codec is made from the types of the fields, so that a new field is kept without a word here. What has its default is
left out, and a field that is missing gets it: journals of older versions are read. Fields that are not known are
passed over: so are journals of newer ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache, lru_cache, reduce
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, ip_address, ip_interface, ip_network
from operator import attrgetter, or_
from types import NoneType
from typing import Any, NamedTuple, cast, get_args, get_origin, get_type_hints

from cni.attachment import Attachment

_PARSERS: dict[type, Callable[[str], Any]] = {
    IPv4Address: ip_address,
    IPv4Interface: ip_interface,
    IPv4Network: ip_network,
}
"""By the first of the two types that a union of both families has."""


class _Codec(NamedTuple):
    """`encode` None: the value is a JSON value already. `decode` raises ValueError."""

    encode: Callable[[Any], Any] | None
    decode: Callable[[Any], Any]


def encode(attachment: Attachment) -> dict[str, object]:
    """JSON values that `decode` makes an equal attachment of."""
    return cast("Callable[[Attachment], dict[str, object]]", _codec(Attachment).encode)(attachment)


def decode(value: object) -> Attachment:
    """The attachment. Raises ValueError if the value is not what `encode` makes."""
    found: Attachment = _codec(Attachment).decode(value)
    return found


@cache
def _codec(kind: Any) -> _Codec:
    members = get_args(kind)
    if NoneType in members:
        return _optional(_codec(reduce(or_, (each for each in members if each is not NoneType))))
    if get_origin(kind) is tuple:
        return _many(_codec(members[0])) if members[-1] is ... else _row(tuple(map(_codec, members)), tuple)
    if members:
        return _Codec(_text, _checked(str, _PARSERS[members[0]]))
    if issubclass(kind, Enum):
        return _Codec(attrgetter("value"), kind)
    if is_dataclass(kind):
        return _record(kind)
    if issubclass(kind, tuple):
        return _row(tuple(map(_codec, get_type_hints(kind).values())), lambda values: kind(*values))
    if kind is bytes:
        return _Codec(bytes.hex, _checked(str, bytes.fromhex))
    return _Codec(None, _checked(kind, lambda value: value))


def _text(value: Any) -> str:
    return str(value) if value.version == 4 else _text_of_ipv6(value)


@lru_cache(512, typed=True)
def _text_of_ipv6(value: object) -> str:
    """Gateways and networks are those of all other attachments, and to compress one takes 5 µs."""
    return str(value)


def _checked(kind: type, parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def decode_checked(value: Any) -> Any:
        if type(value) is not kind:
            raise ValueError(f"{value!r:.80} is not of type {kind.__name__}")
        return parse(value)

    return decode_checked


def _optional(inner: _Codec) -> _Codec:
    encode_inner, decode_inner = inner
    encode_it = None if encode_inner is None else lambda value: None if value is None else encode_inner(value)
    return _Codec(encode_it, lambda value: None if value is None else decode_inner(value))


def _many(inner: _Codec) -> _Codec:
    """A tuple of any length."""
    encode_inner, decode_inner = inner
    checked = _checked(list, lambda values: tuple(map(decode_inner, values)))
    return _Codec(None if encode_inner is None else lambda values: list(map(encode_inner, values)), checked)


def _row(inner: tuple[_Codec, ...], make: Callable[[Any], Any]) -> _Codec:
    """A tuple of so many."""
    if any(each.encode for each in inner):
        raise TypeError("no field has a row of values that are not plain")
    decoders = [each.decode for each in inner]

    def decode_row(values: list[Any]) -> Any:
        return make(tuple(one(value) for one, value in zip(decoders, values, strict=True)))

    return _Codec(None, _checked(list, decode_row))


def _record(kind: Any) -> _Codec:
    """A dataclass: an object that has what differs from the defaults."""
    hints = get_type_hints(kind)
    codecs = {each.name: _codec(hints[each.name]) for each in fields(kind)}
    defaults = {
        each.name: each.default if each.default_factory is MISSING else each.default_factory() for each in fields(kind)
    }
    encoders = [(name, defaults[name], codec.encode) for name, codec in codecs.items()]
    if len(codecs) < 2:
        raise TypeError(f"{kind.__name__} has too few fields for attrgetter to make a tuple of them")
    parts_of = attrgetter(*codecs)
    required = [name for name, default in defaults.items() if default is MISSING]

    def encode_record(value: Any) -> dict[str, Any]:
        found = {}
        for (name, default, encode_field), part in zip(encoders, parts_of(value), strict=True):
            if part is not default and part != default:
                found[name] = part if encode_field is None else encode_field(part)
        return found

    def decode_record(value: dict[str, Any]) -> Any:
        if missing := [name for name in required if name not in value]:
            raise ValueError(f"{kind.__name__} without {', '.join(missing)}")
        return kind(**{name: codecs[name].decode(part) for name, part in value.items() if name in codecs})

    return _Codec(encode_record, _checked(dict, decode_record))
