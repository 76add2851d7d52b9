"""What a spelled program is asked and what it must answer: everybody to every frontend, and to much beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from ipaddress import ip_address
from random import Random

from generated.clusters import NODE_IPS, OUTER_IPS, POD_IPS, World

from netplane.model.address import IPAddress, Protocol, family_of
from netplane.plan.node import plan_node
from netplane.plan.oracle import Deliver, Outcome, Packet, Untouched
from netplane.plan.plan import Drop, Origin, Plan, Reject, ThisNode
from netplane.plan.settings import Bridge, InterfacePrefix, PodRange

ODD = tuple(map(ip_address, ("10.244.1.250", "fd00:244:1::250", "10.96.0.53", "fd00:96::53")))
"""Addresses of the node in the range of its Pods (its bridge has one) and in that of the Services (a DNS cache has)."""
LOCAL = frozenset((*NODE_IPS["n1"], *ODD))
"""All of these are local, whether or not the Node object names them."""
LOOPBACK = (ip_address("127.0.0.1"), ip_address("::1"))
FREE = tuple(map(ip_address, ("10.96.0.77", "fd00:96::77", "192.0.2.222", "2001:db8::222")))

TEXTS = "192.0.2.1 192.0.2.127 192.0.2.128 192.0.2.200 8.8.8.8 2001:db8::1 2001:db8::1ff 2001:db8::200 2600::1"
SOURCES = (*map(ip_address, TEXTS.split()), *POD_IPS["n1"], *POD_IPS["n2"][:2], *OUTER_IPS, *ODD[:2])
"""Pods here and elsewhere, nodes, strangers, and the edges of source ranges."""

Target = tuple[IPAddress, int, Protocol | None]


@dataclass(frozen=True)
class Sent:
    """The packet goes on to `address` and `port`; it was translated there, or never touched."""

    address: str
    port: int
    masqueraded: bool


Outcomes = dict[Sent | str, Fraction]
"""How likely each is: where the packet goes, or "drop", "reject", "reject with tcp reset", "untouched"."""


def expected(outcome: Outcome) -> Outcomes:
    """The oracle's answer as rules show it."""
    match outcome:
        case Deliver(to):
            return {
                Sent(str(each.endpoint.address), each.endpoint.port, each.masqueraded): Fraction(1, len(to))
                for each in to
            }
        case Drop():
            return {"drop": Fraction(1)}
        case Reject():
            return {"reject": Fraction(1)}
        case Untouched():
            return {"untouched": Fraction(1)}


def targets(plan: Plan, local: Iterable[IPAddress] = LOCAL) -> tuple[set[Target], list[Target]]:
    """Every frontend; and the same addresses, and others, with other protocols and ports or an echo."""
    here = (*local, *LOOPBACK)
    named = {
        (address, row.frontend.port, row.frontend.protocol)
        for row in plan.rows()
        for address in (here if isinstance(row.frontend.address, ThisNode) else (row.frontend.address,))
        if family_of(address) is row.frontend.family
    }
    addresses = {*here, *FREE, *(address for address, *_ in named)}
    numbers = {number for _, number, _ in named} | {9}
    beside: list[Target] = [(address, number, each) for address in addresses for number in numbers for each in Protocol]
    beside += [(address, 0, None) for address in addresses]
    return named, [each for each in beside if each not in named and family_of(each[0]) in plan.families]


def arrival(plan: Plan, origin: Origin, source: IPAddress, local: Iterable[IPAddress] = LOCAL) -> str | None:
    """The link over which such a packet comes, "" for none; None if it cannot be of that origin."""
    if origin is Origin.NODE:
        return "" if source in local else None
    match plan.settings.local:
        case PodRange(networks):
            inside = any(source in network for network in networks)
            return "eth0" if inside is (origin is Origin.POD) else None
        case Bridge(name):
            return name if origin is Origin.POD else f"{name}1"
        case InterfacePrefix(prefix):
            return f"{prefix}7" if origin is Origin.POD else f"x{prefix}7"


def packets(
    plan: Plan, random: Random, local: Iterable[IPAddress] = LOCAL, sources: Iterable[IPAddress] = SOURCES
) -> Iterator[tuple[Packet, str]]:
    """Everybody to every frontend, and a few to everything beside them; each with the link it comes over."""
    named, beside = targets(plan, local)
    some = {*named, *random.sample(sorted(beside, key=str), min(len(beside), 25))}
    for address, number, protocol in sorted(some, key=str):
        for source in sources:
            if source.version == address.version:
                for origin in Origin:
                    if (link := arrival(plan, origin, source, local)) is not None:
                        yield Packet(origin, source, address, protocol, number), link


@cache
def plans(seed: int) -> list[Plan]:
    """Two plans of a random world."""
    world, made = World(seed), []
    for _ in range(2):
        world.change()
        made.append(plan_node(world.snapshot, "n1", world.settings))
    return made
