"""nf_tables over netlink as functions of bytes: what we send (elements) and what we read (all that is ours).

Never opens a socket. Numbers are those of linux/netfilter/nf_tables.h; how a comment is kept (userdata) is
libnftnl's choice, not the kernel's. Elements of a set stay in the kernel's own bytes: a field of a key with several
fields is padded to four bytes, a key of a single field is not.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from netplane.kernel.netlink import (
    ATTRIBUTE_LIMIT,
    CREATE,
    ECHO,
    Message,
    Request,
    as_text,
    attribute,
    attributes,
    batch,
    each_attribute,
    nested,
    text,
)
from netplane.model.address import Family
from netplane.programs.nftables import NFT_FAMILY, TABLE, Data, Hook, SetName

SUBSYSTEM = 10
_GET_TABLE, _GET_CHAIN, _GET_RULE, _GET_SET, _GET_ELEMENTS, _GET_GENERATION = 1, 4, 7, 10, 13, 16
_NEW_ELEMENTS, _DELETE_ELEMENTS, _NEW_GENERATION = 12, 14, 15

_NFPROTO = {Family.IPV4: 2, Family.IPV6: 10}
_HOOKS = ("prerouting", "input", "forward", "output", "postrouting")
_VERDICTS = {"drop": 0, "accept": 1, "continue": -1, "break": -2, "jump": -3, "goto": -4, "return": -5}
_VERDICT_WORDS = {code: word for word, code in _VERDICTS.items()}

# NFT_SET_*; a set is filled by packets if rules may add to it (EVAL) or its elements expire (TIMEOUT).
_ANONYMOUS, _INTERVAL, _TIMEOUT, _EVAL, _CONCAT = 0x1, 0x4, 0x10, 0x20, 0x80

# NFTA_SET_ELEM_*, NFTA_DATA_*, NFTA_VERDICT_*
_LIST_ELEMENT, _KEY, _DATA, _FLAGS, _KEY_END = 1, 1, 2, 3, 10
_VALUE, _VERDICT = 1, 2
_CODE, _CHAIN = 1, 2
_CATCH_ALL = struct.pack(">I", 2)
_BEFORE_KEY = 12
"""Bytes of an element before its key: the headers of the element, of KEY and of VALUE."""

_INT = struct.Struct(">i")


@dataclass(frozen=True, slots=True)
class KernelSet:
    """A set or map of a table as the kernel declares it. `key_type` are nft's type numbers, six bits for each field."""

    family: Family
    name: str
    flags: int
    key_type: int
    table: str = TABLE

    @property
    def anonymous(self) -> bool:
        """Whether it is part of a rule."""
        return bool(self.flags & _ANONYMOUS)

    @property
    def dynamic(self) -> bool:
        """Whether packets fill it, or time empties it."""
        return bool(self.flags & (_EVAL | _TIMEOUT))

    @property
    def interval(self) -> bool:
        """Whether keys hold two keys of half the length after one another: first and last."""
        return bool(self.flags & _CONCAT and self.flags & _INTERVAL)

    @property
    def readable(self) -> bool:
        """Whether keys stand for themselves. Not in an interval set of one field: there they are ends of ranges."""
        return self.interval or not self.flags & _INTERVAL

    def __str__(self) -> str:
        return f"{NFT_FAMILY[self.family]} {self.table} {self.name}"


def _request(message: int, family: Family, *parts: bytes, flags: int = 0) -> Request:
    return Request(SUBSYSTEM << 8 | message, bytes((_NFPROTO[family], 0, 0, 0)) + b"".join(parts), flags)


def get_generation() -> Request:
    """Ask for the number of the last transaction."""
    return _request(_GET_GENERATION, Family.IPV4)


def get_table(family: Family, name: str = TABLE) -> Request:
    """Ask for a table, that of the Services unless another is named; so everywhere here."""
    return _request(_GET_TABLE, family, text(1, name))


def get_tables(family: Family) -> Request:
    """Dump the tables of a family."""
    return _request(_GET_TABLE, family)


