"""A node is taken over from kube-proxy while it works: nobody notices, and what is not ours stays byte for byte."""

from __future__ import annotations

import json
import re
import socket
from dataclasses import dataclass
from pathlib import Path

import kube_proxy
import pytest
from kube_proxy import FIREWALLD, restore, run, saved
from running import agent
from traffic import DEADLINE, NODE, PODS, Traffic, cluster, standing

from netplane.backends.registry import BACKENDS
from netplane.kernel import conntrack
from netplane.kernel.netns import Namespace
from netplane.model.address import Family
from netplane.model.pod import PodId
from netplane.programs.iptables import is_ours

pytestmark = [pytest.mark.lab, pytest.mark.kernel]

PORTMAP = 18080
"""The host port that the neighbours' portmap plugin leads to a pod."""
_LINE = re.compile(r"(?::|-A )(?P<chain>\S+)")
_BUILT_IN = {"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}


@dataclass(frozen=True)
class Mode:
    """How kube-proxy ran: the variant of iptables on the node, and whether its own rules are there or in nftables."""

    name: str
    variant: str
    in_iptables: bool

    @property
    def mark(self) -> str:
        """Where portmap marks what is to be masqueraded: in a chain of its own, where kube-proxy has none."""
        return "KUBE-MARK-MASQ" if self.in_iptables else "CNI-HOSTPORT-SETMARK"


MODES = [Mode("iptables", "nft", True), Mode("iptables-legacy", "legacy", True), Mode("nftables", "nft", False)]
each_mode = pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
each_backend = pytest.mark.parametrize("backend", sorted(BACKENDS))


@pytest.fixture
def manifests(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "lock"))
    return cluster(tmp_path)


def populate(node: Namespace, mode: Mode) -> None:
    """The node as kube-proxy kept it, among neighbours who were there before."""
    run(node, "nft", "-f", "-", stdin=FIREWALLD)
    for family in Family:
        restore(node, mode.variant, family, kube_proxy.neighbours_text(family, mark=mode.mark))
        if mode.in_iptables:
            restore(node, mode.variant, family, kube_proxy.iptables_text(family))
        else:
            run(node, "nft", "-f", "-", stdin=kube_proxy.nft_text(family))


def foreign(node: Namespace, mode: Mode) -> str:
    """All that is neither kube-proxy's nor netplane's, as the tools print it."""
    lines = [line for line in saved(node, mode.variant) if not _of_a_proxy(line)]
    return "\n".join(lines) + run(node, "nft", "list", "table", "inet", "firewalld")


def _of_a_proxy(line: str) -> bool:
    """Whether a line is about a chain of a Service proxy, or a jump to one from a built-in chain."""
    found = _LINE.match(line)
    if found is None:
        return False
    target = line.rpartition(" -j ")[2]
    return is_ours(found["chain"]) or (found["chain"] in _BUILT_IN and is_ours(target))


def left_of_kube_proxy(node: Namespace, mode: Mode, backend: str) -> list[str]:
    """What only kube-proxy can have made."""
    tables = json.loads(run(node, "nft", "-j", "list", "tables"))["nftables"]
    names = [
        f"{each['table']['family']} kube-proxy" for each in tables if each.get("table", {}).get("name") == "kube-proxy"
    ]
    lines = [line for line in saved(node, mode.variant) if _of_a_proxy(line)]
    if backend == "iptables":  # whose chains have the same names
        return names + [line for line in lines if "old/gone" in line]
    return names + [line for line in lines if not _of_the_mark(line)]


def _of_the_mark(line: str) -> bool:
    """The chain the neighbours jump to cannot go."""
    return line.startswith((":KUBE-MARK-MASQ", "-A KUBE-MARK-MASQ"))


@each_mode
@each_backend
def test_nobody_notices_that_kube_proxy_is_replaced(manifests, backend, mode):
    with standing(manifests) as lab:
        node = lab.nodes["n1"]
        populate(node, mode)
        with Traffic(lab) as traffic:
            traffic.start()
            with agent(node, manifests, backend):
                traffic.go_on(500)
                assert traffic.finish() >= 700


@each_mode
@each_backend
def test_what_was_kube_proxys_is_gone_and_all_else_is_as_before(manifests, backend, mode):
    with standing(manifests) as lab:
        node = lab.nodes["n1"]
        populate(node, mode)
        before = foreign(node, mode)
        with agent(node, manifests, backend):
            assert left_of_kube_proxy(node, mode, backend) == []
            assert foreign(node, mode) == before


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode.in_iptables], ids=lambda mode: mode.name)
@each_backend
@pytest.mark.parametrize("family", list(Family), ids=str)
def test_the_host_port_of_a_neighbour_goes_on_being_masqueraded(manifests, backend, mode, family):
    with standing(manifests) as lab:
        node, client = lab.nodes["n1"], lab.pods[PodId("shop", "client")]
        populate(node, mode)
        with Traffic(lab), agent(node, manifests, backend):
            made = client.run(lambda: socket.create_connection((NODE[family], PORTMAP), timeout=DEADLINE))
            with made:
                port = made.getsockname()[1]
                found = [each for each in node.run(conntrack.read) if each.original.source_port == port]
    (connection,) = found
    assert str(connection.reply.source) == PODS[family][0]
    assert str(connection.reply.destination).startswith(("10.244.1.1", "fd00:10:244:1::1"))  # the bridge
