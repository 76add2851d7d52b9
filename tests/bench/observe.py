"""Watch what a namespace's nf_tables becomes, from the kernel's own notifications: no polling, no process in between.

The kernel sends a transaction's notifications when it is committed, so their arrival is when packets see the change.
"""

from __future__ import annotations

import socket
import struct
import time
from ipaddress import IPv4Address
from types import TracebackType
from typing import Self

from bench.clusters import TARGET_PORT
from netplane.kernel.netlink import NETFILTER
from netplane.kernel.netns import Namespace

_NFTABLES_GROUP = 7  # NFNLGRP_NFTABLES
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_SO_RCVBUFFORCE = 33
_SUBSYSTEM, _NEW_ELEMENT, _DELETED_ELEMENT = 10, 12, 14
_HEADER = struct.Struct("=IHHII")
_TCP = 6


class Notifications:
    """Notifications of one namespace, from construction until `close`."""

    def __init__(self, namespace: Namespace) -> None:
        self._socket = namespace.run(_open)

    def wait(self, came: tuple[IPv4Address, ...], went: tuple[IPv4Address, ...], seconds: float) -> int:
        """`time.perf_counter_ns` when the last of these endpoints is in the kernel, or out of it.

        Raises TimeoutError after `seconds`.
        """
        missing = {(_NEW_ELEMENT, _key(each)) for each in came} | {(_DELETED_ELEMENT, _key(each)) for each in went}
        self._socket.settimeout(seconds)
        while True:
            datagram = self._socket.recv(1 << 17)
            now = time.perf_counter_ns()
            missing -= {each for each in missing if _holds(datagram, *each)}
            if not missing:
                return now

    def drain(self) -> None:
        """Forget what has arrived so far."""
        self._socket.setblocking(False)
        try:
            while self._socket.recv(1 << 17):
                pass
        except BlockingIOError:
            return

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open() -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETFILTER)
    made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 << 20)
    made.bind((0, 0))
    made.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _NFTABLES_GROUP)
    return made


def _key(endpoint: IPv4Address) -> bytes:
    """The endpoint as a key of the sets that list endpoints: address, protocol and port, each padded to four bytes."""
    return endpoint.packed + bytes((_TCP, 0, 0, 0)) + struct.pack(">H2x", TARGET_PORT)


def _holds(datagram: bytes, message: int, key: bytes) -> bool:
    """Whether one of the datagram's messages is of this type and has the key."""
    start = 0
    while len(datagram) - start >= _HEADER.size:
        size, kind, _, _, _ = _HEADER.unpack_from(datagram, start)
        if kind == _SUBSYSTEM << 8 | message and datagram.find(key, start, start + size) >= 0:
            return True
        start += max(size + 3 & ~3, _HEADER.size)
    return False
