"""The words of a plan: origins, frontends, pools, verdicts, rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum

from netplane.errors import Problem
from netplane.model.address import Family, IPAddress, IPNetwork, Protocol, family_of, host_port
from netplane.model.endpoint import EndpointState
from netplane.model.service import RemovedEndpoints, ServiceId, ServicePortId
from netplane.model.snapshot import Snapshot
from netplane.plan.settings import Settings


class Origin(Enum):
    """Where a packet comes from, as the semantics see it."""

    POD = "pod"
    """A Pod this node routes for, as the local detection of the settings says."""
    NODE = "node"
    """A process in the node's own network namespace."""
    OUTSIDE = "outside"
    """Anything else that arrives at the node."""


class ThisNode(Enum):
    """The address of a node port: any node-port address of this node in one family."""

    IPV4 = Family.IPV4
    IPV6 = Family.IPV6


class FrontendKind(Enum):
    """Which field of the Service a frontend comes from."""

    CLUSTER_IP = "cluster IP"
    EXTERNAL_IP = "external IP"
    LOAD_BALANCER = "load balancer IP"
    NODE_PORT = "node port"


@dataclass(frozen=True, slots=True)
class Frontend:
    """What a packet can be addressed to."""

    address: IPAddress | ThisNode
    protocol: Protocol
    port: int

    @property
    def family(self) -> Family:
        """The IP version of packets that can be addressed to it."""
        return self.address.value if isinstance(self.address, ThisNode) else family_of(self.address)

    def __str__(self) -> str:
        """`10.96.0.10:80/tcp`, or `node(IPv4):30080/tcp` for a node port."""
        if isinstance(self.address, ThisNode):
            return f"node({self.family}):{self.port}/{self.protocol}"
        return f"{host_port(self.address, self.port)}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address a packet can be sent to. `node` is "" where unknown; `pod` is for people."""

    address: IPAddress
    port: int
    node: str = ""
    state: EndpointState = EndpointState.READY
    pod: str = ""

    def may_be_on(self, node: str) -> bool:
        """Whether packets it sends can start on `node`: it is there, or nobody says where it is."""
        return not self.node or self.node == node

    def __str__(self) -> str:
        return host_port(self.address, self.port)


@dataclass(frozen=True, slots=True)
class Affinity:
    """A client keeps its endpoint for `timeout` after its last new connection.

    The memory is one per Service port, whichever of its addresses the client used; hence `owner`.
    """

    owner: ServicePortId
    timeout: timedelta


@dataclass(frozen=True, slots=True)
class Pool:
    """Endpoints of one family to choose from, uniformly per new connection. Sorted by address and port, never empty."""

    endpoints: tuple[Endpoint, ...]
    affinity: Affinity | None = None


@dataclass(frozen=True, slots=True)
class Forward:
    """Send the packet to one member of the pool.

    Whatever `masquerade` says, a sender on this node that is chosen as its own endpoint is masqueraded (hairpin).
    """

    pool: Pool
    masquerade: bool


@dataclass(frozen=True, slots=True)
class Drop:
    """Discard without a word: the sender should retry elsewhere (truth table rows 6, 10, 14)."""


@dataclass(frozen=True, slots=True)
class Reject:
    """Answer with an ICMP or ICMPv6 port unreachable, for every protocol alike (truth table rows 7, 19).

    TCP packets that open no connection are answered by a reset: their sender takes ICMP for a passing trouble.
    """


Verdict = Forward | Drop | Reject


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What happens to a packet, by origin."""

    pod: Verdict
    node: Verdict
    outside: Verdict

    @classmethod
    def same(cls, verdict: Verdict) -> Verdicts:
        """The same for every origin."""
        return cls(verdict, verdict, verdict)

    def __getitem__(self, origin: Origin) -> Verdict:
        match origin:
            case Origin.POD:
                return self.pod
            case Origin.NODE:
                return self.node
            case Origin.OUTSIDE:
                return self.outside


@dataclass(frozen=True, slots=True)
class FrontendRow:
    """One row of the decision table. Sources outside a non-empty `allowed` are dropped before the verdict."""

    frontend: Frontend
    kind: FrontendKind
    service_port: ServicePortId
    verdicts: Verdicts
    allowed: tuple[IPNetwork, ...] = ()


@dataclass(frozen=True, slots=True)
class Note:
    """A reason worth telling a person: why an endpoint is not used, why a mode is off."""

    about: str
    said: str

    def __str__(self) -> str:
        return f"{self.about}: {self.said}"


@dataclass(frozen=True, slots=True)
class PortPlan:
    """The rows of one Service port in one family, with what else is decided there.

    `serving` are all endpoints that still answer, ready or draining, whatever the policy: conntrack entries of
    UDP flows to any other are stale (`stale.py`), and those of TCP connections if `removed_endpoints` says so.
    """

    id: ServicePortId
    family: Family
    rows: tuple[FrontendRow, ...]
    serving: tuple[Endpoint, ...]
    notes: tuple[Note, ...] = ()
    removed_endpoints: RemovedEndpoints = RemovedEndpoints.KEEP


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """The health check node port of a Service: what a load balancer asks to find nodes with endpoints.

    Each family has its own answer, as kube-proxy's two proxiers do.
    """

    service: ServiceId
    family: Family
    port: int
    local_ready: int
    """Distinct ready endpoint addresses on this node over all ports (draining ones do not count)."""


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """Everything one Service means on this node. A function of the Service, its slices and the node facts only.

    A packet to one of `cluster_ips` that no row names is rejected (row 19 and 21: a cluster IP answers nothing
    but its ports).
    """

    service: ServiceId
    ports: tuple[PortPlan, ...] = ()
    cluster_ips: tuple[IPAddress, ...] = ()
    health: tuple[HealthCheck, ...] = ()
    problems: tuple[Problem, ...] = ()
    notes: tuple[Note, ...] = ()

    def rows(self) -> Iterator[FrontendRow]:
        """All rows, in the order of the Service's ports."""
        for port in self.ports:
            yield from port.rows


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What the plan needs to know of the node it is for. Equal facts give equal plans."""

    name: str
    zone: str = ""
    addresses: tuple[IPAddress, ...] = ()
    pod_ranges: tuple[IPNetwork, ...] = ()

    def primary_addresses(self) -> tuple[IPAddress, ...]:
        """The first address of each family."""
        return tuple({address.version: address for address in reversed(self.addresses)}.values())


Claim = tuple[int, ServiceId]
"""Who wants an address or frontend: the smaller claim has it. Cluster IPs rank 0, before everything else."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What must happen to packets on one node. Total: a packet no row names is left alone.

    `services` holds one entry per Service, in no particular order; `families` are the IP versions that are served
    at all. Problems of single Services are in their entries. Local detection in `settings` is resolved: a pod range
    names its networks.
    """

    node: NodeFacts
    settings: Settings
    families: frozenset[Family]
    services: Mapping[ServiceId, ServicePlan]
    problems: tuple[Problem, ...] = ()
    claims: Mapping[IPAddress | Frontend, tuple[Claim, ...]] = field(default_factory=dict, compare=False)
    snapshot: Snapshot = field(default_factory=Snapshot, compare=False)
    """Both are memory of `node.py`: who claims what, smallest first, and what the entries were made from."""

    def sorted_services(self) -> list[ServicePlan]:
        """The entries by namespace and name."""
        return [self.services[service] for service in sorted(self.services)]

    def rows(self) -> Iterator[FrontendRow]:
        """Every row, by namespace and name of the Service."""
        for service in self.sorted_services():
            yield from service.rows()
