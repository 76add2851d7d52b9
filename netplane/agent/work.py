"""What takes long: reading the source, rounds, the switch to another backend. Done in one thread, one after another.

The event loop goes on meanwhile: it answers who asks, and notes what happens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cni.known_network import NodeNetwork
from netplane.agent.network import Answers, Look, PodNetwork, Seen
from netplane.agent.pace import Limits, Reach
from netplane.agent.pods import CniOptions, node_network
from netplane.agent.reconcile import Reconciler, Round
from netplane.agent.switch import Connections, Established, compare, established
from netplane.backends.backend import Backend
from netplane.errors import InputError, KernelError, NetplaneError, Problem
from netplane.kernel import conntrack
from netplane.kernel.host import RUN_DIRECTORY, Host, HostOptions
from netplane.model.node import Node
from netplane.model.snapshot import Snapshot
from netplane.plan.network_plan import NetworkPlan
from netplane.plan.network_settings import NetworkSettings
from netplane.plan.settings import Settings
from netplane.sources.manifests import Loaded, ManifestDirectory


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """How to run. `ready_fd` is written one byte after the first successful round, -1 for none."""

    node: str
    source: Path
    backend: Backend
    settings: Settings
    require: Callable[[Backend], None]
    """Raises RequirementError if the host lacks what a backend needs."""
    limits: Limits = field(default_factory=Limits)
    run_directory: Path = RUN_DIRECTORY
    ready_fd: int = -1
    host: HostOptions = field(default_factory=HostOptions)
    cni: CniOptions | None = None
    """None: this agent does not serve the CNI plugin."""
    network: NetworkSettings | None = None
    """None: how Pods reach those of other nodes is somebody else's business."""


class NotSwitched(NetplaneError):
    """The backend that was asked for does not serve. `restored`: the one before it does, as before."""

    def __init__(self, said: str, cause: NetplaneError, *, restored: bool) -> None:
        super().__init__(said)
        self.exit_code = cause.exit_code
        self.restored = restored


class NetworkNotMade(NetplaneError):
    """The Services are served, as `done` says, but the Pod network is not as it should be."""

    def __init__(self, cause: NetplaneError, done: Round) -> None:
        super().__init__(f"Pod network: {cause}")
        self.exit_code, self.done = cause.exit_code, done


@dataclass(frozen=True, slots=True)
class Switched:
    """The round that changed the backend, and what it did to connections; None if the kernel did not list them."""

    round: Round
    connections: Connections | None


class Work:
    """Holds what rounds need and what they derived. Its methods are called by one thread at a time."""

    def __init__(self, options: AgentOptions, host: Host, network: PodNetwork) -> None:
        self._options, self._host, self.pod_network = options, host, network
        self._source = ManifestDirectory(options.source)
        self.loaded = Loaded(Snapshot(), (), complete=False)
        self.snapshot = self.loaded.snapshot
        """What was read, and the addresses that load balancers got."""
        self._network: tuple[Mapping[str, Node], NetworkPlan | None, NodeNetwork] | None = None
        self.backend = options.backend
        self.reconciler = self._reconciler(options.backend)

    def round(self, changed: frozenset[Path] | None, reach: Reach, look: Look, answers: Answers) -> Round:
        """Read what changed of the source (None: everything) and make the kernel do what it means.

        Services and the Pod network do not wait for one another: if one fails, the other is done, too.
        """
        if changed is None or reach is Reach.EVERYTHING:
            self.loaded = self._source.refresh(None)
        elif changed:
            self.loaded = self._source.refresh(changed)
        whole = reach is not Reach.CHANGES
        self.snapshot = self.pod_network.allocated(self.loaded.snapshot)
        failed: NetplaneError | None = None
        try:
            done = self.reconciler.reconcile(self.snapshot, whole=whole, sweep=self.loaded.complete)
        except NetplaneError as error:
            if self.reconciler.plan is None:
                raise  # nobody knows which Services there are, nor which addresses of theirs are announced
            failed = error
        seen = Seen(self.snapshot, self.reconciler.plan, answers)
        try:
            network = self.pod_network.reconcile(seen, Look.KERNEL if whole else look, sweep=self.loaded.complete)
        except NetplaneError as error:
            if failed is None:
                raise NetworkNotMade(error, done) from error
        if failed is not None:
            raise failed
        return replace(done, summary=done.summary + network)

    def network(self) -> NodeNetwork:
        """What the source, as it was last read, says of this node. May be asked by any thread."""
        nodes, plan = self.loaded.snapshot.nodes, self.pod_network.plan
        if self._network is None or self._network[0] is not nodes or self._network[1] is not plan:
            found = node_network(nodes, self._options.node)
            settings = self._options.network
            masquerades = settings is not None and settings.masquerade
            found = replace(found, mtu=plan.pod_mtu if plan else 0, masquerades=masquerades)
            self._network = (nodes, plan, found)
        return self._network[2]

    def problems(self) -> tuple[Problem, ...]:
        """What could not be used, read or planned, as of the last round."""
        return (*self.loaded.problems, *self.reconciler.problems(), *self.pod_network.problems())

    def switch(self, to: Backend) -> Switched:
        """Serve with another backend: all it has is made before anything of the present one is swept.

        Raises NotSwitched. If that happens half-way, the present one is made whole again.
        """
        try:
            if not self.loaded.complete:
                said = "a manifest was never read well, so nothing may be swept (netplane cluster check says which)"
                raise InputError(said)
            self._options.require(to)
        except NetplaneError as error:
            raise self._refusal(to, error, "nothing was changed") from error
        before = _established()
        fresh = self._reconciler(to)
        try:
            done = fresh.reconcile(self.snapshot, whole=True, sweep=True)
        except NetplaneError as error:
            raise self._back(to, error) from error
        self.backend, self.reconciler = to, fresh
        return Switched(done, _fate(before))

    def _back(self, to: Backend, error: NetplaneError) -> NotSwitched:
        """Make the present backend whole again."""
        try:
            self.reconciler.reconcile(self.snapshot, whole=True, sweep=True)
        except NetplaneError as worse:
            said = f"and is not whole: {worse}; it is tried again"
            return self._refusal(to, error, said, restored=False)
        return self._refusal(to, error, "whole, as before")

    def _refusal(self, to: Backend, error: NetplaneError, rest: str, *, restored: bool = True) -> NotSwitched:
        said = f"cannot switch to {to.name}: {error}; {self.backend.name} stays, {rest}"
        return NotSwitched(said, error, restored=restored)

    def _reconciler(self, backend: Backend) -> Reconciler:
        return Reconciler(self._options.node, self._options.settings, backend, self._host)


def _established() -> Established | None:
    try:
        return established(conntrack.read())
    except KernelError:
        return None  # a kernel that cannot list connections still serves them


def _fate(before: Established | None) -> Connections | None:
    if before is None:
        return None
    try:
        return compare(before, conntrack.read())
    except KernelError:
        return None
