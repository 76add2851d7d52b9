"""A few nodes on one wire, each with a Pod behind it and the real agent in it.

  pod 10.244.N.5, fd00:10:244:N::5         the Pod's next hop: .1 and ::1, on the node's `pod0`
   |
[ node nN ]  eth0 192.0.2.1N, 2001:db8:2::1N
   |
===[ bridge, in a namespace of its own; nobody there knows a Pod ]===
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from node_of_agent import SECONDS, Agent

from netplane.closing import Closing
from netplane.kernel import sysctls
from netplane.kernel.links import Links
from netplane.kernel.netns import Namespace

PORT = 4000
_AT_ONCE = {"net/ipv6/conf/default/accept_dad": 0, "net/ipv6/conf/default/dad_transmits": 0}
"""Addresses of IPv6 are usable from the first moment."""
CLUSTER = "cluster-ranges: [10.244.0.0/16, 'fd00:10:244::/48']"


def node_yaml(number: int, *, annotations: dict[str, str] | None = None, address: str = "", last: int = 0) -> str:
    """Node nNUMBER."""
    last = last or 10 + number
    addresses = [address or f"192.0.2.{last}", f"2001:db8:2::{last}"]
    ranges = [f"10.244.{number}.0/24", f"fd00:10:244:{number}::/64"]
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": f"n{number}", "annotations": annotations or {}},
            "spec": {"podCIDR": ranges[0], "podCIDRs": ranges},
            "status": {"addresses": [{"type": "InternalIP", "address": each} for each in addresses]},
        }
    )


class Site(Closing):
    """The wire, nodes n1, n2, ... and their Pods. `agents` are those that were started, by node number."""

    def __init__(self, folder: Path, nodes: int) -> None:
        self.folder, self._run = folder / "manifests", folder / "run"
        self.folder.mkdir()
        self._run.mkdir()
        self.settings = folder / "network.yaml"
        self.agents: dict[int, Agent] = {}
        numbers = range(1, nodes + 1)
        with ExitStack() as made:
            self.wire = made.enter_context(Namespace())
            self.nodes = {number: made.enter_context(Namespace()) for number in numbers}
            self.pods = {number: made.enter_context(Namespace()) for number in numbers}
            for namespace in (*self.nodes.values(), *self.pods.values()):
                namespace.run(lambda: sysctls.write(_AT_ONCE))
            _ip(self.wire, "link add wire up type bridge mcast_snooping 0")
            for number in numbers:
                self._wire(number)
                self.write(f"n{number}", node_yaml(number))
            made.callback(self._end)
            self._open = made.pop_all()

    def write(self, name: str, text: str) -> None:
        """Rename a manifest into place."""
        new = self.folder / f".{name}.new"
        new.write_text(text)
        new.rename(self.folder / f"{name}.yaml")

    def remove(self, name: str) -> None:
        (self.folder / f"{name}.yaml").unlink()

    def start(self, network: str, *numbers: int) -> None:
        """Start agents, on all nodes if none is named, and wait until each is ready. `network`: a mode, or YAML."""
        for number in numbers or self.nodes:
            self.begin(network, number)
        for number in numbers or self.nodes:
            self.agents[number].next("ready")

    def begin(self, network: str, number: int, *options: str) -> Agent:
        """Start the agent of a node. `network`: a mode, or YAML."""
        value = network
        if ":" in network:
            self.settings.write_text(network)
            value = str(self.settings)
        words = ("--node", f"n{number}", "--no-cni", "--network", value, *options)
        self.agents[number] = Agent(self.nodes[number], self.folder, self._run / f"n{number}", *words)
        return self.agents[number]

    def stop(self, *numbers: int) -> None:
        for number in numbers or tuple(self.agents):
            agent = self.agents.pop(number)
            assert agent.end() == 0
            agent.close()

    def ip(self, number: int, *words: str) -> str:
        """What `ip WORDS` prints on a node."""
        return self.run(number, "ip", *words)

    def run(self, number: int, *words: str) -> str:
        """What a command prints on a node."""
        namespace = self.nodes[number]
        done = namespace.run(lambda: subprocess.run(words, capture_output=True, text=True, check=False))
        assert done.returncode == 0, done.stderr
        return done.stdout

    def key(self, number: int, *options: str) -> str:
        """The public WireGuard key of a node's host; it is made if there is none."""
        state = ("--state-dir", f"{self._run / f'n{number}'}-state", "--output", "json")
        said = self.run(number, sys.executable, "-m", "netplane", "node", "key", *state, *options)
        found = json.loads(said)
        return str(found["nextPublicKey"] if options else found["publicKey"])

    def processes(self, number: int, name: str) -> list[str]:
        """The pids of the processes of this name in a node's namespace."""
        own = self.nodes[number].path.readlink()
        found = []
        for each in Path("/proc").iterdir():
            with suppress(OSError):
                if (each / "comm").read_text().strip() == name and (each / "ns/net").readlink() == own:
                    found.append(each.name)
        return found

    def only_process(self, number: int, name: str) -> str:
        """The pid of the one there is."""
        (found,) = self.processes(number, name)
        return found

    def outside(self) -> None:
        """Give the wire addresses, so that somebody beside the nodes can ask them."""
        self.wire.run(lambda: sysctls.write(_AT_ONCE))
        _ip(self.wire, "link set lo up", "addr add 192.0.2.1/24 dev wire", "addr add 2001:db8:2::1/64 dev wire nodad")

    def serve(self, number: int) -> None:
        """Let a node's Pod say `pod N` to whoever connects to port 8080."""
        for kind, address in ((socket.AF_INET, pod(number)), (socket.AF_INET6, pod(number, 6))):
            listening = self.pods[number].run(lambda kind=kind: socket.socket(kind))
            listening.bind((address, 8080))
            listening.listen(64)
            self._open.callback(listening.close)
            self._open.callback(listening.shutdown, socket.SHUT_RDWR)
            threading.Thread(target=_say, args=(listening, f"pod {number}".encode()), daemon=True).start()

    def monitor(self, number: int, what: str) -> Monitor:
        """`ip monitor WHAT` on a node, until the site is closed."""
        made = Monitor(self.nodes[number], what)
        self._open.enter_context(made)
        return made

    def routes(self, number: int) -> set[str]:
        """The routes that are ours."""
        both = self.ip(number, "route", "show", "proto", "98") + self.ip(number, "-6", "route", "show", "proto", "98")
        return {line.strip() for line in both.splitlines()}

    def reaches(self, one: int, other: int, family: int = 4) -> bool:
        """Whether a datagram of one node's Pod reaches that of the other and its answer comes back, addresses kept."""
        kind = socket.AF_INET if family == 4 else socket.AF_INET6
        to, sender = pod(other, family), pod(one, family)
        server = self.pods[other].run(lambda: socket.socket(kind, socket.SOCK_DGRAM))
        client = self.pods[one].run(lambda: socket.socket(kind, socket.SOCK_DGRAM))
        with server, client:
            server.bind((to, 0))
            client.bind((sender, 0))
            for each in (server, client):
                each.settimeout(0.25)
            try:
                client.sendto(b"there", (to, server.getsockname()[1]))
                _, (seen, *port) = server.recvfrom(64)
                assert seen == sender
                server.sendto(b"back", (seen, port[0]))
                return client.recv(64) == b"back"
            except OSError:
                return False

    def wait(self, holds: Callable[[], bool], what: str = "") -> None:
        """Until it holds; the kernel's state is asked again and again, for nothing tells of all of it."""
        deadline = time.monotonic() + SECONDS
        while not holds():
            assert time.monotonic() < deadline, f"{what} not after {SECONDS} s; {[a.raw for a in self.agents.values()]}"

    def wait_reaches(self, one: int, other: int, family: int = 4) -> None:
        self.wait(lambda: self.reaches(one, other, family), f"pod {one} to pod {other}, IPv{family}:")

    def _wire(self, number: int) -> None:
        node, pod_ = self.nodes[number], self.pods[number]
        _ip(self.wire, f"link add to{number} up master wire type veth peer name eth0 netns {node.path}")
        _ip(
            node,
            "link set lo up",
            "link set eth0 up",
            f"addr add 192.0.2.{10 + number}/24 dev eth0",
            f"addr add 2001:db8:2::{10 + number}/64 dev eth0 nodad",
            "route add default via 192.0.2.1",
            "route add default via 2001:db8:2::1",
            f"link add pod0 up type veth peer name eth0 netns {pod_.path}",
            f"addr add 10.244.{number}.1/24 dev pod0",
            f"addr add fd00:10:244:{number}::1/64 dev pod0 nodad",
        )
        _ip(
            pod_,
            "link set lo up",
            "link set eth0 up",
            f"addr add {pod(number)}/24 dev eth0",
            f"addr add {pod(number, 6)}/64 dev eth0 nodad",
            f"route add default via 10.244.{number}.1",
            f"route add default via fd00:10:244:{number}::1",
        )
        for namespace, names in ((node, ["eth0", "pod0"]), (pod_, ["eth0"])):
            namespace.run(lambda names=names: _wait_ready(names))

    def close(self) -> None:
        self._open.close()

    def _end(self) -> None:
        for agent in self.agents.values():
            agent.close()
        for number, namespace in self.nodes.items():  # what outlives an agent is ended as a person would
            run = self._run / f"n{number}"
            words = (sys.executable, "-m", "netplane", "network", "clean", "--run-dir", str(run))
            state = ("--state-dir", f"{run}-state")
            with suppress(OSError):
                namespace.run(lambda words=(*words, *state): subprocess.run(words, capture_output=True, check=False))


