"""A probe: who asks whom, and what the oracle should be asked about it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol as Interface

from netplane.errors import InputError
from netplane.lab.namespaces import BRIDGE
from netplane.lab.topology import Attach, NodeHost, Topology, first
from netplane.model.address import Family, IPAddress, Protocol, family_of, host_port
from netplane.model.pod import PodId
from netplane.plan.oracle import Decision, Oracle, Packet, Untouched
from netplane.plan.plan import Origin, Plan
from netplane.plan.settings import Bridge, InterfacePrefix, LocalDetection, PodRange

UPLINK = "eth0"


@dataclass(frozen=True, slots=True)
class FromPod:
    """A process in a pod."""

    pod: PodId

    def __str__(self) -> str:
        return f"pod {self.pod.name}"


@dataclass(frozen=True, slots=True)
class FromNode:
    """A process in the node's own namespace."""

    node: str

    def __str__(self) -> str:
        return f"node {self.node}"


@dataclass(frozen=True, slots=True)
class FromOutside:
    """A client outside the cluster whose packets enter it via this node."""

    via: str

    def __str__(self) -> str:
        return f"outside via {self.via}"


Sender = FromPod | FromNode | FromOutside


@dataclass(frozen=True, slots=True)
class Probe:
    """One question to the network. `protocol` None is an ICMP echo request; its `port` is 0."""

    sender: Sender
    source: IPAddress
    protocol: Protocol | None
    destination: IPAddress
    port: int

    def __str__(self) -> str:
        if self.protocol is None:
            return f"{self.sender} icmp {self.destination}"
        return f"{self.sender} {self.protocol} {host_port(self.destination, self.port)}"

    @property
    def family(self) -> Family:
        """The IP version of its packets."""
        return family_of(self.destination)


def deciding_node(sender: Sender, topology: Topology) -> NodeHost:
    """The first node that sees the sender's packets. Raises InputError for a sender the lab does not have."""
    match sender:
        case FromPod(pod):
            host = topology.pods.get(pod)
            name = host.node if host else ""
        case FromNode(node):
            name = node
        case FromOutside(via):
            name = via
    if name not in topology.nodes:
        raise InputError(f"the lab has no {sender}")
    return topology.nodes[name]


def usual_source(sender: Sender, family: Family, topology: Topology) -> IPAddress:
    """The address the sender uses unless the probe names another. Raises InputError if it has none of the family."""
    node = deciding_node(sender, topology)
    match sender:
        case FromPod(pod):
            return first(family, topology.pods[pod].addresses)
        case FromNode():
            return node.source(family)
        case FromOutside():
            return first(family, node.clients)


class PodRules(Interface):
    """What the plugin that attaches pods does to packets, besides the Services."""

    def host_port(self, node: NodeHost, probe: Probe) -> Decision | None:
        """Where a packet to an address of `node` goes that the Services leave alone; None: no host port."""
        ...

    def leaving(self, node: NodeHost, probe: Probe, decision: Decision) -> Decision:
        """The decision of the sender's node, with what happens to the packet on its way out of it."""
        ...


class Oracles:
    """The oracle of every node of a lab."""

    def __init__(self, plans: Mapping[str, Plan], topology: Topology, pods: PodRules | None = None) -> None:
        self._topology = topology
        self._pods = pods
        self._local = {name: plan.settings.local for name, plan in plans.items()}
        self._oracles = {name: Oracle(plan, topology.nodes[name].local()) for name, plan in plans.items()}

    def decide(self, probe: Probe) -> Decision:
        """What should happen to the probe.

        A packet that the first node leaves alone and that is addressed to another node is decided there.
        """
        node = deciding_node(probe.sender, self._topology)
        decision = self._at(node, probe, _origin(probe, self._topology, self._local[node.name]))
        there = self._topology.node_at(probe.destination)
        if isinstance(decision.outcome, Untouched) and there is not None and not node.owns(probe.destination):
            decision = self._at(there, probe, _arriving(UPLINK, probe.source, self._local[there.name]))
        return self._pods.leaving(node, probe, decision) if self._pods else decision

    def _at(self, node: NodeHost, probe: Probe, origin: Origin) -> Decision:
        decision = self._oracles[node.name].decide(packet_at(probe, origin))
        if self._pods and isinstance(decision.outcome, Untouched) and node.owns(probe.destination):
            return self._pods.host_port(node, probe) or decision
        return decision


def packet_at(probe: Probe, origin: Origin) -> Packet:
    """The probe as the oracle of one node is asked about it."""
    return Packet(origin, probe.source, probe.destination, probe.protocol, probe.port)


def _origin(probe: Probe, topology: Topology, local: LocalDetection) -> Origin:
    match probe.sender:
        case FromNode():
            return Origin.NODE
        case FromOutside():
            return _arriving(UPLINK, probe.source, local)
        case FromPod(pod):
            link = BRIDGE if topology.attach is Attach.BRIDGE else topology.pods[pod].link
            return _arriving(link, probe.source, local)


def _arriving(link: str, source: IPAddress, local: LocalDetection) -> Origin:
    match local:
        case PodRange(networks):
            known = any(source in network for network in networks)
        case Bridge(name):
            known = link == name
        case InterfacePrefix(prefix):
            known = link.startswith(prefix)
    return Origin.POD if known else Origin.OUTSIDE
