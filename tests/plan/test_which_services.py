"""Which Services are planned at all, in which families, and with what memory of clients."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from builders import (
    IPV4,
    IPV6,
    NODE,
    OUTSIDE,
    POD,
    UDP,
    addresses,
    ask,
    at,
    exposed,
    frontends,
    networks,
    node,
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

from netplane.errors import InputError
from netplane.model.service import HEADLESS_LABEL, PROXY_NAME_LABEL, ServiceType
from netplane.plan.node import plan_node
from netplane.plan.oracle import Untouched
from netplane.plan.plan import Forward
from netplane.plan.settings import Bridge, InterfacePrefix, PodRange


def only(plan):
    (found,) = plan.services.values()
    return found


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"type": ServiceType.EXTERNAL_NAME, "cluster_ips": ()}, "ExternalName"),
        ({"type": ServiceType.EXTERNAL_NAME}, "ExternalName"),  # an address left over from another type
        ({"cluster_ips": ()}, "headless"),
        ({"labels": frozenset({(HEADLESS_LABEL, "")})}, HEADLESS_LABEL),
        ({"labels": frozenset({(HEADLESS_LABEL, "true")})}, HEADLESS_LABEL),
        ({"labels": frozenset({(PROXY_NAME_LABEL, "cilium")})}, PROXY_NAME_LABEL),
    ],
)
def test_a_service_that_is_not_ours_has_no_rows_and_says_why(changes, reason):
    of = exposed(**changes)
    entry = only(plan_of(of, slices(of, up("10.244.1.5", "n1"))))
    assert (list(entry.rows()), entry.cluster_ips, entry.health, entry.problems) == ([], (), (), ())
    assert reason in str(entry.notes[0])


@pytest.mark.parametrize(
    ("label", "name", "served"),
    [(None, "", True), ("mine", "", False), ("mine", "mine", True), (None, "mine", False), ("other", "mine", False)],
)
def test_the_proxy_name_label_says_whose_service_it_is(label, name, served):
    labels = frozenset() if label is None else frozenset({(PROXY_NAME_LABEL, label)})
    assert bool(frontends(plan_of(service(labels=labels), proxy_name=name))) is served


def test_a_service_that_becomes_ours_and_is_lost_again_follows_its_label():
    mine, other = service(), service(labels=frozenset({(PROXY_NAME_LABEL, "x")}))
    first = plan_node(snapshot(mine), "n1", settings())
    gone = plan_node(snapshot(other), "n1", settings(), first)
    back = plan_node(snapshot(mine), "n1", settings(), gone)
    assert (bool(frontends(first)), bool(frontends(gone)), bool(frontends(back))) == (True, False, True)


# --- families ---------------------------------------------------------------------------------------------------------


def test_a_missing_pod_range_is_an_error_that_says_what_to_do():
    with pytest.raises(InputError, match=r"Node n1 has no spec.podCIDRs.*--local pod-range"):
        plan_of(service(), node(pod_ranges=()))


def test_an_unknown_node_is_named_with_those_there_are():
    with pytest.raises(InputError, match=r"Node n7: not found \(Nodes there are: n1\)"):
        plan_of(service(), on="n7")


@pytest.mark.parametrize("local", [Bridge("cni0"), InterfacePrefix("veth"), PodRange(networks("10.0.0.0/8"))])
def test_an_unknown_node_is_a_problem_where_its_pod_ranges_are_not_needed(local):
    plan = plan_of(service(), on="n7", local=local)
    assert "n7" in str(plan.problems[0])
    assert "10.96.0.10:80/tcp" in frontends(plan)


@pytest.mark.parametrize("local", [Bridge("cni0"), InterfacePrefix("veth")])
def test_detection_by_link_serves_both_families_without_pod_ranges(local):
    plan = plan_of(service(), node(pod_ranges=()), local=local)
    assert plan.families == {IPV4, IPV6}
    assert only(plan).problems == ()


@pytest.mark.parametrize(("kept", "lost"), [(IPV4, IPV6), (IPV6, IPV4)])
def test_a_family_without_pod_range_is_not_served_and_each_service_says_so(kept, lost):
    ranges = networks("10.244.1.0/24") if kept is IPV4 else networks("fd00::/64")
    of = exposed()
    plan = plan_of(of, slices(of, up("10.244.1.5"), up("fd00::5")), node(pod_ranges=ranges))
    assert {each.frontend.family for each in plan.rows()} == {kept}
    assert {address.version for address in only(plan).cluster_ips} == {kept.value}
    assert [f"{lost} is not served" in str(problem) for problem in only(plan).problems] == [True]
    unserved = "fd00:96::10" if lost is IPV6 else "10.96.0.10"
    assert ask(plan, packet(POD, unserved)).outcome == Untouched()
    assert ask(plan, packet(POD, unserved, 81)).outcome == Untouched()


def test_given_pod_ranges_replace_those_of_the_node():
    plan = plan_of(service(), local=PodRange(networks("172.16.0.0/12")))
    assert plan.settings.local == PodRange(networks("172.16.0.0/12"))
    assert plan.families == {IPV4}


def test_resolved_pod_ranges_are_those_of_the_node():
    assert plan_of(service()).settings.local == PodRange(node().pod_ranges)


def test_a_single_stack_service_has_no_frontend_in_the_other_family():
    of = exposed(ips=("10.96.0.10",))
    plan = plan_of(of, slices(of, up("10.244.1.5"), up("fd00::5")))
    assert {each.frontend.family for each in plan.rows()} == {IPV4}
    assert only(plan).problems == ()


def test_a_service_without_ports_keeps_its_cluster_ip_closed():
    plan = plan_of(service(ports=()))
    assert frontends(plan) == set()
    assert ask(plan, packet(OUTSIDE, "10.96.0.10")).reason.startswith("Service shop/web has no such port")


def test_a_service_without_node_port_has_none():
    assert not [each for each in frontends(plan_of(service())) if each.startswith("node")]


def test_every_port_has_its_own_rows():
    of = service(ports=(port(53, UDP, "dns", 30053), port(53, name="tcp"), port(9153, name="metrics")))
    assert frontends(plan_of(of)) == {
        *(
            f"{address}:{rest}"
            for address in ("10.96.0.10", "[fd00:96::10]")
            for rest in ("53/udp", "53/tcp", "9153/tcp")
        ),
        "node(IPv4):30053/udp",
        "node(IPv6):30053/udp",
    }


# --- affinity ---------------------------------------------------------------------------------------------------------


def test_affinity_belongs_to_the_service_port_whatever_the_address():
    of = exposed(seconds=60)
    plan = plan_of(of, slices(of, up("10.244.1.5", "n1"), up("10.244.2.6", "n2")))
    owners = {
        verdict.pool.affinity
        for each in plan.rows()
        for verdict in (each.verdicts.pod, each.verdicts.node, each.verdicts.outside)
        if isinstance(verdict, Forward)
    }
    (affinity,) = owners
    assert affinity.timeout == timedelta(seconds=60)
    assert affinity.owner == row(plan, at("10.96.0.10")).service_port


def test_the_oracle_says_whether_a_choice_is_sticky():
    of = service()
    for sticky in (None, timedelta(seconds=60)):
        one = replace(of, affinity=sticky)
        outcome = ask(plan_of(one, slices(one, up("10.244.1.5"))), packet(NODE, "10.96.0.10")).outcome
        assert outcome.sticky is (sticky is not None)


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "a" * 16, "a b", 'x"; flush ruleset', "a/b", "eth0\n", "ü"])
@pytest.mark.parametrize("kind", [Bridge, InterfacePrefix])
def test_a_link_name_the_kernel_would_not_take_is_refused(kind, name):
    with pytest.raises(InputError, match="not an interface name"):
        kind(name)


def test_a_cluster_ip_that_is_an_address_of_the_node_is_refused_and_the_node_s_ports_stay_its_own():
    plan = plan_of(node(), service(ips=("192.0.2.1", "fd00:10:96::10")))
    (entry,) = plan.services.values()
    assert entry.cluster_ips == addresses("fd00:10:96::10")
    assert {row.frontend.address for row in entry.rows()} == set(addresses("fd00:10:96::10"))
    assert [problem.what for problem in entry.problems] == ["Service shop/web: 192.0.2.1"]