class Monitor(Closing):
    """What the kernel tells of changes, by `ip monitor`."""

    def __init__(self, namespace: Namespace, what: str) -> None:
        words = ("ip", "-o", "monitor", what)
        self._file = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed by close()
        self._process = namespace.run(lambda: subprocess.Popen(words, stdout=self._file))

    def said(self) -> list[str]:
        """The lines so far."""
        self._file.seek(0)
        return self._file.readlines()

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._file.close()


class Talk(Closing):
    """A TCP connection between two Pods, held open; `alive` sends a little each way."""

    def __init__(self, site: Site, one: int, other: int, family: int = 4) -> None:
        kind = socket.AF_INET if family == 4 else socket.AF_INET6
        with site.pods[other].run(lambda: socket.socket(kind)) as listening:
            listening.bind((pod(other, family), PORT))
            listening.listen()
            self._client = site.pods[one].run(lambda: socket.socket(kind))
            self._client.settimeout(SECONDS)
            self._client.connect((pod(other, family), PORT))
            self._server, (self.seen, *_) = listening.accept()
        self._server.settimeout(SECONDS)

    def alive(self) -> bool:
        """Whether bytes still go both ways. False when either end says that it is over."""
        try:
            self._client.sendall(b"ping")
            if self._server.recv(4) != b"ping":
                return False
            self._server.sendall(b"pong")
            return self._client.recv(4) == b"pong"
        except OSError:
            return False

    def close(self) -> None:
        self._client.close()
        self._server.close()


