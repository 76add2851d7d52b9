"""Links, addresses, neighbours and routes of the Pod network, as `ip` and `bridge` see them.

See netplane/kernel/network_mechanism.py and network_driver.py.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from uplinked_node import UPLINK, UPLINK_SIX, VXLAN, VXLAN_SIX, NetworkNode, direct, inner, mac, node, overlay, pods

from netplane.errors import KernelError, OwnershipError
from netplane.kernel import sysctls
from netplane.programs.network import LinkAddress, NetworkProgram, Route, RouteKey, RouteKind, WireguardLink

pytestmark = pytest.mark.kernel
NOTHING = NetworkProgram()
THREE = overlay(1, 2, 3, mtu=1400)


@pytest.fixture
def here() -> Iterator[NetworkNode]:
    with NetworkNode() as made:
        yield made


def nothing_to_do(where: NetworkNode, want: NetworkProgram) -> bool:
    pending = where.pending(want)
    assert pending.lines() == []
    return (pending.made, pending.swept, pending.drift.count) == (0, 0, 0)


# --- what is made -----------------------------------------------------------------------------------------------------


def test_a_vxlan_link_is_as_wanted_in_every_detail(here):
    here.apply(THREE)
    (link,) = here.shown("link", "show", "dev", "np-vxlan4")
    data = link["linkinfo"]["info_data"]
    assert (link["mtu"], link["address"], link["group"]) == (1450, "0a:00:00:00:00:01", "98")
    assert "UP" in link["flags"]
    assert link["inet6_addr_gen_mode"] == "none"
    assert (data["id"], data["local"], data["port"]) == (4097, "198.18.0.1", 4789)
    assert (data["learning"], data["udp_csum"]) == (False, False)
    assert "link" not in link
    (six,) = _applied(here, overlay(1, link=VXLAN_SIX)).shown("link", "show", "dev", "np-vxlan6")
    data = six["linkinfo"]["info_data"]
    assert (data["local6"], data["udp_csum"], data["udp_zero_csum6_tx"]) == ("fd00:18::1", True, False)


def _applied(where: NetworkNode, want: NetworkProgram) -> NetworkNode:
    where.apply(want)
    return where


def test_no_address_is_made_up_and_those_wanted_are_usable_at_once(here):
    here.apply(THREE)
    (link,) = here.shown("address", "show", "dev", "np-vxlan4")
    found = {(each["local"], each["prefixlen"], each["scope"]) for each in link["addr_info"]}
    assert found == {("10.128.0.0", 32, "global"), ("fd00:244::", 128, "global")}
    assert not any(each.get("tentative") for each in link["addr_info"])


def test_peers_are_neighbours_forwarding_entries_and_routes_of_both_families(here):
    here.apply(THREE)
    said = here.everything()
    assert "10.128.2.0 dev np-vxlan4 lladdr 0a:01:00:00:00:02 PERMANENT " in said["neighbours"]
    assert "fd00:244:0:2:: dev np-vxlan4 lladdr 0a:01:00:00:00:02 PERMANENT " in said["neighbours"]
    assert [line for line in said["forwarding"] if "np-vxlan4" in line] == [
        f"0a:01:00:00:00:0{number} dev np-vxlan4 dst 198.19.0.{number} self permanent" for number in (1, 2, 3)
    ]
    assert {
        "10.128.2.0/24 via 10.128.2.0 dev np-vxlan4 proto 98 src 198.18.0.1 metric 98 onlink mtu 1400",
        "fd00:244:0:2::/64 via fd00:244:0:2:: dev np-vxlan4 proto 98 src fd00:18::1 metric 98 onlink mtu 1400"
        " pref medium",
        "198.19.0.2 via 10.128.2.0 dev np-vxlan4 table 98 proto 98 metric 98 onlink mtu 1400",
        "fd00:19::2 via fd00:244:0:2:: dev np-vxlan4 table 98 proto 98 metric 98 onlink mtu 1400 pref medium",
        "blackhole 10.128.0.0/24 proto 98 metric 9898",
        "unreachable 10.128.0.0/9 proto 98 metric 9898",
        "blackhole fd00:244::/64 dev lo proto 98 metric 9898 pref medium",
        "unreachable fd00:244::/32 dev lo proto 98 metric 9898 pref medium",
    } <= {*said["routes"]}
    assert "98:\tfrom 10.128.0.0/24 lookup 98 proto 98" in said["rules"]
    assert "98:\tfrom fd00:244::/64 lookup 98 proto 98" in said["rules"]


def test_kernel_parameters_of_a_link_are_set_when_it_is_there_and_never_unset(here):
    here.run(lambda: sysctls.write({"net/ipv4/ip_forward": 0}))
    here.apply(replace(THREE, sysctls={"net.ipv4.ip_forward": 1, "net/ipv6/conf/np-vxlan4/accept_ra": 0}))
    assert here.run(lambda: sysctls.read("net/ipv6/conf/np-vxlan4/accept_ra")) == "0"
    here.apply(NOTHING)
    assert here.run(lambda: sysctls.read("net/ipv4/ip_forward")) == "1"


# --- laws -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("want", [NOTHING, THREE, direct(1, 2), overlay(4, link=VXLAN_SIX)])
def test_a_second_apply_does_nothing(here, want):
    here.apply(want)
    assert nothing_to_do(here, want)


def test_nothing_of_others_is_touched_and_cleaning_up_restores_what_was_there(here):
    _strangers(here)
    before = here.everything()
    here.apply(THREE)
    assert all({*lines} <= {*here.everything()[what]} for what, lines in before.items())
    here.apply(NOTHING)
    assert here.everything() == before


def _strangers(where: NetworkNode) -> None:
    where.ip("link", "add", "flannel.1", "type", "vxlan", "id", "1", "dstport", "8472", "local", "198.18.0.1")
    where.ip("link", "set", "flannel.1", "addrgenmode", "none", "up")
    where.ip("neighbour", "add", "10.128.2.0", "lladdr", "02:00:00:00:00:09", "dev", "flannel.1", "nud", "permanent")
    where.bridge("fdb", "add", "02:00:00:00:00:09", "dev", "flannel.1", "dst", "198.18.0.9", "self", "permanent")
    where.ip("address", "add", "203.0.113.7/32", "dev", "eth0")
    where.ip("route", "add", "10.128.2.0/24", "via", "198.18.0.9", "metric", "50")
    where.ip("route", "add", "10.128.2.0/24", "via", "198.18.0.9", "metric", "99", "proto", "97")
    where.ip("-6", "route", "add", "fd00:244:0:2::/64", "via", "fd00:18::9", "metric", "1024", "proto", "12")
    where.ip("route", "add", "198.19.0.2/32", "via", "198.18.0.9", "table", "98", "metric", "7")
    where.ip("rule", "add", "from", "10.128.0.0/24", "lookup", "77", "pref", "98")


@pytest.mark.parametrize("seed", range(6))
def test_whatever_was_done_of_an_apply_the_next_one_ends_it(here, seed):
    """As after a kill: any part of it may be there, and things of another apply."""
    dice = random.Random(seed)
    here.apply(overlay(2, 3, 4, mtu=1380))
    here.apply(THREE, sweep=False)
    for words in sorted(dice.sample(_everything_of(THREE), 8), reverse=True):  # with an address go routes
        here.ip(*words.split())
    for words in dice.sample(["address 0a:00:00:00:00:77", "mtu 1300", "down", "type vxlan id 4097 learning"], 2):
        here.ip("link", "set", "np-vxlan4", *words.split())
    here.mechanism.forget()
    here.apply(THREE)
    assert nothing_to_do(here, THREE)
    with NetworkNode() as other:
        other.apply(THREE)
        assert {*here.ours()} == {*other.ours()}
        assert here.everything()["forwarding"] == other.everything()["forwarding"]


def _everything_of(want: NetworkProgram) -> list[str]:
    found = [f"route delete {key.to} table {key.table} metric {key.metric} proto 98" for key in want.routes]
    found += [f"neighbour delete {to} dev {link}" for link, to in want.neighbours]
    found += [f"address delete {each.address} dev {each.link}" for each in want.addresses]
    return found


def test_one_without_memory_finds_what_another_made(here):
    here.apply(THREE)
    here.mechanism.close()
    here.mechanism = here.run(here.new_mechanism)
    assert nothing_to_do(here, THREE)


def test_without_sweeping_nothing_goes(here):
    here.apply(THREE)
    before = here.everything()
    here.apply(overlay(1, mtu=1400), sweep=False)
    assert all({*lines} <= {*here.everything()[what]} for what, lines in before.items())


def test_one_peer_more_or_less_is_a_handful_of_changes_without_reading(here):
    here.apply(THREE)
    more = here.apply(overlay(1, 2, 3, 4, mtu=1400), reread=False)
    assert (more.made, more.swept) == (7, 0)
    less = here.apply(overlay(1, 2, 4, mtu=1400), reread=False)
    assert (less.made, less.swept) == (0, 7)
    assert nothing_to_do(here, overlay(1, 2, 4, mtu=1400))


# --- what others do ---------------------------------------------------------------------------------------------------

DISTURBANCES = [
    "route flush proto 98",
    "-6 route flush proto 98",
    "route flush table 98",
    "neighbour flush dev np-vxlan4 nud permanent",
    "link delete np-vxlan4",
    "link set np-vxlan4 down",
    "link set np-vxlan4 address 0a:00:00:00:00:77",
    "link set np-vxlan4 mtu 1300",
    "link set np-vxlan4 mtu 1200",
    "link set np-vxlan4 addrgenmode eui64",
    "link set np-vxlan4 type vxlan id 4097 learning",
    "link set np-vxlan4 type vxlan id 4097 local 198.18.0.77",
    "address delete 10.128.0.0/32 dev np-vxlan4",
    "address add 10.128.0.9/24 dev np-vxlan4",
    "address change 10.128.0.0/32 dev np-vxlan4 preferred_lft 0 valid_lft forever",
    "address add fd00::9/64 dev np-vxlan4",
    "rule delete pref 98",
    "rule add from 10.128.0.0/24 iif eth0 lookup 98 pref 98 proto 98",
    "rule add from 10.3.0.0/24 lookup 99 pref 5 proto 98",
    "route replace 10.128.2.0/24 via 198.18.0.9 metric 98",
    "route append 10.128.2.0/24 via 198.18.0.9 metric 98 proto 98",
    "route prepend 10.128.2.0/24 via 198.18.0.9 metric 98 proto 98",
    "route add 10.128.2.0/24 tos 4 via 198.18.0.9 metric 98 proto 98",
    "route add 10.128.77.0/24 via 198.18.0.9 metric 98 proto 98",
    "route replace 10.128.2.0/24 metric 98 proto 98 nexthop via 198.18.0.9 nexthop via 198.18.0.8",
    "route replace 10.128.2.0/24 via 10.128.2.0 dev np-vxlan4 onlink metric 98 proto 98 mtu 1400 src 10.128.0.0",
    "route replace 10.128.2.0/24 via 10.128.2.0 dev np-vxlan4 onlink metric 98 proto 98 mtu 1400",
    "route replace 10.128.2.0/24 via 10.128.2.0 dev np-vxlan4 onlink metric 98 proto 98 mtu 1400 src 198.18.0.1"
    " advmss 500",
    "route replace 198.19.0.2 via 10.128.2.0 dev np-vxlan4 onlink table 98 metric 98 proto 98 mtu 1400 src 198.18.0.1",
    "-6 route replace fd00:244:0:2::/64 via fd00:244:0:2:: dev np-vxlan4 onlink metric 98 proto 98 mtu 1400",
    "-6 route append fd00:244:0:2::/64 via fd00:18::9 dev eth0 metric 98 proto 98",
    "-6 route replace fd00:244:0:2::/64 dev eth0 metric 98 proto 98",
    "-6 route replace unreachable fd00:244:0:2::/64 metric 98 proto 98",
    "-6 route replace fd00:244:0:2::/64 via fd00:18::9 dev eth0 metric 98 proto 98",
    "neighbour replace 10.128.2.0 lladdr 02:00:00:00:00:99 dev np-vxlan4 nud permanent",
    "neighbour add 10.128.99.0 lladdr 02:00:00:00:00:99 dev np-vxlan4 nud permanent",
    "neighbour replace 10.128.2.0 lladdr 02:00:00:00:00:99 dev np-vxlan4 nud stale",
]


@pytest.mark.parametrize("words", DISTURBANCES)
def test_what_others_change_is_repaired_and_named(here, words):
    here.apply(THREE)
    before = here.everything()
    here.ip(*words.split())
    repaired = here.apply(THREE)
    assert repaired.drift
    assert repaired.drift.named
    assert nothing_to_do(here, THREE)
    after = here.everything()
    if "metric 98" in words and "proto 98" not in words:  # somebody's own: it took our place, and lost it again
        after["routes"] = [line for line in after["routes"] if "198.18.0.9" not in line]
    assert after == before


@pytest.mark.parametrize(
    "words",
    [
        "delete 0a:01:00:00:00:02 dev np-vxlan4",
        "replace 0a:01:00:00:00:02 dev np-vxlan4 dst 198.18.0.99 self permanent",
        "replace 0a:01:00:00:00:02 dev np-vxlan4 dst 198.19.0.2 port 99 self permanent",
        "add 0a:01:00:00:00:99 dev np-vxlan4 dst 198.19.0.2 self permanent",
        "add 0a:01:00:00:00:99 dev np-vxlan4 dst 198.19.0.2 self dynamic",
        "append 00:00:00:00:00:00 dev np-vxlan4 dst 198.19.0.2 self permanent",
    ],
)
def test_forwarding_that_others_change_is_repaired(here, words):
    here.apply(THREE)
    before = here.everything()
    here.bridge("fdb", *words.split())
    assert here.apply(THREE).drift
    assert here.everything() == before


def test_an_only_address_that_is_none_of_ours_takes_all_routes_of_its_link_along(here):
    """The kernel forgets all IPv4 routes over a link with its last IPv4 address, and tells nobody."""
    here.apply(THREE)
    here.ip("address", "add", "10.128.0.0/24", "dev", "np-vxlan4")
    here.ip("address", "delete", "10.128.0.0/32", "dev", "np-vxlan4")
    here.apply(THREE)
    assert nothing_to_do(here, THREE)


def test_a_source_that_the_host_has_not_is_refused_and_everything_else_is_made(here):
    strange = {4: ip_address("198.18.0.77"), 6: ip_address("fd00:18::77")}
    routes = {
        key: replace(route, source=strange[key.to.version] if key.to in (pods(2), pods(2, 6)) else route.source)
        for key, route in THREE.routes.items()
    }
    with pytest.raises(KernelError, match=r"put route 10.128.2.0/24 into table 254.*\(and 1 more could not be done\)"):
        here.apply(replace(THREE, routes=routes))
    assert len(here.ours()) == len(THREE.routes) - 2
    here.apply(THREE)
    assert nothing_to_do(here, THREE)


@pytest.mark.parametrize("reread", [True, False])
def test_routes_get_another_source_when_the_host_is_renumbered(here, reread):
    """With the old address its IPv4 routes are gone, and IPv6 ones have none."""
    here.apply(THREE)
    here.ip("address", "add", "198.18.0.7/32", "dev", "lo")
    here.ip("address", "delete", f"{UPLINK}/15", "dev", "eth0")
    here.ip("address", "delete", f"{UPLINK_SIX}/31", "dev", "eth0")
    new = {UPLINK: ip_address("198.18.0.7"), UPLINK_SIX: None, None: None}
    want = replace(THREE, routes={key: replace(way, source=new[way.source]) for key, way in THREE.routes.items()})
    here.apply(want, reread=reread)
    assert nothing_to_do(here, want)
    assert not [line for line in here.ours() if "198.18.0.1 " in line]


def test_routes_that_a_link_lost_while_it_was_down_come_back(here):
    here.apply(direct(1, 2))
    before = here.everything()
    here.ip("link", "set", "eth0", "down")
    here.ip("link", "set", "eth0", "up")
    here.ip("address", "replace", "fd00:18::1/31", "dev", "eth0", "nodad")
    assert here.apply(direct(1, 2)).made == 4
    assert {*before["routes"]} == {*here.everything()["routes"]}


# --- links ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "same_link"),
    [
        ({"mtu": 1300}, True),
        ({"mac": b"\x0a\0\0\0\0\7"}, True),
        ({"local": ip_address("198.18.0.77")}, True),
        ({"id": 5}, False),
        ({"port": 8472}, False),
        ({"checksum": True}, False),
        ({"local": ip_address("fd00:18::1")}, False),
    ],
    ids=str,
)
@pytest.mark.parametrize("reread", [True, False], ids=["read", "remembered"])
def test_a_link_is_changed_in_place_where_the_kernel_can_and_loses_nothing_where_not(here, change, same_link, reread):
    here.apply(THREE)
    before = here.shown("link", "show", "dev", "np-vxlan4")[0]["ifindex"]
    want = overlay(1, 2, 3, mtu=1400, link=replace(VXLAN, **change))
    here.apply(want, reread=reread)
    assert (here.shown("link", "show", "dev", "np-vxlan4")[0]["ifindex"] == before) is same_link
    assert nothing_to_do(here, want)


@pytest.mark.parametrize("kind", ["bridge", "vxlan id 4097 dstport 4789 local 198.18.0.1 nolearning"])
def test_a_link_of_our_name_that_we_did_not_make_is_left_alone_and_the_rest_is_made(here, kind):
    here.ip("link", "add", "np-vxlan4", "type", *kind.split())
    before = here.everything()
    with pytest.raises(OwnershipError, match="np-vxlan4"):
        here.apply(overlay(1))
    assert any("unreachable 10.128.0.0/9" in line for line in here.ours())
    here.apply(NOTHING)
    assert here.everything() == before


def test_a_link_with_what_ours_never_have_is_made_anew(here):
    words = "np-vxlan4 group 98 type vxlan id 4097 dstport 4789 local 198.18.0.1 nolearning noudpcsum dev eth0"
    here.ip("link", "add", *words.split())
    here.apply(THREE)
    assert nothing_to_do(here, THREE)
    here.ip("link", "delete", "np-vxlan4")
    here.ip("link", "add", *f"{words} remote 198.18.0.9".split())
    here.apply(NOTHING)
    assert "np-vxlan4" not in here.ip("link", "show")


def test_the_link_of_wireguard_gets_its_mtu_addresses_and_routes_when_it_is_there(here):
    want = NetworkProgram(
        links={"np-wg": WireguardLink("np-wg", 1340, 51820, "")},
        addresses=frozenset({LinkAddress("np-wg", inner(0)), LinkAddress("np-wg", inner(0, 6))}),
        routes={RouteKey(pods(1, family)): Route(link="np-wg") for family in (4, 6)}
        | {RouteKey(pods(2)): Route(link="eth0", via=node(2))},
    )
    with pytest.raises(KernelError, match=r"no link np-wg.*more"):
        here.apply(want)
    assert len(here.ours()) == 1
    here.ip("tuntap", "add", "np-wg", "mode", "tun")
    here.apply(want)
    (link,) = here.shown("address", "show", "dev", "np-wg")
    assert link["mtu"] == 1340
    assert {each["local"] for each in link["addr_info"]} == {"10.128.0.0", "fd00:244::"}
    assert "10.128.1.0/24 dev np-wg scope link metric 98" in here.ours()
    assert nothing_to_do(here, want)
    here.apply(NOTHING)
    assert here.ours() == []
    assert "np-wg" in here.ip("link", "show")  # it is removed by who made it


def test_a_link_that_is_made_anew_between_reading_and_making_gets_all_again(here):
    want = NetworkProgram(
        links={"np-wg": WireguardLink("np-wg", 1340, 51820, "")},
        addresses=frozenset({LinkAddress("np-wg", inner(0))}),
        routes={RouteKey(pods(1)): Route(link="np-wg")},
    )
    here.ip("tuntap", "add", "np-wg", "mode", "tun")
    here.apply(want)
    for reread in (True, False):
        pending = here.pending(want, reread=reread)
        here.ip("link", "delete", "np-wg")
        here.ip("tuntap", "add", "np-wg", "mode", "tun")
        here.run(pending.make)
        assert nothing_to_do(here, want)


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_what_is_refused_does_not_stop_the_others_and_the_first_is_named(here):
    local = ip_address("198.18.0.1")
    refused = {RouteKey(pods(number)): Route(link="eth0", via=local) for number in (8, 9)}
    want = replace(THREE, routes={**refused, **THREE.routes}, sysctls={"net/ipv4/nonsense": 1, **THREE.sysctls})
    with pytest.raises(KernelError) as caught:
        here.apply(want)
    assert "nonsense" in str(caught.value)
    assert "(and 2 more could not be done)" in str(caught.value)
    assert nothing_to_do(here, THREE)


def test_what_is_gone_already_can_be_swept(here):
    here.apply(THREE)
    pending = here.pending(NOTHING)
    here.ip("link", "delete", "np-vxlan4")
    here.ip("rule", "delete", "pref", "98")
    here.ip("route", "flush", "proto", "98")
    here.run(pending.make)
    here.run(pending.sweep)
    assert here.ours() == []


# --- announced addresses ----------------------------------------------------------------------------------------------

FOUR, SIX = ip_address("203.0.113.1"), ip_address("2001:db8::1")
ANNOUNCED = NetworkProgram(addresses=frozenset(LinkAddress("eth0", each, announced=True) for each in (FOUR, SIX)))


def test_an_announced_address_is_told_once_and_never_chosen_as_source(here):
    here.apply(ANNOUNCED)
    assert here.announced == [("eth0", "203.0.113.1"), ("eth0", "2001:db8::1")]
    here.apply(ANNOUNCED)
    assert len(here.announced) == 2
    (link,) = here.shown("address", "show", "dev", "eth0")
    found = {each["local"]: each for each in link["addr_info"]}
    assert (found["203.0.113.1"]["scope"], found["203.0.113.1"]["prefixlen"]) == ("host", 32)
    assert found["2001:db8::1"]["preferred_life_time"] == 0
    here.ip("address", "delete", "198.18.0.1/15", "dev", "eth0")
    here.ip("route", "add", "default", "dev", "eth0")
    assert "src 203.0.113.1" not in here.ip("route", "get", "192.0.2.1")
    here.apply(NOTHING)
    assert "203.0.113.1" not in here.ip("address", "show")


@pytest.mark.parametrize("reread", [True, False], ids=["read", "remembered"])
def test_an_address_that_was_there_before_us_is_used_and_never_taken_away(here, reread):
    here.ip("address", "add", "203.0.113.1/32", "dev", "eth0")
    before = here.everything()
    here.apply(ANNOUNCED)
    assert here.announced == [("eth0", "2001:db8::1")]
    here.apply(NOTHING, reread=reread)
    assert here.everything() == before


def test_an_announced_address_on_a_link_that_is_not_there_is_an_error_that_names_it(here):
    want = NetworkProgram(addresses=frozenset({LinkAddress("eth7", FOUR, announced=True)}))
    with pytest.raises(KernelError, match="eth7"):
        here.apply(want)


# --- the way changes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [RouteKind.UNREACHABLE, RouteKind.BLACKHOLE])
@pytest.mark.parametrize("family", [4, 6])
def test_a_route_is_replaced_by_one_of_any_kind(here, kind, family):
    """IPv6 may keep the old one beside the new where one has a next hop and the other has not."""
    key = RouteKey(pods(1, family))
    ways = [
        Route(link="eth0", via=node(1, family)),
        Route(kind),
        Route(link="np-vxlan4"),
        Route(link="np-vxlan4", via=inner(1, family), mtu=1300),
        Route(link="np-vxlan4", via=inner(1, family), mtu=1300, source=UPLINK if family == 4 else UPLINK_SIX),
        Route(link="eth0", via=node(2, family), mtu=1200),
    ]
    base = overlay()
    for old in ways:
        for new in ways:
            here.apply(replace(base, routes={key: old}))
            here.apply(replace(base, routes={key: new}), reread=False)
            assert len(here.ours()) == 1, (old, new)
            assert nothing_to_do(here, replace(base, routes={key: new}))


def test_ipv6_routes_of_another_table_find_their_next_hop_though_the_main_one_has_another_way(here):
    to = RouteKey(ip_network(node(1, 6)), 98)
    want = replace(overlay(), routes={RouteKey(pods(1, 6)): Route(link="eth0", via=node(1, 6))})
    want = replace(want, routes={**want.routes, to: Route(link="np-vxlan4", via=inner(1, 6))})
    here.apply(want)
    assert nothing_to_do(here, want)
    assert len(here.ours()) == 2


def test_macs_of_peers_may_change(here):
    here.apply(THREE)
    want = replace(
        THREE,
        neighbours={**THREE.neighbours, ("np-vxlan4", inner(1)): mac(9)},
        forwarding={**THREE.forwarding, ("np-vxlan4", mac(9)): node(1)},
    )
    here.apply(want, reread=False)
    assert nothing_to_do(here, want)
