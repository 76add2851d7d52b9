"""All the other Services of the cluster, and its Nodes: the random cluster of `generated.churn` as valid objects."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from random import Random
from typing import TypeVar

from churn.manifests import Object
from generated.churn import changed, cluster
from generated.clusters import NODE_IPS, POD_RANGES

from netplane.model.endpoint import EndpointSlice
from netplane.model.node import ZONE_LABEL, Node
from netplane.model.service import Scope, Service, ServiceId, ServicePort, ServiceType

Value = TypeVar("Value")

NODE = "n1"
"""The node the agent works for. It keeps both families and its addresses' order: connections depend on it."""


class Background:
    """A cluster that changes, as files: one per Service, per Service's slices and per Node."""

    def __init__(self, seed: int) -> None:
        self._random = Random(f"background {seed}")
        self._snapshot = cluster(seed)

    def change(self) -> str:
        """One thing becomes different, or the same again once it is made valid; says what."""
        self._snapshot, said = changed(self._random, self._snapshot)
        return said

    def files(self) -> dict[str, tuple[Object, ...]]:
        """What the folder should hold."""
        found = self._snapshot
        return (
            {f"service.{of.namespace}.{of.name}": (_service(each),) for of, each in found.services.items()}
            | {
                f"slices.{of.namespace}.{of.name}": tuple(_slices(of, each))
                for of, each in found.slices.items()
                if each
            }
            | {f"node.{name}": (_node(each),) for name, each in found.nodes.items()}
        )


def _service(one: Service) -> Service:
    """What the API server would make of it, or as near as it would allow."""
    kind = one.type
    if kind is ServiceType.EXTERNAL_NAME:
        one = replace(one, cluster_ips=())
    elif not one.cluster_ips:
        kind = ServiceType.CLUSTER_IP
    balancer = kind is ServiceType.LOAD_BALANCER
    node_ports = kind in (ServiceType.NODE_PORT, ServiceType.LOAD_BALANCER)
    return replace(
        one,
        type=kind,
        ports=tuple(_ports(one.ports, node_ports)),
        external_ips=_unique(one.external_ips),
        ingress=tuple({each.address: each for each in reversed(one.ingress)}.values()) if balancer else (),
        health_check_node_port=one.health_check_node_port if balancer and one.external is Scope.LOCAL else 0,
    )


def _ports(ports: tuple[ServicePort, ...], node_ports: bool) -> Iterable[ServicePort]:
    """Of several ports each has a name, and no number is there twice."""
    numbers, taken = set(), set()
    for port in ports if len(ports) == 1 else ports[1:]:
        number = port.node_port if node_ports and (port.protocol, port.node_port) not in taken else 0
        if (port.protocol, port.port) not in numbers:
            numbers.add((port.protocol, port.port))
            taken.add((port.protocol, number))
            yield replace(port, node_port=number)


def _slices(of: ServiceId, slices: tuple[EndpointSlice, ...]) -> Iterable[EndpointSlice]:
    for place, each in enumerate(slices):
        yield replace(each, name=f"{of.name}-{place}-{each.family.value}")


def _node(one: Node) -> Node:
    labels = frozenset({(ZONE_LABEL, one.zone)} if one.zone else ())
    if one.name != NODE:
        return replace(one, labels=labels)
    own = NODE_IPS[NODE]
    return replace(
        one, labels=labels, addresses=own if len(one.addresses) > 2 else own[::2], pod_ranges=POD_RANGES[NODE]
    )


def _unique(values: tuple[Value, ...]) -> tuple[Value, ...]:
    return tuple(dict.fromkeys(values))
