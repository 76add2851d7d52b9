"""What on this host would make Pods fail, and how to mend it. Reads only, changes nothing.

Looks at the network namespace of the calling thread. Checks do not know each other: one that cannot run says so.
Read `examine` first; a check is a function from `view.View` to findings (`node`, `machine`, `kernel`, `firewall`).
"""

from __future__ import annotations

from cni.doctor import firewall, kernel, machine, node
from cni.doctor.check import Check, Examined, examined
from cni.doctor.finding import Finding, Level
from cni.doctor.view import Place, View

__all__ = ["CHECKS", "Check", "Examined", "Finding", "Level", "Place", "examine"]


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
    return examined(CHECKS, View(place))
