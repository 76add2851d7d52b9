"""Which load-balancer addresses this node answers ARP and neighbour discovery for, and on which link.

For each address one node is elected: the one with the highest score of node and address among those that can answer
for it and are well, as this node sees it. No node asks another; docs/decisions/0037.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple

from netplane.errors import Problem
from netplane.model.address import IPAddress, IPNetwork, family_of
from netplane.model.endpoint import EndpointState
from netplane.model.node import Node
from netplane.model.service import Scope, Service, ServiceId
from netplane.model.table import changes
from netplane.plan.address_ring import Stage
from netplane.plan.load_balancer_pools import Range, holder
from netplane.plan.load_balancers import Allocation
from netplane.plan.network_plan import Announced, HostFacts
from netplane.plan.network_settings import Announce, LoadBalancers
from netplane.plan.plan import Endpoint, FrontendKind, Plan, ServicePlan

_PRIME = (1 << 61) - 1


@dataclass(frozen=True, slots=True)
class Electorate:
    """Who may answer, as one node sees it. `nodes` are all of the cluster."""

    nodes: Mapping[str, Node]
    node: str
    facts: HostFacts
    settings: LoadBalancers


class Elected(NamedTuple):
    """Who answers for an address, "" for nobody, and what follows for this node."""

    winner: str = ""
    result: Announced | Problem | None = None


@dataclass(frozen=True, slots=True)
class Announcing:
    """What this node answers for, sorted by address, and why it does not where it should."""

    announced: tuple[Announced, ...] = ()
    problems: tuple[Problem, ...] = ()
    elected: Mapping[IPAddress, Elected] = field(default_factory=dict, compare=False)
    memory: tuple[Allocation, Plan, _Ballot] | None = field(default=None, compare=False)
    """Both are memory: what came out for each address, and of what."""


def announced_here(  # the arguments are those of plan_network
    allocation: Allocation,
    plan: Plan,
    nodes: Mapping[str, Node],
    node: str,
    facts: HostFacts,
    settings: LoadBalancers,
) -> tuple[tuple[Announced, ...], tuple[Problem, ...]]:
    """What `node` answers for, and why it does not where it should. `plan` is of the allocation's snapshot."""
    made = announcing(allocation, plan, Electorate(nodes, node, facts, settings))
    return made.announced, made.problems


def announcing(
    allocation: Allocation, plan: Plan, electorate: Electorate, previous: Announcing | None = None
) -> Announcing:
    """The same, at the cost of the change. `previous` saves work and never changes the result."""
    if electorate.settings.announce is not Announce.NEIGHBOURS or electorate.node not in electorate.nodes:
        return Announcing()
    memory = previous.memory if previous is not None else None
    ballot = memory[2] if memory is not None and memory[2].electorate == electorate else _Ballot(electorate)
    asked: Iterable[IPAddress] = allocation.addresses
    elected: dict[IPAddress, Elected] = {}
    same_pools = memory is not None and memory[0].ranges == allocation.ranges
    if previous is not None and memory is not None and same_pools and ballot.same_place(memory[2]):
        elected = dict(previous.elected)
        asked = _asked_again(memory[0], memory[1], allocation, plan) | _unseated(elected, memory[2], ballot)
    for address in asked:
        result = _elect(address, allocation, plan, ballot)
        if result is None:
            elected.pop(address, None)
        else:
            elected[address] = result
    results = [each.result for each in elected.values() if each.result is not None]
    found = (each for each in results if isinstance(each, Announced))
    return Announcing(
        announced=tuple(sorted(found, key=lambda each: (each.address.version, int(each.address)))),
        problems=tuple(sorted({each for each in results if isinstance(each, Problem)})),
        elected=elected,
        memory=(allocation, plan, ballot),
    )


