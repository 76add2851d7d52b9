"""Sockets as the lab needs them: for any address, on one side of a packet, with the address it was sent to.

Every function opens its socket in the calling thread's namespace; call them through `Namespace.run`.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from netplane.model.address import Family, IPAddress, Protocol

IP_PKTINFO, IP_TRANSPARENT = 8, 19
IPV6_TRANSPARENT, IPV6_RECVPKTINFO, IPV6_PKTINFO = 75, 49, 50
DOMAIN = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
ICMP = {Family.IPV4: socket.IPPROTO_ICMP, Family.IPV6: socket.IPPROTO_ICMPV6}

_PKTINFO4 = struct.Struct("=i4s4s")
_PKTINFO6 = struct.Struct("=16sI")
_ANCILLARY = socket.CMSG_SPACE(64)
_BUFFER = 4 << 20
_SO_RCVBUFFORCE = 33


class Received(NamedTuple):
    """A datagram: what, from whom, and the address it was sent to."""

    data: bytes
    sender: tuple[str, int]
    local: IPAddress


def stream(family: Family) -> socket.socket:
    """A TCP socket."""
    return _socket(family, socket.SOCK_STREAM, 0)


def datagram(family: Family) -> socket.socket:
    """A UDP socket."""
    return _socket(family, socket.SOCK_DGRAM, 0)


def raw(family: Family, protocol: int) -> socket.socket:
    """A raw socket for one IP protocol, with room for bursts."""
    made = _socket(family, socket.SOCK_RAW, protocol)
    made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    return made


def for_probe(family: Family, protocol: Protocol) -> socket.socket:
    """A socket to ask with: TCP, UDP or raw SCTP."""
    match protocol:
        case Protocol.TCP:
            return stream(family)
        case Protocol.UDP:
            return datagram(family)
        case Protocol.SCTP:
            return raw(family, protocol.number)


def any_address(made: socket.socket) -> None:
    """Let the socket use addresses that are not this namespace's own."""
    if made.family == socket.AF_INET:
        made.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
    else:
        made.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)


def tell_local_address(made: socket.socket) -> None:
    """Have `receive` learn the address each datagram was sent to."""
    if made.family == socket.AF_INET:
        made.setsockopt(socket.SOL_IP, IP_PKTINFO, 1)
    else:
        made.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)


def receive(made: socket.socket) -> Received | None:
    """The next datagram, None if none is waiting. Needs `tell_local_address`; a raw IPv4 packet loses its header."""
    try:
        data, ancillary, _, sender = made.recvmsg(65536, _ANCILLARY)
    except (BlockingIOError, ConnectionRefusedError):
        return None
    if made.family == socket.AF_INET and made.type == socket.SOCK_RAW:
        data = without_header(data)
    return Received(data, (sender[0], sender[1]), _local_address(ancillary))


def reply(made: socket.socket, received: Received, data: bytes) -> None:
    """Answer a datagram from the address it was sent to."""
    if isinstance(received.local, IPv4Address):
        info = (socket.SOL_IP, IP_PKTINFO, _PKTINFO4.pack(0, received.local.packed, b"\0" * 4))
    else:
        info = (socket.IPPROTO_IPV6, IPV6_PKTINFO, _PKTINFO6.pack(received.local.packed, 0))
    made.sendmsg([data], [info], 0, received.sender)


def without_header(packet: bytes) -> bytes:
    """What follows the IPv4 header."""
    return packet[(packet[0] & 0xF) * 4 :]


def _socket(family: Family, kind: int, protocol: int) -> socket.socket:
    made = socket.socket(DOMAIN[family], kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
    if family is Family.IPV6 and kind != socket.SOCK_RAW:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return made


def _local_address(ancillary: list[tuple[int, int, bytes]]) -> IPAddress:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_IP, IP_PKTINFO):
            return IPv4Address(_PKTINFO4.unpack_from(data)[2])
        if (level, kind) == (socket.IPPROTO_IPV6, IPV6_PKTINFO):
            return IPv6Address(_PKTINFO6.unpack_from(data)[0])
    raise AssertionError("receive() needs tell_local_address()")


def address_of(sender: tuple[str, int]) -> IPAddress:
    """The address of a socket address, without its zone."""
    return ip_address(sender[0].partition("%")[0])
