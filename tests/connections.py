"""Put connections into the kernel's table of the calling thread's namespace, as if packets had made them."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from ipaddress import ip_address

from netplane.kernel import netlink
from netplane.kernel.conntrack import Connection, Status, Tuple, tuple_attribute
from netplane.kernel.netlink import ACK, CREATE, NetlinkSocket, Request, attribute, nested

_NEW, _EXCLUSIVE = 1 << 8, 0x200
_SECONDS = 600
_AT_ONCE = 1000


def connection(protocol, client, to, answers, *, zone=0):
    """Client, destination and who answers, each as (address, port); the client is answered untranslated."""
    source, destination, server = ((ip_address(address), port) for address, port in (client, to, answers))
    status = Status.SEEN_REPLY | Status.CONFIRMED
    return Connection(protocol, Tuple(*source, *destination), Tuple(*server, *source), status, zone=zone)


def put(connections: Iterable[Connection]) -> None:
    requests = [Request(_NEW, _payload(each), CREATE | _EXCLUSIVE) for each in connections]
    with NetlinkSocket(netlink.NETFILTER, "conntrack") as kernel:
        for start in range(0, len(requests), _AT_ONCE):
            *some, last = requests[start : start + _AT_ONCE]
            assert not kernel.transact([*some, last._replace(flags=last.flags | ACK)])


def _payload(of: Connection) -> bytes:
    family = socket.AF_INET if of.original.source.version == 4 else socket.AF_INET6
    established = nested(4, nested(1, attribute(1, b"\3"))) if of.protocol == socket.IPPROTO_TCP else b""
    return b"".join(
        (
            struct.pack(">BBH", family, 0, 0),
            tuple_attribute(1, of.protocol, of.original),
            tuple_attribute(2, of.protocol, of.reply),
            attribute(3, struct.pack(">I", of.status)),
            established,
            attribute(7, struct.pack(">I", _SECONDS)),
            attribute(18, struct.pack(">H", of.zone)) if of.zone else b"",
        )
    )


def names(connections: Iterable[Connection]) -> set[tuple[object, ...]]:
    """What tells connections apart, without what the kernel adds."""
    return {(each.protocol, each.original, each.reply, each.zone) for each in connections}
