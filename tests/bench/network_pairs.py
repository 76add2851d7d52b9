"""Two nodes with a Pod each, wired and told nothing yet, and packets between the Pods.

    Pod 10.244.1.10 ---- n1 192.0.2.1 ======== 192.0.2.2 n2 ---- Pod 10.244.2.10

Everything is in anonymous namespaces and gone with the object.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from contextlib import ExitStack, suppress
from ipaddress import IPv4Address, IPv4Network
from typing import BinaryIO

from bench.report import median
from netplane.closing import Closing
from netplane.kernel import link_orders, links, sysctls
from netplane.kernel.link_orders import End
from netplane.kernel.links import Links, Order
from netplane.kernel.netns import Namespace

UPLINK_MTU = 1500
UPLINK = "eth0"
_POD_LINK, _UPLINK, _OWN = 10, 11, 2
_GATEWAY = IPv4Address("169.254.1.1")
_ALL = IPv4Network("0.0.0.0/0")
_CARRIER_SECONDS = 30.0
_PORT = 5201
_PIECE, _RECEIVED, _BUFFER = 256 << 10, 4 << 20, 1 << 20
"""Of what is sent at once, of what is taken at once, and of what may wait: all of it stays in the processor's cache."""
_POLL_SECONDS = 0.001
_REPLY_SECONDS = 1.0
_FIRST_SECONDS = 15.0
_SO_TIMEOUT = struct.pack("ll", int(_REPLY_SECONDS), 0)


def node_address(number: int) -> IPv4Address:
    """Of node 1 or 2."""
    return IPv4Address(f"192.0.2.{number}")


def pod_range(number: int) -> IPv4Network:
    """Where the Pods of node 1 or 2 have their addresses."""
    return IPv4Network(f"10.244.{number}.0/24")


def pod_address(number: int) -> IPv4Address:
    """Of the Pod on node 1 or 2."""
    return pod_range(number)[10]


