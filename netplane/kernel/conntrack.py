"""Read and delete the connections the kernel tracks in a network namespace (ctnetlink).

Numbers are from linux/netfilter/nfnetlink_conntrack.h, nf_conntrack_common.h and, for the flags of a filter, the
kernel's nf_internals.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from enum import IntFlag
from ipaddress import IPv4Address, IPv6Address
from itertools import islice
from typing import NamedTuple

from netplane.closing import Closing
from netplane.errors import KernelError
from netplane.kernel import netlink
from netplane.kernel.netlink import ACK, NetlinkSocket, Refused, Request, attribute, attributes, nested
from netplane.model.address import Family, IPAddress, family_of

_SUBSYSTEM, _GET, _DELETE = 1, 1, 2
_ORIGINAL, _REPLY, _STATUS, _PROTOCOL_INFO, _ID, _ZONE, _FILTER = 1, 2, 3, 4, 12, 18, 25
_TUPLE_ZONE = 3
_FROM_ADDRESS, _TO_ADDRESS, _PROTOCOL, _FROM_PORT, _TO_PORT = 1 << 0, 1 << 1, 1 << 3, 1 << 4, 1 << 5
_GENERIC_HEADER = 4  # nfgenmsg
_AT_ONCE = 1000
_FEW = 3
"""Hosts for each of which the kernel is asked, rather than for a list of everything: 40 000 connections take 130 ms."""
_DOMAIN = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
_UNSIGNED, _PORT = struct.Struct("=I"), struct.Struct(">H")


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


class Connection(NamedTuple):
    """One tracked connection. `tcp_state` is the kernel's number (TCP_CONNTRACK_*), None for other protocols.

    `id` goes with the original direction; `zone` is 0 unless somebody keeps several tables in one.
    """

    protocol: int
    original: Tuple
    reply: Tuple
    status: Status
    tcp_state: int | None = None
    id: int = 0
    zone: int = 0

    @property
    def translated(self) -> bool:
        """Whether the destination was rewritten."""
        return bool(self.status & Status.DESTINATION_TRANSLATED)


class Pattern(NamedTuple):
    """Connections of one protocol and family by where the first packet was sent and who answers; None is any."""

    protocol: int
    family: Family
    destination: IPAddress | None = None
    port: int | None = None
    answers: tuple[IPAddress | None, int] | None = None

    def asked(self) -> Pattern:
        """What of it the kernel may be asked. Never an IPv6 address: a filter with one matches all others instead
        (ctnetlink_filter_match_tuple takes the result of ipv6_addr_cmp for its opposite; 5.8 to at least 6.18).
        """
        if self.family is Family.IPV4:
            return self
        return self._replace(destination=None, answers=(None, self.answers[1]) if self.answers else None)

    def matches(self, connection: Connection) -> bool:
        """Whether it is one of them."""
        original, reply = connection.original, connection.reply
        return (
            connection.protocol == self.protocol
            and family_of(original.destination) is self.family
            and self.destination in (None, original.destination)
            and self.port in (None, original.destination_port)
            and self.answers in (None, reply[:2], (None, reply.source_port))
        )


Wanted = Callable[[Connection], bool]
"""Chooses by protocol, original destination and reply source (with their ports), and by nothing else."""


class Conntrack(Closing):
    """The connections in the default zone of the calling thread's namespace. Raises RequirementError without
    CAP_NET_ADMIN, KernelError where the kernel has no ctnetlink."""

    def __init__(self) -> None:
        self._kernel = NetlinkSocket(netlink.NETFILTER, "conntrack")
        self.filters = self.erases = True
        """Whether the kernel can choose by pattern (5.8) and erase by pattern (6.12), as far as is known. Where it
        does not choose every `choose` reads all."""

    def choose(self, pattern: Pattern, wanted: Wanted) -> Iterator[Connection]:
        """Those that match the pattern and are wanted. `wanted` is asked once for all that agree in what it sees."""
        asked = pattern.asked()
        request = Request(_SUBSYSTEM << 8 | _GET, _filter(asked))
        verdicts: dict[bytes, bool] = {}
        for payload in self._kernel.dump(request, "choose connections"):
            seen = _what_is_judged(payload)
            if verdicts.get(seen, True):
                connection = _decoded(payload)
                self.filters &= asked.matches(connection)
                verdicts[seen] = pattern.matches(connection) and wanted(connection)
                if verdicts[seen] and not connection.zone:
                    yield connection

    def erase(self, pattern: Pattern) -> bool:
        """Have the kernel delete all that match, in one pass over its table. False: it cannot, and did nothing."""
        if not self.erases or pattern != pattern.asked():
            return False
        try:
            self._kernel.ask(Request(_SUBSYSTEM << 8 | _DELETE, _filter(pattern)), "erase connections")
        except Refused as refused:
            # Older kernels want the whole tuple of one connection, and never take less for more.
            if refused.refusal.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
            self.erases = False
        return self.erases

    def delete(self, connections: Iterable[Connection]) -> int:
        """Delete exactly these; how many of them were still there."""
        return self._delete(map(_one, connections))

    def _delete(self, names: Iterable[bytes]) -> int:
        left = iter(names)
        deleted = 0
        while some := list(islice(left, _AT_ONCE)):
            *requests, last = (Request(_SUBSYSTEM << 8 | _DELETE, each) for each in some)
            refusals = self._kernel.transact([*requests, last._replace(flags=ACK)])
            for refusal in refusals:
                if refusal.errno != errno.ENOENT:
                    raise Refused("conntrack", "delete a connection", refusal)
            deleted += len(some) - len(refusals)
        return deleted

    def erase_hosts(self, hosts: Collection[IPAddress]) -> None:
        """Delete every connection, of any protocol, that one of `hosts` began or answers.

        The kernel walks through its whole table: 10 ms, twice for each of a few hosts, once for many.
        """
        for family in Family:
            own = {each for each in hosts if family_of(each) is family}
            if own and not (len(own) <= _FEW and all(self._erase_host(each) for each in own)):
                self._delete(self._of_hosts(family, {each.packed for each in own}))

    def _erase_host(self, host: IPAddress) -> bool:
        """Like `erase`, what the host began and what it answers."""
        if host.version == 6 or not self.erases:  # see Pattern.asked
            return False
        try:
            for kind, flags in ((_ORIGINAL, (_FROM_ADDRESS, 0)), (_REPLY, (0, _FROM_ADDRESS))):
                name = nested(kind, nested(1, attribute(1, host.packed)))
                payload = _header(Family.IPV4) + name + _counting(*flags) + attribute(_ZONE, _PORT.pack(0))
                self._kernel.ask(Request(_SUBSYSTEM << 8 | _DELETE, payload), "erase the connections of a host")
        except Refused as refused:
            if refused.refusal.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
            self.erases = False
        return self.erases

    def _of_hosts(self, family: Family, own: set[bytes]) -> Iterator[bytes]:
        """What names each of them: a piece of what the kernel said of it, whatever its protocol has besides ports."""
        request = Request(_SUBSYSTEM << 8 | _GET, _header(family) + attribute(_ZONE, _PORT.pack(0)))
        for payload in self._kernel.dump(request, "list connections"):
            if _sources(payload) & own and not _decoded(payload).zone:
                found = attributes(payload, _GENERIC_HEADER)
                yield _header(family) + nested(_REPLY, found[_REPLY]) + attribute(_ID, found[_ID])

    def close(self) -> None:
        """Close the socket."""
        self._kernel.close()


def read() -> list[Connection]:
    """All connections of the calling thread's namespace, both families and every zone, in no particular order."""
    with NetlinkSocket(netlink.NETFILTER, "conntrack") as kernel:
        request = Request(_SUBSYSTEM << 8 | _GET, struct.pack(">BBH", 0, 0, 0))
        return [_decoded(payload) for payload in kernel.dump(request, "list connections")]


