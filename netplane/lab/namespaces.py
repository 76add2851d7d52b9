"""Bring a topology up in anonymous namespaces. Closing the lab leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_network

from netplane.closing import Closing
from netplane.kernel import link_orders, links, sysctls
from netplane.kernel.links import Links, Order, Peer
from netplane.kernel.netns import Namespace
from netplane.lab.topology import (
    GATEWAYS,
    Attach,
    NodeHost,
    PodHost,
    Topology,
    subnet,
)
from netplane.model.address import Family, family_of

CARRIER_SECONDS = 20.0
BRIDGE = "cni0"

_UPLINK = 2  # index of eth0, everywhere
_BRIDGE = 3  # and of the first underlay; the others follow
_FIRST_PORT = 30
_EVERYTHING = {Family.IPV4: ip_network("0.0.0.0/0"), Family.IPV6: ip_network("::/0")}
_MAC = b"\x02\x6e\x70\0\0\0"  # locally administered; one per bridge, and no two bridges share a segment
ROUTER_TABLE = 90
"""Where the outside looks for what it only passes on: from one subnet to another, and to what BGP tells it."""
_ANY_TABLE, _VIA_TABLE = 100, 200
_ROUTER_PRIORITY, _ANY_PRIORITY, _VIA_PRIORITY = 5, 10, 20

_UNLIMITED_ERRORS = {
    # A refusal must always be heard: no limit on ICMP errors.
    "net/ipv4/icmp_ratemask": 0,
    "net/ipv4/icmp_ratelimit": 0,
    "net/ipv6/icmp/ratelimit": 0,
    "net/ipv6/icmp/ratemask": 0,  # only type 0, which no error has: the others share a burst of 50 with IPv4
}
_EVERYWHERE = {
    "net/ipv6/conf/all/disable_ipv6": 0,
    "net/ipv6/conf/default/disable_ipv6": 0,
    "net/ipv6/conf/default/accept_dad": 0,
    "net/ipv6/conf/default/dad_transmits": 0,
    "net/ipv6/conf/default/router_solicitations": 0,
    "net/ipv6/conf/default/accept_ra": 0,
    "net/ipv6/conf/all/accept_redirects": 0,
    "net/ipv6/conf/default/accept_redirects": 0,
    "net/ipv4/conf/all/accept_redirects": 0,
    "net/ipv4/conf/default/accept_redirects": 0,
    "net/ipv4/conf/all/rp_filter": 0,
    "net/ipv4/conf/default/rp_filter": 0,
    **_UNLIMITED_ERRORS,
}
_NODE = {
    "net/ipv4/ip_forward": 1,
    "net/ipv6/conf/all/forwarding": 1,
    "net/ipv4/conf/all/send_redirects": 0,
    "net/ipv4/conf/default/send_redirects": 0,
}
_OUTSIDE = {
    # It takes packets to any address, but must not claim to be everybody when asked for a MAC.
    "net/ipv4/conf/all/arp_ignore": 1,
    # What it sends via a node may come back to it, as the rest of the internet.
    "net/ipv4/conf/all/accept_local": 1,
    "net/bridge/bridge-nf-call-iptables": 0,
    "net/bridge/bridge-nf-call-ip6tables": 0,
}
_ROUTER = {
    "net/ipv4/ip_forward": 1,
    "net/ipv6/conf/all/forwarding": 1,
    "net/ipv4/conf/all/send_redirects": 0,
    "net/ipv4/conf/default/send_redirects": 0,
}
_BRIDGED = {
    # Without it a reply between two pods on one bridge would pass below the address translation.
    "net/bridge/bridge-nf-call-iptables": 1,
    "net/bridge/bridge-nf-call-ip6tables": 1,
}


class Lab(Closing):
    """A topology that is up: every link has carrier and every route is there when the constructor returns.

    `outside`, `nodes` and `pods` are its namespaces. Raises RequirementError without root. Pods that the plugin is to
    attach have nothing but `lo`: `attaching.py` asks for more.
    """

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        with ExitStack() as made:
            self.outside = made.enter_context(Namespace())
            self.nodes = {name: made.enter_context(Namespace()) for name in topology.nodes}
            self.pods = {id_: made.enter_context(Namespace()) for id_ in topology.pods}
            self._bring_up()
            self._made = made.pop_all()

    def namespaces(self) -> dict[str, Namespace]:
        """Every namespace by the name a person would use: `outside`, `n1`, `shop/web-1`."""
        return {"outside": self.outside, **self.nodes, **{str(id_): each for id_, each in self.pods.items()}}

    def close(self) -> None:
        """Let go of everything; the kernel removes what was inside."""
        self._made.close()

    def _bring_up(self) -> None:
        router = _ROUTER if self.topology.networked else {}
        self.outside.run(lambda: sysctls.write({**_EVERYWHERE, **_OUTSIDE, **router}))
        bridged = _BRIDGED if self.topology.attach is Attach.BRIDGE else {}
        for node in self.nodes.values():
            node.run(lambda: sysctls.write({**_EVERYWHERE, **_NODE, **bridged}))
        for pod in self.pods.values():
            pod.run(lambda: sysctls.write(_UNLIMITED_ERRORS if self.topology.plugin else _EVERYWHERE))
        _carry_out(self.outside, list(self._underlay()))
        for name, host in self.topology.nodes.items():
            _carry_out(self.nodes[name], list(self._node(host)))
        for id_, pod_host in self.topology.pods.items():
            _carry_out(self.pods[id_], [links.up(links.LOOPBACK)] if self.topology.plugin else list(_pod(pod_host)))
        self._wait_for_carrier()

    def _underlay(self) -> Iterator[Order]:
        """The bridges, a cable to each node, a route to everything behind one, and the rest of the internet."""
        topology = self.topology
        yield links.up(links.LOOPBACK)
        for each in topology.subnets():
            yield links.bridge(each.bridge, _BRIDGE + each.number, _MAC[:-1] + bytes((each.number,)))
        for index, node in enumerate(topology.nodes.values()):
            peer = Peer("eth0", _UPLINK, self.nodes[node.name].fd)
            yield links.veth(f"to-{index}", _FIRST_PORT + index, peer, _BRIDGE + node.subnet)
            if topology.underlay_mtu:
                yield link_orders.change(_FIRST_PORT + index, link_orders.mtu(topology.underlay_mtu))
        for each in topology.subnets():
            for own, network in zip(each.router, each.networks, strict=True):
                yield links.address(own, network.prefixlen, _BRIDGE + each.number)
        for family, everything in _EVERYTHING.items():
            yield links.local_route(everything, _ANY_TABLE)
            for each in topology.subnets():
                yield links.rule_for_link(family, each.bridge, _ANY_TABLE, _ANY_PRIORITY + each.number)
            for mark, node in self.marks():
                yield links.route(everything, _BRIDGE + node.subnet, node.link(family), _VIA_TABLE + mark)
                yield links.rule_for_mark(family, mark, _VIA_TABLE + mark, _VIA_PRIORITY)
        for way in topology.routes:
            to = topology.nodes[way.node]
            yield links.route(way.to, _BRIDGE + to.subnet, to.link(family_of(way.to)))
        for node in topology.nodes.values():
            for client in node.clients:
                yield links.address(client, client.max_prefixlen, _BRIDGE, preferred=False)
        if topology.networked:
            yield from self._router()

    def _router(self) -> Iterator[Order]:
        """What comes from one subnet and is for nodes of any goes there: the outside does not take it for its own."""
        for each in self.topology.subnets():
            for family in Family:
                yield links.rule_for_link(family, each.bridge, ROUTER_TABLE, _ROUTER_PRIORITY)
            for network in each.networks:
                yield links.route(network, _BRIDGE + each.number, table=ROUTER_TABLE)
        for way in self.topology.routes:
            to = self.topology.nodes[way.node]
            yield links.route(way.to, _BRIDGE + to.subnet, to.link(family_of(way.to)), ROUTER_TABLE)

    def marks(self) -> Iterator[tuple[int, NodeHost]]:
        """Each node with the mark that makes the outside client send via it."""
        return ((number, node) for number, node in enumerate(self.topology.nodes.values(), 1))

    def _node(self, node: NodeHost) -> Iterator[Order]:
        here = subnet(node.subnet)
        yield from _own_links()
        if self.topology.underlay_mtu:
            yield link_orders.change(_UPLINK, link_orders.mtu(self.topology.underlay_mtu))
        for own, network in zip(node.links, here.networks, strict=True):
            yield links.address(own, network.prefixlen, _UPLINK)
        for own in node.addresses:  # after the link address, so that masquerading chooses that one
            yield links.address(own, own.max_prefixlen, _UPLINK, preferred=False)
        for outside in here.router:
            yield links.route(_EVERYTHING[family_of(outside)], _UPLINK, outside)
        yield from self._ways(node)
        if self.topology.plugin:
            return
        if self.topology.attach is Attach.BRIDGE:
            yield from self._bridge(node)
        for index, pod in enumerate(self.topology.pods_of(node.name), _FIRST_PORT):
            yield from self._cable(pod, index)

    def _ways(self, node: NodeHost) -> Iterator[Order]:
        """Routes to what is behind the other nodes of its subnet, or, with a Pod network, to their own addresses."""
        for each in self.topology.routes:
            there = self.topology.nodes[each.node]
            if each.node != node.name and there.subnet == node.subnet:
                # With a Pod network they are on-link, as addresses of nodes are; else behind their link addresses.
                via = None if self.topology.networked else there.link(family_of(each.to))
                yield links.route(each.to, _UPLINK, via)

    def _bridge(self, node: NodeHost) -> Iterator[Order]:
        yield links.bridge(BRIDGE, _BRIDGE, _MAC)
        for network in node.ranges:
            yield from (links.address(each, network.prefixlen, _BRIDGE) for each in node.gateways if each in network)
        yield from (links.address(each, each.max_prefixlen, _BRIDGE) for each in GATEWAYS)

    def _cable(self, pod: PodHost, index: int) -> Iterator[Order]:
        peer = Peer("eth0", _UPLINK, self.pods[pod.id].fd)
        if self.topology.attach is Attach.BRIDGE:
            yield links.veth(pod.link, index, peer, _BRIDGE)
            yield links.hairpin(index)
        else:
            yield links.veth(pod.link, index, peer)
            yield from (links.address(each, each.max_prefixlen, index) for each in GATEWAYS)
        for prefix in pod.prefixes:
            if prefix.num_addresses == 1:
                yield links.route(prefix, _BRIDGE if self.topology.attach is Attach.BRIDGE else index)

    def _wait_for_carrier(self) -> None:
        outside = [f"to-{index}" for index in range(len(self.nodes))]
        used = {subnet(node.subnet).bridge for node in self.topology.nodes.values()}
        _wait(self.outside, [*used, *outside])
        for namespace in self.nodes.values():
            _wait(namespace, ["eth0"])
        if not self.topology.plugin:
            self.wait_for_pods()

    def wait_for_pods(self) -> None:
        """Return when every pod's cable has carrier: until then the kernel drops what is sent over it."""
        for name, namespace in self.nodes.items():
            pods = [pod.link for pod in self.topology.pods_of(name)]
            shared = [BRIDGE] if pods and self.topology.attach is Attach.BRIDGE else []
            _wait(namespace, [*shared, *pods])
        for namespace in self.pods.values():
            _wait(namespace, ["eth0"])


def _pod(pod: PodHost) -> Iterator[Order]:
    yield from _own_links()
    for own, prefix, gateway in zip(pod.addresses, pod.prefixes, pod.gateways, strict=True):
        yield links.address(own, prefix.prefixlen, _UPLINK)
        yield links.route(_EVERYTHING[family_of(own)], _UPLINK, gateway)


def _own_links() -> tuple[Order, Order]:
    return links.up(links.LOOPBACK), links.up(_UPLINK)


def _carry_out(namespace: Namespace, orders: list[Order]) -> None:
    def work() -> None:
        with Links() as here:
            here.carry_out(orders)

    namespace.run(work)


def _wait(namespace: Namespace, names: list[str]) -> None:
    def work() -> None:
        with Links() as here:
            here.wait_ready(names, CARRIER_SECONDS)

    namespace.run(work)
