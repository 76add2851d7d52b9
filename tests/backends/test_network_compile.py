"""A network plan as links, addresses, neighbours and routes: a line for each that must be there, in every mode."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import fields, replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from network_plans import (
    CLUSTER,
    UPLINK,
    WAYS,
    addresses,
    cluster,
    inner,
    key,
    mac,
    peer,
    plan,
    ranges,
    without_sources,
)

from netplane.backends.network.compile import CompiledNetwork, compile_network
from netplane.model.address import Family, IPAddress
from netplane.model.table import changes
from netplane.plan.network_plan import Announced, NetworkPlan, Way
from netplane.plan.network_settings import LoadBalancers, Mode, NetworkSettings, Vxlan, Wireguard
from netplane.programs.network import (
    BACKSTOP_METRIC,
    METRIC,
    TABLE,
    LinkAddress,
    NetworkProgram,
    Route,
    RouteKey,
    RouteKind,
    SourceRule,
    VxlanLink,
    WireguardLink,
    WireguardPeer,
)
from netplane.programs.nftables import NftablesProgram
from netplane.programs.nftables_text import whole_elements
from netplane.programs.program import NETWORK_TABLE, Program

FOUR, SIX = addresses(1)
UNREACHABLE, BLACKHOLE = Route(RouteKind.UNREACHABLE), Route(RouteKind.BLACKHOLE)


def network(made: NetworkPlan) -> NetworkProgram:
    return compile_network(made).program.network


def to(text: str, *, table: int = 254, metric: int = METRIC) -> RouteKey:
    return RouteKey(ip_network(text), table, metric)


def routes(made: NetworkPlan) -> dict[RouteKey, Route]:
    """Those of peers."""
    return {key: route for key, route in network(made).routes.items() if key.metric == METRIC}


def via(hop: str, link: str, mtu: int = 0, source: IPAddress | None = None) -> Route:
    return Route(link=link, via=ip_address(hop), mtu=mtu, source=source)


# --- peers ----------------------------------------------------------------------------------------------------------


def test_directly_its_pods_are_behind_its_address():
    assert routes(cluster(Mode.HOST_GW, 2)) == {
        to("10.244.2.0/24"): via("198.18.0.2", UPLINK),
        to("fd00:244:2::/64"): via("fd00:198:18::2", UPLINK),
    }


def test_by_vxlan_its_pods_and_for_pods_its_own_addresses_are_behind_its_inner_address():
    assert routes(cluster(Mode.VXLAN, 2)) == {
        to("10.244.2.0/24"): via("10.244.2.0", "np-vxlan4", source=FOUR),
        to("fd00:244:2::/64"): via("fd00:244:2::", "np-vxlan4", source=SIX),
        to("198.18.0.2/32", table=TABLE): via("10.244.2.0", "np-vxlan4"),
        to("fd00:198:18::2/128", table=TABLE): via("fd00:244:2::", "np-vxlan4"),
    }


def test_by_vxlan_its_inner_addresses_have_its_mac_and_its_mac_is_behind_its_address():
    made = network(cluster(Mode.VXLAN, 2))
    assert dict(made.neighbours) == {("np-vxlan4", each): mac(2) for each in inner(2)}
    assert dict(made.forwarding) == {("np-vxlan4", mac(2)): ip_address("198.18.0.2")}


def test_by_wireguard_what_is_sent_to_it_is_what_it_may_send():
    made = network(cluster(Mode.WIREGUARD, 2))
    own = [ip_network(each) for each in addresses(2)]
    assert {each: route for each, route in made.routes.items() if each.metric == METRIC} == {
        **{
            RouteKey(each): Route(link="np-wg", source=source)
            for each, source in zip(ranges(2), addresses(1), strict=True)
        },
        **{RouteKey(each, TABLE): Route(link="np-wg") for each in own},
    }
    allowed = (ranges(2)[0], own[0], own[1], ranges(2)[1])
    assert made.peers == {"np-wg": made.peers["np-wg"]}
    assert dict(made.peers["np-wg"]) == {key(2): WireguardPeer(key(2), addresses(2)[0], 51820, allowed)}
    assert (made.neighbours, made.forwarding) == ({}, {})


def test_of_bgp_there_is_only_what_catches_packets_and_a_configuration_of_bird():
    made = network(cluster(Mode.BGP, 3))
    assert {each.metric for each in made.routes} == {BACKSTOP_METRIC}
    assert (made.rules, made.links) == (frozenset(), {})
    assert "10.244.1.0/24" in made.bird


@pytest.mark.parametrize("mode", [each for each in Mode if each is not Mode.BGP])
def test_where_nothing_is_announced_there_is_no_bird(mode):
    assert network(cluster(mode)).bird == ""


def test_ranges_that_cannot_be_reached_are_refused():
    made = plan(Mode.HOST_GW, [peer(2, Way.NONE), peer(3, Way.DIRECT, (4,), unreachable=ranges(3, (6,)))])
    assert routes(made) == {
        to("10.244.2.0/24"): UNREACHABLE,
        to("fd00:244:2::/64"): UNREACHABLE,
        to("10.244.3.0/24"): via("198.18.0.3", UPLINK),
        to("fd00:244:3::/64"): UNREACHABLE,
    }


@pytest.mark.parametrize("mode", [Mode.VXLAN, Mode.WIREGUARD])
def test_a_host_without_its_nodes_addresses_says_nothing_of_a_source(mode):
    assert {each.source for each in routes(without_sources(cluster(mode))).values()} == {None}


@pytest.mark.parametrize("mode", [Mode.VXLAN, Mode.WIREGUARD])
def test_of_several_addresses_the_first_of_a_family_is_the_source(mode):
    made = cluster(mode)
    more = (SIX, FOUR, SIX + 9, FOUR + 9)
    made = replace(made, overlays=tuple(replace(each, sources=more) for each in made.overlays))
    found = {key: route.source for key, route in routes(made).items()}
    assert {key.to: source for key, source in found.items() if key.table != TABLE} == {
        each: FOUR if each.version == 4 else SIX for number in (2, 3) for each in ranges(number)
    }
    assert {source for key, source in found.items() if key.table == TABLE} == {None}


@pytest.mark.parametrize(("mode", "link"), [(Mode.VXLAN, 1450), (Mode.WIREGUARD, 1420)])
def test_a_peer_that_takes_less_than_the_link_has_an_mtu_on_its_routes(mode, link):
    made = plan(mode, [peer(2, WAYS[mode], mtu=1300), peer(3, WAYS[mode], mtu=link)])
    found = {key.to: route.mtu for key, route in routes(made).items()}
    assert {each: found[each] for each in ranges(2)} == dict.fromkeys(ranges(2), 1300)
    assert {each: found[each] for each in ranges(3)} == dict.fromkeys(ranges(3), 0)
    assert found[ip_network("198.18.0.2")] == 1300


def test_a_node_without_pods_of_a_family_has_no_way_for_pods_to_its_address_of_that():
    made = plan(Mode.VXLAN, [peer(2, Way.VXLAN, (4,), addresses=addresses(2))])
    assert to("198.18.0.2/32", table=TABLE) in routes(made)
    assert to("fd00:198:18::2/128", table=TABLE) not in routes(made)


def test_only_peers_that_a_router_is_before_are_in_the_overlay():
    made = network(plan(Mode.CROSS_SUBNET, [peer(2, Way.VXLAN), peer(3, Way.DIRECT)]))
    assert made.routes[to("10.244.2.0/24")].link == "np-vxlan4"
    assert made.routes[to("10.244.3.0/24")].link == UPLINK
    assert {each.to for each in made.routes if each.table == TABLE} == {ip_network(each) for each in addresses(2)}


# --- this node ------------------------------------------------------------------------------------------------------


def test_the_vxlan_link_is_the_settings():
    settings = NetworkSettings(Mode.VXLAN, vxlan=Vxlan(id=7, port=8472, checksum=True))
    made = network(plan(settings, [peer(2, Way.VXLAN)]))
    assert made.links == {"np-vxlan4": VxlanLink("np-vxlan4", mac(1), 1450, 7, 8472, addresses(1)[0], checksum=True)}


def test_the_wireguard_link_has_the_public_key():
    settings = NetworkSettings(Mode.WIREGUARD, wireguard=Wireguard(port=1234, keepalive=25))
    made = network(plan(settings, [peer(2, Way.WIREGUARD)]))
    assert made.links == {"np-wg": WireguardLink("np-wg", 1420, 1234, key(1))}
    assert [(each.port, each.keepalive) for each in made.peers["np-wg"].values()] == [(1234, 25)]


@pytest.mark.parametrize(("mode", "link"), [(Mode.VXLAN, "np-vxlan4"), (Mode.WIREGUARD, "np-wg")])
def test_the_overlay_has_the_inner_addresses_and_pods_look_into_its_table(mode, link):
    made = network(cluster(mode))
    assert made.addresses == {LinkAddress(link, each) for each in inner(1)}
    assert made.rules == {SourceRule(each) for each in ranges(1)}


def test_without_an_overlay_packets_of_pods_look_into_no_table_of_ours():
    assert network(cluster(Mode.HOST_GW)).rules == frozenset()


def test_an_address_of_a_service_is_on_the_link_it_is_announced_on():
    announced = (Announced(ip_address("198.18.0.200"), UPLINK),)
    made = network(cluster(Mode.HOST_GW, announced=announced))
    assert made.addresses == {LinkAddress(UPLINK, ip_address("198.18.0.200"), announced=True)}


@pytest.mark.parametrize("mode", Mode)
def test_what_has_no_other_route_is_caught(mode):
    made = network(cluster(mode))
    caught = {each: route for each, route in made.routes.items() if each.metric == BACKSTOP_METRIC}
    enciphered = [*addresses(2), *addresses(3)] if mode is Mode.WIREGUARD else []
    assert caught == {
        **{RouteKey(each, metric=BACKSTOP_METRIC): UNREACHABLE for each in CLUSTER},
        **{RouteKey(each, metric=BACKSTOP_METRIC): BLACKHOLE for each in ranges(1)},
        **{RouteKey(ip_network(each), TABLE, BACKSTOP_METRIC): UNREACHABLE for each in enciphered},
    }


def test_a_backstop_is_no_route_of_a_peer_nor_the_other_way_round():
    made = network(plan(NetworkSettings(Mode.HOST_GW), [peer(2, Way.DIRECT)], confined=(*ranges(1), *ranges(2))))
    assert made.routes[to("10.244.2.0/24")] == via("198.18.0.2", UPLINK)
    assert made.routes[to("10.244.2.0/24", metric=BACKSTOP_METRIC)] == UNREACHABLE
    assert made.routes[to("10.244.1.0/24", metric=BACKSTOP_METRIC)] == BLACKHOLE


@pytest.mark.parametrize(
    ("families", "values"),
    [
        (
            (4,),
            {
                "net/ipv4/ip_forward": 1,
                "net/ipv4/conf/np-vxlan4/rp_filter": 0,
                "net/ipv4/conf/np-vxlan4/accept_local": 1,
            },
        ),
        ((6,), {"net/ipv6/conf/all/forwarding": 1, "net/ipv6/conf/np-vxlan4/accept_ra": 0}),
    ],
)
def test_sysctls_are_of_the_families_of_pods(families, values):
    assert network(cluster(Mode.VXLAN, families=families)).sysctls == values
    assert network(cluster(Mode.VXLAN)).sysctls.items() > values.items()


@pytest.mark.parametrize("mode", [Mode.HOST_GW, Mode.CROSS_SUBNET])
def test_a_node_that_does_not_forward_ipv6_looks_often_whether_a_next_hop_answers(mode):
    """See tests/kernel/test_network_next_hops.py."""
    peers = [peer(2, Way.DIRECT), peer(3, Way.DIRECT, (4,), link="eth1")]
    made = [network(plan(mode, peers, families)).sysctls for families in ((4,), (4, 6))]
    looks = [{name: value for name, value in each.items() if "probe" in name} for each in made]
    assert looks == [{f"net/ipv6/conf/{UPLINK}/router_probe_interval": 1}, {}]


def test_only_network_and_its_rules_are_wanted():
    made = compile_network(cluster(Mode.VXLAN)).program
    assert replace(made, network=NetworkProgram(), network_rules=NftablesProgram(table=NETWORK_TABLE)) == Program()
    assert made.network_rules.table == NETWORK_TABLE


# --- laws -----------------------------------------------------------------------------------------------------------


def flat(made: CompiledNetwork) -> dict[str, Any]:
    """All a program says, in plain dicts."""
    program = made.program
    rules = program.network_rules
    said = {each.name: plain(getattr(program.network, each.name)) for each in fields(program.network)}
    elements = {family: whole_elements(rules, family) for family in rules.structure}
    filled = {family: {name: keys for name, keys in sets.items() if keys} for family, sets in elements.items()}
    return said | {"structure": plain(rules.structure), "elements": filled, "parts": sorted(map(str, rules.parts))}


def plain(value: Any) -> Any:
    return {key: plain(each) for key, each in value.items()} if isinstance(value, Mapping) else value


def walk(seed: int) -> list[NetworkPlan]:
    """Plans of one node as nodes come, go and change, and as the settings do now and then."""
    chance = random.Random(seed)
    made: list[NetworkPlan] = []
    peers: dict[int, Any] = {}
    mode = chance.choice([*Mode])
    for _ in range(12):
        if chance.random() < 0.15:
            mode, peers = chance.choice([*Mode]), {}
        for number in chance.sample(range(2, 12), 3):
            if chance.random() < 0.3:
                peers.pop(number, None)
                continue
            way = WAYS[mode] if chance.random() < 0.8 else Way.NONE
            families = chance.choice([(4,), (6,), (4, 6)])
            peers[number] = peer(
                number, way, families, **({} if way is Way.NONE else {"mtu": chance.choice([0, 1300])})
            )
        clusters = chance.choice([(), CLUSTER])
        pools = LoadBalancers(((ip_address("198.18.0.200"), ip_address("198.18.0.210")),))
        settings = NetworkSettings(
            mode, cluster_ranges=clusters, load_balancers=chance.choice([LoadBalancers(), pools])
        )
        served = tuple(ip_address("198.18.0.200") + each for each in sorted(chance.sample(range(9), 2)))
        fresh = plan(settings, peers.values(), load_balancer_addresses=served)
        made.append(without_sources(fresh) if chance.random() < 0.3 else fresh)
    return made


@pytest.mark.parametrize("seed", range(20))
def test_what_was_before_leaves_no_trace(seed):
    before = None
    for each in walk(seed):
        before = compile_network(each, before)
        assert flat(before) == flat(compile_network(each))


def test_one_peer_changes_its_own_entries_alone():
    first = cluster(Mode.VXLAN, 50)
    second = replace(first, peers={**first.peers, "n7": replace(first.peers["n7"], mtu=1400)})
    before = compile_network(first)
    after = compile_network(second, before).program
    changed, gone = changes(before.program.network.routes, after.network.routes)
    assert {each.to for each in changed} == {*ranges(7), *(ip_network(each) for each in addresses(7))}
    assert gone == []
    assert changes(before.program.network_rules.parts, after.network_rules.parts) == (["n7"], [])


@pytest.mark.parametrize("mode", [Mode.VXLAN, Mode.WIREGUARD])
def test_a_node_that_comes_or_goes_leaves_the_structure_the_same_object(mode):
    few, many = compile_network(cluster(mode, 3)), cluster(mode, 4)
    more = compile_network(many, few).program.network_rules
    for family in Family:
        assert more.structure[family] is few.program.network_rules.structure[family]


def test_of_the_same_plan_everything_is_the_same_object():
    first = compile_network(cluster(Mode.VXLAN, 5))
    again = compile_network(first.plan, first).program
    network = first.program.network
    for name in ("routes", "neighbours", "forwarding"):
        assert getattr(again.network, name) is getattr(network, name)
    assert changes(first.program.network_rules.parts, again.network_rules.parts) == ([], [])
