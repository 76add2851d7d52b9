"""Settings of the Pod network across nodes: one choice of the cluster's operator, the same on every node."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from netplane.model.address import IPAddress, IPNetwork

LARGEST_MTU, SMALLEST_MTU = 65535, 1280  # IPv6 needs 1280 bytes (RFC 8200, section 5)


class Mode(Enum):
    """How Pods of one node reach those of another."""

    VXLAN = "vxlan"
    HOST_GW = "host-gw"
    CROSS_SUBNET = "cross-subnet"
    """Directly where the next hop is on-link, by VXLAN where a router is between."""
    BGP = "bgp"
    WIREGUARD = "wireguard"


class PodsToNodes(Enum):
    """How Pods reach the own addresses of nodes whose Pods are behind an overlay."""

    OVERLAY = "overlay"
    """By it, both ways: nothing with a Pod's address is ever outside of it."""
    DIRECT = "direct"
    """Without it, under the Pod's address, which the network between has to take; answers come by the overlay."""


@dataclass(frozen=True, slots=True)
class Vxlan:
    """RFC 7348. `id` is the VNI. `checksum`: whether outer UDP packets over IPv4 carry one."""

    id: int = 4097
    port: int = 4789
    checksum: bool = False


@dataclass(frozen=True, slots=True)
class Wireguard:
    """`keepalive` in seconds, 0 for none. `plaintext`: reach nodes without a key directly instead of not at all."""

    port: int = 51820
    keepalive: int = 0
    plaintext: bool = False


@dataclass(frozen=True, slots=True)
class BgpPeer:
    """A router that is no node of the cluster, as every node that `nodes` (label = value, all of them) selects sees it.

    `password_file`: absolute path of a file on the node that holds the MD5 password (RFC 2385), "" for none.
    """

    address: IPAddress
    asn: int
    password_file: str = ""
    nodes: tuple[tuple[str, str], ...] = ()
    multihop: bool = False


@dataclass(frozen=True, slots=True)
class Bgp:
    """RFC 4271. `mesh`: every node speaks with every other (iBGP) unless `reflectors` selects nodes, by label, that
    reflect routes (RFC 4456): then nodes speak with those only, and those with each other.

    `password_file` is for sessions between nodes.
    """

    asn: int = 64512
    mesh: bool = True
    reflectors: tuple[tuple[str, str], ...] = ()
    password_file: str = ""
    peers: tuple[BgpPeer, ...] = ()
    hold_seconds: int = 90
    graceful_restart_seconds: int = 120
    advertise_external_ips: bool = False
    advertise_load_balancer_ips: bool = False


class Announce(Enum):
    """How the world outside finds a load-balancer address."""

    NEIGHBOURS = "neighbours"
    """One elected node answers ARP and neighbour discovery for it."""
    BGP = "bgp"
    """Every node announces it (external traffic policy Local: every node with an endpoint)."""
    NONE = "none"


@dataclass(frozen=True, slots=True)
class LoadBalancers:
    """Where addresses of Services of type LoadBalancer come from: first and last address of each pool."""

    pools: tuple[tuple[IPAddress, IPAddress], ...] = ()
    announce: Announce = Announce.NEIGHBOURS


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """How this cluster wants its Pod network.

    `cluster_ranges`: all Pod ranges come out of these, and packets to what no node has in them never leave a node.
    `no_masquerade`: besides Pods, nodes and Services, what Pods reach under their own address.
    `mtu`: no packet between Pods is larger, in bytes; 0: what the way takes.
    """

    mode: Mode
    cluster_ranges: tuple[IPNetwork, ...] = ()
    masquerade: bool = True
    no_masquerade: tuple[IPNetwork, ...] = ()
    mtu: int = 0
    clamp_mss: bool = True
    pods_to_nodes: PodsToNodes = PodsToNodes.OVERLAY
    vxlan: Vxlan = field(default_factory=Vxlan)
    wireguard: Wireguard = field(default_factory=Wireguard)
    bgp: Bgp = field(default_factory=Bgp)
    load_balancers: LoadBalancers = field(default_factory=LoadBalancers)

    @property
    def nodes_directly(self) -> bool:
        """Whether Pods reach nodes beside an overlay of their Pods. Never beside one that enciphers."""
        return self.pods_to_nodes is PodsToNodes.DIRECT and self.mode in (Mode.VXLAN, Mode.CROSS_SUBNET)
