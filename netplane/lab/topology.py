"""The lab's wiring as a value, computed from a snapshot: who there is, where, with which addresses and routes.

      pod   pod           pod   pod
       |     |             |     |          attach bridge: all on bridge `cni0` of the node
      [ node n1 ]         [ node n2 ]       attach routed: one link `np0`, `np1`, ... per pod (`attached.py`: `npr...`)
           |                   |
        `eth0`              `eth0`          link addresses 198.18.0.11, 198.18.0.12, ...
           |                   |
    =====[ bridge `underlay`, in the namespace "outside" ]=====   198.18.0.1

A node's InternalIP is on `eth0` *besides* its link address, and neighbours route it there. Masquerading picks the
link address, a host process uses the InternalIP: so it shows whether a packet of the node was masqueraded.

"outside" has every address that nobody else has: what netplane leaves alone and the routes send away, it answers.

In a lab with a Pod network (`networked.py`) nobody is given routes to Pods, and there may be several subnets: then
"outside" is the router between their bridges, `underlay`, `underlay1`, ...
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from cni.config import PortMapping
from netplane.errors import InputError
from netplane.model.address import Family, IPAddress, IPNetwork, Protocol, family_of
from netplane.model.node import Node
from netplane.model.pod import Pod, PodId
from netplane.model.snapshot import Snapshot

LINK_NETWORKS = (ip_network("198.18.0.0/24"), ip_network("fd00:198:18::/64"))
"""Where the nodes' links and the underlay are (198.18.0.0/15 is for test labs, RFC 2544)."""
OUTSIDE_ADDRESSES = (ip_address("198.18.0.1"), ip_address("fd00:198:18::1"))
CLIENT_NETWORKS = (ip_network("198.18.1.0/24"), ip_network("fd00:198:18:1::/64"))
"""Where the outside client's own addresses are: .11 for packets it sends via the first node, and so on."""
GATEWAYS = (ip_address("169.254.1.1"), ip_address("fe80::1"))
"""The next hop of pods whose address is in no pod range of their node."""
_FIRST = 11


class Subnet(NamedTuple):
    """One of the underlay's bridges, and the addresses that are directly on it. `router` is the outside's."""

    number: int
    bridge: str
    networks: tuple[IPNetwork, ...]
    router: tuple[IPAddress, ...]

    def node(self, index: int) -> tuple[IPAddress, ...]:
        """The link addresses of the node with this index."""
        return tuple(network[_FIRST + index] for network in self.networks)


def subnet(number: int) -> Subnet:
    """The subnet with this number, from 0: 198.18.0.0/24, then 198.18.11.0/24 (fd00:198:18:b::/64), .12.0/24, ..."""
    if not number:
        return Subnet(0, "underlay", LINK_NETWORKS, OUTSIDE_ADDRESSES)
    at = 10 + number
    networks = (ip_network(f"198.18.{at}.0/24"), ip_network(f"fd00:198:18:{at:x}::/64"))
    return Subnet(number, f"underlay{number}", networks, tuple(network[1] for network in networks))


class Attach(Enum):
    """How pods are attached to their node."""

    BRIDGE = "bridge"
    ROUTED = "routed"


Port = tuple[Protocol, int]
CONTROL: Port = (Protocol.UDP, 7)
"""Nodes and outside answer here to packets that show that the wiring works (the echo port)."""


@dataclass(frozen=True, slots=True)
class PodHost:
    """A namespace posing as a pod. `link` is the node's end of its cable, `prefixes` the on-link networks of `eth0`."""

    id: PodId
    node: str
    link: str
    addresses: tuple[IPAddress, ...]
    gateways: tuple[IPAddress, ...]
    prefixes: tuple[IPNetwork, ...]
    ports: frozenset[Port] = frozenset()
    host_ports: tuple[PortMapping, ...] = ()
    """Ports of its node that lead to it, if the CNI plugin attaches it."""


