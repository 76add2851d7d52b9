"""The words of a network plan: how this node reaches every other, and what may come and go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from netplane.errors import Problem
from netplane.model.address import IPAddress, IPNetwork
from netplane.plan.network_settings import Bgp, NetworkSettings
from netplane.plan.plan import Note

if TYPE_CHECKING:
    from netplane.plan.network_memory import NetworkMemory

VXLAN_LINKS = {4: "np-vxlan4", 6: "np-vxlan6"}
"""By the family of the outer packets."""
WIREGUARD_LINK = "np-wg"
PUBLIC_KEY_ANNOTATION = "netplane.dev/wireguard-public-key"


class Way(Enum):
    """How packets get to the Pods of another node."""

    DIRECT = "direct"
    """Routed to its address, which is on-link."""
    VXLAN = "vxlan"
    WIREGUARD = "wireguard"
    BGP = "bgp"
    """As the routes say that bird learns."""
    NONE = "none"
    """Not at all: a Problem of the plan says why. Packets to its Pods are refused, never sent elsewhere."""


@dataclass(frozen=True, slots=True)
class Path:
    """How the kernel reaches another node's address now: over `link`, with packets of at most `mtu` bytes."""

    link: str
    mtu: int
    on_link: bool
    source: IPAddress | None = None


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What the plan needs to know of this host. An address without a path is not reached at all now.

    `networks`: the networks that are directly on each link that is not ours. `public_key`: this node's own key for
    WireGuard, "" if it has none. `silent`: nodes that do not answer, as far as this node can tell. `addresses`: what
    the host has on whatever link and may send from, without what netplane gave it.
    """

    paths: Mapping[IPAddress, Path] = field(default_factory=dict)
    networks: Mapping[str, tuple[IPNetwork, ...]] = field(default_factory=dict)
    public_key: str = ""
    silent: frozenset[str] = frozenset()
    addresses: frozenset[IPAddress] = frozenset()


@dataclass(frozen=True, slots=True)
class Tunnel:
    """The far end of an overlay: `outer` is the node's address, `inner` its address on the overlay link (at most one
    of each family: the network address of its first Pod range, which no Pod ever gets).

    `mac` for VXLAN, a function of the node's name; `key` for WireGuard.
    """

    outer: IPAddress
    inner: tuple[IPAddress, ...]
    mac: bytes = b""
    key: str = ""


@dataclass(frozen=True, slots=True)
class PeerPlan:
    """How this node reaches one other.

    `mtu`: bytes of the largest packet between a Pod here and one there, 0 where that is not known (NONE, and BGP
    without a route to it); for BGP it is what the way to its address takes.
    `link`: the link packets leave by. `next_hops`: for DIRECT, its address of each family. `tunnel`: for overlays.
    A range of a family in which it cannot be reached is not in `ranges` but in `unreachable`. A range that another
    node has a better claim to is in neither, and may be inside one of that node's.
    """

    node: str
    way: Way
    ranges: tuple[IPNetwork, ...] = ()
    addresses: tuple[IPAddress, ...] = ()
    link: str = ""
    mtu: int = 0
    next_hops: tuple[IPAddress, ...] = ()
    tunnel: Tunnel | None = None
    unreachable: tuple[IPNetwork, ...] = ()


@dataclass(frozen=True, slots=True)
class Overlay:
    """This node's end of an overlay. `mtu`: of the link, the largest any peer takes; routes say less where needed.

    `sources`: what the node's own packets have as source in it where nobody chose, and may have besides `inner`: the
    address of each family that others know it by, if the host has it. `mac` for VXLAN; `key`, this node's public one,
    for WireGuard.
    """

    link: str
    outer: IPAddress
    inner: tuple[IPAddress, ...]
    mtu: int
    mac: bytes = b""
    key: str = ""
    sources: tuple[IPAddress, ...] = ()


@dataclass(frozen=True, slots=True)
class BgpSession:
    """One session, for the routes of the family of its addresses: two nodes of two families have two.

    `name` is a word for people and for bird, unique on this node: `node_n2`, `node_n2_v6`, `router_198_18_0_1`.
    `client`: the other end is a node to which this one reflects routes.
    """

    name: str
    local: IPAddress
    remote: IPAddress
    asn: int
    password_file: str = ""
    multihop: bool = False
    client: bool = False


@dataclass(frozen=True, slots=True)
class BgpPlan:
    """What this node says and hears. `announced`: its own Pod ranges, and addresses of Services.

    `accepted`: no route that is not inside one of these is let in. `cluster_id`: only of a reflector.
    In other modes than BGP there is one only for load-balancer addresses: no Pod range is announced, none accepted.
    """

    settings: Bgp
    router_id: IPAddress
    """An IPv4 address, or a number of 32 bits written as one where the node has none."""
    sessions: tuple[BgpSession, ...]
    announced: tuple[IPNetwork, ...]
    accepted: tuple[IPNetwork, ...]
    cluster_id: IPAddress | None = None


@dataclass(frozen=True, slots=True)
class Announced:
    """A load-balancer address that this node answers for on a link."""

    address: IPAddress
    link: str


@dataclass(frozen=True, slots=True)
class NetworkPlan:
    """The Pod network as one node makes it. `peers` by node, sorted by name.

    `ranges` and `addresses` are this node's own. `keeps_source`: where Pods are not masqueraded: Pods, nodes,
    Services and what the settings add; merged and sorted. `confined`: ranges out of which no packet leaves the
    node unless a peer has it (the cluster ranges, and every known Pod range).
    `uplinks`: links on which others than Pods of this node are, sorted.
    `pod_mtu`: bytes of the largest packet a Pod here may send to any Pod, 0 if there is no peer to know it from.
    """

    node: str
    settings: NetworkSettings
    ranges: tuple[IPNetwork, ...] = ()
    addresses: tuple[IPAddress, ...] = ()
    peers: Mapping[str, PeerPlan] = field(default_factory=dict)
    overlays: tuple[Overlay, ...] = ()
    keeps_source: tuple[IPNetwork, ...] = ()
    confined: tuple[IPNetwork, ...] = ()
    uplinks: tuple[str, ...] = ()
    pod_mtu: int = 0
    bgp: BgpPlan | None = None
    announced: tuple[Announced, ...] = ()
    load_balancer_addresses: tuple[IPAddress, ...] = ()
    """Every address of the pools that a Service has: what is not translated is not for the node itself."""
    problems: tuple[Problem, ...] = ()
    notes: tuple[Note, ...] = ()
    memory: NetworkMemory | None = field(default=None, compare=False, repr=False)
    """What it was made from, for `previous` of `plan_network`: of no meaning to anybody else."""
