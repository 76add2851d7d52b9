"""Load-balancer addresses without a cloud: one node answers for each, and another one when that is gone."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from contextlib import suppress

import pytest
from network_site import Site, node_yaml, pod
from node_of_agent import service

ADDRESS = {4: "192.0.2.200", 6: "2001:db8:2::200"}
SETTINGS = "{mode: vxlan, load-balancers: {pools: [192.0.2.200-192.0.2.209, '2001:db8:2::200-2001:db8:2::209']}}"


@pytest.fixture
def site(tmp_path):
    with Site(tmp_path, 3) as made:
        for number in made.nodes:
            made.serve(number)
        address = ",".join(ADDRESS.values())
        text = service("web", 10, *(f"{pod(2, family)}@n2" for family in (4, 6)), type="LoadBalancer")
        first, *rest = text.split("\n---\n")
        asking = json.loads(first)
        asking["metadata"]["annotations"] = {"netplane.dev/load-balancer-address": address}
        made.write("web", "\n---\n".join((json.dumps(asking), *rest)))
        made.outside()
        yield made


def asked(site: Site, family: int) -> bool:
    """Whether a client beside the nodes gets an answer from the Service."""

    def work() -> bool:
        with socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6) as client, suppress(OSError):
            client.settimeout(0.5)
            client.connect((ADDRESS[family], 80))
            return client.recv(16) == b"pod 2"
        return False

    return site.wire.run(work)


def holders(site: Site, family: int) -> set[int]:
    """The nodes that have the address."""
    return {number for number in site.nodes if ADDRESS[family] in site.ip(number, "-o", "addr", "show", "dev", "eth0")}


def announced(site: Site, number: int) -> list[str]:
    """The addresses that a node's agent says it answers for."""
    words = ("--run-dir", str(site.agents[number].run_dir), "--output", "json")
    said = site.run(number, sys.executable, "-m", "netplane", "agent", "status", *words)
    return list(json.loads(said)["network"]["announced"])


def test_one_node_answers_and_another_one_does_when_that_is_gone(site):
    site.start(SETTINGS)
    for family in (4, 6):
        site.wait(lambda family=family: len(holders(site, family)) == 1, "one holder")
        site.wait(lambda family=family: asked(site, family), "an answer")
    (first,) = holders(site, 4)
    site.wire.run(lambda: subprocess.run(["ip", "link", "set", f"to{first}", "down"], check=True))
    if first != 2:  # the only endpoint is there
        site.wait(lambda: asked(site, 4), "an answer after the node was cut off")
    site.wait(lambda: len(holders(site, 4) - {first}) == 1, "a second holder")
    site.wire.run(lambda: subprocess.run(["ip", "link", "set", f"to{first}", "up"], check=True))
    site.wait(lambda: holders(site, 4) == {first}, "the first again")
    site.wait(lambda: asked(site, 4) and asked(site, 6), "an answer")


def test_an_agent_that_starts_again_does_not_let_go_of_the_address(site):
    site.start(SETTINGS)
    site.wait(lambda: len(holders(site, 4)) == 1, "one holder")
    (first,) = holders(site, 4)
    watching = site.monitor(first, "address")
    site.stop(first)
    site.start(SETTINGS, first)
    site.ip(first, "addr", "add", "192.0.2.250/32", "dev", "lo")  # what the monitor says of this comes after all else
    site.wait(lambda: any("192.0.2.250" in line for line in watching.said()), "news")
    assert asked(site, 4)
    assert not [line for line in watching.said() if ADDRESS[4] in line]


def test_while_another_node_is_dead_an_agent_that_starts_again_keeps_what_it_took_over(site):
    site.start(SETTINGS)
    site.wait(lambda: len(holders(site, 4)) == 1, "one holder")
    (first,) = holders(site, 4)
    site.wire.run(lambda: subprocess.run(["ip", "link", "set", f"to{first}", "down"], check=True))
    site.wait(lambda: len(holders(site, 4) - {first}) == 1, "a second holder")
    (second,) = holders(site, 4) - {first}
    watching = site.monitor(second, "address")
    site.stop(second)
    site.start(SETTINGS, second)
    site.wait(lambda: ADDRESS[4] in announced(site, second), "that it is sure")
    assert not [line for line in watching.said() if "Deleted" in line and ADDRESS[4] in line]


def test_a_node_that_never_rests_keeps_no_address_from_moving(site):
    site.start(SETTINGS)
    site.wait(lambda: len(holders(site, 4)) == 1, "one holder")
    (first,) = holders(site, 4)
    site.wire.run(lambda: subprocess.run(["ip", "link", "set", f"to{first}", "down"], check=True))
    last = 100

    def moved() -> bool:
        nonlocal last
        last += 1
        site.write("n9", node_yaml(9, last=last))
        return len(holders(site, 4) - {first}) == 1

    site.wait(moved, "a second holder, while n9 has another address each time")


def test_what_no_service_port_is_for_is_not_the_nodes(site):
    site.start(SETTINGS)
    site.wait(lambda: len(holders(site, 4)) == 1, "one holder")
    (first,) = holders(site, 4)
    with site.nodes[first].run(socket.socket) as listening:
        listening.bind(("0.0.0.0", 4711))
        listening.listen()

        def work(to: str) -> bool:
            with socket.socket() as client, suppress(OSError):
                client.settimeout(0.5)
                client.connect((to, 4711))
                return True
            return False

        assert site.wire.run(lambda: work(f"192.0.2.{10 + first}"))
        assert not site.wire.run(lambda: work(ADDRESS[4]))


def test_a_service_that_goes_gives_its_address_back(site):
    site.start(SETTINGS)
    site.wait(lambda: len(holders(site, 4)) == 1, "one holder")
    site.remove("web")
    site.wait(lambda: not holders(site, 4) | holders(site, 6), "nobody")
