"""Crafted packets through a translating node, looked at on the links they pass."""

from __future__ import annotations

from contextlib import contextmanager
from ipaddress import ip_address

import pytest
from cluster import VIP, lab_with_servers, load, pod_address, pod_id

from netplane.kernel import conntrack, sysctls
from netplane.lab import packets
from netplane.lab.capture import tap
from netplane.lab.packets import Flow
from netplane.lab.topology import Attach
from netplane.model.address import Family

# scapy's own modules warn while they are imported
pytestmark = [pytest.mark.lab, pytest.mark.filterwarnings("ignore::DeprecationWarning:scapy")]

each_family = pytest.mark.parametrize("family", list(Family), ids=str)
TO_SECOND = "meta l4proto {{tcp,udp,sctp}} {ip} daddr {vip} dnat to {to_web_2}"


def flow(family: Family, port: int = 40000) -> Flow:
    return Flow(pod_address("client", family), port, ip_address(VIP[family]), 80)


@contextmanager
def taps(family: Family, **chains: str):
    """The lab with rules, and a tap at the client's and one at the far pod's end of the path."""
    with lab_with_servers(Attach.ROUTED) as lab:
        load(lab, family, **chains)
        client, far = lab.pods[pod_id("client")], lab.pods[pod_id("web-2")]
        with tap(client, "eth0") as near, tap(far, "eth0") as there:
            yield lab, client, near, there


def arriving(family: Family):
    return lambda frame: frame.destination == pod_address("web-2", family)


def leaving(family: Family):
    return lambda frame: frame.source == pod_address("client", family) and frame.protocol != 58


@each_family
@pytest.mark.parametrize("make", [packets.udp, packets.sctp_init, lambda each: packets.tcp(each, "S")])
def test_a_translated_packet_has_two_hops_less_new_macs_and_right_checksums(family, make):
    with taps(family, prerouting=TO_SECOND) as (_, client, near, there):
        packets.send(client, [make(flow(family))])
        (before,), (after,) = packets.wait_for(near, leaving(family)), packets.wait_for(there, arriving(family))
    assert packets.hop_problems(before, after, hops=2) == []
    assert (after.source, after.ports) == (before.source, (40000, 8080))


@each_family
def test_a_wrong_checksum_is_seen(family):
    with taps(family, prerouting=TO_SECOND) as (_, client, near, _there):
        good = packets.udp(flow(family), b"payload")
        packets.send(client, [good[:-1] + b"!"])
        (frame,) = packets.wait_for(near, leaving(family))
    assert frame.wrong == ("UDP",)


@each_family
def test_fragments_are_translated_as_one_packet(family):
    with taps(family, prerouting=TO_SECOND) as (_, client, _near, there):
        packets.send(client, packets.udp_in_fragments(flow(family), bytes(3000), 1024))
        first, *others = packets.wait_for(there, arriving(family), number=3)
    assert all(each.fragment for each in (first, *others))
    assert first.ports == (40000, 8080)


@each_family
def test_a_segment_of_no_connection_is_invalid_to_connection_tracking(family):
    rules = {"forward": "tcp flags == ack ct state invalid drop"}
    with taps(family, prerouting=TO_SECOND, **rules) as (lab, client, _near, there):
        lab.nodes["n1"].run(_strict)
        direct = Flow(pod_address("client", family), 40001, pod_address("web-2", family), 8080)
        packets.send(client, [packets.tcp(direct, "A", acknowledge=7), packets.udp(direct)])
        (frame,) = packets.wait_for(there, arriving(family))
    assert frame.protocol == 17


@each_family
def test_connection_tracking_is_read_as_tuples(family):
    with taps(family, prerouting=TO_SECOND) as (lab, client, _near, there):
        packets.send(client, [packets.udp(flow(family))])
        packets.wait_for(there, arriving(family))
        (found,) = [each for each in lab.nodes["n1"].run(conntrack.read) if each.translated]
    assert found.protocol == 17
    assert found.original == (pod_address("client", family), 40000, ip_address(VIP[family]), 80)
    assert found.reply == (pod_address("web-2", family), 8080, pod_address("client", family), 40000)


def _strict() -> None:
    sysctls.write({"net/netfilter/nf_conntrack_tcp_loose": 0})
