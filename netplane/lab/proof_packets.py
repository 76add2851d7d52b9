"""Proofs about packets between Pods of different nodes: who sees whom, how large, how many hops, and what is around."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from netplane.lab import sockets
from netplane.lab.asking import Asking
from netplane.lab.capture import tap
from netplane.lab.networked import keeps_source
from netplane.lab.packets import Flow, Frame, first_on, send, udp
from netplane.lab.probe import FromNode, FromOutside, FromPod, Probe, Sender
from netplane.lab.proof import Outer, Proving, address
from netplane.lab.topology import CONTROL, PodHost
from netplane.lab.wires import Seen, Wires, vxlan, with_marker
from netplane.model.address import Family, IPAddress, Protocol

PORT = CONTROL[1]
"""Everybody in a lab answers UDP here."""
TCP_PORT = 8080
SOURCE_PORT = 40000
ANSWER_SECONDS = 5.0
_PROTOCOLS = (Protocol.TCP, Protocol.UDP, None)
_IP_HEADER = {Family.IPV4: 20, Family.IPV6: 40}
# IP_MTU_DISCOVER and IPV6_MTU_DISCOVER, and their values: as large as the link takes, and never cut; the same, and
# routers may cut it (IPv4); cut by the sender, as soon as it was told of a size (nobody else cuts IPv6).
_DISCOVER = {Family.IPV4: (socket.SOL_IP, 10), Family.IPV6: (socket.IPPROTO_IPV6, 23)}
_WHOLE = 3
_MAY_BE_CUT = {Family.IPV4: 4, Family.IPV6: 1}
_RECEIVE_ERRORS = {Family.IPV4: (socket.SOL_IP, 11), Family.IPV6: (socket.IPPROTO_IPV6, 25)}
_EXTENDED_ERROR = struct.Struct("=IBBBBII")
_MESSAGE_TOO_LONG = 90


def everybody_is_reached(proving: Proving, family: Family) -> list[str]:
    """TCP, UDP and ICMP from every node's Pod to every other's, and to nodes: who answers sees the sender."""
    return [*_asked(proving, list(_probes_of_pods(proving, family)))]


def nodes_reach_pods(proving: Proving, family: Family) -> list[str]:
    """Processes of a node reach Pods of every other, which see an address of that node."""
    nodes = proving.topology.nodes.values()
    probes = [
        Probe(FromNode(node.name), node.source(family), protocol, address(proving.pod(there), family), _port(protocol))
        for node in nodes
        for there in proving.topology.nodes
        if there != node.name
        for protocol in _PROTOCOLS
    ]
    return [*_asked(proving, probes)]


def outside_sees_nodes(proving: Proving, family: Family) -> list[str]:
    """What Pods send out of the cluster has an address of their node, and what is in `no_masquerade` has their own."""
    somewhere = {Family.IPV4: "203.0.113.50", Family.IPV6: "2001:db8:113::50"}[family]
    probes = [
        Probe(FromPod(proving.pod(node).id), address(proving.pod(node), family), protocol, to, _port(protocol))
        for node in proving.topology.nodes
        for protocol in (Protocol.TCP, Protocol.UDP)
        for to in [type(address(proving.pod(node), family))(somewhere)]
    ]
    return [*_asked(proving, probes), *_kept_towards(proving, family)]


def _kept_towards(proving: Proving, family: Family) -> Iterator[str]:
    """No answer comes from there: the outside does not know Pods. So it is looked at on the cable."""
    kept = [each for each in proving.options.settings.no_masquerade if each.version == family.value]
    for network in kept:
        pod = proving.pod(next(iter(proving.topology.nodes)))
        to = network[9]
        with Wires(proving.lab) as wires:
            _send_marked(proving, pod, to, b"keep me")
            seen = wires.until(lambda each: b"keep me" in each.raw, f"a packet to {to}")
        frame = with_marker(seen, b"keep me")[0].frame()
        if frame is None or frame.source != address(pod, family):
            yield f"{pod.id} -> {to}: left as {frame and frame.source}"


def _probes_of_pods(proving: Proving, family: Family) -> Iterator[Probe]:
    for here, there in proving.pairs():
        node = proving.topology.nodes[there.node]
        for to in (address(there, family), *(each for each in node.addresses if each.version == family.value)):
            for protocol in _PROTOCOLS:
                yield Probe(FromPod(here.id), address(here, family), protocol, to, _port(protocol))


def _port(protocol: Protocol | None) -> int:
    match protocol:
        case None:
            return 0
        case Protocol.TCP:
            return TCP_PORT
        case _:
            return PORT


def _asked(proving: Proving, probes: list[Probe]) -> Iterator[str]:
    with Asking(proving.lab) as asking:
        tries = [each for probe in probes for each in asking.send(probe, 1)]
        asking.wait()
        for each in tries:
            if each.answer is None:
                yield f"{each.probe}: {each.refusal or each.failure or 'silent'}"
            elif problem := _client_problem(proving, each.probe, each.answer.client):
                yield f"{each.probe}: {problem}"


def _client_problem(proving: Proving, probe: Probe, client: IPAddress) -> str:
    """What is wrong with the client that was seen."""
    if client == probe.source:
        return "" if not _leaves(proving, probe) else f"seen as itself, {client}, outside of the cluster"
    here = proving.topology.nodes[_node_of(proving, probe.sender)]
    may_change = _leaves(proving, probe) or isinstance(probe.sender, FromNode)
    return "" if may_change and client in here.local() else f"{probe.source} is seen as {client}"


def _leaves(proving: Proving, probe: Probe) -> bool:
    kept = keeps_source(proving.topology, proving.options.settings)
    return isinstance(probe.sender, FromPod) and not any(probe.destination in network for network in kept)


def _node_of(proving: Proving, sender: Sender) -> str:
    match sender:
        case FromPod(pod):
            return proving.topology.pods[pod].node
        case FromNode(node):
            return node
        case FromOutside(via):
            return via


# --- sizes ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sized:
    """What became of one UDP packet of a certain size: an answer, or what an ICMP error said is the largest."""

    answered: bool
    told: int = 0


def sizes(proving: Proving, family: Family) -> list[str]:
    """A packet of exactly the promised size arrives, and one more byte comes back with that size or is cut."""
    return [problem for here, there in proving.pairs() for problem in _size_problems(proving, here, there, family)]


def _size_problems(proving: Proving, here: PodHost, there: PodHost, family: Family) -> Iterator[str]:
    largest = proving.promise(here.node, there.node).mtu
    who = f"{here.node} -> {there.node}"
    exactly = ask_with(proving, here, there, family, largest, _WHOLE)
    if not exactly.answered:
        yield f"{who}: {largest} bytes, which must fit: {_said(exactly)}"
    more = ask_with(proving, here, there, family, largest + 1, _WHOLE)
    if more != Sized(False, largest):
        yield f"{who}: one more than {largest} bytes, not to be cut: {_said(more)}"
    cut = ask_with(proving, here, there, family, largest + 1, _MAY_BE_CUT[family])
    if not cut.answered:
        yield f"{who}: one more than {largest} bytes, that may be cut: {_said(cut)}"


def ask_with(proving: Proving, here: PodHost, there: PodHost, family: Family, size: int, discover: int) -> Sized:
    """Send an IP packet of `size` bytes to a Pod's UDP port, whole or in whatever pieces, and wait for what comes."""
    made = proving.lab.pods[here.id].run(lambda: sockets.datagram(family))
    with made:
        made.setsockopt(*_DISCOVER[family], discover)
        made.setsockopt(*_RECEIVE_ERRORS[family], 1)
        made.connect((str(address(there, family)), PORT))
        try:
            made.send(bytes(size - _IP_HEADER[family] - 8))
        except OSError as error:
            if error.errno != _MESSAGE_TOO_LONG:
                raise
            return Sized(False, -1)  # refused on the spot: larger than the Pod's own link
        return _heard(made)


