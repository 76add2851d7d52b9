"""One echo request of a certain size: does it get there and back, or what is the largest that does?"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from dataclasses import dataclass

from netplane.errors import KernelError
from netplane.kernel.echo import HEADERS, only_replies, raw_socket, request
from netplane.model.address import IPAddress

_BIND_TO_LINK = 25
_TOKEN = 16
_DATAGRAM = 1 << 16
_LEVEL = {4: 0, 6: 41}
_RECEIVE_ERRORS, _DISCOVER = {4: 11, 6: 25}, {4: 10, 6: 23}
_NEVER, _PROBE = 0, 3
"""IP_PMTUDISC_DONT, and _PROBE: do not fragment, and do not believe what was learned about the way before."""
_DO_NOT_FRAGMENT_6 = 62
_LOCAL = 1  # SO_EE_ORIGIN_LOCAL: this host itself, which returns no packet
_EXTENDED_ERROR = struct.Struct("=IBBBBII")  # errno, origin, type, code, padding, information, data


@dataclass(frozen=True, slots=True)
class Lost:
    """Nothing came back; `why` in words, if anybody said."""

    why: str = "no answer"


@dataclass(frozen=True, slots=True)
class TooBig:
    """Somebody on the way, or this host, says that packets of at most `mtu` bytes pass. 0: it did not say how many."""

    mtu: int


@dataclass(frozen=True, slots=True)
class Ping:
    """`size`: bytes of the whole packet with its IP header; at least 44, over IPv6 64.

    `source` and `link`: leave from this address, by this link, whatever the routes would choose.
    """

    address: IPAddress
    size: int = 84
    dont_fragment: bool = False
    source: IPAddress | None = None
    link: str = ""


def echo_once(ping: Ping, seconds: float) -> float | Lost | TooBig:
    """Ask once, from the namespace of the calling thread, and wait at most `seconds`. The round trip in seconds.

    Raises RequirementError without the privilege, KernelError if source or link are not there.
    """
    version = ping.address.version
    made = raw_socket(version)
    if made is None:
        return Lost("this host has no IPv6")
    with made:
        _prepare(made, ping)
        token = os.urandom(_TOKEN)
        payload = token + bytes(max(0, min(ping.size, 65535) - HEADERS[version] - _TOKEN))
        begin = time.monotonic()
        number = int.from_bytes(token[:2], "big")
        try:
            made.connect((str(ping.address), 0))  # so that replies and errors of others stay away
            made.send(request(version, number, 1, payload))
        except OSError as error:
            return _errors(made, version) or _refused(error)
        return _await(made, version, token, (begin, seconds))


def _prepare(made: socket.socket, ping: Ping) -> None:
    version = ping.address.version
    level = _LEVEL[version]
    try:
        only_replies(made, version)
        made.setsockopt(level, _RECEIVE_ERRORS[version], 1)
        made.setsockopt(level, _DISCOVER[version], _PROBE if ping.dont_fragment else _NEVER)
        if version == 6:
            made.setsockopt(level, _DO_NOT_FRAGMENT_6, int(ping.dont_fragment))
        if ping.link:
            made.setsockopt(socket.SOL_SOCKET, _BIND_TO_LINK, ping.link.encode() + b"\0")
        if ping.source is not None:
            made.bind((str(ping.source), 0))
    except OSError as error:
        where = " ".join(filter(None, (f"from {ping.source}" if ping.source else "", ping.link and f"by {ping.link}")))
        doing = f"ask {ping.address} {where}".rstrip()
        raise KernelError(mechanism="echo", doing=doing, said=str(error.strerror)) from error


def _await(made: socket.socket, version: int, token: bytes, when: tuple[float, float]) -> float | Lost | TooBig:
    begin, seconds = when
    with select.epoll() as ready:
        ready.register(made, select.EPOLLIN)  # errors are always told
        while (left := begin + seconds - time.monotonic()) > 0:
            ready.poll(left)
            if said := _errors(made, version, token[:2]):
                return said
            try:
                data = made.recv(_DATAGRAM)
            except OSError:  # nothing there, or an error the next turn reads the reason of
                continue
            start = (data[0] & 15) * 4 if version == 4 else 0
            if data[start + 8 : start + 8 + _TOKEN] == token:
                return time.monotonic() - begin
    return Lost()


def _errors(made: socket.socket, version: int, number: bytes = b"") -> Lost | TooBig | None:
    """What this host, or with `number` whoever returns the beginning of our packet, said about it."""
    while True:
        try:
            data, controls, _, _ = made.recvmsg(_DATAGRAM, 1024, socket.MSG_ERRQUEUE)
        except OSError:
            return None
        for level, kind, content in controls:
            if (level, kind) == (_LEVEL[version], _RECEIVE_ERRORS[version]):
                error, origin, _, _, _, information, _ = _EXTENDED_ERROR.unpack_from(content)
                if origin != _LOCAL and data[4:6] != number:
                    continue  # about another process's packet
                return TooBig(information) if error == errno.EMSGSIZE else Lost(os.strerror(error))


def _refused(error: OSError) -> Lost | TooBig:
    return TooBig(0) if error.errno == errno.EMSGSIZE else Lost(str(error.strerror))
