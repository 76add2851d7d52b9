"""How this node reaches one other: a function of what it is itself, what the other has, and the paths to that one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from netplane.errors import Problem
from netplane.model.address import Family, IPAddress, IPNetwork, family_of
from netplane.plan.network_claims import KEY_FIELD
from netplane.plan.network_names import inner_addresses
from netplane.plan.network_plan import VXLAN_LINKS, WIREGUARD_LINK, Path, PeerPlan, Tunnel, Way
from netplane.plan.network_settings import Mode, NetworkSettings
from netplane.plan.plan import Note

VXLAN_OVERHEAD = {Family.IPV4: 50, Family.IPV6: 70}
"""Bytes of outer IP, UDP and VXLAN headers and the inner Ethernet header (RFC 7348)."""
WIREGUARD_OVERHEAD = {Family.IPV4: 60, Family.IPV6: 80}
"""Bytes of outer IP and UDP headers, and of WireGuard's own with its tag."""
SMALLEST_PACKET = {Family.IPV4: 68, Family.IPV6: 1280}
"""What every link must take (RFC 791, RFC 8200)."""

_OUR_LINKS = frozenset((*VXLAN_LINKS.values(), WIREGUARD_LINK))
_ADDRESSES = "status.addresses"
_WITHOUT = "its {family} Pods are not reached: this node has no {family} address"


@dataclass(frozen=True, slots=True)
class Here:
    """What this node is to all others. `families`: of its Pod ranges. `keyed`: whether it has a key that they know.

    `routed`: whether it speaks BGP with a router.
    """

    name: str
    settings: NetworkSettings
    addresses: tuple[IPAddress, ...]
    families: frozenset[Family]
    keyed: bool = False
    routed: bool = False

    def has(self, family: Family) -> bool:
        """Whether it has an address of that family."""
        return address_of(self.addresses, family) is not None


@dataclass(frozen=True, slots=True)
class Other:
    """What another node has, and keeps. `key_fault`, `mac_fault`: why it cannot be reached by these, "" if it can."""

    name: str
    addresses: tuple[IPAddress, ...]
    ranges: tuple[IPNetwork, ...]
    mac: bytes = b""
    mac_fault: str = ""
    key: str = ""
    key_fault: str = ""
    routed: bool = False

    def families(self) -> frozenset[Family]:
        """Of its Pod ranges."""
        return frozenset(map(family_of, self.ranges))


@dataclass(slots=True)
class Reached:
    """How a node is reached, and what is to be told. `takes`: bytes of a packet to its Pods that the way allows."""

    plan: PeerPlan
    takes: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def problem(self, part: str, why: str) -> None:
        """Something is wrong with that field of the Node."""
        self.problems.append(Problem("", f"Node {self.plan.node}: {part}", why))

    def note(self, said: str) -> None:
        """Something about the Node is worth knowing."""
        self.notes.append(Note(f"Node {self.plan.node}", said))


def address_of(addresses: Iterable[IPAddress], family: Family) -> IPAddress | None:
    """The first address of that family."""
    return next((each for each in addresses if each.version == family), None)


def reach(here: Here, other: Other, paths: Mapping[IPAddress, Path]) -> Reached:
    """How `other` is reached from `here`."""
    made = Reached(PeerPlan(other.name, Way.NONE, addresses=other.addresses, unreachable=other.ranges))
    if not other.ranges or not other.addresses or not here.addresses:
        return made  # each has its Problem where it was found
    match here.settings.mode:
        case Mode.HOST_GW:
            _directly(made, here, other, paths)
        case Mode.VXLAN:
            _by_vxlan(made, here, other, paths)
        case Mode.CROSS_SUBNET if _routed_between(here, other, paths):
            _by_vxlan(made, here, other, paths)
        case Mode.CROSS_SUBNET:
            _directly(made, here, other, paths)
        case Mode.WIREGUARD:
            _by_wireguard(made, here, other, paths)
        case Mode.BGP:
            _by_bgp(made, here, other, paths)
    return _fitted(made, here)


def _path(made: Reached, address: IPAddress, paths: Mapping[IPAddress, Path]) -> Path | None:
    """The path to an address of the node, or a Problem."""
    path = paths.get(address)
    if path is None:
        made.problem(_ADDRESSES, f"this host has no route to {address}; add one, or correct the address")
    elif path.link == "lo":
        made.problem(_ADDRESSES, f"{address} is an address of this host too; give one of them another")
        return None
    elif path.link in _OUR_LINKS:
        why = f"the route to {address} leads into {path.link}, which needs it itself; add one by another link"
        made.problem(_ADDRESSES, why)
        return None
    return path


