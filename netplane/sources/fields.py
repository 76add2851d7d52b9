"""Single fields of manifests: names, numbers, addresses and networks, as strict as the API server.

Each check returns the value, or raises `Bad` with the field's path and a reason that says what to write instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_network
from socket import AF_INET, AF_INET6, inet_pton
from typing import Any, TypeVar

from netplane.errors import one_line
from netplane.model.address import IPAddress, IPNetwork, Protocol

Skip = Callable[[str, str], None]
"""Called with the path and the reason of a part that is passed over while its object is used."""

_Entry = TypeVar("_Entry")
_Same = TypeVar("_Same", bound=Hashable)
_Word = TypeVar("_Word", bound=Enum)

_NO_LABELS: frozenset[tuple[str, str]] = frozenset()  # one for all: each call of frozenset() makes another
_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_DNS_LABEL = re.compile(_LABEL + r"\Z")
_DNS_SUBDOMAIN = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*\Z")
_IANA_NAME = re.compile(r"(?=.{1,15}\Z)(?=.*[a-z])[a-z0-9]+(?:-[a-z0-9]+)*\Z")
_LABEL_WORD = r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_LABEL_VALUE = re.compile(rf"(?:{_LABEL_WORD})?\Z")
_LABEL_KEY = re.compile(rf"(?:(?=[^/]{{1,253}}/){_LABEL}(?:\.{_LABEL})*/)?{_LABEL_WORD}\Z")
_PREFIX = re.compile(r"[^/]+/[0-9]{1,3}\Z")


class Bad(Exception):
    """A field with a value that cannot be used: its path in the object, and the reason with the remedy."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"{field}: {why}")
        self.field = field
        self.why = why


@lru_cache(maxsize=1 << 16)
def _first(value: Hashable) -> Any:
    return value


def shared(value: _Same) -> _Same:
    """The first value seen that equals `value`, so that a cluster's many equal names and labels are one object."""
    made: _Same = _first(value)
    return made


def shown(value: object) -> str:
    """`value` in quotes for a message, on one line, short."""
    return f"'{one_line(str(value), 48)}'"


def dns_label(text: str | None, field: str) -> str:
    """A name of at most 63 characters (RFC 1123 label): Services, Namespaces, Service ports."""
    return _matching(_DNS_LABEL, text, field, "at most 63 of a-z, 0-9 and '-', not '-' at an end")


def dns_subdomain(text: str | None, field: str) -> str:
    """A name of at most 253 characters (RFC 1123 subdomain): Pods, Nodes, EndpointSlices."""
    return _matching(_DNS_SUBDOMAIN, text, field, "at most 253 of a-z, 0-9, '-' and '.', parts not ending in '-'")


def label_value(text: str | None, field: str) -> str:
    """The value of a label, not empty: zones."""
    return _matching(_LABEL_VALUE, text, field, "at most 63 letters, digits, '-', '_' and '.'")


def iana_name(text: str | None, field: str) -> str:
    """A name of a container port (RFC 6335): 1 to 15 characters with a letter."""
    return _matching(_IANA_NAME, text, field, "at most 15 of a-z, 0-9 and single '-', with a letter")


def _matching(pattern: re.Pattern[str], text: str | None, field: str, rule: str) -> str:
    if not text:
        raise Bad(field, "is missing; write a name")
    if not pattern.match(text):
        raise Bad(field, f"{shown(text)} is not a valid name; use {rule}")
    return text


def number(value: int | None, field: str, low: int = 1, high: int = 65535) -> int:
    """A number from `low` to `high`; the default is the range of ports."""
    if value is None:
        raise Bad(field, f"is missing; write a number from {low} to {high}")
    if not low <= value <= high:
        raise Bad(field, f"{shown(value)} is out of range; write a number from {low} to {high}")
    return value


def word(value: str | None, field: str, default: _Word) -> _Word:
    """A member of an enum by its exact spelling; `default` where absent or empty."""
    if not value:
        return default
    try:
        return type(default)(value)
    except ValueError:
        allowed = ", ".join(str(member.value) for member in type(default))
        raise Bad(field, f"{shown(value)} is not known; write one of {allowed}") from None


