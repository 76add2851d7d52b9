"""Service (v1) -> model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from enum import Enum

from netplane.model.address import IPAddress
from netplane.model.service import (
    DEFAULT_AFFINITY_TIMEOUT,
    LOAD_BALANCER_ADDRESS_ANNOTATION,
    REMOVED_ENDPOINTS_ANNOTATION,
    Asked,
    Ingress,
    RemovedEndpoints,
    Scope,
    Service,
    ServiceId,
    ServicePort,
    ServiceType,
)
from netplane.sources import fields, wire
from netplane.sources.fields import Bad, Skip, each

_WITH_NODE_PORTS = (ServiceType.NODE_PORT, ServiceType.LOAD_BALANCER)
_INSTANT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z\Z")


class _Affinity(Enum):
    NONE = "None"
    CLIENT_IP = "ClientIP"


class _IPMode(Enum):
    VIP = "VIP"
    PROXY = "Proxy"


def service_of(read: wire.Service, id: ServiceId, skip: Skip) -> Service:
    """The Service, with the API server's defaults. Raises Bad for what the API server would refuse."""
    spec = read.spec
    if spec is None:
        raise Bad("spec", "is missing; a Service has at least spec.ports")
    kind = fields.word(spec.type, "spec.type", ServiceType.CLUSTER_IP)
    external = fields.word(spec.externalTrafficPolicy, "spec.externalTrafficPolicy", Scope.CLUSTER)
    return Service(
        id=id,
        type=kind,
        ports=_ports(spec, kind),
        cluster_ips=_cluster_ips(spec, kind, skip),
        external_ips=tuple(dict.fromkeys(fields.usable(each(spec.externalIPs, "spec.externalIPs"), skip))),
        ingress=_ingress(read, kind, skip),
        # A range that is passed over would let in whom it was meant to keep out: refuse the Service instead.
        source_ranges=tuple(
            fields.network(text.strip(), field)
            for field, text in each(spec.loadBalancerSourceRanges, "spec.loadBalancerSourceRanges")
        ),
        internal=fields.word(spec.internalTrafficPolicy, "spec.internalTrafficPolicy", Scope.CLUSTER),
        external=external,
        affinity=_affinity(spec),
        health_check_node_port=_health_check(spec, kind, external),
        publish_not_ready=bool(spec.publishNotReadyAddresses),
        removed_endpoints=_removed_endpoints(read.metadata.annotations, skip),
        selector=tuple(sorted(fields.labels(spec.selector, "spec.selector"))),
        labels=fields.labels(read.metadata.labels, "metadata.labels"),
        load_balancer_class=(spec.loadBalancerClass or "") if kind is ServiceType.LOAD_BALANCER else "",
        asked=_asked(read, spec, skip) if kind is ServiceType.LOAD_BALANCER else None,
        created=_instant(read.metadata.creationTimestamp),
    )


def _instant(text: str | None) -> str:
    # Only to put Services in an order: what the API server never writes is taken for unknown.
    return text if text and _INSTANT.match(text) else ""


def _ports(spec: wire.ServiceSpec, kind: ServiceType) -> tuple[ServicePort, ...]:
    listed = spec.ports or ()
    headless = spec.clusterIP == "None" or spec.clusterIPs == ["None"]
    if not listed and not headless and kind is not ServiceType.EXTERNAL_NAME:
        raise Bad("spec.ports", "is missing; list at least one port")
    ports = tuple(_port(port, at, kind, len(listed)) for at, port in each(listed, "spec.ports"))
    _check_unique([port.name for port in ports], "name", "the name of another port; give each its own")
    _check_unique([(port.protocol, port.port) for port in ports], "port", "another port's; use each number once")
    _check_unique(
        [(port.protocol, port.node_port) if port.node_port else object() for port in ports],
        "nodePort",
        "another port's; use each number once",
    )
    return ports


def _check_unique(values: Sequence[object], field: str, why: str) -> None:
    if len(set(values)) != len(values):
        place = next(place for place, value in enumerate(values) if value in values[:place])
        raise Bad(f"spec.ports[{place}].{field}", f"is also {why}")


def _port(port: wire.ServicePort, at: str, kind: ServiceType, count: int) -> ServicePort:
    if port.nodePort and kind not in _WITH_NODE_PORTS:
        raise Bad(f"{at}.nodePort", f"is not for type {kind.value}; remove it or use NodePort or LoadBalancer")
    own = fields.number(port.port, f"{at}.port")
    return ServicePort(
        # One port may be unnamed, several may not: their endpoints are told apart by name.
        name=fields.shared(fields.dns_label(port.name, f"{at}.name")) if port.name or count > 1 else "",
        protocol=fields.protocol(port.protocol, f"{at}.protocol"),
        port=own,
        target=_target(port.targetPort, own, f"{at}.targetPort"),
        node_port=fields.number(port.nodePort, f"{at}.nodePort") if port.nodePort else 0,
    )


