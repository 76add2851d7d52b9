"""A node between a Pod and the endpoints, and netplane on it.

    Pod 10.255.0.2 ---- node 192.0.2.1 ---- 192.0.2.2 every endpoint there is (AnyIP), listening on one socket

Everything is in anonymous namespaces and gone with the object.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv4Network

from bench.baselines import send
from bench.clusters import CLIENT, NODE, NODE_ADDRESS, POD_RANGE, TARGET_PORT, Change, service_id, slices
from bench.timing import collecting_later, timed
from bench.ways import IPTABLES, LEGACY, NFTABLES, Way
from netplane.agent.reconcile import Reconciler
from netplane.backends.registry import backend_named
from netplane.closing import Closing
from netplane.kernel import links, sysctls
from netplane.kernel.host import Host, HostOptions
from netplane.kernel.iptables_variants import AUTO
from netplane.kernel.links import Links, Order, Peer
from netplane.kernel.netns import Namespace
from netplane.model.snapshot import Snapshot
from netplane.model.table import derived
from netplane.plan.settings import Settings

BACKLOG = 256

_FAR = IPv4Address("192.0.2.2")
_GATEWAY = IPv4Address("169.254.1.1")
_POD_LINK, _UPLINK, _OWN = 10, 11, 2
_ALL = IPv4Network("0.0.0.0/0")
_CARRIER_SECONDS = 30.0


class Node(Closing):
    """Three namespaces, wired. `listening` accepts connections to any endpoint."""

    def __init__(self) -> None:
        with ExitStack() as made:
            self.pod, self.node, self.far = (made.enter_context(Namespace()) for _ in range(3))
            self._wire()
            self.listening = made.enter_context(self.far.run(_listen))
            self._made = made.pop_all()

    def close(self) -> None:
        """Let go of the namespaces."""
        self._made.close()

    def _wire(self) -> None:
        self.node.run(lambda: sysctls.write({"net/ipv4/ip_forward": 1}))
        near, far = Peer("eth0", _OWN, self.pod.fd), Peer("eth0", _OWN, self.far.fd)
        _carry_out(
            self.node,
            links.up(links.LOOPBACK),
            links.veth("pod", _POD_LINK, near),
            links.veth("up", _UPLINK, far),
            links.address(_GATEWAY, 32, _POD_LINK),
            links.address(NODE_ADDRESS, 24, _UPLINK),
            links.route(IPv4Network(CLIENT), _POD_LINK),
            links.route(POD_RANGE, _UPLINK, _FAR),
            links.route(_ALL, _UPLINK, _FAR),  # a cluster IP has a route before it is translated
        )
        _carry_out(
            self.pod,
            links.up(links.LOOPBACK),
            links.up(_OWN),
            links.address(CLIENT, 32, _OWN),
            links.route(_ALL, _OWN, _GATEWAY),
        )
        _carry_out(
            self.far,
            links.up(links.LOOPBACK),
            links.up(_OWN),
            links.address(_FAR, 24, _OWN),
            links.route(IPv4Network(CLIENT), _OWN, NODE_ADDRESS),
            links.local_route(POD_RANGE, links.MAIN_TABLE),
        )
        for namespace, names in ((self.node, ("pod", "up")), (self.pod, ("eth0",)), (self.far, ("eth0",))):
            namespace.run(lambda names=names: _wait(names))


class Netplane(Closing):
    """netplane on a node, in this process: the same objects the agent has."""

    def __init__(self, way: Way, namespace: Namespace) -> None:
        self._way, self._namespace = way, namespace
        self._host = namespace.run(lambda: host(way))
        self._reconciler = Reconciler(NODE, Settings(), backend_named(way.backend), self._host)
        self._snapshot = Snapshot()

    def load(self, snapshot: Snapshot) -> float:
        """Seconds from a Snapshot to the kernel, from nothing."""
        self._snapshot = snapshot
        with collecting_later():
            return timed(lambda: self._reconcile(whole=True))[0]

    def change(self, change: Change) -> float:
        """Seconds from the next Snapshot to the kernel."""
        put = {service_id(change.index): slices(change.index, change.addresses)}
        self._snapshot = Snapshot(
            services=self._snapshot.services,
            slices=derived(self._snapshot.slices, put),
            nodes=self._snapshot.nodes,
        )
        return timed(lambda: self._reconcile(whole=False))[0]

    def compare(self, *, disturbed: bool) -> float:
        """Seconds to find that the kernel has everything, as the agent does now and then.

        `disturbed`: somebody else has changed the same mechanism since, though nothing of ours.
        """
        come, go = _SOMEBODY_ELSE[self._way]
        if disturbed:
            send(self._namespace, "", *come.split())
        seconds = timed(lambda: self._reconcile(whole=True))[0]
        if disturbed:
            send(self._namespace, "", *go.split())
        return seconds

    def close(self) -> None:
        """Close sockets; the kernel keeps what it has."""
        self._host.close()

    def _reconcile(self, *, whole: bool) -> None:
        self._namespace.run(lambda: self._reconciler.reconcile(self._snapshot, whole=whole, sweep=True))


def host(way: Way) -> Host:
    """The host of the calling thread's namespace, for a way of which it may have nothing yet."""
    return Host(HostOptions(iptables_variant=way.variant or AUTO))


_SOMEBODY_ELSE = {
    NFTABLES: ("nft add table ip somebody-else", "nft delete table ip somebody-else"),
    IPTABLES: ("iptables-nft -t nat -N SOMEBODY-ELSE", "iptables-nft -t nat -X SOMEBODY-ELSE"),
    LEGACY: ("iptables-legacy -t nat -N SOMEBODY-ELSE", "iptables-legacy -t nat -X SOMEBODY-ELSE"),
}


def _carry_out(namespace: Namespace, *orders: Order) -> None:
    def work() -> None:
        with Links() as here:
            here.carry_out(orders)

    namespace.run(work)


def _wait(names: tuple[str, ...]) -> None:
    with Links() as here:
        here.wait_ready(names, _CARRIER_SECONDS)


def _listen() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.bind(("0.0.0.0", TARGET_PORT))
    made.listen(BACKLOG)
    made.setblocking(False)
    return made
