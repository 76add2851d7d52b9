"""Two nodes with a Pod each and somebody outside, in namespaces without names, on one wire; the nodes have programs.

p1               p2                10.244.1.9          10.244.2.9            fd00:244:1::9  fd00:244:2::9
 |                |      on bridges cni0 (10.244.N.1, fd00:244:N::1)
[n1]  [outside]  [n2]              198.18.0.1, .100, .2                      fd00:198:18::1, ::64, ::2
 |        |       |                outside also has 203.0.113.9 and fd00:203::9
[      wire       ]                a bridge, where everything can be seen
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import TypeVar

from network_plans import UPLINK, WAYS, addresses, peer, plan

from netplane.backends.network.compile import compile_network
from netplane.kernel import command, links, sysctls
from netplane.kernel.host import Host, Mechanisms
from netplane.kernel.links import Links, Order, Peer
from netplane.kernel.netns import Namespace
from netplane.kernel.network_mechanism import NetworkMechanism
from netplane.kernel.nftables_mechanism import NftablesMechanism, of_network
from netplane.model.address import Family
from netplane.plan.network_plan import NetworkPlan
from netplane.plan.network_settings import Mode, NetworkSettings
from netplane.programs.program import NETWORK_TABLE, Program

Result = TypeVar("Result")

SECONDS = 10.0
"""How long anything may take on a busy machine."""
OUTSIDE = {Family.IPV4: "198.18.0.100", Family.IPV6: "fd00:198:18::64"}
ELSEWHERE = {Family.IPV4: "203.0.113.9", Family.IPV6: "fd00:203::9"}
"""Also an address of `outside`, which answers Pods of n1 and n2 directly."""
LAST = b"last"
PORT = 7000

_LENGTH = {Family.IPV4: 24, Family.IPV6: 64}
_ALL = {Family.IPV4: ip_network("0.0.0.0/0"), Family.IPV6: ip_network("::/0")}
_DOMAIN = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
_UPLINK, _BRIDGE, _POD = 2, 3, 4


def node_address(number: int, family: Family) -> str:
    return str(addresses(number, (family,))[0])


def pod(number: int, family: Family, last: int = 9) -> str:
    """The Pod of a node, or another address of its Pod range."""
    return f"10.244.{number}.{last}" if family is Family.IPV4 else f"fd00:244:{number}::{last:x}"


@dataclass
class Site:
    """Namespaces by name, and what the nodes n1 and n2 have to make their programs true."""

    spaces: dict[str, Namespace]
    hosts: dict[str, Host]
    stack: ExitStack

    def apply(self, number: int, made: NetworkPlan) -> None:
        """Make the plan of a node true, whole.

        The kernel makes an IPv6 address its own a little later (addrconf_dad_work); nothing is masqueraded before.
        """
        self._put(number, compile_network(made).program)
        for inner in (each for overlay in made.overlays for each in overlay.inner if each.version == 6):
            words = ("ip", "-6", "route", "show", "table", "local", str(inner))
            until(lambda words=words: bool(self.run(f"n{number}", *words)))

    def unguarded(self, number: int) -> None:
        """Leave a node without the rules of its network."""
        self.nft(number, "delete table ip NETWORK; delete table ip6 NETWORK")

    def nft(self, number: int, script: str) -> None:
        self.run(f"n{number}", "nft", script.replace("NETWORK", NETWORK_TABLE))

    def run(self, where: str, *words: str) -> str:
        return self.spaces[where].run(lambda: command.run(*words, mechanism="test", doing=" ".join(words)))

    def socket(
        self, where: str, family: Family, kind: int = socket.SOCK_DGRAM, at: tuple[str, int] = ("", 0)
    ) -> socket.socket:
        """A socket of a namespace that gives up after SECONDS, and is closed with the site."""

        def make() -> socket.socket:
            made = socket.socket(_DOMAIN[family], kind)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(at)
            made.settimeout(SECONDS)
            return made

        return self.stack.enter_context(self.spaces[where].run(make))

    def seen(
        self, where: str, at: str, family: Family, source: str = "p1", by: str = "", *, to: str = "", seconds: float = 0
    ) -> str:
        """Whom a server at `at` takes for its client: one in `source`, with the address `by`, asks and is answered.

        It asks at `to` if the server is at more than one address. Raises TimeoutError if there is no answer.
        """
        server, client = self.socket(where, family, at=(at, PORT)), self.socket(source, family, at=(by, 0))
        client.settimeout(seconds or SECONDS)
        with server, client:
            client.connect((to or at, PORT))
            client.send(b"ask")
            _, whom = server.recvfrom(64)
            server.sendto(b"answer", whom)
            assert client.recv(64) == b"answer"
            return str(whom[0])

    def _put(self, number: int, program: Program) -> None:
        host = self.hosts[f"n{number}"]
        self.spaces[f"n{number}"].run(lambda: host.apply(program, reread=True))


def heard(server: socket.socket) -> list[bytes]:
    """What a server hears before LAST."""
    found = []
    while (said := server.recv(2048)) != LAST:
        found.append(said)
    return found


def plans(
    settings: NetworkSettings | Mode, families: Iterable[int] = (4, 6), outside: int = 4, **more: object
) -> list[NetworkPlan]:
    """Of n1 and n2, which reach each other in the way of the mode."""
    way = WAYS[settings if isinstance(settings, Mode) else settings.mode]
    pairs = ((1, 2), (2, 1))
    return [
        plan(settings, [peer(other, way, families, outside)], families, own, outside, **more) for own, other in pairs
    ]


@contextmanager
def site(made: Iterable[NetworkPlan] = (), *, bridge_netfilter: bool = True) -> Iterator[Site]:
    """The site, with the programs of these plans of n1 and n2."""
    with ExitStack() as stack:
        names = ("wire", "outside", "n1", "n2", "p1", "p2")
        spaces = {name: stack.enter_context(Namespace()) for name in names}
        _wire(spaces)
        for number in (1, 2):
            _node(spaces, number, bridge_netfilter=bridge_netfilter)
        _introduce(spaces)
        hosts = {name: stack.enter_context(spaces[name].run(_host)) for name in ("n1", "n2")}
        built = Site(spaces, hosts, stack)
        for number, each in enumerate(made, 1):
            built.apply(number, each)
        yield built


def _host() -> Host:
    making = (lambda _, own: NftablesMechanism(own, of_network), lambda *_: NetworkMechanism())
    return Host(mechanisms=Mechanisms(making, independent=False))


def _wire(spaces: dict[str, Namespace]) -> None:
    spaces["wire"].run(lambda: sysctls.write({"net/bridge/bridge-nf-call-iptables": 0}))
    spaces["wire"].run(lambda: sysctls.write({"net/bridge/bridge-nf-call-ip6tables": 0}))
    ends = [(index, name) for index, name in enumerate(("outside", "n1", "n2"), 10)]
    ports = [links.veth(name, index, Peer(UPLINK, _UPLINK, spaces[name].fd), 2) for index, name in ends]
    carry_out(spaces["wire"], links.bridge("wire", 2, bytes.fromhex("026e70000001")), *ports)
    orders = [links.up(links.LOOPBACK), links.up(_UPLINK)]
    for family in Family:
        here = ip_address(OUTSIDE[family])
        orders.append(links.address(here, _LENGTH[family], _UPLINK))
        orders.append(links.address(ip_address(ELSEWHERE[family]), here.max_prefixlen, _UPLINK))
        for number in (1, 2):
            pods = ip_network((pod(number, family), _LENGTH[family]), strict=False)
            orders.append(links.route(pods, _UPLINK, ip_address(node_address(number, family))))
    carry_out(spaces["outside"], *orders)


def _node(spaces: dict[str, Namespace], number: int, *, bridge_netfilter: bool) -> None:
    """Up to its bridge and Pod. Everything else is what a program makes."""
    node, inside = spaces[f"n{number}"], spaces[f"p{number}"]
    value = int(bridge_netfilter)
    values = {"net/bridge/bridge-nf-call-iptables": value, "net/bridge/bridge-nf-call-ip6tables": value}
    node.run(lambda: sysctls.write({"net/ipv4/ip_forward": 1, "net/ipv6/conf/all/forwarding": 1, **values}))
    orders = [
        links.up(links.LOOPBACK),
        links.up(_UPLINK),
        links.bridge("cni0", _BRIDGE, bytes((2, 0x6E, 0, 0, 1, number))),
    ]
    orders.append(links.veth("pod", _POD, Peer("eth0", 2, inside.fd), _BRIDGE))
    inner = [links.up(links.LOOPBACK), links.up(2)]
    for family in Family:
        gateway = ip_address(pod(number, family, 1))
        orders.append(links.address(ip_address(node_address(number, family)), _LENGTH[family], _UPLINK))
        orders.append(links.address(gateway, _LENGTH[family], _BRIDGE))
        orders.append(links.route(_ALL[family], _UPLINK, ip_address(OUTSIDE[family])))
        inner.append(links.address(ip_address(pod(number, family)), _LENGTH[family], 2))
        inner.append(links.route(_ALL[family], 2, gateway))
    carry_out(node, *orders)
    carry_out(inside, *inner)
    for space, names in ((node, (UPLINK, "cni0", "pod")), (inside, ("eth0",))):
        in_links(space, lambda kernel, names=names: kernel.wait_ready(names, SECONDS))


def _introduce(spaces: dict[str, Namespace]) -> None:
    """All who are on one link know each other's MACs: a packet that waits for an answer is overtaken by others."""
    for family in Family:
        wire = {"outside": OUTSIDE[family], **{f"n{number}": node_address(number, family) for number in (1, 2)}}
        groups = [{name: (address, UPLINK, _UPLINK) for name, address in wire.items()}]
        for number in (1, 2):
            node = (pod(number, family, 1), "cni0", _BRIDGE)
            groups.append({f"n{number}": node, f"p{number}": (pod(number, family), "eth0", 2)})
        for group in groups:
            for name, (address, link, _) in group.items():
                mac = mac_of(spaces[name], link)
                for other, (_, _, index) in group.items():
                    if other != name:
                        carry_out(spaces[other], links.neighbour(ip_address(address), mac, index))


def carry_out(namespace: Namespace, *orders: Order) -> None:
    """Links, addresses, routes of a namespace."""
    in_links(namespace, lambda kernel: kernel.carry_out(orders))


def mac_of(namespace: Namespace, link: str) -> bytes:
    return in_links(namespace, lambda kernel: kernel.read()[link].mac)


def in_links(namespace: Namespace, work: Callable[[Links], Result]) -> Result:
    def within() -> Result:
        with Links() as kernel:
            return work(kernel)

    return namespace.run(within)


def until(true: Callable[[], bool]) -> None:
    """Return as soon as it is true."""
    deadline = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
