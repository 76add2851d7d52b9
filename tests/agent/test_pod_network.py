"""The Pod network as the agent makes it: real processes, real packets, and whatever happens to a node meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from network_site import CLUSTER, Site, Stream, Talk, node_yaml

from netplane.kernel import sysctls
from netplane.plan.network_plan import PUBLIC_KEY_ANNOTATION

PATH = os.environ.get("PATH", "") + ":/usr/sbin"

needs_wireguard = pytest.mark.skipif(not shutil.which("wireguard-go"), reason="needs wireguard-go")
needs_bird = pytest.mark.skipif(not shutil.which("bird", path=PATH), reason="needs bird")
DIRECT = "{mode: vxlan, pods-to-nodes: direct}"
MODES = ("vxlan", "host-gw", "cross-subnet", DIRECT)


@pytest.fixture
def site(tmp_path):
    with Site(tmp_path, 2) as made:
        yield made


def with_keys(site: Site, *numbers: int) -> None:
    """Every Node shows the key of its host."""
    for number in numbers:
        site.write(f"n{number}", node_yaml(number, annotations={PUBLIC_KEY_ANNOTATION: site.key(number)}))


@pytest.fixture
def three(tmp_path):
    with Site(tmp_path, 3) as made:
        yield made


@pytest.mark.parametrize("mode", MODES)
def test_a_pod_reaches_the_pod_of_another_node_under_its_own_address(site, mode):
    site.start(mode)
    for family in (4, 6):
        assert site.reaches(1, 2, family)
        assert site.reaches(2, 1, family)


@needs_wireguard
def test_wireguard_takes_everything_there_is_between_pods_and_an_agent_that_starts_again_breaks_nothing(site):
    with_keys(site, 1, 2)
    site.start("wireguard")
    for family in (4, 6):
        site.wait_reaches(1, 2, family)
    with Talk(site, 1, 2) as talk:
        site.stop(1)
        assert site.reaches(1, 2)
        site.start("wireguard", 1)
        assert talk.alive()


@needs_wireguard
def test_a_new_wireguard_key_is_used_when_the_others_know_it(site):
    with_keys(site, 1, 2)
    site.start("wireguard")
    site.wait_reaches(1, 2)
    with Talk(site, 1, 2) as talk:
        fresh = site.key(1, "--rotate")
        assert talk.alive()
        site.write("n1", node_yaml(1, annotations={PUBLIC_KEY_ANNOTATION: fresh}))
        site.wait(lambda: fresh in site.run(2, "ip", "-d", "link") or site.reaches(2, 1), "the new key at work")
        site.wait_reaches(1, 2)
        assert talk.alive()


@needs_wireguard
def test_a_node_without_a_key_is_not_reached_in_plain_text(site):
    with_keys(site, 1)
    site.start("wireguard")
    assert not site.reaches(1, 2)
    assert any("unreachable 10.244.2.0/24" in route for route in site.routes(1))
    with_keys(site, 1, 2)
    site.wait_reaches(1, 2)


@needs_wireguard
def test_a_killed_wireguard_comes_back(site):
    with_keys(site, 1, 2)
    site.start("wireguard")
    site.wait_reaches(1, 2)
    with Talk(site, 1, 2) as talk:
        os.kill(int(site.only_process(1, "wireguard-go")), signal.SIGKILL)
        site.wait(lambda: not site.reaches(1, 2), "gone")
        site.wait_reaches(1, 2)
        assert talk.alive()


@needs_bird
def test_bgp_brings_the_routes_and_they_stay_without_agent_and_without_bird(site):
    site.start("bgp")
    for family in (4, 6):
        site.wait_reaches(1, 2, family)
    with Talk(site, 1, 2) as talk, Stream(site, 1, 2) as stream:
        site.stop(1)
        os.kill(int(site.only_process(1, "bird")), signal.SIGKILL)
        assert site.reaches(1, 2)
        site.start("bgp", 1)
        site.wait_reaches(2, 1)
        assert talk.alive()
        assert stream.lost() == 0


@needs_bird
@pytest.mark.parametrize("modes", [("bgp", "vxlan"), ("vxlan", "bgp")])
def test_leaving_bgp_and_coming_to_it_breaks_no_connection_and_leaves_no_bird(site, modes):
    site.start(modes[0])
    site.wait_reaches(1, 2)
    with Talk(site, 1, 2) as talk:
        for number in (1, 2):
            site.stop(number)
            site.start(modes[1], number)
        site.wait_reaches(1, 2)
        assert talk.alive()
        if modes[1] != "bgp":
            assert not site.processes(1, "bird")
            assert not site.ip(1, "route", "show", "proto", "bird")


def test_a_node_that_joins_is_reached_and_one_that_leaves_leaves_nothing_and_others_are_not_touched(three):
    three.remove("n3")
    three.start("vxlan", 1, 2)
    before = three.routes(1)
    with Talk(three, 1, 2) as talk:
        three.write("n3", node_yaml(3))
        three.start("vxlan", 3)
        three.wait_reaches(1, 3)
        three.wait_reaches(3, 1, 6)
        assert _ways(before) < _ways(three.routes(1))
        three.remove("n3")
        three.wait(lambda: three.routes(1) == before, "routes as before")
        assert "192.0.2.13" not in three.run(1, "bridge", "fdb", "show", "dev", "np-vxlan4")
        assert talk.alive()


def test_a_node_with_another_address_is_reached_there(site):
    site.start("vxlan")
    assert site.reaches(1, 2)
    site.ip(2, "addr", "del", "192.0.2.12/24", "dev", "eth0")
    site.ip(2, "addr", "add", "192.0.2.77/24", "dev", "eth0")
    site.write("n2", node_yaml(2, address="192.0.2.77"))
    site.wait_reaches(1, 2)


@pytest.mark.parametrize("damage", [
    ("ip", "route", "flush", "proto", "98"),
    ("ip", "link", "del", "np-vxlan4"),
    ("ip", "neigh", "flush", "nud", "permanent", "dev", "np-vxlan4"),
    ("bridge", "fdb", "flush", "dev", "np-vxlan4"),
    ("ip", "link", "set", "np-vxlan4", "down"),
    ("ip", "rule", "flush", "protocol", "98"),
    ("nft", "delete", "table", "ip", "netplane-network"),
])  # fmt: skip
def test_what_somebody_else_removes_comes_back(site, damage):
    site.start(f"{{mode: vxlan, {CLUSTER}}}")
    assert site.reaches(1, 2)
    with Talk(site, 1, 2) as talk:
        before = _kept(site)
        site.run(1, *damage)
        site.wait(lambda: _kept(site) == before, "all as before")
        site.wait_reaches(1, 2)
        site.wait(lambda: "netplane-network" in site.run(1, "nft", "list", "tables", "ip"))
        assert talk.alive()


@pytest.mark.parametrize("mode", ["vxlan", "host-gw"])
def test_an_uplink_that_goes_down_and_comes_up_is_used_again(site, mode):
    site.start(mode)
    numbers = site.ip(1, "-o", "link").split(":")[::2]
    with Talk(site, 1, 2) as talk:
        site.ip(1, "link", "set", "eth0", "down")
        assert not site.reaches(1, 2)
        site.ip(1, "link", "set", "eth0", "up")
        site.ip(1, "route", "add", "default", "via", "192.0.2.1")
        site.wait_reaches(1, 2)
        assert site.ip(1, "-o", "link").split(":")[::2] == numbers
        assert talk.alive()


def test_a_killed_agent_takes_nothing_with_it_and_its_successor_repairs_without_breaking_connections(site):
    site.start("vxlan")
    with Talk(site, 1, 2) as talk:
        agent = site.agents.pop(1)
        agent.end(signal.SIGKILL)
        agent.close()
        assert site.reaches(1, 2)
        site.run(1, "ip", "route", "del", "10.244.2.0/24", "proto", "98")
        site.run(1, "ip", "route", "add", "blackhole", "10.244.99.0/24", "proto", "98", "metric", "98")
        site.start("vxlan", 1)
        assert not [route for route in site.routes(1) if "10.244.99" in route]
        assert site.reaches(1, 2)
        assert talk.alive()
        link = site.ip(1, "-o", "link", "show", "np-vxlan4")
        site.stop(1)
        site.start("vxlan", 1)
        assert site.ip(1, "-o", "link", "show", "np-vxlan4") == link
        assert talk.alive()


@pytest.mark.parametrize("modes", [
    ("host-gw", "vxlan"), ("vxlan", "host-gw"), ("vxlan", "cross-subnet"), ("vxlan", DIRECT), (DIRECT, "vxlan"),
])  # fmt: skip
def test_the_mode_is_changed_node_by_node_and_no_connection_breaks(site, modes):
    first, second = modes
    site.start(first)
    with Talk(site, 1, 2) as four, Talk(site, 2, 1, 6) as six:
        for number in (1, 2):
            site.stop(number)
            site.start(second, number)
        assert four.alive()
        assert six.alive()
    assert site.reaches(1, 2)


@pytest.mark.parametrize("mode", MODES)
def test_an_agent_that_starts_again_loses_no_packet(site, mode):
    site.start(mode)
    with Stream(site, 1, 2) as stream:
        for number in (1, 2):
            site.stop(number)
            site.start(mode, number)
        assert stream.lost() == 0


def test_no_network_leaves_nothing_of_it(site):
    links, rules = site.ip(1, "-br", "link"), site.ip(1, "rule")
    site.start(f"{{mode: vxlan, {CLUSTER}}}")
    assert site.routes(1)
    site.stop()
    site.start("none", 1)
    assert not site.routes(1)
    assert not site.ip(1, "route", "show", "table", "all", "proto", "98")
    assert (site.ip(1, "-br", "link"), site.ip(1, "rule")) == (links, rules)
    assert "netplane-network" not in site.run(1, "nft", "list", "tables")


def test_a_node_that_cannot_be_reached_does_not_keep_the_others_from_it(three):
    three.write("n3", node_yaml(3, address="203.0.113.9"))  # behind a router, which host-gw cannot
    three.start("host-gw", 1, 2)
    assert three.reaches(1, 2)
    said = [line for line in three.agents[1].said if line["message"] == "problem"]
    assert any("Node n3" in line["what"] for line in said)


def test_without_its_own_node_the_services_are_served_and_the_network_follows_when_it_comes(site):
    site.remove("n1")
    agent = site.begin("vxlan", 1, "--local", "interface-prefix=pod")
    agent.next("cannot reconcile; the last good state stays and is tried again")
    agent.next("ready")  # kubelet may wait for that, and it is kubelet who makes the Node
    assert "table ip netplane" in site.run(1, "nft", "list", "tables")
    site.write("n1", node_yaml(1))
    agent.next("recovered")
    site.start("vxlan", 2)
    site.wait_reaches(1, 2)


def test_what_the_kernel_always_refuses_keeps_nobody_waiting_and_nothing_that_is_gone(three):
    off = {"net/ipv6/conf/all/disable_ipv6": 1, "net/ipv6/conf/default/disable_ipv6": 1}
    three.nodes[1].run(lambda: sysctls.write(off))
    three.start("vxlan")
    three.wait_reaches(1, 3)
    three.remove("n3")
    three.wait(lambda: not three.reaches(3, 1), "nothing from a node that is gone")
    assert not [route for route in three.routes(1) if "10.244.3" in route]
    assert "192.0.2.13" not in three.run(1, "nft", "list", "set", "ip", "netplane-network", "vxlan-peers")
    assert three.reaches(1, 2)


def test_five_hundred_nodes_that_join_at_once_are_reached(site):
    site.start("vxlan")
    many = "\n---\n".join(
        node_yaml(2)
        .replace('"n2"', f'"m{index}"')
        .replace("10.244.2.0/24", f"10.{100 + index // 250}.{index % 250}.0/24")
        .replace("fd00:10:244:2::/64", f"fd00:10:999:{index:x}::/64")
        .replace('"192.0.2.12"', f'"198.51.{100 + index // 250}.{index % 250}"')
        .replace('"2001:db8:2::12"', f'"2001:db8:9::{index:x}"')
        for index in range(500)
    )
    with Talk(site, 1, 2) as talk:
        site.write("many", many)
        site.wait(lambda: sum("np-vxlan4" in route for route in site.routes(1)) >= 1002, "1002 routes")
        assert talk.alive()
        site.remove("many")
        site.wait(lambda: sum("np-vxlan4" in route for route in site.routes(1)) == 2, "2 routes")
        assert talk.alive()


def test_two_who_fight_over_a_route_do_not_eat_the_node(site):
    site.start("vxlan")
    used = _cpu_seconds(site.agents[1].process.pid)
    for _ in range(50):
        site.run(1, "ip", "route", "flush", "proto", "98")
    site.wait(lambda: site.reaches(1, 2), "healed")
    assert _cpu_seconds(site.agents[1].process.pid) - used < 3


def _ways(routes: set[str]) -> set[str]:
    """Without those that only catch what has no way: several ranges beside one another may have one."""
    return {route for route in routes if not route.startswith("unreachable")}


def _kept(site: Site) -> tuple[set[str], ...]:
    """What n1's kernel has of ours."""
    neighbours = site.ip(1, "neigh", "show", "nud", "permanent")
    return site.routes(1), set(site.ip(1, "rule").splitlines()), set(neighbours.splitlines())


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
