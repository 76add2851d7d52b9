"""The oracle: what the plan says happens to one packet. Every backend is compared with this answer."""

from __future__ import annotations

from dataclasses import dataclass

from netplane.model.address import IPAddress, Protocol
from netplane.plan.plan import Drop, Endpoint, FrontendRow, Origin, Plan, Reject


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a new connection as it arrives at, or leaves, the plan's node."""

    origin: Origin
    source: IPAddress
    destination: IPAddress
    protocol: Protocol
    port: int
    """Destination port."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One way a packet may go. `masqueraded`: the endpoint sees an address of the node instead of the sender's."""

    endpoint: Endpoint
    masqueraded: bool


@dataclass(frozen=True, slots=True)
class Deliver:
    """The packet goes to one of these, uniformly at random; with `sticky`, to the same one as last time."""

    to: tuple[Delivery, ...]
    sticky: bool = False


@dataclass(frozen=True, slots=True)
class Untouched:
    """The packet is none of our business and follows the node's routes."""


Outcome = Deliver | Drop | Reject | Untouched


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer, the row it comes from (None: no row names the packet) and the reason in words."""

    outcome: Outcome
    row: FrontendRow | None
    reason: str


def decide(plan: Plan, packet: Packet) -> Decision:
    """What happens to `packet` on the plan's node."""
    raise AssertionError(f"written next: {plan.node.name} {packet}")