def get_chains(family: Family) -> Request:
    """Dump the chains of a family (the kernel offers no choice by table)."""
    return _request(_GET_CHAIN, family)


def get_rules(family: Family, table: str = TABLE) -> Request:
    """Dump the rules of a table."""
    return _request(_GET_RULE, family, text(1, table))


def get_sets(family: Family, table: str = TABLE) -> Request:
    """Dump the sets of a table."""
    return _request(_GET_SET, family, text(1, table))


def get_set(name: SetName, table: str = TABLE) -> Request:
    """Ask for the declaration of one set."""
    return _request(_GET_SET, name[0], text(1, table), text(2, name[1]))


def get_elements(target: KernelSet) -> Request:
    """Dump the elements of one set."""
    return _request(_GET_ELEMENTS, target.family, text(1, target.table), text(2, target.name))


def generation(payload: bytes) -> bytes:
    """The number of the last transaction, opaque."""
    return attributes(payload, 4)[1]


def transaction(requests: Sequence[Request]) -> list[Request]:
    """The requests as one transaction that tells its number, if it has one: see `numbered`."""
    messages = batch(SUBSYSTEM, requests)
    messages[1] = messages[1]._replace(flags=messages[1].flags | ECHO)  # the kernel looks at the first after the begin
    return messages


def numbered(told: Iterable[Message]) -> bool:
    """Whether a transaction got a number, from what the kernel told of it. One that changed nothing gets none."""
    return any(each.kind == SUBSYSTEM << 8 | _NEW_GENERATION for each in told)


def table_comment(payload: bytes) -> str:
    """The comment of a table, "" without."""
    return _comment(attributes(payload, 4).get(6, b""))


def chain(payload: bytes, table: str = TABLE) -> tuple[str, Hook | None] | None:
    """Name and hook of a chain of a table; None for one of another."""
    found = attributes(payload, 4)
    if as_text(found[1]) != table:
        return None
    if 4 not in found:
        return as_text(found[3]), None
    hook = attributes(found[4])
    number = _INT.unpack(hook[1])[0]
    where = _HOOKS[number] if 0 <= number < len(_HOOKS) else f"hook {number}"
    return as_text(found[3]), Hook(as_text(found[7]), where, _INT.unpack(hook[2])[0])


def rule(payload: bytes, table: str = TABLE) -> tuple[str, str] | None:
    """Chain and comment ("" without) of a rule of a table; None for one of another."""
    found = attributes(payload, 4)
    return (as_text(found[2]), _comment(found.get(7, b""))) if as_text(found[1]) == table else None


def declared_set(family: Family, payload: bytes) -> KernelSet:
    """A set, of whichever table the answer says."""
    found = attributes(payload, 4)
    flags = _INT.unpack(found[3])[0] if 3 in found else 0
    return KernelSet(family, as_text(found[2]), flags, _INT.unpack(found[4])[0], as_text(found[1]))


def element_count(payload: bytes) -> int | None:
    """How many elements a set has, without a catch-all; None where the kernel does not say (6.18 does)."""
    found = attributes(payload, 4)
    return int.from_bytes(found[20], "big") if 20 in found else None


def _comment(userdata: bytes) -> str:
    """libnftnl's records: type, length, value; type 0 is the comment of tables and rules alike."""
    start = 0
    while start + 2 <= len(userdata):
        kind, size = userdata[start], userdata[start + 1]
        if kind == 0:
            return as_text(userdata[start + 2 : start + 2 + size])
        start += 2 + size
    return ""


def add_elements(target: KernelSet, elements: Mapping[bytes, Data]) -> Iterator[Request]:
    """Messages that add elements. One that is there with the same data is no error, with other data it is."""
    return _messages(_NEW_ELEMENTS, target, _encoded(target, elements), CREATE)


def remove_elements(target: KernelSet, keys: Iterable[bytes]) -> Iterator[Request]:
    """Messages that remove elements. One that is not there is an error.

    In an interval set it is not always: the kernel looks up only the first key and removes the element that covers
    it, whatever its end (tried on 6.18). Send only keys that exist.
    """
    return _messages(_DELETE_ELEMENTS, target, _encoded(target, dict.fromkeys(keys)), 0)


