"""What on this host would make Pods fail, and how to mend it. Reads only, changes nothing.

Looks at the network namespace of the calling thread. Checks do not know each other: one that cannot run says so.
Read `examine` first; a check is a function from `view.View` to findings (`node`, `machine`, `kernel`, `firewall`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from cni.doctor import firewall, kernel, machine, node
from cni.doctor.finding import Finding, Level, warning
from cni.doctor.view import Place, View
from netplane.errors import one_line

__all__ = ["CHECKS", "Check", "Examined", "Finding", "Level", "Place", "examine"]


class Check(NamedTuple):
    """One question about the host."""

    name: str
    look: Callable[[View], Iterable[Finding]]


class Examined(NamedTuple):
    """What a check found."""

    check: str
    finding: Finding


CHECKS = (
    Check("configuration", node.configuration),
    Check("executables", node.executables),
    Check("agent", node.agent),
    Check("privacy", node.privacy),
    Check("addresses", node.pool),
    Check("attachments", node.attachments),
    Check("kernel", machine.kernel),
    Check("forwarding", kernel.forwarding),
    Check("router announcements", kernel.announcements),
    Check("bridged packets", kernel.bridged_packets),
    Check("reverse path", kernel.reverse_path),
    Check("packet size", kernel.packet_size),
    Check("bridge", kernel.bridge),
    Check("address conflicts", kernel.address_conflicts),
    Check("rules", firewall.rules),
    Check("forward chains", firewall.forward_chains),
    Check("managers", firewall.managers),
    Check("connections", kernel.connections),
    Check("watches", kernel.watches),
)


def examine(place: Place) -> list[Examined]:
    """What all checks found, in their order. Never raises what a check raises."""
    view = View(place)
    return [Examined(check.name, finding) for check in CHECKS for finding in _looked(check, view)]


def _looked(check: Check, view: View) -> list[Finding]:
    try:
        return [*check.look(view)]
    except Exception as failure:  # a host that is broken in a way nobody thought of is what this is for
        said = one_line(f"could not be looked at: {failure or type(failure).__name__}")
        return [warning(said, "this check says nothing about the host", "read the line above; then ask again")]
