"""Pods that the CNI plugin attaches: the same packets do the same, and what is the plugin's own does what it should.

Cases about the plugin (`cni:` in their settings) are in test_every_case.py, as all are. Here are other cases with pods
attached by the plugin, a selection of them; NETPLANE_LONG=1 takes all (five minutes for each column).
"""

from __future__ import annotations

import os
import subprocess
from contextlib import closing, contextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from cluster import manifests

from netplane.backends.registry import BACKENDS
from netplane.errors import InputError, KernelError
from netplane.lab import packets, run
from netplane.lab.asking import Asking
from netplane.lab.attached import NotForThePlugin
from netplane.lab.attaching import attached_pods, leftovers, plugins_here
from netplane.lab.capture import tap
from netplane.lab.cases import find_cases, load_case
from netplane.lab.packets import Flow
from netplane.lab.probe import FromOutside, Probe
from netplane.lab.run import RunOptions, run_case, run_cases, standing
from netplane.lab.topology import Attach
from netplane.model.address import Protocol
from netplane.model.pod import PodId

pytestmark = [pytest.mark.lab, pytest.mark.kernel]

ROOT = Path(__file__).parent.parent.parent
CASES = ROOT / "tests" / "cases"
LONG = bool(os.environ.get("NETPLANE_LONG"))
SELECTION = (
    "affinity-cluster-ip",
    "cluster-ip",
    "cluster-ip-hairpin",
    "endpoints-of-one-family",
    "endpoints-outside-the-cluster",
    "firewall-drops-by-default",
    "host-network-endpoints",
    "internal-local-here",
    "ipv6-only-cluster",
    "load-balancer-local",
    "node-port",
    "sctp",
)
FOLDERS = find_cases([CASES]) if LONG else [CASES / name for name in SELECTION]

attaches = pytest.mark.parametrize("attach", Attach, ids=lambda attach: attach.value)
backends = pytest.mark.parametrize("backend", sorted(BACKENDS))


def told(packet):
    return f"{packet.packet}: expected {packet.expected}, seen {packet.seen}: {'; '.join(packet.differences)}"


def wrong(seen):
    assert seen
    return [told(packet) for packet in seen if not packet.agrees]


@attaches
@backends
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_packet_does_the_same_where_the_plugin_attaches_pods(folder, backend, attach):
    try:
        case = load_case(folder, attach=attach, plugin=True)
    except NotForThePlugin as why:
        pytest.skip(str(why))
    assert wrong(run_case(case, backend, RunOptions(plugin=True))) == []


@backends
@pytest.mark.parametrize("name", ["host-port", "host-port-local-routed"])
def test_the_launcher_and_the_real_agent_do_the_same(name, backend):
    assert wrong(run_case(load_case(CASES / name), backend, RunOptions(agent=True))) == []


@attaches
def test_the_shop_works_with_launcher_and_agent(attach):
    case = load_case(ROOT / "examples" / "shop", attach=attach, plugin=True)
    assert wrong(run_case(case, "nftables", RunOptions(agent=True))) == []


# --- the harness itself -----------------------------------------------------------------------------------------------


@pytest.fixture
def case(tmp_path) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    ports = '"containers": [{"name": "c", "ports": [{"containerPort": 8080, "hostPort": 80}]}]'
    web_1, rest = manifests().split('"name": "web-1"')
    text = f'{web_1}"name": "web-1"{rest.replace(HAVE, ports, 1)}'
    (folder / "cluster.yaml").write_text(text)
    (folder / "packets.txt").write_text(HAIRPIN)
    (folder / "settings.yaml").write_text("cni: {}\n")
    return folder


HAVE = '"containers": [{"name": "c"}]'
HAIRPIN = "pod web-1 tcp 192.0.2.11:80 -> web-1 masqueraded\n"


def test_a_wrong_line_about_a_host_port_is_told(case):
    (case / "packets.txt").write_text(HAIRPIN + "outside via n1 tcp 192.0.2.11:80 -> web-1 masqueraded\n")
    right, bad = run_case(load_case(case), "nftables", RunOptions())
    assert right.agrees
    assert bad.differences == ("the oracle says web-1: hostPort 80 of Pod shop/web-1",)


def test_a_rule_that_is_missing_is_caught(case, monkeypatch):
    in_process = run.in_process

    @contextmanager
    def broken(lab, case, backend):
        with in_process(lab, case, backend):
            words = ["nft", "flush", "map", "ip", "netplane-pods", "host-ports"]
            lab.nodes["n1"].run(lambda: subprocess.run(words, check=True))
            yield

    monkeypatch.setattr(run, "in_process", broken)
    # CHECK finds it as well, after the packets.
    with pytest.raises(KernelError, match="CHECK of shop/web-1"):
        run_case(load_case(case), "nftables", RunOptions())

    monkeypatch.setattr("netplane.lab.attaching._check", lambda *_: None)
    (packet,) = run_case(load_case(case), "nftables", RunOptions())
    assert packet.seen == "untouched"
    assert any("netplane-pods" in rule for rule in packet.rules)


