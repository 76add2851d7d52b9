"""Nodes with WireGuard in namespaces on one wire, which can be listened to."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from netplane.closing import Closing
from netplane.kernel.links import Links
from netplane.kernel.mechanism import Pending
from netplane.kernel.netns import Namespace
from netplane.kernel.wireguard_keys import KeyStore
from netplane.kernel.wireguard_mechanism import LINK, Served, WireguardMechanism
from netplane.programs.network import NetworkProgram, WireguardLink, WireguardPeer
from netplane.programs.program import Program

SECONDS = 20.0
"""For what is under way: long, for the machine may have much to do."""
PORT = 51820


def until(true: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """What `true` says as soon as it is true; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.01)
    return found


class WireNode(Closing):
    """Node number `number`: outer address 192.0.2.N and 2001:db8::N, Pods 10.244.N.0/24 and fd00:244:N::/64."""

    def __init__(self, number: int, folder: Path, served: Served) -> None:
        self.number, self.folder, self.served = number, folder, served
        self.namespace = Namespace()
        self.keys = KeyStore(folder / "state" / "wireguard")
        (folder / "run").mkdir(parents=True, mode=0o700)
        self.mechanism = self._mechanism()
        self.mtu = 1420

    def outer(self, family: int = 4) -> str:
        return f"192.0.2.{self.number}" if family == 4 else f"2001:db8::{self.number}"

    def inner(self, family: int = 4) -> str:
        return f"10.244.{self.number}.0" if family == 4 else f"fd00:244:{self.number}::"

    def ip(self, *words: str) -> str:
        return self.namespace.run(
            lambda: subprocess.run(("ip", *words), check=True, capture_output=True, text=True).stdout
        )

    def wg(self, *words: str) -> str:
        """`wg`, which looks for the socket of wireguard-go at its usual place: where the process sees it."""
        pid = self.pid()
        enter = ("nsenter", "--target", str(pid), "--mount") if pid else ()
        return self.namespace.run(
            lambda: subprocess.run((*enter, "wg", *words), check=True, capture_output=True, text=True).stdout
        )

    def pid(self) -> int:
        return self.mechanism._process._processes.pid(LINK)

    def program(self, *others: WireNode, family: int = 4, **changes: dict[str, Any]) -> Program:
        """What node has that reaches `others`. `changes`: of peers, by `n` and their number."""
        peers = {}
        for other in others:
            values: dict[str, Any] = {
                "key": other.keys.public(),
                "endpoint": ip_address(other.outer(family)),
                "port": PORT,
                "allowed": (ip_network(f"10.244.{other.number}.0/24"), ip_network(f"fd00:244:{other.number}::/64")),
            }
            peer = WireguardPeer(**values | changes.get(f"n{other.number}", {}))
            peers[peer.key] = peer
        link = WireguardLink(LINK, self.mtu, PORT, self.keys.public())
        return Program(network=NetworkProgram(links={LINK: link}, peers={LINK: peers}))

    def pending(self, want: Program, *, reread: bool = True, sweep: bool = True) -> Pending:
        return self.namespace.run(lambda: self.mechanism.pending(want, reread=reread, sweep=sweep))

    def apply(self, want: Program, *, reread: bool = True) -> Pending:
        """All of it, and the addresses and routes that others make."""

        def work() -> Pending:
            pending = self.mechanism.pending(want, reread=reread, sweep=True)
            pending.make()
            pending.sweep()
            return pending

        pending = self.namespace.run(work)
        if want.network.links and self.inner(4) not in self.ip("addr", "show", "dev", LINK):
            for family, length in ((4, 32), (6, 128)):
                self.ip("addr", "add", f"{self.inner(family)}/{length}", "dev", LINK)
            self.ip("route", "add", "10.244.0.0/16", "dev", LINK)
            self.ip("route", "add", "fd00:244::/32", "dev", LINK)
        return pending

    def restart(self) -> None:
        """The agent ends and comes back: no memory."""
        self.namespace.run(self.mechanism.close)
        self.mechanism = self._mechanism()

    def sends(self, other: WireNode, words: bytes, family: int = 4) -> bool:
        """Whether a datagram reaches another's Pod address and is answered, at the first try or a later one."""
        kind = socket.AF_INET if family == 4 else socket.AF_INET6
        with (
            other.namespace.run(lambda: socket.socket(kind, socket.SOCK_DGRAM)) as there,
            self.namespace.run(lambda: socket.socket(kind, socket.SOCK_DGRAM)) as here,
        ):
            there.bind((other.inner(family), 0))
            here.bind((self.inner(family), 0))
            here.settimeout(0.2)
            there.settimeout(0.2)
            deadline = time.monotonic() + SECONDS
            while time.monotonic() < deadline:
                here.sendto(words, there.getsockname())
                try:
                    found, sender = there.recvfrom(65535)
                    there.sendto(found, sender)
                    if here.recv(65535) == words:
                        return True
                except TimeoutError:
                    continue
        return False

    def links(self) -> list[str]:
        def names() -> list[str]:
            with Links() as links:
                return sorted(links.read())

        return self.namespace.run(names)

    def close(self) -> None:
        with ExitStack() as last:
            last.callback(self.namespace.close)
            last.callback(self.namespace.run, self.mechanism.close)
            self.namespace.run(self._clean)

    def _clean(self) -> None:
        pending = self.mechanism.pending(Program(), reread=True, sweep=True)
        pending.make()
        pending.sweep()

    def _mechanism(self) -> WireguardMechanism:
        return self.namespace.run(lambda: WireguardMechanism(self.folder / "run", self.folder / "state", self.served))


@contextmanager
def wire(count: int, folder: Path, served: Served) -> Iterator[tuple[list[WireNode], Namespace]]:
    """So many nodes on a bridge, and the namespace of the bridge."""
    with ExitStack() as made:
        switch = made.enter_context(Namespace())
        nodes = [made.enter_context(WireNode(number, folder / f"n{number}", served)) for number in range(1, count + 1)]
        _ip(switch, "link add br0 type bridge forward_delay 0 mcast_snooping 0")
        _ip(switch, "link set br0 up")
        for node in nodes:
            _ip(switch, f"link add port{node.number} type veth peer name eth0 netns {node.namespace.path}")
            _ip(switch, f"link set port{node.number} master br0 up")
            node.ip("link", "set", "lo", "up")
            node.ip("addr", "add", f"{node.outer()}/24", "dev", "eth0")
            node.ip("addr", "add", f"{node.outer(6)}/64", "dev", "eth0", "nodad")
            node.ip("link", "set", "eth0", "up")
        for node in nodes:
            node.namespace.run(_ready)
        yield nodes, switch


def _ip(namespace: Namespace, words: str) -> None:
    namespace.run(lambda: subprocess.run(("ip", *words.split()), check=True))


def _ready() -> None:
    with Links() as links:
        links.wait_ready(["eth0"], SECONDS)


class Listening(Closing):
    """All frames on the bridge of a wire since this was made."""

    def __init__(self, switch: Namespace) -> None:
        self._socket = switch.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
        self._socket.setblocking(False)
        self.frames: list[bytes] = []

    def all(self) -> list[bytes]:
        while True:
            try:
                self.frames.append(self._socket.recv(65535))
            except BlockingIOError:
                return self.frames

    def close(self) -> None:
        self._socket.close()
