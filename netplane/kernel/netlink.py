"""Netlink: attributes as bytes, requests as values, and one socket that sends them and collects the answers.

Knows no subsystem: what the numbers and payloads mean is said by the codecs. The kernel handles every request
before `send` returns, so nothing here ever waits: an answer that is not there will not come.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from netplane.closing import Closing
from netplane.errors import KernelError, RequirementError

ROUTE, NETFILTER, GENERIC = 0, 12, 16
"""Netlink protocols (linux/netlink.h)."""

ACK, CREATE, ECHO = 0x4, 0x400, 0x8
"""Flags a codec may put on a request: answer even when all is well; make what is missing; tell what was done."""

_REQUEST, _DUMP_INTERRUPTED, _DUMP = 0x1, 0x10, 0x300
_ANSWER_HAS_WORDS = 0x200
_ERROR, _DONE = 2, 3

_TRUNCATED = int(socket.MSG_TRUNC)  # an enum takes a microsecond for each datagram
_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _STRICT = 270, 10, 11, 12
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE, _SO_NETNS_COOKIE = 32, 33, 71
_RECEIVE_BUFFER = 8 << 20
_DATAGRAM = 1 << 16  # the kernel fills at most 32 KiB (netlink_recvmsg)
_DUMP_ATTEMPTS = 16

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length with this header, type
_INT = struct.Struct("=i")
_ACKNOWLEDGEMENT = struct.Struct("=IH2xI4xi16x")  # nlmsghdr, the error number, and the header of the request
_UNSIGNED = struct.Struct("=I")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")
_NESTED, _TYPE_MASK = 0x8000, 0x3FFF
ATTRIBUTE_LIMIT = 0xFFFC
"""The largest aligned attribute: its length has 16 bits and includes the four bytes of the header."""


class Request(NamedTuple):
    """One message to the kernel: its type, what follows the netlink header, and flags beyond REQUEST."""

    kind: int
    payload: bytes
    flags: int = 0


def acknowledged(request: Request) -> Request:
    """The same request, to be answered even when all is well."""
    return Request(request.kind, request.payload, request.flags | ACK)


class Refusal(NamedTuple):
    """What the kernel said to one request: which one, why, and where in it (bytes after its header, -1: unknown)."""

    position: int
    errno: int
    said: str
    offset: int = -1


class Refused(KernelError):
    """A request the kernel refused; `refusal` has the details."""

    def __init__(self, mechanism: str, doing: str, refusal: Refusal) -> None:
        self.refusal = refusal
        super().__init__(mechanism=mechanism, doing=doing, said=refusal.said)


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    size = len(payload)
    return _ATTRIBUTE.pack(size + 4, kind) + payload + _PADDING[size & 3]


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | _NESTED, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    """An attribute with a NUL-terminated string."""
    return attribute(kind, value.encode() + b"\0")


def each_attribute(payload: bytes, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Type (without flags) and payload of every attribute from `start` on. Raises ValueError if one does not fit."""
    end = len(payload)
    while start < end:
        size, kind = _ATTRIBUTE.unpack_from(payload, start) if end - start >= 4 else (0, 0)
        if not 4 <= size <= end - start:
            raise ValueError(f"netlink attribute at {start} of {end} bytes has length {size}")
        yield kind & _TYPE_MASK, payload[start + 4 : start + size]
        start += (size + 3) & ~3


def attributes(payload: bytes, start: int = 0) -> dict[int, bytes]:
    """The attributes from `start` on by type; of several with one type, the last."""
    return dict(each_attribute(payload, start))


def as_text(payload: bytes) -> str:
    """The string of an attribute, without its NUL."""
    return payload.rstrip(b"\0").decode(errors="backslashreplace")


class Message(NamedTuple):
    """One message from the kernel: what follows its header is `payload`, empty if the header says nonsense."""

    kind: int
    flags: int
    sequence: int
    payload: bytes


def messages(datagram: bytes) -> Iterator[Message]:
    """The messages of one datagram, in order. Ends with the datagram, whatever the headers say."""
    start = 0
    while len(datagram) - start >= 16:
        size, kind, flags, sequence, _ = _HEADER.unpack_from(datagram, start)
        yield Message(kind, flags, sequence, datagram[start + 16 : start + size])
        start += max((size + 3) & ~3, 16)


