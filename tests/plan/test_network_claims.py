"""Pod ranges, addresses and names that nobody can have, or that two nodes claim (docs/decisions/0029)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest
from builders import addresses, networks
from network_nodes import cluster, host, keyed, plan, told

from netplane.plan.network_names import vtep_mac
from netplane.plan.network_plan import Way
from netplane.plan.network_settings import Mode
from netplane.plan.network_spans import merged, span_of

CLUSTER = networks("10.244.0.0/16", "fd00:244::/32")
SERVICES = networks("10.96.0.0/16", "fd00:96::/112")


@pytest.mark.parametrize(
    ("ranges", "said", "left"),
    [
        ((), "Node n2: spec.podCIDRs: is missing, so its Pods are not reached; set it", ()),
        (("0.0.0.0/0",), "spec.podCIDRs[0]: 0.0.0.0/0 overlaps 0.0.0.0/8, which is nobody's", ()),
        (("127.1.0.0/24",), "127.1.0.0/24 overlaps 127.0.0.0/8, which is nobody's; give the Node another range", ()),
        (("10.244.2.0/24", "ff02::/64"), "Node n2: spec.podCIDRs[1]: ff02::/64 overlaps ff00::/8", ("10.244.2.0/24",)),
        (("10.96.3.0/24",), "10.96.3.0/24 overlaps the Service range 10.96.0.0/16; give the Node another range", ()),
        (("10.0.0.0/8",), "10.0.0.0/8 overlaps the Service range 10.96.0.0/16", ()),
        (("192.0.2.0/28",), "192.0.2.0/28 overlaps the Node's own address 192.0.2.2; give it another range", ()),
        (
            ("10.244.2.0/24", "10.244.2.128/25"),
            "Node n2: spec.podCIDRs[1]: 10.244.2.128/25 overlaps the Node's own Pod range 10.244.2.0/24",
            ("10.244.2.0/24",),
        ),
        (("10.244.2.0/24",) * 2, "overlaps the Node's own Pod range 10.244.2.0/24", ("10.244.2.0/24",)),
        (("198.51.100.128/25",), "198.51.100.128/25 overlaps 198.51.100.0/24 on link eth9 of this host", ()),
    ],
)
def test_a_range_that_no_node_can_have_is_left_out_and_named(ranges, said, left):
    links = {"eth9": networks("198.51.100.0/24"), "cni0": networks("10.244.1.0/24"), "tun0": networks("10.244.2.9/32")}
    facts = host(cluster(), networks=links)
    made = plan(Mode.VXLAN, keyed("n2", pod_ranges=networks(*ranges)), facts=facts, services=SERVICES)
    problems = told(made)
    assert [each.startswith("Node n2: spec.podCIDRs") and said in each for each in problems] == [True], problems
    assert (made.peers["n2"].ranges, made.peers["n2"].unreachable) == (networks(*left), ())
    assert made.peers["n2"].way is (Way.VXLAN if left else Way.NONE)
    assert made.peers["n3"].way is Way.VXLAN
    n1_and_n3 = networks("10.244.1.0/24", "10.244.3.0/24", "fd00:244:1::/64", "fd00:244:3::/64")
    assert made.confined == merged(map(span_of, (*n1_and_n3, *networks(*left))))


def test_a_range_outside_the_cluster_ranges_is_refused_even_if_it_holds_them():
    strange = keyed("n2", pod_ranges=networks("10.245.2.0/24", "fd00::/16"))
    made = plan(Mode.VXLAN, strange, cluster_ranges=CLUSTER)
    assert told(made) == [
        f"Node n2: spec.podCIDRs[{place}]: {network} is not inside cluster-ranges (10.244.0.0/16, fd00:244::/32);"
        " give the Node another range or add this one there"
        for place, network in enumerate(strange.pod_ranges)
    ]


def test_where_cluster_ranges_say_what_is_for_pods_a_hosts_own_networks_are_not_asked():
    facts = host(cluster(), networks={"eth0": networks("10.244.0.0/16")})
    assert plan(Mode.VXLAN, facts=facts, cluster_ranges=CLUSTER).problems == ()


def test_cluster_ranges_with_nodes_in_them_cut_nobody_off():
    made = plan(Mode.VXLAN, keyed("n2", addresses=addresses("10.244.200.2")), cluster_ranges=CLUSTER)
    assert told(made) == [
        "Node n2: status.addresses: 10.244.200.2 is inside cluster-ranges, which are for Pods only; make those smaller"
    ]
    assert made.peers["n2"].way is Way.VXLAN
    assert not any(ip_network("10.244.200.2/32").subnet_of(each) for each in made.confined if each.version == 4)
    assert sum(each.num_addresses for each in made.confined if each.version == 4) == (1 << 16) - 1


# --- two nodes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n2", "n3", "lost", "said"),
    [
        ("10.244.9.0/24", "10.244.9.0/24", "n3", "10.244.9.0/24 is that of Node n2, which keeps it; give one of them"),
        ("10.244.8.0/23", "10.244.9.0/24", "n3", "10.244.9.0/24 overlaps 10.244.8.0/23 of Node n2, which keeps it"),
        ("10.244.9.0/24", "10.244.8.0/23", "n3", "10.244.8.0/23 overlaps 10.244.9.0/24 of Node n2, which keeps it"),
        ("fd00:9::/64", "fd00:9:0:0:8000::/65", "n3", "fd00:9:0:0:8000::/65 overlaps fd00:9::/64 of Node n2"),
        ("192.0.2.3/32", "10.244.3.0/24", "n3", "status.addresses: 192.0.2.3 is inside 192.0.2.3/32 of Node n2"),
        ("10.244.2.0/24", "192.0.2.2/32", "n3", "192.0.2.2/32 overlaps 192.0.2.2 of Node n2, which keeps it"),
        ("10.244.1.0/24", "10.244.3.0/24", "n2", "10.244.1.0/24 is that of Node n1, which keeps it; give one of them"),
    ],
)
def test_of_two_nodes_the_one_whose_name_is_first_keeps_what_both_claim(n2, n3, lost, said):
    made = plan(Mode.VXLAN, keyed("n2", pod_ranges=networks(n2)), keyed("n3", pod_ranges=networks(n3)))
    (problem,) = told(made)
    assert problem.startswith(f"Node {lost}: ")
    assert said in problem
    winner = "n2" if lost == "n3" else "n3"
    assert made.peers[winner].way is Way.VXLAN
    assert made.peers[lost].ranges == (networks(n3) if "status" in said else ())
    assert made.peers[lost].unreachable == ()


def test_a_node_never_gives_its_own_range_away_and_says_what_others_do():
    made = plan(Mode.VXLAN, keyed("n3", pod_ranges=networks("10.244.1.0/24")), on="n3")
    assert made.ranges == networks("10.244.1.0/24")
    assert made.peers["n1"].ranges == networks("fd00:244:1::/64")
    assert told(made) == [
        "Node n1: spec.podCIDRs[0]: 10.244.1.0/24 is that of Node n3, which keeps it on itself,"
        " while other nodes send to n1; give one of them another"
    ]


def test_who_lost_a_range_does_not_keep_others_from_theirs():
    """n3 loses all to n2: what n4 has of it is n4's."""
    made = plan(
        Mode.VXLAN,
        keyed("n2", pod_ranges=networks("10.244.12.0/24")),
        keyed("n3", pod_ranges=networks("10.244.8.0/21")),
        keyed("n4", pod_ranges=networks("10.244.9.0/24")),
    )
    assert made.peers["n4"].ranges == networks("10.244.9.0/24")
    assert made.peers["n3"].ranges == ()
    assert ip_network("10.244.8.0/21") in made.confined


