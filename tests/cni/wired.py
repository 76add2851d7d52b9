"""A host and containers in anonymous namespaces, wired by `Wiring`, and datagrams between them."""

from __future__ import annotations

import json
import os
import socket
import time
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from cni.attachment import Attachment, AttachmentId, NetnsId, PodAddress, link_name
from cni.config import BridgeOptions, Mode
from cni.plan import NEXT_HOPS, ROUTED_HOST_MAC
from cni.result import Route
from cni.wiring import Wiring
from netplane.closing import Closing
from netplane.errors import KernelError
from netplane.kernel import command
from netplane.kernel.netns import Namespace
from netplane.model.address import Family

HOST = {4: "198.18.0.11", 6: "fd00:198:18::b"}
GATEWAY = {4: "10.244.1.1", 6: "fd00:244:1::1"}
SECONDS = 10.0
"""How long anything may take on a busy machine."""
EVERYWHERE = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}


def address_of(number: int, version: int) -> str:
    """Of container `number`."""
    return f"10.244.1.{10 + number}" if version == 4 else f"fd00:244:1::{10 + number:x}"


def attachment(
    number: int = 1, mode: Mode = Mode.BRIDGE, versions: tuple[int, ...] = (4, 6), ifname: str = "eth0", **changes: Any
) -> Attachment:
    """Container `number`: on bridge cni0, or routed, with an address and a default route of each IP version."""
    id_ = AttachmentId("net", f"c{number}", ifname)
    last = bytes((10, 244, 1, 10 + number))
    lengths = {4: 24, 6: 64} if mode is Mode.BRIDGE else {4: 32, 6: 128}
    gateways = GATEWAY if mode is Mode.BRIDGE else {4: str(NEXT_HOPS[Family.IPV4]), 6: str(NEXT_HOPS[Family.IPV6])}
    addresses = tuple(
        PodAddress(ip_interface(f"{address_of(number, each)}/{lengths[each]}"), ip_address(gateways[each]))
        for each in versions
    )
    values: dict[str, Any] = {
        "link": link_name(mode, id_) if mode is not Mode.CHAINED else "",
        "mac": b"\x0a\x58" + last,
        "host_mac": ROUTED_HOST_MAC if mode is Mode.ROUTED else b"\x0a\x59" + last,
        "mtu": 1450,
        "bridge": BridgeOptions() if mode is Mode.BRIDGE else None,
        "addresses": addresses,
        "routes": tuple(Route(EVERYWHERE[each], ip_address(gateways[each])) for each in versions),
    }
    return Attachment(id_, mode, f"/run/netns/c{number}", NetnsId(1, number), **(values | changes))


class Site(Closing):
    """A host with a wiring. Namespaces made by `container` end with it."""

    def __init__(self) -> None:
        self.host = Namespace()
        self.ip(self.host, "link", "set", "lo", "up")
        for each in HOST.values():
            self.ip(self.host, "address", "add", each, "dev", "lo")
        self.wiring = self.host.run(Wiring)
        self.events = self.wiring.events  # from now on
        self._containers: list[Namespace] = []

    def container(self) -> Namespace:
        made = Namespace()
        self._containers.append(made)
        return made

    def attached(self, *attachments: Attachment) -> list[Namespace]:
        """A container for each."""
        found = []
        for each in attachments:
            found.append(self.container())
            self.wiring.attach(each, found[-1].fd)
        return found

    def run(self, where: Namespace, *words: str) -> str:
        return where.run(lambda: command.run(*words, mechanism="test", doing=" ".join(words)))

    def ip(self, where: Namespace, *words: str) -> str:
        return self.run(where, "ip", *words)

    def links(self, where: Namespace | None = None) -> dict[str, Any]:
        """All links as `ip` shows them."""
        return {each["ifname"]: each for each in json.loads(self.ip(where or self.host, "-d", "-j", "link"))}

    def settled(self) -> None:
        """Wait until all links that are up have carrier: the kernel tells of that later."""
        deadline = time.monotonic() + SECONDS
        while any(each["operstate"] not in ("UP", "UNKNOWN") for each in self.links().values()):
            assert time.monotonic() < deadline, self.links()

    def filters_vlans(self, bridge: str) -> bool:
        """Whether this kernel can, tried on a bridge."""
        try:
            self.ip(self.host, "link", "set", bridge, "type", "bridge", "vlan_filtering", "1")
        except KernelError:
            return False
        return bool(self.links()[bridge]["linkinfo"]["info_data"]["vlan_filtering"])

    def close(self) -> None:
        self.wiring.close()
        for each in (*self._containers, self.host):
            each.close()


def here() -> int:
    """The calling thread's namespace."""
    return os.stat("/proc/thread-self/ns/net").st_ino  # noqa: PTH116


def udp(where: Namespace, address: str = "", port: int = 0) -> socket.socket:
    """A socket in a namespace."""
    domain = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = where.run(lambda: socket.socket(domain, socket.SOCK_DGRAM))
    made.settimeout(SECONDS)
    if address or port:
        made.bind((address, port))
    return made


def answers(asker: Namespace, answerer: Namespace, address: str) -> bool:
    """Whether a datagram reaches an address of `answerer`, and its answer `asker`: tried until it does."""
    with udp(answerer, address) as there, udp(asker, "::" if ":" in address else "0.0.0.0") as own:
        to = there.getsockname()[:2]
        there.settimeout(0.1)
        own.settimeout(0.1)
        for _ in range(int(SECONDS / 0.2)):
            own.sendto(b"?", to)
            try:
                said, back = there.recvfrom(10)
                there.sendto(said, back)
                return own.recv(10) == b"?"
            except OSError:
                continue
        return False
