"""Routes and neighbours of containers, as orders and as the kernel shows them (linux/rtnetlink.h, neighbour.h)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address

from netplane.errors import KernelError
from netplane.kernel.links import Links, Order
from netplane.kernel.netlink import CREATE, Refused, Request, attribute, attributes, nested
from netplane.model.address import IPAddress, IPNetwork

PROTOCOL = 97
"""Who made a route: the number by which host routes to containers are netplane's."""
MAIN_TABLE = 254

_NEW_ROUTE, _GET_ROUTE, _NEW_NEIGHBOUR, _GET_NEIGHBOUR = 24, 26, 28, 30
_REPLACE, _APPEND = 0x100, 0x800
_UNICAST, _BOOT, _LINK_SCOPE, _HOST_SCOPE = 1, 3, 253, 254
_TO, _OUT, _GATEWAY, _PRIORITY, _METRICS, _MULTIPATH, _TABLE = 1, 4, 5, 6, 8, 9, 15
_MTU, _ADVERTISED_MSS = 2, 8  # RTAX_*
_MATCHED = 0x2000  # RTM_F_FIB_MATCH
_PERMANENT = 0x80

_ROUTE = struct.Struct("=BBBBBBBBI")
_NEIGHBOUR = struct.Struct("=BBHiHBB")
_NEXT_HOP = struct.Struct("=HBBi")
_U32 = struct.Struct("=I")
# The whole message of a default route, which nearly every container has: header, RTA_OIF, RTA_GATEWAY.
_DEFAULT_FOUR, _DEFAULT_SIX = struct.Struct("=BBBBBBBBIHHIHH4s"), struct.Struct("=BBBBBBBBIHHIHH16s")


@dataclass(frozen=True, slots=True)
class RouteFacts:
    """A route as the kernel shows it. One with several next hops is shown once for each."""

    to: IPNetwork
    index: int
    via: IPAddress | None
    table: int
    protocol: int
    mtu: int = 0
    advertised_mss: int = 0
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Details:
    """What a route may have besides its destination. None and 0: the kernel's default."""

    mtu: int = 0
    advertised_mss: int = 0
    priority: int | None = None
    table: int | None = None
    scope: int | None = None


NO_DETAILS = Details()


def to_host(packed: bytes, index: int) -> Order:
    """On a host: packets to this address go out of that link."""
    family = _family(packed)
    scope = _LINK_SCOPE if family == socket.AF_INET else 0
    header = _ROUTE.pack(family, len(packed) * 8, 0, 0, MAIN_TABLE, PROTOCOL, scope, _UNICAST, 0)
    payload = header + attribute(_TO, packed) + attribute(_OUT, _U32.pack(index))
    return Order(f"add the host route over link {index}", Request(_NEW_ROUTE, payload, CREATE | _REPLACE))


def on_link(packed: bytes, index: int) -> Order:
    """In a container: this address is at the other end of the cable."""
    family = _family(packed)
    scope = _LINK_SCOPE if family == socket.AF_INET else 0
    header = _ROUTE.pack(family, len(packed) * 8, 0, 0, MAIN_TABLE, _BOOT, scope, _UNICAST, 0)
    payload = header + attribute(_TO, packed) + attribute(_OUT, _U32.pack(index))
    return Order(f"add the route to the next hop over link {index}", Request(_NEW_ROUTE, payload, CREATE | _REPLACE))


def route(to: bytes, length: int, index: int, via: bytes = b"", details: Details = NO_DETAILS) -> Order:
    """In a container: a route beside those that are there to the same destination. `via` b"": on the link itself."""
    if details is NO_DETAILS and via and not length:
        default = _DEFAULT_FOUR if len(via) == 4 else _DEFAULT_SIX
        family, size = _family(via), len(via) + 4
        payload = default.pack(family, 0, 0, 0, MAIN_TABLE, _BOOT, 0, _UNICAST, 0, 8, _OUT, index, size, _GATEWAY, via)
        return Order(f"add the default route over link {index}", Request(_NEW_ROUTE, payload, CREATE | _APPEND))
    table = details.table or MAIN_TABLE
    scope = details.scope
    if scope is None:
        scope = _LINK_SCOPE if not via and len(to) == 4 else 0
    parts = [_ROUTE.pack(_family(to), length, 0, 0, table if table < 256 else 0, _BOOT, scope, _UNICAST, 0)]
    if length:
        parts.append(attribute(_TO, to))
    parts.append(attribute(_OUT, _U32.pack(index)))
    if via:
        parts.append(attribute(_GATEWAY, via))
    if details is not NO_DETAILS:
        parts += _detail_attributes(details, table)
    return Order(f"add a route over link {index}", Request(_NEW_ROUTE, b"".join(parts), CREATE | _APPEND))


