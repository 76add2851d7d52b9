"""WireGuard's generic netlink, byte by byte (linux/wireguard.h, linux/genetlink.h; numbers as of x86-64)."""

from __future__ import annotations

import struct
from base64 import b64encode
from ipaddress import ip_address, ip_network

import pytest

from netplane.errors import KernelError
from netplane.kernel import wireguard_netlink
from netplane.kernel.netlink import each_attribute
from netplane.kernel.wireguard_changes import DeviceChange, PeerChange, PeerFound
from netplane.kernel.wireguard_device import new_wireguard

PRIVATE, OWN, ONE, TWO = b"p" * 32, b"o" * 32, b"1" * 32, b"2" * 32
FAMILY = 30


def key(packed):
    return b64encode(packed).decode()


def networks(*texts):
    return tuple(map(ip_network, texts))


def hexed(text):
    """Bytes in hexadecimal digits; 32 equal ones are written `70*32`."""
    return b"".join(
        bytes.fromhex(word[:2]) * 32 if word.endswith("*32") else bytes.fromhex(word) for word in text.split()
    )


def of(kind, *parts):
    """An attribute of attributes, whose length nobody should have to count."""
    inside = b"".join(hexed(part) if isinstance(part, str) else part for part in parts)
    return struct.pack("<HH", len(inside) + 4, kind | 0x8000) + inside


NAME = hexed("0a00 0200 6e702d7767 00 0000")  # WGDEVICE_A_IFNAME
SET, GET = hexed("01 01 0000") + NAME, hexed("00 01 0000") + NAME  # genlmsghdr: command, version
FOUR = of(0, "0600 0100 0200 0000", "0800 0200 0af40200", "0500 0300 18 000000")  # AF_INET, 10.244.2.0, 24
SIX = of(0, "0600 0100 0a00 0000", "1400 0200 fd000244000200000000000000000000", "0500 0300 40 000000")


def test_a_change_is_written():
    change = DeviceChange(
        key=key(OWN),
        port=51820,
        mark=0,
        peers=(
            PeerChange(
                key(ONE),
                new=True,
                endpoint=(ip_address("10.0.0.2"), 51820),
                allowed=networks("10.244.2.0/24", "fd00:244:2::/64"),
                replace=True,
                keepalive=25,
            ),
            PeerChange(key(TWO), endpoint=(ip_address("fd00::2"), 1)),
        ),
    )
    (request,) = wireguard_netlink.set_requests(FAMILY, "np-wg", change, PRIVATE)
    assert request.kind == FAMILY
    first = of(
        0,
        "2400 0100 31*32",  # WGPEER_A_PUBLIC_KEY
        "0800 0300 02000000",  # FLAGS: REPLACE_ALLOWEDIPS
        "1400 0400 0200 ca6c 0a000002 0000000000000000",  # ENDPOINT: sockaddr_in
        "0600 0500 1900 0000",  # PERSISTENT_KEEPALIVE_INTERVAL
        of(9, FOUR, SIX),  # ALLOWEDIPS
    )
    second = of(
        0,
        "2400 0100 32*32",
        "0800 0300 04000000",  # UPDATE_ONLY
        "2000 0400 0a00 0001 00000000 fd000000000000000000000000000002 00000000",  # sockaddr_in6
    )
    # PRIVATE_KEY, LISTEN_PORT, FWMARK, PEERS
    own = hexed("2400 0300 70*32 0600 0600 6cca 0000 0800 0700 00000000")
    assert request.payload.hex() == (SET + own + of(8, first, second)).hex()


def test_a_removal_is_written():
    change = DeviceChange(peers=(PeerChange(key(TWO), remove=True),))
    (request,) = wireguard_netlink.set_requests(FAMILY, "np-wg", change, None)
    assert request.payload.hex() == (SET + of(8, of(0, "2400 0100 32*32", "0800 0300 01000000"))).hex()


def test_a_preshared_key_is_taken_off_with_zeroes():
    change = DeviceChange(peers=(PeerChange(key(TWO), open=True),))
    (request,) = wireguard_netlink.set_requests(FAMILY, "np-wg", change, None)
    assert hexed("2400 0200 00*32") in request.payload


def test_a_device_without_peers_is_one_request():
    (request,) = wireguard_netlink.set_requests(FAMILY, "np-wg", DeviceChange(port=1), None)
    assert request.payload == SET + hexed("0600 0600 0100 0000")


def test_a_device_is_asked_for():
    request = wireguard_netlink.get_request(FAMILY, "np-wg")
    assert request.payload == GET


