"""A node with containers and somebody outside, in namespaces without names, and real connections between them.

c0   c1   c2  ...      10.244.1.11, .12, ...    fd00:244:1::b, ::c, ...
 |    |    |            on bridge cni0 (10.244.1.1), or each on a link `npr...` of its own
[   node    ]          198.18.0.11              fd00:198:18::b
      |
[  outside  ]          198.18.0.1 and 10.244.9.9 (a container of another node)
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any, TypeVar

from cni.attachment import Attachment, AttachmentId, NetnsId, PodAddress, link_name
from cni.config import Mode, PortMapping
from cni.flows import Flows
from cni.rules import Rules
from netplane.kernel import command, links, sysctls
from netplane.kernel.links import Links, Peer
from netplane.kernel.netns import Namespace
from netplane.model.address import Family, IPAddress, Protocol, family_of

Result = TypeVar("Result")

SECONDS = 10.0
"""How long anything may take on a busy machine."""
NODE = {Family.IPV4: "198.18.0.11", Family.IPV6: "fd00:198:18::b"}
OUTSIDE = {Family.IPV4: "198.18.0.1", Family.IPV6: "fd00:198:18::1"}
FAR = {Family.IPV4: "10.244.9.9", Family.IPV6: "fd00:244:9::9"}
"""A container of another node: in the cluster's range, behind `outside`."""
GATEWAY = {Family.IPV4: "10.244.1.1", Family.IPV6: "fd00:244:1::1"}
LOCALHOST = {Family.IPV4: "127.0.0.1", Family.IPV6: "::1"}
POD_RANGE = {Family.IPV4: "10.244.1.0/24", Family.IPV6: "fd00:244:1::/64"}
CLUSTER = (ip_network("10.244.0.0/16"), ip_network("fd00:244::/32"))
NEXT_HOP = {Family.IPV4: "169.254.1.1", Family.IPV6: "fe80::1"}

_UPLINK, _BRIDGE, _FIRST = 2, 3, 10
_LENGTH = {Family.IPV4: 24, Family.IPV6: 64}
_DOMAIN = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}


@dataclass(frozen=True)
class Pod:
    """A container with its attachment."""

    namespace: Namespace
    attachment: Attachment

    def address(self, family: Family) -> str:
        return next(str(each.address.ip) for each in self.attachment.addresses if each.address.version == family)


@dataclass
class Site:
    """The node, somebody outside, and the containers made so far."""

    mode: Mode
    stack: ExitStack
    node: Namespace
    outside: Namespace
    rules: Rules
    flows: Flows
    pods: list[Pod] = field(default_factory=list)

    def pod(self, *ports: PortMapping, **more: Any) -> Pod:
        """A container, attached: wired, with rules, with flows forgotten."""
        made = self.wired(*ports, **more)
        self.add(made)
        return made

    def add(self, pod: Pod) -> None:
        self.node.run(lambda: self.rules.add(pod.attachment))
        self.flows.attached(pod.attachment)

    def remove(self, pod: Pod) -> None:
        self.rules.remove(pod.attachment)
        self.flows.detached(pod.attachment)

    def wired(self, *ports: PortMapping, **more: Any) -> Pod:
        """A container with links, and no rules."""
        number = _FIRST + len(self.pods) + 1
        id_ = AttachmentId("net", f"c{number}", "eth0")
        routed = self.mode is Mode.ROUTED
        texts = (f"10.244.1.{number}/{32 if routed else 24}", f"fd00:244:1::{number:x}/{128 if routed else 64}")
        attachment = Attachment(
            id_,
            self.mode,
            netns="",
            netns_id=NetnsId(1, number),
            link=link_name(self.mode, id_),
            addresses=tuple(PodAddress(ip_interface(text)) for text in texts),
            **{"masquerade": True, "masquerade_not_to": CLUSTER, "ports": ports, **more},
        )
        pod = Pod(self.stack.enter_context(Namespace()), attachment)
        (_routed if routed else _bridged)(self, pod, number)
        self.pods.append(pod)
        return pod


@contextmanager
def site(mode: Mode, *, bridge_netfilter: bool = True) -> Iterator[Site]:
    """The node with its uplink, without containers."""
    with ExitStack() as stack:
        node, outside = stack.enter_context(Namespace()), stack.enter_context(Namespace())
        values: dict[str, str | int] = {"net/ipv4/ip_forward": 1, "net/ipv6/conf/all/forwarding": 1}
        if not bridge_netfilter:
            values |= {"net/bridge/bridge-nf-call-iptables": 0, "net/bridge/bridge-nf-call-ip6tables": 0}
        node.run(lambda: sysctls.write(values))
        near = [links.veth("eth0", _UPLINK, Peer("eth0", _UPLINK, outside.fd)), links.up(links.LOOPBACK)]
        far = [links.up(_UPLINK), links.up(links.LOOPBACK)]
        if mode is Mode.BRIDGE:
            near.append(links.bridge("cni0", _BRIDGE, bytes.fromhex("026e70000001")))
        carry_out(node, *near)
        carry_out(outside, *far)
        for family in Family:
            here, there = ip_address(NODE[family]), ip_address(OUTSIDE[family])
            carry_out(node, links.address(here, _LENGTH[family], _UPLINK))
            carry_out(node, links.route(_all(family), _UPLINK, there))
            back = links.route(ip_network(POD_RANGE[family]), _UPLINK, here)
            carry_out(outside, links.address(there, _LENGTH[family], _UPLINK), back)
            carry_out(outside, links.address(ip_address(FAR[family]), 32 if there.version == 4 else 128, _UPLINK))
            if mode is Mode.BRIDGE:
                carry_out(node, links.address(ip_address(GATEWAY[family]), _LENGTH[family], _BRIDGE))
        ready(node, "eth0")
        if mode is Mode.BRIDGE:
            localhost(node, "cni0", _BRIDGE)
        rules, flows = (stack.enter_context(node.run(each)) for each in (Rules, Flows))
        node.run(lambda: rules.reconcile([]))
        yield Site(mode, stack, node, outside, rules, flows)