def _messages(message: int, target: KernelSet, encoded: list[bytes], flags: int) -> Iterator[Request]:
    """As few messages as possible: the list of elements is one attribute, whose length has 16 bits."""
    if not encoded:
        return
    per_message = (ATTRIBUTE_LIMIT - 4) // max(map(len, encoded))
    names = text(1, target.table) + text(2, target.name)
    for start in range(0, len(encoded), per_message):
        yield _request(message, target.family, names, nested(3, *encoded[start : start + per_message]), flags=flags)


def _encoded(target: KernelSet, elements: Mapping[bytes, Data]) -> list[bytes]:
    if target.interval:
        return [_element(_range(key), data) for key, data in elements.items()]
    # Elements of one shape share every byte but those of key and data, which makes this five times faster.
    frames: dict[tuple[int, int | str | None], tuple[bytes, bytes, bytes]] = {}
    encoded = []
    for key, data in elements.items():
        value = data if isinstance(data, bytes) else b""
        shape = (len(key), len(value) or data)
        frame = frames.get(shape)  # type: ignore[arg-type]
        if frame is None:
            frame = frames[shape] = _frame(key, data)  # type: ignore[index]
        encoded.append(frame[0] + key + frame[1] + value + frame[2])
    return encoded


def _frame(key: bytes, data: Data) -> tuple[bytes, bytes, bytes]:
    """What stands before the key, between it and the value, and after the value in all elements of this shape."""
    element = _element(_key(key), data)
    before, rest = element[:_BEFORE_KEY], element[_BEFORE_KEY + len(key) :]
    if not isinstance(data, bytes):
        return before, rest, b""
    padding = -len(data) & 3
    return before, rest[: len(rest) - len(data) - padding], bytes(padding)


def _element(key: bytes, data: Data) -> bytes:
    return nested(_LIST_ELEMENT, key, b"" if data is None else nested(_DATA, _datum(data)))


def _key(key: bytes) -> bytes:
    return nested(_KEY, attribute(_VALUE, key)) if key else attribute(_FLAGS, _CATCH_ALL)


def _range(key: bytes) -> bytes:
    half = len(key) // 2
    return nested(_KEY, attribute(_VALUE, key[:half])) + nested(_KEY_END, attribute(_VALUE, key[half:]))


def _datum(data: bytes | str) -> bytes:
    if isinstance(data, bytes):
        return attribute(_VALUE, data)
    word, _, chain_name = data.partition(" ")
    to = text(_CHAIN, chain_name) if chain_name else b""
    return nested(_VERDICT, attribute(_CODE, _INT.pack(_VERDICTS[word])), to)


def elements(target: KernelSet, payload: bytes) -> dict[bytes, Data]:
    """The elements in one message of a dump. A catch-all element has the empty key."""
    listed = attributes(payload, 4).get(3, b"")
    found: dict[bytes, Data] = {}
    shapes: dict[bytes, _Shape] = {}
    known: dict[bytes, Data] = {}  # by what follows the key
    start, end = 0, len(listed)
    while start < end:
        before = listed[start : start + _BEFORE_KEY]
        if before not in shapes:
            shapes[before] = _shape(target, listed, start)
        size, key_end, value_start, value_end, between = shapes[before]
        element = listed[start : start + size]
        start += size
        if element[key_end:value_start] == between:
            found[element[_BEFORE_KEY:key_end]] = element[value_start:value_end]
        elif key_end:
            rest = element[key_end:]
            if rest not in known:
                known[rest] = _decoded(target, element)[1]
            found[element[_BEFORE_KEY:key_end]] = known[rest]
        else:
            key, data = _decoded(target, element)
            found[key] = data
    return found


_Shape = tuple[int, int, int, int, bytes | None]
"""An element's size, where its key ends (0: look carefully), where a value begins and ends, and what stands between
key and value (None: there is no value)."""