def test_a_link_is_made():
    request = new_wireguard("np-wg").request
    link = "00 00 0000 00000000 00000000 00000000\n 0a00 0300 6e702d7767 00 0000"
    assert request.payload == hexed(f"{link}\n 1400 1280 0e00 0100 776972656775617264 00 0000")
    assert (request.kind, request.flags) == (16, 0x600)


def peers_in(requests):
    for request in requests:
        found = dict(each_attribute(request.payload, 4))
        yield [dict(each_attribute(peer)) for _, peer in each_attribute(found[8])]


def test_many_peers_are_several_requests_and_the_device_is_only_in_the_first():
    peers = tuple(
        PeerChange(
            key(number.to_bytes(32)), new=True, allowed=networks(f"10.{number >> 8}.{number & 255}.0/24"), replace=True
        )
        for number in range(2000)
    )
    change = DeviceChange(key=key(OWN), port=5, peers=peers)
    requests = wireguard_netlink.set_requests(FAMILY, "np-wg", change, PRIVATE)
    assert len(requests) > 2
    assert max(len(request.payload) for request in requests) < 1 << 16
    assert [3 in dict(each_attribute(request.payload, 4)) for request in requests] == [True] + [False] * (
        len(requests) - 1
    )
    assert [peer[1] for peers_ in peers_in(requests) for peer in peers_] == [
        number.to_bytes(32) for number in range(2000)
    ]


def test_a_peer_with_many_networks_replaces_once_and_adds_then():
    allowed = networks(*(f"10.{number >> 8}.{number & 255}.0/24" for number in range(3500)))
    change = DeviceChange(peers=(PeerChange(key(ONE), allowed=allowed, replace=True),))
    requests = wireguard_netlink.set_requests(FAMILY, "np-wg", change, None)
    pieces = [peer for peers in peers_in(requests) for peer in peers]
    assert [struct.unpack("=I", piece[3])[0] for piece in pieces] == [2 | 4, 4, 4, 4]
    assert sum(len(list(each_attribute(piece[9]))) for piece in pieces) == 3500
    assert max(len(request.payload) for request in requests) < 1 << 16


# What the kernel answers: a device, with a peer that goes on in the next message.
FIRST = b"".join(
    (
        hexed(
            "00 01 0000  0600 0600 6cca 0000  0800 0700 07000000  0800 0100 05000000"
        ),  # port, mark, WGDEVICE_A_IFINDEX
        NAME,
        hexed("2400 0300 70*32  2400 0400 6f*32"),  # private and public key
        of(
            8,
            of(
                0,
                "2400 0100 31*32",
                "2400 0200 00*32",  # PRESHARED_KEY
                "1400 0600 00f1536500000000 0065cd1d00000000",  # LAST_HANDSHAKE_TIME 1700000000.5
                "0600 0500 1900 0000",
                "0c00 0800 bd95000000000000",  # TX_BYTES
                "0c00 0700 b008000000000000",  # RX_BYTES
                "0800 0a00 01000000",  # PROTOCOL_VERSION
                "1400 0400 0200 ca6c 0a000002 0000000000000000",
                of(9, of(0, "0600 0100 0200 0000", "0500 0300 18 000000", "0800 0200 0af40200")),
            ),
        ),
    )
)
SECOND = GET + of(8, of(0, "2400 0100 31*32", of(9, SIX)), of(0, "2400 0100 32*32", "2400 0200 73*32"))


def test_an_answer_of_several_messages_is_read():
    found = wireguard_netlink.device([FIRST, SECOND], "read")
    assert (found.key, found.port, found.mark) == (key(OWN), 51820, 7)
    assert list(found.peers.values()) == [
        PeerFound(
            key(ONE),
            endpoint=(ip_address("10.0.0.2"), 51820),
            allowed=networks("10.244.2.0/24", "fd00:244:2::/64"),
            keepalive=25,
            handshake=1700000000.5,
            received=2224,
            sent=38333,
        ),
        PeerFound(key(TWO), endpoint=None, allowed=(), secret=True),
    ]


def assert_answer_or_refused(payload):
    said = "not understood"
    try:
        wireguard_netlink.device([payload], "read")
    except KernelError as error:
        said = str(error)
    assert "not understood" in said


@pytest.mark.parametrize("size", range(5, 300, 7))
def test_what_is_cut_off_is_an_answer_or_refused(size):
    assert_answer_or_refused(FIRST[:size])


@pytest.mark.parametrize("at", range(4, 200, 3))
def test_what_is_garbled_is_an_answer_or_refused(at):
    garbled = bytearray(FIRST)
    garbled[at] ^= 0xFF
    assert_answer_or_refused(bytes(garbled))
