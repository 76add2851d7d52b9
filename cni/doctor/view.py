"""What the checks look at: the host as the calling thread's namespace shows it. Reads only, each fact once.

Every property may raise what its source raises; the check that asked then cannot run, the others can.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

from cni import conflist, store
from cni.attachment import LINK_PREFIXES
from cni.config import Mode, NetworkConfig
from cni.conflist import NetworkList
from cni.result import IPInterface
from cni.store import Record
from netplane.errors import InputError
from netplane.kernel import netlink, sysctls
from netplane.kernel.netlink import NetlinkSocket, Request, as_text, attributes
from netplane.model.address import IPNetwork

_GET_LINK, _GET_ADDRESS, _GET_ROUTE = 18, 22, 26
_LINK = struct.Struct("=BBHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_NEXT_HOP = struct.Struct("=HBBi")
_U32 = struct.Struct("=I")
_MAIN_TABLE, _UNICAST, _ANNOUNCED = 254, 1, 9  # RTPROT_RA
_ANYWHERE = {2: "0.0.0.0/0", 10: "::/0"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where things are on this host."""

    conf_dir: Path = Path("/etc/cni/net.d")
    bin_dir: Path = Path("/opt/cni/bin")
    run_dir: Path = Path("/run/netplane")
    state_dir: Path = Path("/var/lib/netplane")

    @property
    def socket(self) -> Path:
        """Where the agent listens to the launcher."""
        return self.run_dir / "cni.sock"

    @property
    def spool(self) -> Path:
        """Where the launcher keeps deletions while no agent answers."""
        return self.journal / "spool"

    @property
    def journal(self) -> Path:
        """The folder of the attachments."""
        return self.state_dir / "cni"


@dataclass(frozen=True, slots=True)
class SeenLink:
    """A link. `kind` is the driver's name ("bridge", "veth", "vxlan"), "" for hardware."""

    name: str
    index: int
    mtu: int
    kind: str


@dataclass(frozen=True, slots=True)
class SeenRoute:
    """A route of the main table, and the index of a link it leads over."""

    to: IPNetwork
    link: int
    announced: bool = False
    """By a router of IPv6: the kernel heard it (`accept_ra`)."""