class Pair(Closing):
    """The namespaces: `nodes` and `pods` are numbered 0 and 1. Pods may send packets of `pod_mtu` bytes."""

    def __init__(self, pod_mtu: int = UPLINK_MTU) -> None:
        self.lost = 0
        """Packets of `trips` that did not come back within so long that they never will."""
        with ExitStack() as made:
            self.nodes = [made.enter_context(Namespace()) for _ in range(2)]
            self.pods = [made.enter_context(Namespace()) for _ in range(2)]
            self._wire(pod_mtu)
            self._near, self._far = (made.enter_context(self._datagrams(at)) for at in range(2))
            self._zeros = made.enter_context(_zeros())
            self._made = made.pop_all()
        self._near.connect((str(pod_address(2)), _PORT))
        self._far.connect((str(pod_address(1)), _PORT))

    def wait_for_replies(self) -> None:
        """Until a packet and its reply come through; `stream` and `trips` then work.

        Raises TimeoutError after a quarter of a minute of none.
        """
        deadline = time.monotonic() + _FIRST_SECONDS
        while time.monotonic() < deadline:
            try:
                self.trips(1)
            except OSError:  # no route yet, or nothing came
                time.sleep(0.01)
            else:
                self._connect(self._made)
                self.lost = 0
                return
        raise TimeoutError(f"no packet from Pod to Pod within {_FIRST_SECONDS:g} s")

    def trips(self, count: int) -> float:
        """Seconds of a packet of one byte and its reply: the median of `count`. Raises TimeoutError if none came back.

        One thread plays both Pods: the kernel carries a packet as far as the receiver's socket before `send` returns,
        so nobody waits to be woken, and what is left is what the way costs. Packets that are lost count in `lost`.
        """
        found = []
        near, far, clock = self._near, self._far, time.perf_counter_ns
        for _ in range(count):
            started = clock()
            try:
                near.send(b"?")
                far.recv(1)
                far.send(b"!")
                near.recv(1)
            except BlockingIOError:
                self._lose()
            else:
                found.append(clock() - started)
        if not found:
            raise TimeoutError(f"none of {count} packets came back")
        return median(found) / 1e9

    def stream(self, seconds: float) -> tuple[float, float]:
        """Bytes a second of a TCP connection, always the same one, and by second of processor time of this thread.

        Neither end copies what it sends or gets. One thread plays both, for the reason `trips` says: what the kernel
        does on the way is on its account, and a busy machine hardly changes the second number.
        """
        self._flow(seconds / 4)  # after a rest the windows have to open again
        started, worked = time.perf_counter(), time.thread_time()
        received = self._flow(seconds)
        return received / (time.perf_counter() - started), received / (time.thread_time() - worked)

    def close(self) -> None:
        """Let go of the namespaces."""
        self._made.close()

    def _lose(self) -> None:
        """Count a packet, and take what comes late out of the way."""
        self.lost += 1
        for each in (self._near, self._far):
            with suppress(BlockingIOError):
                while True:
                    each.recv(1, socket.MSG_DONTWAIT)

    def _flow(self, seconds: float) -> int:
        """Bytes that came within so long, or when the first of them came later, on a busy machine."""
        buffer, total, ends = bytearray(_RECEIVED), 0, time.perf_counter() + seconds
        sending, receiving, zeros = self._sending.fileno(), self._receiving, self._zeros.fileno()
        while (left := ends - time.perf_counter()) > 0 or (not total and left > -_REPLY_SECONDS):
            with suppress(BlockingIOError):
                os.sendfile(sending, zeros, 0, _PIECE)
            before = total
            with suppress(BlockingIOError):
                while True:  # MSG_TRUNC: it is not copied
                    total += receiving.recv_into(buffer, _RECEIVED, socket.MSG_TRUNC)
            if total == before:  # somebody else carries it, as wireguard-go does
                select.select([receiving], [], [], _POLL_SECONDS)
        return total

    def _connect(self, made: ExitStack) -> None:
        """The connection of `stream`, as soon as packets come through."""
        listening = made.enter_context(self.pods[1].run(lambda: socket.socket()))
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        listening.bind((str(pod_address(2)), _PORT))
        listening.listen()
        self._sending = made.enter_context(self.pods[0].run(lambda: socket.socket()))
        self._sending.settimeout(_FIRST_SECONDS)
        self._sending.connect((str(pod_address(2)), _PORT))
        self._receiving = made.enter_context(listening.accept()[0])
        for each in (self._sending, self._receiving):
            each.setblocking(False)
        self._sending.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _datagrams(self, at: int) -> socket.socket:
        made = self.pods[at].run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _SO_TIMEOUT)
        made.bind((str(pod_address(at + 1)), _PORT))
        return made

    def _wire(self, pod_mtu: int) -> None:
        up = link_orders.cable(End(UPLINK, _UPLINK, b""), End(UPLINK, _UPLINK + 1, b""), self.nodes[1].fd, UPLINK_MTU)
        carry_out(self.nodes[0], up)
        for at, (node, pod) in enumerate(zip(self.nodes, self.pods, strict=True)):
            node.run(lambda: sysctls.write({"net/ipv4/ip_forward": 1}))
            own = pod_address(at + 1)
            carry_out(
                node,
                links.up(links.LOOPBACK),
                links.up(_UPLINK + at),
                link_orders.cable(End("pod", _POD_LINK, b""), End("eth0", _OWN, b""), pod.fd, pod_mtu),
                links.address(_GATEWAY, 32, _POD_LINK),
                links.address(node_address(at + 1), 24, _UPLINK + at),
                links.route(IPv4Network(own), _POD_LINK),
            )
            carry_out(
                pod,
                links.up(links.LOOPBACK),
                links.up(_OWN),
                links.address(own, 32, _OWN),
                links.route(_ALL, _OWN, _GATEWAY),
            )
        for node, pod in zip(self.nodes, self.pods, strict=True):
            node.run(lambda: _wait(("pod", UPLINK)))
            pod.run(lambda: _wait(("eth0",)))


def carry_out(namespace: Namespace, *orders: Order) -> None:
    """Do it there."""

    def work() -> None:
        with Links() as here:
            here.carry_out(orders)

    namespace.run(work)


def _wait(names: tuple[str, ...]) -> None:
    with Links() as here:
        here.wait_ready(names, _CARRIER_SECONDS)


def _zeros() -> BinaryIO:
    made = os.fdopen(os.memfd_create("zeros"), "r+b")
    made.truncate(_PIECE)
    return made
