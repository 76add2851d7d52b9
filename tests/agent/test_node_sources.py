"""Under which address nodes and far Pods know each other by an overlay, as the agent makes it, and when it changes.

Decision 0031. Hosts are strict about reverse paths here.
"""

from __future__ import annotations

import shutil
import socket

import pytest
from network_site import PORT, Site, node_yaml, pod

from netplane.kernel import sysctls
from netplane.kernel.netns import Namespace
from netplane.plan.network_plan import PUBLIC_KEY_ANNOTATION

FAMILIES = (4, 6)
OVERLAYS = ["vxlan", pytest.param("wireguard", marks=pytest.mark.skipif(
    not shutil.which("wireguard-go"), reason="needs wireguard-go"))]  # fmt: skip
STRICT = {"net/ipv4/conf/all/rp_filter": 1, "net/ipv4/conf/default/rp_filter": 1}


@pytest.fixture
def site(tmp_path):
    with Site(tmp_path, 2) as made:
        for number in (1, 2):
            made.nodes[number].run(lambda: sysctls.write(STRICT))
        yield made


def start(site: Site, mode: str) -> None:
    if mode == "wireguard":
        for number in (1, 2):
            site.write(f"n{number}", node_yaml(number, annotations={PUBLIC_KEY_ANNOTATION: site.key(number)}))
    site.start(mode)
    for family in FAMILIES:
        site.wait_reaches(1, 2, family)


def node(number: int, family: int) -> str:
    return f"192.0.2.{10 + number}" if family == 4 else f"2001:db8:2::{10 + number}"


def asked(client: Namespace, server: Namespace, to: str) -> str:
    """Whom a server at all addresses takes for its client; "" if that hears no answer from the address it asked."""
    kind = socket.AF_INET6 if ":" in to else socket.AF_INET
    answering, asking = (each.run(lambda: socket.socket(kind, socket.SOCK_DGRAM)) for each in (server, client))
    with answering, asking:
        answering.bind(("", PORT))
        for each in (answering, asking):
            each.settimeout(0.25)
        try:
            asking.connect((to, PORT))
            asking.send(b"ask")
            _, whom = answering.recvfrom(64)
            answering.sendto(b"answer", whom)
            return str(whom[0]) if asking.recv(64) == b"answer" else ""
        except OSError:
            return ""


def speaks_as(site: Site, one: int, other: int, family: int) -> str:
    """As whom a Pod knows a far node that chooses no source."""
    return asked(site.nodes[one], site.pods[other], pod(other, family))


def answers(site: Site, one: int, to: str, family: int) -> bool:
    """Whether a server of the other node at all addresses answers a Pod from `to`, and knows the Pod."""
    return asked(site.pods[one], site.nodes[3 - one], to) == pod(one, family)


def _sources(site: Site, number: int, to: str) -> list[bool]:
    """Whether the routes of a node to these Pods have a source of their own: there is one route, or none."""
    return [" src 192.0.2." in line or " src 2001:" in line for line in site.routes(number) if line.startswith(to)]


@pytest.mark.parametrize("mode", OVERLAYS)
def test_a_pod_is_answered_from_the_address_it_asked_and_knows_nodes_by_their_addresses(site, mode):
    start(site, mode)
    for family in FAMILIES:
        for one, other in ((1, 2), (2, 1)):
            assert answers(site, one, node(other, family), family)
            assert speaks_as(site, one, other, family) == node(one, family)


@pytest.mark.parametrize("mode", OVERLAYS)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_address_that_goes_and_comes_back_is_the_source_again_and_no_round_fails(site, mode, family):
    start(site, mode)
    length = {4: 24, 6: 64}[family]
    pods, inner = {4: ("10.244.1.0/24 ", ""), 6: ("fd00:10:244:1::/64 ", "fd00:10:244:2::")}[family]
    words = (f"{node(2, family)}/{length}", "dev", "eth0", *["nodad"] * (family == 6))
    for _ in range(2):
        site.ip(2, "addr", "add", "192.0.2.99/25", "dev", "eth0")  # other nodes stay reachable
        site.ip(2, "addr", "del", *words[:3])
        site.wait(lambda: _sources(site, 2, pods) == [False], "no source")
        if inner:  # the outer packets have IPv4
            assert speaks_as(site, 2, 1, family) == inner
        site.ip(2, "addr", "add", *words)
        site.wait(lambda: speaks_as(site, 2, 1, family) == node(2, family), "its own address")
        site.ip(2, "addr", "del", "192.0.2.99/25", "dev", "eth0")
        site.wait(lambda: answers(site, 1, node(2, family), family), "its own address, alone")
    site.ip(2, "addr", "del", *words[:3])
    site.ip(2, "addr", "add", *words)  # before anybody looks
    site.wait(lambda: answers(site, 1, node(2, family), family), "its own address, after a moment without it")
    agent = site.agents[2]
    site.stop(2)
    assert not [line for line in agent.said if line["message"].startswith("cannot reconcile")]


@pytest.mark.parametrize("mode", OVERLAYS)
def test_a_renumbered_node_speaks_with_its_new_address(site, mode):
    start(site, mode)
    agent = site.agents[2]
    keys = {PUBLIC_KEY_ANNOTATION: site.key(2)} if mode == "wireguard" else None
    site.ip(2, "addr", "del", "192.0.2.12/24", "dev", "eth0")
    site.ip(2, "addr", "add", "192.0.2.77/24", "dev", "eth0")
    site.write("n2", node_yaml(2, address="192.0.2.77", annotations=keys))
    site.wait(lambda: speaks_as(site, 2, 1, 4) == "192.0.2.77", "the new address")
    site.wait(lambda: answers(site, 1, "192.0.2.77", 4), "an answer from the new address")
    assert answers(site, 1, node(2, 6), 6)
    site.stop(2)
    assert not [line for line in agent.said if line["message"].startswith("cannot reconcile")]
