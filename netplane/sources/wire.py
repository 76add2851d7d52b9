"""The fields of manifests that netplane reads, as the API spells them. Everything else is passed over.

Types only: what values are allowed, and what they mean, is decided in `service.py`, `slices.py` and `pods.py`.
`null` is the same as absent, as in the API. Read by msgspec, which checks the types and says where one is wrong.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Wire(msgspec.Struct, frozen=True, gc=False):
    """Base of all: immutable, and holding nothing the cyclic collector must follow."""


class Name(Wire, frozen=True):
    """What of `metadata` tells which object it is."""

    name: str | None = None
    namespace: str | None = None


class Named(Wire, frozen=True):
    """Any object, when all that is asked is which one it is."""

    metadata: Name = Name()


class Meta(Wire, frozen=True):
    """`metadata`. Label values are checked by hand, to name the label that is wrong."""

    labels: dict[str, Any] | None = None
    annotations: dict[str, Any] | None = None
    creationTimestamp: str | None = None
    deletionTimestamp: str | None = None


class Object(Wire, frozen=True):
    """What every object has."""

    metadata: Meta = Meta()


class ServicePort(Wire, frozen=True):
    """Entry of a Service's `spec.ports`."""

    name: str | None = None
    protocol: str | None = None
    port: int | None = None
    targetPort: int | str | None = None
    nodePort: int | None = None


class ClientIP(Wire, frozen=True):
    """`spec.sessionAffinityConfig.clientIP`."""

    timeoutSeconds: int | None = None


class AffinityConfig(Wire, frozen=True):
    """`spec.sessionAffinityConfig`."""

    clientIP: ClientIP | None = None


class ServiceSpec(Wire, frozen=True):
    """A Service's `spec`."""

    type: str | None = None
    clusterIP: str | None = None
    clusterIPs: list[str] | None = None
    ports: list[ServicePort] | None = None
    selector: dict[str, Any] | None = None
    externalIPs: list[str] | None = None
    loadBalancerIP: str | None = None
    loadBalancerClass: str | None = None
    loadBalancerSourceRanges: list[str] | None = None
    internalTrafficPolicy: str | None = None
    externalTrafficPolicy: str | None = None
    sessionAffinity: str | None = None
    sessionAffinityConfig: AffinityConfig | None = None
    healthCheckNodePort: int | None = None
    publishNotReadyAddresses: bool | None = None


class Ingress(Wire, frozen=True):
    """Entry of `status.loadBalancer.ingress`."""

    ip: str | None = None
    ipMode: str | None = None


class LoadBalancer(Wire, frozen=True):
    """`status.loadBalancer`."""

    ingress: list[Ingress] | None = None


class ServiceStatus(Wire, frozen=True):
    """A Service's `status`."""

    loadBalancer: LoadBalancer | None = None


class Service(Object, frozen=True):
    """Service, v1."""

    spec: ServiceSpec | None = None
    status: ServiceStatus | None = None


class Port(Wire, frozen=True):
    """Entry of `ports` of an EndpointSlice or of a subset of Endpoints."""

    name: str | None = None
    protocol: str | None = None
    port: int | None = None


class Reference(Wire, frozen=True):
    """`targetRef`: what is behind an address."""

    kind: str | None = None
    name: str | None = None


class Conditions(Wire, frozen=True):
    """`conditions` of an endpoint."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Hint(Wire, frozen=True):
    """Entry of `hints.forZones` or `hints.forNodes`."""

    name: str | None = None


class Hints(Wire, frozen=True):
    """`hints` of an endpoint."""

    forZones: list[Hint] | None = None
    forNodes: list[Hint] | None = None


class Endpoint(Wire, frozen=True):
    """Entry of `endpoints`."""

    addresses: list[str] | None = None
    conditions: Conditions | None = None
    nodeName: str | None = None
    targetRef: Reference | None = None
    hints: Hints | None = None


class EndpointSlice(Object, frozen=True):
    """EndpointSlice, discovery.k8s.io/v1."""

    addressType: str | None = None
    ports: list[Port] | None = None
    endpoints: list[Endpoint] | None = None


class EndpointAddress(Wire, frozen=True):
    """Entry of `addresses` or `notReadyAddresses`."""

    ip: str | None = None
    nodeName: str | None = None
    targetRef: Reference | None = None


class Subset(Wire, frozen=True):
    """Entry of `subsets`."""

    addresses: list[EndpointAddress] | None = None
    notReadyAddresses: list[EndpointAddress] | None = None
    ports: list[Port] | None = None


class Endpoints(Object, frozen=True):
    """Endpoints, v1: what came before EndpointSlice."""

    subsets: list[Subset] | None = None


class ContainerPort(Wire, frozen=True):
    """Entry of a container's `ports`."""

    name: str | None = None
    protocol: str | None = None
    containerPort: int | None = None
    hostPort: int | None = None
    hostIP: str | None = None


class Container(Wire, frozen=True):
    """Entry of `spec.containers` or `spec.initContainers`."""

    ports: list[ContainerPort] | None = None
    restartPolicy: str | None = None


class PodSpec(Wire, frozen=True):
    """A Pod's `spec`."""

    nodeName: str | None = None
    hostNetwork: bool | None = None
    containers: list[Container] | None = None
    initContainers: list[Container] | None = None


class PodIP(Wire, frozen=True):
    """Entry of `status.podIPs`."""

    ip: str | None = None


class Condition(Wire, frozen=True):
    """Entry of `status.conditions` of a Pod or Node."""

    type: str | None = None
    status: str | None = None


class PodStatus(Wire, frozen=True):
    """A Pod's `status`."""

    phase: str | None = None
    podIP: str | None = None
    podIPs: list[PodIP] | None = None
    conditions: list[Condition] | None = None


class Pod(Object, frozen=True):
    """Pod, v1."""

    spec: PodSpec | None = None
    status: PodStatus | None = None


class NodeSpec(Wire, frozen=True):
    """A Node's `spec`."""

    podCIDR: str | None = None
    podCIDRs: list[str] | None = None


class NodeAddress(Wire, frozen=True):
    """Entry of a Node's `status.addresses`."""

    type: str | None = None
    address: str | None = None


class NodeStatus(Wire, frozen=True):
    """A Node's `status`."""

    addresses: list[NodeAddress] | None = None
    conditions: list[Condition] | None = None


class Node(Object, frozen=True):
    """Node, v1."""

    spec: NodeSpec | None = None
    status: NodeStatus | None = None


class Namespace(Object, frozen=True):
    """Namespace, v1."""