@dataclass(frozen=True, slots=True)
class NodeHost:
    """A namespace posing as a node. `ports` are those of host-network pods, with the pod's name."""

    name: str
    addresses: tuple[IPAddress, ...]
    links: tuple[IPAddress, ...]
    gateways: tuple[IPAddress, ...]
    """Addresses of the bridge the pods are on; none when they are routed."""
    clients: tuple[IPAddress, ...]
    """Addresses the outside client uses towards this node when a probe names none."""
    ranges: tuple[IPNetwork, ...]
    ports: Mapping[Port, PodId] = field(default_factory=dict)
    next_hops: tuple[IPAddress, ...] = GATEWAYS
    """Addresses it has only because pods use them as next hop."""
    subnet: int = 0
    inner: tuple[IPAddress, ...] = ()
    """Its addresses on an overlay of the Pod network."""

    def source(self, family: Family) -> IPAddress:
        """What a process of this node uses as its address: the InternalIP if there is one of the family."""
        return first(family, (*self.addresses, *self.links))

    def local(self) -> frozenset[IPAddress]:
        """Every address of the node but loopback."""
        return frozenset((*self.addresses, *self.links, *self.gateways, *self.next_hops, *self.inner))

    def owns(self, address: IPAddress) -> bool:
        """Whether packets to `address` end at this node, loopback included."""
        return address in self.local() or address.is_loopback

    def link(self, family: Family) -> IPAddress:
        """The address neighbours on the underlay reach it by."""
        return first(family, self.links)


@dataclass(frozen=True, slots=True)
class Route:
    """A network that is reached via a node, as everyone else on the underlay knows it."""

    to: IPNetwork
    node: str


@dataclass(frozen=True, slots=True)
class Topology:
    """Everything the lab consists of. What is at none of its addresses is "outside"."""

    attach: Attach
    nodes: Mapping[str, NodeHost]
    pods: Mapping[PodId, PodHost]
    routes: tuple[Route, ...]
    plugin: bool = False
    """Pods are attached by the CNI plugin of their node, not by cables of the lab's own."""
    networked: bool = False
    """netplane makes the way between Pods of different nodes: `routes` has none to them."""
    underlay_mtu: int = 0
    """In bytes, of the links between nodes; 0: the kernel's usual 1500. Links of pods have that anyway."""

    def subnets(self) -> tuple[Subnet, ...]:
        """The subnets there are nodes in, and the first one, in order."""
        return tuple(map(subnet, sorted({0, *(node.subnet for node in self.nodes.values())})))

    def pods_of(self, node: str) -> Iterator[PodHost]:
        """The pods on `node`, in order of their links."""
        return (pod for pod in self.pods.values() if pod.node == node)

    def pod_at(self, address: IPAddress) -> PodHost | None:
        """The pod that has `address`."""
        return next((pod for pod in self.pods.values() if address in pod.addresses), None)

    def node_at(self, address: IPAddress) -> NodeHost | None:
        """The node that has `address`."""
        return next((node for node in self.nodes.values() if address in node.local()), None)

    def name_of(self, address: IPAddress, port: Port) -> str:
        """Who answers at an address: `namespace/pod`, `node n1` or `outside`."""
        if pod := self.pod_at(address):
            return str(pod.id)
        if node := self.node_at(address):
            return str(node.ports[port]) if port in node.ports else f"node {node.name}"
        return "outside"


class Unsuitable(InputError):
    """A case that cannot be made in the way that was asked for, and why."""


def first(family: Family, addresses: Iterable[IPAddress]) -> IPAddress:
    """The first address of `family`; InputError if there is none."""
    for address in addresses:
        if family_of(address) is family:
            return address
    raise InputError(f"lab: no {family} address among: {', '.join(map(str, addresses)) or 'none'}")


def topology(snapshot: Snapshot, attach: Attach) -> Topology:
    """The lab for a cluster. The same snapshot gives the same lab.

    Endpoints that name a node but no Pod of the snapshot get a pod of their own, so that a case may consist of
    Services and EndpointSlices alone. Raises InputError if there is no Node.
    """
    if not snapshot.nodes:
        raise InputError("lab: the manifests have no Node; every node of the lab needs one")
    pods = {pod.id: pod for pod in (*_real_pods(snapshot), *_implied_pods(snapshot)) if pod.node in snapshot.nodes}
    ports = _ports_by_address(snapshot)
    nodes = {
        name: _node_host(index, snapshot.nodes[name], attach, pods.values(), ports)
        for index, name in enumerate(sorted(snapshot.nodes))
    }
    numbers = dict.fromkeys(nodes, 0)
    hosts: dict[PodId, PodHost] = {}
    for id_, pod in sorted(pods.items()):
        if not pod.host_network:
            hosts[id_] = _pod_host(pod, numbers[pod.node], nodes[pod.node], attach, ports)
            numbers[pod.node] += 1
    return Topology(attach, nodes, hosts, tuple(_routes(nodes, hosts)))


