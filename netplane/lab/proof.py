"""What a Pod network promises between two nodes of a lab, in numbers, and who is asked to prove it. Pure.

Said again by the lab, so that netplane is not compared with itself. The proofs are in `proof_packets.py` (addresses,
sizes, what is on the wire), `proof_leaks.py` (what must never be there) and `proof_streams.py` (what must go on).
Each is a function of a `Proving` and a family that returns what is wrong, in words; nothing means proved.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from netplane.errors import InputError
from netplane.lab.namespaces import Lab
from netplane.lab.networked import PodNetworkOptions
from netplane.lab.topology import NodeHost, PodHost, Topology, first
from netplane.model.address import Family, IPAddress, family_of
from netplane.plan.network_settings import Mode

USUAL_MTU = 1500


class Outer(Enum):
    """What is around a packet on its way between two nodes."""

    NOTHING = "nothing"
    VXLAN = "VXLAN"
    WIREGUARD = "WireGuard"


_OVERHEAD = {
    # Outer IP header, UDP 8, VXLAN 8, inner Ethernet 14.
    (Outer.VXLAN, Family.IPV4): 50,
    (Outer.VXLAN, Family.IPV6): 70,
    # Outer IP header, UDP 8, WireGuard's data header 16 and tag 16.
    (Outer.WIREGUARD, Family.IPV4): 60,
    (Outer.WIREGUARD, Family.IPV6): 80,
}


@dataclass(frozen=True, slots=True)
class Promise:
    """Of packets between Pods of two nodes: the largest, in bytes, how many routers count them, and what is around.

    `outer` is the family of what is around, None for nothing.
    """

    mtu: int
    hops: int
    around: Outer
    outer: Family | None = None


@dataclass(frozen=True, slots=True)
class Proving:
    """A lab whose Pod network is up, with servers (`servers.open_doors`, echoing what clients of TCP say)."""

    lab: Lab
    options: PodNetworkOptions

    @property
    def topology(self) -> Topology:
        """Its wiring."""
        return self.lab.topology

    @property
    def mode(self) -> Mode:
        """How nodes reach each other's Pods."""
        return self.options.settings.mode

    def pod(self, node: str) -> PodHost:
        """The first Pod of a node."""
        return next(self.topology.pods_of(node))

    def pairs(self) -> tuple[tuple[PodHost, PodHost], ...]:
        """The first Pod of every node with that of every other, both ways."""
        pods = [self.pod(node) for node in self.topology.nodes]
        return tuple((here, there) for here in pods for there in pods if here is not there)

    def promise(self, here: str, there: str) -> Promise:
        """What is promised between two nodes."""
        nodes = self.topology.nodes[here], self.topology.nodes[there]
        return promise(self.options, *nodes, self.topology.underlay_mtu or USUAL_MTU)


def promise(options: PodNetworkOptions, here: NodeHost, there: NodeHost, underlay: int) -> Promise:
    """What is promised between two nodes whose links carry packets of `underlay` bytes. Raises InputError for none."""
    together = here.subnet == there.subnet
    around = _around(options.settings.mode, together=together)
    mtu = options.settings.mtu or underlay
    if around is Outer.NOTHING:
        return Promise(min(underlay, mtu), 2 if together else 3, around)
    families = {family_of(each) for each in here.addresses} & {family_of(each) for each in there.addresses}
    if not families:
        raise InputError(f"{here.name} and {there.name} have no addresses of one family")
    outer = Family.IPV4 if Family.IPV4 in families else Family.IPV6
    return Promise(min(underlay - _OVERHEAD[around, outer], mtu), 2, around, outer)


def _around(mode: Mode, *, together: bool) -> Outer:
    match mode:
        case Mode.VXLAN:
            return Outer.VXLAN
        case Mode.WIREGUARD:
            return Outer.WIREGUARD
        case Mode.CROSS_SUBNET:
            return Outer.NOTHING if together else Outer.VXLAN
        case Mode.HOST_GW | Mode.BGP:
            return Outer.NOTHING


def address(pod: PodHost, family: Family) -> IPAddress:
    """The Pod's address of a family; InputError if it has none."""
    return first(family, pod.addresses)
