"""What changes about links, addresses and routes, as the kernel tells it; uninteresting news is dropped in the kernel.

A container that comes or goes makes a dozen notifications. A classic BPF program on the socket (linux/filter.h) lets
only those pass that may matter, so that whoever listens is not woken by its own work.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from netplane.closing import Closing
from netplane.errors import KernelError
from netplane.kernel import netlink
from netplane.kernel.netlink import Message, messages

NEW_LINK, DELETE_LINK, NEW_ADDRESS, DELETE_ADDRESS, NEW_ROUTE, DELETE_ROUTE = 16, 17, 20, 21, 24, 25
LINKS, ADDRESSES, ROUTES = (1,), (5, 9), (7, 11)
"""Groups to join: RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR and _IPV6_IFADDR, RTNLGRP_IPV4_ROUTE and _IPV6_ROUTE."""

_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_ATTACH_FILTER, _RECEIVE_BUFFER_FORCED, _RECEIVE_BUFFER = 26, 33, 1 << 20
_DATAGRAM = 1 << 16
_AT_ONCE = 1024
_HEADER = 16
"""Bytes of the netlink header; what follows is ifinfomsg, ifaddrmsg or rtmsg."""

_INSTRUCTION = struct.Struct("=HBBI")
_LOAD_BYTE, _LOAD_HALF, _LOAD_WORD, _EQUAL, _BIT, _RETURN = 0x30, 0x28, 0x20, 0x15, 0x45, 0x06


class Is(NamedTuple):
    """A test of a filter: `size` bytes at `offset` are `value`, as this machine writes it; or any bit of it is."""

    offset: int
    size: int
    value: int
    bit: bool = False


Rule = tuple[tuple[Is, ...], bool]
"""If all tests hold, the message passes (True) or does not. The first rule that holds decides; without one: not."""


def kind(number: int) -> Is:
    """The message is of this kind."""
    return Is(4, 2, number)


class LinkEvents(Closing):
    """Listens in the network namespace of the thread that makes it, to `groups`, to what `rules` let pass.

    `buffer`: bytes of what may wait to be read; a message takes about a thousand. What is beyond that is lost.
    """

    def __init__(self, groups: Sequence[int], rules: Sequence[Rule], buffer: int = _RECEIVE_BUFFER) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, netlink.ROUTE
        )
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _RECEIVE_BUFFER_FORCED, buffer)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.filter(rules)
        self._socket.bind((0, 0))  # whoever has no address of its own is passed over
        for group in groups:
            try:
                self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
            except OSError as error:
                said = str(error.strerror)
                raise KernelError(mechanism="links", doing="listen to changes", said=said) from error

    def fileno(self) -> int:
        """A descriptor that is readable when `read` may have something to say."""
        return self._socket.fileno()

    def filter(self, rules: Sequence[Rule]) -> None:
        """Let other messages pass from now on."""
        code = program(rules)
        held = ctypes.create_string_buffer(code, len(code))
        frame = struct.pack("HP", len(code) // _INSTRUCTION.size, ctypes.addressof(held))
        self._socket.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, frame)

    def read(self) -> Iterator[Message | None]:
        """What was told since the last time, not more than a thousand; None in the place of what was lost. Never waits.

        Ends at once if nothing was told.
        """
        for _ in range(_AT_ONCE):
            try:
                datagram = self._socket.recv(_DATAGRAM)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                yield None
                continue
            yield from messages(datagram)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def program(rules: Sequence[Rule]) -> bytes:
    """The rules in classic BPF."""
    code: list[bytes] = []
    for tests, passes in rules:
        rest = 2 * len(tests) + 1  # a load and a jump for each, and the return
        for test in tests:
            rest -= 2
            load = {1: _LOAD_BYTE, 2: _LOAD_HALF, 4: _LOAD_WORD}[test.size]
            # The machine's order of bytes is what netlink writes, the network's what the filter reads.
            value = int.from_bytes(test.value.to_bytes(test.size, sys.byteorder), "big")
            code += (
                _INSTRUCTION.pack(load, 0, 0, test.offset),
                _INSTRUCTION.pack(_BIT if test.bit else _EQUAL, 0, rest, value),
            )
        code.append(_INSTRUCTION.pack(_RETURN, 0, 0, 0xFFFFFFFF if passes else 0))
    code.append(_INSTRUCTION.pack(_RETURN, 0, 0, 0))
    return b"".join(code)
