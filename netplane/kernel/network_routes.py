"""Routes and policy rules of the Pod network, as orders and as the kernel shows them (linux/rtnetlink.h, fib_rules.h).

Ours are those of protocol 98, in every table.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple

from netplane.kernel.links import Links, Order
from netplane.kernel.netlink import CREATE, Request, attribute, attributes, nested
from netplane.model.address import IPAddress, IPNetwork
from netplane.programs.network import PROTOCOL, Route, RouteKey, RouteKind, SourceRule

NEW_ROUTE, DELETE_ROUTE, NEW_RULE, DELETE_RULE = 24, 25, 32, 33
FAMILIES = (socket.AF_INET, socket.AF_INET6)
ROUTE = struct.Struct("=BBBBBBBBI")
"""struct rtmsg, and struct fib_rule_hdr, which has the same places for what they share."""

_GET_ROUTE, _GET_RULE = 26, 34
_REPLACE = 0x100
_TO, _OUT, _GATEWAY, _PRIORITY, _PREFERRED, _METRICS, _TABLE = 1, 4, 5, 6, 7, 8, 15
_FOREIGN = frozenset({2, 9, 11, 18, 22, 30})  # from, several, flow, next hop of another family, of an id
_MTU = 2  # RTAX_MTU
_UNICAST = 1
_KINDS = {RouteKind.UNICAST: _UNICAST, RouteKind.BLACKHOLE: 6, RouteKind.UNREACHABLE: 7}
_BY_TYPE = {number: kind for kind, number in _KINDS.items()}
_ON_LINK, _LINK_SCOPE, _ANY_SCOPE = 4, 253, 255
_SOURCE, _RULE_PRIORITY, _RULE_TABLE, _RULE_PROTOCOL, _TO_TABLE = 2, 6, 15, 21, 1
_OF_RULE = frozenset({_SOURCE, _RULE_PRIORITY, _RULE_TABLE, _RULE_PROTOCOL, 14, 18})  # and a suppressor, and padding
_U32 = struct.Struct("=I")


class RouteFacts(NamedTuple):
    """A route as the kernel shows it. `route` is None for one that we never make.

    Its `link` is not named: it has this number.
    """

    key: RouteKey
    route: Route | None
    number: int
    protocol: int


def put(key: RouteKey, route: Route, index: int) -> Order:
    """Have this route, at once in the place of one with the same key."""
    four = key.to.version == 4
    scope = _LINK_SCOPE if four and route.kind is RouteKind.UNICAST and not route.via else 0
    flags = _ON_LINK if route.via else 0
    parts = [_head(key, scope, _KINDS[route.kind], flags)]
    if route.kind is RouteKind.UNICAST:
        parts.append(attribute(_OUT, _U32.pack(index)))
    if route.via:
        parts.append(attribute(_GATEWAY, route.via.packed))
    if route.source:
        parts.append(attribute(_PREFERRED, route.source.packed))
    if route.mtu:
        parts.append(nested(_METRICS, attribute(_MTU, _U32.pack(route.mtu))))
    doing = f"put route {key.to} into table {key.table}"
    return Order(doing, Request(NEW_ROUTE, b"".join(parts), CREATE | _REPLACE))


def to_next_hop(via: IPAddress, index: int, metric: int) -> tuple[Order, Order]:
    """Make, and remove, a route over a link to nothing but a next hop.

    The kernel takes no IPv6 next hop, not even one `onlink`, that the main table reaches over another link. Where
    the next hop is one of the addresses that a route is to (10.244.2.0/24 via 10.244.2.0), the route that it replaces
    is such a way over another link; so it needs a way of its own, for as long as it takes to put the new route.
    """
    length = 32 if via.version == 4 else 128
    to = IPv4Network((via.packed, length)) if via.version == 4 else IPv6Network((via.packed, length))
    key = RouteKey(to, metric=metric)
    return put(key, Route(), index), remove(key)


def remove(key: RouteKey) -> Order:
    """Have no route of ours with this key."""
    return Order(f"remove route {key.to} of table {key.table}", Request(DELETE_ROUTE, _head(key, _ANY_SCOPE, 0, 0)))


def put_rule(rule: SourceRule) -> Order:
    """Have this rule, besides all others."""
    return Order(f"add rule from {rule.source}", Request(NEW_RULE, _rule(rule), CREATE))


def remove_rule(rule: SourceRule) -> Order:
    """Have this rule of ours not."""
    return Order(f"remove rule from {rule.source}", Request(DELETE_RULE, _rule(rule)))


def read(kernel: Links) -> list[tuple[RouteFacts, bytes]]:
    """Our routes of all tables, and how they were told."""
    found = []
    for family in FAMILIES:
        request = Request(_GET_ROUTE, ROUTE.pack(family, 0, 0, 0, 0, PROTOCOL, 0, 0, 0))
        payloads = kernel.dump(request, "list routes")
        found += [(decode(each), each) for each in payloads if each[0] == family and each[5] == PROTOCOL]
    return found


def read_rules(kernel: Links) -> list[tuple[SourceRule | None, bytes]]:
    """Our rules, and how they were told. None: one that we never make."""
    found = []
    for family in FAMILIES:
        for payload in kernel.dump(Request(_GET_RULE, ROUTE.pack(family, *(0,) * 8)), "list rules"):
            rule, protocol = decode_rule(payload)
            if payload[0] == family and protocol == PROTOCOL:
                found.append((rule, payload))
    return found


def decode(payload: bytes) -> RouteFacts:
    """A route of IPv4 or IPv6."""
    family, length, source_length, tos, table, protocol, _, type_, _ = ROUTE.unpack_from(payload)
    found = attributes(payload, ROUTE.size)
    table = _U32.unpack(found[_TABLE])[0] if _TABLE in found else table
    metric = _U32.unpack(found[_PRIORITY])[0] if _PRIORITY in found else 0
    key = RouteKey(_network(family, found.get(_TO), length), table, metric)
    index = _U32.unpack(found[_OUT])[0] if _OUT in found else 0
    kind = _BY_TYPE.get(type_)
    mtu = _only_mtu(found[_METRICS]) if _METRICS in found else 0
    if kind is None or mtu < 0 or source_length or tos or not _FOREIGN.isdisjoint(found):
        return RouteFacts(key, None, index, protocol)
    source = _address(found[_PREFERRED]) if _PREFERRED in found else None
    if kind is not RouteKind.UNICAST:
        return RouteFacts(key, Route(kind, mtu=mtu, source=source), 0, protocol)
    via = _address(found[_GATEWAY]) if _GATEWAY in found else None
    return RouteFacts(key, Route(kind, "", via, mtu, source), index, protocol)


def decode_rule(payload: bytes) -> tuple[SourceRule | None, int]:
    """A rule, None if it is one that we never make, and its protocol."""
    family, to_length, length, tos, table, _, _, action, flags = ROUTE.unpack_from(payload)
    found = attributes(payload, ROUTE.size)
    protocol = found.get(_RULE_PROTOCOL, b"\0")[0]
    usual = _SOURCE in found and action == _TO_TABLE and not (to_length or tos or flags or found.keys() - _OF_RULE)
    if protocol != PROTOCOL or not usual:
        return None, protocol
    table = _U32.unpack(found[_RULE_TABLE])[0] if _RULE_TABLE in found else table
    priority = _U32.unpack(found[_RULE_PRIORITY])[0] if _RULE_PRIORITY in found else 0
    return SourceRule(_network(family, found[_SOURCE], length), table, priority), protocol


def first_of_each(facts: Iterable[tuple[RouteFacts, bytes]]) -> Iterator[tuple[RouteFacts, bytes, bool]]:
    """Routes, and whether each is the first with its key: the one that a packet takes, and that is replaced."""
    seen: set[RouteKey] = set()
    for fact, payload in facts:
        shaped = payload[2] == 0 and payload[3] == 0  # with a source or a type of service it is another one
        yield fact, payload, shaped and fact.key not in seen
        if shaped:
            seen.add(fact.key)


def _head(key: RouteKey, scope: int, type_: int, flags: int) -> bytes:
    to = key.to.network_address.packed
    family = socket.AF_INET if len(to) == 4 else socket.AF_INET6
    head = ROUTE.pack(family, key.to.prefixlen, 0, 0, 0, PROTOCOL, scope, type_, flags)
    return b"".join(
        (
            head,
            attribute(_TO, to),
            attribute(_PRIORITY, _U32.pack(key.metric)),
            attribute(_TABLE, _U32.pack(key.table)),
        )
    )


def _rule(rule: SourceRule) -> bytes:
    source = rule.source.network_address.packed
    family = socket.AF_INET if len(source) == 4 else socket.AF_INET6
    return b"".join(
        (
            ROUTE.pack(family, 0, rule.source.prefixlen, 0, 0, 0, 0, _TO_TABLE, 0),
            attribute(_SOURCE, source),
            attribute(_RULE_PRIORITY, _U32.pack(rule.priority)),
            attribute(_RULE_TABLE, _U32.pack(rule.table)),
            attribute(_RULE_PROTOCOL, bytes((PROTOCOL,))),
        )
    )


def _only_mtu(metrics: bytes) -> int:
    """The MTU of a route that has no other metrics; -1 if it has."""
    found = attributes(metrics)
    if found.keys() - {_MTU}:
        return -1
    return int(_U32.unpack(found[_MTU])[0]) if found else 0


def _network(family: int, packed: bytes | None, length: int) -> IPNetwork:
    if family == socket.AF_INET:
        return IPv4Network((packed or bytes(4), length))
    return IPv6Network((packed or bytes(16), length))


def _address(packed: bytes) -> IPAddress:
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)
