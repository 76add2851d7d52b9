"""An attachment: everything one interface of one container needs, decided. The plan of the CNI plugin.

It is made from configuration, addresses and facts of the host (`plan.py`), says nothing about how a kernel does it, and
is what the journal keeps: checking, repairing and removing need nothing else.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import NamedTuple

from cni.config import Bandwidth, BridgeOptions, Mode, PortMapping
from cni.result import Dns, IPInterface, Route
from netplane.model.address import IPAddress, IPNetwork

LINK_PREFIXES = {Mode.BRIDGE: "npb", Mode.ROUTED: "npr"}
"""How a host link's name says that it is ours, and in which mode (15 characters are the kernel's limit)."""


class AttachmentId(NamedTuple):
    """What tells attachments apart (CNI specification, "attachment"): network, container, interface."""

    network: str
    container: str
    ifname: str

    def __str__(self) -> str:
        return f"{self.network}/{self.container}/{self.ifname}"


class NetnsId(NamedTuple):
    """Which namespace it is, in this boot, whatever its path: device and inode of the nsfs file, and its cookie.

    Inodes are used again for other namespaces, cookies never are (SO_NETNS_COOKIE, Linux 5.14; 0 where there is none).
    """

    device: int
    inode: int
    cookie: int = 0


@dataclass(frozen=True, slots=True)
class PodAddress:
    """An address of the container. `gateway`: its next hop, also the host's address where the host is the gateway."""

    address: IPInterface
    gateway: IPAddress | None = None


@dataclass(frozen=True, slots=True)
class Attachment:
    """One interface. `link` is the host's end, "" where another plugin made it (CHAINED)."""

    id: AttachmentId
    mode: Mode
    netns: str
    """CNI_NETNS: what the runtime calls it."""
    netns_id: NetnsId
    link: str = ""
    mac: bytes = b""
    host_mac: bytes = b""
    mtu: int = 0
    bridge: BridgeOptions | None = None
    addresses: tuple[PodAddress, ...] = ()
    routes: tuple[Route, ...] = ()
    """Inside the container, besides what `addresses` imply; the default routes are among them."""
    interface: bool = True
    duplicate_address_detection: bool = False
    masquerade: bool = False
    masquerade_not_to: tuple[IPNetwork, ...] = ()
    """Sorted; the networks of its own addresses are among them."""
    snat: bool = True
    ports: tuple[PortMapping, ...] = ()
    bandwidth: Bandwidth | None = None
    sysctls: tuple[tuple[str, str], ...] = ()
    dns: Dns = field(default_factory=Dns)
    delegate: str = ""
    """`ipam.type` of the plugin that gave the addresses; "" if we did."""
    delegate_config: str = ""
    """What that plugin needs to take them back: the configuration as JSON."""
    cni_path: tuple[str, ...] = ()
    pod: str = ""
    """`namespace/name` of the Pod, for people; "" if the runtime did not say."""
    netns_seen: bool = False
    """CHAINED: whether `netns` led us there, too. Where it did, its absence says that the container is gone."""


def link_name(mode: Mode, attachment: AttachmentId) -> str:
    """The host's link: the same for the same attachment, so that it is found again without memory."""
    words = "\0".join(attachment).encode()
    return LINK_PREFIXES[mode] + hashlib.sha256(words).hexdigest()[:12]