def _shape(target: KernelSet, listed: bytes, start: int) -> _Shape:
    """The shape of all elements whose headers are like those of the element at `start`."""
    element = next(each_attribute(listed, start))[1]
    size = 4 + len(element)
    parts = attributes(element)
    if target.interval or next(iter(parts)) != _KEY:
        return size, 0, 0, 0, None
    key_end = _BEFORE_KEY + len(attributes(parts[_KEY])[_VALUE])
    value = attributes(parts.get(_DATA, b"")).get(_VALUE)
    if value is None:
        return size, key_end, 0, 0, None
    value_start = (key_end + 3 & ~3) + 8  # after the headers of DATA and VALUE
    return size, key_end, value_start, value_start + len(value), element[key_end - 4 : value_start - 4]


def _decoded(target: KernelSet, element: bytes) -> tuple[bytes, Data]:
    parts = attributes(element, 4)
    first = attributes(parts.get(_KEY, b"")).get(_VALUE, b"")
    last = attributes(parts.get(_KEY_END, b"")).get(_VALUE, first)
    data = attributes(parts.get(_DATA, b""))
    verdict = attributes(data.get(_VERDICT, b""))
    key = first + last if target.interval else first
    if not verdict:
        return key, data.get(_VALUE)
    code = _INT.unpack(verdict[_CODE])[0]
    word = _VERDICT_WORDS.get(code, f"verdict {code}")
    return key, f"{word} {as_text(verdict[_CHAIN])}" if _CHAIN in verdict else word


def describe(target: KernelSet, request: Request, offset: int) -> str:
    """What a request tried, with the element that byte `offset` of its payload belongs to, if it is an element's."""
    found = _element_at(target, request, offset)
    what = "elements"
    if found is not None:
        key, data = found
        shown = "" if data is None else f" : {data if isinstance(data, str) else data.hex()}"
        what = f"element {{ {key_text(target, key)}{shown} }}"
    return f"add {what} to {target}" if request.kind & 0xFF == _NEW_ELEMENTS else f"remove {what} from {target}"


def _element_at(target: KernelSet, request: Request, offset: int) -> tuple[bytes, Data] | None:
    start = 4
    for kind, listed in each_attribute(request.payload, 4):
        start += 4
        if kind == 3:
            for _, body in each_attribute(listed):
                if start <= offset < start + 4 + len(body):
                    return _decoded(target, bytes(4) + body)
                start += 4 + len(body)
        start += len(listed) + 3 & ~3
    return None


def key_text(target: KernelSet, key: bytes) -> str:
    """A key as nft writes it where the types are ours, else in hexadecimal digits: `10.96.0.10 . tcp . 80`."""
    if not target.interval:
        return _fields_text(target, key) if key else "*"
    half = len(key) // 2
    return f"{_fields_text(target, key[:half])} - {_fields_text(target, key[half:])}"


def _fields_text(target: KernelSet, key: bytes) -> str:
    numbers = [target.key_type >> shift & 63 for shift in range(24, -1, -6) if target.key_type >> shift]
    fields = [_FIELDS.get(number, (0, bytes.hex)) for number in numbers]
    padded = key + bytes(-len(key) & 3)
    if not all(size for size, _ in fields) or sum(size + 3 & ~3 for size, _ in fields) != len(padded):
        return key.hex()
    words, start = [], 0
    for size, show in fields:
        words.append(show(padded[start : start + size]))
        start += size + 3 & ~3
    return " . ".join(words)


# nft's type numbers (its datatype.h) and sizes; integer is what a numgen in a key amounts to, in host byte order.
_FIELDS: Mapping[int, tuple[int, Callable[[bytes], str]]] = {
    4: (4, lambda value: str(int.from_bytes(value, sys.byteorder))),
    7: (4, lambda value: str(IPv4Address(value))),
    8: (16, lambda value: str(IPv6Address(value))),
    12: (1, lambda value: {6: "tcp", 17: "udp", 132: "sctp"}.get(value[0], str(value[0]))),
    13: (2, lambda value: str(int.from_bytes(value, "big"))),
}