def permanent_neighbour(packed: bytes, mac: bytes, index: int) -> Order:
    """Who has this address on the link need not be asked."""
    header = _NEIGHBOUR.pack(_family(packed), 0, 0, index, _PERMANENT, 0, 0)
    payload = header + attribute(1, packed) + attribute(2, mac)
    return Order(f"add a neighbour to link {index}", Request(_NEW_NEIGHBOUR, payload, CREATE | _REPLACE))


def read(kernel: Links, protocol: int | None = None) -> list[RouteFacts]:
    """The unicast routes of all tables, or those of one protocol."""
    payloads = kernel.dump(Request(_GET_ROUTE, _ROUTE.pack(0, 0, 0, 0, 0, 0, 0, 0, 0)), "list routes")
    wanted = (
        payload
        for payload in payloads
        if payload[7] == _UNICAST and (protocol is None or payload[5] == protocol)  # before the dear decoding
    )
    return [fact for payload in wanted for fact in _decode(payload)]


def towards(kernel: Links, to: IPAddress) -> RouteFacts | None:
    """The route that a packet to this address takes, as it is in its table; None if there is none."""
    header = _ROUTE.pack(_family(to.packed), len(to.packed) * 8, 0, 0, 0, 0, 0, 0, _MATCHED)
    try:
        (payload,) = kernel.ask(Request(_GET_ROUTE, header + attribute(_TO, to.packed)), f"find the route to {to}")
    except Refused:
        return None  # unreachable, prohibited
    except ValueError as error:
        raise KernelError(mechanism="links", doing=f"find the route to {to}", said="more than one answer") from error
    return next(_decode(payload), None)


def _detail_attributes(details: Details, table: int) -> list[bytes]:
    found = []
    metrics = [(_MTU, details.mtu), (_ADVERTISED_MSS, details.advertised_mss)]
    if any(value for _, value in metrics):
        found.append(nested(_METRICS, *(attribute(kind, _U32.pack(value)) for kind, value in metrics if value)))
    if details.priority is not None:
        found.append(attribute(_PRIORITY, _U32.pack(details.priority)))
    if details.table:
        found.append(attribute(_TABLE, _U32.pack(table)))
    return found


def _decode(payload: bytes) -> Iterator[RouteFacts]:
    family, length, _, _, table, protocol, _, _, _ = _ROUTE.unpack_from(payload)
    found = attributes(payload, _ROUTE.size)
    to = _network(family, found.get(_TO), length)
    metrics = attributes(found[_METRICS]) if _METRICS in found else {}
    number = {kind: _U32.unpack(value)[0] for kind, value in metrics.items() if kind in (_MTU, _ADVERTISED_MSS)}
    table = _U32.unpack(found[_TABLE])[0] if _TABLE in found else table
    priority = _U32.unpack(found[_PRIORITY])[0] if _PRIORITY in found else 0
    mss = number.get(_ADVERTISED_MSS, 0)
    for index, via in _next_hops(found):
        yield RouteFacts(to, index, via, table, protocol, number.get(_MTU, 0), mss, priority)


def _next_hops(found: dict[int, bytes]) -> Iterator[tuple[int, IPAddress | None]]:
    if _OUT in found:
        yield _U32.unpack(found[_OUT])[0], ip_address(found[_GATEWAY]) if _GATEWAY in found else None
    several = found.get(_MULTIPATH, b"")
    while len(several) >= _NEXT_HOP.size:
        size, _, _, index = _NEXT_HOP.unpack_from(several)
        inner = attributes(several[_NEXT_HOP.size : size])
        yield index, ip_address(inner[_GATEWAY]) if _GATEWAY in inner else None
        several = several[max((size + 3) & ~3, _NEXT_HOP.size) :]


def _network(family: int, packed: bytes | None, length: int) -> IPNetwork:
    if family == socket.AF_INET:
        return IPv4Network((packed or bytes(4), length))
    return IPv6Network((packed or bytes(16), length))


def _family(packed: bytes) -> int:
    return socket.AF_INET if len(packed) == 4 else socket.AF_INET6