def tuple_attribute(kind: int, protocol: int, of: Tuple) -> bytes:
    """CTA_TUPLE_ORIG (1) or CTA_TUPLE_REPLY (2)."""
    return _tuple_attribute(kind, protocol, (of.source, of.destination), (of.source_port, of.destination_port))


def _tuple_attribute(
    kind: int, protocol: int, addresses: Sequence[IPAddress | None], ports: Sequence[int | None]
) -> bytes:
    """As `_tuple` reads it; source first, None is left out."""
    kinds = ((at + (2 if address.version == 6 else 0), address) for at, address in enumerate(addresses, 1) if address)
    inner = nested(1, *(attribute(at, address.packed) for at, address in kinds))
    numbers = (attribute(at, _PORT.pack(port)) for at, port in enumerate(ports, 2) if port is not None)
    return nested(kind, inner, nested(2, attribute(1, bytes([protocol])), *numbers))


def _header(family: Family) -> bytes:
    return struct.pack(">BBH", _DOMAIN[family], 0, 0)


def _one(connection: Connection) -> bytes:
    """What names one connection and no other: the reply says who answers, the id what was asked (nf_ct_get_id)."""
    name = tuple_attribute(_REPLY, connection.protocol, connection.reply)
    zone = attribute(_ZONE, _PORT.pack(connection.zone)) if connection.zone else b""
    return (
        _header(family_of(connection.original.source)) + name + attribute(_ID, struct.pack(">I", connection.id)) + zone
    )


