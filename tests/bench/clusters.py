"""Synthetic clusters: a number of Services with one TCP port each, and as many endpoints behind every one.

The same cluster as a Snapshot (decoded already) and as manifests; `Churn` changes one endpoint at a time.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from netplane.model.address import Family, Protocol
from netplane.model.endpoint import EndpointSlice, SliceEndpoint, SlicePort
from netplane.model.node import Node
from netplane.model.service import Service, ServiceId, ServicePort
from netplane.model.snapshot import Snapshot
from netplane.model.table import Table

NODE = "n1"
NODE_ADDRESS = IPv4Address("192.0.2.1")
POD_RANGE = IPv4Network("10.128.0.0/9")
"""Every Pod: endpoints from the front, later ones from `_FRESH` on, the client at the end."""
CLIENT = IPv4Address("10.255.0.2")
SERVICE_PORT, TARGET_PORT = 80, 8080

_CLUSTER_IPS = IPv4Address("10.96.0.0")
_ENDPOINTS = IPv4Address("10.128.0.0")
_FRESH = IPv4Address("10.192.0.0")
_NAMESPACE = "bench"
_NODES = 50

Addresses = tuple[IPv4Address, ...]


@dataclass(frozen=True, slots=True)
class Size:
    """How many Services, and how many endpoints behind each."""

    services: int
    endpoints: int

    def __str__(self) -> str:
        count = f"{self.services // 1000}k" if self.services % 1000 == 0 else str(self.services)
        return f"{count} x {self.endpoints}"


def service_id(index: int) -> ServiceId:
    """Name of the Service with this number."""
    return ServiceId(_NAMESPACE, f"svc-{index}")


def cluster_ip(index: int) -> IPv4Address:
    """Its cluster IP."""
    return _CLUSTER_IPS + index + 1


def endpoints(index: int, size: Size) -> Addresses:
    """Its endpoints at first; no two Services share one."""
    return tuple(_ENDPOINTS + index * size.endpoints + place + 1 for place in range(size.endpoints))


def node_of(address: IPv4Address) -> str:
    """The node an endpoint is on: one in fifty is on ours."""
    return f"n{int(address) % _NODES + 1}"


def service(index: int) -> Service:
    """The Service with this number."""
    port = ServicePort("http", Protocol.TCP, SERVICE_PORT, TARGET_PORT)
    return Service(service_id(index), ports=(port,), cluster_ips=(cluster_ip(index),))


def slices(index: int, addresses: Addresses) -> tuple[EndpointSlice, ...]:
    """Its slices."""
    listed = tuple(SliceEndpoint(address, node=node_of(address)) for address in addresses)
    port = SlicePort("http", Protocol.TCP, TARGET_PORT)
    return (EndpointSlice(_NAMESPACE, f"svc-{index}-1", service_id(index), Family.IPV4, (port,), listed),)


def snapshot(size: Size) -> Snapshot:
    """The whole cluster, decoded already."""
    numbers = range(size.services)
    return Snapshot(
        services=Table({service_id(index): service(index) for index in numbers}),
        slices=Table({service_id(index): slices(index, endpoints(index, size)) for index in numbers}),
        nodes=Table({NODE: Node(NODE, (NODE_ADDRESS,), (POD_RANGE,))}),
    )


def manifest(index: int, addresses: Addresses, target_port: int = TARGET_PORT) -> str:
    """A Service and its slice, as JSON."""
    meta = {"namespace": _NAMESPACE, "name": f"svc-{index}"}
    port = {"name": "http", "protocol": "TCP", "port": SERVICE_PORT, "targetPort": target_port}
    ip = str(cluster_ip(index))
    items = [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": meta,
            "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ports": [port]},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": _NAMESPACE,
                "name": f"svc-{index}-1",
                "labels": {"kubernetes.io/service-name": f"svc-{index}"},
            },
            "addressType": "IPv4",
            "ports": [{"name": "http", "protocol": "TCP", "port": target_port}],
            "endpoints": [
                {"addresses": [str(each)], "conditions": {"ready": True}, "nodeName": node_of(each)}
                for each in addresses
            ],
        },
    ]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


def file_of(index: int) -> str:
    """Name of the file a Service is in."""
    return f"svc-{index}.json"


def write_manifests(size: Size, folder: Path, target_ports: tuple[int, ...] = (TARGET_PORT,)) -> None:
    """The whole cluster, a file for each Service and one for the Node. Services have the target ports by turns."""
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": NODE},
        "spec": {"podCIDRs": [str(POD_RANGE)]},
        "status": {"addresses": [{"type": "InternalIP", "address": str(NODE_ADDRESS)}]},
    }
    (folder / "node.json").write_text(json.dumps(node))
    for index in range(size.services):
        (folder / file_of(index)).write_text(
            manifest(index, endpoints(index, size), target_ports[index % len(target_ports)])
        )


class Kind(Enum):
    """What happens to one endpoint."""

    REPLACED = "replaced"
    REMOVED = "removed"
    ADDED = "added"
    NEW_COUNT = "new count"
    """The number of endpoints becomes one that no other Service has."""
    OLD_COUNT = "old count"
    """It becomes again what most Services have."""


@dataclass(frozen=True, slots=True)
class Change:
    """The endpoints of one Service from now on. `came` and `went` are what an observer can wait for."""

    kind: Kind
    index: int
    addresses: Addresses
    came: Addresses
    went: Addresses


class Churn:
    """Endpoint changes without end, the same for the same seed; every new address is one that never was."""

    def __init__(self, size: Size, seed: int = 1) -> None:
        self._size = size
        self._random = random.Random(seed)
        self._fresh = int(_FRESH)
        self._now: dict[int, Addresses] = {}

    def neighbours(self) -> Iterator[Change]:
        """Two changes to begin with: as in any cluster, some Service has an endpoint more, and some one less."""
        yield self._removed(0, Kind.REMOVED, 1)
        yield self._added(1, Kind.ADDED)

    def rounds(self, count: int) -> Iterator[Change]:
        """`count` times: an endpoint of some Service is replaced, one is removed, one is added."""
        for _ in range(count):
            index = self._random.randrange(2, self._size.services)
            yield self._replaced(index)
            yield self._removed(index, Kind.REMOVED, 1)
            yield self._added(index, Kind.ADDED)

    def resized(self, count: int) -> Iterator[Change]:
        """`count` times: a Service loses so many endpoints that it has as many as no other one, and gets them back."""
        lost = self._size.endpoints // 2 + 1
        for _ in range(count):
            index = self._random.randrange(2, self._size.services)
            yield self._removed(index, Kind.NEW_COUNT, lost)
            yield self._added(index, Kind.OLD_COUNT, lost)

    def _replaced(self, index: int) -> Change:
        now = list(self._addresses(index))
        place = self._random.randrange(len(now))
        went, now[place] = now[place], self._next()
        return self._change(Kind.REPLACED, index, tuple(now), (now[place],), (went,))

    def _removed(self, index: int, kind: Kind, count: int) -> Change:
        now = self._addresses(index)
        went = tuple(self._random.sample(now, count))
        return self._change(kind, index, tuple(each for each in now if each not in went), (), went)

    def _added(self, index: int, kind: Kind, count: int = 1) -> Change:
        came = tuple(self._next() for _ in range(count))
        return self._change(kind, index, self._addresses(index) + came, came, ())

    def _change(self, kind: Kind, index: int, addresses: Addresses, came: Addresses, went: Addresses) -> Change:
        self._now[index] = addresses
        return Change(kind, index, addresses, came, went)

    def _addresses(self, index: int) -> Addresses:
        return self._now.get(index) or endpoints(index, self._size)

    def _next(self) -> IPv4Address:
        self._fresh += 1
        return IPv4Address(self._fresh)
