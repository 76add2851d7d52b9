"""Real servers in pods, nodes and outside: each answers with its name, the client it saw and where it was reached.

One thread serves all sockets of a lab. TCP answers as soon as a connection is there and closes it, or goes on
repeating what the client says; UDP and SCTP answer each packet (SCTP with an INIT ACK whose cookie is the answer).
"""

from __future__ import annotations

import os
import selectors
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address

from netplane.closing import Closing
from netplane.errors import KernelError
from netplane.kernel.netns import Namespace
from netplane.lab import sctp, sockets
from netplane.lab.namespaces import Lab
from netplane.lab.topology import CONTROL, OUTSIDE_ADDRESSES, Port, first
from netplane.model.address import Family, IPAddress, Protocol

_BACKLOG = 1024
Doors = Mapping[Port, str]
"""The ports that are open in one namespace, and who answers there."""
Handler = Callable[[], None]
Parting = Callable[[socket.socket], None]
"""What is done with a TCP connection that has been answered."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said."""

    name: str
    client: IPAddress
    client_port: int
    local: IPAddress
    local_port: int

    def encode(self) -> bytes:
        """The answer as it travels."""
        return "\n".join(map(str, (self.client, self.client_port, self.local, self.local_port, self.name))).encode()

    @classmethod
    def decode(cls, data: bytes) -> Answer | None:
        """The answer in `data`, None if it is none."""
        try:
            client, client_port, local, local_port, name = data.decode().split("\n", 4)
            return cls(name, ip_address(client), int(client_port), ip_address(local), int(local_port))
        except ValueError:
            return None


class Servers(Closing):
    """The servers of one lab. They answer from the moment `listen` returns until `close`.

    With `lasting`, TCP connections stay until the client ends them, and get back what it says.
    """

    def __init__(self, *, lasting: bool = False) -> None:
        self._selector = selectors.DefaultSelector()
        self._sockets: list[socket.socket] = []
        self._guests: set[socket.socket] = set()
        self._part = self._stay if lasting else socket.socket.close
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name="lab-servers", daemon=True)
        self._thread.start()

    def listen(self, namespace: Namespace, doors: Doors, *, everyone: bool = False) -> None:
        """Open `doors` in a namespace, for both families; with `everyone`, as whatever address it is reached at."""
        opened = namespace.run(lambda: list(_open(doors, everyone, self._part)))
        for made, handler in opened:
            self._sockets.append(made)
            self._selector.register(made, selectors.EVENT_READ, handler)

    def echo(self, namespace: Namespace, own: IPAddress) -> None:
        """Answer IPv4 echo requests to any address but `own`.

        The kernel does so for its own addresses and, over IPv6, for those it was told to take packets for.
        """
        made = namespace.run(lambda: _ready(sockets.raw(Family.IPV4, socket.IPPROTO_ICMP), everyone=True, port=0))
        self._sockets.append(made)
        self._selector.register(made, selectors.EVENT_READ, _echo(made, own))

    def close(self) -> None:
        """Close every door."""
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        self._selector.close()
        for made in (*self._sockets, *self._guests):
            made.close()
        os.close(self._wake)

    def _stay(self, made: socket.socket) -> None:
        """Repeat what this client says. Runs in the serving thread."""
        made.setblocking(False)

        def repeat() -> None:
            try:
                if said := made.recv(65536):
                    made.send(said)
                    return
            except BlockingIOError:
                return
            except OSError:
                pass  # the client is gone
            self._selector.unregister(made)
            self._guests.discard(made)
            made.close()

        self._guests.add(made)
        self._selector.register(made, selectors.EVENT_READ, repeat)

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fd == self._wake:
                    return
                key.data()