def _target(target: int | str | None, port: int, field: str) -> int | str:
    match target:
        case None | "" | 0:
            return port
        case str():
            return fields.iana_name(target, field)
        case _:
            return fields.number(target, field)


def _cluster_ips(spec: wire.ServiceSpec, kind: ServiceType, skip: Skip) -> tuple[IPAddress, ...]:
    listed = spec.clusterIPs or ([spec.clusterIP] if spec.clusterIP else [])
    field = "spec.clusterIPs" if spec.clusterIPs else "spec.clusterIP"
    if spec.clusterIPs and spec.clusterIP and spec.clusterIPs[0] != spec.clusterIP:
        raise Bad("spec.clusterIPs[0]", "differs from spec.clusterIP; write the same address in both")
    if kind is ServiceType.EXTERNAL_NAME:
        return ()
    if listed == ["None"]:
        if kind is not ServiceType.CLUSTER_IP:
            raise Bad(field, f"None is not for type {kind.value}; write an address or use type ClusterIP")
        return ()
    if not listed:
        skip(field, "is not set and nothing here allocates one, so the Service is not served; write an address")
        return ()
    at = [f"{field}[{place}]" if spec.clusterIPs else field for place in range(len(listed))]
    made = tuple(fields.address(text, where) for text, where in zip(listed, at, strict=True))
    if len({one.version for one in made}) != len(made):
        raise Bad(field, "has two addresses of one family; write at most one IPv4 and one IPv6 address")
    return made


def _ingress(read: wire.Service, kind: ServiceType, skip: Skip) -> tuple[Ingress, ...]:
    balancer = read.status.loadBalancer if read.status else None
    listed = (balancer.ingress if balancer else None) or ()
    if listed and kind is not ServiceType.LOAD_BALANCER:
        skip("status.loadBalancer.ingress", f"is not for type {kind.value} and is ignored; use type LoadBalancer")
        return ()
    made: dict[IPAddress, Ingress] = {}
    for at, entry in each(listed, "status.loadBalancer.ingress"):
        if not entry.ip:
            continue  # a host name: the balancer itself finds the node ports
        try:
            address = fields.address(entry.ip, f"{at}.ip")
            proxy = fields.word(entry.ipMode, f"{at}.ipMode", _IPMode.VIP) is _IPMode.PROXY
            made.setdefault(address, Ingress(address, proxy))
        except Bad as bad:
            skip(bad.field, f"{bad.why}; the entry is ignored")
    return tuple(made.values())


def _asked(read: wire.Service, spec: wire.ServiceSpec, skip: Skip) -> Asked | None:
    """The annotation, else spec.loadBalancerIP. What cannot be used is still asked for: no address is not any."""
    value = (read.metadata.annotations or {}).get(LOAD_BALANCER_ADDRESS_ANNOTATION)
    if value is None and not spec.loadBalancerIP:
        return None
    field = "spec.loadBalancerIP" if value is None else f"metadata.annotations[{LOAD_BALANCER_ADDRESS_ANNOTATION}]"
    if value is not None and spec.loadBalancerIP:
        skip("spec.loadBalancerIP", f"is ignored: the annotation {LOAD_BALANCER_ADDRESS_ANNOTATION} says it too")
    texts = (spec.loadBalancerIP or "") if value is None else str(value)
    made = tuple(fields.usable(((field, text.strip()) for text in texts.split(",")), skip))
    if len({one.version for one in made}) != len(made):
        skip(field, "has two addresses of one family and is not met; write at most one IPv4 and one IPv6 address")
        made = ()
    return Asked(field, made)


def _affinity(spec: wire.ServiceSpec) -> timedelta | None:
    if fields.word(spec.sessionAffinity, "spec.sessionAffinity", _Affinity.NONE) is _Affinity.NONE:
        return None
    config = spec.sessionAffinityConfig
    seconds = config.clientIP.timeoutSeconds if config and config.clientIP else None
    field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
    return DEFAULT_AFFINITY_TIMEOUT if seconds is None else timedelta(seconds=fields.number(seconds, field, high=86400))


def _removed_endpoints(annotations: Mapping[str, object] | None, skip: Skip) -> RemovedEndpoints:
    value = (annotations or {}).get(REMOVED_ENDPOINTS_ANNOTATION)
    field = f"metadata.annotations[{REMOVED_ENDPOINTS_ANNOTATION}]"
    try:
        # The API server lets any value pass: a wrong one must not take the Service away.
        return fields.word(value if value is None else str(value), field, RemovedEndpoints.KEEP)
    except Bad as bad:
        skip(bad.field, f"{bad.why}; connections are kept")
        return RemovedEndpoints.KEEP


def _health_check(spec: wire.ServiceSpec, kind: ServiceType, external: Scope) -> int:
    if not spec.healthCheckNodePort:
        return 0
    port = fields.number(spec.healthCheckNodePort, "spec.healthCheckNodePort")
    return port if kind is ServiceType.LOAD_BALANCER and external is Scope.LOCAL else 0
