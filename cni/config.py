"""The network configuration: what standard input holds, decoded. docs/cni.md lists every option with its default.

The names of the options are the reference plugins' where these have one, so that a bridge + host-local + portmap
conflist works after its `type` was changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from cni.result import Dns, Result, Route
from netplane.model.address import IPAddress, IPNetwork, Protocol


class Mode(Enum):
    """How a container is attached. CHAINED: another plugin made the interface and the result is passed on."""

    BRIDGE = "bridge"
    ROUTED = "routed"
    LOOPBACK = "loopback"
    CHAINED = "chained"


@dataclass(frozen=True, slots=True)
class BridgeOptions:
    """How the bridge and a port of it are set up. `vlan` 0: none."""

    name: str = "cni0"
    hairpin: bool = True
    isolated: bool = False
    promiscuous: bool = False
    vlan: int = 0
    gateway: bool = True
    """Whether the bridge has the gateway's address."""
    force_address: bool = False
    """Whether other addresses of the same family are taken off the bridge."""


@dataclass(frozen=True, slots=True)
class Range:
    """Addresses `first` to `last` of `subnet`; `gateway` is never given away, nor is IPv4's broadcast address."""

    subnet: IPNetwork
    first: IPAddress
    last: IPAddress
    gateway: IPAddress


RangeSet = tuple[Range, ...]
"""Ranges of one family that do not overlap. A container gets one address of each set."""

OWN_IPAM = "netplane"


@dataclass(frozen=True, slots=True)
class IpamOptions:
    """Who gives addresses away: we (`type` is OWN_IPAM), or another plugin (`type`).

    `node_ranges`: besides `sets`, the pod ranges of this node's Node object. `requested` are addresses that the
    runtime asked for by CNI_ARGS, args or capabilities, in this order; each must be in one of the sets.
    """

    type: str = OWN_IPAM
    sets: tuple[RangeSet, ...] = ()
    node_ranges: bool = False
    routes: tuple[Route, ...] = ()
    import_from: str = ""
    """A folder of host-local whose addresses count as taken: `/var/lib/cni/networks/NAME`."""
    quarantine: float = 30.0
    """Seconds an address rests before it is given away again, unless no other is left."""
    requested: tuple[IPAddress, ...] = ()
    resolv_conf: str = ""
    """A file whose name servers the runtime is told (host-local's `resolvConf`); `dns` comes before it."""

    @property
    def delegated(self) -> bool:
        """Whether another plugin gives the addresses away."""
        return self.type != OWN_IPAM


@dataclass(frozen=True, slots=True)
class PortMapping:
    """A hostPort. `host_address` None: every address of the node."""

    protocol: Protocol
    host_port: int
    container_port: int
    host_address: IPAddress | None = None


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Limits, seen from the container: `ingress` towards it. Rates in bit/s, bursts in bit; 0: no limit."""

    ingress_rate: int = 0
    ingress_burst: int = 0
    egress_rate: int = 0
    egress_burst: int = 0


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """One plugin's configuration in a request, decoded with what the runtime added to it."""

    version: str
    name: str
    type: str
    mode: Mode = Mode.BRIDGE
    bridge: BridgeOptions = BridgeOptions()
    mtu: int = 0
    """0: as large as the path to the node's peers allows."""
    default_route: bool = True
    masquerade: bool = True
    masquerade_not_to: tuple[IPNetwork, ...] = ()
    """Where Pods' packets keep their address besides the Pod's own network: the cluster's ranges."""
    snat: bool = True
    """Whether clients of a hostPort on localhost, and in the network of the Pod, are masqueraded (portmap's `snat`)."""
    duplicate_address_detection: bool = False
    interface: bool = True
    """False: `disableContainerInterface`, the link is made but stays down and has no address."""
    synchronous_delete: bool = False
    mac: bytes = b""
    """Six bytes that were asked for; empty: derived from the address."""
    ipam: IpamOptions | None = IpamOptions()
    ports: tuple[PortMapping, ...] = ()
    bandwidth: Bandwidth | None = None
    sysctls: tuple[tuple[str, str], ...] = ()
    """Inside the container, `net/...` with slashes, for its interface where they name one. On the allow-list."""
    dns: Dns | None = None
    previous: Result | None = None
    valid_attachments: frozenset[tuple[str, str]] | None = None
    """GC: container and ifname of all that are valid; None if the list is missing."""
    raw: Mapping[str, Any] = field(default_factory=dict)
    """The whole configuration, for other plugins (`ipam.type`)."""
