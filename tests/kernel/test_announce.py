"""Neighbours learn at once where an address is now."""

from __future__ import annotations

import socket
import struct
import time
from ipaddress import ip_address

import pytest
from neighbours import MACS, address, ip, neighbours

from netplane.errors import KernelError
from netplane.kernel.announce import announce, frames
from netplane.kernel.netns import Namespace

MAC = bytes.fromhex("026e7000000a")
OLD = "02:6e:70:00:00:99"


def test_an_ipv4_address_is_announced_as_a_request_and_as_a_reply():
    made = frames(MAC, ip_address("203.0.113.5"))
    assert len(made) == 2
    request, reply = made
    head = "ffffffffffff 026e7000000a 0806 0001 0800 06 04"
    own = "026e7000000a cb007105"
    assert request == bytes.fromhex(f"{head} 0001 {own} 000000000000 cb007105")
    assert reply == bytes.fromhex(f"{head} 0002 {own} 026e7000000a cb007105")


def test_an_ipv6_address_is_advertised_to_all_nodes():
    (frame,) = frames(MAC, ip_address("2001:db8:113::5"))
    own = "20010db8011300000000000000000005"
    assert frame[:14] == bytes.fromhex("333300000001 026e7000000a 86dd")
    assert frame[14:54] == bytes.fromhex(f"60000000 0020 3a ff {own} ff020000000000000000000000000001")
    assert frame[54:56] == bytes.fromhex("8800")
    assert frame[58:] == bytes.fromhex(f"20000000 {own} 0201 026e7000000a")


def test_the_checksum_covers_the_pseudo_header():
    (frame,) = frames(MAC, ip_address("2001:db8:113::5"))
    payload = frame[54:]
    whole = frame[22:54] + struct.pack("!II", len(payload), 58) + payload
    total = sum(struct.unpack(f"!{len(whole) // 2}H", whole))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert total == 0xFFFF


@pytest.mark.kernel
@pytest.mark.parametrize("text", ["192.0.2.100", "2001:db8::100"])
def test_a_neighbour_that_knew_it_elsewhere_learns_it_at_once(text):
    with neighbours() as (here, there):
        ip(there, "neigh", "add", text, "lladdr", OLD, "nud", "stale", "dev", "eth0")
        here.run(lambda: announce("eth0", ip_address(text)))
        deadline = time.monotonic() + 10
        while MACS["a"] not in (said := ip(there, "neigh", "show", text)):
            assert time.monotonic() < deadline, said


@pytest.mark.kernel
@pytest.mark.parametrize("form", [0, 1])
def test_each_form_of_arp_is_enough(form):
    with neighbours() as (here, there):
        ip(there, "neigh", "add", "192.0.2.100", "lladdr", OLD, "nud", "stale", "dev", "eth0")

        def send() -> None:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as made:
                made.bind(("eth0", 0))
                made.send(frames(MAC, ip_address("192.0.2.100"))[form])

        here.run(send)
        deadline = time.monotonic() + 10
        while MACS["a"] not in (said := ip(there, "neigh", "show", "192.0.2.100")):
            assert time.monotonic() < deadline, said


@pytest.mark.kernel
def test_connections_follow_an_address_that_moves():
    """The address goes from b to a third host, and whoever knew b sends there from then on."""
    with neighbours() as (here, there):
        address(there, "192.0.2.100/32")
        ip(here, "neigh", "replace", "192.0.2.100", "lladdr", MACS["b"], "nud", "reachable", "dev", "eth0")
        ip(there, "link", "set", "eth0", "address", "02:6e:70:00:00:0c")
        there.run(lambda: announce("eth0", ip_address("192.0.2.100")))
        deadline = time.monotonic() + 10
        while "02:6e:70:00:00:0c" not in (said := ip(here, "neigh", "show", "192.0.2.100")):
            assert time.monotonic() < deadline, said


@pytest.mark.kernel
@pytest.mark.parametrize(("link", "said"), [("eth7", "No such device"), ("eth0", "Network is down")])
def test_a_link_that_is_not_there_or_down_is_named(link, said):
    with neighbours() as (here, _):
        ip(here, "link", "set", "eth0", "down")
        with pytest.raises(KernelError, match=f"announce 192.0.2.100 on {link}: {said}"):
            here.run(lambda: announce(link, ip_address("192.0.2.100")))


@pytest.mark.kernel
def test_a_link_without_neighbours_is_left_alone():
    with Namespace() as here:
        here.run(lambda: announce("lo", ip_address("192.0.2.100")))
