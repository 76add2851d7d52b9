"""Two Services that want one address: who has it, who is told, and what is left when the winner goes.

See docs/decisions/0009: a cluster IP beats everything, node ports and load-balancer addresses beat external IPs, and
among equals the smaller namespace and name wins.
"""

from __future__ import annotations

from itertools import permutations

import pytest
from builders import (
    OUTSIDE,
    POD,
    TCP,
    UDP,
    ask,
    at,
    frontends,
    packet,
    plan_of,
    port,
    row,
    service,
    settings,
    slices,
    snapshot,
    up,
)

from netplane.model.service import ServiceId
from netplane.plan.node import plan_node
from netplane.plan.oracle import Untouched
from netplane.plan.plan import Reject


def owner(plan, wanted):
    return row(plan, wanted).service_port.name


def problems(plan, name):
    return [str(each) for each in plan.services[ServiceId("shop", name)].problems]


def external(name, *ips, own, **changes):
    return service(name, ips=(own,), external_ips=ips, **changes)


A, B = service("a", ips=("10.96.0.1",)), service("b", ips=("10.96.0.1",))


def test_of_two_services_with_one_cluster_ip_the_smaller_name_has_it_whole():
    b = service("b", ips=("10.96.0.1",), ports=(port(81),))
    plan = plan_of(A, b)
    assert frontends(plan) == {"10.96.0.1:80/tcp"}
    assert ask(plan, packet(POD, "10.96.0.1", 81)).reason.startswith("Service shop/a has no such port")
    assert problems(plan, "a") == []
    assert "already taken by Service shop/a" in problems(plan, "b")[0]


def test_the_namespace_counts_before_the_name():
    plan = plan_of(service("z", namespace="a", ips=("10.96.0.1",)), service("a", namespace="z", ips=("10.96.0.1",)))
    assert owner(plan, at("10.96.0.1")) == "z"


def test_a_loser_keeps_everything_else():
    loser = service("b", ips=("10.96.0.1", "fd00:96::b"), external_ips=("198.51.100.9",))
    assert frontends(plan_of(A, loser)) == {"10.96.0.1:80/tcp", "[fd00:96::b]:80/tcp", "198.51.100.9:80/tcp"}


def test_of_two_services_with_one_node_port_the_smaller_name_has_it_per_protocol():
    a = service("a", ips=("10.96.0.1",), ports=(port(80, TCP, "", 30000),))
    b = service("b", ips=("10.96.0.2",), ports=(port(80, TCP, "t", 30000), port(80, UDP, "u", 30000)))
    plan = plan_of(a, b)
    owners = {str(each.frontend): each.service_port.name for each in plan.rows() if "node" in str(each.frontend)}
    assert owners == {"node(IPv4):30000/tcp": "a", "node(IPv4):30000/udp": "b"}
    assert "node(IPv4):30000/tcp" in problems(plan, "b")[0]


def test_two_services_may_share_an_external_ip_on_different_ports():
    a = external("a", "198.51.100.9", own="10.96.0.1")
    b = external("b", "198.51.100.9", own="10.96.0.2", ports=(port(443),))
    plan = plan_of(a, b)
    assert {"198.51.100.9:80/tcp", "198.51.100.9:443/tcp"} <= frontends(plan)
    assert problems(plan, "a") == problems(plan, "b") == []


def test_of_two_services_with_one_external_ip_and_port_the_smaller_name_has_it():
    plan = plan_of(external("b", "198.51.100.9", own="10.96.0.2"), external("a", "198.51.100.9", own="10.96.0.1"))
    assert owner(plan, at("198.51.100.9")) == "a"
    assert "198.51.100.9" in problems(plan, "b")[0]


def test_a_load_balancer_address_beats_the_same_external_ip_of_a_smaller_name():
    plan = plan_of(
        external("a", "198.51.100.9", own="10.96.0.1"), service("b", ips=("10.96.0.2",), ingress=("198.51.100.9",))
    )
    assert owner(plan, at("198.51.100.9")) == "b"
    assert problems(plan, "a")
    assert not problems(plan, "b")


