"""`netplane host check` finds what keeps Pods of two nodes apart, and what it says to do mends it."""

from __future__ import annotations

import shlex
import socket
import subprocess

import pytest
from command_line import netplane
from two_nodes import ip, manifests, nft, two_nodes

from netplane.kernel.netns import Namespace
from netplane.plan.network_settings import Mode

pytestmark = pytest.mark.lab
JSON = ("--output", "json")


@pytest.fixture
def site(tmp_path):
    with two_nodes(Mode.VXLAN, tmp_path) as made:
        yield made


def check(site):
    done = site.run("host", "check", *site.words, *JSON)
    bad = [row for row in done.json if row["check"].startswith("network: ") and row["result"] != "ok"]
    assert done.code == (4 if any(row["result"] in ("error", "MISSING") for row in bad) else 0)
    return bad


def do(site, words, at=0):
    site.pair.nodes[at].run(lambda: subprocess.run(shlex.split(words), check=True, capture_output=True))


def mend(site, row):
    """Do what was said."""
    for command in row["mend"].split("; "):
        do(site, command)


# --- without a network, and with one that is well -------------------------------------------------------------------


def test_without_a_mode_what_a_mode_lacks_is_no_error():
    done = netplane("host", "check", *JSON)
    assert done.code == 0
    assert {row["result"] for row in done.json if row["check"].startswith("network: ")} == {"ok"}
    assert all(row.keys() == {"check", "result", "said", "why", "mend"} for row in done.json)


def test_two_nodes_that_reach_each_other_have_nothing_to_mend(site):
    assert check(site) == []


@pytest.mark.parametrize("words", [("--from", "x"), ("--node", "n1"), ("--network", "vxlan", "--node", "n1")])
def test_what_belongs_together_is_asked_for_together(words):
    assert netplane("host", "check", *words).code == 2


def test_settings_alone_are_enough_for_what_needs_no_nodes():
    with Namespace() as namespace, namespace.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as other:
        other.bind(("0.0.0.0", 4789))
        done = netplane("host", "check", "--network", "vxlan", *JSON, namespace=namespace)
    assert done.code == 4
    assert any(row["said"].startswith("UDP 4789 is taken by ") for row in done.json)
    assert "host-gw needs nothing but routes" in netplane("host", "check", "--network", "host-gw").out


# --- each thing that can be wrong -----------------------------------------------------------------------------------


def test_a_firewall_that_lets_nothing_in(site):
    nft(
        site.pair.nodes[0],
        "table inet fw { chain in { type filter hook input priority 0; policy drop;"
        " icmp type echo-reply accept; meta l4proto tcp accept; }; }",
    )
    row = next(row for row in check(site) if row["check"] == "network: firewall")
    assert row["said"].startswith("inet fw chain in (policy drop) drops what comes in")
    mend(site, row)
    assert not any(row["check"] == "network: firewall" for row in check(site))


def test_a_route_that_takes_what_is_for_another_nodes_pods(site):
    ip(site.pair.nodes[0], "route add 10.244.2.128/25 via 192.0.2.9 dev eth0 proto static")
    (row,) = check(site)
    assert row["said"].startswith("10.244.2.128/25 via 192.0.2.9 dev eth0 (protocol static) takes packets")
    do(site, row["mend"].split(", and in")[0])
    assert check(site) == []


def test_a_node_that_answers_but_not_through_the_overlay(site):
    nft(site.pair.nodes[1], "table ip fw { chain in { type filter hook input priority 0; udp dport 4789 drop; }; }")
    (row,) = check(site)
    assert row["said"] == "these nodes answer, and not through np-vxlan4: n2"


def test_a_node_that_does_not_answer(site):
    nft(site.pair.nodes[1], "table ip fw { chain in { type filter hook input priority 0; ip saddr 192.0.2.1 drop; }; }")
    (row,) = check(site)
    assert (row["result"], row["said"]) == ("warning", "these nodes do not answer echo requests: n2")


def test_links_and_rules_of_another_plugin(site):
    ip(site.pair.nodes[0], "link add flannel.1 type vxlan id 1 dstport 8472", "link add cni0 type bridge")
    ip(site.pair.nodes[0], "addr add 10.99.0.1/24 dev cni0", "link set dev cni0 up")
    nft(site.pair.nodes[0], "table ip nat { chain FLANNEL-POSTRTG { }; }")
    said = {row["check"]: row["said"] for row in check(site) if "flannel" in row["said"] or "FLANNEL" in row["said"]}
    assert said["network: other plugins"] == "links of Flannel: flannel.1"
    assert said["network: other plugins' rules"].startswith("rules of Flannel: ip nat FLANNEL-POSTRTG")
    assert any(row["said"].startswith("cni0 has 10.99.0.1/24") for row in check(site))


def test_links_of_pods_that_are_larger_than_the_way(site):
    ip(site.pair.nodes[0], "link add npb0 mtu 1500 type veth peer name npb1 mtu 1500")
    (row,) = check(site)
    assert row["said"].startswith(
        "larger packets than the way between nodes carries (1450, the way to n2): npb0 (1500)"
    )
    mend(site, row | {"mend": row["mend"].partition("until then: ")[2]})
    assert check(site) == []


def test_a_strict_filter_where_there_are_two_ways(site):
    ip(
        site.pair.nodes[0],
        "link add second type veth peer name second1",
        "link set dev second up",
        "link set dev second1 up",
        "addr add 198.51.100.1/24 dev second",
        "route add default via 198.51.100.2 dev second",
    )
    assert check(site) == []
    do(site, "sysctl -w net/ipv4/conf/eth0/rp_filter=1")
    (row,) = check(site)
    assert row["said"].startswith("the reverse path filter is strict on eth0")
    mend(site, row)
    assert check(site) == []


def test_a_strict_filter_where_pods_reach_nodes_beside_the_overlay(site):
    settings = site.place / "direct.yaml"
    settings.write_text("{mode: vxlan, pods-to-nodes: direct}")
    words = [str(settings) if word == "vxlan" else word for word in site.words]

    def found():
        rows = site.run("host", "check", *words, *JSON).json
        return [row for row in rows if row["check"] == "network: reverse path" and row["result"] != "ok"]

    assert found() == []
    do(site, "sysctl -w net/ipv4/conf/eth0/rp_filter=1")
    (row,) = found()
    assert (row["result"], "pods-to-nodes: direct" in row["said"]) == ("error", True)
    mend(site, row)
    assert found() == []


def test_a_link_that_does_not_forward(site):
    do(site, "sysctl -w net/ipv4/conf/eth0/forwarding=0")
    (row,) = check(site)
    assert row["said"].startswith("IPv4 packets that come in by eth0 are not forwarded")
    mend(site, row)
    assert check(site) == []


def test_a_node_that_cannot_be_reached_at_all(tmp_path):
    folder = manifests(tmp_path / "manifests")
    with Namespace() as namespace:  # without any route
        words = ("--from", str(folder), "--node", "n1", "--network", "vxlan", *JSON)
        done = netplane("host", "check", *words, namespace=namespace)
    assert done.code == 4
    assert any(row["said"] == "there is no way to these nodes: n2" for row in done.json)
