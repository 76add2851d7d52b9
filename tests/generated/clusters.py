"""Random clusters and random changes of them, from a seed: small pools of addresses, so that Services collide.

A `World` changes step by step; objects that did not change stay the same objects, as sources promise (Snapshot).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address, ip_network
from random import Random
from typing import TypeVar

from netplane.model.address import Family, IPAddress, IPNetwork, Protocol, family_of
from netplane.model.endpoint import EndpointSlice, EndpointState, SliceEndpoint, SlicePort
from netplane.model.node import Node
from netplane.model.service import (
    HEADLESS_LABEL,
    PROXY_NAME_LABEL,
    Ingress,
    Scope,
    Service,
    ServiceId,
    ServicePort,
    ServiceType,
)
from netplane.model.snapshot import Snapshot
from netplane.model.table import derived
from netplane.plan.settings import Bridge, InterfacePrefix, NodePortScope, PodRange, Settings

Item = TypeVar("Item")

NODES = ("n1", "n2", "n3")
NAMES = ("a", "b", "c", "d", "e", "f")
NUMBERS = (53, 80, 443, 30000, 30001)
NODE_PORTS = (30000, 30001, 30002)
PORT_NAMES = ("", "http", "dns")
ZONES = ("z1", "z2")
FIELDS = (
    "type",
    "ports",
    "cluster_ips",
    "external_ips",
    "ingress",
    "source_ranges",
    "internal",
    "external",
    "affinity",
)

Addresses = tuple[IPAddress, ...]


def _pool(texts: str) -> Addresses:
    return tuple(map(ip_address, texts.split()))


CLUSTER_IPS = _pool("10.96.0.1 10.96.0.2 10.96.0.3 10.96.0.4 fd00:96::1 fd00:96::2 fd00:96::3 fd00:96::4")
OUTER_IPS = _pool("198.51.100.1 203.0.113.1 203.0.113.2 2001:db8:51::1 2001:db8:113::1 2001:db8:113::2")
NODE_IPS = {f"n{i}": _pool(f"192.0.2.{i} 192.0.2.10{i} 2001:db8::{i} 2001:db8::10{i}") for i in (1, 2, 3)}
POD_IPS = {f"n{i}": _pool(" ".join(f"10.244.{i}.{k} fd00:244:{i}::{k}" for k in (1, 2, 3))) for i in (1, 2, 3)}
NOWHERE = {address for pods in POD_IPS.values() for address in pods[-2:]}
"""Pods whose slices do not say which node they are on."""
POD_RANGES = {f"n{i}": (ip_network(f"10.244.{i}.0/24"), ip_network(f"fd00:244:{i}::/64")) for i in (1, 2, 3)}
RANGES: tuple[IPNetwork, ...] = (
    *map(ip_network, ("192.0.2.0/24", "192.0.2.0/25", "192.0.2.200/32", "10.244.0.0/16", "0.0.0.0/0")),
    *map(ip_network, ("2001:db8::/64", "2001:db8::200/128", "fd00:244::/32", "::/0")),
)
SERVICE_RANGES = (ip_network("10.96.0.0/16"), ip_network("fd00:96::/112"))


class World:
    """A cluster that changes at random, always the same way for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.snapshot = Snapshot(nodes={name: self._node(name) for name in NODES})
        self.settings = self._settings()
        for _ in range(self.random.randint(3, 12)):
            self.change()

    def change(self) -> Snapshot:
        """One to three things become different."""
        for _ in range(self.random.choice((1, 1, 1, 2, 3))):
            self._change_one()
        return self.snapshot

    # --- one change --------------------------------------------------------------------------------------------------

    def _change_one(self) -> None:
        draw = self.random.random()
        services, slices = self.snapshot.services, self.snapshot.slices
        if draw < 0.30 or not services:
            self._put(self._service(self._id()))
        elif draw < 0.42:
            gone = self._one(sorted(services))
            self.snapshot = replace(self.snapshot, services=derived(services, {}, [gone]))
        elif draw < 0.50:
            self._put(self._varied(services[self._one(sorted(services))]))
        elif draw < 0.85:
            of = self._one(sorted(services))
            self._put_slices(of, self._slices(of))
        elif draw < 0.90 and slices:
            gone = self._one(sorted(slices))
            self.snapshot = replace(self.snapshot, slices=derived(slices, {}, [gone]))
        elif draw < 0.94:
            name = self._one(NODES)
            self.snapshot = replace(self.snapshot, nodes={**self.snapshot.nodes, name: self._node(name)})
        else:
            of = self._id()  # which may not exist
            self._put_slices(of, self._slices(of))

    def _put(self, service: Service) -> None:
        self.snapshot = replace(self.snapshot, services=derived(self.snapshot.services, {service.id: service}))
        if service.id not in self.snapshot.slices and self._chance(0.8):
            self._put_slices(service.id, self._slices(service.id))

    def _put_slices(self, of: ServiceId, slices: tuple[EndpointSlice, ...]) -> None:
        self.snapshot = replace(self.snapshot, slices=derived(self.snapshot.slices, {of: slices}))

    # --- objects -----------------------------------------------------------------------------------------------------

    def _id(self) -> ServiceId:
        return ServiceId(self._one(("shop", "shop", "ops")), self._one(NAMES))

    def _service(self, of: ServiceId) -> Service:
        kind = self._one((*ServiceType, ServiceType.LOAD_BALANCER, ServiceType.LOAD_BALANCER))
        own = [self._one([each for each in CLUSTER_IPS if family_of(each) is family]) for family in Family]
        cluster_ips = tuple(own[: self._one((1, 2, 2, 2))] if self._chance(0.9) else own[1:])
        return Service(
            id=of,
            type=kind,
            ports=self._ports(),
            cluster_ips=() if self._chance(0.05) else cluster_ips,
            external_ips=self._some((*OUTER_IPS, *CLUSTER_IPS[:2], *NODE_IPS["n1"][:1], *POD_IPS["n1"][:1]), 0.4),
            ingress=tuple(Ingress(each, self._chance(0.15)) for each in self._some(OUTER_IPS, 0.8)),
            source_ranges=self._some(RANGES, 0.35),
            internal=self._one((Scope.CLUSTER, Scope.CLUSTER, Scope.LOCAL)),
            external=self._one(tuple(Scope)),
            affinity=self._one((None, None, None, timedelta(seconds=60), timedelta(hours=3))),
            health_check_node_port=self._one((0, 32000)),
            labels=self._labels(),
        )

    def _varied(self, old: Service) -> Service:
        """The Service with one field taken from another one."""
        other = self._service(old.id)
        name = self._one((*FIELDS, "affinity", "labels"))
        return replace(old, **{name: getattr(other, name)})

    def _labels(self) -> frozenset[tuple[str, str]]:
        if self._chance(0.9):
            return frozenset()
        return frozenset({(self._one((HEADLESS_LABEL, PROXY_NAME_LABEL)), "other")})

    def _ports(self) -> tuple[ServicePort, ...]:
        return tuple(
            ServicePort(name, self._one(tuple(Protocol)), self._one(NUMBERS), 8080, self._one((0, *NODE_PORTS)))
            for name in PORT_NAMES[: self._one((1, 1, 2, 3))]
        )

    def _slices(self, of: ServiceId) -> tuple[EndpointSlice, ...]:
        """One or two slices per family, with nearly every port a Service here can have."""
        made = []
        for number in range(self._one((1, 1, 2))):
            for family in Family:
                hints = self._one((0.0, 0.0, 0.0, 0.9, 1.0))
                listed = [(name, protocol) for name in PORT_NAMES for protocol in Protocol if self._chance(0.9)]
                ports = tuple(SlicePort(name, protocol, self._one((80, 8080))) for name, protocol in listed)
                endpoints = tuple(self._endpoint(family, hints) for _ in range(self._one((0, 1, 1, 2, 3, 5))))
                made.append(EndpointSlice(of.namespace, f"{number}-{family}", of, family, ports, endpoints))
        return tuple(made)

    def _endpoint(self, family: Family, hints: float) -> SliceEndpoint:
        node = self._one(NODES)
        pool = NODE_IPS[node][:1] + NODE_IPS[node][2:3] if self._chance(0.1) else POD_IPS[node]
        address = self._one([each for each in pool if family_of(each) is family])
        return SliceEndpoint(
            address=address,
            state=self._one((EndpointState.READY, EndpointState.READY, EndpointState.READY, *EndpointState)),
            node="" if address in NOWHERE else node,
            zone_hints=frozenset(self._some(ZONES, hints)),
            node_hints=frozenset(self._some(NODES, hints / 2)),
        )

    def _node(self, name: str) -> Node:
        own = NODE_IPS[name]
        ranges = POD_RANGES[name]
        return Node(
            name,
            addresses=own if self._chance(0.5) else (own[0], own[2]),
            pod_ranges=ranges if self._chance(0.9) else self._one((ranges[:1], ranges[1:])),
            zone=self._one(("", *ZONES)),
        )

    def _settings(self) -> Settings:
        return Settings(
            local=self._one(
                (PodRange(), PodRange(), PodRange(POD_RANGES["n1"]), Bridge("cni0"), InterfacePrefix("veth"))
            ),
            masquerade_all=self._chance(0.2),
            node_ports=self._one((*NodePortScope, RANGES[1:2] + RANGES[5:6], RANGES[:1])),
            service_ranges=self._one(((), SERVICE_RANGES, SERVICE_RANGES[:1])),
            drop_invalid=self._chance(0.8),
        )

    # --- drawing -----------------------------------------------------------------------------------------------------

    def _one(self, pool: Sequence[Item]) -> Item:
        return self.random.choice(pool)

    def _chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def _some(self, pool: Sequence[Item], probability: float) -> tuple[Item, ...]:
        """None with the complement of `probability`, else one to three in any order."""
        if not self._chance(probability):
            return ()
        return tuple(self.random.sample(pool, min(len(pool), self.random.randint(1, 3))))
