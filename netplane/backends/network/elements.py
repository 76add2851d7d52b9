"""What is in the sets of the tables `netplane-network`: a peer's own elements, and those that are of no single peer."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from netplane.backends.network import judged
from netplane.backends.network.judged import Judged
from netplane.backends.network.rules import (
    KEEPS_SOURCE,
    LOAD_BALANCERS,
    NODES,
    PLAIN,
    PODS,
    REFUSED,
    VXLAN_PEERS,
    Shape,
)
from netplane.model.address import Family, IPNetwork, family_of
from netplane.plan.network_plan import NetworkPlan, PeerPlan, Way
from netplane.programs.nftables import Data, Part, SetName

Elements = dict[SetName, dict[bytes, Data]]

_NOTHING = Part()


class Common(Enum):
    """The parts of a program that are of no single peer; the others are by the peer's name."""

    KEEPS_SOURCE = KEEPS_SOURCE
    LOAD_BALANCERS = LOAD_BALANCERS


def peer_part(peer: PeerPlan, asked: Judged) -> Part:
    """What one peer adds: the address it may send VXLAN from, and with which sources; and with which it may not."""
    found: Elements = {}
    if peer.way is Way.VXLAN and peer.tunnel is not None:
        outer = peer.tunnel.outer
        found[family_of(outer), VXLAN_PEERS] = {outer.packed: None}
    if peer.way in judged.OVERLAID:
        for address in peer.addresses:
            if (family := family_of(address)) in asked.families:
                found.setdefault((family, NODES), {})[address.packed] = None
    ranges = ((PODS, judged.behind), (REFUSED, judged.refused), (PLAIN, judged.plain))
    for name, of_peer in ranges:
        for each in of_peer(peer, asked):
            place = family_of(each), f"{name}-{each.prefixlen}"
            found.setdefault(place, {})[each.network_address.packed] = None
    return Part(found) if found else _NOTHING


def common_parts(plan: NetworkPlan, shapes: Mapping[Family, Shape], old: Mapping[Any, Part]) -> dict[Common, Part]:
    """The parts that are of no single peer; of equal ones those in `old`."""
    fresh = {
        Common.KEEPS_SOURCE: Part(_keeps_source(plan, shapes)),
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


def _load_balancers(plan: NetworkPlan) -> Elements:
    found: Elements = {}
    for each in plan.load_balancer_addresses:
        found.setdefault((family_of(each), LOAD_BALANCERS), {})[each.packed] = None
    return found


def _ends(network: IPNetwork) -> tuple[bytes, bytes]:
    return network.network_address.packed, network.broadcast_address.packed