def test_what_is_left_of_a_pod_is_named(case):
    made = load_case(case)
    with standing(made) as lab, plugins_here(lab) as plugins:
        assert leftovers(lab, "n1", plugins["n1"]) == []
        with attached_pods(lab, made.plugin, plugins):
            left = "\n".join(leftovers(lab, "n1", plugins["n1"]))
        assert leftovers(lab, "n1", plugins["n1"]) == []
    for each in (
        "link npb",
        "link eth0 in shop/web-1",
        "host-ports in ip netplane-pods",
        "journal of n1: pods/shop.web-1",
    ):
        assert each in left


def test_a_case_the_plugin_cannot_make_pods_for_is_skipped_with_the_reason(case):
    (result,) = run_cases([CASES / "pod-outside-the-pod-range"], ["nftables"], RunOptions(plugin=True))
    assert "several networks on one bridge" in result.skipped
    assert result.agrees
    assert result.packets == ()


def test_the_command_that_runs_a_packet_again_attaches_pods_in_the_same_way(case):
    (case / "settings.yaml").unlink()
    (case / "packets.txt").write_text("node n1 tcp 10.96.0.10:80 -> reject\n")
    (packet,) = run_case(load_case(case, attach=Attach.ROUTED, plugin=True), "nftables", RunOptions())
    assert packet.again.endswith("--packet 1 --attach routed --cni")


def test_options_of_the_plugin_are_a_mapping(case):
    (case / "settings.yaml").write_text("cni: yes\n")
    with pytest.raises(InputError, match="cni: write options"):
        load_case(case)


# --- what no line of a case can say -----------------------------------------------------------------------------------


def ask_from_outside(lab, to: str) -> str:
    """Who answers a client outside that asks the host port, by way of n1."""
    source = next(each for each in lab.topology.nodes["n1"].clients if each.version == ip_address(to).version)
    probe = Probe(FromOutside("n1"), source, Protocol.TCP, ip_address(to), 80)
    with Asking(lab) as asking:
        (tried,) = asking.send(probe, 1)
        asking.wait()
    return tried.answer.name if tried.answer else "nobody"


@attaches
@pytest.mark.parametrize("to", ["192.0.2.11", "2001:db8:2::11"])
def test_a_host_port_goes_to_the_next_pod_that_has_it(case, attach, to):
    """One pod goes, another comes with the same port, as when a Pod is replaced."""
    text = (case / "cluster.yaml").read_text().replace("2001:db8::1", "2001:db8:2::1")
    (case / "cluster.yaml").write_text(text)
    (case / "packets.txt").write_text(HAIRPIN + "node n1 tcp 10.244.1.9:8080 -> untouched\n")  # opens the port there
    made = load_case(case, attach=attach)
    web, client = PodId("shop", "web-1"), PodId("shop", "client")
    ports = made.topology.pods[web].host_ports
    second = {
        **made.topology.pods,
        web: replace(made.topology.pods[web], host_ports=()),
        client: replace(made.topology.pods[client], host_ports=ports),
    }
    with standing(made) as lab, plugins_here(lab) as plugins:
        with attached_pods(lab, made.plugin, plugins):
            assert ask_from_outside(lab, to) == "shop/web-1"
        lab.topology = replace(made.topology, pods=second)
        with attached_pods(lab, made.plugin, plugins):
            assert ask_from_outside(lab, to) == "shop/client"


FORGED = {
    4: ("10.244.1.9", "10.244.1.77", "10.244.2.5"),
    6: ("fd00:10:244:1::9", "fd00:10:244:1::77", "fd00:10:244:2::5"),
}


@attaches
@pytest.mark.parametrize("version", FORGED)
def test_a_forged_source_gets_out_of_a_routed_pod_never(case, attach, version):
    """On a bridge nobody can tell. The honest packet, sent last, shows that the other had its time."""
    own, forged, to = map(ip_address, FORGED[version])
    made = load_case(case, attach=attach)
    with (
        standing(made) as lab,
        plugins_here(lab) as plugins,
        attached_pods(lab, made.plugin, plugins),
        closing(tap(lab.pods[PodId("shop", "web-2")], "eth0")) as heard,
    ):
        sent = [packets.udp(Flow(source, 5000, to, 9)) for source in (own, forged, own)]
        packets.send(lab.pods[PodId("shop", "client")], sent)
        number = 3 if attach is Attach.BRIDGE else 2
        found = packets.wait_for(heard, lambda frame: frame.ports == (5000, 9), number)
    assert [each.source for each in found] == ([own, forged, own] if attach is Attach.BRIDGE else [own, own])