def test_a_range_with_somebodys_address_in_it_is_not_confined():
    made = plan(Mode.VXLAN, keyed("n3", pod_ranges=networks("192.0.2.0/31")))
    assert not any(each.overlaps(ip_network("192.0.2.0/24")) for each in made.confined if each.version == 4)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("169.254.169.254", "169.254.169.254 is in 169.254.0.0/16, which is nobody's; take it out"),
        ("127.0.0.1", "127.0.0.1 is in 127.0.0.0/8, which is nobody's; take it out"),
        ("0.0.0.0", "0.0.0.0 is in 0.0.0.0/8, which is nobody's; take it out"),
        ("224.0.0.5", "224.0.0.5 is in 224.0.0.0/4, which is nobody's; take it out"),
        ("fe80::2", "fe80::2 is in fe80::/10, which is nobody's; take it out"),
        ("ff02::1", "ff02::1 is in ff00::/8, which is nobody's; take it out"),
        ("10.96.0.1", "10.96.0.1 is in the Service range 10.96.0.0/16; take it out"),
    ],
)
def test_an_address_that_no_node_can_have_is_left_out_and_named(address, said):
    own = addresses("192.0.2.2", address, "2001:db8:2::2")
    made = plan(Mode.WIREGUARD, keyed("n2", addresses=own), services=SERVICES)
    assert told(made) == [f"Node n2: status.addresses: {said}"]
    assert made.peers["n2"].addresses == addresses("192.0.2.2", "2001:db8:2::2")
    alone = plan(Mode.VXLAN, keyed("n2", addresses=addresses(address)), services=SERVICES)
    assert told(alone) == [f"Node n2: status.addresses: {said}"]
    assert alone.peers["n2"].way is Way.NONE


