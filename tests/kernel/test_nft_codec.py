"""What the nf_tables codec promises, byte by byte: see netplane/kernel/nft_codec.py."""

import random
import struct
import sys

import pytest
from nft_bytes import address, port, protocol, slot

from netplane.kernel import netlink, nft_codec
from netplane.kernel.netlink import Request, attribute, nested, text
from netplane.kernel.nft_codec import KernelSet
from netplane.model.address import Family

little_endian = pytest.mark.skipif(sys.byteorder != "little", reason="bytes are written for little-endian machines")

PLAIN = KernelSet(Family.IPV4, "s", 0, 7)
RANGES = KernelSet(Family.IPV4, "s", 0x84, 7 << 6 | 13)
SERVICES = KernelSet(Family.IPV4, "s", 0x8, (7 << 6 | 12) << 6 | 13)
ENDPOINTS = KernelSet(Family.IPV6, "s", 0x8, ((8 << 6 | 12) << 6 | 13) << 6 | 4)


def dumped(requests) -> list[bytes]:
    """What the kernel would show of elements it was sent: the same attributes."""
    return [request.payload for request in requests]


def read_back(target: KernelSet, requests) -> dict:
    return {key: data for payload in dumped(requests) for key, data in nft_codec.elements(target, payload).items()}


@little_endian
@pytest.mark.parametrize(
    ("target", "elements", "expected"),
    [
        (PLAIN, {address("10.0.0.1"): None}, "1000 0180 0c00 0180 0800 0100 0a000001"),
        (
            PLAIN,  # a key of a single port is two bytes: padded, but not counted
            {b"\x00\x50": None},
            "1000 0180 0c00 0180 0600 0100 0050 0000",
        ),
        (
            SERVICES,
            {address("10.0.0.1"): "goto pick-2"},  # the name has seven bytes with its NUL: eleven with its header
            "2c00 0180 0c00 0180 0800 0100 0a000001 1c00 0280 1800 0280 0800 0100 fffffffc 0b00 0200 7069636b 2d320000",
        ),
        (
            SERVICES,
            {address("10.0.0.1"): "drop"},
            "2000 0180 0c00 0180 0800 0100 0a000001 1000 0280 0c00 0280 0800 0100 00000000",
        ),
        (
            SERVICES,
            {address("10.0.0.1"): address("10.1.0.9") + port(8080)},
            "2000 0180 0c00 0180 0800 0100 0a000001 1000 0280 0c00 0100 0a010009 1f900000",
        ),
        (
            RANGES,
            {address("10.0.0.0") + port(80) + address("10.0.0.255") + port(80): None},
            "2400 0180 1000 0180 0c00 0100 0a000000 00500000 1000 0a80 0c00 0100 0a0000ff 00500000",
        ),
        (SERVICES, {b"": "accept"}, "1c00 0180 0800 0300 00000002 1000 0280 0c00 0280 0800 0100 00000001"),
    ],
    ids=["address", "one port", "goto", "drop", "value", "range", "catch-all"],
)
def test_an_element_has_these_bytes(target, elements, expected):
    (request,) = nft_codec.add_elements(target, elements)
    listed = bytes.fromhex(expected)
    head = bytes((2, 0, 0, 0)) + text(1, "netplane") + text(2, "s")
    assert request == Request(0x0A0C, head + nested(3, listed), netlink.CREATE)


@little_endian
def test_removing_names_the_key_and_not_the_data():
    (request,) = nft_codec.remove_elements(ENDPOINTS, {address("10.0.0.1"): "goto pick-2"})
    head = bytes((10, 0, 0, 0)) + text(1, "netplane") + text(2, "s")
    listed = bytes.fromhex("1000 0180 0c00 0180 0800 0100 0a000001")
    assert request == Request(0x0A0E, head + nested(3, listed), 0)


@pytest.mark.parametrize(
    ("target", "elements"),
    [
        (PLAIN, {}),
        (PLAIN, {address(f"10.0.0.{n}"): None for n in range(9)}),
        (PLAIN, {bytes((n,)): None for n in range(9)}),
        (PLAIN, {bytes((0, n)): bytes((n, 1)) for n in range(9)}),
        (SERVICES, {bytes((n, 0)): f"goto {'c' * n}" for n in range(1, 60)}),
        (SERVICES, {bytes((n,)): word for n, word in enumerate(("drop", "accept", "return", "continue", "jump a"))}),
        (SERVICES, {b"": "drop", b"abcd": "goto x", b"abce": b"four"}),
        (RANGES, {bytes((n,)) * 8 + bytes((n + 1,)) * 8: None for n in range(9)}),
        (RANGES, {bytes((n,)) * 8 + bytes((n + 1,)) * 8: b"dat" for n in range(9)}),
    ],
)
def test_what_is_encoded_is_decoded_to_the_same(target, elements):
    assert read_back(target, nft_codec.add_elements(target, elements)) == elements


