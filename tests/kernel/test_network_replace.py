"""The way to a Pod range changes with no moment without one. See netplane/kernel/network_driver.py."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from uplinked_node import NetworkNode, direct, inner, node, overlay, pods

from netplane.kernel.link_events import DELETE_ROUTE, NEW_ROUTE, ROUTES, LinkEvents
from netplane.kernel.netns import Namespace
from netplane.kernel.network_routes import decode
from netplane.model.address import IPNetwork
from netplane.programs.network import LinkAddress, NetworkProgram, Route, RouteKey, RouteKind

pytestmark = pytest.mark.kernel
NUMBERS = (1, 2, 3)
RANGES = tuple(pods(number, family) for number in NUMBERS for family in (4, 6))


@pytest.fixture
def here() -> Iterator[NetworkNode]:
    with NetworkNode() as made:
        yield made


def both_backstops(want: NetworkProgram) -> NetworkProgram:
    """Where there is no way, who sends is told so."""
    ranges = {RouteKey(each, metric=9898): Route(RouteKind.UNREACHABLE) for each in RANGES}
    return replace(want, routes={**want.routes, **ranges})


WAYS = {
    "direct": both_backstops(direct(*NUMBERS)),
    "vxlan": both_backstops(overlay(*NUMBERS, mtu=1400)),
    "link": both_backstops(
        replace(overlay(), routes={**overlay().routes, **{RouteKey(to): Route(link="np-vxlan4") for to in RANGES}})
    ),
}
CHANGES = [(one, other) for one in WAYS for other in WAYS if one != other]


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_no_route_to_pods_is_deleted_when_the_way_changes(here, before, after):
    here.apply(WAYS[before])
    with here.run(lambda: LinkEvents(ROUTES, [((), True)], 8 << 20)) as events:
        here.apply(WAYS[after])
        told = [(each.kind, decode(each.payload)) for each in events.read() if each]
    ranges: set[IPNetwork] = {*RANGES}
    assert {fact.key.to for number, fact in told if number == NEW_ROUTE} >= ranges
    assert [fact.key.to for number, fact in told if number == DELETE_ROUTE and fact.key.to in ranges] == []


class Stream:
    """Sends to Pods of other nodes as fast as it can, and keeps what the kernel said instead of a route."""

    def __init__(self) -> None:
        self.sent = 0
        self.refused: list[str] = []
        self._stop = threading.Event()

    def run(self) -> None:
        addresses = [(str(each.network_address + 9), each.version) for each in RANGES]
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as four,
            socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six,
        ):
            while not self._stop.is_set():
                for address, version in addresses:
                    try:
                        (four if version == 4 else six).sendto(b"", (address, 9))
                    except OSError as error:
                        self.refused.append(f"{address}: {error.strerror}")
                    self.sent += 1

    def stop(self) -> None:
        self._stop.set()


@contextmanager
def stream(where: NetworkNode) -> Iterator[Stream]:
    """In a thread of its own in the same namespace.

    Nobody answers there: IPv6 would pass over a route whose next hop does not, in favour of a backstop.
    """
    for number in NUMBERS:
        for family in (4, 6):
            words = f"neighbour replace {node(number, family)} lladdr 02:00:00:00:00:09 dev eth0 nud permanent"
            where.ip(*words.split())
    sender = Stream()
    with Namespace(Path(f"/proc/self/fd/{where.namespace.fd}")) as other:
        thread = threading.Thread(target=lambda: other.run(sender.run))
        thread.start()
        try:
            yield sender
        finally:
            sender.stop()
            thread.join()


def test_not_one_packet_is_refused_while_the_way_changes_again_and_again(here):
    here.apply(WAYS["direct"])
    with stream(here) as sender:
        for _ in range(5):
            for _, after in CHANGES:
                begun = sender.sent
                here.apply(WAYS[after], reread=False)
                while sender.sent == begun:  # each way is used
                    pass
    assert sender.sent > 100
    assert sender.refused == []


def test_the_stream_sees_a_moment_without_a_route(here):
    here.apply(WAYS["direct"])
    with stream(here) as sender:
        here.ip("route", "delete", str(pods(1)), "metric", "98")
        while not sender.refused:
            pass
        here.apply(WAYS["direct"])
    assert "No route to host" in sender.refused[0]


def test_addresses_of_the_overlay_stay_while_peers_change(here):
    here.apply(WAYS["vxlan"])
    more = replace(WAYS["vxlan"], addresses=WAYS["vxlan"].addresses | {LinkAddress("np-vxlan4", inner(7))})
    with here.run(lambda: LinkEvents((5,), [((), True)])) as events:
        here.apply(more)
        assert [each.kind for each in events.read() if each] == [20]
