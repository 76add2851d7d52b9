"""Send probes, many at a time, and say what became of them in the oracle's words.

Every try of a probe is a socket of its own. A refusal is an ICMP or ICMPv6 port unreachable that quotes the try,
seen on a raw socket next to the client: a connect error would not tell it from a TCP reset, and over IPv6 would
come a second late. A drop is silence while a control packet, sent after everything else, gets its answer. What the
address translation did is read from the connection tracking of the node that decided.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from netplane.kernel import conntrack
from netplane.kernel.conntrack import Connection
from netplane.lab.asking import Asking, Refusal, Try
from netplane.lab.namespaces import Lab
from netplane.lab.probe import Probe, deciding_node
from netplane.lab.servers import Answer
from netplane.lab.topology import NodeHost, Topology
from netplane.model.address import IPAddress, host_port
from netplane.plan.oracle import Deliver, Delivery, Outcome, Untouched
from netplane.plan.plan import Drop, Endpoint, Reject

_MISS = 1e-6
"""How improbable it must be that a fair choice leaves out an endpoint that we wait for,"""
_OVERLOOK = 1e-3
"""and that we stop before an endpoint shows that should not be there."""
_FEW, _STICKY = 4, 14


@dataclass(frozen=True, slots=True)
class Mixed:
    """No single outcome: different tries ended differently, or something happened that no outcome has a word for."""

    what: str


@dataclass(frozen=True, slots=True)
class Observation:
    """What became of all tries of one probe. `troubles` are facts that contradict any expectation."""

    probe: Probe
    outcome: Outcome | Mixed
    tries: int
    troubles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """A probe and the outcome that is expected: it says how often to try."""

    probe: Probe
    expected: Outcome

    def least(self) -> int:
        """Tries after which an endpoint too many would have shown."""
        match self.expected:
            case Deliver(sticky=True):
                return _STICKY
            case Deliver(to):
                return _tries(len(to) + 1, _OVERLOOK)
            case _:
                return _FEW

    def most(self) -> int:
        """Tries after which every endpoint of a fair choice has shown."""
        match self.expected:
            case Deliver(to, sticky=False):
                return max(self.least(), _tries(len(to), _MISS / len(to)))
            case _:
                return self.least()


def observe(lab: Lab, questions: Sequence[Question]) -> list[Observation]:
    """Ask everything at once and return what happened, in order. Raises KernelError if the lab itself is broken."""
    with Asking(lab) as asking:
        tries = [asking.send(question.probe, question.least()) for question in questions]
        asking.wait()
        pending = [index for index, question in enumerate(questions) if _unseen(question, tries[index])]
        while pending:
            for index in pending:
                question, done = questions[index], tries[index]
                done += asking.send(question.probe, min(question.least(), question.most() - len(done)))
            asking.wait()
            pending = [index for index in pending if _unseen(questions[index], tries[index])]
    tracked = _Tracked(lab, [question.probe for question in questions])
    return [
        _observation(lab.topology, question, done, tracked) for question, done in zip(questions, tries, strict=True)
    ]


def nodes_on_path(probe: Probe, topology: Topology) -> tuple[NodeHost, ...]:
    """The nodes that may decide about the probe: the first that sees it, and the one it is addressed to."""
    here = deciding_node(probe.sender, topology)
    there = topology.node_at(probe.destination)
    return (here,) if there is None or here.owns(probe.destination) else (here, there)


def _tries(choices: int, risk: float) -> int:
    """The least n with (1 - 1/choices) ** n <= risk."""
    n, left = 1, 1 - 1 / choices
    while left > risk:
        n, left = n + 1, left * (1 - 1 / choices)
    return n


def _unseen(question: Question, tries: Sequence[Try]) -> bool:
    """Whether it is worth trying on: all tries so far were answered, and an expected endpoint has not shown."""
    if not isinstance(question.expected, Deliver) or question.expected.sticky or len(tries) >= question.most():
        return False
    answers = [each.answer for each in tries if each.answer]
    seen = {(answer.local, answer.local_port) for answer in answers}
    expected = {(each.endpoint.address, each.endpoint.port) for each in question.expected.to}
    return len(answers) == len(tries) and not expected <= seen


class _Tracked:
    """The connections each deciding node tracks, by what the client sent."""

    def __init__(self, lab: Lab, probes: Iterable[Probe]) -> None:
        self._topology = lab.topology
        self._by_node: dict[str, dict[tuple[object, ...], Connection]] = {}
        for name in {node.name for probe in probes for node in nodes_on_path(probe, lab.topology)}:
            connections = lab.nodes[name].run(conntrack.read)
            self._by_node[name] = {(each.protocol, *each.original): each for each in connections}

    def translated(self, probe: Probe, source_port: int) -> Connection | None:
        """The connection of one try of a probe, on the node that translated it; None if none did."""
        if probe.protocol is None:
            return None
        key = (probe.protocol.number, probe.source, source_port, probe.destination, probe.port)
        found = (self._by_node[node.name].get(key) for node in nodes_on_path(probe, self._topology))
        return next((each for each in found if each is not None and each.translated), None)


def _observation(topology: Topology, question: Question, tries: Sequence[Try], tracked: _Tracked) -> Observation:
    probe = question.probe
    nodes = nodes_on_path(probe, topology)
    troubles: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    deliveries: set[Delivery] = set()
    for each in tries:
        connection = tracked.translated(probe, each.source_port)
        troubles.update(_troubles(topology, probe, each, connection))
        match each.answer, each.refusal:
            case Answer() as answer, _ if _touched(probe, answer, question.expected):
                ends["answered"] += 1
                deliveries.add(_delivery(topology, probe, answer))
            case Answer(), _:
                ends["untouched"] += 1
            case _, Refusal(port_unreachable=True, sender=sender) if any(node.owns(sender) for node in nodes):
                ends["rejected"] += 1
            case _, Refusal() as refusal:
                ends[f"refused with {refusal}"] += 1
            case _:
                ends[each.failure or "silent"] += 1
    outcome = _outcome(ends, deliveries)
    return Observation(
        probe, outcome, len(tries), tuple(f"{text} ({n} of {len(tries)})" for text, n in troubles.items())
    )


def _outcome(ends: Counter[str], deliveries: set[Delivery]) -> Outcome | Mixed:
    match sorted(ends):
        case ["answered"]:
            return Deliver(tuple(sorted(deliveries, key=lambda each: (str(each.endpoint), each.masqueraded))))
        case ["untouched"]:
            return Untouched()
        case ["rejected"]:
            return Reject()
        case ["silent"]:
            return Drop()
    return Mixed(", ".join(f"{number} {end}" for end, number in sorted(ends.items())))


def _touched(probe: Probe, answer: Answer, expected: Outcome) -> bool:
    """Whether an answer shows a translation. An endpoint at the very address that was asked shows none."""
    where = (answer.local, answer.local_port)
    if where != (probe.destination, probe.port):
        return True
    return isinstance(expected, Deliver) and where in {
        (each.endpoint.address, each.endpoint.port) for each in expected.to
    }


def _delivery(topology: Topology, probe: Probe, answer: Answer) -> Delivery:
    pod = topology.pod_at(answer.local)
    there = pod.node if pod else getattr(topology.node_at(answer.local), "name", "")
    endpoint = Endpoint(answer.local, answer.local_port, node=there, pod=answer.name)
    return Delivery(endpoint, masqueraded=answer.client != probe.source)


def _troubles(topology: Topology, probe: Probe, each: Try, connection: Connection | None) -> Iterable[str]:
    """Facts about one try that are wrong whatever was expected."""
    if each.answer is None:
        if connection is not None:
            reply = connection.reply
            to, as_ = host_port(reply.source, reply.source_port), _who(topology, reply.destination)
            yield f"was sent to {to} as {as_}, but no answer came back"
        return
    seen = each.answer
    if seen.client != probe.source and topology.node_at(seen.client) is None:
        yield f"{seen.name} saw the client {seen.client}, which is neither the sender nor a node"
    touched = (seen.local, seen.local_port) != (probe.destination, probe.port)
    if not touched:
        return
    if connection is None:
        yield f"reached {host_port(seen.local, seen.local_port)}, but no node tracks the translation"
    elif (connection.reply.source, connection.reply.source_port) != (seen.local, seen.local_port):
        tracked = host_port(connection.reply.source, connection.reply.source_port)
        yield f"reached {host_port(seen.local, seen.local_port)}, but the node tracks it to {tracked}"
    elif connection.reply.destination != seen.client:
        yield f"{seen.name} saw the client {seen.client}, but the node tracks {connection.reply.destination}"


def _who(topology: Topology, address: IPAddress) -> str:
    node = topology.node_at(address)
    return f"{address} (node {node.name})" if node else str(address)
