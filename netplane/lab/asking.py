"""Ask: sockets that send tries of probes, and raw sockets that hear refusals. Says what came back, judges nothing."""

from __future__ import annotations

import selectors
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import count
from typing import NamedTuple

from netplane.closing import Closing
from netplane.errors import KernelError
from netplane.kernel.netns import Namespace
from netplane.lab import sctp, sockets
from netplane.lab.namespaces import Lab
from netplane.lab.probe import FromNode, FromOutside, FromPod, Probe, Sender, deciding_node
from netplane.lab.servers import Answer
from netplane.lab.topology import CONTROL, OUTSIDE_ADDRESSES, first
from netplane.model.address import Family, IPAddress, Protocol

QUIET_SECONDS = 0.3
"""How long silence must last after the control packets were answered, to be a drop."""
CONTROL_SECONDS = 15.0

_ECHO = {Family.IPV4: 8, Family.IPV6: 128}
_ECHO_REPLY = {Family.IPV4: 0, Family.IPV6: 129}
_PORT_UNREACHABLE = {Family.IPV4: (3, 3), Family.IPV6: (1, 4)}
_ERRORS = {Family.IPV4: (3, 11, 12), Family.IPV6: (1, 2, 3, 4)}
_ICMP_HEADER = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence
_PORTS = struct.Struct("!HH")
_SO_MARK = 36
_FIRST_RAW_PORT = 20000

Key = tuple[int, IPAddress, int, IPAddress, int]
"""Protocol number, source, source port, destination, destination port: what an ICMP error quotes."""


class Refusal(NamedTuple):
    """An ICMP or ICMPv6 error that quotes a try."""

    sender: IPAddress
    kind: int
    code: int
    port_unreachable: bool

    def __str__(self) -> str:
        return f"ICMP type {self.kind} code {self.code} from {self.sender}"


@dataclass(slots=True)
class Try:
    """One connection attempt and what came of it: an answer, a refusal, an error of the socket, or silence."""

    probe: Probe
    source_port: int
    socket: socket.socket
    answer: Answer | None = None
    refusal: Refusal | None = None
    failure: str = ""

    def key(self) -> Key:
        """What an ICMP error about it would quote."""
        probe = self.probe
        number = probe.protocol.number if probe.protocol else sockets.ICMP[probe.family]
        return (number, probe.source, self.source_port, probe.destination, probe.port)


