"""What others do to the Pod network is heard, and what we do is no news. See netplane/kernel/network_events.py."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from test_network_mechanism import ANNOUNCED, DISTURBANCES
from uplinked_node import VXLAN_SIX, NetworkNode, direct, overlay

from netplane.kernel import command, link_orders, routes
from netplane.kernel.link_orders import End
from netplane.kernel.links import Links
from netplane.kernel.netns import Namespace
from netplane.kernel.network_events import Heard, NetworkEvents
from netplane.programs.network import NetworkProgram

pytestmark = pytest.mark.kernel
NOTHING = NetworkProgram()
THREE = overlay(1, 2, 3, mtu=1400)
QUIET = Heard()


@dataclass
class Listening:
    node: NetworkNode
    events: NetworkEvents

    def awake(self) -> bool:
        """Whether there is anything to read."""
        return bool(select.select([self.events], [], [], 0)[0])


@pytest.fixture
def here() -> Iterator[Listening]:
    with NetworkNode() as node, node.run(NetworkEvents) as events:
        yield Listening(node, events)


def after(where: Listening, want: NetworkProgram, words: str) -> Heard:
    """What is heard of an `ip` or `bridge` command where `want` was applied."""
    where.node.apply(want)
    where.events.read(want)
    program, *rest = words.split()
    (where.node.bridge if program == "bridge" else where.node.ip)(*(rest if program == "bridge" else words.split()))
    return where.events.read(want)


def test_our_own_changes_contradict_nothing(here):
    announced = NetworkProgram(addresses=ANNOUNCED.addresses, routes=direct(1).routes)
    wanted = [NOTHING, THREE, direct(1, 2, 3), THREE, overlay(1, 4, link=VXLAN_SIX), announced, overlay(1), NOTHING]
    for want in wanted:
        here.node.apply(want)
        assert here.events.read(want).contradiction == ""


def test_what_was_heard_of_our_own_changes_is_no_reason_to_look_for_other_ways(here):
    here.events.read(NOTHING)
    here.node.apply(THREE)
    assert here.events.read(THREE) == QUIET
    assert here.events.read(THREE) == QUIET


@pytest.mark.parametrize("words", DISTURBANCES)
def test_whatever_others_change_of_ours_is_heard_and_what_repairs_it_is_not(here, words):
    assert after(here, THREE, words).contradiction
    here.node.apply(THREE)
    assert here.events.read(THREE).contradiction == ""


@pytest.mark.parametrize(
    "words",
    [
        "bridge fdb delete 0a:01:00:00:00:02 dev np-vxlan4",
        "bridge fdb replace 0a:01:00:00:00:02 dev np-vxlan4 dst 198.18.0.99 self permanent",
        "bridge fdb add 0a:01:00:00:00:99 dev np-vxlan4 dst 198.19.0.2 self permanent",
    ],
)
def test_forwarding_that_others_change_is_heard(here, words):
    assert after(here, THREE, words).contradiction


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "route delete 10.128.2.0/24",
            "10.128.2.0/24 via 10.128.2.0 dev np-vxlan4 onlink src 198.18.0.1 mtu 1400 was removed",
        ),
        ("neighbour delete 10.128.2.0 dev np-vxlan4", "neighbour 10.128.2.0 lladdr 0a:01:00:00:00:02 dev np-vxlan4"),
        ("link delete np-vxlan4", "link np-vxlan4 was removed"),
        ("link set np-vxlan4 down", "link np-vxlan4 went down"),
        ("rule delete pref 98", "rule 98: from 10.128.0.0/24 lookup 98 was removed"),
    ],
)
def test_it_is_said_what_was_changed(here, words, said):
    assert said in after(here, THREE, words).contradiction


def test_a_link_that_went_down_has_lost_routes_though_it_is_up_again_and_none_is_told_of(here):
    here.node.apply(direct(1, 2))
    here.events.read(direct(1, 2))
    here.node.ip("link", "set", "eth0", "down")
    here.node.ip("link", "set", "eth0", "up")
    heard = here.events.read(direct(1, 2))
    assert heard == Heard("link eth0 went down", underlay=True)


@pytest.mark.parametrize("words", ["198.18.0.1/15 dev eth0", "fd00:18::1/31 dev eth0"])
def test_without_their_source_routes_are_not_as_wanted_though_it_is_back(here, words):
    """The kernel takes it off IPv6 routes, and tells nobody."""
    here.node.apply(THREE)
    here.events.read(THREE)
    here.node.ip("address", "delete", *words.split())
    here.node.ip("address", "add", *words.split(), *["nodad"] * (":" in words))
    assert here.events.read(THREE).contradiction
    here.node.apply(THREE)
    assert here.events.read(THREE).contradiction == ""
    assert not here.node.pending(THREE).made


def test_an_uplink_without_an_address_has_lost_routes_and_none_is_told_of(here):
    want = direct(1, 2)
    heard = after(here, want, "address delete 198.18.0.1/15 dev eth0")
    assert heard == Heard("address 198.18.0.1 dev eth0 was removed", underlay=True)


@pytest.mark.parametrize(
    "words",
    [
        "route add 198.51.100.0/24 via 198.18.0.9",
        "address add 198.51.100.1/24 dev eth0",
        "link set eth0 mtu 1400",
        "link add eth7 type bridge",
        "rule add from 198.51.100.0/24 lookup 7",
        "-6 route add default via fd00:18::9",
    ],
)
def test_other_ways_to_other_nodes_are_heard_and_contradict_nothing(here, words):
    assert after(here, THREE, words) == Heard("", underlay=True)


def test_what_the_cni_plugin_does_wakes_nobody(here):
    here.node.ip("link", "add", "cni0", "mtu", "1450", "address", "02:00:00:00:00:07", "type", "bridge")
    here.node.ip("link", "set", "cni0", "addrgenmode", "none", "up")
    here.node.apply(THREE)
    with Namespace() as first, Namespace() as container:
        here.node.run(lambda: _attach(first, 5))
        first.run(lambda: command.run("ip", "link", "set", "eth0", "up", mechanism="test", doing="change"))
        here.node.run(_wait_for_bridge)  # it is up, and tells it, when it has a port
        here.events.read(THREE)
        here.node.run(lambda: _attach(container, 7))
        container.run(lambda: command.run("ip", "link", "set", "eth0", "up", mechanism="test", doing="change"))
        assert not here.awake()
        here.node.ip("link", "delete", "npb7")
        here.node.ip("neighbour", "replace", "198.18.0.5", "lladdr", "02:00:00:00:00:05", "dev", "eth0")
        assert not here.awake()
    here.node.ip("route", "delete", "10.128.2.0/24")
    assert here.awake()


def _wait_for_bridge() -> None:
    with Links() as kernel:
        kernel.wait_ready({"cni0"}, 20)


def _attach(container: Namespace, number: int) -> None:
    near = End(f"npb{number}", 1000 + number, bytes((2, 0, 0, 0, 1, number)))
    far = End("eth0", 2000 + number, bytes((2, 0, 0, 0, 2, number)))
    address = bytes((10, 128, 0, number))
    with Links() as kernel:
        master = next(link.index for link in kernel.read().values() if link.name == "cni0")
        kernel.carry_out(
            [
                link_orders.cable(near, far, container.fd, 1450, master),
                link_orders.change(near.number, link_orders.settings(), link_orders.port(hairpin=True, isolated=False)),
                routes.to_host(address, near.number),
                routes.permanent_neighbour(address, far.mac, near.number),
            ]
        )


def test_what_was_lost_may_have_been_anything(here):
    here.node.apply(THREE)
    here.events.read(THREE)
    with socket.socket(fileno=socket.dup(here.events.fileno())) as same:
        same.setsockopt(socket.SOL_SOCKET, 33, 1)  # SO_RCVBUFFORCE: hardly anything fits now
    here.node.ip("route", "flush", "proto", "98")
    here.node.ip("-6", "route", "flush", "proto", "98")
    assert here.events.read(THREE) == Heard("too much changed at once", underlay=True)
    assert here.events.read(THREE) == QUIET


def test_neighbours_of_a_link_that_came_later_are_heard_too(here):
    here.node.apply(THREE)
    here.events.read(THREE)
    here.node.ip("link", "delete", "np-vxlan4")
    here.node.apply(THREE)
    here.events.read(THREE)
    here.node.ip("neighbour", "delete", "10.128.2.0", "dev", "np-vxlan4")
    assert here.events.read(THREE).contradiction


def test_an_announced_address_that_somebody_takes_away_is_heard(here):
    assert "203.0.113.1" in after(here, ANNOUNCED, "address delete 203.0.113.1/32 dev eth0").contradiction
