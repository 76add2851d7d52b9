"""Links, addresses, neighbours and routes: what this node has itself, and what each of the others adds.

A peer by an overlay, here n2 (198.18.0.12, Pods 10.244.2.0/24) by VXLAN:

    main       10.244.2.0/24 via 10.244.2.0 dev np-vxlan4 onlink          for whoever speaks to its Pods; `src` is an
                                                                          address that n2 knows us by
    table 98   198.18.0.12   via 10.244.2.0 dev np-vxlan4 onlink          for our Pods that speak to the node itself
    neighbour  10.244.2.0 is n2's MAC,  forwarding  n2's MAC is behind 198.18.0.12

No route of one peer has the key of another's or of this node's: neither ranges nor addresses of two nodes overlap in a
plan, and what this node has itself is in the main table and of another metric.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_network

from netplane.model.address import Family, IPAddress, IPNetwork, family_of
from netplane.plan.network_plan import WIREGUARD_LINK, NetworkPlan, Overlay, PeerPlan, Way
from netplane.plan.network_settings import NetworkSettings
from netplane.programs.network import (
    BACKSTOP_METRIC,
    TABLE,
    Link,
    LinkAddress,
    Route,
    RouteKey,
    RouteKind,
    SourceRule,
    VxlanLink,
    WireguardLink,
    WireguardPeer,
)

_LOOSE = 2


@dataclass(frozen=True, slots=True)
class Frame:
    """What the entries of a peer depend on besides the peer itself: the operator's choice and this node's own ends."""

    settings: NetworkSettings
    overlays: tuple[Overlay, ...] = ()


@dataclass(frozen=True, slots=True)
class PeerEntries:
    """What one peer adds to the program. `speaker` is it as WireGuard knows it, by its key."""

    routes: Mapping[RouteKey, Route] = field(default_factory=dict)
    neighbours: Mapping[tuple[str, IPAddress], bytes] = field(default_factory=dict)
    forwarding: Mapping[tuple[str, bytes], IPAddress] = field(default_factory=dict)
    speaker: Mapping[str, WireguardPeer] = field(default_factory=dict)


def frame_of(plan: NetworkPlan) -> Frame:
    """The frame of a plan's peers."""
    return Frame(plan.settings, plan.overlays)


# --- peers ----------------------------------------------------------------------------------------------------------


def peer_entries(peer: PeerPlan, frame: Frame) -> PeerEntries:
    """What `peer` adds. Of BGP nothing: bird makes its routes."""
    routes = {RouteKey(each): Route(RouteKind.UNREACHABLE) for each in peer.unreachable}
    match peer.way:
        case Way.DIRECT:
            routes |= _direct(peer)
        case Way.VXLAN:
            return _by_vxlan(peer, frame, routes)
        case Way.WIREGUARD:
            return _by_wireguard(peer, frame, routes)
        case Way.BGP | Way.NONE:
            pass
    return PeerEntries(routes)


def _direct(peer: PeerPlan) -> Iterator[tuple[RouteKey, Route]]:
    hops = {family_of(each): each for each in peer.next_hops}
    for each in peer.ranges:
        yield RouteKey(each), Route(link=peer.link, via=hops[family_of(each)])


def _by_vxlan(peer: PeerPlan, frame: Frame, routes: dict[RouteKey, Route]) -> PeerEntries:
    assert peer.tunnel is not None  # noqa: S101  a plan has one for every overlay
    tunnel, mtu = peer.tunnel, _less(peer, frame)
    inner = {family_of(each): each for each in tunnel.inner}
    sources = _sources(peer, frame)
    for each in peer.ranges:
        family = family_of(each)
        routes[RouteKey(each)] = Route(link=peer.link, via=inner[family], mtu=mtu, source=sources.get(family))
    for address in () if frame.settings.nodes_directly else peer.addresses:
        # A node without Pods of a family has no end of that family.
        if via := inner.get(family_of(address)):
            routes[RouteKey(ip_network(address), TABLE)] = Route(link=peer.link, via=via, mtu=mtu)
    neighbours = {(peer.link, each): tunnel.mac for each in tunnel.inner}
    return PeerEntries(routes, neighbours, {(peer.link, tunnel.mac): tunnel.outer})


def _by_wireguard(peer: PeerPlan, frame: Frame, routes: dict[RouteKey, Route]) -> PeerEntries:
    assert peer.tunnel is not None  # noqa: S101  a plan has one for every overlay
    tunnel, route = peer.tunnel, Route(link=peer.link, mtu=_less(peer, frame))
    own, sources = [ip_network(each) for each in peer.addresses], _sources(peer, frame)
    routes.update((RouteKey(each), replace(route, source=sources.get(family_of(each)))) for each in peer.ranges)
    routes.update((RouteKey(each, TABLE), route) for each in own)
    # The link may be gone for a moment, and those routes with it: then the main table would be asked.
    routes.update((RouteKey(each, TABLE, BACKSTOP_METRIC), Route(RouteKind.UNREACHABLE)) for each in own)
    wireguard = frame.settings.wireguard
    allowed = tuple(sorted((*peer.ranges, *own), key=_in_order))
    speaker = WireguardPeer(tunnel.key, tunnel.outer, wireguard.port, allowed, wireguard.keepalive)
    return PeerEntries(routes, speaker={tunnel.key: speaker})


