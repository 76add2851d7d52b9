"""What a packet met, where the rules are those of iptables: the very rules, with their comments, in either variant."""

from __future__ import annotations

import os
import struct
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
from cluster import CLIENT, VIP, lab_with_servers, manifests, pod_address, probe

from netplane.lab import run
from netplane.lab.cases import load_case
from netplane.lab.rule_log import Logged, decode, legacy_families
from netplane.lab.topology import Attach
from netplane.lab.trace import rules_for
from netplane.model.address import Family, Protocol

pytestmark = [pytest.mark.lab, pytest.mark.kernel]

DOORS = [(protocol, 80) for protocol in Protocol]
LOGGERS = {
    Family.IPV4: Path("/proc/sys/net/netfilter/nf_log/2"),
    Family.IPV6: Path("/proc/sys/net/netfilter/nf_log/10"),
}
IP = {Family.IPV4: "ip", Family.IPV6: "ip6"}

each_family = pytest.mark.parametrize("family", list(Family), ids=str)
each_variant = pytest.mark.parametrize("variant", ["nft", "legacy"])


@pytest.fixture
def lock(tmp_path, monkeypatch):
    """The lock of the legacy variant is a file that namespaces share: a test has one of its own."""
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "lock"))


def load(lab, family, variant):
    """`web-1` behind the cluster IP, as kube-proxy would have it, and rules that do not match in between."""
    to = pod_address("web-1", family)
    at = f"[{to}]" if family is Family.IPV6 else str(to)
    text = f"""*nat
:KUBE-SERVICES - [0:0]
:KUBE-SVC-A - [0:0]
-A PREROUTING -m comment --comment "service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "past the bridge" -j ACCEPT
-A KUBE-SERVICES -d {VIP[family]} -p udp --dport 81 -j KUBE-SVC-A
-A KUBE-SERVICES -d {VIP[family]} -p udp --dport 80 -m comment --comment "shop/web:dns cluster IP" -j KUBE-SVC-A
-A KUBE-SERVICES -d {VIP[family]} -p tcp --dport 80 -m comment --comment "shop/web:http cluster IP" -j KUBE-SVC-A
-A KUBE-SVC-A -p udp -m comment --comment "shop/web:dns -> web-1" -j DNAT --to-destination {at}:8080
-A KUBE-SVC-A -p tcp -m comment --comment "shop/web:http -> web-1" -j DNAT --to-destination {at}:8080
COMMIT
"""
    tool = "iptables" if family is Family.IPV4 else "ip6tables"
    words = [f"{tool}-{variant}-restore", "--noflush"]
    lab.nodes["n1"].run(lambda: subprocess.run(words, input=text, text=True, check=True, env=dict(os.environ)))


@each_family
@each_variant
def test_the_rules_are_shown_as_iptables_has_them(lock, family, variant):
    with lab_with_servers(Attach.BRIDGE, *DOORS) as lab:
        load(lab, family, variant)
        rules = rules_for(lab, probe(lab, CLIENT, VIP[family]))
    where = f"n1: {'legacy ' if variant == 'legacy' else ''}{IP[family]} nat"
    met = [rule for rule in rules if rule.startswith(where) and ": rule " in rule]
    assert [rule.removeprefix(where).split(":")[0].strip() for rule in met] == [
        "PREROUTING",
        "KUBE-SERVICES",
        "KUBE-SVC-A",
        "POSTROUTING",
    ]
    assert '--comment "service portals" -j KUBE-SERVICES' in met[0]
    assert '--dport 80 -m comment --comment "shop/web:dns cluster IP" -j KUBE-SVC-A' in met[1]
    assert '--comment "shop/web:dns -> web-1" -j DNAT' in met[2]
    assert '--comment "past the bridge"' in met[3]


@each_variant
def test_one_packet_of_a_connection_is_followed(lock, variant):
    with lab_with_servers(Attach.BRIDGE, *DOORS) as lab:
        load(lab, Family.IPV4, variant)
        rules = rules_for(lab, probe(lab, CLIENT, VIP[Family.IPV4], protocol=Protocol.TCP))
    assert sum('"shop/web:http cluster IP"' in rule for rule in rules) == 1
    assert len(rules) == len(set(rules))


