"""The Pod network's part of a round: nodes -> plan -> program -> kernel, and what load-balancer addresses there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

from netplane.backends.network.compile import CompiledNetwork, compile_network
from netplane.closing import Closing
from netplane.errors import NetplaneError, Problem
from netplane.kernel import underlay
from netplane.kernel.host import NETWORK, Host, HostOptions, Summary
from netplane.kernel.links import Links
from netplane.kernel.mechanism import Pending
from netplane.kernel.transactions import OwnTransactions
from netplane.kernel.wireguard_keys import KEYS, KeyStore
from netplane.model.address import IPAddress, IPNetwork
from netplane.model.node import Node
from netplane.model.snapshot import Snapshot
from netplane.plan.advertising import Advertised, advertise
from netplane.plan.announcing import Announcing, Electorate, announcing
from netplane.plan.load_balancers import Allocation, allocate
from netplane.plan.network import addresses_to_reach, plan_network
from netplane.plan.network_plan import PUBLIC_KEY_ANNOTATION, Announced, HostFacts, NetworkPlan, Path
from netplane.plan.network_settings import Announce, LoadBalancers, Mode, NetworkSettings
from netplane.plan.plan import Plan
from netplane.programs.program import Program

_NOTHING = Program()
_NO_FACTS = HostFacts()


class Look(IntEnum):
    """How far a round looks for the network; each includes those before it."""

    CHANGES = 0
    """What the source says anew, against what was applied last."""
    PATHS = 1
    """How the kernel reaches the other nodes."""
    KERNEL = 2
    """All that the kernel has of ours."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Nodes that do not answer. Unless that is `sure`, nobody is elected for anything and nobody steps back."""

    silent: frozenset[str] = frozenset()
    sure: bool = True


@dataclass(frozen=True, slots=True)
class Seen:
    """What a round is about: objects, the plan of the Services made of them, and which nodes answer."""

    snapshot: Snapshot
    services: Plan | None
    answers: Answers = field(default_factory=Answers)

    @classmethod
    def nothing(cls) -> Seen:
        """No objects at all."""
        return cls(Snapshot(), None)


@dataclass(frozen=True, slots=True)
class _Basis:
    """All that a plan of the network is made of."""

    nodes: Mapping[str, Node]
    facts: HostFacts
    ranges: tuple[IPNetwork, ...] = ()
    advertised: tuple[IPAddress, ...] = ()
    announced: tuple[Announced, ...] = ()
    given: tuple[IPAddress, ...] = ()

    def says_no_more_than(self, other: _Basis | None) -> bool:
        """Whether the same plan comes of it. Cheap, so that a change of a Service costs nothing here."""
        if other is None or self.nodes is not other.nodes or self.facts is not other.facts:
            return False
        return replace(self, nodes={}, facts=_NO_FACTS) == replace(other, nodes={}, facts=_NO_FACTS)


