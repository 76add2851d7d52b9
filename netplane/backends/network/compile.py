"""A network plan as a program: what this node has itself, and what each peer adds.

Cost follows the change: given what was compiled before, only peers whose plans are not the same objects are spelled
again. The result never depends on whether, or from what, it was derived.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from netplane.backends.network.bird import bird_text
from netplane.backends.network.elements import Common, common_parts, peer_part
from netplane.backends.network.judged import Judged, judged_of
from netplane.backends.network.routes import (
    Frame,
    addresses,
    backstops,
    frame_of,
    links,
    peer_entries,
    rules,
    sysctls,
)
from netplane.backends.network.rules import shapes, structure
from netplane.model.table import changes, derived
from netplane.plan.network_plan import WIREGUARD_LINK, NetworkPlan, PeerPlan
from netplane.programs.network import NetworkProgram
from netplane.programs.nftables import NftablesProgram, Part
from netplane.programs.program import NETWORK_TABLE, Program

Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class CompiledNetwork:
    """A plan and the program that spells it: of its mechanisms only `network` and `network_rules`."""

    plan: NetworkPlan
    program: Program


@dataclass(frozen=True, slots=True)
class _Changes:
    """Peers as they were and are no more, and as they are now, by name; and what their entries depend on."""

    gone: Mapping[str, PeerPlan]
    fresh: Mapping[str, PeerPlan]
    frame: Frame
    asked: Judged


def compile_network(plan: NetworkPlan, before: CompiledNetwork | None = None) -> CompiledNetwork:
    """The program for `plan`. `before` saves work and never changes the result."""
    frame, asked = frame_of(plan), judged_of(plan)
    if before is None or (frame_of(before.plan), judged_of(before.plan)) != (frame, asked):
        before = CompiledNetwork(NetworkPlan(plan.node, plan.settings), Program())
    old = before.plan.peers
    changed, removed = changes(old, plan.peers)
    gone = {name: old[name] for name in (*changed, *removed) if name in old}
    peers = _Changes(gone, {name: plan.peers[name] for name in changed}, frame, asked)
    network = _network(plan, peers, before)
    network_rules = _rules(plan, peers, before.program.network_rules)
    return CompiledNetwork(plan, Program(network=network, network_rules=network_rules))


def _network(plan: NetworkPlan, peers: _Changes, before: CompiledNetwork) -> NetworkProgram:
    had = before.program.network
    gone = [peer_entries(peer, peers.frame) for peer in peers.gone.values()]
    fresh = [peer_entries(peer, peers.frame) for peer in peers.fresh.values()]
    caught, catch = [], []
    if (before.plan.confined, before.plan.ranges) != (plan.confined, plan.ranges):
        caught, catch = [backstops(before.plan)], [backstops(plan)]  # no key of these is a peer's
    made = links(peers.frame)
    speakers = _renewed(
        had.peers.get(WIREGUARD_LINK, {}), (each.speaker for each in gone), (each.speaker for each in fresh)
    )
    return NetworkProgram(
        links=made,
        peers={WIREGUARD_LINK: speakers} if WIREGUARD_LINK in made else {},
        addresses=frozenset(addresses(plan)),
        neighbours=_renewed(had.neighbours, (each.neighbours for each in gone), (each.neighbours for each in fresh)),
        forwarding=_renewed(had.forwarding, (each.forwarding for each in gone), (each.forwarding for each in fresh)),
        routes=_renewed(
            had.routes, [*caught, *(each.routes for each in gone)], [*catch, *(each.routes for each in fresh)]
        ),
        rules=frozenset(rules(plan)),
        sysctls=sysctls(plan),
        bird=bird_text(plan.bgp) if plan.bgp else "",
    )


def _rules(plan: NetworkPlan, peers: _Changes, had: NftablesProgram) -> NftablesProgram:
    shape = shapes(plan)
    fresh: dict[str | Common, Part] = {name: peer_part(peer, peers.asked) for name, peer in peers.fresh.items()}
    common = common_parts(plan, shape, had.parts)
    fresh.update((each, part) for each, part in common.items() if had.parts.get(each) is not part)
    parts = derived(had.parts, fresh, [name for name in peers.gone if name not in peers.fresh])
    tables = {family: structure(family, its) for family, its in shape.items()}
    return NftablesProgram(tables, parts, table=NETWORK_TABLE)


def _renewed(
    had: Mapping[Key, Value], gone: Iterable[Mapping[Key, Value]], fresh: Iterable[Mapping[Key, Value]]
) -> Mapping[Key, Value]:
    """`had` without the keys of `gone` and with what is `fresh`; the same object if that is nothing."""
    put = {key: value for each in fresh for key, value in each.items()}
    drop = [key for each in gone for key in each if key not in put]
    return derived(had, put, drop) if put or drop else had
