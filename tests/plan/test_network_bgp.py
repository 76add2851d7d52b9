"""What a node says and hears by BGP."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address

import pytest
from builders import addresses, networks
from network_nodes import cluster, host, keyed, plan, told

from netplane.model.address import Family
from netplane.plan.network import addresses_to_reach
from netplane.plan.network_names import node_session, router_id, router_session
from netplane.plan.network_plan import BgpSession, Path, Way
from netplane.plan.network_settings import Announce, Bgp, BgpPeer, LoadBalancers, Mode, NetworkSettings

RACK = ip_address("198.18.0.1")
ROUTER = BgpPeer(RACK, 64513, nodes=(("rack", "a"),))
IN_A = {"labels": frozenset({("rack", "a")})}
REFLECTS = {"labels": frozenset({("rr", "yes")})}
BY_REFLECTORS = Bgp(reflectors=(("rr", "yes"),))


def names(made):
    return [each.name for each in made.bgp.sessions]


def session(made, name):
    (found,) = [each for each in made.bgp.sessions if each.name == name]
    return found


def test_in_a_mesh_every_node_speaks_with_every_other_once_for_each_family():
    made = plan(Mode.BGP, bgp=Bgp(asn=65001, password_file="/etc/key"))
    assert names(made) == ["node_n2", "node_n2_v6", "node_n3", "node_n3_v6"]
    assert made.bgp.sessions[:2] == tuple(
        BgpSession(name, ip_address(local), ip_address(remote), 65001, "/etc/key")
        for name, local, remote in (
            ("node_n2", "192.0.2.1", "192.0.2.2"),
            ("node_n2_v6", "2001:db8::1", "2001:db8::2"),
        )
    )
    assert (made.bgp.router_id, made.bgp.cluster_id) == (ip_address("192.0.2.1"), None)
    assert made.bgp.announced == networks("10.244.1.0/24", "fd00:244:1::/64")
    assert made.bgp.accepted == made.confined


def test_a_family_without_pods_has_no_session():
    four = [keyed(f"n{i}", pod_ranges=networks(f"10.244.{i}.0/24")) for i in (1, 2)]
    assert names(plan(Mode.BGP, *four)) == ["node_n2", "node_n3", "node_n3_v6"]


@pytest.mark.parametrize(
    ("on", "expected"),
    [
        ("n1", {"node_n2": True, "node_n2_v6": True, "node_n3": False, "node_n3_v6": False}),
        ("n2", {"node_n1": False, "node_n1_v6": False, "node_n3": False, "node_n3_v6": False}),
    ],
)
def test_with_reflectors_clients_speak_with_those_only_and_those_with_all(on, expected):
    reflectors = [keyed("n1", **REFLECTS), keyed("n3", **REFLECTS)]
    made = plan(Mode.BGP, *reflectors, keyed("n4"), on=on, bgp=BY_REFLECTORS)
    if on == "n1":
        expected |= {"node_n4": True, "node_n4_v6": True}
    assert {each.name: each.client for each in made.bgp.sessions} == expected
    assert made.bgp.cluster_id == (ip_address("192.0.2.1") if on == "n1" else None)
    assert made.problems == ()


def test_reflectors_that_no_node_is_are_told():
    made = plan(Mode.BGP, bgp=BY_REFLECTORS)
    assert made.bgp.sessions == ()
    assert told(made) == [
        "Node n1: metadata.labels: bgp.reflectors: no Node has them all (rr=yes), so nobody reflects routes;"
        " label some, or correct the setting"
    ]


def test_a_router_is_for_the_nodes_that_have_its_labels():
    bgp = Bgp(peers=(replace(ROUTER, password_file="/etc/rack"),))
    assert "router_198_18_0_1" not in names(plan(Mode.BGP, bgp=bgp))
    made = plan(Mode.BGP, keyed("n1", **IN_A), bgp=bgp)
    assert session(made, "router_198_18_0_1") == BgpSession(
        "router_198_18_0_1", ip_address("192.0.2.1"), RACK, 64513, "/etc/rack"
    )


def test_a_router_is_spoken_to_from_the_address_the_path_has_if_it_is_the_nodes():
    own = keyed("n1", addresses=addresses("192.0.2.1", "198.18.0.9"), **IN_A)
    for source, local in (("198.18.0.9", "198.18.0.9"), ("198.18.0.77", "192.0.2.1")):
        facts = host(cluster())
        path = Path("eth1", 1500, on_link=True, source=ip_address(source))
        made = plan(Mode.BGP, own, facts=replace(facts, paths={**facts.paths, RACK: path}), bgp=Bgp(peers=(ROUTER,)))
        assert session(made, "router_198_18_0_1").local == ip_address(local)


@pytest.mark.parametrize(
    ("peers", "own", "said"),
    [
        ((replace(ROUTER, address=ip_address("192.0.2.2")),), {}, "192.0.2.2: is the address of a Node"),
        ((ROUTER, replace(ROUTER, nodes=())), {}, "198.18.0.1: is in two entries that are for this Node; remove one"),
        ((ROUTER,), {"addresses": addresses("2001:db8::1")}, "198.18.0.1: this Node has no IPv4 address to speak from"),
        ((BgpPeer(ip_address("198.18.9.9"), 1),), {}, "198.18.9.9: is behind a router; say `multihop: true`"),
    ],
)
def test_a_router_that_cannot_be_spoken_with_is_named(peers, own, said):
    facts = host(cluster())
    paths = {**facts.paths, ip_address("198.18.9.9"): Path("eth0", 1500, on_link=False)}
    made = plan(Mode.BGP, keyed("n1", **IN_A, **own), facts=replace(facts, paths=paths), bgp=Bgp(peers=peers))
    assert [each for each in told(made) if "bgp.peers" in each] == [
        each for each in told(made) if each.startswith("Node n1: bgp.peers: ") and said in each
    ]
    assert any(said in each for each in told(made))
    assert len(set(names(made))) == len(names(made))


@pytest.mark.parametrize(
    ("here", "there", "ways", "missing"),
    [
        ({}, {}, Way.NONE, "n1"),
        (IN_A, {}, Way.NONE, "n3"),
        ({}, IN_A, Way.NONE, "n1"),
        (IN_A, IN_A, Way.BGP, ""),
    ],
)
def test_a_node_behind_a_router_is_reached_only_if_the_router_hears_of_both(here, there, ways, missing):
    nodes = keyed("n1", **here), keyed("n3", **there)
    made = plan(Mode.BGP, *nodes, far=["n3"], bgp=Bgp(peers=(ROUTER,)))
    assert (made.peers["n2"].way, made.peers["n3"].way) == (Way.BGP, ways)
    assert ("node_n3" in names(made)) == (ways is Way.BGP)
    if missing:
        assert told(made)[0] == (
            "Node n3: status.addresses: 192.0.2.3 is behind a router, and no entry of bgp.peers is for Node"
            f" {missing}: the router would not know its Pods; add one, or use mode cross-subnet"
        )
    else:
        assert session(made, "node_n3").multihop
        assert made.problems == ()


def test_without_mesh_nodes_hear_from_routers_only():
    bgp = Bgp(mesh=False, peers=(ROUTER,))
    made = plan(Mode.BGP, keyed("n1", **IN_A), bgp=bgp)
    assert (names(made), made.problems) == (["router_198_18_0_1"], ())
    assert "no entry of bgp.peers is for this Node, so it hears of no Pod" in told(plan(Mode.BGP, bgp=bgp))[0]


# --- Services ---------------------------------------------------------------------------------------------------------

LB = addresses("203.0.113.9", "2001:db8:113::9")


@pytest.mark.parametrize(
    ("settings", "announced"),
    [
        ({}, False),
        ({"bgp": Bgp(advertise_external_ips=True)}, True),
        ({"bgp": Bgp(advertise_load_balancer_ips=True)}, True),
        ({"load_balancers": LoadBalancers(announce=Announce.BGP)}, True),
    ],
)
def test_addresses_of_services_are_announced_if_settings_say_so(settings, announced):
    made = plan(Mode.BGP, advertised=LB, **settings)
    assert made.bgp.announced[2:] == (networks("203.0.113.9/32", "2001:db8:113::9/128") if announced else ())


def test_no_service_announces_the_address_of_a_node_or_pod():
    bad = addresses("192.0.2.3", "10.244.3.7", "fd00:244:1::1", "203.0.113.9")
    made = plan(Mode.BGP, advertised=bad, bgp=Bgp(advertise_external_ips=True))
    assert made.bgp.announced[2:] == networks("203.0.113.9/32")
    assert told(made) == [
        "Service address 10.244.3.7: is a Pod's (in 10.244.2.0/23), so it is not announced; take it out of the"
        " Services that have it",
        "Service address 192.0.2.3: is a Node's, so it is not announced; take it out of the Services that have it",
        "Service address fd00:244:1::1: is a Pod's (in fd00:244:1::/64), so it is not announced; take it out of the"
        " Services that have it",
    ]


def test_other_modes_speak_bgp_for_load_balancers_only():
    settings = {"bgp": Bgp(peers=(replace(ROUTER, nodes=()),)), "load_balancers": LoadBalancers(announce=Announce.BGP)}
    made = plan(Mode.VXLAN, advertised=LB, **settings)
    assert names(made) == ["router_198_18_0_1"]
    assert (made.bgp.announced, made.bgp.accepted) == (networks("203.0.113.9/32", "2001:db8:113::9/128"), ())
    assert RACK in addresses_to_reach(cluster(), "n1", NetworkSettings(Mode.VXLAN, **settings))
    assert plan(Mode.VXLAN, advertised=LB).bgp is None


# --- names ------------------------------------------------------------------------------------------------------------


def test_a_node_without_ipv4_has_a_number_for_a_router_id():
    made = plan(Mode.BGP, keyed("n1", addresses=addresses("2001:db8::1")))
    assert made.bgp.router_id == router_id("n1", ()) != router_id("n2", ())
    assert isinstance(made.bgp.router_id, IPv4Address)


@pytest.mark.parametrize(
    "name", ["n2", "n-2", "n.2", "n" * 253, "n" * 41, "node-" * 50 + "x", "a.b-c", "a-b.c"], ids=lambda name: name[:9]
)
def test_names_of_sessions_are_words_for_bird(name):
    for family in Family:
        word = node_session(name, family)
        assert word.replace("_", "a").isalnum()
        assert len(word) <= 53


def test_names_of_sessions_differ_if_those_of_nodes_do():
    nodes = ["n2", "n-2", "n.2", "n2-v6", "n2.v6", "a.b-c", "a-b.c", "n" * 60, "n" * 61]
    words = [node_session(name, family) for name in nodes for family in Family]
    words += [router_session(address) for address in addresses("198.18.0.1", "fd00::1", "fd00:0:1::", "::1")]
    assert len(set(words)) == len(words)
