"""`netplane packet`: what happens to one packet."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path

import click

from netplane.cli.options import from_option, known_node, node_option, output_option, planned, say, settings_options
from netplane.cli.values import decision_value
from netplane.errors import InputError
from netplane.model.address import IPAddress, Protocol
from netplane.model.snapshot import Snapshot
from netplane.plan.oracle import Decision, Deliver, Oracle, Packet, Untouched
from netplane.plan.plan import Drop, Origin, Plan
from netplane.plan.settings import PodRange, Settings
from netplane.sources.fields import shown

# 10.96.0.10:80/tcp   [fd00::a]:53/udp   10.96.0.10/icmp
_DESTINATION = re.compile(r"(?:\[(?P<six>[^\]]+)\]|(?P<four>[^:/\[\]]+))(?::(?P<port>[0-9]+))?/(?P<protocol>\w+)\Z")


@click.group("packet")
def group() -> None:
    """What happens to one packet."""


@group.command()
@click.argument("source_", metavar="FROM")
@click.argument("destination", metavar="ADDRESS:PORT/PROTOCOL")
@from_option
@node_option
@click.option("--origin", type=click.Choice([each.value for each in Origin]), help="Where it comes from, if not clear.")
@settings_options
@output_option
def decide(
    source_: str, destination: str, source: Path, node: str, origin: str | None, settings: Settings, output: str
) -> None:
    """Ask the oracle what happens on --node to a new connection.

    FROM is a Pod (name or namespace/name), `node`, or an address. PROTOCOL is tcp, udp, sctp or icmp:
    `netplane packet decide frontend-1 10.96.0.10:80/tcp --from examples/shop --node n1`.
    """
    result = planned(source, node, settings)
    known_node(result.plan)
    to, port, protocol = _destination(destination)
    address, found = _sender(source_, to, result.loaded.snapshot, result.plan)
    packet = Packet(Origin(origin) if origin else found, address, to, protocol, port)
    decision = Oracle(result.plan).decide(packet)
    text = f"{packet.origin.value} {packet.source} -> {destination}: {outcome_text(decision)}\n  {decision.reason}"
    say(output, {"origin": packet.origin.value, "source": str(packet.source)} | decision_value(decision), text)


def outcome_text(decision: Decision) -> str:
    """`deliver to 10.0.1.5:8080 (web-1), 10.0.2.6:8080 (web-2) masqueraded`, `drop`, `reject`, `untouched`."""
    match decision.outcome:
        case Deliver(to, sticky):
            ways = [
                f"{way.endpoint}{f' ({way.endpoint.pod})' if way.endpoint.pod else ''}"
                f"{' masqueraded' if way.masqueraded else ''}"
                for way in to
            ]
            return ("always the same of " if sticky and len(ways) > 1 else "deliver to ") + ", ".join(ways)
        case Untouched():
            return "untouched"
        case Drop():
            return "drop"
        case _:
            return "reject"


def _destination(text: str) -> tuple[IPAddress, int, Protocol | None]:
    match = _DESTINATION.match(text)
    if not match:
        raise InputError(
            f"destination {shown(text)}: write ADDRESS:PORT/PROTOCOL, like 10.96.0.10:80/tcp or [fd00::a]:53/udp"
        )
    try:
        address = ip_address(match["six"] or match["four"])
    except ValueError:
        raise InputError(
            f"destination {shown(text)}: {shown(match['six'] or match['four'])} is not an IP address"
        ) from None
    name = match["protocol"].upper()
    if name in {"ICMP", "ICMPV6"}:
        return address, 0, None
    if name not in Protocol.__members__:
        raise InputError(f"destination {shown(text)}: protocol {shown(name.lower())} is none of tcp, udp, sctp, icmp")
    port = int((match["port"] or "").lstrip("0")[:6] or 0)  # six digits are too many; thousands int() itself refuses
    if not 1 <= port <= 65535:
        raise InputError(f"destination {shown(text)}: {name.lower()} needs a port from 1 to 65535")
    return address, port, Protocol[name]


def _sender(text: str, to: IPAddress, snapshot: Snapshot, plan: Plan) -> tuple[IPAddress, Origin]:
    """The sender's address in the destination's family, and the origin that follows from who it is."""
    if text == "node":
        return _of_family(plan.node.addresses, to, f"Node {plan.node.name}"), Origin.NODE
    try:
        address = ip_address(text)
    except ValueError:
        return _pod(text, to, snapshot, plan)
    if address.version != to.version:
        raise InputError(f"sender {text} and destination {to} are of different families")
    return address, _origin_of(address, snapshot, plan)


def _pod(text: str, to: IPAddress, snapshot: Snapshot, plan: Plan) -> tuple[IPAddress, Origin]:
    pods = [pod for pod in snapshot.pods.values() if text in {str(pod.id), pod.id.name}]
    if len(pods) != 1:
        which = f"{len(pods)} Pods are called so" if pods else "no Pod is called so"
        raise InputError(f"sender {shown(text)}: {which}; give a Pod as namespace/name, `node`, or an address")
    address = _of_family(pods[0].addresses, to, f"Pod {pods[0].id}")
    if pods[0].host_network and pods[0].node == plan.node.name:
        return address, Origin.NODE
    return address, _origin_of(address, snapshot, plan)


def _of_family(addresses: tuple[IPAddress, ...], to: IPAddress, who: str) -> IPAddress:
    for address in addresses:
        if address.version == to.version:
            return address
    raise InputError(f"{who} has no IPv{to.version} address to reach {to} from")


def _origin_of(address: IPAddress, snapshot: Snapshot, plan: Plan) -> Origin:
    if address in plan.node.addresses:
        return Origin.NODE
    if isinstance(plan.settings.local, PodRange):
        return Origin.POD if any(address in each for each in plan.settings.local.networks) else Origin.OUTSIDE
    # By link: a Pod of this node arrives over its own, anybody else's packets do not.
    mine = {each for pod in snapshot.pods.values() if pod.node == plan.node.name for each in pod.addresses}
    return Origin.POD if address in mine else Origin.OUTSIDE