class NetlinkSocket(Closing):
    """A socket to the network namespace of the thread that creates it; used by one thread at a time.

    `mechanism` names whom errors come from. A request the kernel refuses raises Refused, one that needs a
    privilege we lack RequirementError. `strict`: dumps of rtnetlink are filtered by what is in their header and
    attributes, where the kernel can (NETLINK_GET_STRICT_CHK, Linux 4.20), and refused if these say nonsense.
    """

    def __init__(self, protocol: int, mechanism: str, *, strict: bool = False) -> None:
        self.mechanism = mechanism
        self._sequence = 0
        self._sendable = 0
        try:
            kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            self._socket = socket.socket(socket.AF_NETLINK, kind, protocol)
        except OSError as error:
            raise RequirementError(f"{mechanism}: this kernel has no netlink protocol {protocol}: {error}") from error
        self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        if strict:
            with suppress(OSError):  # an older kernel tells all there is
                self._socket.setsockopt(_SOL_NETLINK, _STRICT, 1)
        self._grow(_SO_RCVBUFFORCE, socket.SO_RCVBUF, _RECEIVE_BUFFER)

    def ask(self, request: Request, doing: str) -> list[bytes]:
        """Send one request; the payloads that come back before its acknowledgement."""
        first = self._send([acknowledged(request)])
        payloads = []
        for answer in self._answers(first, 1):
            if answer.kind != _ERROR:
                payloads.append(answer.payload)
            elif refusal := _refusal(answer, first):
                self._raise(refusal, doing)
            else:
                return payloads
        raise KernelError(mechanism=self.mechanism, doing=doing, said="the kernel did not answer")

    def dump(self, request: Request, doing: str) -> list[bytes]:
        """All payloads of a dump, from one moment: repeated if the kernel says that it changed meanwhile."""
        for _ in range(_DUMP_ATTEMPTS):
            payloads = self._dump_once(request, doing)
            if payloads is not None:
                return payloads
        raise KernelError(mechanism=self.mechanism, doing=doing, said=f"changed during {_DUMP_ATTEMPTS} readings")

    def transact(self, requests: Sequence[Request]) -> list[Refusal]:
        """Send all requests in one write; what was refused, by position. One of them must ask for an ACK.

        Whether a refusal undoes the others is the subsystem's business: see `batch`. Raises KernelError if an
        answer of the kernel got lost, for then nothing is known.
        """
        return self.exchange(requests)[0]

    def exchange(self, requests: Sequence[Request]) -> tuple[list[Refusal], list[Message]]:
        """Like `transact`, with what the kernel told besides because of ECHO."""
        doing = f"send {len(requests)} requests"
        first = self._send(requests)
        begun = self._datagram()
        if begun is not None and _all_is_well(begun, first + len(requests) - 1):
            return [], []
        told: list[Message] = []
        answers: list[Message] = []
        for answer in self._answers(first, len(requests), begun):
            (answers if answer.kind == _ERROR else told).append(answer)
        if not answers:
            raise KernelError(mechanism=self.mechanism, doing=doing, said="the kernel did not answer")
        refusals = [refusal for answer in answers if (refusal := _refusal(answer, first))]
        for refusal in refusals:
            if refusal.errno == errno.EPERM:
                self._raise(refusal, doing)
        return refusals, told

    def namespace_cookie(self) -> int:
        """SO_NETNS_COOKIE of the socket's namespace; 0 where the kernel has none (before 5.14)."""
        try:
            return int.from_bytes(self._socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)
        except OSError:
            return 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _dump_once(self, request: Request, doing: str) -> list[bytes] | None:
        first = self._send([request._replace(flags=request.flags | _DUMP)])
        payloads: list[bytes] = []
        whole = True
        for answer in self._answers(first, 1):
            whole = whole and not answer.flags & _DUMP_INTERRUPTED
            if answer.kind in (_ERROR, _DONE):
                if refusal := _refusal(answer, first):
                    if refusal.errno == errno.EINTR:
                        return None
                    self._raise(refusal, doing)
                return payloads if whole else None
            payloads.append(answer.payload)
        raise KernelError(mechanism=self.mechanism, doing=doing, said="the kernel stopped in the middle of a dump")

    def _send(self, requests: Sequence[Request]) -> int:
        """Send and return the sequence number of the first request; the others follow it."""
        first = self._sequence + 1
        self._sequence += len(requests)
        pieces: list[bytes] = []
        for sequence, (kind, payload, flags) in enumerate(requests, first):
            size = len(payload)
            header = _HEADER.pack(size + 16, kind, flags | _REQUEST, sequence & 0xFFFFFFFF, 0)
            pieces += (header, payload, _PADDING[size & 3])
        message = b"".join(pieces)
        if len(message) > self._sendable:
            self._sendable = max(2 * len(message), 1 << 20)
            self._grow(_SO_SNDBUFFORCE, socket.SO_SNDBUF, self._sendable)
        try:
            self._socket.send(message)
        except OSError as error:
            said = f"{error.strerror} ({len(message)} bytes)"
            raise KernelError(mechanism=self.mechanism, doing="send to the kernel", said=said) from error
        return first

    def _answers(self, first: int, count: int, begun: bytes | None = None) -> list[Message]:
        """Answers to the `count` requests from sequence number `first` on, after `begun`, until none is waiting."""
        answers: list[Message] = []
        datagram = begun or self._datagram()
        while datagram is not None:
            answers += (answer for answer in messages(datagram) if (answer.sequence - first) & 0xFFFFFFFF < count)
            datagram = self._datagram()
        return answers

    def _datagram(self) -> bytes | None:
        """What waits next, None if nothing does. Raises KernelError if something got lost."""
        try:
            datagram, _, flags, _ = self._socket.recvmsg(_DATAGRAM)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            self._drain()  # a full queue would lose the next answers too
            said = f"an answer was lost: {error.strerror}"
            raise KernelError(mechanism=self.mechanism, doing="receive from the kernel", said=said) from error
        if flags & _TRUNCATED:
            said = f"an answer is longer than {_DATAGRAM} bytes"
            raise KernelError(mechanism=self.mechanism, doing="receive from the kernel", said=said)
        return datagram

    def _drain(self) -> None:
        while True:
            try:
                self._socket.recv(_DATAGRAM)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise

    def _raise(self, refusal: Refusal, doing: str) -> None:
        if refusal.errno == errno.EPERM:
            raise RequirementError(f"{self.mechanism}: {doing}: {refusal.said}; run as root")
        raise Refused(self.mechanism, doing, refusal)

    def _grow(self, forced: int, limited: int, size: int) -> None:
        """Only CAP_NET_ADMIN may exceed the limits of net.core; others get what these allow."""
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, forced, size)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, limited, size)


