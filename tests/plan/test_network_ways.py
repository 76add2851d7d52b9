"""How one node reaches another: each mode, each family, each size."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import addresses, networks
from network_nodes import cluster, host, key, keyed, plan, told, without

from netplane.errors import InputError
from netplane.plan.network import addresses_to_reach, plan_network
from netplane.plan.network_names import inner_addresses, vtep_mac
from netplane.plan.network_plan import HostFacts, Overlay, Path, PeerPlan, Tunnel, Way
from netplane.plan.network_settings import Mode, NetworkSettings, PodsToNodes, Wireguard
from netplane.plan.network_text import network_text

N2 = addresses("192.0.2.2", "2001:db8::2")
N2_PODS = networks("10.244.2.0/24", "fd00:244:2::/64")
N2_INNER = addresses("10.244.2.0", "fd00:244:2::")
FOUR, SIX = {"addresses": N2[:1]}, {"addresses": N2[1:]}


def test_by_vxlan_packets_go_in_packets_to_the_nodes_address():
    made = plan(Mode.VXLAN)
    tunnel = Tunnel(N2[0], N2_INNER, mac=vtep_mac("n2"))
    assert made.peers["n2"] == PeerPlan("n2", Way.VXLAN, N2_PODS, N2, "np-vxlan4", 1450, tunnel=tunnel)
    inner = addresses("10.244.1.0", "fd00:244:1::")
    assert made.overlays == (Overlay("np-vxlan4", addresses("192.0.2.1")[0], inner, 1450, vtep_mac("n1")),)
    assert (made.pod_mtu, made.problems, made.notes, made.bgp) == (1450, (), (), None)


def test_by_wireguard_they_go_enciphered_for_the_nodes_key():
    made = plan(Mode.WIREGUARD)
    tunnel = Tunnel(N2[0], N2_INNER, key=key(2))
    assert made.peers["n2"] == PeerPlan("n2", Way.WIREGUARD, N2_PODS, N2, "np-wg", 1440, tunnel=tunnel)
    inner = addresses("10.244.1.0", "fd00:244:1::")
    assert made.overlays == (Overlay("np-wg", addresses("192.0.2.1")[0], inner, 1440, key=key(1)),)
    assert (made.pod_mtu, made.problems) == (1440, ())


@pytest.mark.parametrize("mode", [Mode.VXLAN, Mode.WIREGUARD])
@pytest.mark.parametrize(
    ("has", "sources"),
    [
        (("2001:db8::1", "192.0.2.1", "203.0.113.9"), ("192.0.2.1", "2001:db8::1")),
        (("192.0.2.1",), ("192.0.2.1",)),
        (("203.0.113.9",), ()),
    ],
    ids=["both", "one", "another"],
)
def test_the_node_itself_speaks_as_others_know_it_where_its_host_has_the_address(mode, has, sources):
    facts = replace(host(cluster()), addresses=frozenset(addresses(*has)))
    made = plan(mode, facts=facts)
    assert made.overlays[0].sources == addresses(*sources)
    assert (f"    the node itself speaks as {', '.join(sources)}\n" in network_text(made)) == bool(sources)


@pytest.mark.parametrize("mode", [Mode.VXLAN, Mode.WIREGUARD])
@pytest.mark.parametrize(("has", "sources"), [(("192.0.2.1", "192.0.2.77"), ("192.0.2.1",)), (("192.0.2.77",), ())])
def test_of_several_addresses_of_a_family_others_know_the_first(mode, has, sources):
    facts = replace(host(cluster()), addresses=frozenset(addresses(*has)))
    made = plan(mode, keyed("n1", addresses=addresses("192.0.2.1", "192.0.2.77", "2001:db8::1")), facts=facts)
    assert made.overlays[0].sources == addresses(*sources)


@pytest.mark.parametrize("mode", [Mode.VXLAN, Mode.WIREGUARD])
def test_in_a_family_without_an_end_on_the_overlay_the_node_has_nothing_to_speak_as(mode):
    facts = replace(host(cluster()), addresses=frozenset(addresses("192.0.2.1", "2001:db8::1")))
    made = plan(mode, keyed("n1", pod_ranges=networks("10.244.1.0/24")), facts=facts)
    assert made.overlays[0].sources == addresses("192.0.2.1")


@pytest.mark.parametrize("mode", [Mode.HOST_GW, Mode.CROSS_SUBNET])
def test_directly_they_go_to_the_nodes_address_of_their_own_family(mode):
    made = plan(mode)
    assert made.peers["n2"] == PeerPlan("n2", Way.DIRECT, N2_PODS, N2, "eth0", 1500, next_hops=N2)
    assert (made.overlays, made.pod_mtu, made.problems) == ((), 1500, ())


def test_by_bgp_they_go_as_bird_learns():
    made = plan(Mode.BGP)
    assert made.peers["n2"] == PeerPlan("n2", Way.BGP, N2_PODS, N2, mtu=1500)
    assert (made.overlays, made.pod_mtu, made.problems) == ((), 1500, ())


def test_cross_subnet_goes_directly_to_neighbours_and_by_vxlan_past_a_router():
    made = plan(Mode.CROSS_SUBNET, far=["n3"])
    assert [made.peers[name].way for name in ("n2", "n3")] == [Way.DIRECT, Way.VXLAN]
    assert [each.link for each in made.overlays] == ["np-vxlan4"]
    assert made.pod_mtu == 1450


@pytest.mark.parametrize(
    ("mode", "here", "there", "way", "link", "mtu"),
    [
        (Mode.VXLAN, {}, SIX, Way.VXLAN, "np-vxlan6", 1430),
        (Mode.VXLAN, SIX, {}, Way.VXLAN, "np-vxlan6", 1430),
        (Mode.VXLAN, SIX, FOUR, Way.NONE, "", 0),
        (Mode.WIREGUARD, {}, SIX, Way.WIREGUARD, "np-wg", 1420),
        (Mode.WIREGUARD, {}, FOUR, Way.WIREGUARD, "np-wg", 1440),
        (Mode.CROSS_SUBNET, {}, FOUR, Way.VXLAN, "np-vxlan4", 1450),
        (Mode.CROSS_SUBNET, {"pod_ranges": N2_PODS[:0] + networks("10.244.1.0/24")}, FOUR, Way.DIRECT, "eth0", 1500),
        (Mode.HOST_GW, {}, FOUR, Way.DIRECT, "eth0", 1500),
        (Mode.BGP, {}, SIX, Way.BGP, "", 1500),
    ],
)
def test_which_family_packets_go_by(mode, here, there, way, link, mtu):
    own = {"addresses": addresses("2001:db8::1")} if here is SIX else here
    peer = plan(mode, keyed("n1", **own), keyed("n2", **there)).peers["n2"]
    assert (peer.way, peer.link, peer.mtu) == (way, link, mtu)


@pytest.mark.parametrize("mode", [Mode.HOST_GW, Mode.BGP])
def test_a_range_without_an_address_of_its_family_is_refused_and_the_other_family_goes_on(mode):
    made = plan(mode, keyed("n2", **FOUR))
    assert (made.peers["n2"].ranges, made.peers["n2"].unreachable) == (N2_PODS[:1], N2_PODS[1:])
    (said,) = told(made)
    assert said.startswith("Node n2: status.addresses: has no IPv6 address, which its IPv6 Pod range needs with mode")


@pytest.mark.parametrize("mode", [Mode.HOST_GW, Mode.CROSS_SUBNET, Mode.BGP])
def test_a_node_of_one_family_is_no_fault_of_those_with_two(mode):
    own = keyed("n1", addresses=addresses("192.0.2.1"), pod_ranges=networks("10.244.1.0/24"))
    facts = without(host(cluster()), *addresses("2001:db8::2", "2001:db8::3"))
    made = plan(mode, own, facts=facts)
    assert (made.peers["n2"].ranges, made.peers["n2"].unreachable) == (N2_PODS[:1], N2_PODS[1:])
    assert made.problems == ()
    assert str(made.notes[0]) == "Node n2: its IPv6 Pods are not reached: this node has no IPv6 address"


@pytest.mark.parametrize("mode", [Mode.HOST_GW, Mode.BGP])
def test_a_node_that_lacks_an_address_for_its_own_pods_is_told_once(mode):
    made = plan(mode, keyed("n1", addresses=addresses("192.0.2.1")), facts=host(cluster()))
    said = [each for each in told(made) if each.startswith("Node n1: ")]
    assert said == [
        "Node n1: status.addresses: has no IPv6 address, which its IPv6 Pod range needs with mode"
        f" {mode.value}; add one, or use vxlan"
    ]


def test_host_gw_past_a_router_is_refused_with_the_remedy_and_neighbours_go_on():
    made = plan(Mode.HOST_GW, far=["n3"])
    assert (made.peers["n2"].way, made.peers["n3"].way) == (Way.DIRECT, Way.NONE)
    assert made.peers["n3"].unreachable == networks("10.244.3.0/24", "fd00:244:3::/64")
    assert told(made) == [
        f"Node n3: status.addresses: {address} is behind a router,"
        " which mode host-gw cannot pass; use mode cross-subnet"
        for address in ("192.0.2.3", "2001:db8::3")
    ]


@pytest.mark.parametrize("mode", Mode)
def test_a_node_without_a_path_is_named(mode):
    made = plan(mode, facts=without(host(cluster()), *N2))
    assert "Node n2: status.addresses: this host has no route to 192.0.2.2; add one, or correct the address" in told(
        made
    )
    assert made.peers["n2"].way is (Way.BGP if mode is Mode.BGP else Way.NONE)
    assert made.peers["n3"].way is not Way.NONE


def test_the_outer_family_does_not_depend_on_paths():
    """Else the two nodes would choose differently, and each drop what comes by the wrong link."""
    made = plan(Mode.VXLAN, facts=without(host(cluster()), N2[0]))
    assert made.peers["n2"].way is Way.NONE


@pytest.mark.parametrize(
    ("link", "said"),
    [
        ("lo", "192.0.2.2 is an address of this host too; give one of them another"),
        ("np-vxlan6", "the route to 192.0.2.2 leads into np-vxlan6, which needs it itself; add one by another link"),
        ("np-wg", "the route to 192.0.2.2 leads into np-wg"),
    ],
)
def test_a_path_that_leads_nowhere_is_none(link, said):
    facts = host(cluster())
    facts = replace(facts, paths={**facts.paths, N2[0]: Path(link, 1500, on_link=True)})
    made = plan(Mode.VXLAN, facts=facts)
    assert made.peers["n2"].way is Way.NONE
    assert said in told(made)[0]


def test_two_families_over_two_links_are_not_one_way():
    facts = host(cluster())
    facts = replace(facts, paths={**facts.paths, N2[1]: Path("eth1", 1500, on_link=True)})
    made = plan(Mode.HOST_GW, facts=facts)
    assert (made.peers["n2"].ranges, made.peers["n2"].next_hops) == (N2_PODS[:1], N2[:1])
    assert "2001:db8::2 is reached over eth1, its other address over eth0" in told(made)[0]


# --- sizes ------------------------------------------------------------------------------------------------------------


def sized(mtus):
    facts = host(cluster())
    sizes = {address: mtu for name, mtu in mtus.items() for address in cluster()[name].addresses}
    return replace(facts, paths={to: replace(path, mtu=sizes.get(to, path.mtu)) for to, path in facts.paths.items()})


def test_each_way_has_its_own_size_and_pods_have_the_least():
    made = plan(Mode.VXLAN, facts=sized({"n2": 9000}))
    assert [made.peers[name].mtu for name in ("n2", "n3")] == [8950, 1450]
    assert (made.overlays[0].mtu, made.pod_mtu) == (8950, 1450)


@pytest.mark.parametrize(
    ("mode", "mtu", "sizes", "problem"),
    [
        (Mode.VXLAN, 1400, (1400, 1400), ""),
        (Mode.VXLAN, 1450, (1450, 1450), ""),
        (
            Mode.VXLAN,
            1500,
            (1450, 1450),
            "network setting mtu: 1500 bytes are more than the way to Node n2 takes, which",
        ),
        (Mode.HOST_GW, 1500, (1500, 1500), ""),
        (Mode.BGP, 9000, (1500, 1500), "is 1500 (and 1 more ways take less); say at most 1500"),
    ],
)
def test_settings_make_packets_smaller_and_never_larger(mode, mtu, sizes, problem):
    made = plan(mode, mtu=mtu)
    assert (made.peers["n2"].mtu, made.pod_mtu) == sizes
    assert [problem in each for each in told(made)] == ([True] if problem else [])


@pytest.mark.parametrize(("mode", "mtu"), [(Mode.VXLAN, 1329), (Mode.WIREGUARD, 1339), (Mode.HOST_GW, 1279)])
def test_a_way_too_small_for_ipv6_is_one_for_ipv4(mode, mtu):
    made = plan(mode, facts=sized({"n2": mtu, "n3": mtu}))
    peer = made.peers["n2"]
    assert (peer.mtu, peer.ranges, peer.unreachable) == (1279, N2_PODS[:1], N2_PODS[1:])
    assert "Node n2: spec.podCIDRs: its IPv6 Pods are not reached: the way to it over" in told(made)[0]
    assert "leaves 1279 bytes for a packet, and IPv6 needs 1280" in told(made)[0]
    if peer.tunnel:
        assert peer.tunnel.inner == N2_INNER[:1]
        assert made.overlays[0].inner == addresses("10.244.1.0")
    assert peer.next_hops == (N2[:1] if mode is Mode.HOST_GW else ())


def test_a_way_of_no_size_is_none():
    made = plan(Mode.VXLAN, facts=sized({"n2": 100}))
    assert (made.peers["n2"].way, made.peers["n2"].unreachable) == (Way.NONE, N2_PODS)
    assert made.pod_mtu == 1450


def test_alone_there_is_nothing_to_know_the_size_from():
    nodes = {"n1": keyed("n1")}
    for mtu in (0, 1400):
        made = plan_network(nodes, "n1", NetworkSettings(Mode.VXLAN, mtu=mtu), HostFacts())
        assert (made.pod_mtu, made.overlays, dict(made.peers), made.problems) == (mtu, (), {}, ())


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        (None, "is missing; the agent on that node says which key to write there"),
        ("", "is missing"),
        (key(2)[:-1], "is not the base64 of a key of 32 bytes"),
        (key(2) + "\n", "is not the base64 of a key of 32 bytes"),
        (key(2)[:-2] + "B=", "is not the base64 of a key of 32 bytes"),
        (key(0), "is not the base64 of a key of 32 bytes"),
        ("\u202e" * 100000, "'\\u202e"),
        (key(1), "is also that of Node n1, which keeps it; make a new one on one of them"),
        (key(3), ""),
    ],
)
def test_a_node_without_a_usable_key_is_not_reached_and_named(shown, said):
    annotations = () if shown is None else (("netplane.dev/wireguard-public-key", shown),)
    made = plan(Mode.WIREGUARD, keyed("n2", annotations=annotations))
    loser = "n2" if said else "n3"
    said = said or "is also that of Node n2"
    assert (made.peers[loser].way, made.peers[loser].tunnel) == (Way.NONE, None)
    (problem,) = told(made)
    assert problem.startswith(f"Node {loser}: metadata.annotations[netplane.dev/wireguard-public-key]: ")
    assert said in problem
    assert len(problem) < 300
    assert {each.way for name, each in made.peers.items() if name != loser} == {Way.WIREGUARD}


def test_in_plain_text_a_node_without_a_key_is_reached_only_if_that_is_allowed():
    made = plan(Mode.WIREGUARD, keyed("n2", annotations=()), wireguard=Wireguard(plaintext=True))
    assert (made.peers["n2"].way, made.peers["n3"].way) == (Way.DIRECT, Way.WIREGUARD)
    assert "in plain text" in str(made.notes[0])
    assert made.problems == ()


def test_in_plain_text_nothing_passes_a_router():
    made = plan(Mode.WIREGUARD, keyed("n2", annotations=()), far=["n2"], wireguard=Wireguard(plaintext=True))
    assert made.peers["n2"].way is Way.NONE
    assert "is behind a router, which plain text cannot pass" in told(made)[0]


@pytest.mark.parametrize(
    ("shown", "own", "said", "way"),
    [
        (key(1), "", "this node has no private key", Way.NONE),
        (key(9), key(1), f"{key(9)} is not the key of this node, so no other reaches its Pods; write", Way.WIREGUARD),
        ("?", key(1), "'?' is not the base64 of a key of 32 bytes", Way.WIREGUARD),
    ],
)
def test_its_own_key_is_compared_with_what_others_see(shown, own, said, way):
    this = keyed("n1", annotations=(("netplane.dev/wireguard-public-key", shown),))
    made = plan(Mode.WIREGUARD, this, facts=host(cluster(), public_key=own))
    (problem,) = told(made)
    assert problem.startswith("Node n1: metadata.annotations[netplane.dev/wireguard-public-key]: ")
    assert said in problem
    assert made.peers["n2"].way is way


def test_no_other_node_has_the_key_this_one_really_has():
    this = keyed("n1", annotations=(("netplane.dev/wireguard-public-key", key(9)),))
    thief = keyed("n2", annotations=(("netplane.dev/wireguard-public-key", key(1)),))
    made = plan(Mode.WIREGUARD, this, thief)
    assert made.peers["n2"].way is Way.NONE
    assert made.peers["n3"].way is Way.WIREGUARD


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_without_its_own_node_there_is_no_plan():
    with pytest.raises(InputError) as caught:
        plan_network({"n2": keyed("n2")}, "n1", NetworkSettings(Mode.VXLAN), HostFacts())
    assert "Node n1: not found (Nodes there are: n2)" in str(caught.value)
    assert "stays as it was" in str(caught.value)


def test_pods_keep_their_address_towards_pods_nodes_services_and_what_settings_add():
    made = plan(
        Mode.VXLAN, services=networks("10.96.0.0/16"), no_masquerade=networks("198.51.100.0/24", "10.244.2.0/25")
    )
    assert made.keeps_source == networks(
        "10.96.0.0/16",
        "10.244.1.0/24",
        "10.244.2.0/23",
        "192.0.2.1/32",
        "192.0.2.2/31",
        "198.51.100.0/24",
        "2001:db8::1/128",
        "2001:db8::2/127",
        "fd00:244:1::/64",
        "fd00:244:2::/64",
        "fd00:244:3::/64",
    )
    assert made.confined == networks(
        "10.244.1.0/24", "10.244.2.0/23", "fd00:244:1::/64", "fd00:244:2::/64", "fd00:244:3::/64"
    )


def test_cluster_ranges_are_confined_whole():
    made = plan(Mode.VXLAN, cluster_ranges=networks("10.244.0.0/16", "fd00:244::/32"))
    assert made.confined == networks("10.244.0.0/16", "fd00:244::/32")
    assert made.problems == ()


def test_silent_nodes_are_noted_and_still_reached():
    made = plan(Mode.VXLAN, facts=host(cluster(), silent=frozenset({"n2", "n9"})))
    assert [str(each) for each in made.notes] == ["Node n2: does not answer now"]
    assert made.peers["n2"].way is Way.VXLAN


def test_which_addresses_the_plan_asks_paths_of():
    assert addresses_to_reach(cluster(), "n1", NetworkSettings(Mode.VXLAN)) == addresses(
        "192.0.2.2", "2001:db8::2", "192.0.2.3", "2001:db8::3"
    )


def test_names_alone_say_macs_and_inner_addresses():
    macs = {vtep_mac(f"n{number}") for number in range(2000)}
    assert len(macs) == 2000
    assert all(len(mac) == 6 and mac[0] & 3 == 2 for mac in macs)
    ranges = networks("fd00:1::/64", "10.1.0.0/24", "10.2.0.0/24")
    assert inner_addresses(ranges) == addresses("10.1.0.0", "fd00:1::")


def test_of_another_node_the_first_address_of_each_family_counts_and_of_this_one_all():
    more = addresses("192.0.2.2", "8.8.8.8", "2001:db8::2", "2001:db8::bad")
    made = plan(Mode.VXLAN, keyed("n2", addresses=more))
    assert made.peers["n2"].addresses == N2
    own = keyed("n1", addresses=addresses("192.0.2.1", "192.0.2.99"))
    assert plan(Mode.VXLAN, own).addresses == addresses("192.0.2.1", "192.0.2.99")


# --- where Pods are not ----------------------------------------------------------------------------------------------


def test_uplinks_are_the_ways_to_nodes_and_links_with_networks_that_are_not_of_our_pods():
    nodes = cluster()
    on = {
        "eth0": networks("192.0.2.0/24"),
        "eth1": networks("198.51.100.0/24"),
        "cni0": networks("10.244.1.0/24"),
        "wide": networks("10.244.0.0/15"),  # a bridge of Pods whose netmask is that of the cluster
        "veth": networks("203.0.113.7/32"),
    }
    assert plan(Mode.VXLAN, facts=host(nodes, networks=on)).uplinks == ("eth0", "eth1")
    assert plan(Mode.VXLAN, facts=host(nodes, networks={})).uplinks == ("eth0",)
    paths = {to: replace(path, link="lo") for to, path in host(nodes).paths.items()}
    assert plan(Mode.VXLAN, facts=host(nodes, paths=paths)).uplinks == ()


def test_a_network_that_holds_our_pods_too_is_on_an_uplink_if_nodes_are_there():
    facts = host(cluster(), networks={"eth0": networks("10.0.0.0/8")})
    assert plan(Mode.VXLAN, facts=facts).uplinks == ("eth0",)


@pytest.mark.parametrize("mode", Mode)
def test_pods_reach_nodes_directly_only_beside_a_vxlan(mode):
    made = plan(mode, pods_to_nodes=PodsToNodes.DIRECT)
    assert made.settings.nodes_directly is (mode in (Mode.VXLAN, Mode.CROSS_SUBNET))
    assert ("pods reach other nodes directly" in network_text(made)) is made.settings.nodes_directly
