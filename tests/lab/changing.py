"""A small cluster whose manifests change under a reconciler of its first node, and servers that say who they are."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from netplane.agent.reconcile import Reconciler, Round
from netplane.backends.backend import Backend
from netplane.closing import Closing
from netplane.kernel.host import Host
from netplane.kernel.netns import Namespace
from netplane.lab.cases import load_case
from netplane.lab.namespaces import Lab
from netplane.model.pod import PodId
from netplane.plan.settings import Settings
from netplane.sources.manifests import load

SECONDS = 20.0
CASE = Path(__file__).parent.parent / "cases" / "node-port"
PORTS = (8080, 8081)
LABEL = ", labels: {app: web}"
_SERVICE = "metadata: {name: web, namespace: shop}"
_STREAM, _DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM


class Cluster(Closing):
    """The case `node-port` with n1 reconciled by `round`; its pods web-1 and web-2 answer on both `PORTS`."""

    def __init__(self, folder: Path, backend: Backend) -> None:
        self._source = Path(shutil.copytree(CASE, folder / "case"))
        self._manifest = self._source / "cluster.yaml"
        self._backend = backend
        with ExitStack() as made:
            self.lab = made.enter_context(Lab(load_case(self._source).topology))
            made.enter_context(_Servers(self.lab, ("web-1", "web-2")))
            self.node = self.lab.nodes["n1"]
            self._host = made.enter_context(self.node.run(Host))
            self.restart()
            self._made = made.pop_all()

    @property
    def pod(self) -> Namespace:
        return self.lab.pods[PodId("shop", "client")]

    def restart(self) -> None:
        """Forget everything, as an agent that starts."""
        self._reconciler = Reconciler("n1", Settings(), self._backend, self._host)

    def round(self) -> Round:
        snapshot = load(self._source).snapshot
        return self.node.run(lambda: self._reconciler.reconcile(snapshot, whole=False, sweep=True))

    # --- changes of the manifests; each replaces exactly one place ------------------------------------------------

    def leave(self, pod: str) -> None:
        """The pod is no endpoint any more."""
        self._edit(f"name: {pod}, namespace: shop{LABEL}", f"name: {pod}, namespace: shop")

    def join(self, pod: str) -> None:
        """The pod is an endpoint again."""
        self._edit(f"name: {pod}, namespace: shop}}", f"name: {pod}, namespace: shop{LABEL}}}")

    def drain(self, pod: str) -> None:
        """The pod terminates, and still serves."""
        ends = 'deletionTimestamp: "2026-01-01T00:00:00Z"'
        self._edit(f"name: {pod}, namespace: shop{LABEL}", f"name: {pod}, namespace: shop, {ends}{LABEL}")

    def annotate(self) -> None:
        """The Service wants its connections to removed endpoints reset."""
        wish = "annotations: {netplane.dev/removed-endpoints: reset}"
        self._edit(_SERVICE, _SERVICE.replace("}", f", {wish}}}"))

    def retarget(self) -> None:
        """The UDP port of the Service leads to the other port of the pods."""
        name = "name: quic, protocol: UDP, port: 80, "
        self._edit(f"{name}targetPort: 8080", f"{name}targetPort: 8081")

    @contextmanager
    def without_service(self) -> Iterator[None]:
        """The Service does not exist for as long as the context lasts."""
        text = self._manifest.read_text()
        self._manifest.write_text(text[: text.rindex("---\n")])
        yield
        self._manifest.write_text(text)

    def close(self) -> None:
        self._made.close()

    def _edit(self, old: str, new: str) -> None:
        text = self._manifest.read_text()
        assert text.count(old) == 1, old
        self._manifest.write_text(text.replace(old, new))


class _Servers(Closing):
    """TCP and UDP servers that answer everything with the name and port of who they are."""

    def __init__(self, lab: Lab, pods: tuple[str, ...]) -> None:
        self._sockets: list[socket.socket] = []
        for pod in pods:
            for port in PORTS:
                for kind, serve in ((_STREAM, _accept), (_DATAGRAM, _echo)):
                    made = lab.pods[PodId("shop", pod)].run(lambda kind=kind, port=port: _bound(kind, port))
                    self._sockets.append(made)
                    threading.Thread(target=serve, args=(made, f"{pod}:{port}".encode()), daemon=True).start()

    def close(self) -> None:
        for each in self._sockets:
            with suppress(OSError):  # a datagram socket has no peer; its thread wakes up all the same
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def _bound(kind: int, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET6, kind)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    made.bind(("::", port))
    if kind == _STREAM:
        made.listen(64)
    return made


def _echo(bound: socket.socket, name: bytes) -> None:
    while True:
        try:
            _, client = bound.recvfrom(100)
        except OSError:
            return
        if client is None:  # shut down
            return
        bound.sendto(name, client)


def _accept(listener: socket.socket, name: bytes) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_answer, args=(client, name), daemon=True).start()


def _answer(client: socket.socket, name: bytes) -> None:
    with client:
        try:
            while client.recv(100):
                client.sendall(name)
        except OSError:
            return


def server_of(connection: socket.socket) -> str:
    """Who answers now: `web-1:8080`. Raises what the client is told instead."""
    connection.send(b"who")
    return connection.recv(100).decode()


def connected(namespace: Namespace, kind: int, to: tuple[str, int]) -> socket.socket:
    """A TCP or UDP socket that talks to `to` from one port for life."""

    def work() -> socket.socket:
        made = socket.socket(socket.AF_INET6 if ":" in to[0] else socket.AF_INET, kind)
        made.settimeout(SECONDS)
        try:
            made.connect(to)
        except OSError:
            made.close()
            raise
        return made

    return namespace.run(work)


def ways(cluster: Cluster) -> dict[str, tuple[Namespace, tuple[str, int]]]:
    """Every kind of client and address, in both families."""
    pod, node, outside = cluster.pod, cluster.node, cluster.lab.outside
    return {
        "a pod at the cluster IP": (pod, ("10.96.0.10", 80)),
        "a pod at the cluster IP, IPv6": (pod, ("fd00:10:96::10", 80)),
        "a pod at the node port": (pod, ("192.0.2.11", 30080)),
        "the node at the cluster IP": (node, ("10.96.0.10", 80)),
        "the node at the cluster IP, IPv6": (node, ("fd00:10:96::10", 80)),
        "outside at the node port": (outside, ("192.0.2.11", 30080)),
        "outside at the node port, IPv6": (outside, ("2001:db8:2::11", 30080)),
    }


def wait_until(condition: Callable[[], bool]) -> None:
    """Ask again and again until it is true."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
