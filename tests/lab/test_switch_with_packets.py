"""The backend of a node is changed while it works: no connection breaks, no new one fails, in either direction."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from itertools import chain, repeat
from pathlib import Path

import pytest
from kube_proxy import restore, run, saved
from running import agent
from traffic import DEADLINE, LASTING, WEB, Traffic, cluster, standing

from netplane.backends.registry import BACKENDS
from netplane.kernel.host import Host
from netplane.lab import run as run_lab
from netplane.lab.cases import load_case
from netplane.lab.servers import Answer
from netplane.model.address import Family
from netplane.model.pod import PodId
from netplane.plan.node import plan_node
from netplane.plan.settings import Settings
from netplane.programs.program import Program
from netplane.sources.manifests import load

pytestmark = [pytest.mark.lab, pytest.mark.kernel]

ROUNDS = 3
BETWEEN = 150
"""New connections that end between one switch and the next."""
FIRST, *OTHERS = sorted(BACKENDS, reverse=True)
SWITCHES = [*chain.from_iterable(repeat([*OTHERS, FIRST], ROUNDS))]

# On a node whose iptables rules are in the legacy tables, that variant is used.
each_variant = pytest.mark.parametrize("variant", ["nft", "legacy"])


@pytest.fixture
def manifests(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "lock"))
    return cluster(tmp_path)


def choose(node, variant):
    """Somebody uses this variant on the node."""
    for family in Family:
        restore(node, variant, family, "*filter\n:SOMEBODY - [0:0]\n-A INPUT -j SOMEBODY\nCOMMIT\n")


def ours(node, variant):
    """What the backends have in the kernel: whether there are tables, and chains."""
    tables = run(node, "nft", "list", "tables").splitlines()
    return {
        "nftables": "table ip netplane" in tables,
        "iptables": any(line.startswith(":KUBE-SERVICES ") for line in saved(node, variant)),
    }


@each_variant
def test_a_host_that_changes_programs_disturbs_nobody(manifests, variant):
    plan = plan_node(load(manifests).snapshot, "n1", Settings())
    programs = {name: backend.compile(plan).program for name, backend in BACKENDS.items()}
    with standing(manifests) as lab:
        node = lab.nodes["n1"]
        choose(node, variant)
        with node.run(Host) as host, Traffic(lab) as traffic:
            node.run(lambda: host.apply(programs[FIRST], reread=True))
            traffic.start()
            for name in SWITCHES:
                node.run(lambda name=name: host.apply(programs[name], reread=False))
                assert [each for each, there in ours(node, variant).items() if there] == [name]
                traffic.go_on(BETWEEN)
            assert traffic.finish() >= BETWEEN * len(SWITCHES)
            node.run(lambda: host.apply(Program(), reread=True))
            assert not any(ours(node, variant).values())


@each_variant
def test_an_agent_that_is_told_to_switch_disturbs_nobody(manifests, variant):
    with standing(manifests) as lab:
        node = lab.nodes["n1"]
        choose(node, variant)
        with agent(node, manifests, FIRST) as daemon, Traffic(lab) as traffic:
            traffic.start()
            for name in SWITCHES:
                told = daemon.ask("backend", name)
                assert told["connections"]["broken"] == 0
                assert told["connections"]["kept"] >= LASTING
                assert [each for each, there in ours(node, variant).items() if there] == [name]
                traffic.go_on(BETWEEN)
            assert traffic.finish() >= BETWEEN * len(SWITCHES)


@pytest.mark.parametrize("address", [WEB[family] for family in Family])
def test_a_udp_flow_stays_with_its_endpoint(manifests, address):
    case = load_case(manifests)
    programs = {name: backend.compile(case.plans()["n1"]).program for name, backend in BACKENDS.items()}
    with run_lab.standing(case) as lab:
        node, client = lab.nodes["n1"], lab.pods[PodId("shop", "client")]
        with node.run(Host) as host, client.run(lambda: udp_to(address)) as flow:
            had = set()
            for name in (FIRST, *SWITCHES):
                node.run(lambda name=name: host.apply(programs[name], reread=False))
                flow.send(b"?")
                had.add(Answer.decode(flow.recv(500)).name)
    assert len(had) == 1


def udp_to(address):
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    made.settimeout(DEADLINE)
    made.connect((address, 80))
    return made


def test_a_gap_would_have_been_seen(manifests):
    program = BACKENDS[FIRST].compile(plan_node(load(manifests).snapshot, "n1", Settings())).program
    with standing(manifests) as lab:
        node = lab.nodes["n1"]
        with node.run(Host) as host, Traffic(lab) as traffic:
            node.run(lambda: host.apply(program, reread=True))
            traffic.start()
            node.run(lambda: host.apply(Program(), reread=True))
            node.run(lambda: host.apply(program, reread=True))
            traffic.go_on(BETWEEN)
            assert traffic.wrong


def lab_switch(*words):
    command = (sys.executable, "-m", "netplane", "lab", "switch", *map(str, words), "--output", "json")
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_lab_shows_that_a_switch_is_not_noticed(manifests):
    done = lab_switch(manifests)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert [each["before"] for each in results] == sorted(BACKENDS, reverse=True)
    assert all(each["unnoticed"] and each["open"] > 10 and each["made"] > 10 for each in results)


def test_a_case_that_nobody_can_hold_a_connection_to_is_refused(manifests):
    (manifests / "packets.txt").write_text("pod client udp 10.96.0.10:80 -> web-1, web-2\n")
    done = lab_switch(manifests)
    assert done.returncode == 3
    assert "no TCP line" in done.stderr


def test_one_backend_alone_is_no_switch(manifests):
    done = lab_switch(manifests, FIRST)
    assert done.returncode == 3
    assert f"{FIRST} alone" in done.stderr
