"""A WireGuard device, whoever serves it: the kernel (generic netlink) or a process (text on a socket)."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Protocol

from netplane.closing import Closing
from netplane.kernel import netlink, wireguard_netlink, wireguard_uapi
from netplane.kernel.link_orders import EXCLUSIVE, LINK, NEW_LINK
from netplane.kernel.links import Links, Order
from netplane.kernel.netlink import CREATE, NetlinkSocket, Refused, Request, acknowledged, nested, text
from netplane.kernel.wireguard_changes import DeviceChange, DeviceFound
from netplane.kernel.wireguard_go import ANSWER_SECONDS, WireguardGo, missing

KERNEL_KIND, PROCESS_KIND = "wireguard", "tun"
"""Of links, as the kernel calls them."""


class WireguardDevice(Protocol):
    """One way of having WireGuard. Devices are in the network namespace of the thread that makes this."""

    def read(self, link: str) -> DeviceFound | None:
        """What the device has; None if there is none. Raises KernelError if it cannot be asked."""

    def change(self, link: str, change: DeviceChange, private: bytes | None) -> None:
        """Change it. `private`: the key whose public half `change.key` is. Raises KernelError."""

    def missing(self) -> str:
        """What this host lacks for it; "" if nothing."""

    def make(self, link: str) -> None:
        """Make a device, down and without peers. Raises RequirementError or KernelError."""

    def remove(self, link: str) -> None:
        """Remove what is there of the device that is no link. Nothing there is fine."""

    def close(self) -> None:
        """Let go of sockets; devices live on."""


class KernelDevice(Closing):
    """Linux's own."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._netlink = NetlinkSocket(netlink.GENERIC, "wireguard")
        self._family = 0

    def read(self, link: str) -> DeviceFound | None:
        """See `WireguardDevice.read`."""
        if not self._known():
            return None
        doing = f"read the device {link}"
        try:
            payloads = self._netlink.dump(wireguard_netlink.get_request(self._family, link), doing)
        except Refused as refused:
            if refused.refusal.errno in (errno.ENODEV, errno.EOPNOTSUPP):  # no link, or one of another kind
                return None
            raise
        return wireguard_netlink.device(payloads, doing)

    def change(self, link: str, change: DeviceChange, private: bytes | None) -> None:
        """See `WireguardDevice.change`."""
        self._known()
        for request in wireguard_netlink.set_requests(self._family, link, change, private):
            for refusal in self._netlink.transact([acknowledged(request)]):
                raise Refused("wireguard", f"change the device {link}", refusal)

    def missing(self) -> str:
        """See `WireguardDevice.missing`."""
        return "" if self._known() else "WireGuard in the kernel (CONFIG_WIREGUARD, Linux 5.6; modprobe wireguard)"

    def make(self, link: str) -> None:
        """See `WireguardDevice.make`."""
        self._links.carry_out([new_wireguard(link)])

    def remove(self, link: str) -> None:
        """See `WireguardDevice.remove`: a device is its link."""

    def close(self) -> None:
        """See `WireguardDevice.close`."""
        self._netlink.close()

    def _known(self) -> bool:
        self._family = self._family or wireguard_netlink.family(self._netlink)
        return bool(self._family)


class ProcessDevice(Closing):
    """wireguard-go's."""

    def __init__(self, run: Path) -> None:
        self._processes = WireguardGo(run)

    def read(self, link: str) -> DeviceFound | None:
        """See `WireguardDevice.read`."""
        answer = self._processes.ask(link, wireguard_uapi.GET)
        return None if answer is None else wireguard_uapi.device(answer, f"read the device {link}")

    def change(self, link: str, change: DeviceChange, private: bytes | None) -> None:
        """See `WireguardDevice.change`."""
        answer = self._processes.ask(link, wireguard_uapi.set_text(change, private), CHANGE_SECONDS)
        wireguard_uapi.check(answer or "", f"change the device {link}")

    def missing(self) -> str:
        """See `WireguardDevice.missing`."""
        return missing()

    def make(self, link: str) -> None:
        """See `WireguardDevice.make`."""
        self._processes.start(link)

    def remove(self, link: str) -> None:
        """See `WireguardDevice.remove`: the process, or what it left."""
        self._processes.stop(link)

    def left(self, link: str) -> bool:
        """Whether `remove` has anything to do."""
        return self._processes.left(link)

    def here(self, link: str) -> bool:
        """Whether the process of a link is in the network namespace of the calling thread."""
        return self._processes.here(link)

    def close(self) -> None:
        """See `WireguardDevice.close`."""
        self._processes.close()


CHANGE_SECONDS = 4 * ANSWER_SECONDS
"""A process computes with the key of every new peer."""


def new_wireguard(name: str) -> Order:
    """A WireGuard link, down."""
    payload = LINK.pack(0, 0, 0, 0, 0, 0) + text(3, name) + nested(18, text(1, KERNEL_KIND))
    return Order(f"make link {name}", Request(NEW_LINK, payload, CREATE | EXCLUSIVE))
