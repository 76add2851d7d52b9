"""The state of links, addresses, neighbours, routes and policy rules of the Pod network, and of what speaks for it.

Everything here is ours by what the kernel shows of it: links by their name (`np-vxlan4`, `np-vxlan6`, `np-wg`),
neighbours and forwarding entries by their link, addresses by their link or (on others' links) by IFA_PROTO, routes and
rules by their protocol number 98. (97 is the CNI plugin's: routes to containers.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from netplane.model.address import IPAddress, IPNetwork

PROTOCOL = 98
"""Who made a route, rule or address: RTPROT_*, IFA_PROTO (Linux 5.18), FRA_PROTOCOL."""
MAIN_TABLE = 254
TABLE = 98
"""The routing table for packets of this node's Pods to other nodes' own addresses."""
RULE_PRIORITY = 98
GROUP = 98
"""IFLA_GROUP of the VXLAN links that we made."""
LINKS = ("np-vxlan4", "np-vxlan6", "np-wg")
"""All links we ever make: found by these names when nothing is known of what was wanted before."""
METRIC, BACKSTOP_METRIC = 98, 9898
"""Of routes: no other of these metrics is replaced by mistake; the second is what catches what has no way just now."""


@dataclass(frozen=True, slots=True)
class VxlanLink:
    """A VXLAN device: static (it never learns), bound to no lower link, without addresses the kernel makes up."""

    name: str
    mac: bytes
    mtu: int
    id: int
    port: int
    local: IPAddress
    checksum: bool


@dataclass(frozen=True, slots=True)
class WireguardPeer:
    """`key`: public, base64 of 32 bytes. `allowed`: what it may send, and what is sent to it. Sorted."""

    key: str
    endpoint: IPAddress
    port: int
    allowed: tuple[IPNetwork, ...]
    keepalive: int = 0


@dataclass(frozen=True, slots=True)
class WireguardLink:
    """A WireGuard device. `key` is the public half of the key it must have: the private one is in no value."""

    name: str
    mtu: int
    port: int
    key: str


Link = VxlanLink | WireguardLink


@dataclass(frozen=True, slots=True)
class LinkAddress:
    """An address of one host on a link, never chosen as source if `announced`: others on the link are told of it."""

    link: str
    address: IPAddress
    announced: bool = False


class RouteKind(Enum):
    """What happens to packets, in the kernel's words. UNREACHABLE tells the sender, BLACKHOLE does not."""

    UNICAST = "unicast"
    UNREACHABLE = "unreachable"
    BLACKHOLE = "blackhole"


@dataclass(frozen=True, slots=True)
class RouteKey:
    """What makes a route the same one."""

    to: IPNetwork
    table: int = MAIN_TABLE
    metric: int = METRIC


@dataclass(frozen=True, slots=True)
class Route:
    """Where packets go. A next hop `via` is taken to be on the link. `mtu` in bytes, 0: the link's.

    `source`: what packets of this host get that have none yet. The kernel takes only an address of the host; when that
    goes it removes IPv4 routes of the main table, and takes it off IPv6 routes.
    """

    kind: RouteKind = RouteKind.UNICAST
    link: str = ""
    via: IPAddress | None = None
    mtu: int = 0
    source: IPAddress | None = None


@dataclass(frozen=True, slots=True)
class SourceRule:
    """Packets from these addresses look into a table before the main one."""

    source: IPNetwork
    table: int = TABLE
    priority: int = RULE_PRIORITY


Neighbours = Mapping[tuple[str, IPAddress], bytes]
"""Link and address -> MAC."""
Forwarding = Mapping[tuple[str, bytes], IPAddress]
"""VXLAN link and MAC -> the node the frame is sent to."""


@dataclass(frozen=True, slots=True)
class NetworkProgram:
    """What the kernel should have. The empty program wants nothing of ours anywhere.

    `bird`: the text of its configuration, "" for no bird. `peers`: by WireGuard link.
    """

    links: Mapping[str, Link] = field(default_factory=dict)
    peers: Mapping[str, Mapping[str, WireguardPeer]] = field(default_factory=dict)
    """By link, then by public key."""
    addresses: frozenset[LinkAddress] = frozenset()
    neighbours: Neighbours = field(default_factory=dict)
    forwarding: Forwarding = field(default_factory=dict)
    routes: Mapping[RouteKey, Route] = field(default_factory=dict)
    rules: frozenset[SourceRule] = frozenset()
    sysctls: Mapping[str, int] = field(default_factory=dict)
    """Set, never unset: others may need them too."""
    bird: str = ""