def protocol(value: str | None, field: str) -> Protocol:
    """TCP (the default), UDP or SCTP."""
    return word(value, field, Protocol.TCP)


def ip_address_of(text: str) -> IPAddress | None:
    """The address that `text` is, or None: no zone, mask, leading zeros or white space."""
    try:
        # inet_pton is as strict as ipaddress and five times as fast.
        return IPv6Address(inet_pton(AF_INET6, text)) if ":" in text else IPv4Address(inet_pton(AF_INET, text))
    except (OSError, ValueError):  # ValueError: a NUL or a character that is not ASCII
        return None


def address(text: str | None, field: str) -> IPAddress:
    """An address another host can have: not unspecified, loopback, link-local, multicast or IPv4 inside IPv6."""
    if not text:
        raise Bad(field, "is missing; write an IP address")
    made = ip_address_of(text)
    if made is None:
        raise Bad(field, f"{shown(text)} is not an IP address; write it like 10.0.1.5 or fd00::5")
    if kind := special(made):
        raise Bad(field, f"{shown(text)} is {kind}; write an address that other hosts can reach")
    return made


def special(of: IPAddress) -> str:
    """What makes an address unfit for a Service or endpoint, "" if nothing does."""
    # By ranges, not by the properties of ipaddress: those build networks on every call.
    value = int(of)
    if of.version == 4:
        first = value >> 24
        if value == 0 or value == 0xFFFFFFFF:
            return "unspecified" if value == 0 else "the broadcast address"
        if first == 127:
            return "a loopback address"
        if value >> 16 == 0xA9FE:
            return "a link-local address"
        return "a multicast address" if value >> 28 == 0xE else ""
    if value <= 1:
        return "a loopback address" if value else "unspecified"
    if value >> 118 == 0x3FA:
        return "a link-local address"
    if value >> 32 == 0xFFFF:
        return "an IPv4 address inside an IPv6 one"
    return "a multicast address" if value >> 120 == 0xFF else ""


def network(text: str, field: str) -> IPNetwork:
    """A network as `address/length`; bits of the host part are cleared, as Kubernetes does."""
    try:
        if not _PREFIX.match(text) or "%" in text:
            raise ValueError
        made = ip_network(text, strict=False)
    except ValueError:
        raise Bad(field, f"{shown(text)} is not a network; write it like 10.0.0.0/8 or fd00::/64") from None
    if made.version == 6 and made.network_address.ipv4_mapped is not None:
        raise Bad(field, f"{shown(text)} holds an IPv4 network; write that one")
    return made


def usable(entries: Iterable[tuple[str, str | None]], skip: Skip) -> Iterator[IPAddress]:
    """The addresses among pairs of path and text; entries that are none are skipped with their reason."""
    for field, text in entries:
        try:
            yield address(text, field)
        except Bad as bad:
            skip(bad.field, f"{bad.why}; the entry is ignored")


def each(listed: Iterable[_Entry] | None, field: str) -> Iterator[tuple[str, _Entry]]:
    """The entries of a list with their paths; absent is empty."""
    return ((f"{field}[{place}]", entry) for place, entry in enumerate(listed or ()))


def labels(mapping: Mapping[str, object] | None, field: str) -> frozenset[tuple[str, str]]:
    """Labels or a selector as a set of pairs."""
    if not mapping:
        return _NO_LABELS
    return shared(frozenset(_label(key, value, field) for key, value in mapping.items()))


def _label(key: str, value: object, field: str) -> tuple[str, str]:
    if not isinstance(value, str):
        raise Bad(f"{field}[{shown(key)}]", f"must be a string, not {shown(value)}; put it in quotes")
    if not _label_pair_is_valid(key, value):
        raise Bad(
            f"{field}[{shown(key)}]",
            f"{shown(value)} is not a label; use a key like example.com/name and at most 63 letters, digits, '-_.'",
        )
    return shared((key, value))


@lru_cache(maxsize=1 << 14)
def _label_pair_is_valid(key: str, value: str) -> bool:
    return bool(_LABEL_KEY.match(key)) and bool(_LABEL_VALUE.match(value))
