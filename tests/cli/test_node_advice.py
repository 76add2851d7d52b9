"""What is said to do follows from what was seen: one test for each conclusion, on invented sights."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from netplane.doctor.entries import Entry
from netplane.doctor.reach import Echo, Reach, advice
from netplane.kernel.bird import Session
from netplane.kernel.echo_once import Lost, TooBig
from netplane.plan.network_plan import NetworkPlan, PeerPlan, Tunnel, Way
from netplane.plan.network_settings import Mode, NetworkSettings

OWN, OUTER, INNER = map(ip_address, ("192.0.2.1", "192.0.2.2", "10.244.2.0"))
RANGE = ip_network("10.244.2.0/24")
HERE, GONE = 0.001, Lost()


def plan(mode):
    return NetworkPlan("n1", NetworkSettings(mode), addresses=(OWN,))


def peer(way):
    tunnel = Tunnel(OUTER, (INNER,), key="k") if way in (Way.VXLAN, Way.WIREGUARD) else None
    return PeerPlan("n2", way, (RANGE,), (OUTER,), "link", 1400, tunnel=tunnel)


def seen(own=HERE, inner=HERE, full=HERE, **more):
    echoes = [Echo("own", OUTER, 0, own), Echo("overlay", INNER, 0, inner), Echo("large", INNER, 1400, full)]
    return Reach(entries=(Entry("route", there=True),), echoes=tuple(echoes), **more)


def session(state, error=""):
    return Session("node_n2", "192.0.2.2", 64512, state, "2026-11-21 20:16:56.844", error=error)


@pytest.mark.parametrize(
    ("mode", "way", "sight", "said"),
    [
        (Mode.VXLAN, Way.NONE, seen(), "this node has no way to n2's Pods"),
        (Mode.VXLAN, Way.VXLAN, seen(own=GONE, inner=GONE), "192.0.2.2 does not answer: n2 is down or cut off"),
        (Mode.VXLAN, Way.VXLAN, seen(inner=GONE), "UDP 4789 between 192.0.2.1 and 192.0.2.2 is blocked"),
        (Mode.VXLAN, Way.VXLAN, seen(full=GONE), "one of 1400 bytes does not (no answer)"),
        (Mode.VXLAN, Way.VXLAN, seen(full=TooBig(1300)), "(only packets of at most 1300 bytes pass)"),
        (Mode.WIREGUARD, Way.WIREGUARD, seen(inner=GONE), "there never was a handshake: UDP 51820 between 192.0.2.1"),
        (Mode.WIREGUARD, Way.WIREGUARD, seen(inner=GONE, handshake=900.0), "the last handshake was 900 s ago"),
        (Mode.WIREGUARD, Way.WIREGUARD, seen(inner=GONE, handshake=9.0), "WireGuard speaks with 192.0.2.2 (9 s ago)"),
        (Mode.BGP, Way.BGP, seen(sessions=(session("Active", "Socket: refused"),)), "Active since 2026-11-21"),
        (
            Mode.BGP,
            Way.BGP,
            Reach((Entry("route", there=False),), (Echo("own", OUTER, 0, HERE),), sessions=(session("Established"),)),
            "a session is established, and no route to n2's Pods came by it",
        ),
        (Mode.BGP, Way.BGP, seen(said=("bird gives no answer",)), "bird gives no answer"),
    ],
)
def test_a_sight_leads_to_what_is_to_be_done(mode, way, sight, said):
    told = [*advice(plan(mode), peer(way), sight)]
    assert any(said in each for each in told), told


@pytest.mark.parametrize("way", [Way.VXLAN, Way.WIREGUARD, Way.DIRECT])
def test_nothing_is_said_where_all_is_well(way):
    mode = {Way.VXLAN: Mode.VXLAN, Way.WIREGUARD: Mode.WIREGUARD, Way.DIRECT: Mode.HOST_GW}[way]
    assert [*advice(plan(mode), peer(way), seen(handshake=5.0))] == []


def test_a_node_that_is_down_hides_what_cannot_work_then():
    (told,) = advice(plan(Mode.VXLAN), peer(Way.VXLAN), seen(own=GONE, inner=GONE, full=GONE))
    assert "is down" in told


def test_nothing_is_concluded_from_what_nobody_looked_at():
    assert [*advice(plan(Mode.VXLAN), peer(Way.VXLAN), Reach((Entry("route"),), looked=False))] == []
