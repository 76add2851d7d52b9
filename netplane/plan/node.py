"""The plan of a whole node: facts, local detection, every Service, and who has an address two Services claim.

Cost follows the change: given the previous plan, only Services whose objects are not the same ones are planned
again. The result never depends on whether, or from what, it was derived.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from netplane.errors import InputError, Problem
from netplane.model.address import Family, IPAddress
from netplane.model.service import ServiceId
from netplane.model.snapshot import Snapshot
from netplane.model.table import changes, derived
from netplane.plan.plan import (
    Claim,
    Frontend,
    FrontendKind,
    FrontendRow,
    NodeFacts,
    Plan,
    ServicePlan,
    ThisNode,
)
from netplane.plan.services import Place, plan_service
from netplane.plan.settings import Bridge, PodRange, Settings

Key = IPAddress | Frontend

_RANK = {
    FrontendKind.CLUSTER_IP: 0,
    FrontendKind.NODE_PORT: 1,
    FrontendKind.LOAD_BALANCER: 1,
    FrontendKind.EXTERNAL_IP: 2,  # anyone who may edit a Service may write any address there (CVE-2020-8554)
}


def plan_node(snapshot: Snapshot, node: str, settings: Settings, previous: Plan | None = None) -> Plan:
    """The plan for `node`. `previous` saves work and never changes the result.

    Raises InputError if the settings need a fact of the Node object that is missing.
    """
    facts = _facts(snapshot, node)
    place = _place(facts, settings, snapshot)
    old = previous if previous is not None and _place_of(previous) == place else None
    changed, removed = _differences(old.snapshot if old else Snapshot(), snapshot)
    services = old.services if old else {}
    claims = _ClaimsDraft(old.claims if old else {})
    fresh = {
        service: plan_service(snapshot.services[service], snapshot.slices.get(service, ()), place)
        for service in changed
    }
    contested = _renew_claims(claims, (services[each] for each in (*changed, *removed) if each in services), fresh)
    for service in contested - fresh.keys():
        if service in snapshot.services:
            fresh[service] = plan_service(snapshot.services[service], snapshot.slices.get(service, ()), place)
    settled = {service: _settle(entry, claims) for service, entry in fresh.items()}
    return Plan(
        node=facts,
        settings=place.settings,
        families=place.families,
        services=derived(services, settled, removed),
        problems=_problems(snapshot, node),
        claims=claims.done(),
        snapshot=snapshot,
    )


def rivals(snapshot: Snapshot) -> list[Problem]:
    """What Services cannot have on any node because another Service has it, by Service."""
    anywhere = plan_node(snapshot, "", Settings(local=Bridge("any")))
    return [problem for entry in anywhere.sorted_services() for problem in entry.problems]


def _facts(snapshot: Snapshot, name: str) -> NodeFacts:
    node = snapshot.nodes.get(name)
    return NodeFacts(name, node.zone, node.addresses, node.pod_ranges) if node else NodeFacts(name)


def _problems(snapshot: Snapshot, name: str) -> tuple[Problem, ...]:
    if name in snapshot.nodes:
        return ()
    known = ", ".join(sorted(snapshot.nodes)[:5]) or "none"
    why = f"not found (Nodes there are: {known}), so its zone, addresses and pod ranges are unknown; correct --node"
    return (Problem(where="", what=f"Node {name}", why=why),)


def _place(facts: NodeFacts, settings: Settings, snapshot: Snapshot) -> Place:
    """Resolve local detection. Which families can be served follows from it."""
    if not isinstance(settings.local, PodRange):
        return Place(facts, settings, frozenset(Family))
    ranges = settings.local if settings.local.networks else PodRange(facts.pod_ranges)
    families = frozenset(family for family in Family if ranges.covers(family))
    if not families:
        missing = _problems(snapshot, facts.name)
        why = str(missing[0]) if missing else f"Node {facts.name} has no spec.podCIDRs; set them"
        raise InputError(
            f"local detection by pod range: {why},"
            " or say --local pod-range=CIDR, bridge=NAME or interface-prefix=PREFIX"
        )
    return Place(facts, replace(settings, local=ranges), families)


def _place_of(plan: Plan) -> Place:
    return Place(plan.node, plan.settings, plan.families)


def _differences(old: Snapshot, new: Snapshot) -> tuple[list[ServiceId], list[ServiceId]]:
    """Services to plan again and Services that are gone, told by object identity (see Snapshot)."""
    changed, removed = changes(old.services, new.services)
    slices_changed, slices_gone = changes(old.slices, new.slices)
    touched = dict.fromkeys((*changed, *slices_changed, *slices_gone))
    return [each for each in touched if each in new.services], removed


class _ClaimsDraft:
    """The claims of the previous plan, with what changes about them."""

    def __init__(self, base: Mapping[Key, tuple[Claim, ...]]) -> None:
        self._base = base
        self._changed: dict[Key, tuple[Claim, ...]] = {}

    def get(self, key: Key) -> tuple[Claim, ...]:
        found = self._changed.get(key)
        return self._base.get(key, ()) if found is None else found

    def __setitem__(self, key: Key, claims: tuple[Claim, ...]) -> None:
        self._changed[key] = claims

    def of(self, service: ServiceId) -> set[Key]:
        """Every key the Service claims, also those it lost."""
        keys = {*self._base, *self._changed}
        return {key for key in keys if any(who == service for _, who in self.get(key))}

    def done(self) -> Mapping[Key, tuple[Claim, ...]]:
        """The claims as they are now."""
        return derived(self._base, self._changed, [key for key, claims in self._changed.items() if not claims])


def _wanted(entry: ServicePlan) -> Iterator[tuple[Key, Claim]]:
    """What the entry claims: its cluster IPs whole; of every other address the one port (and that it uses it)."""
    for address in entry.cluster_ips:
        yield address, (0, entry.service)
    for row in entry.rows():
        if row.kind is not FrontendKind.CLUSTER_IP:
            claim = (_RANK[row.kind], entry.service)
            yield row.frontend, claim
            if not isinstance(row.frontend.address, ThisNode):
                yield row.frontend.address, claim


def _renew_claims(
    claims: _ClaimsDraft, old: Iterable[ServicePlan], fresh: dict[ServiceId, ServicePlan]
) -> set[ServiceId]:
    """Replace the claims of old entries by those of fresh ones; return all Services with a rival on what was touched.

    A settled entry no longer shows what it lost, so a loser's claims are remembered in `claims` alone: they are
    found and dropped by its name.
    """
    contested: set[ServiceId] = set()
    for entry in old:
        keys = {key for key, _ in _wanted(entry)}
        if entry.problems:  # it may have lost something: look everywhere, this is rare
            keys |= claims.of(entry.service)
        for key in keys:
            rest = tuple(claim for claim in claims.get(key) if claim[1] != entry.service)
            contested.update(who for _, who in rest)
            claims[key] = rest
    for entry in fresh.values():
        for key, claim in _wanted(entry):
            others = claims.get(key)
            if not others:
                claims[key] = (claim,)
            elif claim not in others:
                claims[key] = tuple(sorted((*others, claim)))
                contested.update(who for _, who in claims.get(key))
    return contested


def _settle(entry: ServicePlan, claims: _ClaimsDraft) -> ServicePlan:
    """The entry without what other Services have a better claim to, and with the problems that says."""
    lost: dict[Key, ServiceId] = {}
    for key, _ in _wanted(entry):
        rank, winner = claims.get(key)[0]
        exclusive = isinstance(key, Frontend) or rank == 0  # an address is shared unless it is a cluster IP
        if exclusive and winner != entry.service:
            lost[key] = winner
    if not lost:
        return _without_repeated_rows(entry)

    def kept(row: FrontendRow) -> bool:
        return row.frontend not in lost and row.frontend.address not in lost

    ports = tuple(replace(port, rows=tuple(filter(kept, port.rows))) for port in entry.ports)
    problems = tuple(
        Problem(
            where="",
            what=f"Service {entry.service}: {key}",
            why=f"already taken by Service {winner}, which keeps it; give one of them another",
        )
        for key, winner in lost.items()
    )
    addresses = tuple(address for address in entry.cluster_ips if address not in lost)
    return _without_repeated_rows(
        replace(entry, ports=ports, cluster_ips=addresses, problems=entry.problems + problems)
    )


def _without_repeated_rows(entry: ServicePlan) -> ServicePlan:
    """One Service may name a frontend twice (two ports with one number): the first has it."""
    rows = list(entry.rows())
    if len(rows) < 2 or len({row.frontend for row in rows}) == len(rows):
        return entry
    seen: set[Frontend] = set()

    def first(row: FrontendRow) -> bool:
        new = row.frontend not in seen
        seen.add(row.frontend)
        return new

    ports = tuple(replace(port, rows=tuple(filter(first, port.rows))) for port in entry.ports)
    why = "two of its ports have the same number and protocol; the first one has it"
    problem = Problem(where="", what=f"Service {entry.service}: spec.ports", why=why)
    return replace(entry, ports=ports, problems=(*entry.problems, problem))