def _real_pods(snapshot: Snapshot) -> Iterator[Pod]:
    return (pod for pod in snapshot.pods.values() if pod.addresses and not pod.finished)


def _implied_pods(snapshot: Snapshot) -> Iterator[Pod]:
    """Pods for endpoints on a node that no Pod and no Node has the address of."""
    known = {address for pod in _real_pods(snapshot) for address in pod.addresses}
    known |= {address for node in snapshot.nodes.values() for address in node.addresses}
    found: dict[PodId, list[IPAddress]] = {}
    nodes: dict[PodId, str] = {}
    for piece in (piece for pieces in snapshot.slices.values() for piece in pieces):
        for endpoint in piece.endpoints:
            id_ = PodId(piece.namespace, endpoint.pod or str(endpoint.address))
            if endpoint.node in snapshot.nodes and endpoint.address not in known:
                known.add(endpoint.address)
                nodes.setdefault(id_, endpoint.node)
                found.setdefault(id_, []).append(endpoint.address)
    return (Pod(id_, nodes[id_], tuple(addresses)) for id_, addresses in found.items())


def _ports_by_address(snapshot: Snapshot) -> dict[IPAddress, set[Port]]:
    ports: dict[IPAddress, set[Port]] = {}
    for piece in (piece for pieces in snapshot.slices.values() for piece in pieces):
        for endpoint in piece.endpoints:
            ports.setdefault(endpoint.address, set()).update((port.protocol, port.port) for port in piece.ports)
    for pod in snapshot.pods.values():
        for address in pod.addresses:
            ports.setdefault(address, set()).update((port.protocol, port.port) for port in pod.ports)
    return ports


def _node_host(
    index: int, node: Node, attach: Attach, pods: Iterable[Pod], ports: Mapping[IPAddress, set[Port]]
) -> NodeHost:
    guests = [pod for pod in pods if pod.host_network and pod.node == node.name]
    return NodeHost(
        name=node.name,
        addresses=node.addresses,
        links=subnet(0).node(index),
        gateways=tuple(_gateways(node)) if attach is Attach.BRIDGE else (),
        clients=tuple(network[_FIRST + index] for network in CLIENT_NETWORKS),
        ranges=node.pod_ranges,
        ports={port: pod.id for pod in guests for address in pod.addresses for port in ports.get(address, ())},
    )


def _gateways(node: Node) -> Iterator[IPAddress]:
    """The first address of each pod range, as the bridge plugin chooses it."""
    return (network[1] for network in node.pod_ranges if network.num_addresses > 2)


def _pod_host(pod: Pod, number: int, node: NodeHost, attach: Attach, ports: Mapping[IPAddress, set[Port]]) -> PodHost:
    prefixes = tuple(_prefix(address, node, attach) for address in pod.addresses)
    return PodHost(
        id=pod.id,
        node=pod.node,
        link=f"np{number}" if attach is Attach.ROUTED else f"veth{number}",
        addresses=pod.addresses,
        gateways=tuple(
            first(family_of(prefix), (*(each for each in node.gateways if each in prefix), *GATEWAYS))
            for prefix in prefixes
        ),
        prefixes=prefixes,
        ports=frozenset().union(*(ports.get(address, ()) for address in pod.addresses)),
        host_ports=tuple(
            PortMapping(port.protocol, port.host_port, port.port, port.host_address)
            for port in pod.ports
            if port.host_port
        ),
    )


def _prefix(address: IPAddress, node: NodeHost, attach: Attach) -> IPNetwork:
    """What a pod finds on its link without asking a gateway: its pod range on a bridge, otherwise itself only."""
    if attach is Attach.BRIDGE:
        for network in node.ranges:
            if address in network:
                return network
    return host_network(address)


def host_network(address: IPAddress) -> IPNetwork:
    """The network of one address."""
    return ip_network(address)


def _routes(nodes: Mapping[str, NodeHost], pods: Mapping[PodId, PodHost]) -> Iterator[Route]:
    for node in nodes.values():
        yield from (Route(network, node.name) for network in node.ranges)
        yield from (Route(host_network(address), node.name) for address in node.addresses)
    for pod in pods.values():
        for address in pod.addresses:
            if not any(address in network for network in nodes[pod.node].ranges):
                yield Route(host_network(address), pod.node)
