"""Two nodes between which netplane routes, in each of its modes: the same objects the agent has, in this process."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from bench.network_node import NodeNetwork, keys
from bench.network_pairs import Pair, node_address, pod_range
from bench.network_results import BGP, HOST_GW, HOST_GW_BARE, VXLAN, VXLAN_BARE, VXLAN_DIRECT, WIREGUARD
from bench.network_sides import CLUSTER, VXLAN_OVERHEAD, Making, ends
from netplane.errors import RequirementError
from netplane.kernel import command
from netplane.kernel.host import HostOptions
from netplane.kernel.netns import Namespace
from netplane.model.node import Node
from netplane.plan.network_plan import PUBLIC_KEY_ANNOTATION
from netplane.plan.network_settings import Mode, NetworkSettings, PodsToNodes

_WIREGUARD_OVERHEAD = 60


class Netplane:
    """Makes the way between two nodes in one mode. `programs` are what it needs on this machine, `more` settings."""

    def __init__(self, mode: Mode, *programs: str, **more: Any) -> None:
        self._mode, self._programs = mode, programs
        self._settings = NetworkSettings(mode, cluster_ranges=(CLUSTER,), **more)

    def __call__(self, pair: Pair, made: ExitStack, place: Path) -> None:
        """See `network_sides.Making`. Raises RequirementError if a program is missing or the plan has a problem."""
        if missing := [each for each in self._programs if command.find(each) is None]:
            raise RequirementError(f"not installed: {', '.join(missing)}")
        options = {number: _options(place / f"n{number}") for number in (1, 2)}
        nodes = {f"n{each}": self._node(each, options[each]) for each in (1, 2)}
        for here, _, namespace in ends(pair):
            network = made.enter_context(_new(namespace, f"n{here}", self._settings, options[here]))
            made.callback(namespace.run, network.clean)
            namespace.run(partial(network.reconcile, nodes))

    def _node(self, number: int, options: HostOptions) -> Node:
        made = Node(f"n{number}", (node_address(number),), (pod_range(number),))
        if self._mode is not Mode.WIREGUARD:
            return made
        return replace(made, annotations=((PUBLIC_KEY_ANNOTATION, keys(options).public()),))


def _new(namespace: Namespace, node: str, settings: NetworkSettings, options: HostOptions) -> NodeNetwork:
    return namespace.run(lambda: NodeNetwork(node, settings, options))


def _options(place: Path) -> HostOptions:
    for name in ("run", "state"):
        (place / name).mkdir(parents=True, mode=0o700)
    return HostOptions(run_directory=place / "run", state_directory=place / "state")


_DIRECT = PodsToNodes.DIRECT
OWN: dict[str, tuple[int, Making]] = {
    HOST_GW_BARE: (0, Netplane(Mode.HOST_GW, masquerade=False)),
    HOST_GW: (0, Netplane(Mode.HOST_GW)),
    BGP: (0, Netplane(Mode.BGP, "bird")),
    VXLAN_BARE: (VXLAN_OVERHEAD, Netplane(Mode.VXLAN, masquerade=False, pods_to_nodes=_DIRECT)),
    VXLAN_DIRECT: (VXLAN_OVERHEAD, Netplane(Mode.VXLAN, pods_to_nodes=_DIRECT)),
    VXLAN: (VXLAN_OVERHEAD, Netplane(Mode.VXLAN)),
    WIREGUARD: (_WIREGUARD_OVERHEAD, Netplane(Mode.WIREGUARD, "wireguard-go")),
}
"""As `network_sides.OTHERS`."""
