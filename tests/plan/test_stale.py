"""Which UDP flows are stale: kube-proxy.md section 9, (a) dead endpoints, (b) black holes, (c) terminating ones."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from builders import (
    ADDRESS,
    FAR,
    HERE,
    IPV4,
    IPV6,
    LOCAL,
    NODE_ADDRESS,
    NODE_PORT,
    SCTP,
    TCP,
    UDP,
    addresses,
    down,
    draining,
    exposed,
    plan_of,
    port,
    service,
    slices,
    target,
    up,
)

from netplane.model.service import RemovedEndpoints, ServiceType
from netplane.plan.plan import FrontendKind
from netplane.plan.stale import Flow, Server, StaleFlows

families = pytest.mark.parametrize("family", [IPV4, IPV6], ids=str)
every_kind = pytest.mark.parametrize("kind", list(FrontendKind), ids=lambda kind: kind.value)

GONE = {IPV4: "10.244.1.66", IPV6: "fd00:244:1::66"}


def dns(*endpoints, protocol=UDP, **changes):
    of = exposed(ports=(port(protocol=protocol, node_port=NODE_PORT),), **changes)
    return plan_of(of, slices(of, *endpoints))


def stale(plan, to, number, answers, local=(), protocol=UDP, answers_from=8080):
    flow = Flow(protocol, ip_address(to), number, Server(ip_address(answers), answers_from))
    return StaleFlows(plan, addresses(*local)).is_stale(flow)


@families
@every_kind
def test_a_a_flow_to_an_endpoint_that_is_gone_is_stale_and_one_that_serves_is_not(family, kind):
    plan = dns(up(HERE[family], "n1"))
    assert stale(plan, *target(kind, family), GONE[family])
    assert not stale(plan, *target(kind, family), HERE[family])


@families
@every_kind
def test_b_a_flow_answered_by_the_frontend_itself_is_stale_once_there_is_an_endpoint(family, kind):
    address, number = target(kind, family)
    assert stale(dns(up(HERE[family], "n1")), address, number, address)
    assert not stale(dns(), address, number, address)


@families
@every_kind
def test_c_a_flow_to_a_terminating_endpoint_that_serves_is_left_alone(family, kind):
    plan = dns(up(FAR[family], "n2"), draining(HERE[family], "n1"))
    assert not stale(plan, *target(kind, family), HERE[family])


@families
def test_a_flow_to_an_endpoint_that_serves_no_more_is_stale_if_another_does(family):
    assert stale(dns(up(FAR[family]), down(HERE[family])), *target(FrontendKind.CLUSTER_IP, family), HERE[family])


@families
def test_without_any_serving_endpoint_nothing_is_stale(family):
    assert not stale(dns(down(HERE[family])), *target(FrontendKind.CLUSTER_IP, family), HERE[family])


@pytest.mark.parametrize("changes", [{"external": LOCAL}, {"internal": LOCAL}])
def test_policies_and_hints_do_not_make_a_flow_stale(changes):
    plan = dns(up(HERE[IPV4], "n1", zones="z1", nodes="n1"), up(FAR[IPV4], "n2", zones="z2", nodes="n2"), **changes)
    for kind in FrontendKind:
        assert not stale(plan, *target(kind, IPV4), FAR[IPV4])


@pytest.mark.parametrize("protocol", [TCP, SCTP])
def test_flows_of_other_protocols_are_not_stale(protocol):
    plan = dns(up(HERE[IPV4]), protocol=protocol)
    assert not stale(plan, *target(FrontendKind.CLUSTER_IP, IPV4), GONE[IPV4])
    assert not stale(plan, *target(FrontendKind.CLUSTER_IP, IPV4), GONE[IPV4], protocol=protocol)


def test_another_port_of_the_address_is_left_alone():
    assert not stale(dns(up(HERE[IPV4])), ADDRESS[FrontendKind.CLUSTER_IP][IPV4], 81, GONE[IPV4])


@families
def test_a_flow_that_passes_through_to_the_number_of_a_node_port_is_left_alone(family):
    elsewhere = {IPV4: "192.0.2.2", IPV6: "2001:db8::2"}[family]
    assert not stale(dns(up(HERE[family])), elsewhere, NODE_PORT, GONE[family])


@families
def test_a_node_port_counts_on_every_local_address_one_knows_of(family):
    second = {IPV4: "192.0.2.77", IPV6: "2001:db8::77"}[family]
    plan = dns(up(HERE[family]))
    assert not stale(plan, second, NODE_PORT, GONE[family])
    assert stale(plan, second, NODE_PORT, GONE[family], local=(second,))


def test_endpoints_of_one_family_say_nothing_about_the_other():
    plan = dns(up(HERE[IPV4]))
    assert not stale(plan, NODE_ADDRESS[IPV6], NODE_PORT, GONE[IPV6])


def test_a_frontend_another_service_has_is_judged_by_its_endpoints():
    a = service("a", ips=("10.96.0.1",), ports=(port(53, UDP),))
    b = service("b", ips=("10.96.0.1",), ports=(port(53, UDP),))
    plan = plan_of(a, b, slices(a, up(HERE[IPV4])), slices(b, up(FAR[IPV4])))
    assert stale(plan, "10.96.0.1", 53, FAR[IPV4])
    assert not stale(plan, "10.96.0.1", 53, HERE[IPV4])


@families
def test_a_flow_to_the_former_target_port_of_an_endpoint_is_stale(family):
    plan = dns(up(HERE[family], "n1"))
    assert stale(plan, *target(FrontendKind.NODE_PORT, family), HERE[family], answers_from=8081)


def test_an_address_a_service_has_but_does_not_serve_keeps_its_flows_from_the_node_port_of_another():
    own = NODE_ADDRESS[IPV4]
    a = service("a", ips=("10.96.0.1",), external_ips=(own,), ports=(port(NODE_PORT, UDP),))
    b = service("b", ips=("10.96.0.2",), ports=(port(53, UDP, node_port=NODE_PORT),), type=ServiceType.NODE_PORT)
    assert not stale(plan_of(a, b, slices(b, up(HERE[IPV4]))), own, NODE_PORT, GONE[IPV4])
    assert stale(plan_of(b, slices(b, up(HERE[IPV4]))), own, NODE_PORT, GONE[IPV4])


def test_a_cluster_ip_the_node_has_too_is_no_node_port_address():
    of = exposed(ports=(port(protocol=UDP, node_port=NODE_PORT),))
    cluster_ip = ADDRESS[FrontendKind.CLUSTER_IP][IPV4]
    assert not stale(plan_of(of, slices(of, up(HERE[IPV4]))), cluster_ip, NODE_PORT, GONE[IPV4], local=(cluster_ip,))


# --- TCP, by choice -------------------------------------------------------------------------------------------------


def web(*endpoints, protocol=TCP):
    of = exposed(ports=(port(protocol=protocol, node_port=NODE_PORT),), removed_endpoints=RemovedEndpoints.RESET)
    return plan_of(of, slices(of, *endpoints))


@families
@every_kind
def test_a_connection_to_an_endpoint_that_is_gone_is_stale_if_the_service_wants_resets(family, kind):
    plan = web(up(HERE[family], "n1"), draining(FAR[family], "n2"))
    assert stale(plan, *target(kind, family), GONE[family], protocol=TCP)
    assert not stale(plan, *target(kind, family), HERE[family], protocol=TCP)
    assert not stale(plan, *target(kind, family), FAR[family], protocol=TCP)


@families
@every_kind
def test_a_connection_is_stale_even_if_no_endpoint_is_left(family, kind):
    assert stale(web(down(GONE[family])), *target(kind, family), GONE[family], protocol=TCP)


@families
def test_a_connection_nobody_translated_is_not_ours_to_end(family):
    address, number = target(FrontendKind.EXTERNAL_IP, family)
    assert not stale(web(up(HERE[family])), address, number, address, protocol=TCP, answers_from=number)


def test_resets_are_for_tcp_only():
    to = target(FrontendKind.CLUSTER_IP, IPV4)
    assert not stale(web(up(HERE[IPV4]), protocol=SCTP), *to, GONE[IPV4], protocol=SCTP)
    assert not stale(web(protocol=UDP), *to, GONE[IPV4])


def test_the_plan_says_that_connections_are_reset():
    (entry,) = web(up(HERE[IPV4])).services.values()
    assert {note.about for each in entry.ports for note in each.notes} == {"netplane.dev/removed-endpoints"}


def test_among_flows_the_stale_ones_are_picked():
    plan = dns(up(HERE[IPV4]))
    to = ip_address(ADDRESS[FrontendKind.CLUSTER_IP][IPV4])
    good, bad = (Flow(UDP, to, 80, Server(ip_address(each[IPV4]), 8080)) for each in (HERE, GONE))
    assert list(StaleFlows(plan).among([good, bad, good])) == [bad]
