"""What is in the sets of the tables `netplane-network`: a peer's own elements, and those that are of no single peer."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from ipaddress import IPv6Network
from typing import Any

from netplane.backends.network.rules import BEHIND_OVERLAY, KEEPS_SOURCE, LOAD_BALANCERS, VXLAN_PEERS, Shape
from netplane.model.address import Family, IPAddress, IPNetwork, family_of
from netplane.plan.network_plan import NetworkPlan, PeerPlan, Way
from netplane.plan.network_settings import Mode
from netplane.plan.network_spans import Span, joined, span_of
from netplane.programs.nftables import Data, Part, SetName

Elements = dict[SetName, dict[bytes, Data]]

_EVERY = {Family.IPV4: (bytes(4), b"\xff" * 4), Family.IPV6: (bytes(16), b"\xff" * 16)}
_NOTHING = Part()
_SIX = span_of(IPv6Network("::/0"))[0]


class Common(Enum):
    """The parts of a program that are of no single peer; the others are by the peer's name."""

    KEEPS_SOURCE = KEEPS_SOURCE
    BEHIND_OVERLAY = BEHIND_OVERLAY
    LOAD_BALANCERS = LOAD_BALANCERS


def peer_part(peer: PeerPlan) -> Part:
    """What one peer adds: the address it may send VXLAN from."""
    if peer.way is not Way.VXLAN or peer.tunnel is None:
        return _NOTHING
    outer = peer.tunnel.outer
    return Part({(family_of(outer), VXLAN_PEERS): {outer.packed: None}})


def common_parts(plan: NetworkPlan, shapes: Mapping[Family, Shape], old: Mapping[Any, Part]) -> dict[Common, Part]:
    """The parts that are of no single peer; of equal ones those in `old`."""
    fresh = {
        Common.KEEPS_SOURCE: Part(_keeps_source(plan, shapes)),
        Common.BEHIND_OVERLAY: Part(_behind_overlay(plan, shapes)),
        Common.LOAD_BALANCERS: Part(_load_balancers(plan)),
    }
    return {each: old[each] if old.get(each) == part else part for each, part in fresh.items()}


def _keeps_source(plan: NetworkPlan, shapes: Mapping[Family, Shape]) -> Elements:
    """Pairs of a Pod range of ours and where its Pods keep their source."""
    found: Elements = {}
    for family, shape in shapes.items():
        if shape.masquerade:
            ends = [_ends(each) for each in plan.keeps_source if each.version == family]
            found[family, KEEPS_SOURCE] = {
                low + first + high + last: None for low, high in map(_ends, shape.own) for first, last in ends
            }
    return found


def _behind_overlay(plan: NetworkPlan, shapes: Mapping[Family, Shape]) -> Elements:
    """Pairs of what has to come by the overlay, and everywhere."""
    found: Elements = {}
    spans = list(_confined(plan)) if any(shape.confined for shape in shapes.values()) else []
    for family, shape in shapes.items():
        if shape.confined:
            first, last = _EVERY[family]
            ends = (_packed(span, family) for span in spans if _family(span) is family)
            found[family, BEHIND_OVERLAY] = {low + first + high + last: None for low, high in ends}
    return found


def _load_balancers(plan: NetworkPlan) -> Elements:
    found: Elements = {}
    for each in plan.load_balancer_addresses:
        found.setdefault((family_of(each), LOAD_BALANCERS), {})[each.packed] = None
    return found


def _confined(plan: NetworkPlan) -> Iterator[Span]:
    """What is reached by the overlay alone: the confined ranges, but for our own and those of peers that may be
    reached in plain text.

    A range that holds the address of a node is more than Pods: of such a one only known Pod ranges.
    """
    spans = [span_of(each) for each in plan.confined]
    nodes = sorted(int(each) + (_SIX if each.version == 6 else 0) for each in _node_addresses(plan))
    only_pods = [span for span in spans if not _holds(span, nodes)]
    if len(only_pods) < len(spans):
        only_pods += (span_of(each) for peer in plan.peers.values() for each in (*peer.ranges, *peer.unreachable))
    holes = [span_of(each) for each in plan.ranges]
    if plan.settings.mode is Mode.WIREGUARD and plan.settings.wireguard.plaintext:
        holes += (span_of(each) for peer in plan.peers.values() if peer.way is Way.DIRECT for each in peer.ranges)
    return _without(joined(only_pods), list(joined(holes)))


def _node_addresses(plan: NetworkPlan) -> Iterator[IPAddress]:
    yield from plan.addresses
    for peer in plan.peers.values():
        yield from peer.addresses


def _holds(span: Span, places: list[int]) -> bool:
    """Whether one of `places`, which are sorted, is in the span."""
    at = bisect_left(places, span[0])
    return at < len(places) and places[at] <= span[1]


def _without(spans: Iterable[Span], holes: list[Span]) -> Iterator[Span]:
    """The spans without what is in `holes`; both sorted, without overlaps."""
    for first, last in spans:
        for low, high in holes:
            if first <= high and low <= last:
                if first < low:
                    yield first, low - 1
                first = high + 1
        if first <= last:
            yield first, last


def _ends(network: IPNetwork) -> tuple[bytes, bytes]:
    return network.network_address.packed, network.broadcast_address.packed


def _family(span: Span) -> Family:
    return Family.IPV6 if span[0] >= _SIX else Family.IPV4


def _packed(span: Span, family: Family) -> tuple[bytes, bytes]:
    size, base = (4, 0) if family is Family.IPV4 else (16, _SIX)
    return (span[0] - base).to_bytes(size), (span[1] - base).to_bytes(size)
