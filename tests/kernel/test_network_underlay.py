"""How the kernel reaches other nodes. See netplane/kernel/underlay.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from uplinked_node import NetworkNode, inner, node, overlay

from netplane.kernel import underlay
from netplane.kernel.links import Links
from netplane.kernel.underlay import UnderlayPath
from netplane.model.address import IPAddress, IPNetwork
from netplane.programs.network import LinkAddress, NetworkProgram

pytestmark = pytest.mark.kernel
FOUR, SIX = ip_address("198.18.0.1"), ip_address("fd00:18::1")


@pytest.fixture
def here() -> Iterator[NetworkNode]:
    with NetworkNode() as made:
        yield made


def seen(
    where: NetworkNode, *addresses: IPAddress | str
) -> tuple[dict[IPAddress, UnderlayPath], dict[str, tuple[IPNetwork, ...]]]:
    wanted = [ip_address(each) for each in addresses]

    def work() -> tuple[dict[IPAddress, UnderlayPath], dict[str, tuple[IPNetwork, ...]]]:
        with Links() as kernel:
            return underlay.look(kernel, wanted)[:2]

    return where.run(work)


def path(where: NetworkNode, address: IPAddress | str) -> UnderlayPath | None:
    return seen(where, address)[0].get(ip_address(address))


def test_an_address_on_the_link_and_one_behind_a_router(here):
    here.ip("route", "add", "203.0.113.0/24", "via", "198.18.0.9")
    here.ip("-6", "route", "add", "2001:db8::/32", "via", "fd00:18::9")
    paths, networks = seen(here, node(1), node(1, 6), "203.0.113.7", "2001:db8::7")
    assert paths == {
        node(1): UnderlayPath("eth0", 1500, on_link=True, source=FOUR),
        node(1, 6): UnderlayPath("eth0", 1500, on_link=True, source=SIX),
        ip_address("203.0.113.7"): UnderlayPath("eth0", 1500, on_link=False, source=FOUR),
        ip_address("2001:db8::7"): UnderlayPath("eth0", 1500, on_link=False, source=SIX),
    }
    assert networks == {"eth0": (ip_network("198.18.0.0/15"), ip_network("fd00:18::/31"))}


@pytest.mark.parametrize("to", ["203.0.113.7", "2001:db8::7", "127.0.0.1", "198.18.0.1", "fd00:18::1"])
def test_what_is_not_routed_or_our_own_has_no_path(here, to):
    assert path(here, to) is None


@pytest.mark.parametrize("kind", ["unreachable", "blackhole", "prohibit"])
def test_what_a_route_refuses_has_no_path(here, kind):
    here.ip("route", "add", kind, "198.19.0.1/32")
    assert path(here, node(1)) is None
    assert path(here, node(2)) is not None


def test_the_mtu_is_the_smaller_one_of_link_and_route(here):
    here.ip("link", "set", "eth0", "mtu", "1400")
    here.ip("route", "add", "198.19.0.1/32", "dev", "eth0", "mtu", "1300")
    here.ip("-6", "route", "add", "fd00:19::1/128", "dev", "eth0", "mtu", "1310")
    here.ip("route", "add", "198.19.0.2/32", "dev", "eth0", "mtu", "9000")
    found = {str(to): each.mtu for to, each in seen(here, node(1), node(1, 6), node(2), node(3))[0].items()}
    assert found == {"198.19.0.1": 1300, "fd00:19::1": 1310, "198.19.0.2": 1400, "198.19.0.3": 1400}


def test_one_of_our_own_links_is_no_path(here):
    here.apply(overlay(1, 2))
    paths, networks = seen(here, inner(1), inner(1, 6), node(1))
    assert {*paths} == {node(1)}
    assert {*networks} == {"eth0"}


def test_rules_for_packets_of_pods_say_nothing_of_the_nodes_own(here):
    here.apply(overlay(1))
    assert path(here, node(1)) == UnderlayPath("eth0", 1500, on_link=True, source=FOUR)


def test_announced_addresses_are_no_networks_of_a_link(here):
    here.apply(NetworkProgram(addresses=frozenset({LinkAddress("eth0", ip_address("203.0.113.1"), announced=True)})))
    assert seen(here)[1] == {"eth0": (ip_network("198.18.0.0/15"), ip_network("fd00:18::/31"))}


def own(where: NetworkNode) -> set[str]:
    """What the host may send from, but for itself."""

    def work() -> frozenset[IPAddress]:
        with Links() as kernel:
            return underlay.look(kernel, ()).addresses

    return {str(each) for each in where.run(work) if not (each.is_loopback or each.is_link_local)}


def test_the_host_has_what_is_on_any_link_but_not_what_we_gave_it(here):
    here.apply(replace(overlay(1), addresses={*overlay(1).addresses, LinkAddress("eth0", node(7), announced=True)}))
    here.ip("address", "add", "203.0.113.1/32", "dev", "lo")
    here.ip("link", "set", "eth0", "down")
    assert own(here) == {"198.18.0.1", "203.0.113.1"}  # IPv6 addresses go with a link that goes down


def test_an_ipv6_address_that_others_may_have_is_none_yet(here):
    here.ip("address", "add", "fd00:18::7/64", "dev", "eth0", "noprefixroute")
    assert " tentative" in here.ip("address", "show", "to", "fd00:18::7")
    assert own(here) == {"198.18.0.1", "fd00:18::1"}


def test_a_link_that_is_down_is_no_path(here):
    here.ip("link", "set", "eth0", "down")
    paths, networks = seen(here, node(1))
    assert (paths, networks) == ({}, {})


def test_the_peer_of_a_point_to_point_address_is_on_the_link(here):
    here.ip("address", "add", "192.0.2.1", "peer", "192.0.2.2/32", "dev", "eth0")
    paths, networks = seen(here, "192.0.2.2")
    assert paths[ip_address("192.0.2.2")].on_link
    assert ip_network("192.0.2.2/32") in networks["eth0"]


def test_of_a_route_with_several_next_hops_one_is_told(here):
    here.ip("route", "add", "203.0.113.0/24", "nexthop", "via", "198.18.0.8", "nexthop", "via", "198.18.0.9")
    assert path(here, "203.0.113.7") == UnderlayPath("eth0", 1500, on_link=False, source=FOUR)


def test_many_addresses_are_asked_for_in_few_writes(here):
    here.ip("route", "add", "unreachable", "198.19.0.0/28")
    wanted = [node(number, family) for number in range(1000) for family in (4, 6)]
    paths, _ = seen(here, *wanted)
    assert {*wanted} - {*paths} == {node(number) for number in range(16)}
