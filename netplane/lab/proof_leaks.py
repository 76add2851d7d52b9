"""Proofs about what must never be seen: packets to unknown Pods outside of the cluster, senders that are forged, and
Pods' addresses on the underlay of an overlay.

Nothing is said about silence by waiting: a packet that follows the one in question has to arrive first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address

from netplane.kernel.links import Links
from netplane.kernel.netns import Namespace
from netplane.lab.networked import OVERLAYS
from netplane.lab.packets import Flow, Frame, ethernet, send, udp
from netplane.lab.proof import Outer, Proving, address
from netplane.lab.proof_packets import PORT, SOURCE_PORT, everybody_is_reached, nodes_reach_pods
from netplane.lab.topology import NodeHost, PodHost
from netplane.lab.wires import Seen, Wires, vxlan_packet, with_marker
from netplane.model.address import Family, IPAddress, IPNetwork
from netplane.plan.network_plan import VXLAN_LINKS

NOBODY = {Family.IPV4: "8.8.4.4", Family.IPV6: "2001:db8:bad::1"}


def _marker(what: str) -> bytes:
    return f"{what} {os.urandom(8).hex()}".encode()


# --- unknown Pods -----------------------------------------------------------------------------------------------------


def unknown_pods(proving: Proving, family: Family) -> list[str]:
    """Packets to Pods that there are not, from Pods and nodes: none is on a cable where the Pod could not be."""
    problems: list[str] = []
    nodes = list(proving.topology.nodes.values())
    for here in nodes:
        pod = proving.pod(here.name)
        for whose, to in _unknown(proving, family):
            for who, namespace, source in (
                (f"Pod of {here.name}", proving.lab.pods[pod.id], address(pod, family)),
                (f"node {here.name}", proving.lab.nodes[here.name], here.source(family)),
            ):
                seen = _sent_and_followed(proving, namespace, pod, Flow(source, SOURCE_PORT, to, PORT))
                allowed = _where_it_may_be(proving, here, whose)
                problems += (
                    f"{who} -> {to} ({whose.name if whose else 'nobody'}'s): {said}"
                    for said in _escapes(seen, to, allowed)
                )
    return problems


def _unknown(proving: Proving, family: Family) -> Iterator[tuple[NodeHost | None, IPAddress]]:
    """Addresses of no Pod: in the range of each node, and in the cluster's but no node's."""
    for node in proving.topology.nodes.values():
        for network in node.ranges:
            if network.version == family.value:
                yield node, network[-6]
    for network in proving.options.settings.cluster_ranges:
        if network.version == family.value:
            yield None, network[-6]


def _where_it_may_be(proving: Proving, here: NodeHost, whose: NodeHost | None) -> frozenset[str]:
    """The nodes on whose cables it may be, on its way to the one that knows that there is no such Pod."""
    if whose is None or whose is here or proving.promise(here.name, whose.name).around is not Outer.NOTHING:
        return frozenset()
    return frozenset({here.name, whose.name})


def _sent_and_followed(proving: Proving, namespace: Namespace, pod: PodHost, flow: Flow) -> list[Seen]:
    """What is on the cables with the packet of a flow, when one to somewhere else has come by after it."""
    family = Family(flow.source.version)
    marker, after = _marker("unknown"), _marker("after")
    outside = ip_address({Family.IPV4: "203.0.113.77", Family.IPV6: "2001:db8:113::77"}[family])
    with Wires(proving.lab) as wires:
        send(namespace, [udp(flow, marker)], may_be_refused=True)
        send(proving.lab.pods[pod.id], [udp(Flow(address(pod, family), SOURCE_PORT, outside, PORT), after)])
        seen = wires.until(lambda each: after in each.raw, "the packet after it")
    return with_marker(seen, marker)


def _escapes(seen: list[Seen], to: IPAddress, allowed: frozenset[str]) -> Iterator[str]:
    """What is wrong with where it was seen. An error that quotes it is not it; an overlay hides it."""
    plain = [each for each in seen if (frame := each.frame()) and frame.destination == to]
    for node in sorted({each.node for each in plain} - allowed):
        yield f"on the cable of {node}"
    for node in sorted(allowed):
        if (number := sum(each.node == node for each in plain)) > 1:
            yield f"{number} times on the cable of {node}: it goes in circles, or to the router"


# --- forged senders ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Forged:
    """A VXLAN packet that somebody makes up: who sends it, as whom, and who is said to have sent what is inside."""

    what: str
    sender: str
    outer: IPAddress
    inner: IPAddress
    arrives: bool


def forged_senders(proving: Proving, family: Family) -> list[str]:
    """VXLAN from somebody who is no node is dropped, and so is what a node says is from somewhere else.

    What a node sends as one of its own Pods arrives: so it is not the forging that fails.
    """
    pairs = [
        (here, there) for here, there in proving.pairs() if proving.promise(here.node, there.node).around is Outer.VXLAN
    ]
    return [
        problem
        for here, there in pairs[:2]
        for each in _forgeries(proving, here, there, family)
        for problem in _forged_problem(proving, here, there, each)
    ]


def _forgeries(proving: Proving, here: PodHost, there: PodHost, family: Family) -> Iterator[Forged]:
    outer = proving.promise(here.node, there.node).outer or Family.IPV4
    peer, target = proving.topology.nodes[here.node], proving.topology.nodes[there.node]
    own, honest = peer.source(outer), address(here, family)
    stranger = next(each for each in peer.clients if each.version == outer.value)
    yield Forged("a peer, as its own Pod", here.node, own, honest, arrives=True)
    yield Forged("a stranger, as a peer's Pod", "outside", stranger, honest, arrives=False)
    yield Forged("a peer, as an address of the internet", here.node, own, ip_address(NOBODY[family]), arrives=False)
    yield Forged("a peer, as the Pod it sends to", here.node, own, address(there, family), arrives=False)
    yield Forged("a peer, as the node it sends to", here.node, own, target.source(family), arrives=False)
    yield Forged("a peer, as nobody's Pod", here.node, own, _nobodys(proving, family), arrives=False)


def _nobodys(proving: Proving, family: Family) -> IPAddress:
    ranges: tuple[IPNetwork, ...] = proving.options.settings.cluster_ranges
    return next(network[-6] for network in ranges if network.version == family.value)


def _forged_problem(proving: Proving, here: PodHost, there: PodHost, forged: Forged) -> Iterator[str]:
    outer = Family(forged.outer.version)
    target = proving.topology.nodes[there.node]
    settings = proving.options.settings.vxlan
    marker, after = _marker("forged"), _marker("after")
    macs = {node: _mac(proving.lab.nodes[node], VXLAN_LINKS[outer.value]) for node in (here.node, there.node)}
    to = address(there, Family(forged.inner.version))
    inner = ethernet(macs[here.node], macs[there.node], udp(Flow(forged.inner, SOURCE_PORT, to, PORT), marker))
    around = Flow(forged.outer, 50000, target.source(outer), settings.port)
    namespace = proving.lab.outside if forged.sender == "outside" else proving.lab.nodes[forged.sender]
    with ExitStack() as opened:
        end = opened.enter_context(Wires(proving.lab, there.id))
        wires = opened.enter_context(Wires(proving.lab))
        send(namespace, [udp(around, vxlan_packet(settings.id, inner))])
        wires.until(lambda each: each.node == there.node and marker in each.raw, f"the packet of {forged.what}")
        honest = Flow(address(here, Family(to.version)), SOURCE_PORT, to, PORT)
        send(proving.lab.pods[here.id], [udp(honest, after)])
        came = end.until(lambda each: after in each.raw, "the packet after it")
    if bool(with_marker(came, marker)) != forged.arrives:
        yield f"{here.node} -> {there.node}: VXLAN of {forged.what}: {'dropped' if forged.arrives else 'arrives'}"


def _mac(namespace: Namespace, link: str) -> bytes:
    def work() -> bytes:
        with Links() as here:
            return here.read()[link].mac

    return namespace.run(work)


# --- addresses of Pods ------------------------------------------------------------------------------------------------


def no_pod_on_the_underlay(proving: Proving, family: Family) -> list[str]:
    """While everybody talks to everybody, nodes included, no packet between nodes of an overlay is a Pod's own."""
    if proving.mode not in OVERLAYS:
        return []
    with Wires(proving.lab) as wires:
        problems = [*everybody_is_reached(proving, family), *nodes_reach_pods(proving, family)]
        seen = wires.so_far()
    found = {
        f"{frame.source} -> {frame.destination}, protocol {frame.protocol}, on the cable of {each.node}"
        for each in seen
        if (frame := each.frame()) and _should_be_hidden(proving, frame)
    }
    return problems + sorted(found)


def _should_be_hidden(proving: Proving, frame: Frame) -> bool:
    """Whether a packet on the underlay has an address of a Pod, and its ends' nodes have an overlay between them."""
    pods = [_range_of(proving, end) for end in (frame.source, frame.destination)]
    nodes = [
        pod or proving.topology.node_at(end) for pod, end in zip(pods, (frame.source, frame.destination), strict=True)
    ]
    if not any(pods):
        return False
    here, there = nodes
    return not here or not there or proving.promise(here.name, there.name).around is not Outer.NOTHING


def _range_of(proving: Proving, address_: IPAddress) -> NodeHost | None:
    nodes = proving.topology.nodes.values()
    return next((node for node in nodes if any(address_ in network for network in node.ranges)), None)
