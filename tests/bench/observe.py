"""Tell when a change of endpoints is in the kernel.

nf_tables tells by itself: notifications of a transaction are sent when it is committed, so their arrival is when
packets see the change. Legacy iptables tells nobody: there it is when the agent says that it is done.
"""

from __future__ import annotations

import socket
import struct
import time
from abc import abstractmethod
from collections.abc import Callable
from ipaddress import IPv4Address

from bench.clusters import TARGET_PORT, Change
from bench.kube_proxy_iptables import endpoint_chain
from bench.process import Agent
from bench.ways import LEGACY, NFTABLES, Way
from netplane.closing import Closing
from netplane.kernel.netlink import NETFILTER
from netplane.kernel.netns import Namespace

_NFTABLES_GROUP = 7  # NFNLGRP_NFTABLES
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_SO_RCVBUFFORCE = 33
_SUBSYSTEM, _NEW_CHAIN, _DELETED_CHAIN, _NEW_ELEMENT, _DELETED_ELEMENT = 10, 3, 5, 12, 14
_HEADER = struct.Struct("=IHHII")
_TCP = 6


Key = Callable[[int, IPv4Address], bytes]
"""What a notification about an endpoint of a Service contains, and no other."""


class Observer(Closing):
    """Sees changes arrive in one namespace."""

    @abstractmethod
    def drain(self) -> None:
        """Forget what has arrived so far."""

    @abstractmethod
    def wait(self, change: Change, seconds: float) -> int:
        """`time.perf_counter_ns` when all of a change was in the kernel. Raises TimeoutError after `seconds`."""


def observer(way: Way, namespace: Namespace, agent: Agent) -> Observer:
    """The best there is for what an agent does in a namespace."""
    return Said(agent) if way == LEGACY else Notifications(way, namespace)


class Said(Observer):
    """What the agent says, to be asked when nothing else changes."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def drain(self) -> None:
        """See `Observer.drain`."""
        self._agent.forget_rounds()

    def wait(self, change: Change, seconds: float) -> int:
        """See `Observer.wait`."""
        return self._agent.next_round(seconds)

    def close(self) -> None:
        """There is nothing to close."""


class Notifications(Observer):
    """Notifications of nf_tables in one namespace, from construction until `close`."""

    def __init__(self, way: Way, namespace: Namespace) -> None:
        self._socket = namespace.run(_open)
        self._added, self._removed, self._key = _ELEMENTS if way == NFTABLES else _CHAINS

    def wait(self, change: Change, seconds: float) -> int:
        """See `Observer.wait`: the last of the endpoints is in the kernel, or out of it."""
        missing = {(self._added, self._key(change.index, each)) for each in change.came}
        missing |= {(self._removed, self._key(change.index, each)) for each in change.went}
        end = time.monotonic() + seconds
        while True:
            self._socket.settimeout(max(end - time.monotonic(), 0.001))
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


def _open() -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETFILTER)
    made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 << 20)
    made.bind((0, 0))
    made.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _NFTABLES_GROUP)
    return made


def _element(_: int, endpoint: IPv4Address) -> bytes:
    """The endpoint as a key of the sets that list endpoints: address, protocol and port, each padded to four bytes."""
    return endpoint.packed + bytes((_TCP, 0, 0, 0)) + struct.pack(">H2x", TARGET_PORT)


def _chain(index: int, endpoint: IPv4Address) -> bytes:
    """The name of its chain, which is made and removed in the transaction that makes and removes what leads to it."""
    return endpoint_chain(index, endpoint).encode() + b"\0"


_ELEMENTS: tuple[int, int, Key] = (_NEW_ELEMENT, _DELETED_ELEMENT, _element)
_CHAINS: tuple[int, int, Key] = (_NEW_CHAIN, _DELETED_CHAIN, _chain)


def _holds(datagram: bytes, message: int, key: bytes) -> bool:
    """Whether one of the datagram's messages is of this type and has the key."""
    start = 0
    while len(datagram) - start >= _HEADER.size:
        size, kind, _, _, _ = _HEADER.unpack_from(datagram, start)
        if kind == _SUBSYSTEM << 8 | message and datagram.find(key, start, start + size) >= 0:
            return True
        start += max(size + 3 & ~3, _HEADER.size)
    return False
