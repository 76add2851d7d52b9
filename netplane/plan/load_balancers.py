"""Addresses for Services of type LoadBalancer where no cloud gives them: from pools, without a memory.

Who has which address follows from the snapshot and the settings alone, so all nodes agree without a word: what a
status has is kept, then what is asked for, then a place that follows from the Service's name. docs/decisions/0036.
Cost follows the change: given the previous allocation, only Services that are not the same objects are looked at.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import NamedTuple, TypeVar

from netplane.errors import Problem
from netplane.model.address import IPAddress
from netplane.model.node import Node
from netplane.model.service import Ingress, Service, ServiceId
from netplane.model.snapshot import Snapshot
from netplane.model.table import changes, derived
from netplane.plan.address_ring import Claim, Stage
from netplane.plan.load_balancer_pools import Pools, PoolsDraft, Range, empty, held, holder, shown
from netplane.plan.load_balancer_wants import Want, problem, want_of
from netplane.plan.network_settings import LoadBalancers
from netplane.plan.plan import Note

_Value = TypeVar("_Value")


class Why(Enum):
    """Why a Service has an address."""

    KEPT = "kept"
    """It is in its status."""
    ASKED = "asked"
    AUTOMATIC = "automatic"


class Given(NamedTuple):
    """An address of a pool that a Service has, and why."""

    address: IPAddress
    why: Why


@dataclass(frozen=True, slots=True)
class Allocation:
    """`snapshot` with the addresses filled into `ingress`; the addresses by Service, and all of them, sorted.

    Services that get nothing from here are the same objects as in the snapshot they come from.
    """

    snapshot: Snapshot
    given: Mapping[ServiceId, tuple[Given, ...]] = field(default_factory=dict)
    addresses: tuple[IPAddress, ...] = ()
    problems: tuple[Problem, ...] = ()
    notes: tuple[Note, ...] = ()
    said: Mapping[ServiceId, tuple[Problem | Note, ...]] = field(default_factory=dict, compare=False)
    pools: Pools = field(default=(), compare=False)
    ranges: tuple[Range, ...] = field(default=(), compare=False)
    source: Snapshot = field(default_factory=Snapshot, compare=False)
    """These are memory: what is said about whom, and who has what of which pools in which snapshot."""


def allocate(snapshot: Snapshot, settings: LoadBalancers, previous: Allocation | None = None) -> Allocation:
    """Who has which address of the pools. `previous` saves work and never changes the result."""
    if not settings.pools:
        return previous if previous is not None and previous.source is snapshot else _nothing(snapshot)
    if previous is None or previous.ranges != settings.pools:
        previous = Allocation(Snapshot(), pools=empty(settings.pools), ranges=settings.pools)
    old = previous.source
    if old is snapshot:
        return previous
    if snapshot.services is old.services and snapshot.nodes is old.nodes:
        return replace(previous, snapshot=replace(snapshot, services=previous.snapshot.services), source=snapshot)
    draft = PoolsDraft(previous.pools)
    _move_nodes(draft, old.nodes, snapshot.nodes)
    changed, removed = changes(old.services, snapshot.services)
    _move_services(draft, previous, snapshot, (*removed, *changed))
    pools = draft.done()
    affected = {ServiceId(claim.namespace, claim.name) for claim in draft.affected if claim.namespace}
    affected.update(changed)
    fresh = [snapshot.services[id] for id in sorted(affected) if id in snapshot.services]
    return _allocation(replace(previous, pools=pools, source=snapshot), fresh, removed)


def _nothing(snapshot: Snapshot) -> Allocation:
    return Allocation(snapshot, source=snapshot)


def _move_nodes(draft: PoolsDraft, old: Mapping[str, Node], new: Mapping[str, Node]) -> None:
    """Nobody gets an address that a Node has."""
    changed, removed = changes(old, new)
    for name in (*changed, *removed):
        for claim, address in _of_node(old.get(name)):
            draft.unfix(claim, address)
        for claim, address in _of_node(new.get(name)):
            draft.fix(claim, address)


def _of_node(node: Node | None) -> Iterator[tuple[Claim, IPAddress]]:
    if node is not None:
        for number, address in enumerate(node.addresses):
            yield Claim(Stage.NODE, "", "", node.name, number), address


def _move_services(draft: PoolsDraft, previous: Allocation, new: Snapshot, which: Iterable[ServiceId]) -> None:
    """Take back what they do not want any more, then let them have what they want now, the best claims first."""
    wants: list[Want] = []
    for id in which:
        before, after = previous.source.services.get(id), new.services.get(id)
        had = want_of(before, previous.pools) if before else Want()
        has = want_of(after, previous.pools) if after else Want()
        if had[:2] == has[:2]:
            continue
        wants.append(has)
        for claim, address in had.fixed:
            draft.unfix(claim, address)
        for claim, family in had.automatic:
            draft.remove(claim, family)
    for want in wants:
        for claim, address in want.fixed:
            draft.fix(claim, address)
    for claim, family in sorted(each for want in wants for each in want.automatic):
        draft.add(claim, family)


def _allocation(of: Allocation, fresh: list[Service], removed: list[ServiceId]) -> Allocation:
    """`of` with what became of the `fresh` Services; its pools and source are the new ones already."""
    services: dict[ServiceId, Service] = {}
    given: dict[ServiceId, tuple[Given, ...]] = {}
    said: dict[ServiceId, tuple[Problem | Note, ...]] = {}
    for service in fresh:
        id = service.id
        has, about = _settle(service, of.pools)
        if has != of.given.get(id, ()):
            given[id] = has
        if about != of.said.get(id, ()):
            said[id] = about
        filled, before = _filled(service, has), of.snapshot.services.get(id)
        services[id] = before if before is not None and filled is not service and before == filled else filled
    all_given = _after(of.given, given, removed)
    all_said = _after(of.said, said, removed)
    told = of.said is not all_said
    about_all = [each for id in sorted(all_said) for each in all_said[id]] if told else []
    return replace(
        of,
        snapshot=replace(of.source, services=_after(of.snapshot.services, services, removed)),
        given=all_given,
        addresses=_addresses(of, (*given.values(), *(of.given.get(id, ()) for id in (*given, *removed)))),
        problems=tuple(each for each in about_all if isinstance(each, Problem)) if told else of.problems,
        notes=tuple(each for each in about_all if isinstance(each, Note)) if told else of.notes,
        said=all_said,
    )


def _after(
    table: Mapping[ServiceId, _Value], put: dict[ServiceId, _Value], gone: list[ServiceId]
) -> Mapping[ServiceId, _Value]:
    """`table` itself if nothing changes in it. An empty tuple is absent."""
    new = {id: value for id, value in put.items() if table.get(id) is not value}
    drop = [id for id in gone if id in table] + [id for id, value in new.items() if value == ()]
    return derived(table, new, drop) if new or drop else table


def _settle(service: Service, pools: Pools) -> tuple[tuple[Given, ...], tuple[Problem | Note, ...]]:
    """The addresses the Service has, and what there is to say about those it does not have."""
    want = want_of(service, pools)
    given: list[Given] = []
    said = list(want.said)
    for claim, address in want.fixed:
        other = holder(pools, address)
        if claim.stage < Stage.KEPT or other is None:
            continue
        if other == claim or other.stage is claim.stage is Stage.KEPT:
            given.append(Given(address, Why.KEPT if claim.stage is Stage.KEPT else Why.ASKED))
        else:
            asked_in = service.asked.field if service.asked else ""
            where = "status.loadBalancer.ingress" if claim.stage is Stage.KEPT else asked_in
            said.append(problem(service, where, f"{address} is {_whose(other)}; choose another"))
    for claim, family in want.automatic:
        found = held(pools, claim, family)
        if found is not None:
            given.append(Given(found, Why.AUTOMATIC))
        else:
            have = shown(((pool.address(0), pool.address(pool.ring.size - 1)) for pool in pools), family)
            why = f"gets no {family} address: none is left in the pools {have}; add a pool, or give one back"
            said.append(problem(service, "spec.type", why))
    given.sort(key=lambda each: _order(each.address))
    return tuple(given), tuple(said)


def _whose(claim: Claim) -> str:
    match claim.stage:
        case Stage.NODE:
            return f"an address of Node {claim.name}"
        case Stage.CLUSTER_IP:
            return f"the cluster IP of Service {claim.namespace}/{claim.name}"
        case Stage.FOREIGN | Stage.KEPT:
            return f"in the status of Service {claim.namespace}/{claim.name}, which keeps it"
        case _:
            return f"given to Service {claim.namespace}/{claim.name}, which asks for it too"


def _filled(service: Service, given: tuple[Given, ...]) -> Service:
    new = tuple(Ingress(each.address) for each in given if each.why is not Why.KEPT)
    return replace(service, ingress=service.ingress + new) if new else service


def _addresses(of: Allocation, touched: Iterable[tuple[Given, ...]]) -> tuple[IPAddress, ...]:
    """All addresses that are given, if at most the touched ones changed: `of` has the new pools and the old list."""
    candidates = {each.address for every in touched for each in every}
    if not candidates:
        return of.addresses
    made = list(of.addresses)
    for address in candidates:
        claim = holder(of.pools, address)
        at = bisect_left(made, _order(address), key=_order)
        there = at < len(made) and made[at] == address
        used = claim is not None and claim.stage >= Stage.KEPT
        if used and not there:
            made.insert(at, address)
        elif there and not used:
            del made[at]
    return tuple(made)


def _order(address: IPAddress) -> tuple[int, int]:
    return address.version, int(address)
