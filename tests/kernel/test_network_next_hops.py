"""A next hop that did not answer, and answers now. See `sysctls` in netplane/backends/network/routes.py."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest
from uplinked_node import NetworkNode, direct, node, pods

from netplane.kernel import command
from netplane.kernel.links import Links
from netplane.kernel.netns import Namespace
from netplane.programs.network import NetworkProgram

pytestmark = pytest.mark.kernel
SECONDS = 30.0
"""Less than the minute after which the kernel would look by itself."""
POD, HOP, PORT = str(pods(1, 6)[9]), str(node(1, 6)), 7000
FORWARDS = {"net/ipv6/conf/all/forwarding": 1}
LOOKS = {"net/ipv6/conf/all/forwarding": 0, "net/ipv6/conf/eth0/router_probe_interval": 1}
NEITHER = {"net/ipv6/conf/all/forwarding": 0, "net/ipv6/conf/eth0/router_probe_interval": 60}


@dataclass
class Wire:
    """A node, and the other end of its uplink, where node 1 may be."""

    here: NetworkNode
    there: Namespace

    def ip(self, *words: str) -> None:
        self.there.run(lambda: command.run("ip", *words, mechanism="test", doing="change"))

    def ask(self, server: socket.socket | None = None) -> str:
        """What comes of a question to the Pod: the server's answer, "" if there is none, or the name of an error."""
        with self.here.run(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as asking:
            asking.settimeout(0.1)
            try:
                asking.sendto(b"ask", (POD, PORT))
                if server:
                    _, whom = server.recvfrom(16)
                    server.sendto(b"answer", whom)
                return asking.recv(16).decode()
            except TimeoutError:
                return ""
            except OSError as error:
                return errno.errorcode[error.errno or 0]


@pytest.fixture
def wire() -> Iterator[Wire]:
    with NetworkNode() as here, Namespace() as there:
        here.ip("link", "set", "far", "netns", str(there.path))
        made = Wire(here, there)
        for words in ("link set lo up", "link set far addrgenmode none", "link set far up"):
            made.ip(*words.split())
        here.ip("address", "add", "fe80::1/64", "dev", "eth0", "nodad")  # what the kernel asks from by itself
        made.ip("address", "add", "fe80::2/64", "dev", "far", "nodad")
        here.run(lambda: _wait_for_carrier("eth0"))
        there.run(lambda: _wait_for_carrier("far"))
        yield made


def _wait_for_carrier(link: str) -> None:
    with Links() as kernel:
        kernel.wait_ready({link}, SECONDS)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def failed(wire: Wire, sysctls: dict[str, int]) -> None:
    """Let the next hop not answer until the kernel gives up."""
    want: NetworkProgram = replace(direct(1), sysctls=sysctls)
    wire.here.apply(want)
    wire.ask()  # once: where it forwards, each further packet makes it try anew
    until(lambda: "FAILED" in wire.here.ip("-6", "neighbour", "show", HOP, "dev", "eth0"))


@pytest.mark.parametrize("sysctls", [FORWARDS, LOOKS], ids=["forwards", "looks"])
def test_a_next_hop_is_used_again_when_it_answers_again(wire, sysctls):
    failed(wire, sysctls)
    for address in (HOP, POD):
        wire.ip("address", "add", f"{address}/128", "dev", "far", "nodad")
    wire.ip("route", "add", "fd00:18::1", "dev", "far")
    with wire.there.run(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as server:
        server.bind(("", PORT))
        server.settimeout(0.1)
        until(lambda: wire.ask(server) == "answer")


def test_without_either_packets_go_where_those_for_no_pod_go(wire):
    """If this fails the kernel has become better, and nothing need be set."""
    failed(wire, NEITHER)
    assert wire.ask() == "EHOSTUNREACH"
    with pytest.raises(Exception, match="No route to host"):
        wire.here.ip("-6", "route", "get", POD)
