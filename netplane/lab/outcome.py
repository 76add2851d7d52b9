"""Outcomes in the words of a case: which pods are reached, by name, and whether they see the sender. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from netplane.lab.topology import Topology
from netplane.model.address import Protocol
from netplane.plan.oracle import Deliver, Outcome, Untouched
from netplane.plan.plan import Drop, Endpoint, Reject


@dataclass(frozen=True, slots=True, order=True)
class Arrival:
    """Somebody who is reached: `namespace/pod`, `node NAME`, or an address of nobody in the cluster."""

    at: str
    masqueraded: bool = False

    def __str__(self) -> str:
        return f"{self.at} masqueraded" if self.masqueraded else self.at


@dataclass(frozen=True, slots=True)
class Reaches:
    """The packet reaches one of these; with `sticky`, always the same one."""

    to: frozenset[Arrival]
    sticky: bool = False

    def __str__(self) -> str:
        return ("one of " if self.sticky else "") + ", ".join(map(str, sorted(self.to)))


Named = Reaches | Drop | Reject | Untouched
WORDS: dict[str, Named] = {"drop": Drop(), "reject": Reject(), "untouched": Untouched()}


def named(outcome: Outcome, protocol: Protocol | None, topology: Topology) -> Named:
    """An outcome of the oracle, or an observed one, with names for addresses."""
    if not isinstance(outcome, Deliver):
        return outcome
    arrivals = (Arrival(name_of(each.endpoint, protocol, topology), each.masqueraded) for each in outcome.to)
    return Reaches(frozenset(arrivals), outcome.sticky)


def name_of(endpoint: Endpoint, protocol: Protocol | None, topology: Topology) -> str:
    """Who is behind an endpoint."""
    name = topology.name_of(endpoint.address, (protocol or Protocol.TCP, endpoint.port))
    return str(endpoint.address) if name == "outside" else name


def say(outcome: Named, topology: Topology) -> str:
    """An outcome as `packets.txt` writes it: pods by name alone where that is enough."""
    if not isinstance(outcome, Reaches):
        return next(word for word, each in WORDS.items() if each == outcome)
    short = (Arrival(_short(each.at, topology), each.masqueraded) for each in outcome.to)
    return str(Reaches(frozenset(short), outcome.sticky))


def _short(name: str, topology: Topology) -> str:
    namespace, _, bare = name.partition("/")
    return bare if namespace and sum(pod.name == bare for pod in topology.pods) == 1 else name
