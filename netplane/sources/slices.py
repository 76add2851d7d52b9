"""EndpointSlice (discovery.k8s.io/v1) and Endpoints (v1) -> model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from netplane.model.address import Family, family_of
from netplane.model.endpoint import EndpointSlice, EndpointState, SliceEndpoint, SlicePort
from netplane.model.service import ServiceId
from netplane.sources import fields, wire
from netplane.sources.fields import Bad, Skip, each, shared

_NO_HINTS: frozenset[str] = frozenset()  # one for all: each call of frozenset() makes another, of 216 bytes

SERVICE_LABEL = "kubernetes.io/service-name"


@dataclass(frozen=True, slots=True)
class Legacy:
    """The Endpoints of a Service as slices, which count only while the Service has no EndpointSlice."""

    service: ServiceId
    slices: tuple[EndpointSlice, ...]


class _AddressType(Enum):
    UNSET = ""
    IPV4 = "IPv4"
    IPV6 = "IPv6"
    FQDN = "FQDN"


def slice_of(read: wire.EndpointSlice, namespace: str, name: str, skip: Skip) -> EndpointSlice | None:
    """The slice, or None for one of host names, which no packet can be sent to."""
    kind = fields.word(read.addressType, "addressType", _AddressType.UNSET)
    if kind is _AddressType.UNSET:
        raise Bad("addressType", "is missing; write IPv4 or IPv6")
    service = (read.metadata.labels or {}).get(SERVICE_LABEL)
    if not isinstance(service, str) or not service:
        raise Bad(f"metadata.labels['{SERVICE_LABEL}']", "is missing; write the name of the Service")
    owner = ServiceId(namespace, shared(fields.dns_label(service, f"metadata.labels['{SERVICE_LABEL}']")))
    if kind is _AddressType.FQDN:
        return None
    family = Family.IPV4 if kind is _AddressType.IPV4 else Family.IPV6
    return EndpointSlice(
        namespace=namespace,
        name=name,
        service=owner,
        family=family,
        ports=_ports(each(read.ports, "ports")),
        endpoints=tuple(_endpoints(each(read.endpoints, "endpoints"), family, skip)),
    )


def _ports(listed: Iterable[tuple[str, wire.Port]]) -> tuple[SlicePort, ...]:
    """The ports that have a number; an unnamed port has the name ""."""
    return tuple(
        shared(
            SlicePort(
                fields.shared(fields.dns_label(port.name, f"{at}.name")) if port.name else "",
                fields.protocol(port.protocol, f"{at}.protocol"),
                fields.number(port.port, f"{at}.port"),
            )
        )
        for at, port in listed
        if port.port is not None
    )


def _endpoints(listed: Iterable[tuple[str, wire.Endpoint]], family: Family, skip: Skip) -> Iterator[SliceEndpoint]:
    for at, endpoint in listed:
        try:
            yield _endpoint(endpoint, family, at)
        except Bad as bad:
            skip(bad.field, f"{bad.why}; the endpoint is ignored")


def _endpoint(endpoint: wire.Endpoint, family: Family, at: str) -> SliceEndpoint:
    """One endpoint. Only its first address counts: the API calls the others interchangeable, kube-proxy skips them."""
    first = endpoint.addresses[0] if endpoint.addresses else None
    address = fields.address(first, f"{at}.addresses[0]")
    if family_of(address) is not family:
        raise Bad(f"{at}.addresses[0]", f"{address} is not {family}, the slice's addressType; move it to another slice")
    hints = endpoint.hints
    return SliceEndpoint(
        address=address,
        state=_state(endpoint.conditions),
        node=_node(endpoint.nodeName, at),
        zone_hints=_hints(hints.forZones, f"{at}.hints.forZones", fields.label_value) if hints else _NO_HINTS,
        node_hints=_hints(hints.forNodes, f"{at}.hints.forNodes", fields.dns_subdomain) if hints else _NO_HINTS,
        pod=_pod(endpoint.targetRef, at),
    )


def _state(conditions: wire.Conditions | None) -> EndpointState:
    """Unknown is ready and serving, but not terminating (KEP-1669)."""
    if conditions is None or conditions.ready is not False:
        return EndpointState.READY
    draining = conditions.terminating is True and conditions.serving is not False
    return EndpointState.DRAINING if draining else EndpointState.DOWN


def _node(name: str | None, at: str) -> str:
    return shared(fields.dns_subdomain(name, f"{at}.nodeName")) if name else ""


def _pod(reference: wire.Reference | None, at: str) -> str:
    if reference is None or reference.kind != "Pod" or not reference.name:
        return ""
    return fields.dns_subdomain(reference.name, f"{at}.targetRef.name")


def _hints(listed: list[wire.Hint] | None, at: str, check: Callable[[str | None, str], str]) -> frozenset[str]:
    if not listed:
        return _NO_HINTS
    return shared(frozenset(check(hint.name, f"{place}.name") for place, hint in each(listed, at)))


def legacy_of(read: wire.Endpoints, id: ServiceId, skip: Skip) -> Legacy:
    """The Endpoints as the mirroring controller would write them: a slice per subset and family."""
    slices: list[EndpointSlice] = []
    for place, subset in enumerate(read.subsets or ()):
        at = f"subsets[{place}]"
        ports = _ports(each(subset.ports, f"{at}.ports"))
        endpoints = tuple(_legacy_endpoints(subset, at, skip))
        slices += [
            EndpointSlice(id.namespace, f"{id.name}-{family}-{place + 1}".lower(), id, family, ports, of_family)
            for family in Family
            if (of_family := tuple(one for one in endpoints if family_of(one.address) is family))
        ]
    return Legacy(id, tuple(slices))


def _legacy_endpoints(subset: wire.Subset, at: str, skip: Skip) -> Iterator[SliceEndpoint]:
    groups = (
        ("addresses", subset.addresses, EndpointState.READY),
        ("notReadyAddresses", subset.notReadyAddresses, EndpointState.DOWN),
    )
    for field, listed, state in groups:
        for here, entry in each(listed, f"{at}.{field}"):
            try:
                address = fields.address(entry.ip, f"{here}.ip")
                yield SliceEndpoint(address, state, _node(entry.nodeName, here), pod=_pod(entry.targetRef, here))
            except Bad as bad:
                skip(bad.field, f"{bad.why}; the address is ignored")