def _asked_again(before: Allocation, old: Plan, after: Allocation, new: Plan) -> set[IPAddress]:
    """Addresses whose election may have another result because of what became of Services and endpoints."""
    changed, removed = changes(before.given, after.given)
    planned, unplanned = changes(old.services, new.services)
    services = (*changed, *removed, *planned, *unplanned)
    return {each.address for id in services for of in (before, after) for each in of.given.get(id, ())}


def _unseated(elected: Mapping[IPAddress, Elected], old: _Ballot, new: _Ballot) -> set[IPAddress]:
    """Addresses whose winner is not well any more, or whose winner one that is well again may beat."""
    if old.well == new.well:
        return set()
    back = {name: number_of(name) for name in new.well - old.well}
    return {
        address
        for address, (name, _) in elected.items()
        if (name not in new.well if name else back)
        or (back and winner(address, {**back, name: number_of(name)}) != name)
    }


class _Ballot:
    """Who is well, and which of them can answer on the same network as this node."""

    def __init__(self, electorate: Electorate) -> None:
        self.electorate = electorate
        self.own = electorate.nodes[electorate.node]
        self.well = _well(electorate)
        self.networks = _networks(electorate.facts)
        self.complaints: dict[Range, Problem | None] = {}
        self._nodes = electorate.nodes
        self._candidates: dict[IPNetwork, dict[str, int]] = {}

    def same_place(self, other: _Ballot) -> bool:
        """Whether elections differ at most by who is well."""
        if self is other:
            return True
        alike = (self.own.name, self.networks) == (other.own.name, other.networks)
        return alike and (self._nodes is other._nodes or _addresses(self._nodes) == _addresses(other._nodes))

    def network_of(self, address: IPAddress) -> tuple[str, IPNetwork] | None:
        """The link, and the network on it, that the address is in; the narrowest one."""
        return next(((link, one) for link, one in self.networks if address in one), None)

    def candidates(self, network: IPNetwork) -> Mapping[str, int]:
        """Well nodes with an address in the network; all of them where nobody can know, for not even this node has.

        By name, with the number of each.
        """
        found = self._candidates.get(network)
        if found is None:
            can = _within(self.own, network)
            names = (name for name in self.well if not can or _within(self._nodes[name], network))
            found = self._candidates[network] = {name: number_of(name) for name in names}
        return found

    def somebody_nearer(self, address: IPAddress) -> bool:
        """Whether another node's address has more leading bits in common with this one: it may be on a link there."""
        own = _nearness(self.own, address)
        return any(_nearness(each, address) > own for each in self._nodes.values())


def _elect(address: IPAddress, allocation: Allocation, plan: Plan, ballot: _Ballot) -> Elected | None:
    """Who answers for the address, None if nobody has to: no Service has it, or none that is served."""
    owner = holder(allocation.pools, address)
    if owner is None or owner.stage < Stage.KEPT:
        return None
    id = ServiceId(owner.namespace, owner.name)
    service, entry = allocation.snapshot.services.get(id), plan.services.get(id)
    if service is None or entry is None or not _has_row(entry, address):
        return None
    at = ballot.network_of(address)
    if at is None:
        return Elected("", _nowhere(address, allocation.ranges, ballot))
    link, network = at
    candidates = ballot.candidates(network)
    if service.external is Scope.LOCAL:
        candidates = {name: candidates[name] for name in _serving(entry, address) if name in candidates}
    name = winner(address, candidates)
    if name != ballot.own.name:
        return Elected(name)
    if _not_a_host(address, network):
        return Elected(name, _unusable(service, address, link, network))
    return Elected(name, Announced(address, link))


def winner(address: IPAddress, nodes: Mapping[str, int]) -> str:
    """The node with the highest score for the address, "" of none. `nodes`: the `number_of` each.

    If one goes, only the addresses it had go elsewhere, and evenly; if one comes, only those it wins move.
    """
    factor = _number(address.packed)
    return max([(factor * number % _PRIME, name) for name, number in nodes.items()], default=(0, ""))[1]


