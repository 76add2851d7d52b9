"""Compare what was seen with what the oracle says. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from netplane.lab.observe import Mixed, Observation
from netplane.lab.outcome import named, say
from netplane.lab.topology import Topology
from netplane.model.address import IPAddress
from netplane.plan.oracle import Decision, Deliver, Delivery, Outcome

Arrived = tuple[IPAddress, int, bool]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was expected and what was seen, in words; `differences` is empty if they agree."""

    expected: str
    seen: str
    differences: tuple[str, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether the packets did what the oracle says."""
        return not self.differences


def compare(decision: Decision, observation: Observation, topology: Topology) -> Comparison:
    """Whether an observation is what a decision promised."""
    protocol = observation.probe.protocol
    expected, seen = decision.outcome, observation.outcome
    text = seen.what if isinstance(seen, Mixed) else say(named(seen, protocol, topology), topology)
    differences = (*_differences(expected, seen, observation), *observation.troubles)
    return Comparison(say(named(expected, protocol, topology), topology), text, differences)


def _differences(expected: Outcome, seen: Outcome | Mixed, observation: Observation) -> tuple[str, ...]:
    if not isinstance(expected, Deliver) or not isinstance(seen, Deliver):
        return () if expected == seen else ("it ended otherwise",)
    source = observation.probe.source
    wanted = {arrived for delivery in expected.to for arrived in _arrivals(delivery, source)}
    found = {_arrived(delivery) for delivery in seen.to}
    surplus = tuple(f"reached {_text(each)}, which it should not" for each in sorted(found - wanted, key=str))
    if expected.sticky:
        reached = {(address, port) for address, port, _ in found}
        return (*surplus, "did not stay with one endpoint") if len(reached) > 1 else surplus
    missing = tuple(
        f"never reached {_text(_arrived(delivery))} in {observation.tries} tries"
        for delivery in expected.to
        if not found & set(_arrivals(delivery, source))
    )
    return (*surplus, *missing)


def _arrived(delivery: Delivery) -> Arrived:
    return (delivery.endpoint.address, delivery.endpoint.port, delivery.masqueraded)


def _arrivals(delivery: Delivery, source: IPAddress) -> tuple[Arrived, ...]:
    """How a delivery may look. A node that talks to itself cannot be told from its masqueraded self."""
    address, port, masqueraded = _arrived(delivery)
    return ((address, port, True), (address, port, False)) if address == source else ((address, port, masqueraded),)


def _text(arrived: Arrived) -> str:
    address, port, masqueraded = arrived
    return f"{address} port {port}{' masqueraded' if masqueraded else ''}"
