"""JSON as it comes from a runtime, and values out of it: every Failure names the key and what was there.

The rules are Go's encoding/json as the runtimes use it: `null` is as good as absent, numbers are whole, no string is a
number. Only booleans may be strings, because libcni allows it in network lists. Where Go's case-blindness matters
(containerd sends `HostPort`, the conventions say `hostPort`), a section is read `folded`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import lru_cache
from ipaddress import (
    IPv4Interface,
    IPv6Address,
    IPv6Interface,
    ip_address,
)
from typing import Any

from cni.failure import Code, Failure
from cni.result import IPInterface
from netplane.model.address import IPAddress, IPNetwork

_DEEPEST = 100
"""Levels of nesting. What is read here is written again (delegates, journal), by functions that call themselves."""


def document(stdin: bytes) -> dict[str, Any]:
    """Standard input as a JSON object. Raises Failure(DECODING_FAILURE) for whatever is not one.

    Stricter than Go: a key that is there twice, bytes that are no UTF-8 and halves of surrogate pairs are refused, not
    guessed at. NaN, Infinity, numbers beyond a double and nesting beyond 100 levels are refused like there.
    """
    try:
        text = stdin.decode()
        value = _DECODER.decode(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise Failure(Code.DECODING_FAILURE, "standard input has half a surrogate pair", str(error)) from None
    except (ValueError, RecursionError) as error:
        raise Failure(Code.DECODING_FAILURE, "standard input is not valid JSON", str(error)) from None
    if not isinstance(value, dict):
        raise Failure(Code.DECODING_FAILURE, "standard input is not a JSON object", _shown(value))
    if stdin.count(b"{") + stdin.count(b"[") > _DEEPEST and _deep(value):
        raise Failure(Code.DECODING_FAILURE, f"standard input is nested more than {_DEEPEST} levels deep")
    return value


class Section:
    """A JSON object at a place, its values taken out by key and kind. Absent, null and (for texts) "" are the same."""

    __slots__ = ("code", "folded", "values", "where")

    def __init__(self, values: object, where: str, code: Code = Code.INVALID_CONFIG, *, folded: bool = False) -> None:
        if values is not None and not isinstance(values, dict):
            raise Failure(code, f"{where or 'configuration'}: {_shown(values)} is not an object")
        self.where, self.code, self.folded = where, code, folded
        self.values: dict[str, Any] = values or {}
        if folded:
            self.values = {key.lower(): value for key, value in self.values.items()}

    def get(self, key: str) -> Any:
        """The value, whatever it is; None if absent."""
        return self.values.get(key.lower() if self.folded else key)

    def name(self, key: str) -> str:
        """How a key of this section is called in a message."""
        return f"{self.where}.{key}" if self.where else key

    def bad(self, key: str, why: str, details: str = "") -> Failure:
        """What is raised if the value of a key cannot be used; it names both."""
        return Failure(self.code, f"{self.name(key)}: {_shown(self.get(key))} {why}", details)

    def flag(self, key: str, *, default: bool) -> bool:
        """A boolean, or one as a string."""
        value = self.get(key)
        if value is None:
            return default
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        raise self.bad(key, "is neither true nor false")

    def number(self, key: str, low: int, high: int) -> int | None:
        """A whole number from `low` to `high`; None if absent."""
        value = self.get(key)
        if value is None:
            return None
        if type(value) is not int:
            raise self.bad(key, "is not a whole number")
        if not low <= value <= high:
            raise self.bad(key, f"is not from {low} to {high}")
        return value

    def text(self, key: str) -> str:
        """A string; "" if absent."""
        value = self.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self.bad(key, "is not a string")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; empty if absent."""
        found = tuple(each for _, each in self.items(key))
        if not all(isinstance(each, str) for each in found):
            raise self.bad(key, "is not a list of strings")
        return found

    def items(self, key: str) -> Iterator[tuple[str, Any]]:
        """Each element of a list, with its name for messages: `ipam.routes[0]`. Nothing if absent."""
        value = self.get(key)
        if value is None:
            return iter(())
        if not isinstance(value, list):
            raise self.bad(key, "is not a list")
        name = self.name(key)
        return ((f"{name}[{at}]", each) for at, each in enumerate(value))

    def section(self, key: str) -> Section:
        """An object inside this one, read in the same way; empty if absent."""
        return Section(self.get(key), self.name(key), self.code, folded=self.folded)

    def sections(self, key: str) -> Iterator[Section]:
        """Each object of a list, read in the same way."""
        return (Section(each, where, self.code, folded=self.folded) for where, each in self.items(key))

    def address(self, key: str, family: int = 0) -> IPAddress | None:
        """An address, of this family unless it is 0; None if absent."""
        text = self.text(key)
        if not text:
            return None
        found = address_of(text)
        if found is None:
            raise self.bad(key, "is not an IP address")
        if family not in (0, found.version):
            raise self.bad(key, f"is not an IPv{family} address")
        return found

    def network(self, key: str) -> IPNetwork | None:
        """A network; None if absent. Host bits are cleared."""
        text = self.text(key)
        if not text:
            return None
        found = interface_of(text)
        if found is None:
            raise self.bad(key, "is not a network: 10.88.0.0/16 is one")
        return found.network

    def interface(self, key: str) -> IPInterface:
        """An address with its prefix length. Raises Failure if absent."""
        found = interface_of(self.text(key))
        if found is None:
            raise self.bad(key, "is not an address with a prefix length: 10.88.0.5/16 is one")
        return found


@lru_cache(maxsize=4096)
def address_of(text: str) -> IPAddress | None:
    """An address without zone; an IPv4 address may be spelled as IPv6, as in Go. None if it is none."""
    try:
        found = ip_address(text)
    except ValueError:
        return None
    if isinstance(found, IPv6Address):
        return None if found.scope_id is not None else found.ipv4_mapped or found
    return found


@lru_cache(maxsize=4096)
def interface_of(text: str) -> IPInterface | None:
    """`10.88.0.5/16`: address and prefix length, the latter as a number of bits. None if it is none."""
    address, slash, length = text.partition("/")
    if not slash or not length.isascii() or not length.isdecimal() or "%" in address:
        return None
    try:
        return IPv6Interface(text) if ":" in address else IPv4Interface(text)
    except ValueError:
        return None


def order(network: IPNetwork) -> tuple[int, int, int]:
    """The key networks are sorted by: family, address, length."""
    return network.version, int(network.network_address), network.prefixlen


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is too large a number")
    return value


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_constant, parse_float=_finite)


def _deep(value: object) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        inside: list[object] = []
        for each in level:
            inside.extend(each.values() if isinstance(each, dict) else each if isinstance(each, list) else ())
        if not inside:
            return False
        level = inside
    return True


def _shown(value: object) -> str:
    """A value as JSON, cut where a message would be too long."""
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:79] + "…"