def _filter(pattern: Pattern) -> bytes:
    """CTA_FILTER says which parts of the two tuples count. Zone 0 must be said: unsaid it is every zone."""
    answers, port = pattern.answers or (None, None)
    flags = _PROTOCOL
    flags |= _TO_ADDRESS if pattern.destination else 0
    flags |= _TO_PORT if pattern.port is not None else 0
    back = _PROTOCOL | _FROM_PORT if pattern.answers else 0
    back |= _FROM_ADDRESS if answers else 0
    return b"".join(
        (
            _header(pattern.family),
            _tuple_attribute(_ORIGINAL, pattern.protocol, (None, pattern.destination), (None, pattern.port)),
            _tuple_attribute(_REPLY, pattern.protocol, (answers, None), (port, None)) if back else b"",
            _counting(flags, back),
            attribute(_ZONE, _PORT.pack(0)),
        )
    )


def _counting(flags: int, back: int) -> bytes:
    return nested(_FILTER, attribute(1, _UNSIGNED.pack(flags)), attribute(2, _UNSIGNED.pack(back)))


def _sources(payload: bytes) -> set[bytes]:
    """Who began and who answers: the source addresses of both directions."""
    at = _CLIENT[payload[0]]
    size = at.address.stop - at.address.start
    answers = slice(at.answered.start - 4 - size, at.answered.start - 4)
    if payload[12:16] == _HEADS[payload[0]][0] and payload[answers.start - 4 : answers.start] == payload[12:16]:
        return {payload[at.address], payload[answers]}
    connection = _decoded(payload)
    return {connection.original.source.packed, connection.reply.source.packed}


class _Client(NamedTuple):
    """Where in a message the client's part is: its address and port, and both again in the reply."""

    address: slice
    port: slice
    answered: slice
    end: int


_CLIENT: dict[int, _Client] = {
    socket.AF_INET: _Client(slice(16, 20), slice(44, 48), slice(76, 80), 100),
    socket.AF_INET6: _Client(slice(16, 32), slice(68, 72), slice(112, 128), 148),
}


def _what_is_judged(payload: bytes) -> bytes:
    """Everything up to the reply's source port but for the client: equal for connections that are judged alike.

    All of the message if it is not laid out as connections with ports are.
    """
    at = _CLIENT[payload[0]]
    heads = (
        payload[12:16],
        payload[at.port.start - 4 : at.port.start],
        payload[at.answered.start - 4 : at.answered.start],
    )
    if heads != _HEADS[payload[0]]:
        return payload
    return b"".join(
        (
            payload[: at.address.start],
            payload[at.address.stop : at.port.start],
            payload[at.port.stop : at.answered.start],
            payload[at.answered.stop : at.end],
        )
    )


_HEADS: dict[int, tuple[bytes, bytes, bytes]] = {
    socket.AF_INET: (struct.pack("=HH", 8, 1), struct.pack("=HH", 6, 2), struct.pack("=HH", 8, 2)),
    socket.AF_INET6: (struct.pack("=HH", 20, 3), struct.pack("=HH", 6, 2), struct.pack("=HH", 20, 4)),
}
"""The attributes before the client's parts: source address, source port, and the reply's destination address."""


def _decoded(payload: bytes) -> Connection:
    try:
        return _decode(payload)
    except (KeyError, ValueError, struct.error) as error:
        raise KernelError(mechanism="conntrack", doing="decode a connection", said=repr(error)) from error


def _decode(payload: bytes) -> Connection:
    found = attributes(payload, _GENERIC_HEADER)
    protocol, original, zone = _tuple(found[_ORIGINAL])
    _, reply, back = _tuple(found[_REPLY])
    return Connection(
        protocol,
        original,
        reply,
        Status(int.from_bytes(found[_STATUS], "big")),
        _tcp_state(found.get(_PROTOCOL_INFO, b"")),
        int.from_bytes(found.get(_ID, b""), "big"),
        int.from_bytes(found.get(_ZONE, b""), "big") or zone or back,
    )


def _tuple(payload: bytes) -> tuple[int, Tuple, int]:
    """CTA_TUPLE: addresses (CTA_TUPLE_IP 1: v4 1 and 2, v6 3 and 4), protocol and ports (CTA_TUPLE_PROTO 2), and
    the zone if only this direction has one (CTA_TUPLE_ZONE 3)."""
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
    zone = int.from_bytes(parts.get(_TUPLE_ZONE, b""), "big")
    return protocol[1][0], Tuple(source, source_port, destination, destination_port), zone


def _tcp_state(payload: bytes) -> int | None:
    """CTA_PROTOINFO: CTA_PROTOINFO_TCP (1) holds CTA_PROTOINFO_TCP_STATE (1)."""
    tcp = attributes(payload).get(1)
    return attributes(tcp)[1][0] if tcp else None