@pytest.mark.parametrize("name", ["a", "z"])
@pytest.mark.parametrize("field", ["external_ips", "ingress"])
@pytest.mark.parametrize("number", [80, 443])
def test_another_services_cluster_ip_can_never_be_taken_over_or_extended(name, field, number):
    thief = service(name, ips=("10.96.0.2",), ports=(port(number),), **{field: ("10.96.0.1",)})
    plan = plan_of(thief, service("m", ips=("10.96.0.1",)))
    assert owner(plan, at("10.96.0.1")) == "m"
    assert ask(plan, packet(OUTSIDE, "10.96.0.1", 443)).outcome == Reject()
    assert ask(plan, packet(OUTSIDE, "10.96.0.1", 443)).row is None
    assert "already taken by Service shop/m" in problems(plan, name)[0]
    assert not problems(plan, "m")


def test_a_services_own_cluster_ip_among_its_external_ips_is_no_conflict():
    plan = plan_of(service("a", ips=("10.96.0.1",), external_ips=("10.96.0.1",), ingress=("10.96.0.1",)))
    assert frontends(plan) == {"10.96.0.1:80/tcp"}
    assert problems(plan, "a") == []


def test_two_ports_with_one_number_and_protocol_in_one_service_leave_the_first():
    of = service(ports=(port(80, name="a"), port(80, name="b"), port(80, UDP, "c")))
    plan = plan_of(of, slices(of, up("10.244.1.5")))
    assert row(plan, at("10.96.0.10")).service_port.port == "a"
    assert frontends(plan) == {f"{each}:80/{p}" for each in ("10.96.0.10", "[fd00:96::10]") for p in ("tcp", "udp")}
    assert "two of its ports" in problems(plan, "web")[0]


# --- the way there leaves no trace ------------------------------------------------------------------------------------

RIVALS = (
    service("a", ips=("10.96.0.1",), ports=(port(80, TCP, "", 30000),)),
    service("b", ips=("10.96.0.1",), external_ips=("198.51.100.9",), ports=(port(80, TCP, "", 30000),)),
    service("c", ips=("10.96.0.3",), external_ips=("10.96.0.1", "198.51.100.9"), ports=(port(80, TCP, "", 30000),)),
    service("d", ips=("10.96.0.4",), ingress=("198.51.100.9", "10.96.0.1")),
)


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_services_that_come_and_go_one_by_one_end_where_a_fresh_plan_does(order):
    plan, there = None, []
    for index in order:
        there.append(RIVALS[index])
        plan = plan_node(snapshot(*there), "n1", settings(), plan)
        assert plan == plan_of(*there)
    for index in order:
        there.remove(RIVALS[index])
        plan = plan_node(snapshot(*there), "n1", settings(), plan)
        assert plan == plan_of(*there)
    assert not plan.services
    assert not plan.claims


def test_when_the_winner_goes_the_loser_has_it():
    both = plan_node(snapshot(A, B), "n1", settings())
    after = plan_node(snapshot(B), "n1", settings(), both)
    assert owner(after, at("10.96.0.1")) == "b"
    assert problems(after, "b") == []


def test_when_the_winner_gives_only_the_address_up_the_loser_has_it():
    both = plan_node(snapshot(A, B), "n1", settings())
    moved = service("a", ips=("10.96.0.77",))
    after = plan_node(snapshot(moved, B), "n1", settings(), both)
    assert owner(after, at("10.96.0.1")) == "b"
    assert after == plan_of(moved, B)


def test_when_the_loser_gives_its_claim_up_and_the_winner_goes_nobody_has_it():
    both = plan_node(snapshot(A, B), "n1", settings())
    moved = service("b", ips=("10.96.0.77",))
    apart = plan_node(snapshot(A, moved), "n1", settings(), both)
    alone = plan_node(snapshot(moved), "n1", settings(), apart)
    assert alone == plan_of(moved)
    assert ask(alone, packet(POD, "10.96.0.1")).outcome == Untouched()


def test_a_winner_with_new_endpoints_does_not_lose_and_a_loser_with_new_endpoints_does_not_win():
    both = plan_node(snapshot(A, B), "n1", settings())
    for changed in ("a", "b"):
        objects = [A, B, *slices(changed, up("10.244.1.5", "n1"))]
        assert plan_node(snapshot(*objects), "n1", settings(), both) == plan_of(*objects)


def test_a_service_that_wins_on_one_key_and_loses_on_another_is_told_once_per_loss():
    c = service("b", ips=("10.96.0.1", "fd00::b"), ports=(port(80, TCP, "", 30000),))
    a = service("a", ips=("10.96.0.1",), ports=(port(80, TCP, "", 30000),))
    lost = problems(plan_of(a, c), "b")
    assert len(lost) == 2