def _sources(peer: PeerPlan, frame: Frame) -> dict[Family, IPAddress]:
    """What packets of this node to the peer's Pods have as source if nobody chose, by family.

    Else the kernel would take the inner address, and whoever asks a server by UDP under the node's address would be
    answered from another. The table of our Pods needs none: packets that look into it have a Pod's address.
    """
    sources = next((each.sources for each in frame.overlays if each.link == peer.link), ())
    return {family_of(each): each for each in reversed(sources)}


def _less(peer: PeerPlan, frame: Frame) -> int:
    """The MTU of a peer's routes: 0, unless it takes less than the link."""
    of_link = next((each.mtu for each in frame.overlays if each.link == peer.link), 0)
    return peer.mtu if peer.mtu < of_link else 0


def _in_order(network: IPNetwork) -> tuple[int, int, int]:
    return network.version, int(network.network_address), network.prefixlen


# --- this node ------------------------------------------------------------------------------------------------------


def links(frame: Frame) -> dict[str, Link]:
    """This node's ends of overlays."""
    return {each.link: _link(each, frame.settings) for each in frame.overlays}


def _link(overlay: Overlay, settings: NetworkSettings) -> Link:
    if overlay.link == WIREGUARD_LINK:
        return WireguardLink(overlay.link, overlay.mtu, settings.wireguard.port, overlay.key)
    vxlan = settings.vxlan
    return VxlanLink(overlay.link, overlay.mac, overlay.mtu, vxlan.id, vxlan.port, overlay.outer, vxlan.checksum)


def addresses(plan: NetworkPlan) -> Iterator[LinkAddress]:
    """Addresses of overlays, and those of Services that this node answers for."""
    for overlay in plan.overlays:
        yield from (LinkAddress(overlay.link, each) for each in overlay.inner)
    yield from (LinkAddress(each.link, each.address, announced=True) for each in plan.announced)


def backstops(plan: NetworkPlan) -> dict[RouteKey, Route]:
    """What catches packets for Pods that have no other route just now: they never leave by a default route.

    Whoever speaks to a Pod of ours that is not there hears nothing, as if it had just ended.
    """
    caught = {RouteKey(each, metric=BACKSTOP_METRIC): Route(RouteKind.UNREACHABLE) for each in plan.confined}
    own = {RouteKey(each, metric=BACKSTOP_METRIC): Route(RouteKind.BLACKHOLE) for each in plan.ranges}
    return caught | own


def rules(plan: NetworkPlan) -> Iterator[SourceRule]:
    """Our Pods look into the table of other nodes' own addresses first, where there is an overlay to them.

    That is dear: with any rule at all the kernel asks all of them for every packet, and twice for those that come in.
    """
    if plan.settings.nodes_directly:
        return iter(())
    inside = {family_of(each) for overlay in plan.overlays for each in overlay.inner}
    return (SourceRule(each) for each in plan.ranges if family_of(each) in inside)


def sysctls(plan: NetworkPlan) -> dict[str, int]:
    """Forwarding, and no second opinion on our own links: what comes by them is judged by the table
    `netplane-network`, and nobody there is a router of ours.

    A host that does not forward IPv6 passes over a next hop that has not answered, which leaves what catches packets
    for Pods, and looks every minute whether it does now (RFC 4191, section 3.2); one that forwards asks again for each
    packet. So where we do not make it forward, it is to look every second.
    """
    families = {family_of(each) for each in plan.ranges}
    values: dict[str, int] = {}
    if Family.IPV4 in families:
        values["net/ipv4/ip_forward"] = 1
    if Family.IPV6 in families:
        values["net/ipv6/conf/all/forwarding"] = 1
    else:
        direct = {peer.link for peer in plan.peers.values() if any(hop.version == 6 for hop in peer.next_hops)}
        values |= {f"net/ipv6/conf/{link}/router_probe_interval": 1 for link in sorted(direct)}
    for overlay in plan.overlays:
        inside = {family_of(each) for each in overlay.inner}
        if Family.IPV4 in inside:
            values |= _unasked(overlay.link, direct=plan.settings.nodes_directly)
        if Family.IPV6 in inside:
            values[f"net/ipv6/conf/{overlay.link}/accept_ra"] = 0
    return values


def _unasked(link: str, *, direct: bool) -> dict[str, int]:
    """That the kernel asks as little as can be about sources of IPv4: with accept_local it does not even look, where
    there are rules, for the way back. Where answers of nodes come by the overlay and requests go beside it, a host with
    `all/rp_filter=1` must be loose here.
    """
    conf = f"net/ipv4/conf/{link}"
    return {f"{conf}/rp_filter": _LOOSE if direct else 0, f"{conf}/accept_local": 0 if direct else 1}


def of_families(networks: Iterable[IPNetwork]) -> dict[Family, tuple[IPNetwork, ...]]:
    """The networks by family, in their order; a family of none is absent."""
    found: dict[Family, list[IPNetwork]] = {}
    for each in networks:
        found.setdefault(family_of(each), []).append(each)
    return {family: tuple(several) for family, several in found.items()}
