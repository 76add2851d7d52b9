"""Single elements, and rules against strangers, of the tables `netplane-network`; what peers depend on."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from network_plans import cluster, peer, plan
from network_two_nodes import LAST, OUTSIDE, PORT, heard, node_address, plans, pod, site
from test_network_rules import frame, segments

from netplane.backends.network.compile import compile_network
from netplane.backends.network.rules import KEEPS_SOURCE, VXLAN_PEERS
from netplane.lab import packets
from netplane.lab.packets import Flow
from netplane.model.address import Family
from netplane.plan.network_plan import NetworkPlan, Way
from netplane.plan.network_settings import Mode, NetworkSettings, Vxlan, Wireguard
from netplane.programs.nftables_text import whole_elements


def keys(made: NetworkPlan, name: str, family: Family = Family.IPV4) -> list[bytes]:
    return sorted(whole_elements(compile_network(made).program.network_rules, family).get(name, {}))


def test_source_is_kept_towards_every_address_of_a_range():
    made = plan(NetworkSettings(Mode.HOST_GW), [peer(2, Way.DIRECT)], families=(4,))
    found = [[str(ip_address(key[at : at + 4])) for at in (0, 4, 8, 12)] for key in keys(made, KEEPS_SOURCE)]
    assert ["10.244.1.0", "10.244.2.0", "10.244.1.255", "10.244.2.255"] in found


def test_every_node_reached_by_vxlan_may_send_it_and_no_other():
    made = plan(Mode.CROSS_SUBNET, [peer(2, Way.VXLAN), peer(3, Way.DIRECT), peer(4, Way.VXLAN), peer(5, Way.NONE)])
    assert [str(ip_address(each)) for each in keys(made, VXLAN_PEERS)] == ["198.18.0.2", "198.18.0.4"]
    assert keys(made, VXLAN_PEERS, Family.IPV6) == []


@pytest.mark.parametrize(
    ("was", "now"),
    [
        (NetworkSettings(Mode.WIREGUARD), NetworkSettings(Mode.WIREGUARD, wireguard=Wireguard(keepalive=25))),
        (NetworkSettings(Mode.VXLAN, vxlan=Vxlan(port=8472)), NetworkSettings(Mode.VXLAN)),
    ],
)
def test_other_settings_are_those_of_peers_that_stayed_the_same(was, now):
    peers = [peer(number, {Mode.WIREGUARD: Way.WIREGUARD}.get(now.mode, Way.VXLAN)) for number in (2, 3)]
    before, after = plan(was, peers), plan(now, peers)
    assert compile_network(after, compile_network(before)).program == compile_network(after).program


def test_a_link_of_another_size_is_another_mtu_of_the_routes_of_peers_that_stayed_the_same():
    before = cluster(Mode.VXLAN)
    after = replace(before, overlays=tuple(replace(each, mtu=each.mtu + 50) for each in before.overlays))
    assert compile_network(after, compile_network(before)).program == compile_network(after).program


@pytest.mark.lab
@pytest.mark.parametrize("family", Family, ids=str)
def test_segments_fit_though_the_other_node_does_not_see_to_it(family):
    header = {Family.IPV4: 20, Family.IPV6: 40}[family] + 32  # with timestamps
    with site(plans(Mode.VXLAN)) as made:
        made.apply(2, plans(NetworkSettings(Mode.VXLAN, clamp_mss=False))[1])
        assert segments(made, family) == (1450 - header, 1450 - header)


def pieces(outer: Family, payload: bytes) -> list[bytes]:
    """A VXLAN packet from outside to n1, for p1, in fragments of eight bytes: the first has nothing but the ports."""
    family = Family.IPV6 if outer is Family.IPV4 else Family.IPV4
    flow = Flow(ip_address(OUTSIDE[outer]), 5000, ip_address(node_address(1, outer)), 4789)
    return packets.udp_in_fragments(flow, frame(pod(2, family), pod(1, family), payload), 8)


@pytest.mark.lab
@pytest.mark.parametrize("outer", Family, ids=lambda each: f"over-{each}")
def test_vxlan_in_pieces_is_taken_from_nobody(outer):
    """Where Pods are of the other family alone, nothing tracks connections of this one, and so nothing puts the pieces
    together before the rules see them."""
    family = Family.IPV6 if outer is Family.IPV4 else Family.IPV4
    alone = plans(Mode.VXLAN, families=(family,), outside=outer)
    with site(alone) as made, made.socket("p1", family, at=("", PORT)) as server:
        packets.send(made.spaces["outside"], pieces(outer, b"in pieces"))
        with made.socket("n2", outer) as sending:
            inside = frame(pod(2, family), pod(1, family), LAST)
            sending.sendto(inside, (node_address(1, outer), 4789))
        assert heard(server) == []
        made.unguarded(1)
        packets.send(made.spaces["outside"], pieces(outer, b"in pieces"))
        assert server.recv(2048) == b"in pieces"