def localhost(node: Namespace, link: str, index: int) -> None:
    """Let answers to connections of this node's loopback addresses come back over a link: wiring's business.

    For IPv6 that is a local route of ::1 over the link: the kernel wants ::1 to be reached by the link it came in by
    (rt6_need_strict), and refuses it from the wire before anything is translated (ip6_rcv_core). But where br_netfilter
    translates on the bridge it comes from the wire translated, and nothing helps.
    """
    node.run(lambda: sysctls.write({f"net/ipv4/conf/{link}/route_localnet": 1}))
    words = ("-6", "route", "append", "local", "::1", "dev", link, "table", "local", "metric", "4000")
    node.run(lambda: command.run("ip", *words, mechanism="test", doing="route ::1"))


def _bridged(made: Site, pod: Pod, number: int) -> None:
    link = pod.attachment.link
    carry_out(made.node, links.veth(link, number, Peer("eth0", 2, pod.namespace.fd), _BRIDGE), links.hairpin(number))
    carry_out(pod.namespace, links.up(links.LOOPBACK), links.up(2))
    for each in pod.attachment.addresses:
        family = family_of(each.address)
        own = links.address(each.address.ip, each.address.network.prefixlen, 2)
        carry_out(pod.namespace, own, links.route(_all(family), 2, ip_address(GATEWAY[family])))
    ready(pod.namespace, "eth0")
    ready(made.node, link, "cni0")


def _routed(made: Site, pod: Pod, number: int) -> None:
    link = pod.attachment.link
    carry_out(made.node, links.veth(link, number, Peer("eth0", 2, pod.namespace.fd)))
    carry_out(pod.namespace, links.up(links.LOOPBACK), links.up(2))
    ready(made.node, link)
    near, far = mac(made.node, link), mac(pod.namespace, "eth0")
    for each in pod.attachment.addresses:
        family, address = family_of(each.address), each.address.ip
        hop = ip_address(NEXT_HOP[family])
        to = [links.neighbour(hop, near, 2), links.route(_all(family), 2, hop)]
        carry_out(pod.namespace, links.address(address, address.max_prefixlen, 2), *to)
        carry_out(made.node, links.route(ip_network(address), number), links.neighbour(address, far, number))
    localhost(made.node, link, number)


def _all(family: Family) -> Any:
    return ip_network("0.0.0.0/0" if family is Family.IPV4 else "::/0")


def carry_out(namespace: Namespace, *orders: links.Order) -> None:
    """Links, addresses, routes of a namespace."""
    in_links(namespace, lambda kernel: kernel.carry_out(orders))


def ready(namespace: Namespace, *names: str) -> None:
    """Wait until links carry packets."""
    in_links(namespace, lambda kernel: kernel.wait_ready(names, SECONDS))


def mac(namespace: Namespace, name: str) -> bytes:
    """The address of a link."""
    return in_links(namespace, lambda kernel: kernel.read()[name].mac)


def in_links(namespace: Namespace, work: Callable[[Links], Result]) -> Result:
    def within() -> Result:
        with Links() as kernel:
            return work(kernel)

    return namespace.run(within)


# --- connections ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Heard:
    """What a server heard: which one, and whom it takes for its client."""

    server: socket.socket
    client: IPAddress
    port: int


def server(namespace: Namespace, family: Family, protocol: Protocol, port: int, at: str = "") -> socket.socket:
    """Listens at one or all addresses of a namespace, of one family."""

    def listen() -> socket.socket:
        made = socket.socket(_DOMAIN[family], _kind(protocol))
        if family is Family.IPV6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((at, port))
        if protocol is Protocol.TCP:
            made.listen()
        made.settimeout(SECONDS)
        return made

    return namespace.run(listen)


def client(
    namespace: Namespace, family: Family, protocol: Protocol, source: tuple[str, int] = ("", 0)
) -> socket.socket:
    """A socket of a namespace that gives up after SECONDS."""

    def make() -> socket.socket:
        made = socket.socket(_DOMAIN[family], _kind(protocol))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(source)
        made.settimeout(SECONDS)
        return made

    return namespace.run(make)


def ask(asking: socket.socket, to: str, port: int, servers: Sequence[socket.socket]) -> Heard:
    """Connect or send, have the server that hears it answer, and hear the answer. Whoever fails raises TimeoutError."""
    asking.connect((to, port))
    if asking.type == socket.SOCK_DGRAM:
        asking.send(b"ask")
    found, _, _ = select.select(servers, [], [], SECONDS)
    assert found, f"nobody heard what was sent to {to} port {port}"
    heard = found[0]
    if asking.type == socket.SOCK_DGRAM:
        _, whom = heard.recvfrom(64)
        heard.sendto(b"answer", whom)
    else:
        connection, whom = heard.accept()
        with connection:
            connection.sendall(b"answer")
    assert asking.recv(64) == b"answer"
    return Heard(heard, ip_address(whom[0]), whom[1])


def _kind(protocol: Protocol) -> int:
    return socket.SOCK_DGRAM if protocol is Protocol.UDP else socket.SOCK_STREAM
