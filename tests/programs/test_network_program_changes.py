"""What leads from one Pod network to another. See netplane/programs/network_changes.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from netplane.programs.network import (
    BACKSTOP_METRIC,
    TABLE,
    LinkAddress,
    NetworkProgram,
    Route,
    RouteKey,
    RouteKind,
    SourceRule,
    VxlanLink,
    WireguardLink,
)
from netplane.programs.network_changes import (
    FoundLink,
    FoundNetwork,
    Leftover,
    LinkChange,
    LinkWork,
    as_found,
    changes_between,
    changes_from_found,
)
from netplane.programs.network_lines import changes_lines

NAME = "np-vxlan4"
LINK = VxlanLink(NAME, b"\x0a\0\0\0\0\1", 1450, 4097, 4789, ip_address("198.18.0.1"), checksum=False)
SIX = replace(LINK, name="np-vxlan6", local=ip_address("fd00::1"))
WIREGUARD = WireguardLink("np-wg", 1440, 51820, "key")
MAC, OTHER_MAC = b"\x0a\0\0\0\0\2", b"\x0a\0\0\0\0\3"
FOUR, FOUR_TO = RouteKey(ip_network("10.244.2.0/24")), ip_address("10.244.2.0")
PROGRAM = NetworkProgram(
    links={NAME: LINK},
    addresses=frozenset({LinkAddress(NAME, ip_address("10.244.1.0"))}),
    neighbours={(NAME, FOUR_TO): MAC},
    forwarding={(NAME, MAC): ip_address("198.18.0.2")},
    routes={
        RouteKey(ip_network("198.18.0.2/32"), TABLE): Route(link=NAME, via=FOUR_TO),
        FOUR: Route(link=NAME, via=FOUR_TO, mtu=1430),
        RouteKey(ip_network("fd00:2::/64")): Route(link=NAME, via=ip_address("fd00:2::"), mtu=1430),
        RouteKey(ip_network("10.244.0.0/16"), metric=BACKSTOP_METRIC): Route(RouteKind.UNREACHABLE),
    },
    rules=frozenset({SourceRule(ip_network("10.244.1.0/24"))}),
    sysctls={"net/ipv4/ip_forward": 1, f"net/ipv6/conf/{NAME}/accept_ra": 0},
)
NOTHING = NetworkProgram()


def lines(have: NetworkProgram, want: NetworkProgram) -> list[str]:
    return [*changes_lines(changes_between(have, want))]


def test_between_equals_there_is_nothing_to_do():
    copy = replace(PROGRAM, routes=dict(PROGRAM.routes), neighbours=dict(PROGRAM.neighbours))
    assert not changes_between(PROGRAM, copy)
    assert not changes_between(NOTHING, NOTHING)


def test_everything_is_made_in_an_order_in_which_it_can_be_and_said_in_the_words_of_ip():
    assert lines(NOTHING, PROGRAM) == [
        "+ link np-vxlan4 vxlan id 4097 port 4789 local 198.18.0.1 address 0a:00:00:00:00:01 mtu 1450",
        "+ sysctl net/ipv4/ip_forward = 1",
        "+ sysctl net/ipv6/conf/np-vxlan4/accept_ra = 0",
        "+ address 10.244.1.0 dev np-vxlan4",
        "+ neighbour 10.244.2.0 lladdr 0a:00:00:00:00:02 dev np-vxlan4",
        "+ forwarding 0a:00:00:00:00:02 dst 198.18.0.2 dev np-vxlan4",
        "+ route 10.244.2.0/24 via 10.244.2.0 dev np-vxlan4 onlink mtu 1430",
        "+ route fd00:2::/64 via fd00:2:: dev np-vxlan4 onlink mtu 1430",
        "+ route unreachable 10.244.0.0/16 metric 9898",
        "+ route 198.18.0.2/32 via 10.244.2.0 dev np-vxlan4 onlink table 98",
        "+ rule 98: from 10.244.1.0/24 lookup 98",
    ]


def test_everything_is_swept_in_the_opposite_order_and_sysctls_stay():
    changes = changes_between(PROGRAM, NOTHING)
    assert (changes.made(), changes.swept()) == (0, 9)
    said = [*changes_lines(changes)]
    assert said[0] == "- rule 98: from 10.244.1.0/24 lookup 98"
    assert said[-1] == "- link np-vxlan4"
    assert not [line for line in said if "sysctl" in line]


def test_a_route_that_takes_the_place_of_another_is_made_and_not_swept():
    way = Route(link="eth0", via=ip_address("198.18.0.2"))
    changes = changes_between(PROGRAM, replace(PROGRAM, routes={**PROGRAM.routes, FOUR: way}))
    assert changes.routes == {FOUR: way}
    assert (changes.made(), changes.swept()) == (1, 0)


@pytest.mark.parametrize(
    "change",
    [{"id": 5}, {"port": 8472}, {"checksum": True}, {"local": ip_address("fd00::1")}],
    ids=lambda change: next(iter(change)),
)
def test_what_the_kernel_cannot_change_of_a_link_makes_it_anew_with_all_that_was_on_it(change: Mapping[str, object]):
    link = replace(LINK, **change)
    changes = changes_between(PROGRAM, replace(PROGRAM, links={NAME: link}))
    assert changes.links == {NAME: LinkChange(LinkWork.AGAIN, link)}
    assert changes.routes.keys() == {key for key, route in PROGRAM.routes.items() if route.link}
    assert (changes.neighbours, changes.forwarding) == (PROGRAM.neighbours, PROGRAM.forwarding)
    assert set(changes.addresses) == PROGRAM.addresses
    assert changes.sysctls == {f"net/ipv6/conf/{NAME}/accept_ra": 0}
    assert not changes.swept()


def test_what_was_on_a_link_that_is_made_anew_need_not_be_swept():
    link = replace(LINK, id=5)
    changes = changes_between(PROGRAM, NetworkProgram(links={NAME: link}))
    assert [line for line in changes_lines(changes) if line.startswith("-") and NAME in line] == []


def test_another_mac_costs_a_link_its_neighbours_and_another_mtu_the_mtus_of_ipv6_routes():
    renamed = changes_between(PROGRAM, replace(PROGRAM, links={NAME: replace(LINK, mac=OTHER_MAC)}))
    assert renamed.links[NAME] == LinkChange(LinkWork.CHANGE, replace(LINK, mac=OTHER_MAC), new_mac=True)
    assert (renamed.neighbours, renamed.made()) == (PROGRAM.neighbours, 2)
    resized = changes_between(PROGRAM, replace(PROGRAM, links={NAME: replace(LINK, mtu=1440)}))
    assert resized.links[NAME] == LinkChange(LinkWork.CHANGE, replace(LINK, mtu=1440))
    assert [str(key.to) for key in resized.routes] == ["fd00:2::/64"]


def test_another_address_outside_is_changed_in_place():
    moved = replace(LINK, local=ip_address("198.18.0.9"))
    changes = changes_between(PROGRAM, replace(PROGRAM, links={NAME: moved}))
    assert changes.links == {NAME: LinkChange(LinkWork.CHANGE, moved)}
    assert changes.made() == 1


def test_over_ipv6_outer_packets_always_have_a_checksum():
    program = NetworkProgram(links={SIX.name: SIX})
    assert not changes_between(program, NetworkProgram(links={SIX.name: replace(SIX, checksum=True)}))
    found = as_found(program).links[SIX.name].vxlan
    assert found is not None
    assert found.checksum


@pytest.mark.parametrize(
    ("found", "work"),
    [
        (FoundLink(1450, LINK, settled=False), LinkWork.CHANGE),
        (FoundLink(1450, None, strange=True), LinkWork.AGAIN),
        (FoundLink(1450, LINK), None),
    ],
)
def test_a_link_that_somebody_changed_is_put_right(found, work):
    changes = changes_from_found(FoundNetwork(links={NAME: found}), NetworkProgram(links={NAME: LINK}))
    assert changes.links == ({NAME: LinkChange(work, LINK)} if work else {})


def test_a_link_that_is_not_ours_is_left_alone_and_named():
    found = FoundNetwork(foreign=frozenset({NAME, "np-vxlan6"}))
    changes = changes_from_found(found, NetworkProgram(links={NAME: LINK}))
    assert (changes.links, changes.foreign) == ({}, (NAME,))
    assert [*changes_lines(changes)] == ["! link np-vxlan4 is not netplane's: it is left alone"]
    assert not changes_from_found(found, NOTHING)


def test_the_link_of_wireguard_is_made_and_removed_by_others():
    want = NetworkProgram(links={"np-wg": WIREGUARD})
    assert changes_between(NOTHING, want).links == {"np-wg": LinkChange(LinkWork.CHANGE, WIREGUARD)}
    assert not changes_between(want, NOTHING)
    assert not changes_between(want, NetworkProgram(links={"np-wg": replace(WIREGUARD, key="another")}))
    assert changes_between(want, NetworkProgram(links={"np-wg": replace(WIREGUARD, mtu=1400)})).made() == 1


def test_an_address_of_the_wrong_kind_makes_room_first():
    announced = LinkAddress("eth0", ip_address("203.0.113.1"), announced=True)
    found = FoundNetwork(addresses=frozenset({replace(announced, announced=False)}))
    changes = changes_from_found(found, NetworkProgram(addresses=frozenset({announced})))
    assert [*changes_lines(changes)] == [
        "- address 203.0.113.1 dev eth0",
        "+ address 203.0.113.1 dev eth0 announced",
    ]
    assert changes.no_addresses == ()


def test_what_is_there_but_none_of_ours_is_replaced_where_wanted_and_swept_elsewhere():
    key, strange = (NAME, OTHER_MAC), RouteKey(ip_network("10.9.0.0/16"))
    found = FoundNetwork(routes={FOUR: None, strange: None}, forwarding={(NAME, MAC): None, key: None})
    changes = changes_from_found(replace(found, leftovers=(Leftover("rule of somebody", (33, b"")),)), PROGRAM)
    assert FOUR in changes.routes
    assert (NAME, MAC) in changes.forwarding
    assert (changes.no_routes, changes.no_forwarding) == ({strange: None}, {key: None})
    said = [*changes_lines(changes)]
    assert said[0] == "- rule of somebody"
    assert {"- route 10.9.0.0/16", "- forwarding 0a:00:00:00:00:03 dev np-vxlan4"} < {*said}


def test_a_sysctl_that_has_another_value_is_set():
    want = replace(NOTHING, sysctls={"net/ipv4/ip_forward": 1, "net/ipv4/conf/all/rp_filter": 2})
    found = FoundNetwork(sysctls={"net/ipv4/ip_forward": 0, "net/ipv4/conf/all/rp_filter": 2})
    assert changes_from_found(found, want).sysctls == {"net/ipv4/ip_forward": 1}