class PodNetwork(Closing):
    """The network of the namespace of the thread that makes it. Used by one thread at a time.

    Without settings there is to be none: what an earlier run made is removed, once.
    """

    def __init__(
        self, node: str, settings: NetworkSettings | None, options: HostOptions, own: OwnTransactions | None = None
    ) -> None:
        self._node, self.settings = node, settings
        self._host = Host(options, NETWORK, own)
        self._links = Links()
        self._keys = KeyStore(options.state_directory / KEYS)
        self._facts = HostFacts()
        self._asked: set[IPAddress] = set()
        """The addresses the kernel was asked about."""
        self._allocation: Allocation | None = None
        self._compiled: CompiledNetwork | None = None
        self._applied: _Basis | None = None
        """What the kernel surely has, all of it."""
        self._clean = False
        self._announcing = Announcing()
        self._advertised = Advertised()

    @property
    def plan(self) -> NetworkPlan | None:
        """The plan of the last round that had one, whatever became of it."""
        return self._compiled.plan if self._compiled else None

    @property
    def program(self) -> Program:
        """The program of the last round that had one, the empty one before."""
        return self._compiled.program if self._compiled else _NOTHING

    def allocated(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot with the addresses that Services of type LoadBalancer get from the pools."""
        pools = self.settings.load_balancers if self.settings else LoadBalancers()
        if not pools.pools:
            return snapshot
        self._allocation = allocate(snapshot, pools, self._allocation)
        return self._allocation.snapshot

    def reconcile(self, seen: Seen, look: Look, *, sweep: bool) -> Summary:
        """Make the kernel do what the nodes mean. Without `sweep` nothing is removed.

        Raises NetplaneError. Then all is made that could be made, and the next round converges.
        """
        if self.settings is None:
            return self._none(sweep=sweep)
        self._look(seen, self.settings, look)
        basis = self._basis_of(seen, self.settings)
        if look is not Look.KERNEL and basis.says_no_more_than(self._applied):
            return Summary(0, 0)
        self._applied = None
        self._compiled = compile_network(self._planned(basis, self.settings), self._compiled)
        sweep = sweep and seen.answers.sure
        summary = self._host.apply(self.program, reread=look is Look.KERNEL, sweep=sweep)
        self._applied = basis if sweep else None
        return summary

    def pending(self, seen: Seen) -> list[Pending]:
        """What `reconcile` would do, found by reading the kernel; nothing is changed."""
        if self.settings is None:
            return self._host.pending(_NOTHING)
        self._look(seen, self.settings, Look.KERNEL)
        self._compiled = compile_network(self._planned(self._basis_of(seen, self.settings), self.settings))
        return self._host.pending(self.program)

    @property
    def elects(self) -> bool:
        """Whether nodes are elected, so that it matters which of them answer."""
        balancers = self.settings.load_balancers if self.settings else LoadBalancers()
        return bool(balancers.pools) and balancers.announce is Announce.NEIGHBOURS

    def peers(self) -> dict[str, IPAddress]:
        """An address of each other node that has one, as of the last successful round."""
        plan = self.plan
        return {name: peer.addresses[0] for name, peer in plan.peers.items() if peer.addresses} if plan else {}

    def problems(self) -> tuple[Problem, ...]:
        """What could not be planned, as of the last successful round."""
        allocated = self._allocation.problems if self._allocation else ()
        return (*allocated, *self._announcing.problems, *(self.plan.problems if self.plan else ()))

    @property
    def told(self) -> bool:
        """Whether kernel/network_events.py and kernel/events.py hear of all that others change."""
        return self.settings is None or self._host.told

    def disturbed(self) -> bool:
        """Whether somebody else may have changed what nobody tells us of. Cheap."""
        try:
            return self.settings is not None and self._host.disturbed()
        except NetplaneError:
            return True  # the next round says why

    def value(self) -> dict[str, Any] | None:
        """How it is, for `netplane agent status`."""
        plan = self.plan
        if plan is None:
            return None
        ways = Counter(peer.way.value for peer in plan.peers.values())
        return {
            "mode": plan.settings.mode.value,
            "peers": len(plan.peers),
            "ways": dict(sorted(ways.items())),
            "podMtu": plan.pod_mtu,
            "announced": sorted(str(each.address) for each in plan.announced),
            "problems": len(self.problems()),
        }

    def close(self) -> None:
        """Close sockets. The kernel keeps what it has, and what runs besides us goes on."""
        self._links.close()
        self._host.close()

    def _none(self, *, sweep: bool) -> Summary:
        if self._clean or not sweep:
            return Summary(0, 0)
        summary = self._host.apply(_NOTHING, reread=True)
        self._clean = True
        return summary

    def _look(self, seen: Seen, settings: NetworkSettings, look: Look) -> None:
        """Bring the facts up to date; without need of looking the kernel is asked about new addresses only."""
        own = seen.snapshot.nodes.get(self._node)
        if look >= Look.PATHS or self._applied is None or self._applied.nodes is not seen.snapshot.nodes:
            self._find_paths(set(addresses_to_reach(seen.snapshot.nodes, self._node, settings)), look)
        if self._facts.silent != seen.answers.silent:
            self._facts = replace(self._facts, silent=seen.answers.silent)
        if settings.mode is Mode.WIREGUARD:
            announced = dict(own.annotations).get(PUBLIC_KEY_ANNOTATION, "") if own else ""
            key = self._keys.adopt(announced)
            if key != self._facts.public_key:
                self._facts = replace(self._facts, public_key=key)

    @property
    def _overlaid(self) -> bool:
        return self.settings is not None and self.settings.mode in (Mode.VXLAN, Mode.WIREGUARD)

    def _find_paths(self, wanted: set[IPAddress], look: Look) -> None:
        anew = look >= Look.PATHS
        if not anew and wanted == self._asked:
            return
        found = underlay.look(self._links, wanted if anew else wanted - self._asked)
        facts = replace(self._facts, addresses=found.addresses)
        # Else the uplink is down: a tunnel need not be made anew. But who is alone looks for nobody.
        if found.paths or not wanted or not anew or not self._overlaid:
            paths = {} if anew else {to: path for to, path in self._facts.paths.items() if to in wanted}
            paths |= {to: Path(*path) for to, path in found.paths.items()}
            facts = replace(facts, paths=paths, networks=found.networks)
            self._asked = wanted
        if facts != self._facts:
            self._facts = facts

    def _basis_of(self, seen: Seen, settings: NetworkSettings) -> _Basis:
        services, nodes = seen.services, seen.snapshot.nodes
        if services is None:
            return _Basis(nodes, self._facts)
        self._advertised = advertise(services, settings, self._advertised)
        basis = _Basis(nodes, self._facts, services.settings.service_ranges, self._advertised.addresses)
        if self._allocation is None:
            return basis
        if seen.answers.sure:
            electorate = Electorate(nodes, self._node, self._facts, settings.load_balancers)
            self._announcing = announcing(self._allocation, services, electorate, self._announcing)
        return replace(basis, announced=self._announcing.announced, given=self._allocation.addresses)

    def _planned(self, basis: _Basis, settings: NetworkSettings) -> NetworkPlan:
        plan = plan_network(
            basis.nodes, self._node, settings, basis.facts, basis.ranges, basis.advertised, previous=self.plan
        )
        if (basis.announced, basis.given) == (plan.announced, plan.load_balancer_addresses):
            return plan
        return replace(plan, announced=basis.announced, load_balancer_addresses=basis.given)