def _heard(made: socket.socket) -> Sized:
    """The answer, or the first ICMP error that says how large a packet may be."""
    deadline = time.monotonic() + ANSWER_SECONDS
    poll = select.poll()
    poll.register(made, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        for _, events in poll.poll(left * 1000):
            if events & select.POLLERR:
                for _, _, data in made.recvmsg(1, 512, socket.MSG_ERRQUEUE)[1]:
                    number, origin, _, _, _, told, _ = _EXTENDED_ERROR.unpack_from(data)
                    return Sized(False, told if number == _MESSAGE_TOO_LONG and origin else 0)
            elif events & select.POLLIN:
                made.recv(65536)
                return Sized(True)
    return Sized(False)


def _said(sized: Sized) -> str:
    if sized.answered:
        return "it was answered"
    if sized.told < 0:
        return "larger than the Pod's own link"
    return f"told that {sized.told} bytes are the most" if sized.told else "silence: a hole"


# --- on the way -------------------------------------------------------------------------------------------------------


def hops(proving: Proving, family: Family) -> list[str]:
    """How many routers count a packet between Pods of two nodes."""
    problems = []
    for here, there in proving.pairs():
        expected = proving.promise(here.node, there.node).hops
        with tap(proving.lab.pods[there.id], "eth0") as end:
            flow = _flow(here, address(there, family), family)
            send(proving.lab.pods[here.id], [udp(flow, b"count me")])
            frame = first_on(end, lambda each, flow=flow: _is(each, flow), ANSWER_SECONDS)  # type: ignore[misc]
        if frame is None:
            problems.append(f"{here.node} -> {there.node}: does not arrive")
        elif 64 - frame.hops != expected:
            problems.append(f"{here.node} -> {there.node}: {64 - frame.hops} hops, not {expected}")
    return problems


def on_the_wire(proving: Proving, family: Family) -> list[str]:
    """What is around a packet on the cables of both nodes, and that nobody can read it where that is promised."""
    return [problem for here, there in proving.pairs() for problem in _around_problems(proving, here, there, family)]


def _around_problems(proving: Proving, here: PodHost, there: PodHost, family: Family) -> Iterator[str]:
    promise = proving.promise(here.node, there.node)
    marker = b"marker " + os.urandom(8).hex().encode()
    flow = _flow(here, address(there, family), family)
    who = f"{here.node} -> {there.node}"
    with ExitStack() as opened:
        wires = opened.enter_context(Wires(proving.lab))
        end = opened.enter_context(tap(proving.lab.pods[there.id], "eth0"))
        send(proving.lab.pods[here.id], [udp(flow, marker)])
        if first_on(end, lambda each: _is(each, flow) and marker in each.raw, ANSWER_SECONDS) is None:
            yield f"{who}: does not arrive"
        seen = wires.so_far()
    readable = with_marker(seen, marker)
    ends = {each.node for each in readable if each.node in (here.node, there.node)}
    if promise.around is Outer.WIREGUARD:
        yield from (f"{who}: can be read on the cable of {each.node}" for each in readable)
        yield from _wireguard_problems(proving, who, here, there, seen)
        return
    if ends != {here.node, there.node}:
        yield f"{who}: seen on the cables of {', '.join(sorted(ends)) or 'nobody'} only"
    for each in readable:
        if each.node not in (here.node, there.node):
            yield f"{who}: on the cable of {each.node}, too"
        elif promise.around is Outer.VXLAN:
            yield from (f"{who}: {said}" for said in _vxlan_problems(proving, here, there, each))
        elif not ((frame := each.frame()) and _is(frame, flow)):
            yield f"{who}: not as it is, but inside of something"


def _vxlan_problems(proving: Proving, here: PodHost, there: PodHost, seen: Seen) -> Iterator[str]:
    settings = proving.options.settings.vxlan
    packet = vxlan(seen.raw, settings.port)
    if packet is None:
        yield f"no VXLAN packet to port {settings.port}"
        return
    outer = proving.promise(here.node, there.node).outer or Family.IPV4
    nodes = [proving.topology.nodes[pod.node].source(outer) for pod in (here, there)]
    if [packet.source, packet.destination] != nodes:
        yield f"from {packet.source} to {packet.destination}"
    if (packet.flags, packet.id) != (0x08, settings.id):
        yield f"flags {packet.flags:#x}, VNI {packet.id}"
    if bool(packet.checksum) != (settings.checksum or outer is Family.IPV6):
        yield f"outer checksum {packet.checksum:#x}"
    if not 32768 <= packet.ports[0] <= 65535:  # RFC 7348, section 5: from the dynamic range; by flow
        yield f"from port {packet.ports[0]}"


_ICMP = (1, 58)


def _wireguard_problems(proving: Proving, who: str, here: PodHost, there: PodHost, seen: list[Seen]) -> Iterator[str]:
    """Between the two nodes there is UDP between WireGuard's ports, and nothing else that could be the packet."""
    ends = [proving.topology.nodes[pod.node] for pod in (here, there)]
    port = proving.options.settings.wireguard.port
    frames = [frame for each in seen if each.node == there.node and (frame := each.frame())]
    # Of a node's addresses the kernel chooses the one it sends from, and the other end answers there.
    between = [frame for frame in frames if all(end.owns(frame.source) or end.owns(frame.destination) for end in ends)]
    if not any(frame.ports == (port, port) for frame in between):
        yield f"{who}: no packet of WireGuard on the cable of {there.node}"
    # Nodes tell one another by ICMP what they could not deliver, and then quote nothing but WireGuard.
    odd = [frame for frame in between if port not in frame.ports and frame.protocol not in _ICMP]
    yield from (f"{who}: ports {frame.ports}, protocol {frame.protocol}" for frame in odd)


def _flow(pod: PodHost, to: IPAddress, family: Family) -> Flow:
    return Flow(address(pod, family), SOURCE_PORT, to, PORT)


def _is(frame: Frame, flow: Flow) -> bool:
    ends = (frame.source, frame.destination, frame.ports)
    return ends == (flow.source, flow.destination, (flow.source_port, flow.port))


def _send_marked(proving: Proving, pod: PodHost, to: IPAddress, marker: bytes) -> None:
    family = Family(to.version)
    send(proving.lab.pods[pod.id], [udp(_flow(pod, to, family), marker)])
