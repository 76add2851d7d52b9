"""How the kernel reaches the other nodes, what is directly on which links, and what this host has (rtnetlink)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple

from netplane.kernel import network_links
from netplane.kernel.link_orders import ADDRESS, LINK, UP
from netplane.kernel.links import LOOPBACK, Links
from netplane.kernel.netlink import Request, as_text, attributes
from netplane.kernel.network_neighbours import decode_address
from netplane.kernel.network_routes import ROUTE
from netplane.model.address import IPAddress, IPNetwork
from netplane.programs.network import LINKS

_GET_ROUTE, _GET_ADDRESS = 26, 22
_TO, _OUT, _GATEWAY, _SOURCE, _METRICS, _CACHE, _VIA = 1, 4, 5, 7, 8, 12, 18
_UNICAST, _MTU, _NAME, _LINK_MTU = 1, 2, 3, 4
_EXPIRES = struct.Struct("=8xi")  # rta_cacheinfo
_MATCHED = 0x2000  # RTM_F_FIB_MATCH
_U32 = struct.Struct("=I")


class UnderlayPath(NamedTuple):
    """The fields of plan.network_plan.Path: `mtu` in bytes, of the link, or of the route if that takes less."""

    link: str
    mtu: int
    on_link: bool
    source: IPAddress | None


class Underlay(NamedTuple):
    """The fields of plan.network_plan.HostFacts that the kernel tells."""

    paths: dict[IPAddress, UnderlayPath]
    networks: dict[str, tuple[IPNetwork, ...]]
    addresses: frozenset[IPAddress]


class _Route(NamedTuple):
    link: int
    on_link: bool
    source: IPAddress | None
    mtu: int
    learned: bool
    """The MTU is one that somebody told by ICMP, and will be forgotten."""


def look(kernel: Links, addresses: Iterable[IPAddress]) -> Underlay:
    """The path to each of `addresses` that the kernel reaches over a link that is up and not ours, and the networks
    that are directly on each such link, sorted; lo and link-local ones are left out. And the addresses of this host
    that it may send from, on whatever link, up or not, except those with our mark.

    A few milliseconds for 500 addresses. What a policy rule says of a mark or source has no part in it: the question
    is asked without them.
    """
    wanted = list(addresses)
    routes = dict(zip(wanted, map(_decode, kernel.ask_all([_question(each) for each in wanted], _DOING)), strict=True))
    learned = [address for address, route in routes.items() if route and route.learned]
    if learned:
        answers = kernel.ask_all([_question(each, _MATCHED) for each in learned], _DOING)
        for address, whole in zip(learned, map(_decode, answers), strict=True):
            if (route := routes[address]) is not None:
                routes[address] = route._replace(mtu=whole.mtu if whole else 0)
    networks, own = _networks(kernel)
    links = _links(kernel, {route.link for route in routes.values() if route} | networks.keys())
    paths = {}
    for address, route in routes.items():
        if route and (link := links.get(route.link)):
            name, mtu = link
            paths[address] = UnderlayPath(name, min(mtu, route.mtu or mtu), route.on_link, route.source)
    of_links = {links[index][0]: found for index, found in networks.items() if index in links}
    by_name = {name: tuple(sorted(found, key=_order)) for name, found in sorted(of_links.items())}
    return Underlay(paths, by_name, frozenset(own))


_DOING = "find the routes to nodes"


def _question(to: IPAddress, flags: int = 0) -> Request:
    packed = to.packed
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    head = ROUTE.pack(family, len(packed) * 8, 0, 0, 0, 0, 0, 0, flags)
    return Request(_GET_ROUTE, head + struct.pack("=HH", len(packed) + 4, _TO) + packed)


def _decode(answer: bytes | None) -> _Route | None:
    if answer is None or answer[7] != _UNICAST:
        return None
    found = attributes(answer, ROUTE.size)
    index = _U32.unpack(found[_OUT])[0] if _OUT in found else 0
    metrics = attributes(found[_METRICS]) if _METRICS in found else {}
    mtu = _U32.unpack(metrics[_MTU])[0] if _MTU in metrics else 0
    learned = bool(mtu and len(found.get(_CACHE, b"")) >= _EXPIRES.size and _EXPIRES.unpack_from(found[_CACHE])[0])
    on_link = _GATEWAY not in found and _VIA not in found
    return _Route(index, on_link, _ip(found[_SOURCE]) if _SOURCE in found else None, mtu, learned)


def _links(kernel: Links, numbers: Iterable[int]) -> dict[int, tuple[str, int]]:
    """Name and MTU of those of these links that are up and not ours."""
    asked = sorted(number for number in numbers if number > LOOPBACK)
    found = {}
    for answer in kernel.ask_all([network_links.question(each) for each in asked], "look for links"):
        if answer and LINK.unpack_from(answer)[4] & UP:
            link = attributes(answer, LINK.size)
            if (name := as_text(link[_NAME])) not in LINKS:
                found[LINK.unpack_from(answer)[3]] = name, _U32.unpack(link[_LINK_MTU])[0]
    return found


def _networks(kernel: Links) -> tuple[dict[int, set[IPNetwork]], set[IPAddress]]:
    """Networks by number of link, and the host's addresses; the addresses that we announce ourselves are neither."""
    found: dict[int, set[IPNetwork]] = {}
    own: set[IPAddress] = set()
    for payload in kernel.dump(Request(_GET_ADDRESS, ADDRESS.pack(0, 0, 0, 0, 0)), "list addresses"):
        _, length, _, _, index = ADDRESS.unpack_from(payload)
        fact = decode_address(payload)
        if fact.marked:
            continue
        if fact.settled:
            own.add(fact.address)
        if index == LOOPBACK:
            continue
        packed = attributes(payload, ADDRESS.size)[_TO]  # IFA_ADDRESS: of the peer, where there is one
        network: IPNetwork
        if len(packed) == 4:
            network = IPv4Network((packed, length), strict=False)
        else:
            network = IPv6Network((packed, length), strict=False)
        if not network.is_link_local:
            found.setdefault(index, set()).add(network)
    return found, own


def _order(network: IPNetwork) -> tuple[int, IPNetwork]:
    return network.version, network


def _ip(packed: bytes) -> IPAddress:
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)
