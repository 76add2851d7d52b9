"""Two nodes between which somebody else routes: plain routes, or a VXLAN made by hand."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bench.baselines import send
from bench.network_pairs import UPLINK, UPLINK_MTU, Pair, node_address, pod_range
from bench.network_results import HAND_MADE, HAND_MADE_MASQUERADE, PLAIN, PLAIN_AGAIN, PLAIN_MASQUERADE
from netplane.closing import Closing
from netplane.kernel.netns import Namespace

CLUSTER = pod_range(1).supernet(new_prefix=16)
VXLAN_OVERHEAD = 50
"""Bytes that VXLAN adds to a packet over IPv4."""
Making = Callable[[Pair, ExitStack, Path], None]
"""Makes the way between the nodes of a pair, with a folder for its files; what has to be ended goes to the stack."""


class Side(Closing):
    """A pair of nodes between which packets go."""

    def __init__(self, pair: Pair, made: ExitStack) -> None:
        self.pair, self._made = pair, made

    def close(self) -> None:
        """End it, and what it runs."""
        self._made.close()


def side(overhead: int, make: Making, place: Path) -> Side:
    """Two nodes, and Pods whose packets are so much smaller than the uplink's, between which packets go.

    Raises RequirementError if this machine lacks something, TimeoutError if no packet comes through.
    """
    with ExitStack() as made:
        pair = made.enter_context(Pair(UPLINK_MTU - overhead))
        make(pair, made, place)
        pair.wait_for_replies()
        return Side(pair, made.pop_all())


def plain(pair: Pair, _made: ExitStack, _place: Path) -> None:
    """A route to the other node's Pods, and no rule at all."""
    for _, there, node in ends(pair):
        send(node, f"route add {pod_range(there)} via {node_address(there)} dev {UPLINK}\n", "ip", "-batch", "-")


def hand_made(pair: Pair, _made: ExitStack, _place: Path) -> None:
    """A VXLAN as Flannel makes it, without its rules."""
    for here, there, node in ends(pair):
        vxlan = f"type vxlan id 4097 dev {UPLINK} local {node_address(here)} dstport 4789 nolearning"
        inner = pod_range(there)[0]
        links = (
            f"link add flannel.4097 address {_mac(here)} mtu {UPLINK_MTU - VXLAN_OVERHEAD} {vxlan}",
            f"addr add {pod_range(here)[0]}/32 dev flannel.4097",
            "link set flannel.4097 up",
            f"neigh replace {inner} lladdr {_mac(there)} dev flannel.4097 nud permanent",
            f"route replace {pod_range(there)} via {inner} dev flannel.4097 onlink",
        )
        forwarding = f"fdb replace {_mac(there)} dev flannel.4097 dst {node_address(there)} self permanent"
        send(node, "\n".join(links) + "\n", "ip", "-batch", "-")
        send(node, f"{forwarding}\n", "bridge", "-batch", "-")


def masquerading(make: Making) -> Making:
    """The same, and what leaves the cluster is masqueraded, as every node does; as Flannel writes it."""

    def both(pair: Pair, made: ExitStack, place: Path) -> None:
        make(pair, made, place)
        for here, _, node in ends(pair):
            send(node, _RULES.format(own=pod_range(here), cluster=CLUSTER), "nft", "-f", "-")

    return both


_RULES = """
table ip flannel-ipv4 {{
    chain postrtg {{
        type nat hook postrouting priority srcnat;
        meta mark 0x4000 return
        ip saddr {own} ip daddr {cluster} return
        ip saddr {cluster} ip daddr {own} return
        ip saddr != {own} ip daddr {cluster} return
        ip saddr {cluster} ip daddr != 224.0.0.0/4 masquerade fully-random
    }}
    chain forward {{
        type filter hook forward priority filter;
        ip saddr {cluster} accept
        ip daddr {cluster} accept
    }}
}}
"""


def ends(pair: Pair) -> list[tuple[int, int, Namespace]]:
    """The number of a node, that of the other one, and its namespace."""
    return [(1, 2, pair.nodes[0]), (2, 1, pair.nodes[1])]


def _mac(number: int) -> str:
    return f"02:00:00:00:00:{number:02x}"


OTHERS: dict[str, tuple[int, Making]] = {
    PLAIN: (0, plain),
    PLAIN_AGAIN: (0, plain),
    PLAIN_MASQUERADE: (0, masquerading(plain)),
    HAND_MADE: (VXLAN_OVERHEAD, hand_made),
    HAND_MADE_MASQUERADE: (VXLAN_OVERHEAD, masquerading(hand_made)),
}
"""By name: how much smaller Pods' packets are than the uplink's, and who makes the way."""
