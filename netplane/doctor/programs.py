"""Checks of what the kernel must be able to do, and of programs. Tried in a new namespace that is thrown away."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from cni.doctor.finding import Finding, error, ok
from netplane.doctor.view import View
from netplane.kernel import probe
from netplane.kernel.link_orders import EXCLUSIVE, LINK, NEW_LINK
from netplane.kernel.links import Links, Order
from netplane.kernel.netlink import CREATE, Request, attribute, nested, text
from netplane.kernel.netns import Namespace
from netplane.plan.network_settings import Mode

_NAME, _INFO, _KIND, _DATA = 3, 18, 1, 2
_VXLAN_ID = 1


def needed(view: View) -> Iterator[Finding]:
    """Whether this host has what the mode needs; where no mode is asked for, what each would need."""
    modes = [view.mode] if view.mode else [Mode.VXLAN, Mode.WIREGUARD, Mode.BGP]
    for mode in modes:
        if mode in (Mode.VXLAN, Mode.CROSS_SUBNET):
            yield from _told(view, mode, _vxlan())
        elif mode is Mode.WIREGUARD:
            yield from _told(view, mode, _wireguard())
        elif mode is Mode.BGP:
            yield from _told(view, mode, _program("bird", "bird2"))
        else:
            yield ok(f"{mode.value} needs nothing but routes")


def _told(view: View, mode: Mode, found: Finding | str) -> Iterator[Finding]:
    """What is missing is an error for who asked for the mode, and only worth saying for others."""
    if isinstance(found, str):
        yield ok(f"{mode.value}: {found}")
    elif view.mode:
        yield found
    else:
        yield ok(f"{mode.value} is not possible here: {found.what} ({found.mend})")


def _vxlan() -> Finding | str:
    said = tried("vxlan", attribute(_VXLAN_ID, struct.pack("=I", 1)))
    if said is None:
        return "the kernel has VXLAN"
    why = "nodes that are not on one link with this one are not reached"
    return error(f"the kernel has no VXLAN ({said})", why, "modprobe vxlan, or a kernel with CONFIG_VXLAN")


def _wireguard() -> Finding | str:
    said = tried("wireguard")
    if said is None:
        return "the kernel has WireGuard"
    if not probe.missing_programs(("wireguard-go",)):
        return f"the kernel has no WireGuard ({said}), wireguard-go is there"
    return error(
        f"the kernel has no WireGuard ({said}), and wireguard-go is not installed",
        "no other node is reached",
        "modprobe wireguard, or apt install wireguard-go",
    )


def _program(name: str, package: str) -> Finding | str:
    if not probe.missing_programs((name,)):
        return f"{name} is there"
    return error(f"{name} is not installed", "no other node is reached", f"apt install {package}")


def tried(kind: str, data: bytes = b"") -> str | None:
    """Make a link of this kind in a new namespace: None if the kernel does, else what it says."""
    payload = LINK.pack(0, 0, 0, 0, 0, 0) + text(_NAME, "np-tried")
    payload += nested(_INFO, text(_KIND, kind), *((nested(_DATA, data),) if data else ()))
    order = Order(f"make a {kind}", Request(NEW_LINK, payload, CREATE | EXCLUSIVE))
    with Namespace() as scratch, scratch.run(Links) as kernel:
        refused = kernel.attempt([order])
        return refused[0].said if refused else None
