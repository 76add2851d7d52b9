"""Read the connections the kernel tracks in a network namespace, as values (ctnetlink).

Numbers are from linux/netfilter/nfnetlink_conntrack.h and nf_conntrack_common.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntFlag
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from netplane.errors import KernelError
from netplane.kernel import netlink
from netplane.kernel.netlink import NetlinkSocket, Request, attributes
from netplane.model.address import IPAddress

_SUBSYSTEM, _GET = 1, 1
_ORIGINAL, _REPLY, _STATUS, _PROTOCOL_INFO = 1, 2, 3, 4
_GENERIC_HEADER = 4  # nfgenmsg


class Status(IntFlag):
    """What the kernel notes about a connection (IPS_*); bits without a name here are kept as numbers."""

    SEEN_REPLY = 1 << 1
    ASSURED = 1 << 2
    CONFIRMED = 1 << 3
    SOURCE_TRANSLATED = 1 << 4
    DESTINATION_TRANSLATED = 1 << 5
    DYING = 1 << 9


class Tuple(NamedTuple):
    """One direction of a connection. Ports are 0 for protocols without; ICMP has its identifier as source port."""

    source: IPAddress
    source_port: int
    destination: IPAddress
    destination_port: int


@dataclass(frozen=True, slots=True)
class Connection:
    """One tracked connection. `tcp_state` is the kernel's number (TCP_CONNTRACK_*), None for other protocols."""

    protocol: int
    original: Tuple
    reply: Tuple
    status: Status
    tcp_state: int | None = None

    @property
    def translated(self) -> bool:
        """Whether the destination was rewritten."""
        return bool(self.status & Status.DESTINATION_TRANSLATED)


def read() -> list[Connection]:
    """All connections of the calling thread's namespace, both families, in no particular order."""
    with NetlinkSocket(netlink.NETFILTER, "conntrack") as kernel:
        request = Request(_SUBSYSTEM << 8 | _GET, struct.pack(">BBH", 0, 0, 0))
        payloads = kernel.dump(request, "list connections")
    return list(_decoded(payloads))


def _decoded(payloads: list[bytes]) -> Iterator[Connection]:
    for payload in payloads:
        try:
            yield _decode(payload)
        except (KeyError, ValueError, struct.error) as error:
            raise KernelError(mechanism="conntrack", doing="decode a connection", said=repr(error)) from error


def _decode(payload: bytes) -> Connection:
    found = attributes(payload, _GENERIC_HEADER)
    protocol, original = _tuple(found[_ORIGINAL])
    _, reply = _tuple(found[_REPLY])
    status = Status(int.from_bytes(found[_STATUS], "big"))
    return Connection(protocol, original, reply, status, _tcp_state(found.get(_PROTOCOL_INFO, b"")))


def _tuple(payload: bytes) -> tuple[int, Tuple]:
    """CTA_TUPLE: addresses (CTA_TUPLE_IP 1: v4 1 and 2, v6 3 and 4), protocol and ports (CTA_TUPLE_PROTO 2)."""
    parts = attributes(payload)
    addresses, protocol = attributes(parts[1]), attributes(parts[2])
    source, destination = (
        (IPv4Address(addresses[1]), IPv4Address(addresses[2]))
        if 1 in addresses
        else (IPv6Address(addresses[3]), IPv6Address(addresses[4]))
    )
    echo = protocol.get(4, protocol.get(7, b"\0\0"))  # CTA_PROTO_ICMP_ID, CTA_PROTO_ICMPV6_ID
    source_port = int.from_bytes(protocol.get(2, echo), "big")
    destination_port = int.from_bytes(protocol.get(3, b"\0\0"), "big")
    return protocol[1][0], Tuple(source, source_port, destination, destination_port)


def _tcp_state(payload: bytes) -> int | None:
    """CTA_PROTOINFO: CTA_PROTOINFO_TCP (1) holds CTA_PROTOINFO_TCP_STATE (1)."""
    tcp = attributes(payload).get(1)
    return attributes(tcp)[1][0] if tcp else None