def _all_is_well(datagram: bytes, last: int) -> bool:
    """Whether this is nothing but the acknowledgement of request `last`: what was refused would have come before it."""
    if len(datagram) != _ACKNOWLEDGEMENT.size:
        return False
    size, kind, sequence, number = _ACKNOWLEDGEMENT.unpack(datagram)
    return (size, kind, sequence, number) == (_ACKNOWLEDGEMENT.size, _ERROR, last & 0xFFFFFFFF, 0)


def _refusal(answer: Message, first: int) -> Refusal | None:
    """What an acknowledgement or the end of a dump says, None if all is well."""
    number = -_INT.unpack_from(answer.payload)[0] if len(answer.payload) >= 4 else 0
    if number == 0:
        return None
    # After an error the header of the request follows, alone because of CAP_ACK; then NLMSGERR_ATTR_MSG and _OFFS.
    start = 20 if answer.kind == _ERROR else 4
    words = attributes(answer.payload, start) if answer.flags & _ANSWER_HAS_WORDS else {}
    reasons = (as_text(words.get(1, b"")), os.strerror(number))
    offset = _UNSIGNED.unpack(words[2])[0] - 16 if 2 in words else -1
    position = (answer.sequence - first) & 0xFFFFFFFF
    return Refusal(position, number, ": ".join(reason for reason in reasons if reason), offset)


def batch(subsystem: int, requests: Sequence[Request]) -> list[Request]:
    """`requests` as one nfnetlink transaction: all of them happen or none, between a begin and an end.

    Positions of refusals are then one higher. The last request is acknowledged.
    """
    frame = struct.pack(">BBH", 0, 0, subsystem)
    *others, last = requests
    return [Request(0x10, frame), *others, acknowledged(last), Request(0x11, frame)]
