"""The wiring as a value."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from cluster import pod_id, snapshot, wiring

from netplane.errors import InputError
from netplane.lab.topology import Attach, Route, topology
from netplane.model.address import Family, Protocol
from netplane.model.endpoint import EndpointSlice, SliceEndpoint, SlicePort
from netplane.model.pod import ContainerPort, Pod, PodId
from netplane.model.service import ServiceId
from netplane.model.snapshot import Snapshot

WEB = ServiceId("shop", "web")


def with_pod(**fields) -> Snapshot:
    pod = Pod(PodId("shop", "extra"), **{"node": "n2", **fields})
    return replace(snapshot(), pods={**snapshot().pods, pod.id: pod})


def with_endpoint(**fields) -> Snapshot:
    endpoint = SliceEndpoint(**fields)
    piece = EndpointSlice("shop", "web-1", WEB, Family.IPV4, (SlicePort("", Protocol.TCP, 9090),), (endpoint,))
    return replace(snapshot(), slices={WEB: (piece,)})


def test_the_same_snapshot_gives_the_same_wiring():
    assert wiring(Attach.BRIDGE) == wiring(Attach.BRIDGE)


def test_pods_on_a_bridge_have_their_pod_range_on_link_and_its_first_address_as_gateway():
    pod = wiring(Attach.BRIDGE).pods[pod_id("web-2")]
    assert pod.prefixes == (ip_network("10.244.2.0/24"), ip_network("fd00:10:244:2::/64"))
    assert pod.gateways == (ip_address("10.244.2.1"), ip_address("fd00:10:244:2::1"))


def test_routed_pods_have_only_themselves_on_link_and_links_named_np():
    pod = wiring(Attach.ROUTED).pods[pod_id("web-2")]
    assert pod.prefixes == (ip_network("10.244.2.5/32"), ip_network("fd00:10:244:2::5/128"))
    assert pod.gateways == (ip_address("169.254.1.1"), ip_address("fe80::1"))
    assert pod.link == "np0"


def test_a_pod_outside_the_range_of_its_node_has_a_route_of_its_own():
    made = topology(with_pod(addresses=(ip_address("10.99.0.1"),)), Attach.BRIDGE)
    assert Route(ip_network("10.99.0.1/32"), "n2") in made.routes


def test_a_host_network_pod_is_a_process_of_its_node():
    ports = (ContainerPort("", Protocol.TCP, 6443),)
    made = topology(with_pod(addresses=(ip_address("192.0.2.12"),), host_network=True, ports=ports), Attach.BRIDGE)
    assert PodId("shop", "extra") not in made.pods
    assert made.name_of(ip_address("192.0.2.12"), (Protocol.TCP, 6443)) == "shop/extra"
    assert made.name_of(ip_address("192.0.2.12"), (Protocol.TCP, 80)) == "node n2"


@pytest.mark.parametrize("fields", [{"finished": True}, {"addresses": ()}, {"node": "gone"}])
def test_a_pod_that_is_not_on_the_network_has_no_namespace(fields):
    made = topology(with_pod(**{"addresses": (ip_address("10.244.2.77"),), **fields}), Attach.BRIDGE)
    assert PodId("shop", "extra") not in made.pods


def test_an_endpoint_without_a_pod_gets_a_namespace_on_its_node():
    made = topology(with_endpoint(address=ip_address("10.244.2.66"), node="n2", pod="ghost"), Attach.BRIDGE)
    assert made.pods[PodId("shop", "ghost")].ports == {(Protocol.TCP, 9090)}


def test_an_endpoint_on_no_node_is_outside():
    made = topology(with_endpoint(address=ip_address("203.0.113.77")), Attach.BRIDGE)
    assert made.name_of(ip_address("203.0.113.77"), (Protocol.TCP, 9090)) == "outside"


def test_a_cluster_without_nodes_cannot_be_wired():
    with pytest.raises(InputError, match="no Node"):
        topology(Snapshot(), Attach.BRIDGE)