def number_of(node: str) -> int:
    """What a node is in the score: a function of its name."""
    return _number(node.encode())


@lru_cache(maxsize=1 << 14)
def _number(of: bytes) -> int:
    """A number below the prime, not 0, that looks random."""
    return int.from_bytes(sha256(of).digest()[:8], "big") % (_PRIME - 1) + 1


def _well(electorate: Electorate) -> frozenset[str]:
    """Nodes that are ready and answer. If none is ready, that says something about who says so, not about nodes."""
    nodes, silent = electorate.nodes, electorate.facts.silent - {electorate.node}
    ready = [name for name, each in nodes.items() if each.ready]
    return frozenset(ready or nodes) - silent


def _networks(facts: HostFacts) -> list[tuple[str, IPNetwork]]:
    """Networks of links, the narrowest first. An address alone is no network, and nobody is beside us on lo."""
    found = [
        (link, network)
        for link, networks in facts.networks.items()
        for network in networks
        if link != "lo" and network.prefixlen < network.max_prefixlen
    ]
    return sorted(found, key=lambda pair: (-pair[1].prefixlen, pair[0], str(pair[1])))


def _addresses(nodes: Mapping[str, Node]) -> dict[str, tuple[IPAddress, ...]]:
    return {name: node.addresses for name, node in nodes.items()}


def _within(node: Node, network: IPNetwork) -> bool:
    return any(address in network for address in node.addresses)


def _nearness(node: Node, address: IPAddress) -> int:
    """The most leading bits an address of the node has in common with this one."""
    own = (int(each) ^ int(address) for each in node.addresses if each.version == address.version)
    return max((address.max_prefixlen - each.bit_length() for each in own), default=0)


def _has_row(entry: ServicePlan, address: IPAddress) -> bool:
    return any(row.kind is FrontendKind.LOAD_BALANCER and row.frontend.address == address for row in entry.rows())


def _serving(entry: ServicePlan, address: IPAddress) -> frozenset[str]:
    """Nodes with a ready endpoint; if there is none anywhere, those with a draining one. As the plan chooses."""
    endpoints = [each for port in entry.ports if port.family is family_of(address) for each in port.serving]
    ready = [each for each in endpoints if each.state is EndpointState.READY]
    return _nodes_of(ready) or _nodes_of(endpoints)


def _nodes_of(endpoints: Iterable[Endpoint]) -> frozenset[str]:
    return frozenset(each.node for each in endpoints if each.node)


def _not_a_host(address: IPAddress, network: IPNetwork) -> bool:
    """The network or broadcast address of an IPv4 network: neighbours do not ask for those."""
    return network.version == 4 and network.prefixlen < 31 and address in (network[0], network[-1])


def _unusable(service: Service, address: IPAddress, link: str, network: IPNetwork) -> Problem:
    why = f"nobody can reach it by its neighbours: it is the first or last of {network} on {link}; ask for another"
    return Problem(where="", what=f"Service {service.id}: {address}", why=why)


def _nowhere(address: IPAddress, ranges: tuple[Range, ...], ballot: _Ballot) -> Problem | None:
    """No link here is in a network with the address. One problem for each pool, unless another node is nearer to it."""
    pool = next(each for each in ranges if _inside(address, each))
    if pool not in ballot.complaints:
        have = ", ".join(f"{link}: {network}" for link, network in ballot.networks) or "none"
        why = (
            f"has addresses that are in no network of a link of Node {ballot.own.name} ({have}), so no neighbour can"
            " find them here; take addresses of such a network, or announce: bgp"
        )
        problem = Problem(where="", what=f"load-balancers.pools: {pool[0]}-{pool[1]}", why=why)
        ballot.complaints[pool] = None if ballot.somebody_nearer(pool[0]) else problem
    return ballot.complaints[pool]


def _inside(address: IPAddress, pool: Range) -> bool:
    return address.version == pool[0].version and int(pool[0]) <= int(address) <= int(pool[1])