@pytest.mark.parametrize("mode", Mode)
def test_of_two_nodes_with_one_address_one_is_reached_by_it_and_the_other_by_what_is_left(mode):
    both = keyed("n3", addresses=addresses("192.0.2.2", "2001:db8::3"))
    made = plan(mode, both)
    assert made.peers["n2"].addresses == addresses("192.0.2.2", "2001:db8::2")
    assert made.peers["n3"].addresses == addresses("2001:db8::3")
    said = told(made)
    assert said[0] == (
        "Node n3: status.addresses: 192.0.2.2 is that of Node n2, which keeps it; give one of them another"
    )
    assert made.peers["n2"].way is not Way.NONE
    if mode in (Mode.VXLAN, Mode.WIREGUARD):
        assert made.peers["n3"].tunnel.outer == both.addresses[1]


def test_this_nodes_address_is_this_nodes():
    made = plan(Mode.VXLAN, keyed("n1", addresses=addresses("192.0.2.2")), on="n2")
    assert made.addresses == addresses("192.0.2.2", "2001:db8::2")
    assert made.peers["n1"].way is Way.NONE


@pytest.mark.parametrize("mode", Mode)
def test_a_node_without_addresses_is_named_and_the_others_go_on(mode):
    made = plan(mode, keyed("n2", addresses=()))
    assert told(made) == ["Node n2: status.addresses: has no InternalIP to reach it by; add one"]
    assert (made.peers["n2"].way, made.peers["n3"].way is Way.NONE) == (Way.NONE, False)


@pytest.mark.parametrize("mode", Mode)
def test_this_node_without_addresses_reaches_nobody_and_says_so_once(mode):
    made = plan(mode, keyed("n1", addresses=()))
    assert told(made) == ["Node n1: status.addresses: has no InternalIP to reach it by; add one"]
    assert {each.way for each in made.peers.values()} == {Way.NONE}


def test_this_node_without_ranges_still_reaches_others():
    made = plan(Mode.VXLAN, keyed("n1", pod_ranges=()))
    assert told(made) == [
        "Node n1: spec.podCIDRs: is missing, so its Pods are not reached; set it, or wait for whoever allocates Pod"
        " ranges"
    ]
    assert made.overlays[0].inner == ()
    assert made.peers["n2"].way is Way.VXLAN


ONE_MAC = "nc8c14934a0df", "ne4186c7667e6"
"""Names whose hashes agree in 46 bits: found by Brent's method in 30 million steps."""


@pytest.mark.parametrize(("mode", "reached"), [(Mode.VXLAN, False), (Mode.WIREGUARD, True)])
def test_two_nodes_with_one_mac_are_told_by_name(mode, reached):
    first, second = (replace(keyed(f"n{place}"), name=name) for place, name in enumerate(ONE_MAC, 4))
    assert vtep_mac(first.name) == vtep_mac(second.name)
    made = plan(mode, first, second)
    assert made.peers[first.name].way is not Way.NONE
    assert (made.peers[second.name].way is not Way.NONE) == reached
    problem = f"Node {second.name}: metadata.name: makes the same MAC as Node {first.name}; name it otherwise"
    assert told(made) == ([] if reached else [problem])


def test_hundreds_of_claims_to_one_range_are_settled():
    crowd = [keyed(f"n{number}", pod_ranges=networks("10.244.0.0/16")) for number in range(4, 250)]
    made = plan(Mode.VXLAN, *crowd)
    assert len(made.problems) == len(crowd)
    assert {each.node for each in made.peers.values() if each.way is Way.VXLAN} == {"n2", "n3"}
