"""A plan as text: complete, and equal for equal plans."""

from __future__ import annotations

import pytest
from builders import LOCAL, draining, exposed, networks, node, plan_of, port, service, slices, up

from netplane.model.service import ServiceType
from netplane.plan.settings import Bridge, InterfacePrefix, NodePortScope
from netplane.plan.text import plan_text

SHOWN = """\
node n1 in zone z1
  addresses 192.0.2.1
  a pod is whoever sends from 10.244.1.0/24
  node ports on the primary addresses

service shop/web
  10.96.0.10:80/tcp cluster IP "http"
    pod: forward to 10.244.1.5:8080, 10.244.2.6:8080, sticky 60s
    node, outside: forward to 10.244.1.5:8080, 10.244.2.6:8080 masqueraded, sticky 60s
  203.0.113.5:80/tcp load balancer IP "http"
    only from 198.51.100.0/24
    pod: forward to 10.244.1.5:8080, 10.244.2.6:8080, sticky 60s
    node: forward to 10.244.1.5:8080, 10.244.2.6:8080 masqueraded, sticky 60s
    outside: forward to 10.244.1.5:8080, sticky 60s
  node(IPv4):30080/tcp node port "http"
    pod: forward to 10.244.1.5:8080, 10.244.2.6:8080, sticky 60s
    node: forward to 10.244.1.5:8080, 10.244.2.6:8080 masqueraded, sticky 60s
    outside: forward to 10.244.1.5:8080, sticky 60s
    note 10.244.3.7:8080: terminating: new connections only go to ready ones
  health check port 32000 (IPv4): 1 local endpoints ready
"""


def test_a_plan_is_shown_with_every_row_verdict_and_note():
    of = service(
        ips=("10.96.0.10",),
        ports=(port(name="http", node_port=30080),),
        ingress=("203.0.113.5",),
        ranges=("198.51.100.0/24",),
        external=LOCAL,
        seconds=60,
        health_check_node_port=32000,
    )
    endpoints = slices(of, up("10.244.1.5", "n1"), up("10.244.2.6", "n2"), draining("10.244.3.7", "n3"))
    here = node(zone="z1", addresses=node().addresses[:1], pod_ranges=node().pod_ranges[:1])
    assert plan_text(plan_of(of, endpoints, here)) == SHOWN


def test_drop_and_reject_are_shown_for_everyone_or_by_origin():
    of = exposed(internal=LOCAL)
    text = plan_text(plan_of(of, slices(of, up("10.244.2.6", "n2"))))
    assert "  10.96.0.10:80/tcp cluster IP\n    any: drop\n" in text
    assert "  [fd00:96::10]:80/tcp cluster IP\n    any: reject\n" in text


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"local": Bridge("cni0")}, "a pod is whoever arrives over bridge cni0"),
        ({"local": InterfacePrefix("veth")}, "a pod is whoever arrives over an interface veth*"),
        ({"node_ports": NodePortScope.ALL}, "node ports on every address except loopback"),
        ({"node_ports": networks("192.0.2.0/24", "::/0")}, "node ports on addresses in 192.0.2.0/24, ::/0"),
        ({"masquerade_all": True}, "all cluster IP traffic is masqueraded"),
        ({"service_ranges": networks("10.96.0.0/12")}, "service ranges 10.96.0.0/12"),
        ({"drop_invalid": False}, "INVALID packets of endpoints are left alone"),
    ],
)
def test_every_setting_that_changes_the_plan_is_shown(changes, line):
    assert f"  {line}\n" in plan_text(plan_of(service(), **changes))
    assert line not in plan_text(plan_of(service()))


def test_problems_come_last_and_services_that_are_not_ours_say_why():
    text = plan_text(
        plan_of(
            service("a", ips=("10.96.0.1",)),
            service("b", ips=("10.96.0.1",)),
            service("c", ips=(), type=ServiceType.EXTERNAL_NAME),
        )
    )
    assert "service shop/c\n  note shop/c: type ExternalName" in text
    assert text.splitlines()[-2] == "problems"
    assert "already taken by Service shop/a" in text.splitlines()[-1]


def test_equal_plans_give_equal_text_whatever_the_order_of_the_objects():
    a, b = service("a", ips=("10.96.0.1",)), service("b", ips=("10.96.0.2",))
    more = [*slices(a, up("10.244.1.5")), *slices(b, up("10.244.1.6"))]
    assert plan_text(plan_of(a, b, more)) == plan_text(plan_of(*reversed(more), b, a))