def open_doors(servers: Servers, lab: Lab, probed: Iterable[Port]) -> None:
    """Servers for everything the Services of the lab's cluster can lead to, and for packets nobody touched.

    Pods answer on their own ports; nodes on those of their host-network pods; nodes and outside on every port in
    `probed`, so that a packet that netplane leaves alone is answered by whom the routes lead it to.
    """
    topology = lab.topology
    everywhere = frozenset((*probed, CONTROL))
    for id_, pod in topology.pods.items():
        servers.listen(lab.pods[id_], dict.fromkeys(pod.ports | everywhere, str(id_)))
    for name, node in topology.nodes.items():
        guests = {port: str(pod) for port, pod in node.ports.items()}
        servers.listen(lab.nodes[name], {**dict.fromkeys(everywhere, f"node {name}"), **guests})
    servers.listen(lab.outside, dict.fromkeys(everywhere, "outside"), everyone=True)
    servers.echo(lab.outside, first(Family.IPV4, OUTSIDE_ADDRESSES))


def _open(doors: Doors, everyone: bool, part: Parting) -> Iterable[tuple[socket.socket, Handler]]:
    for family in Family:
        for (protocol, number), name in doors.items():
            match protocol:
                case Protocol.TCP:
                    made = sockets.stream(family)
                    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    handler = _tcp(made, name, part)
                case Protocol.UDP:
                    made = sockets.datagram(family)
                    handler = _udp(made, name, number)
                case Protocol.SCTP:
                    continue
            yield _ready(made, everyone, number), handler
        if names := {number: name for (protocol, number), name in doors.items() if protocol is Protocol.SCTP}:
            made = sockets.raw(family, Protocol.SCTP.number)
            yield _ready(made, everyone, 0), _sctp(made, names)


def _ready(made: socket.socket, everyone: bool, port: int) -> socket.socket:
    try:
        if everyone:
            sockets.any_address(made)
        if made.type != socket.SOCK_STREAM:
            sockets.tell_local_address(made)
        made.bind(("", port))
        if made.type == socket.SOCK_STREAM:
            made.listen(_BACKLOG)
    except OSError as error:
        made.close()
        raise KernelError(mechanism="lab server", doing=f"listen on port {port}", said=str(error.strerror)) from error
    return made


def _tcp(listening: socket.socket, name: str, part: Parting) -> Handler:
    def serve() -> None:
        with suppress(BlockingIOError, ConnectionAbortedError):
            while True:
                made, sender = listening.accept()
                local = made.getsockname()
                answer = Answer(name, sockets.address_of(sender), sender[1], sockets.address_of(local), local[1])
                with suppress(OSError):  # the client may be gone
                    made.send(answer.encode())
                part(made)

    return serve


def _udp(made: socket.socket, name: str, port: int) -> Callable[[], None]:
    def serve() -> None:
        while received := sockets.receive(made):
            client = sockets.address_of(received.sender)
            answer = Answer(name, client, received.sender[1], received.local, port)
            with suppress(OSError):  # no route back: the client will see that nothing came
                sockets.reply(made, received, answer.encode())

    return serve


def _sctp(made: socket.socket, names: Mapping[int, str]) -> Callable[[], None]:
    def serve() -> None:
        while received := sockets.receive(made):
            asked = sctp.decode(received.data)
            if asked is None or asked.chunk != sctp.INIT or asked.destination not in names:
                continue
            client = sockets.address_of(received.sender)
            answer = Answer(names[asked.destination], client, asked.source, received.local, asked.destination)
            back = received._replace(sender=(received.sender[0], 0))
            with suppress(OSError):
                sockets.reply(made, back, sctp.init_ack(asked, answer.encode()))

    return serve


def _echo(made: socket.socket, own: IPAddress) -> Callable[[], None]:
    def serve() -> None:
        while received := sockets.receive(made):
            if received.data[:1] == b"\x08" and received.local != own:
                # Type 8 becomes 0, so the checksum grows by as much (RFC 1624).
                checksum = int.from_bytes(received.data[2:4], "big") + 0x0800
                folded = (checksum & 0xFFFF) + (checksum >> 16)
                with suppress(OSError):
                    sockets.reply(made, received, b"\0\0" + folded.to_bytes(2, "big") + received.data[4:])

    return serve