def test_elements_of_many_sizes_come_back_in_any_order():
    chance = random.Random(4)
    datum = [None, "drop", "goto a", "goto a-longer-name", b"\0", b"12345678", b"abc"]
    elements = {chance.randbytes(chance.randint(1, 40)): chance.choice(datum) for _ in range(5000)}
    assert read_back(SERVICES, nft_codec.add_elements(SERVICES, elements)) == elements


def test_many_elements_need_few_messages_and_none_is_too_long():
    elements = {struct.pack(">I", n): "goto a-name" if n % 2 else "drop" for n in range(50_000)}
    requests = list(nft_codec.add_elements(SERVICES, elements))
    assert 1 < len(requests) < 40
    for request in requests:
        assert set(netlink.attributes(request.payload, 4)) == {1, 2, 3}
    assert read_back(SERVICES, requests) == elements


def test_no_elements_need_no_message():
    assert list(nft_codec.add_elements(PLAIN, {})) == []
    assert list(nft_codec.remove_elements(PLAIN, {})) == []


def test_attributes_of_an_element_that_do_not_matter_are_passed_over():
    key, data = nested(1, attribute(1, b"abcd")), nested(2, attribute(1, b"12345678"))
    comment, expiry = attribute(6, b"\0\2x\0"), attribute(5, bytes(8))
    listed = nested(1, key, data) + nested(1, key.replace(b"abcd", b"abce"), data, expiry, comment)
    listed += nested(1, data, attribute(3, struct.pack(">I", 2)))
    payload = bytes((2, 0, 0, 0)) + nested(3, listed)
    assert nft_codec.elements(SERVICES, payload) == {b"abcd": b"12345678", b"abce": b"12345678", b"": b"12345678"}


@pytest.mark.parametrize(
    ("target", "key", "expected"),
    [
        (SERVICES, address("10.96.0.10") + protocol(6) + port(80), "10.96.0.10 . tcp . 80"),
        (SERVICES, address("10.96.0.10") + protocol(47) + port(80), "10.96.0.10 . 47 . 80"),
        (ENDPOINTS, address("fd00::a") + protocol(132) + port(65535) + slot(3), "fd00::a . sctp . 65535 . 3"),
        (PLAIN, address("10.0.0.1"), "10.0.0.1"),
        (RANGES, address("10.0.0.0") + port(80) + address("10.0.0.255") + port(80), "10.0.0.0 . 80 - 10.0.0.255 . 80"),
        (KernelSet(Family.IPV4, "s", 0, 13), b"\x00\x50", "80"),
        (KernelSet(Family.IPV4, "s", 0, 41), b"\x00\x50", "0050"),
        (PLAIN, b"longer than it should", b"longer than it should".hex()),
        (PLAIN, b"", "*"),
    ],
)
def test_a_key_is_told_as_nft_writes_it(target, key, expected):
    assert nft_codec.key_text(target, key) == expected


def test_a_refusal_is_told_with_the_element_it_points_at():
    elements = {address(f"10.0.0.{n}") + protocol(6) + port(80): "goto pick-2" for n in range(3)}
    (request,) = nft_codec.add_elements(SERVICES, elements)
    at = request.payload.index(address("10.0.0.1"))
    told = "add element { 10.0.0.1 . tcp . 80 : goto pick-2 } to ip netplane s"
    assert nft_codec.describe(SERVICES, request, at) == told
    assert nft_codec.describe(SERVICES, request, at - 12) == told  # its first byte
    assert nft_codec.describe(SERVICES, request, 4) == "add elements to ip netplane s"
    assert nft_codec.describe(SERVICES, request, -1) == "add elements to ip netplane s"
    (request,) = nft_codec.remove_elements(SERVICES, elements)
    assert nft_codec.describe(SERVICES, request, 10_000) == "remove elements from ip netplane s"
