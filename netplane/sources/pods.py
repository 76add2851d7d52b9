"""Pod, Node and Namespace (v1) -> model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from netplane.model.address import IPAddress
from netplane.model.node import ZONE_LABEL, Node
from netplane.model.pod import ContainerPort, Namespace, Pod, PodId
from netplane.sources import fields, wire
from netplane.sources.fields import Bad, Skip, each, shared

_FINISHED = frozenset(("Succeeded", "Failed"))
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"  # a copy of the manifest: memory for nothing


def pod_of(read: wire.Pod, id: PodId, skip: Skip) -> Pod:
    """The Pod with its addresses, and the ports of it that others refer to."""
    spec, status = read.spec or wire.PodSpec(), read.status or wire.PodStatus()
    listed = [(f"{at}.ip", entry.ip) for at, entry in each(status.podIPs, "status.podIPs")]
    if status.podIP and not listed:
        listed = [("status.podIP", status.podIP)]
    if status.podIP and listed[0][1] != status.podIP:
        raise Bad("status.podIPs[0].ip", "differs from status.podIP; write the same address in both")
    return Pod(
        id=id,
        node=shared(fields.dns_subdomain(spec.nodeName, "spec.nodeName")) if spec.nodeName else "",
        addresses=tuple(fields.usable(listed, skip)),
        labels=fields.labels(read.metadata.labels, "metadata.labels"),
        ports=shared(tuple(_ports(spec))),
        ready=any(one.type == "Ready" and one.status == "True" for one in status.conditions or ()),
        terminating=read.metadata.deletionTimestamp is not None,
        finished=status.phase in _FINISHED,
        host_network=bool(spec.hostNetwork),
    )


def _ports(spec: wire.PodSpec) -> Iterator[ContainerPort]:
    """Ports with a name or hostPort, of containers and of init containers that stay (sidecars), in order of lookup."""
    yield from _container_ports(spec.containers or (), "spec.containers")
    sidecars = [one if one.restartPolicy == "Always" else wire.Container() for one in spec.initContainers or ()]
    yield from _container_ports(sidecars, "spec.initContainers")


def _container_ports(containers: Iterable[wire.Container], at: str) -> Iterator[ContainerPort]:
    for outer, container in each(containers, at):
        for here, port in each(container.ports, f"{outer}.ports"):
            value = fields.number(port.containerPort, f"{here}.containerPort")
            kind = fields.protocol(port.protocol, f"{here}.protocol")
            name = fields.iana_name(port.name, f"{here}.name") if port.name else ""
            host = fields.number(port.hostPort, f"{here}.hostPort") if port.hostPort else 0
            address = _host_address(port.hostIP, f"{here}.hostIP") if host and port.hostIP else None
            if name or host:
                yield ContainerPort(name, kind, value, host, address)


def _host_address(text: str, field: str) -> IPAddress:
    """Of the node: any address, loopback and unspecified as well."""
    address = fields.ip_address_of(text)
    if address is None:
        raise Bad(field, f"{fields.shown(text)} is not an IP address; write it like 10.0.1.5 or fd00::5")
    return address


def node_of(read: wire.Node, name: str, skip: Skip) -> Node:
    """The Node with its internal addresses and pod ranges."""
    spec, status = read.spec or wire.NodeSpec(), read.status or wire.NodeStatus()
    ranges = spec.podCIDRs or ([spec.podCIDR] if spec.podCIDR else [])
    if spec.podCIDR and ranges[0] != spec.podCIDR:
        raise Bad("spec.podCIDRs[0]", "differs from spec.podCIDR; write the same network in both")
    labels = fields.labels(read.metadata.labels, "metadata.labels")
    internal = (
        (f"{at}.address", one.address)
        for at, one in each(status.addresses, "status.addresses")
        if one.type == "InternalIP"
    )
    return Node(
        name=name,
        addresses=tuple(fields.usable(internal, skip)),
        pod_ranges=tuple(fields.network(text, field) for field, text in each(ranges, "spec.podCIDRs")),
        zone=shared(dict(labels).get(ZONE_LABEL, "")),
        labels=labels,
        annotations=tuple(sorted(_annotations(read.metadata.annotations or {}))),
        ready=all(one.status == "True" for one in status.conditions or () if one.type == "Ready"),
    )


def _annotations(listed: dict[str, object]) -> Iterator[tuple[str, str]]:
    for key, value in listed.items():
        if not isinstance(value, str):
            raise Bad(f"metadata.annotations[{fields.shown(key)}]", "must be a string; put it in quotes")
        if key != _LAST_APPLIED:
            yield key, value


def namespace_of(read: wire.Namespace, name: str) -> Namespace:
    """The Namespace and its labels."""
    return Namespace(name, fields.labels(read.metadata.labels, "metadata.labels"))
