"""Pods -> the EndpointSlices of a Service with a selector, as the EndpointSlice controller writes them."""

from __future__ import annotations

from collections.abc import Iterable

from netplane.model.address import Family, IPAddress, family_of
from netplane.model.endpoint import EndpointSlice, EndpointState, SliceEndpoint, SlicePort
from netplane.model.pod import Pod
from netplane.model.service import Service, ServicePort, ServiceType


def wants_pods(service: Service) -> bool:
    """Whether the Service's endpoints are its Pods."""
    return bool(service.selector) and service.type is not ServiceType.EXTERNAL_NAME


def slices_from(service: Service, pods: Iterable[Pod]) -> tuple[EndpointSlice, ...]:
    """The slices of `service` for the Pods it selects. Equal input gives equal slices, in whatever order Pods come."""
    usable = [pod for pod in pods if not pod.finished]
    families = {family_of(address) for address in service.cluster_ips} or set(Family)
    return tuple(made for family in sorted(families) for made in _of_family(service, family, usable))


def _of_family(service: Service, family: Family, pods: Iterable[Pod]) -> Iterable[EndpointSlice]:
    """One slice for each set of port numbers: Pods may give the same port name different numbers."""
    groups: dict[tuple[SlicePort, ...], list[SliceEndpoint]] = {}
    for pod in pods:
        address = next((one for one in pod.addresses if family_of(one) is family), None)
        if address is not None:
            groups.setdefault(_ports(service, pod), []).append(_endpoint(service, pod, address))
    for place, ports in enumerate(sorted(groups, key=_order), start=1):
        yield EndpointSlice(
            namespace=service.id.namespace,
            name=f"{service.id.name}-{family}-{place}".lower(),
            service=service.id,
            family=family,
            ports=ports,
            endpoints=tuple(sorted(groups[ports], key=lambda one: (int(one.address), one.pod))),
        )


def _order(ports: tuple[SlicePort, ...]) -> list[tuple[str, str, int]]:
    return [(port.name, port.protocol.value, port.port) for port in ports]


def _ports(service: Service, pod: Pod) -> tuple[SlicePort, ...]:
    """The Service's ports on this Pod. A name the Pod does not have is left out, as the controller does."""
    return tuple(
        SlicePort(port.name, port.protocol, number)
        for port in service.ports
        if (number := _number(port, pod)) is not None
    )


def _number(port: ServicePort, pod: Pod) -> int | None:
    if isinstance(port.target, int):
        return port.target
    wanted = (port.target, port.protocol)
    return next((one.port for one in pod.ports if (one.name, one.protocol) == wanted), None)


def _endpoint(service: Service, pod: Pod, address: IPAddress) -> SliceEndpoint:
    return SliceEndpoint(address, _state(service, pod), pod.node, pod=pod.id.name)


def _state(service: Service, pod: Pod) -> EndpointState:
    """publishNotReadyAddresses outranks everything, also that the Pod is terminating."""
    if service.publish_not_ready or (pod.ready and not pod.terminating):
        return EndpointState.READY
    return EndpointState.DRAINING if pod.ready else EndpointState.DOWN
