"""Which endpoints a Service port may use: kube-proxy's CategorizeEndpoints, rule by rule (kube-proxy.md section 3)."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
from builders import IPV4, IPV6, TCP, UDP, down, draining, port, service, slices, up

from netplane.model.endpoint import SlicePort
from netplane.plan.endpoints import candidates, choose
from netplane.plan.plan import NodeFacts

A, B, C = "10.244.1.1", "10.244.2.2", "10.244.3.3"
HERE, ZONE = "n1", "z1"
FACTS = NodeFacts(HERE, zone=ZONE)


def chosen(*endpoints, facts=FACTS):
    """(anywhere, here) as addresses."""
    choice = choose(candidates(port(), slices("web", *endpoints), IPV4), facts)
    return tuple([str(each.address) for each in group] for group in (choice.anywhere, choice.here))


def notes(*endpoints, facts=FACTS):
    return [str(note) for note in choose(candidates(port(), slices("web", *endpoints), IPV4), facts).notes]


# --- hints ------------------------------------------------------------------------------------------------------------


def test_without_hints_all_ready_endpoints_are_used():
    assert chosen(up(A, "n1"), up(B, "n2")) == ([A, B], [A])


def test_hints_for_this_node_win():
    assert chosen(up(A, "n1", nodes="n1"), up(B, "n2", nodes="n2")) == ([A], [A])


def test_an_endpoint_elsewhere_may_be_hinted_for_this_node():
    assert chosen(up(A, "n1", nodes="n2"), up(B, "n2", nodes="n1 n3")) == ([B], [A])


def test_node_hints_win_over_zone_hints():
    assert chosen(up(A, "n1", nodes="n1", zones="z2"), up(B, "n2", nodes="n2", zones="z1")) == ([A], [A])


def test_node_hints_for_others_only_fall_back_to_zone_hints():
    assert chosen(up(A, "n2", nodes="n2", zones="z1"), up(B, "n3", nodes="n3", zones="z2")) == ([A], [])


def test_node_hints_for_others_only_and_no_zone_hints_mean_all():
    assert chosen(up(A, "n2", nodes="n2"), up(B, "n3", nodes="n3")) == ([A, B], [])


def test_one_ready_endpoint_without_node_hint_turns_node_hints_off():
    assert chosen(up(A, "n1", nodes="n1", zones="z1"), up(B, "n2", zones="z1"), up(C, "n3", zones="z2"))[0] == [A, B]


def test_hints_for_this_zone_are_used():
    assert chosen(up(A, "n1", zones="z1"), up(B, "n2", zones="z2"), up(C, "n3", zones="z1 z2"))[0] == [A, C]


def test_one_ready_endpoint_without_zone_hint_turns_zone_hints_off():
    assert chosen(up(A, "n1", zones="z1"), up(B, "n2", zones="z2"), up(C, "n3"))[0] == [A, B, C]


def test_zone_hints_for_other_zones_only_mean_all():
    assert chosen(up(A, "n1", zones="z2"), up(B, "n2", zones="z3"))[0] == [A, B]


def test_a_node_without_zone_ignores_zone_hints():
    facts = NodeFacts(HERE)
    assert chosen(up(A, "n1", zones="z1"), up(B, "n2", zones="z2"), facts=facts)[0] == [A, B]
    assert notes(up(A, zones="z1"), facts=facts) == ["hints: hints ignored: node n1 has no zone label"]


@pytest.mark.parametrize("other", [draining, down], ids=["terminating", "not ready"])
def test_endpoints_that_are_not_ready_need_no_hint(other):
    assert chosen(up(A, "n1", zones="z1"), up(B, "n2", zones="z2"), other(C, "n3"))[0] == [A]


@pytest.mark.parametrize("other", [draining, down], ids=["terminating", "not ready"])
def test_hints_of_endpoints_that_are_not_ready_count_for_nothing(other):
    assert chosen(up(A, "n2", zones="z2"), other(C, "n3", zones="z1"))[0] == [A]


def test_hints_are_ignored_by_policy_local():
    assert chosen(up(A, "n1", zones="z2"), up(B, "n2", zones="z1")) == ([B], [A])


def test_why_hints_are_used_or_ignored_is_said():
    assert notes(up(A, nodes="n1"), up(B, nodes="n2")) == ["hints: only endpoints hinted for node n1 are used"]
    assert notes(up(A, zones="z1"), up(B, zones="z2")) == ["hints: only endpoints hinted for zone z1 are used"]
    assert notes(up(A, zones="z1"), up(B)) == [f"hints: hints ignored: {B}:8080 has none"]
    assert notes(up(A), up(B)) == []


# --- terminating and not ready ----------------------------------------------------------------------------------------


def test_terminating_endpoints_are_not_used_while_one_is_ready():
    assert chosen(up(A, "n1"), draining(B, "n1")) == ([A], [A])


def test_terminating_endpoints_are_used_if_none_is_ready():
    assert chosen(draining(A, "n1"), draining(B, "n2")) == ([A, B], [A])


def test_policy_local_falls_back_although_others_are_ready_elsewhere():
    assert chosen(draining(A, "n1"), up(B, "n2")) == ([B], [A])


def test_the_cluster_falls_back_only_if_nothing_is_ready_anywhere():
    assert chosen(draining(A, "n1"), draining(B, "n2"), up(C, "n3")) == ([C], [A])


def test_hints_do_not_matter_among_terminating_endpoints():
    assert chosen(draining(A, "n2", zones="z2"), draining(B, "n3", zones="z1"))[0] == [A, B]


def test_endpoints_that_are_not_ready_are_never_used():
    assert chosen(down(A, "n1"), down(B, "n2")) == ([], [])
    assert chosen(down(A, "n1"), draining(B, "n1")) == ([B], [B])


def test_serving_are_all_that_answer_whatever_the_policy_or_hints():
    found = candidates(port(), slices("web", up(A, "n2", zones="z2"), draining(B), down(C)), IPV4)
    assert [str(each.address) for each in choose(found, FACTS).serving] == [A, B]


def test_an_endpoint_without_a_node_is_nobodys_own():
    assert chosen(up(A, ""), facts=NodeFacts("n1")) == ([A], [])


# --- slices -----------------------------------------------------------------------------------------------------------


def lists(*groups):
    return [each for index, group in enumerate(groups) for each in slices("web", *group, name=f"{index}-")]


def test_endpoints_are_sorted_as_numbers_not_as_text():
    made = candidates(port(), lists([up("10.0.0.10"), up("10.0.0.9")], [up("9.0.0.1")]), IPV4)
    assert [str(each.endpoint.address) for each in made] == ["9.0.0.1", "10.0.0.9", "10.0.0.10"]


def test_an_endpoint_in_several_slices_is_used_once():
    assert len(candidates(port(), lists([up(A, "n1")], [up(A, "n1")]), IPV4)) == 1


@pytest.mark.parametrize(
    "group",
    [
        [[up(A, "n1")], [down(A, "n1")], [draining(A, "n1")]],
        [[up(A, "n1")], [up(A, "n2")], [up(A, "")]],
        [[up(A, "n1", zones="z1")], [up(A, "n1", zones="z2")], [up(A, "n1")]],
        [[up(A, "n1", nodes="n1")], [up(A, "n1", nodes="n2")]],
        [[up(A, "n1", pod="a")], [up(A, "n1", pod="b")]],
    ],
    ids=["states", "nodes", "zone hints", "node hints", "pods"],
)
def test_the_order_of_slices_leaves_no_trace(group):
    orders = {tuple(each.endpoint for each in candidates(port(), lists(*order), IPV4)) for order in permutations(group)}
    assert len(orders) == 1


def test_where_slices_disagree_the_better_state_counts():
    assert chosen_from(lists([down(A, "n1")], [up(A, "n1")], [draining(A, "n1")])) == ["ready"]
    assert chosen_from(lists([down(A, "n1")], [draining(A, "n1")])) == ["draining"]


def chosen_from(listed):
    return [each.endpoint.state.value for each in candidates(port(), listed, IPV4)]


def test_one_address_with_two_ports_is_two_endpoints():
    listed = [*slices("web", up(A)), *slices("web", up(A), name="other-", target=9090)]
    assert [str(each.endpoint) for each in candidates(port(), listed, IPV4)] == [f"{A}:8080", f"{A}:9090"]


def test_a_port_is_found_by_name_and_protocol():
    dns = service(ports=(port(53, UDP, "dns"), port(53, TCP, "dns-tcp"), port(9153, TCP, "metrics")))
    (listed,) = slices(dns, up(A))
    listed = replace(listed, ports=(SlicePort("dns", UDP, 1053), SlicePort("dns-tcp", TCP, 2053)))
    targets = [[each.endpoint.port for each in candidates(one, [listed], IPV4)] for one in dns.ports]
    assert targets == [[1053], [2053], []]
    assert candidates(port(53, TCP, "dns"), [listed], IPV4) == []


def test_each_family_has_its_own_endpoints():
    listed = slices("web", up(A), up("fd00::1"))
    assert [str(each.endpoint) for each in candidates(port(), listed, IPV4)] == [f"{A}:8080"]
    assert [str(each.endpoint) for each in candidates(port(), listed, IPV6)] == ["[fd00::1]:8080"]
