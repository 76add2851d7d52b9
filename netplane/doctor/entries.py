"""What the kernel should have for one other node, in words, and whether it has it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from netplane.backends.network.routes import frame_of, peer_entries
from netplane.errors import KernelError
from netplane.kernel import routes
from netplane.kernel.links import Links
from netplane.kernel.network_driver import NetworkDriver
from netplane.model.address import IPAddress, IPNetwork
from netplane.plan.network_plan import NetworkPlan, PeerPlan, Way
from netplane.programs.network import NetworkProgram
from netplane.programs.network_changes import FoundNetwork
from netplane.programs.network_lines import forwarding_words, neighbour_words, route_words

_BIRD = 12
"""RTPROT_BIRD"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing the kernel should have. `there`: whether it has exactly this; None if nobody looked."""

    said: str
    there: bool | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What the kernel has: of ours, and the destinations that bird learnt."""

    found: FoundNetwork
    learnt: frozenset[IPNetwork]


def look(want: NetworkProgram) -> Seen:
    """What the kernel of the calling thread's namespace has. Changes nothing."""
    with NetworkDriver(_nothing_is_announced) as driver, Links() as kernel:
        learnt = frozenset(each.to for each in routes.read(kernel, _BIRD))
        return Seen(driver.read(want), learnt)


def entries_of(plan: NetworkPlan, peer: PeerPlan, seen: Seen | None) -> Iterator[Entry]:
    """What `peer` needs, the overlay's link first. WireGuard's own peers are not compared: `wg` shows them."""
    found, learnt = (seen.found, seen.learnt) if seen else (FoundNetwork(), frozenset())

    def entry(words: str, there: bool) -> Entry:
        return Entry(words, there if seen else None)

    entries = peer_entries(peer, frame_of(plan))
    if peer.tunnel:
        yield entry(f"link {peer.link}", peer.link in found.links)
    for key, route in entries.routes.items():
        yield entry(route_words(key, route), found.routes.get(key) == route)
    for (link, address), mac in entries.neighbours.items():
        yield entry(neighbour_words(link, address, mac), found.neighbours.get((link, address)) == mac)
    for (link, mac), to in entries.forwarding.items():
        yield entry(forwarding_words(link, mac, to), found.forwarding.get((link, mac)) == to)
    for each in peer.ranges if peer.way is Way.BGP else ():
        yield entry(f"route {each} proto bird", each in learnt)


def _nothing_is_announced(_link: str, _address: IPAddress) -> None:
    raise KernelError(mechanism="doctor", doing="announce an address", said="nothing is changed here")