class Asking(Closing):
    """Everything needed to ask from anywhere in a lab. Closing it closes every socket."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._marks = {node.name: mark for mark, node in lab.marks()}
        self._selector = selectors.DefaultSelector()
        self._sockets: list[socket.socket] = []
        self._tries: dict[Key, Try] = {}
        self._waiting: set[Key] = set()
        self._controls: dict[tuple[Sender, Family], bool] = {}
        self._ears: dict[tuple[Namespace, Family], Callable[[], None]] = {}
        self._numbers = count(_FIRST_RAW_PORT)

    def send(self, probe: Probe, times: int) -> list[Try]:
        """Send `times` tries of a probe. What came back is in them after `wait`."""
        namespace = self._namespace(probe.sender)
        self._listen(namespace, probe.family)
        self._controls[probe.sender, probe.family] = False
        tries = namespace.run(lambda: [self._open(probe) for _ in range(times)])
        for each in tries:
            self._tries[each.key()] = each
            self._waiting.add(each.key())
            self._ask(each)
            self._hear(each.socket, self._answers(each))
        return tries

    def wait(self) -> None:
        """Return when nothing more can come: every try has ended, or was silent for `QUIET_SECONDS` after controls.

        Raises KernelError if a control packet gets no answer: then silence says nothing.
        """
        for sender, family in self._controls:
            self._send_control(sender, family)
        give_up = time.monotonic() + CONTROL_SECONDS
        while self._waiting and not all(self._controls.values()):
            self._turn(give_up)
            if time.monotonic() > give_up:
                silent = ", ".join(f"{who} ({family})" for (who, family), well in self._controls.items() if not well)
                said = f"no answer within {CONTROL_SECONDS:g} s; the wiring of the lab is broken"
                raise KernelError(mechanism="lab", doing=f"control packet from {silent}", said=said)
        quiet = time.monotonic() + QUIET_SECONDS
        while self._waiting and time.monotonic() < quiet:
            self._turn(quiet)
        for hear_refusals in self._ears.values():
            hear_refusals()
        self._waiting.clear()
        self._controls.clear()

    def close(self) -> None:
        """Close every socket."""
        self._selector.close()
        for made in self._sockets:
            made.close()

    def _turn(self, until: float) -> None:
        for key, _ in self._selector.select(max(0.0, until - time.monotonic())):
            key.data()

    def _namespace(self, sender: Sender) -> Namespace:
        match sender:
            case FromPod(pod):
                return self._lab.pods[pod]
            case FromNode(node):
                return self._lab.nodes[node]
            case FromOutside():
                return self._lab.outside

    def _hear(self, made: socket.socket, handler: Callable[[], None]) -> None:
        self._selector.register(made, selectors.EVENT_READ, handler)

    def _own(self, made: socket.socket, sender: Sender) -> socket.socket:
        self._sockets.append(made)
        if isinstance(sender, FromOutside):
            sockets.any_address(made)
            made.setsockopt(socket.SOL_SOCKET, _SO_MARK, self._marks[sender.via])
        return made

    def _open(self, probe: Probe) -> Try:
        if probe.protocol is None:
            made = self._own(sockets.raw(probe.family, sockets.ICMP[probe.family]), probe.sender)
        else:
            made = self._own(sockets.for_probe(probe.family, probe.protocol), probe.sender)
        try:
            made.bind((str(probe.source), 0))
        except OSError as error:
            said = error.strerror or str(error)
            raise KernelError(mechanism="lab", doing=f"{probe.sender} from {probe.source}", said=said) from error
        port = next(self._numbers) if made.type == socket.SOCK_RAW else made.getsockname()[1]
        return Try(probe, port, made)

    def _ask(self, each: Try) -> None:
        probe = each.probe
        try:
            each.socket.connect((str(probe.destination), 0 if each.socket.type == socket.SOCK_RAW else probe.port))
            match probe.protocol:
                case None:
                    each.socket.send(_echo(probe.family, each.source_port))
                case Protocol.UDP:
                    each.socket.send(b"?")
                case Protocol.SCTP:
                    each.socket.send(sctp.init(each.source_port, probe.port, tag=each.source_port))
                case Protocol.TCP:
                    pass
        except (BlockingIOError, PermissionError):
            pass  # under way; or discarded by a rule in output, which the sender of a datagram is told
        except OSError as error:
            self._failed(each, error)

    def _failed(self, each: Try, error: OSError) -> None:
        each.failure = (error.strerror or repr(error)).lower()
        self._waiting.discard(each.key())

    def _answers(self, each: Try) -> Callable[[], None]:
        def hear() -> None:
            try:
                data = each.socket.recv(65536)
            except BlockingIOError:
                return
            except OSError as error:
                if each.socket.type == socket.SOCK_RAW:
                    return  # said to every raw socket with this peer, whomever it is about; the ears know whom
                self._selector.unregister(each.socket)
                self._failed(each, error)
                return
            if answer := _answer(each, data):
                each.answer = answer
                self._waiting.discard(each.key())
            if each.socket.type != socket.SOCK_RAW or each.answer:
                self._selector.unregister(each.socket)

        return hear

    def _listen(self, namespace: Namespace, family: Family) -> None:
        """Hear what is refused in a namespace."""
        if (namespace, family) in self._ears:
            return
        ear = namespace.run(lambda: sockets.raw(family, sockets.ICMP[family]))
        self._sockets.append(ear)

        def hear() -> None:
            while True:
                try:
                    data, sender = ear.recvfrom(65536)
                except BlockingIOError:
                    return
                self._refused(family, sockets.address_of(sender), data)

        self._ears[namespace, family] = hear
        self._hear(ear, hear)

    def _refused(self, family: Family, sender: IPAddress, data: bytes) -> None:
        icmp = sockets.without_header(data) if family is Family.IPV4 else data
        kind, code = icmp[0], icmp[1]
        key = _quoted(family, icmp[8:]) if kind in _ERRORS[family] else None
        if key is not None and (each := self._tries.get(key)):
            each.refusal = Refusal(sender, kind, code, (kind, code) == _PORT_UNREACHABLE[family])
            self._waiting.discard(key)

    def _send_control(self, sender: Sender, family: Family) -> None:
        """A packet nobody may touch: from inside to outside's own address, from outside to the node's link."""
        links = deciding_node(sender, self._lab.topology).links
        to = first(family, links if isinstance(sender, FromOutside) else OUTSIDE_ADDRESSES)
        made = self._namespace(sender).run(lambda: self._own(sockets.datagram(family), sender))
        made.connect((str(to), CONTROL[1]))
        made.send(b"control")

        def hear() -> None:
            made.recv(65536)
            self._controls[sender, family] = True
            self._selector.unregister(made)

        self._hear(made, hear)


def _answer(each: Try, data: bytes) -> Answer | None:
    """The answer to this try in what its socket received; raw sockets also receive those to other tries."""
    probe = each.probe
    if probe.family is Family.IPV4 and each.socket.type == socket.SOCK_RAW:
        data = sockets.without_header(data)
    match probe.protocol:
        case None:
            kind, _, _, identifier, _ = _ICMP_HEADER.unpack_from(data)
            ours = (kind, identifier) == (_ECHO_REPLY[probe.family], each.source_port)
            return Answer("echo", probe.source, each.source_port, probe.destination, 0) if ours else None
        case Protocol.SCTP:
            packet = sctp.decode(data)
            ours = packet is not None and (packet.chunk, packet.destination) == (sctp.INIT_ACK, each.source_port)
            return Answer.decode(packet.cookie) if packet and ours else None
        case _:
            answer = Answer.decode(data)
            if answer is None:
                each.failure = "closed without an answer"
            return answer


def _quoted(family: Family, packet: bytes) -> Key | None:
    """Whom an ICMP error is about, from the packet it quotes; None if it quotes too little."""
    start = (packet[0] & 0xF) * 4 if family is Family.IPV4 and packet else 40
    if len(packet) < start + 8:
        return None
    protocol = packet[9] if family is Family.IPV4 else packet[6]
    spans = ((12, 16), (16, 20)) if family is Family.IPV4 else ((8, 24), (24, 40))
    source, destination = (ip_address(packet[first_:last]) for first_, last in spans)
    if protocol == sockets.ICMP[family]:
        _, _, _, identifier, _ = _ICMP_HEADER.unpack_from(packet, start)
        return (protocol, source, identifier, destination, 0)
    source_port, port = _PORTS.unpack_from(packet, start)
    return (protocol, source, source_port, destination, port)


def _echo(family: Family, identifier: int) -> bytes:
    """An echo request; over IPv6 the kernel fills in the checksum."""
    blank = _ICMP_HEADER.pack(_ECHO[family], 0, 0, identifier, 1)
    if family is Family.IPV6:
        return blank
    total = sum(struct.unpack("!4H", blank))
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return _ICMP_HEADER.pack(_ECHO[family], 0, checksum, identifier, 1)
