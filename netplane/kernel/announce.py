"""Telling neighbours on a link where an address is now: gratuitous ARP, unsolicited advertisement (RFC 5227, RFC 4861).

Frames go out by a packet socket, so they need neither a route nor the address on the link, and no rule stops them.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from ipaddress import IPv4Address, IPv6Address

from netplane.errors import KernelError
from netplane.model.address import IPAddress

_ARP, _IPV6 = 0x0806, 0x86DD
_ETHERNET = 1  # ARPHRD_ETHER
_REQUEST, _REPLY = 1, 2
_BROADCAST = b"\xff" * 6
_ALL_NODES, _ALL_NODES_MAC = IPv6Address("ff02::1"), bytes.fromhex("333300000001")
_ADVERTISEMENT, _OVERRIDE, _TARGET_LINK = 136, 0x20000000, 2
_ICMPV6, _HOPS = 58, 255  # any other hop limit is taken for a forgery from behind a router


def announce(link: str, address: IPAddress) -> None:
    """Tell all neighbours on `link` that `address` is here, once. In the namespace of the calling thread.

    For IPv4 as a request and as a reply: some hosts heed only one. Links that are not Ethernet have no neighbours to
    tell: nothing is sent there. Raises KernelError if the link is not there or down.
    """
    doing = f"announce {address} on {link}"
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as made:  # 0: receives nothing
            made.bind((link, 0))
            _, _, _, kind, mac = made.getsockname()
            if kind == _ETHERNET:
                for frame in frames(mac, address):
                    made.send(frame)
    except OSError as error:
        raise KernelError(mechanism="announce", doing=doing, said=os.strerror(error.errno or errno.EIO)) from error


def frames(mac: bytes, address: IPAddress) -> tuple[bytes, ...]:
    """What is sent: Ethernet frames from `mac`, without checksum and padding."""
    if isinstance(address, IPv6Address):
        return (_ethernet(_ALL_NODES_MAC, mac, _IPV6) + _advertisement(mac, address),)
    own = _ethernet(_BROADCAST, mac, _ARP)
    return own + _arp(_REQUEST, mac, bytes(6), address), own + _arp(_REPLY, mac, mac, address)


def _ethernet(to: bytes, source: bytes, kind: int) -> bytes:
    return to + source + struct.pack("!H", kind)


def _arp(operation: int, mac: bytes, target: bytes, address: IPv4Address) -> bytes:
    """Sender and target are the same address: that is what makes it gratuitous."""
    return struct.pack("!HHBBH", _ETHERNET, 0x0800, 6, 4, operation) + mac + address.packed + target + address.packed


def _advertisement(mac: bytes, address: IPv6Address) -> bytes:
    option = struct.pack("!BB", _TARGET_LINK, 1) + mac
    body = struct.pack("!I", _OVERRIDE) + address.packed + option
    checksum = _checksum(address, struct.pack("!BBH", _ADVERTISEMENT, 0, 0) + body)
    payload = struct.pack("!BBH", _ADVERTISEMENT, 0, checksum) + body
    header = struct.pack("!IHBB", 6 << 28, len(payload), _ICMPV6, _HOPS)
    return header + address.packed + _ALL_NODES.packed + payload


def _checksum(source: IPv6Address, payload: bytes) -> int:
    """Of the payload and the pseudo header of RFC 8200, section 8.1. All these have an even length."""
    pseudo = source.packed + _ALL_NODES.packed + struct.pack("!II", len(payload), _ICMPV6)
    total: int = sum(struct.unpack(f"!{(len(pseudo) + len(payload)) // 2}H", pseudo + payload))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
