"""The wiring of a lab in which netplane makes the Pod network: in subnets, and with no route to a Pod anywhere. Pure.

       n1        n2                        n3        `subnets: {n3: b}`; those not named are in the first, "a"
        |         |                         |
    ==[ `underlay` ]== outside, a router ==[ `underlay1` ]==
      198.18.0.0/24                        198.18.11.0/24

A node finds the others of its subnet on its link, and everybody else behind the router, which knows nodes but no Pods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from netplane.errors import InputError
from netplane.lab.topology import NodeHost, PodHost, Route, Topology, Unsuitable, host_network, subnet
from netplane.model.address import IPAddress, IPNetwork
from netplane.plan.network_settings import Mode, NetworkSettings

FIRST_SUBNET = "a"
OVERLAYS = frozenset({Mode.VXLAN, Mode.CROSS_SUBNET, Mode.WIREGUARD})


@dataclass(frozen=True, slots=True)
class PodNetworkOptions:
    """How nodes reach each other's Pods. `words` is what `--network` and `settings.yaml` say: a mode or a mapping.

    `subnets`: by node, a name; nodes that are not in it are in "a".
    """

    settings: NetworkSettings
    words: object
    subnets: Mapping[str, str] = field(default_factory=dict)


Network = Callable[[Sequence[str]], PodNetworkOptions]
"""The Pod network of a cluster with these nodes, by name."""


class NotForTheNetwork(Unsuitable):
    """A case whose Pods a Pod network cannot reach, and why."""


def networked(wiring: Topology, options: PodNetworkOptions, *, underlay_mtu: int = 0) -> Topology:
    """The same cluster with the nodes in their subnets, and without routes to Pods.

    Raises NotForTheNetwork if a Pod has an address that is in no Pod range of its node, InputError for a subnet of a
    node that there is not.
    """
    for name in options.subnets:
        if name not in wiring.nodes:
            raise InputError(f"subnets: the manifests have no Node {name!r}")
    for pod in wiring.pods.values():
        _check(pod, wiring.nodes[pod.node])
    _check_mode(options)
    numbers = {name: n for n, name in enumerate(sorted({FIRST_SUBNET, *options.subnets.values()}))}
    overlay = options.settings.mode in OVERLAYS
    nodes = {
        name: _node(index, node, numbers[options.subnets.get(name, FIRST_SUBNET)], overlay=overlay)
        for index, (name, node) in enumerate(wiring.nodes.items())
    }
    routes = tuple(Route(host_network(each), node.name) for node in nodes.values() for each in node.addresses)
    return replace(wiring, nodes=nodes, routes=routes, networked=True, underlay_mtu=underlay_mtu)


def keeps_source(wiring: Topology, settings: NetworkSettings) -> tuple[IPNetwork, ...]:
    """Where Pods are seen under their own address: Pods, addresses of nodes, and what the settings add."""
    pods = (network for node in wiring.nodes.values() for network in node.ranges)
    nodes = (host_network(address) for node in wiring.nodes.values() for address in (*node.addresses, *node.inner))
    return tuple(dict.fromkeys((*pods, *nodes, *settings.cluster_ranges, *settings.no_masquerade)))


def inner_addresses(ranges: tuple[IPNetwork, ...]) -> tuple[IPAddress, ...]:
    """A node's own addresses on an overlay: of each family, the network address of its first Pod range."""
    found = {network.version: network.network_address for network in reversed(ranges)}
    return tuple(found[version] for version in sorted(found))


def _node(index: int, node: NodeHost, number: int, *, overlay: bool) -> NodeHost:
    inner = inner_addresses(node.ranges) if overlay else ()
    return replace(node, links=subnet(number).node(index), subnet=number, inner=inner)


def _check_mode(options: PodNetworkOptions) -> None:
    """A router that does not hear of Pods cannot be between nodes."""
    settings = options.settings
    if len({FIRST_SUBNET, *options.subnets.values()}) > 1 and (
        settings.mode is Mode.HOST_GW or (settings.mode is Mode.BGP and not settings.bgp.peers)
    ):
        why = "the router between the subnets knows no Pods; use one subnet, or bgp.peers"
        raise NotForTheNetwork(f"mode {settings.mode.value}: {why}")


def _check(pod: PodHost, node: NodeHost) -> None:
    for address in pod.addresses:
        if not any(address in network for network in node.ranges):
            raise NotForTheNetwork(f"Pod {pod.id}: {address} is in no Pod range of Node {node.name}")
