"""Service: a stable address in front of changing Pods (core/v1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import NamedTuple

from netplane.model.address import IPAddress, IPNetwork, Protocol

PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"
HEADLESS_LABEL = "service.kubernetes.io/headless"
REMOVED_ENDPOINTS_ANNOTATION = "netplane.dev/removed-endpoints"
LOAD_BALANCER_ADDRESS_ANNOTATION = "netplane.dev/load-balancer-address"
DEFAULT_AFFINITY_TIMEOUT = timedelta(seconds=10800)


class ServiceId(NamedTuple):
    """Namespace and name: what a Service or its EndpointSlices are found by."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class ServicePortId(NamedTuple):
    """One port of one Service: the unit that has endpoints, affinity and a chain name."""

    namespace: str
    name: str
    port: str
    protocol: Protocol

    @property
    def service(self) -> ServiceId:
        """The Service this port belongs to."""
        return ServiceId(self.namespace, self.name)

    def __str__(self) -> str:
        """`ns/name:port`, or `ns/name` for an unnamed port: kube-proxy's servicePortName."""
        base = f"{self.namespace}/{self.name}"
        return f"{base}:{self.port}" if self.port else base


class ServiceType(Enum):
    """`spec.type`."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"
    EXTERNAL_NAME = "ExternalName"


class Scope(Enum):
    """A traffic policy: endpoints of the whole cluster, or only those on the node the packet is on."""

    CLUSTER = "Cluster"
    LOCAL = "Local"


class RemovedEndpoints(Enum):
    """What becomes of established TCP connections to an endpoint that no longer serves (our own annotation)."""

    KEEP = "keep"
    """They go on for as long as the endpoint answers."""
    RESET = "reset"
    """They end at the client's next packet."""


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One entry of `spec.ports`. `target` is a number or the name of a container port; `node_port` 0 is none."""

    name: str
    protocol: Protocol
    port: int
    target: int | str
    node_port: int = 0


@dataclass(frozen=True, slots=True)
class Ingress:
    """One address of `status.loadBalancer.ingress`; `proxy` is `ipMode: Proxy` (KEP-1860)."""

    address: IPAddress
    proxy: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """Load-balancer addresses somebody asks for, at most one of each family, and the field that says so."""

    field: str
    addresses: tuple[IPAddress, ...]


@dataclass(frozen=True, slots=True)
class Service:
    """What a node needs to know of a Service. `cluster_ips` is empty for headless and ExternalName Services.

    `load_balancer_class` and `asked` only for type LoadBalancer. `created`: 2026-01-31T23:59:59Z, "" if unknown.
    """

    id: ServiceId
    type: ServiceType = ServiceType.CLUSTER_IP
    ports: tuple[ServicePort, ...] = ()
    cluster_ips: tuple[IPAddress, ...] = ()
    external_ips: tuple[IPAddress, ...] = ()
    ingress: tuple[Ingress, ...] = ()
    source_ranges: tuple[IPNetwork, ...] = ()
    internal: Scope = Scope.CLUSTER
    external: Scope = Scope.CLUSTER
    affinity: timedelta | None = None
    health_check_node_port: int = 0
    publish_not_ready: bool = False
    removed_endpoints: RemovedEndpoints = RemovedEndpoints.KEEP
    selector: tuple[tuple[str, str], ...] = ()
    labels: frozenset[tuple[str, str]] = field(default=frozenset())
    load_balancer_class: str = ""
    asked: Asked | None = None
    created: str = ""
