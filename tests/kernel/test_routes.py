"""Routes and neighbours of containers, as ip shows them and as they are read back. See netplane/kernel/routes.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network
from typing import TypeVar

import pytest

from netplane.kernel import command, link_orders, routes
from netplane.kernel.links import Links, Order
from netplane.kernel.netns import Namespace
from netplane.kernel.routes import Details, RouteFacts

pytestmark = pytest.mark.kernel
Result = TypeVar("Result")
LINK = 10
FOUR, SIX = ip_address("192.0.2.7"), ip_address("2001:db8::7")
GATEWAYS = {4: ip_address("198.18.0.1"), 6: ip_address("fe80::1")}


@pytest.fixture
def here() -> Iterator[Namespace]:
    with Namespace() as made:
        carry_out(
            made,
            link_orders.new_queue("link", LINK, 0),
            link_orders.change(LINK, up=True),
            link_orders.address(ip_address("198.18.0.9").packed, 24, LINK),
        )
        yield made


def asked(where: Namespace, question: Callable[[Links], Result]) -> Result:
    def work() -> Result:
        with Links() as kernel:
            return question(kernel)

    return where.run(work)


def carry_out(where: Namespace, *orders: Order) -> None:
    asked(where, lambda kernel: kernel.carry_out(orders))


def shown(where: Namespace, *words: str) -> str:
    return where.run(lambda: command.run("ip", *words, mechanism="test", doing="show"))


@pytest.mark.parametrize("to", [FOUR, SIX])
def test_a_host_route_says_whose_it_is(here, to):
    carry_out(here, routes.to_host(to.packed, LINK), routes.to_host(to.packed, LINK))
    own = ip_network(to)
    assert asked(here, lambda kernel: routes.read(kernel, routes.PROTOCOL)) == [
        RouteFacts(own, LINK, None, routes.MAIN_TABLE, 97, priority=0 if to.version == 4 else 1024)
    ]
    found = asked(here, lambda kernel: routes.towards(kernel, to))
    assert found is not None
    assert (found.to, found.index) == (own, LINK)


def test_a_route_has_its_details_and_is_read_back_with_them(here):
    network, via = ip_network("10.5.0.0/16"), GATEWAYS[4]
    details = Details(mtu=1400, advertised_mss=1300, priority=7, table=5000)
    carry_out(here, routes.route(network.network_address.packed, 16, LINK, via.packed, details))
    said = shown(here, "route", "show", "table", "5000")
    assert "10.5.0.0/16 via 198.18.0.1 dev link" in said
    assert "metric 7 mtu 1400 advmss 1300" in said
    wanted = RouteFacts(network, LINK, via, 5000, 3, 1400, 1300, 7)
    assert wanted in asked(here, routes.read)


def test_routes_to_one_network_stand_beside_each_other_and_each_next_hop_is_read(here):
    network = ip_network("2001:db8:5::/48")
    hops = [ip_address("fe80::1"), ip_address("fe80::2")]
    carry_out(here, *(routes.route(network.network_address.packed, 48, LINK, hop.packed) for hop in hops))
    found = [each for each in asked(here, routes.read) if each.to == network]
    assert sorted(str(each.via) for each in found) == ["fe80::1", "fe80::2"]
    assert all(each.index == LINK for each in found)


def test_a_default_route_has_no_destination(here):
    carry_out(here, routes.route(bytes(4), 0, LINK, GATEWAYS[4].packed), routes.route(bytes(16), 0, LINK))
    found = {each.to: each.via for each in asked(here, routes.read)}
    assert found[ip_network("0.0.0.0/0")] == GATEWAYS[4]
    assert found[ip_network("::/0")] is None


def test_a_next_hop_on_the_link_with_a_known_neighbour_needs_no_address_of_its_network(here):
    hop = ip_address("169.254.1.1")
    carry_out(here, routes.on_link(hop.packed, LINK), routes.permanent_neighbour(hop.packed, b"\xee" * 6, LINK))
    carry_out(here, routes.route(bytes(4), 0, LINK, hop.packed))
    assert "169.254.1.1 dev link scope link" in shown(here, "route")
    assert "169.254.1.1 lladdr ee:ee:ee:ee:ee:ee PERMANENT" in shown(here, "neighbour", "show", "dev", "link")


@pytest.mark.parametrize("to", [FOUR, SIX])
def test_without_a_route_there_is_none(here, to):
    assert asked(here, lambda kernel: routes.towards(kernel, to)) is None
