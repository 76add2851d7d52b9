"""Answers on health check node ports, byte for byte kube-proxy's (kube-proxy.md section 10)."""

from __future__ import annotations

import pytest
from builders import (
    CLUSTER,
    IPV4,
    IPV6,
    LOCAL,
    UDP,
    down,
    draining,
    exposed,
    networks,
    node,
    plan_of,
    port,
    service,
    slices,
    up,
)

from netplane.model.service import ServiceId, ServiceType
from netplane.plan.health import answer
from netplane.plan.plan import HealthCheck


def checks(*endpoints, **changes):
    of = exposed(**{"external": LOCAL, "health_check_node_port": 32000} | changes)
    plan = plan_of(of, slices(of, *endpoints))
    return {each.family: each.local_ready for each in plan.services[of.id].health}


def test_ready_endpoints_of_this_node_count_per_family():
    assert checks(up("10.244.1.5", "n1"), up("10.244.1.6", "n1"), up("10.244.2.6", "n2"), up("fd00::5", "n1")) == {
        IPV4: 2,
        IPV6: 1,
    }


def test_terminating_and_unready_endpoints_do_not_count_although_the_first_are_still_served():
    assert checks(draining("10.244.1.5", "n1"), down("10.244.1.6", "n1")) == {IPV4: 0, IPV6: 0}


def test_an_address_counts_once_over_all_ports():
    ports = (port(53, UDP, "dns"), port(53, name="dns-tcp"))
    assert checks(up("10.244.1.5", "n1"), ports=ports)[IPV4] == 1


def test_hints_do_not_matter():
    assert checks(up("10.244.1.5", "n1", zones="elsewhere", nodes="n2"))[IPV4] == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"external": CLUSTER},
        {"type": ServiceType.NODE_PORT},
        {"type": ServiceType.CLUSTER_IP},
        {"health_check_node_port": 0},
    ],
    ids=["policy Cluster", "NodePort", "ClusterIP", "no port"],
)
def test_other_services_have_no_health_check_port(changes):
    assert checks(up("10.244.1.5", "n1"), **changes) == {}


def test_a_family_that_is_not_served_has_no_health_check():
    of = exposed(external=LOCAL, health_check_node_port=32000)
    plan = plan_of(of, node(pod_ranges=networks("10.244.1.0/24")))
    assert [each.family for each in plan.services[of.id].health] == [IPV4]


def test_a_service_of_one_family_has_one_check():
    of = service(ips=("10.96.0.10",), ingress=("203.0.113.5",), external=LOCAL, health_check_node_port=32000)
    assert [each.family for each in plan_of(of).services[of.id].health] == [IPV4]


BODY = b"""{
\t"service": {
\t\t"namespace": "ns",
\t\t"name": "svc"
\t},
\t"localEndpoints": %d,
\t"serviceProxyHealthy": %s
}"""


@pytest.mark.parametrize(
    ("ready", "healthy", "status"), [(2, True, 200), (1, True, 200), (0, True, 503), (2, False, 503), (0, False, 503)]
)
def test_the_answer_is_kube_proxys_byte_for_byte(ready, healthy, status):
    said = answer(HealthCheck(ServiceId("ns", "svc"), IPV4, 32000, ready), healthy=healthy)
    assert said.status == status
    assert said.body == BODY % (ready, b"true" if healthy else b"false")
    assert dict(said.headers) == {
        "Content-Type": "application/json",
        "X-Content-Type-Options": "nosniff",
        "X-Load-Balancing-Endpoint-Weight": str(ready),
    }
