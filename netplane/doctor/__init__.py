"""What on this host would keep Pods of two nodes apart, and how another node is reached (`reach`). Changes nothing.

Looks at the network namespace of the calling thread. A check is a function from `view.View` to findings (`kernel`,
`ports`, `others`, `programs`, `peers`); checks do not know each other, and one that cannot run says so. Read `examine`
first. What keeps the Pods of this one node from working is cni/doctor's.
"""

from __future__ import annotations

from cni.doctor.check import Check, Examined, examined
from cni.doctor.finding import Finding, Level
from netplane.doctor import kernel, others, peers, ports, programs
from netplane.doctor.view import View

__all__ = ["CHECKS", "Check", "Examined", "Finding", "Level", "View", "examine"]


CHECKS = (
    Check("network: programs", programs.needed),
    Check("network: forwarding", kernel.forwarding),
    Check("network: reverse path", kernel.reverse_path),
    Check("network: bridged packets", kernel.bridged_packets),
    Check("network: packet size", kernel.packet_size),
    Check("network: UDP port", ports.taken),
    Check("network: firewall", ports.filtered),
    Check("network: other nodes", peers.silent),
    Check("network: routes", others.routes),
    Check("network: other plugins", others.leftovers),
    Check("network: other plugins' rules", others.rules),
)


def examine(view: View) -> list[Examined]:
    """What all checks found, in their order. Never raises what a check raises."""
    return examined(CHECKS, view)
