"""Pods -> slices, and which source of endpoints a Service uses."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from netplane.model.address import Family, Protocol
from netplane.model.endpoint import EndpointSlice, EndpointState, SliceEndpoint, SlicePort
from netplane.model.pod import ContainerPort, Pod, PodId
from netplane.model.service import Service, ServiceId, ServicePort, ServiceType
from netplane.sources.assemble import Assembler, Change
from netplane.sources.decode import Object
from netplane.sources.derive import slices_from
from netplane.sources.slices import Legacy

ID = ServiceId("shop", "web")
HTTP = ServicePort("http", Protocol.TCP, 80, "web")
SERVICE = Service(
    ID,
    ports=(HTTP,),
    cluster_ips=(ip_address("10.96.0.10"), ip_address("fd00:96::10")),
    selector=(("app", "web"), ("tier", "front")),
)


def pod(number: int, **changes: object) -> Pod:
    made = Pod(
        PodId("shop", f"web-{number}"),
        node="n1",
        addresses=(ip_address(f"10.0.1.{number}"), ip_address(f"fd00::{number}")),
        labels=frozenset({("app", "web"), ("tier", "front"), ("x", "y")}),
        ports=(ContainerPort("web", Protocol.TCP, 8080),),
        ready=True,
    )
    return replace(made, **changes)


def written(name: str, address: str) -> EndpointSlice:
    endpoints = (SliceEndpoint(ip_address(address)),)
    return EndpointSlice("shop", name, ID, Family.IPV4, (SlicePort("http", Protocol.TCP, 8080),), endpoints)


def addresses(slices: tuple[EndpointSlice, ...]) -> list[str]:
    return [str(endpoint.address) for one in slices for endpoint in one.endpoints]


def assembled(*objects: Object) -> Assembler:
    assembler = Assembler()
    assembler.apply(Change(None, one) for one in objects)
    return assembler


def test_each_family_of_the_service_gets_the_pods_sorted_by_address_whatever_their_order():
    four, six = slices_from(SERVICE, [pod(3), pod(20)])
    assert (four, six) == slices_from(SERVICE, [pod(20), pod(3)])
    assert four.ports == (SlicePort("http", Protocol.TCP, 8080),)
    assert four.endpoints[0] == SliceEndpoint(ip_address("10.0.1.3"), EndpointState.READY, "n1", pod="web-3")
    assert addresses((four, six)) == ["10.0.1.3", "10.0.1.20", "fd00::3", "fd00::20"]
    only_four = replace(SERVICE, cluster_ips=SERVICE.cluster_ips[:1])
    assert addresses(slices_from(only_four, [pod(3)])) == ["10.0.1.3"]
    assert addresses(slices_from(replace(SERVICE, cluster_ips=()), [pod(3)])) == ["10.0.1.3", "fd00::3"]


@pytest.mark.parametrize(
    ("ready", "terminating", "publish", "state"),
    [
        (True, False, False, EndpointState.READY),
        (False, False, False, EndpointState.DOWN),
        (True, True, False, EndpointState.DRAINING),
        (False, True, False, EndpointState.DOWN),
        (False, False, True, EndpointState.READY),
        (False, True, True, EndpointState.READY),
    ],
)
def test_the_state_of_an_endpoint_follows_from_readiness_and_termination(ready, terminating, publish, state):
    one, _ = slices_from(replace(SERVICE, publish_not_ready=publish), [pod(3, ready=ready, terminating=terminating)])
    assert one.endpoints[0].state is state


def test_pods_that_are_finished_or_have_no_address_are_no_endpoints():
    assert slices_from(SERVICE, [pod(3, finished=True), pod(4, addresses=())]) == ()


def test_pods_with_other_numbers_for_a_port_name_get_a_slice_of_their_own():
    other = pod(4, ports=(ContainerPort("web", Protocol.UDP, 1), ContainerPort("web", Protocol.TCP, 9090)))
    first, second = slices_from(replace(SERVICE, cluster_ips=SERVICE.cluster_ips[:1]), [other, pod(3)])
    assert [(one.name, one.ports[0].port, addresses((one,))) for one in (first, second)] == [
        ("web-ipv4-1", 8080, ["10.0.1.3"]),
        ("web-ipv4-2", 9090, ["10.0.1.4"]),
    ]


def test_a_port_whose_name_a_pod_does_not_have_is_left_out_for_that_pod():
    service = replace(SERVICE, ports=(HTTP, ServicePort("admin", Protocol.TCP, 81, 8081)))
    without = pod(4, ports=())
    names = {addresses((one,))[0]: [port.name for port in one.ports] for one in slices_from(service, [pod(3), without])}
    assert names["10.0.1.3"] == ["http", "admin"]
    assert names["10.0.1.4"] == ["admin"]


def test_slices_win_over_endpoints_and_endpoints_over_pods_and_each_takes_over_when_the_other_goes():
    slices, legacy = written("web-a", "10.9.0.1"), Legacy(ID, (written("web-ipv4-1", "10.8.0.1"),))
    assembler = assembled(SERVICE, pod(3), legacy, slices)
    assert addresses(assembler.snapshot.slices[ID]) == ["10.9.0.1"]
    assert addresses(assembler.apply([Change(slices, None)]).slices[ID]) == ["10.8.0.1"]
    assert addresses(assembler.apply([Change(legacy, None)]).slices[ID]) == ["10.0.1.3", "fd00::3"]
    assert addresses(assembler.apply([Change(None, legacy)]).slices[ID]) == ["10.8.0.1"]


def test_slices_of_one_service_are_sorted_by_name_and_may_move_to_another_service():
    b, a = written("b", "10.9.0.2"), written("a", "10.9.0.1")
    assembler = assembled(SERVICE, b, a)
    assert addresses(assembler.snapshot.slices[ID]) == ["10.9.0.1", "10.9.0.2"]
    other = ServiceId("shop", "other")
    after = assembler.apply([Change(a, replace(a, service=other))])
    assert addresses(after.slices[ID]) == ["10.9.0.2"]
    assert addresses(after.slices[other]) == ["10.9.0.1"]


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": frozenset({("app", "web")})},
        {"labels": frozenset({("tier", "front"), ("app", "db")})},
        {"id": PodId("other", "web-3")},
    ],
)
def test_only_pods_of_the_namespace_with_all_the_labels_are_selected(changes):
    assert ID not in assembled(SERVICE, pod(3, **changes)).snapshot.slices


def test_a_service_without_a_selector_or_of_type_external_name_has_no_pods():
    assert ID not in assembled(replace(SERVICE, selector=()), pod(3)).snapshot.slices
    assert ID not in assembled(replace(SERVICE, type=ServiceType.EXTERNAL_NAME), pod(3)).snapshot.slices


def test_a_pod_that_joins_changes_or_leaves_changes_only_its_services():
    elsewhere = replace(SERVICE, id=ServiceId("shop", "db"), selector=(("app", "db"),))
    database = pod(9, id=PodId("shop", "db-0"), labels=frozenset({("app", "db")}))
    assembler = assembled(SERVICE, elsewhere, pod(3), database)
    before = assembler.snapshot
    joined = assembler.apply([Change(None, pod(4))])
    assert addresses(joined.slices[ID])[:2] == ["10.0.1.3", "10.0.1.4"]
    assert joined.slices[elsewhere.id] is before.slices[elsewhere.id]
    assert joined.services is before.services
    assert joined.nodes is before.nodes
    left = assembler.apply([Change(pod(4), pod(4, labels=frozenset()))])
    assert addresses(left.slices[ID]) == ["10.0.1.3", "fd00::3"]
    gone = assembler.apply([Change(pod(3), None)])
    assert ID not in gone.slices


def test_a_pod_change_that_means_nothing_for_the_endpoints_keeps_the_tuple():
    assembler = assembled(SERVICE, pod(3))
    before = assembler.snapshot
    after = assembler.apply([Change(pod(3), pod(3, host_network=True))])
    assert after.pods[PodId("shop", "web-3")].host_network
    assert after.slices is before.slices


def test_of_a_changed_service_the_slices_that_did_not_change_stay_the_same_objects():
    assembler = assembled(SERVICE, pod(3))
    four, six = assembler.snapshot.slices[ID]
    single = pod(4, addresses=(ip_address("10.0.1.4"),))
    new_four, new_six = assembler.apply([Change(None, single)]).slices[ID]
    assert new_six is six
    assert new_four is not four


def test_a_service_that_arrives_after_its_pods_or_changes_its_selector_finds_them():
    assembler = assembled(pod(3), pod(4, labels=frozenset({("app", "new")})))
    assert addresses(assembler.apply([Change(None, SERVICE)]).slices[ID])[0] == "10.0.1.3"
    changed = replace(SERVICE, selector=(("app", "new"),))
    assert addresses(assembler.apply([Change(SERVICE, changed)]).slices[ID])[0] == "10.0.1.4"
    assert ID not in assembler.apply([Change(changed, None)]).slices


def test_nothing_changed_is_the_same_snapshot():
    assembler = assembled(SERVICE, pod(3))
    assert assembler.apply([]) is assembler.snapshot
