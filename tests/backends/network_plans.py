"""Network plans made by hand: node n1 and others, n2, n3, ...; node N has Pods 10.244.N.0/24 and fd00:244:N::/64.

Its own addresses are 198.18.0.N and fd00:198:18::N.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

from netplane.model.address import IPAddress, IPNetwork
from netplane.plan.network_plan import (
    VXLAN_LINKS,
    WIREGUARD_LINK,
    BgpPlan,
    NetworkPlan,
    Overlay,
    PeerPlan,
    Tunnel,
    Way,
)
from netplane.plan.network_settings import Mode, NetworkSettings
from netplane.plan.network_spans import merged, span_of

CLUSTER = (ip_network("10.244.0.0/16"), ip_network("fd00:244::/32"))
SERVICES = (ip_network("10.96.0.0/16"), ip_network("fd00:96::/112"))
UPLINK = "eth0"
FAMILIES = (4, 6)
VXLAN_MTU = {4: 1450, 6: 1430}
WIREGUARD_MTU = 1420
WAYS = {
    Mode.VXLAN: Way.VXLAN,
    Mode.CROSS_SUBNET: Way.VXLAN,
    Mode.WIREGUARD: Way.WIREGUARD,
    Mode.HOST_GW: Way.DIRECT,
    Mode.BGP: Way.BGP,
}


def ranges(number: int, families: Iterable[int] = FAMILIES) -> tuple[IPNetwork, ...]:
    texts = {4: f"10.{244 + number // 256}.{number % 256}.0/24", 6: f"fd00:244:{number:x}::/64"}
    return tuple(ip_network(texts[each]) for each in families)


def addresses(number: int, families: Iterable[int] = FAMILIES) -> tuple[IPAddress, ...]:
    first = {4: ip_address("198.18.0.0"), 6: ip_address("fd00:198:18::")}
    return tuple(first[each] + number for each in families)


def inner(number: int, families: Iterable[int] = FAMILIES) -> tuple[IPAddress, ...]:
    return tuple(each.network_address for each in ranges(number, families))


def mac(number: int) -> bytes:
    return bytes((2, 0, 0, 0)) + number.to_bytes(2)


def key(number: int) -> str:
    return b64encode(number.to_bytes(32)).decode()


def peer(number: int, way: Way, families: Iterable[int] = FAMILIES, outside: int = 4, **more: Any) -> PeerPlan:
    """Node `number` as others reach it, over IPv4 or IPv6 outside."""
    families = tuple(families)
    has = {"ranges": ranges(number, families), "addresses": addresses(number, families), "mtu": 1500}
    (outer,) = addresses(number, (outside,))
    match way:
        case Way.DIRECT:
            has |= {"link": UPLINK, "next_hops": addresses(number, families)}
        case Way.VXLAN:
            tunnel = Tunnel(outer, inner(number, families), mac=mac(number))
            has |= {"link": VXLAN_LINKS[outside], "mtu": VXLAN_MTU[outside], "tunnel": tunnel}
        case Way.WIREGUARD:
            has |= {
                "link": WIREGUARD_LINK,
                "mtu": WIREGUARD_MTU,
                "tunnel": Tunnel(outer, inner(number, families), key=key(number)),
            }
        case Way.BGP:
            has |= {"mtu": 0}
        case Way.NONE:
            has |= {"ranges": (), "unreachable": ranges(number, families), "mtu": 0}
    return PeerPlan(f"n{number}", way, **(has | more))


def plan(
    settings: NetworkSettings | Mode,
    peers: Iterable[PeerPlan],
    families: Iterable[int] = FAMILIES,
    own: int = 1,
    outside: int = 4,
    **more: Any,
) -> NetworkPlan:
    """Node `own` among `peers`."""
    if isinstance(settings, Mode):
        settings = NetworkSettings(settings, cluster_ranges=tuple(each for each in CLUSTER if each.version in families))
    families, peers = tuple(families), tuple(peers)
    (outer,) = addresses(own, (outside,))
    ends = inner(own, families)
    as_known = addresses(own, families)
    overlays = {
        Way.VXLAN: (Overlay(VXLAN_LINKS[outside], outer, ends, VXLAN_MTU[outside], mac(own), sources=as_known),),
        Way.WIREGUARD: (Overlay(WIREGUARD_LINK, outer, ends, WIREGUARD_MTU, key=key(own), sources=as_known),),
    }.get(WAYS[settings.mode], ())
    pods = [*ranges(own, families), *settings.cluster_ranges]
    pods += (each for other in peers for each in (*other.ranges, *other.unreachable))
    nodes = [*addresses(own, families), *(each for other in peers for each in other.addresses)]
    kept = [*map(span_of, pods), *map(span_of, nodes)]
    kept += (span_of(each) for each in (*SERVICES, *settings.no_masquerade) if each.version in families)
    made = NetworkPlan(
        node=f"n{own}",
        settings=settings,
        ranges=ranges(own, families),
        addresses=addresses(own, families),
        peers={each.node: each for each in sorted(peers, key=lambda each: each.node)},
        overlays=overlays,
        keeps_source=merged(kept),
        confined=merged(map(span_of, pods)),
        uplinks=(UPLINK,),
        pod_mtu=min([1500, *(each.mtu for each in overlays)]),
    )
    if settings.mode is Mode.BGP:
        bgp = BgpPlan(settings.bgp, addresses(own)[0], (), ranges(own, families), settings.cluster_ranges)
        made = replace(made, bgp=bgp)
    return replace(made, **more)


def without_sources(made: NetworkPlan) -> NetworkPlan:
    """The same on a host that has none of its node's addresses."""
    return replace(made, overlays=tuple(replace(each, sources=()) for each in made.overlays))


def cluster(
    settings: NetworkSettings | Mode, size: int = 3, families: Iterable[int] = FAMILIES, **more: Any
) -> NetworkPlan:
    """n1 among n2 ... of `size` nodes, all reached in the way of the mode."""
    families = tuple(families)
    way = WAYS[settings if isinstance(settings, Mode) else settings.mode]
    return plan(settings, [peer(number, way, families) for number in range(2, size + 1)], families, **more)