class Stream(Closing):
    """Datagrams from one Pod to another, numbered, one after another, until it is stopped; it counts what arrives."""

    def __init__(self, site: Site, one: int, other: int) -> None:
        self._server = site.pods[other].run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._client = site.pods[one].run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self._server.bind((pod(other), PORT))
        self._client.bind((pod(one), 0))
        self.sent = self.refused = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send, name="stream")
        self._thread.start()

    def _send(self) -> None:
        while not self._stop.wait(0.001):
            try:
                self._client.sendto(str(self.sent).encode(), (pod_of(self._server), PORT))
                self.sent += 1
            except OSError:
                self.refused += 1

    def lost(self) -> int:
        """Stop; how many did not arrive, or were refused."""
        self._stop.set()
        self._thread.join()
        self._server.settimeout(1.0)
        got: set[bytes] = set()
        with suppress(TimeoutError):
            while len(got) < self.sent:
                got.add(self._server.recv(64))
        return self.sent - len(got) + self.refused

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._server.close()
        self._client.close()


def _say(listening: socket.socket, words: bytes) -> None:
    while True:
        try:
            met, _ = listening.accept()
        except OSError:
            return
        with met, suppress(OSError):
            met.sendall(words)


def pod_of(listening: socket.socket) -> str:
    """The address a socket is bound to."""
    return str(listening.getsockname()[0])


def pod(number: int, family: int = 4) -> str:
    """The address of node NUMBER's Pod."""
    return f"10.244.{number}.5" if family == 4 else f"fd00:10:244:{number}::5"


def _wait_ready(names: Sequence[str]) -> None:
    with Links() as here:
        here.wait_ready(list(names), SECONDS)


def _ip(namespace: Namespace, *lines: str) -> None:
    def work() -> None:
        done = subprocess.run(
            ("ip", "-batch", "-"), input="\n".join(lines), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    namespace.run(work)
