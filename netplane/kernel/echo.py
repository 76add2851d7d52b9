"""Echo requests (ICMP, ICMPv6): many peers by one socket for each family, or one packet to find out what fits.

Raw sockets, as the kernel's own ping sockets are closed to everybody by default, root as well
(net.ipv4.ping_group_range). A filter in the kernel lets nothing in but replies with this object's own number.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import time
from collections.abc import Collection, Iterator
from ipaddress import ip_address
from typing import NamedTuple

from netplane.closing import Closing
from netplane.errors import KernelError, RequirementError
from netplane.model.address import IPAddress

HEADERS = {4: 28, 6: 48}
"""Bytes of the IP and the ICMP header."""

_REQUEST, _REPLY = {4: 8, 6: 128}, {4: 0, 6: 129}
_HEADER = struct.Struct("!BBHHH")  # type, code, checksum, number of the sender, sequence
_MARK = struct.Struct("!8sQ")
"""What follows the header: whose request it is, and when it was sent, in nanoseconds of the monotonic clock."""

_ATTACH_FILTER, _RECEIVE_BUFFER_FORCE, _BUFFER = 26, 33, 4 << 20  # a reply takes 768 bytes of it
_SOL_RAW, _SOL_ICMPV6, _TYPES = 255, 58, 1
_DATAGRAM = 1 << 16
_AT_ONCE = 4096
_INSTRUCTION = struct.Struct("=HBBI")
_LOAD_HALF, _LOAD_HALF_AFTER, _SKIP_IP_HEADER, _EQUAL, _RETURN = 0x28, 0x48, 0xB1, 0x15, 0x06


class Answer(NamedTuple):
    """A reply: from whom, to which request, after how many seconds."""

    address: IPAddress
    sequence: int
    seconds: float


class Echo(Closing):
    """Asks from the namespace of the thread that makes it; used by one thread. Never waits.

    Raises RequirementError without the privilege. Where the host has no IPv6, peers of that family do not answer.
    """

    def __init__(self) -> None:
        self._token = os.urandom(8)
        self._number = int.from_bytes(self._token[:2], "big")
        self._ready = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        try:
            for version in (4, 6):
                self._open(version)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """A descriptor that is readable while there are answers."""
        return self._ready.fileno()

    def send(self, to: IPAddress, sequence: int) -> bool:
        """Ask once; whether the request left. `sequence` is below 65536."""
        made = self._sockets.get(to.version)
        if made is None:
            return False
        mark = _MARK.pack(self._token, time.monotonic_ns())
        try:
            made.sendto(request(to.version, self._number, sequence, mark), (str(to), 0))
        except OSError:  # no route, a neighbour that is not there, a rule against it, a full queue: it is not reached
            return False
        return True

    def read(self) -> Iterator[Answer]:
        """What was answered since the last time, not more than some thousands."""
        for version, made in self._sockets.items():
            for _ in range(_AT_ONCE):
                try:
                    data, (host, *_rest) = made.recvfrom(_DATAGRAM)
                except BlockingIOError:
                    break
                except OSError:
                    continue  # an error somebody else's packet left on the socket
                found = _answer(version, data, self._number, self._token)
                if found is not None:
                    sequence, sent = found
                    yield Answer(ip_address(host), sequence, (time.monotonic_ns() - sent) / 1e9)

    def close(self) -> None:
        """Close the sockets."""
        for made in self._sockets.values():
            made.close()
        self._ready.close()

    def _open(self, version: int) -> None:
        made = raw_socket(version)
        if made is None:
            return
        self._sockets[version] = made
        made.setsockopt(socket.SOL_SOCKET, _RECEIVE_BUFFER_FORCE, _BUFFER)
        only_replies(made, version)
        _only_number(made, version, self._number)
        self._ready.register(made, select.EPOLLIN)


def ask(addresses: Collection[IPAddress], seconds: float, tries: int = 2) -> dict[IPAddress, float]:
    """The round-trip seconds of those who answer within `seconds`, asked up to `tries` times meanwhile.

    From the namespace of the calling thread, which waits until all have answered or the time is over.
    """
    found: dict[IPAddress, float] = {}
    with Echo() as echo, select.epoll() as ready:
        ready.register(echo, select.EPOLLIN)
        begin = time.monotonic()
        for attempt in range(tries):
            for address in addresses:
                if address not in found:
                    echo.send(address, attempt)
            until = begin + seconds * (attempt + 1) / tries
            while len(found) < len(set(addresses)) and (left := until - time.monotonic()) > 0:
                ready.poll(left)
                for answer in echo.read():
                    if answer.address in addresses:
                        found.setdefault(answer.address, answer.seconds)
    return found


def raw_socket(version: int) -> socket.socket | None:
    """A socket for ICMP of one IP version, None if the host does not have that."""
    family, protocol = (socket.AF_INET, 1) if version == 4 else (socket.AF_INET6, 58)
    try:
        return socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
    except PermissionError as error:
        raise RequirementError("echo requests: not allowed to open a raw socket; run as root") from error
    except OSError as error:
        if version == 6:
            return None
        raise KernelError(mechanism="echo", doing="open a raw socket", said=str(error.strerror)) from error


def request(version: int, number: int, sequence: int, payload: bytes) -> bytes:
    """An echo request. The kernel fills in the checksum of ICMPv6."""
    head = _HEADER.pack(_REQUEST[version], 0, 0, number, sequence)
    if version == 6:
        return head + payload
    return _HEADER.pack(_REQUEST[version], 0, checksum(head + payload), number, sequence) + payload


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = data + b"\0" * (len(data) & 1)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def only_replies(made: socket.socket, version: int) -> None:
    """Let no other ICMP message in (ICMP_FILTER, ICMPV6_FILTER: the bits of types that are kept out)."""
    if version == 4:
        made.setsockopt(_SOL_RAW, _TYPES, struct.pack("=I", 0xFFFFFFFF & ~(1 << _REPLY[4])))
    else:
        words = [0xFFFFFFFF] * 8
        words[_REPLY[6] >> 5] &= ~(1 << (_REPLY[6] & 31))
        made.setsockopt(_SOL_ICMPV6, _TYPES, struct.pack("=8I", *words))


def _only_number(made: socket.socket, version: int, number: int) -> None:
    """Let in only what carries the number: other processes on this host ask, too."""
    load = (
        (_INSTRUCTION.pack(_SKIP_IP_HEADER, 0, 0, 0), _INSTRUCTION.pack(_LOAD_HALF_AFTER, 0, 0, 4))
        if version == 4
        else (_INSTRUCTION.pack(_LOAD_HALF, 0, 0, 4),)
    )
    ends = (_INSTRUCTION.pack(_RETURN, 0, 0, 0xFFFFFFFF), _INSTRUCTION.pack(_RETURN, 0, 0, 0))
    code = b"".join((*load, _INSTRUCTION.pack(_EQUAL, 0, 1, number), *ends))
    held = ctypes.create_string_buffer(code, len(code))
    frame = struct.pack("HP", len(code) // _INSTRUCTION.size, ctypes.addressof(held))
    made.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, frame)


def _answer(version: int, data: bytes, number: int, token: bytes) -> tuple[int, int] | None:
    """Sequence and sending time, if it is a reply to us. IPv4 comes with its IP header."""
    start = (data[0] & 15) * 4 if version == 4 and data else 0
    if len(data) < start + _HEADER.size + _MARK.size:
        return None
    kind, _, _, theirs, sequence = _HEADER.unpack_from(data, start)
    whose, sent = _MARK.unpack_from(data, start + _HEADER.size)
    return (sequence, sent) if (kind, theirs, whose) == (_REPLY[version], number, token) else None
