"""The oracle: what the plan says happens to one packet. Every backend is compared with this answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from netplane.model.address import Family, IPAddress, Protocol, family_of
from netplane.model.service import ServiceId
from netplane.plan.plan import (
    Drop,
    Endpoint,
    Forward,
    Frontend,
    FrontendRow,
    Origin,
    Plan,
    Reject,
    ThisNode,
)
from netplane.plan.settings import NodePortScope


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a new connection as it arrives at, or leaves, the plan's node.

    `protocol` is None for a protocol without ports (ICMP); `port` is the destination port, 0 where there is none.
    """

    origin: Origin
    source: IPAddress
    destination: IPAddress
    protocol: Protocol | None
    port: int = 0


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


class Oracle:
    """Answers for one plan. `local` are further addresses of the node, beyond those of its Node object."""

    def __init__(self, plan: Plan, local: Iterable[IPAddress] = ()) -> None:
        self._plan = plan
        self._local = frozenset((*plan.node.addresses, *local))
        self._rows = {row.frontend: row for row in plan.rows()}
        self._cluster_ips: dict[IPAddress, ServiceId] = {
            address: service.service for service in plan.services.values() for address in service.cluster_ips
        }

    def decide(self, packet: Packet) -> Decision:
        """What happens to `packet` on the plan's node."""
        family = family_of(packet.destination)
        if family not in self._plan.families:
            return Decision(Untouched(), None, f"{family} is not served on this node")
        if row := self._row_of(packet, packet.destination):
            return self._by_row(row, packet)
        if owner := self._cluster_ips.get(packet.destination):
            return Decision(Reject(), None, f"Service {owner} has no such port, and a cluster IP answers nothing else")
        if any(packet.destination in network for network in self._plan.settings.service_ranges):
            return Decision(Drop(), None, "no Service has this address of the Service range")
        if self.is_node_port_address(packet.destination) and (row := self._row_of(packet, _this_node(family))):
            return self._by_row(row, packet)
        return Decision(Untouched(), None, "no Service has this address and port")

    def is_node_port_address(self, address: IPAddress) -> bool:
        """Whether node ports answer on this address of the node."""
        if address not in self._local or address.is_loopback:
            return False
        match self._plan.settings.node_ports:
            case NodePortScope.ALL:
                return True
            case NodePortScope.PRIMARY:
                return address in self._plan.node.primary_addresses()
            case networks:
                return any(address in network for network in networks)

    def _row_of(self, packet: Packet, address: IPAddress | ThisNode) -> FrontendRow | None:
        if packet.protocol is None:
            return None
        return self._rows.get(Frontend(address, packet.protocol, packet.port))

    def _by_row(self, row: FrontendRow, packet: Packet) -> Decision:
        name = f"{row.kind.value} of Service {row.service_port}"
        if row.allowed and not any(packet.source in network for network in row.allowed):
            return Decision(Drop(), row, f"{name}: {packet.source} is outside its source ranges")
        match row.verdicts[packet.origin]:
            case Forward(pool, masquerade):
                to = tuple(self._delivery(endpoint, packet, masquerade) for endpoint in pool.endpoints)
                sticky = pool.affinity is not None
                return Decision(Deliver(to, sticky), row, f"{name}, from {packet.origin.value}")
            case Drop():
                return Decision(Drop(), row, f"{name}: no usable endpoint on this node, but elsewhere")
            case Reject():
                return Decision(Reject(), row, f"{name}: no usable endpoint anywhere")

    def _delivery(self, endpoint: Endpoint, packet: Packet, masquerade: bool) -> Delivery:
        """What arrives at the node's own address never leaves it, so there is no way out on which to masquerade it.

        Nor is there a need: the reply starts on this node.
        """
        arrives = packet.origin is not Origin.NODE and endpoint.address in self._local
        hairpin = endpoint.address == packet.source and endpoint.may_be_on(self._plan.node.name)
        return Delivery(endpoint, (masquerade or hairpin) and not arrives)


def decide(plan: Plan, packet: Packet) -> Decision:
    """What happens to `packet` on the plan's node. For many packets of one plan, keep an `Oracle`."""
    return Oracle(plan).decide(packet)


def _this_node(family: Family) -> ThisNode:
    return ThisNode.IPV4 if family is Family.IPV4 else ThisNode.IPV6
