"""The network of a live lab is changed, broken and healed, while TCP connections between all Pods are open."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import made
import pytest
from ground import BOTH, Ground, bare

from netplane.kernel.command import run
from netplane.lab.network_proof import PROOFS
from netplane.lab.proof import Proving
from netplane.lab.proof_packets import TCP_PORT
from netplane.lab.proof_streams import Streams
from netplane.model.address import Family
from netplane.plan.network_settings import Bgp, Mode

pytestmark = [pytest.mark.lab, pytest.mark.kernel]

EVERY_WAY = (
    Mode.HOST_GW,
    Mode.VXLAN,
    Mode.HOST_GW,
    Mode.CROSS_SUBNET,
    Mode.WIREGUARD,
    Mode.VXLAN,
    Mode.BGP,
    Mode.WIREGUARD,
    Mode.HOST_GW,
)


@contextmanager
def live(ground):
    """A lab, its network, and connections between all Pods."""
    with bare(ground) as lab, made.make(lab, ground) as network:
        proving = Proving(lab, ground.options())
        with Streams(proving, BOTH, TCP_PORT) as streams:
            yield proving, network, streams


def test_no_connection_breaks_when_the_mode_changes():
    with live(Ground(Mode.HOST_GW)) as (proving, network, streams):
        broken = {}
        for step in pairwise(EVERY_WAY):
            network.apply(replace(proving.options.settings, mode=step[1], bgp=Bgp()))
            broken[step] = streams.broken()
        assert {step: lost for step, lost in broken.items() if lost} == {}
        assert len(streams) == 12
        assert [proof(proving, Family.IPV4) for proof in PROOFS.values()] == [[]] * len(PROOFS)


ACCIDENTS = {
    "somebody flushes the routes": "ip route flush table main proto 98; ip -6 route flush table main proto 98",
    "somebody deletes the link": "ip link del np-vxlan4",
    "the link goes down and up": "ip link set np-vxlan4 down; ip link set np-vxlan4 up",
    "the link is down": "ip link set np-vxlan4 down",
    "somebody learns where nodes are": "bridge fdb flush dev np-vxlan4 || bridge fdb show dev np-vxlan4 | "
    "while read mac rest; do bridge fdb del $mac dev np-vxlan4; done",
    "somebody deletes the rules": "ip -4 rule del priority 98; ip -6 rule del priority 98; nft flush ruleset",
    "the cable is pulled": "true",
    "the node starts anew": "ip link del np-vxlan4; ip route flush proto 98; ip -6 route flush proto 98; "
    "ip -4 rule del priority 98; ip -6 rule del priority 98; nft flush ruleset; conntrack -F",
}


@pytest.mark.parametrize("accident", ACCIDENTS)
def test_connections_outlive_what_is_healed(accident):
    ground = Ground(Mode.VXLAN)
    with live(ground) as (proving, network, streams):
        node = proving.lab.nodes["n2"]
        node.run(lambda: run("sh", "-c", f"{ACCIDENTS[accident]}\ntrue", mechanism="test", doing=accident))
        if accident == "the cable is pulled":
            words = "ip link set to-1 down; ip link set to-1 up"
            proving.lab.outside.run(lambda: run("sh", "-ec", words, mechanism="test", doing=accident))
        network.apply(ground.options().settings)
        assert streams.broken() == []
        assert [PROOFS[name](proving, Family.IPV4) for name in ("everybody_is_reached", "unknown_pods")] == [[], []]