def test_the_log_is_given_back(lock):
    with lab_with_servers(Attach.BRIDGE, *DOORS) as lab:
        load(lab, Family.IPV6, "legacy")
        node = lab.nodes["n1"]
        before = node.run(lambda: [path.read_text() for path in LOGGERS.values()])
        assert node.run(legacy_families) == ("ip6",)
        rules_for(lab, probe(lab, CLIENT, VIP[Family.IPV6]))
        rules_for(lab, probe(lab, CLIENT, VIP[Family.IPV6]))
        assert node.run(lambda: [path.read_text() for path in LOGGERS.values()]) == before


def test_a_node_without_legacy_tables_is_not_asked_for_its_log():
    with lab_with_servers(Attach.BRIDGE, *DOORS) as lab:
        load(lab, Family.IPV4, "nft")
        assert lab.nodes["n1"].run(legacy_families) == ()
        assert not any("legacy" in rule for rule in rules_for(lab, probe(lab, CLIENT, VIP[Family.IPV4])))


def test_a_rule_nft_added_to_a_table_of_iptables_is_shown_as_nft_says_it():
    """iptables-save would print it without its condition."""
    with lab_with_servers(Attach.BRIDGE, *DOORS) as lab:
        load(lab, Family.IPV4, "nft")
        strange = f"insert rule ip nat KUBE-SERVICES ip daddr {{ {VIP[Family.IPV4]}, 192.0.2.99 }} continue"
        lab.nodes["n1"].run(lambda: subprocess.run(["nft", strange], check=True))
        rules = rules_for(lab, probe(lab, CLIENT, VIP[Family.IPV4]))
    assert any(f"KUBE-SERVICES: rule ip daddr {{ {VIP[Family.IPV4]}, 192.0.2.99 }} continue" in rule for rule in rules)
    assert any('--comment "shop/web:dns cluster IP" -j KUBE-SVC-A' in rule for rule in rules)


@each_variant
def test_a_difference_on_the_iptables_backend_comes_with_the_rules_of_kube_proxys_chains(
    lock, tmp_path, variant, monkeypatch
):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "cluster.yaml").write_text(manifests())
    (tmp_path / "shop" / "packets.txt").write_text(
        "node n1 tcp 10.96.0.10:80 -> web-1 masqueraded, web-2 masqueraded\n"
    )
    right = run.in_process

    @contextmanager
    def broken(lab, case, backend):
        for tool in ("iptables", "ip6tables"):  # so that this variant is the one in use
            words = [f"{tool}-{variant}", "-t", "nat", "-A", "INPUT", "-j", "ACCEPT"]
            lab.nodes["n1"].run(lambda words=words: subprocess.run(words, check=True))
        with right(lab, case, backend):
            words = [f"iptables-{variant}", "-t", "nat", "-I", "KUBE-POSTROUTING", "-j", "RETURN"]
            lab.nodes["n1"].run(lambda: subprocess.run(words, check=True))
            yield

    monkeypatch.setattr(run, "in_process", broken)
    (packet,) = run.run_case(load_case(tmp_path / "shop"), "iptables", run.RunOptions())
    assert packet.seen == "web-1, web-2"
    met = [rule.rpartition(" nat ")[2] for rule in packet.rules if " nat " in rule]
    assert any("KUBE-POSTROUTING: rule -j RETURN" in rule for rule in met[-2:])
    assert any("KUBE-SEP-" in rule and "-j DNAT --to-destination" in rule for rule in met)
    assert not any("MASQUERADE" in rule for rule in met)


def test_messages_that_are_no_traces_are_left_out():
    def message(family, prefix):
        value = prefix.encode() + b"\0"
        padded = value + b"\0" * (-len(value) % 4)
        body = struct.pack(">BBH", family, 0, 0) + struct.pack("=HH", 4 + len(value), 10) + padded
        return struct.pack("=IHHII", 16 + len(body), 0x400, 0, 0, 0) + body

    traced = message(2, "TRACE: nat:KUBE-SERVICES:rule:3 ")
    others = (
        message(2, "dropped: ") + message(7, "TRACE: nat:X:rule:1 ") + message(10, "TRACE: filter:OUTPUT:policy:2 ")
    )
    assert [*decode(traced + others)] == [
        Logged("ip", "nat", "KUBE-SERVICES", "rule", 3),
        Logged("ip6", "filter", "OUTPUT", "policy", 2),
    ]