def _ways(made: Reached, way: Way, ranges: Iterable[IPNetwork], **more: object) -> None:
    """`made` reaches these ranges in that way, and not the others."""
    reached = tuple(ranges)
    rest = tuple(each for each in made.plan.unreachable if each not in reached)
    if reached:
        made.plan = replace(made.plan, way=way, ranges=reached, unreachable=rest, **more)  # type: ignore[arg-type]


# --- directly ---------------------------------------------------------------------------------------------------------


def _shared(here: Here, other: Other) -> frozenset[Family]:
    """The families that decide how two nodes reach each other: the same ones, whichever of the two asks."""
    return here.families & other.families() or here.families | other.families()


def _routed_between(here: Here, other: Other, paths: Mapping[IPAddress, Path]) -> bool:
    """Whether packets between the two must be carried: a router is between, or a family has no address to go by."""
    for family in _shared(here, other):
        address = address_of(other.addresses, family)
        if address is None or not here.has(family):
            return True
        path = paths.get(address)
        if path is not None and not path.on_link:
            return True
    return False


def _directly(made: Reached, here: Here, other: Other, paths: Mapping[IPAddress, Path]) -> None:
    """By way of its own address, family by family."""
    found: dict[Family, tuple[IPAddress, Path]] = {}
    for family in sorted(other.families()):
        if (hop := _next_hop(made, here, family, paths)) is not None:
            found[family] = hop
    links = [path.link for _, path in found.values()]
    for family in [family for family, (_, path) in found.items() if path.link != links[0]]:
        address, path = found.pop(family)
        why = f"{address} is reached over {path.link}, its other address over {links[0]}; have both on one link"
        made.problem(_ADDRESSES, why)
    if found:
        made.takes = min(path.mtu for _, path in found.values())
        hops = tuple(address for address, _ in found.values())
        reached = [each for each in other.ranges if family_of(each) in found]
        _ways(made, Way.DIRECT, reached, link=links[0], mtu=made.takes, next_hops=hops)


def _next_hop(
    made: Reached, here: Here, family: Family, paths: Mapping[IPAddress, Path]
) -> tuple[IPAddress, Path] | None:
    """Its address of that family, if that is on-link; else a Problem or, where nothing here needs it, a note."""
    address = address_of(made.plan.addresses, family)
    if not here.has(family):  # the other could not answer, even if it can be reached
        made.note(_WITHOUT.format(family=family))
        return None
    bare = "plain text" if here.settings.mode is Mode.WIREGUARD else f"mode {here.settings.mode.value}"
    if address is None:
        why = f"has no {family} address, which its {family} Pod range needs with {bare}; add one, or use mode vxlan"
        made.problem(_ADDRESSES, why)
        return None
    path = _path(made, address, paths)
    if path is not None and not path.on_link:
        why = f"{address} is behind a router, which {bare} cannot pass; use mode cross-subnet"
        made.problem(_ADDRESSES, why)
        return None
    return None if path is None else (address, path)


# --- overlays ---------------------------------------------------------------------------------------------------------


def _outside(made: Reached, here: Here, other: Other, paths: Mapping[IPAddress, Path]) -> tuple[IPAddress, Path] | None:
    """Where packets that carry others go: over IPv4 if both nodes have it, whatever the paths are.

    Both nodes must come to the same answer, or each would drop what the other sends: it would come by the wrong link.
    """
    for family in Family:
        address = address_of(other.addresses, family)
        if address is not None and here.has(family):
            path = _path(made, address, paths)
            return None if path is None else (address, path)
    have = " and ".join(str(family) for family in Family if here.has(family))
    made.problem(_ADDRESSES, f"has no {have} address, and Node {here.name} has no other; add one of a family of both")
    return None


def _by_vxlan(made: Reached, here: Here, other: Other, paths: Mapping[IPAddress, Path]) -> None:
    if other.mac_fault:
        made.problem("metadata.name", other.mac_fault)
    elif (outside := _outside(made, here, other, paths)) is not None:
        address, path = outside
        family = family_of(address)
        made.takes = path.mtu - VXLAN_OVERHEAD[family]
        tunnel = Tunnel(address, inner_addresses(other.ranges), mac=other.mac)
        _ways(made, Way.VXLAN, other.ranges, link=VXLAN_LINKS[family], mtu=made.takes, tunnel=tunnel)