class View:
    """The host, for the checks. Belongs to the thread that asks first."""

    def __init__(self, place: Place) -> None:
        self.place = place

    @cached_property
    def network(self) -> NetworkList | None:
        """The network of all Pods; None if there is none, or it cannot be read: that is one check's business."""
        try:
            return conflist.first(self.place.conf_dir)
        except InputError:
            return None

    @cached_property
    def config(self) -> NetworkConfig | None:
        """Our plugin's part of it, decoded; None if it has none, or it is wrong."""
        try:
            return conflist.checked(self.network) if self.network else None
        except InputError:
            return None

    @cached_property
    def mode(self) -> Mode | None:
        """How Pods are attached; None where that is not known."""
        return self.config.mode if self.config else None

    @cached_property
    def bridge(self) -> str:
        """The name of the Pods' bridge, "" where they are not on one."""
        return self.config.bridge.name if self.config and self.config.mode is Mode.BRIDGE else ""

    @cached_property
    def records(self) -> list[Record]:
        """The attachments in the journal; none where there is no journal."""
        return store.read(self.place.journal)

    @cached_property
    def boot(self) -> str:
        """What tells this boot of the host from others."""
        return sysctls.read("kernel/random/boot_id")

    @cached_property
    def links(self) -> dict[str, SeenLink]:
        """All links, by name."""
        found = (_link(payload) for payload in _dump(_GET_LINK, _LINK.pack(0, 0, 0, 0, 0, 0)))
        return {link.name: link for link in found}

    @cached_property
    def own_links(self) -> list[SeenLink]:
        """The links whose names say that they are ours, by name."""
        prefixes = tuple(LINK_PREFIXES.values())
        return sorted((each for name, each in self.links.items() if name.startswith(prefixes)), key=lambda it: it.name)

    @cached_property
    def addresses(self) -> list[tuple[int, IPInterface]]:
        """All addresses, with the index of their link."""
        return [_address(payload) for payload in _dump(_GET_ADDRESS, _ADDRESS.pack(0, 0, 0, 0, 0))]

    @cached_property
    def routes(self) -> list[SeenRoute]:
        """The routes of the main table, once for each link they use."""
        dumped = _dump(_GET_ROUTE, _ROUTE.pack(0, 0, 0, 0, 0, 0, 0, 0, 0))
        return [route for payload in dumped for route in _routes(payload)]

    @cached_property
    def pod_networks(self) -> list[IPNetwork]:
        """Where Pods of this node have their addresses, as far as configuration and journal say; sorted."""
        sets = self.config.ipam.sets if self.config and self.config.ipam else ()
        found = {each.subnet for ranges in sets for each in ranges}
        # A routed Pod's own address is no network.
        found |= {each.network for each in self._attached if each.network.prefixlen < each.max_prefixlen}
        return sorted(found, key=lambda each: (each.version, each.network_address.packed, each.prefixlen))

    @cached_property
    def versions(self) -> frozenset[int]:
        """4, 6 or both: which families Pods have addresses of; 4 where nothing says."""
        known = {each.version for each in self.pod_networks} | {each.version for each in self._attached}
        return frozenset(known or {4})

    @cached_property
    def paths(self) -> list[SeenLink]:
        """The links packets leave the node by: those of default routes, and of routes into the cluster's ranges."""
        cluster = self.config.masquerade_not_to if self.config else ()
        by_index = {link.index: link for link in self.links.values() if link.name != self.bridge}
        used = {each.link for each in self.routes if each.to.prefixlen == 0 or _inside(each.to, cluster)}
        used -= {link.index for link in self.own_links}
        return sorted((by_index[each] for each in used if each in by_index), key=lambda link: link.name)

    @property
    def _attached(self) -> list[IPInterface]:
        return [each.address for record in self.records for each in record.attachment.addresses]


def _inside(network: IPNetwork, ranges: tuple[IPNetwork, ...]) -> bool:
    return any(each.version == network.version and each.overlaps(network) for each in ranges)


def _dump(kind: int, payload: bytes) -> list[bytes]:
    with NetlinkSocket(netlink.ROUTE, "doctor") as kernel:
        return kernel.dump(Request(kind, payload), "look at the network")


def _link(payload: bytes) -> SeenLink:
    found = attributes(payload, _LINK.size)
    described = attributes(found.get(18, b""))
    mtu = _U32.unpack(found[4])[0] if 4 in found else 0
    return SeenLink(as_text(found[3]), _LINK.unpack_from(payload)[3], mtu, as_text(described.get(1, b"")))


def _address(payload: bytes) -> tuple[int, IPInterface]:
    _, length, _, _, index = _ADDRESS.unpack_from(payload)
    found = attributes(payload, _ADDRESS.size)
    return index, ip_interface((ip_address(found.get(2) or found[1]), length))


def _routes(payload: bytes) -> Iterator[SeenRoute]:
    family, length, _, _, table, protocol, _, kind, _ = _ROUTE.unpack_from(payload)
    if table != _MAIN_TABLE or kind != _UNICAST or family not in _ANYWHERE:
        return
    found = attributes(payload, _ROUTE.size)
    to = ip_network((found[1], length)) if 1 in found else ip_network(_ANYWHERE[family])
    if 4 in found:
        yield SeenRoute(to, _U32.unpack(found[4])[0], protocol == _ANNOUNCED)
    yield from (SeenRoute(to, link, protocol == _ANNOUNCED) for link in _next_hops(found.get(9, b"")))


def _next_hops(several: bytes) -> Iterator[int]:
    start = 0
    while len(several) - start >= _NEXT_HOP.size:
        size, _, _, link = _NEXT_HOP.unpack_from(several, start)
        yield link
        start += max((size + 3) & ~3, _NEXT_HOP.size)
