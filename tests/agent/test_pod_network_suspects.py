"""The Pod network as the agent makes it, where one would not look first: no link for a moment, a node alone, fights."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time

import pytest
from network_site import Site, node_yaml
from node_of_agent import service

from netplane.plan.network_plan import PUBLIC_KEY_ANNOTATION

SECRET = b"nobody on the wire reads this"
_PATH = os.environ.get("PATH", "") + ":/usr/sbin"
_EVERY_KIND = 3  # ETH_P_ALL
_TOLD = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}  # IP_RECVERR


@pytest.fixture
def site(tmp_path):
    with Site(tmp_path, 2) as made:
        yield made


def on_the_wire(listening: socket.socket, what: bytes) -> bool:
    """Whether a frame that was seen until now has it in it."""
    listening.setblocking(False)
    found = False
    try:
        while True:
            found = what in listening.recv(1 << 16) or found
    except BlockingIOError:
        return found


@pytest.mark.skipif(not shutil.which("wireguard-go"), reason="needs wireguard-go")
@pytest.mark.parametrize("to", ["192.0.2.12", "2001:db8:2::12", "10.244.2.5", "fd00:10:244:2::5"])
def test_without_wireguard_nothing_of_pods_is_on_the_wire(site, to):
    """Neither to Pods nor to nodes, while its process is gone and nobody starts it again."""
    for number in (1, 2):
        site.write(f"n{number}", node_yaml(number, annotations={PUBLIC_KEY_ANNOTATION: site.key(number)}))
    site.start("wireguard")
    site.wait_reaches(1, 2)
    site.stop(1)
    os.kill(int(site.only_process(1, "wireguard-go")), signal.SIGKILL)
    site.wait(lambda: "np-wg" not in site.ip(1, "link"), "no link")
    kind = socket.AF_INET6 if ":" in to else socket.AF_INET
    raw = site.wire.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_EVERY_KIND)))
    with raw, site.pods[1].run(lambda: socket.socket(kind, socket.SOCK_DGRAM)) as sending:
        sending.settimeout(5)
        sending.setsockopt(*_TOLD[kind], 1)
        sending.connect((to, 9999))
        sending.send(SECRET)
        with pytest.raises(OSError, match=r"No route to host|unreachable"):  # told by the node, so it was there
            sending.recv(1)
        assert not on_the_wire(raw, SECRET)
        with site.nodes[1].run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as other:
            other.sendto(SECRET, ("192.0.2.12", 9999))
        site.wait(lambda: on_the_wire(raw, SECRET), "what is sent by the node itself")


@pytest.mark.skipif(not shutil.which("bird", path=_PATH), reason="needs bird")
def test_a_killed_bird_comes_back(site):
    """Nobody tells that it ended, and its routes stay: it is looked for."""
    site.start("bgp")
    site.wait_reaches(1, 2)
    ended = site.only_process(1, "bird")
    os.kill(int(ended), signal.SIGKILL)
    site.wait(lambda: (found := site.processes(1, "bird")) != [] and found != [ended], "another bird")


@pytest.mark.parametrize("mode", ["vxlan", "host-gw"])
def test_a_node_alone_answers_for_its_load_balancers(tmp_path, mode):
    with Site(tmp_path, 1) as site:
        site.write("web", service("web", 10, "10.244.1.5@n1", type="LoadBalancer"))
        site.start(f"{{mode: {mode}, load-balancers: {{pools: [192.0.2.200-192.0.2.209]}}}}")
        site.wait(lambda: "192.0.2.20" in site.ip(1, "address", "show", "dev", "eth0"), "an address")


def test_a_fight_over_a_route_is_fought_once_a_second(site):
    site.start("vxlan")
    site.ip(1, "route", "flush", "proto", "98")
    site.agents[1].next("drift repaired")
    begun, before = time.monotonic(), site.agents[1].count("drift repaired")
    for _ in range(3):
        site.wait(lambda: "10.244.2.0/24 via" in site.ip(1, "route"), "the route")
        site.ip(1, "route", "flush", "proto", "98")
    site.wait(lambda: "10.244.2.0/24 via" in site.ip(1, "route"), "the route")
    seconds = time.monotonic() - begun
    assert site.agents[1].end() == 0
    assert site.agents[1].count("drift repaired") - before <= seconds + 1