def _by_wireguard(made: Reached, here: Here, other: Other, paths: Mapping[IPAddress, Path]) -> None:
    """Enciphered; in plain text only if the settings allow that and one of the two has no key."""
    plaintext = here.settings.wireguard.plaintext
    if plaintext and (other.key_fault or not here.keyed):
        made.note("its Pods are reached in plain text: " + (other.key_fault or f"Node {here.name} has no key"))
        _directly(made, here, other, paths)
    elif other.key_fault:
        made.problem(KEY_FIELD, other.key_fault)
    elif here.keyed and (outside := _outside(made, here, other, paths)) is not None:
        address, path = outside
        made.takes = path.mtu - WIREGUARD_OVERHEAD[family_of(address)]
        tunnel = Tunnel(address, inner_addresses(other.ranges), key=other.key)
        _ways(made, Way.WIREGUARD, other.ranges, link=WIREGUARD_LINK, mtu=made.takes, tunnel=tunnel)


# --- BGP --------------------------------------------------------------------------------------------------------------


def _by_bgp(made: Reached, here: Here, other: Other, paths: Mapping[IPAddress, Path]) -> None:
    """As bird learns, where that can be: a router between nodes must speak BGP with both, or it drops the packets."""
    reached: set[Family] = set()
    for family in sorted(other.families()):
        address = address_of(other.addresses, family)
        if not here.has(family):
            made.note(_WITHOUT.format(family=family))
        elif address is None:
            why = f"has no {family} address, which its {family} Pod range needs with mode bgp; add one, or use vxlan"
            made.problem(_ADDRESSES, why)
        elif _passable(made, here, other, paths.get(address), address):
            reached.add(family)
            path = paths.get(address)
            made.takes = min(made.takes or path.mtu, path.mtu) if path else made.takes
    _ways(made, Way.BGP, [each for each in other.ranges if family_of(each) in reached], mtu=made.takes)


def _passable(made: Reached, here: Here, other: Other, path: Path | None, address: IPAddress) -> bool:
    """Whether packets to its Pods can get there by routes that bird learns. Without a path they may be able to soon."""
    if path is None:
        made.problem(_ADDRESSES, f"this host has no route to {address}; add one, or correct the address")
        return True
    if path.on_link or (here.routed and other.routed):
        return True
    alone = other.name if here.routed else here.name
    why = f"{address} is behind a router, and no entry of bgp.peers is for Node {alone}"
    made.problem(_ADDRESSES, f"{why}: the router would not know its Pods; add one, or use mode cross-subnet")
    return False


# --- sizes ------------------------------------------------------------------------------------------------------------


def _fitted(made: Reached, here: Here) -> Reached:
    """`made` with the largest packet that way and settings allow, without what needs larger ones."""
    if not made.takes:
        return made
    wanted = here.settings.mtu
    mtu = min(made.takes, wanted) if wanted else made.takes
    fits = [each for each in made.plan.ranges if mtu >= SMALLEST_PACKET[family_of(each)]]
    for family in sorted({family_of(each) for each in made.plan.ranges} - set(map(family_of, fits))):
        whose = "network setting mtu" if mtu == wanted else f"the way to it over {made.plan.link or 'its link'}"
        why = f"its {family} Pods are not reached: {whose} leaves {mtu} bytes for a packet,"
        made.problem("spec.podCIDRs", f"{why} and {family} needs {SMALLEST_PACKET[family]}; make that larger")
    if not fits:
        unreachable = (*made.plan.ranges, *made.plan.unreachable)
        made.plan = PeerPlan(made.plan.node, Way.NONE, addresses=made.plan.addresses, unreachable=unreachable)
        made.takes = 0
    elif len(fits) < len(made.plan.ranges):
        rest = tuple(each for each in made.plan.ranges if each not in fits)
        hops = tuple(each for each in made.plan.next_hops if family_of(each) in set(map(family_of, fits)))
        tunnel = made.plan.tunnel and replace(made.plan.tunnel, inner=inner_addresses(fits))
        left = (*made.plan.unreachable, *rest)
        made.plan = replace(made.plan, ranges=tuple(fits), unreachable=left, next_hops=hops, tunnel=tunnel, mtu=mtu)
    elif mtu != made.plan.mtu:
        made.plan = replace(made.plan, mtu=mtu)
    return made
