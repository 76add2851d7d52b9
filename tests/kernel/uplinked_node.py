"""A node for tests of the Pod network: an anonymous namespace with an uplink, and `ip` and `bridge` as witnesses."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, TypeVar

from netplane.closing import Closing
from netplane.kernel import command
from netplane.kernel.links import Links
from netplane.kernel.mechanism import Pending
from netplane.kernel.netns import Namespace
from netplane.kernel.network_mechanism import NetworkMechanism
from netplane.model.address import IPAddress, IPNetwork
from netplane.programs.network import (
    BACKSTOP_METRIC,
    TABLE,
    LinkAddress,
    NetworkProgram,
    Route,
    RouteKey,
    RouteKind,
    SourceRule,
    VxlanLink,
)
from netplane.programs.program import Program

Result = TypeVar("Result")
UPLINK, UPLINK_SIX = ip_address("198.18.0.1"), ip_address("fd00:18::1")
VXLAN = VxlanLink("np-vxlan4", bytes.fromhex("0a0000000001"), 1450, 4097, 4789, UPLINK, checksum=False)
VXLAN_SIX = VxlanLink("np-vxlan6", bytes.fromhex("0a0000000001"), 1430, 4097, 4789, UPLINK_SIX, checksum=False)


def pods(number: int, family: int = 4) -> IPNetwork:
    """The Pod range of node number `number`."""
    if family == 4:
        return IPv4Network((int(ip_address("10.128.0.0")) + number * 256, 24))
    return IPv6Network((int(ip_address("fd00:244::")) + (number << 64), 64))


def inner(number: int, family: int = 4) -> IPAddress:
    return pods(number, family).network_address


def node(number: int, family: int = 4) -> IPAddress:
    return ip_address(int(ip_address("198.19.0.0" if family == 4 else "fd00:19::")) + number)


def mac(number: int) -> bytes:
    return b"\x0a\x01" + number.to_bytes(4, "big")


def overlay(*numbers: int, mtu: int = 0, link: VxlanLink = VXLAN) -> NetworkProgram:
    """Both families of Pods by VXLAN to the nodes with these numbers, as the real compiler does it."""
    name = link.name
    routes: dict[RouteKey, Route] = {
        RouteKey(pods(0), metric=BACKSTOP_METRIC): Route(RouteKind.BLACKHOLE),
        RouteKey(pods(0, 6), metric=BACKSTOP_METRIC): Route(RouteKind.BLACKHOLE),
        RouteKey(ip_network("10.128.0.0/9"), metric=BACKSTOP_METRIC): Route(RouteKind.UNREACHABLE),
        RouteKey(ip_network("fd00:244::/32"), metric=BACKSTOP_METRIC): Route(RouteKind.UNREACHABLE),
    }
    for number in numbers:
        for family in (4, 6):
            source = UPLINK if family == 4 else UPLINK_SIX
            routes[RouteKey(pods(number, family))] = Route(link=name, via=inner(number, family), mtu=mtu, source=source)
    for number in numbers:
        for family in (4, 6):
            to = ip_network(node(number, family))
            routes[RouteKey(to, TABLE)] = Route(link=name, via=inner(number, family), mtu=mtu)
    return NetworkProgram(
        links={name: link},
        addresses=frozenset(LinkAddress(name, inner(0, family)) for family in (4, 6)),
        neighbours={(name, inner(number, family)): mac(number) for number in numbers for family in (4, 6)},
        forwarding={(name, mac(number)): node(number, link.local.version) for number in numbers},
        routes=routes,
        rules=frozenset(SourceRule(pods(0, family)) for family in (4, 6)),
        sysctls={"net/ipv4/ip_forward": 1, f"net/ipv6/conf/{name}/accept_ra": 0},
    )


def direct(*numbers: int) -> NetworkProgram:
    """The same nodes without an overlay, which are on the uplink."""
    routes = {
        RouteKey(pods(number, family)): Route(link="eth0", via=node(number, family))
        for number in numbers
        for family in (4, 6)
    }
    backstops = {key: route for key, route in overlay().routes.items() if not route.link}
    return NetworkProgram(routes=backstops | routes, sysctls={"net/ipv4/ip_forward": 1})


class NetworkNode(Closing):
    """A namespace with `eth0` (198.18.0.1/15, fd00:18::1/31) and a mechanism in it."""

    def __init__(self) -> None:
        self.namespace = Namespace()
        self.announced: list[tuple[str, str]] = []
        self.ip("link", "set", "lo", "up")
        self.ip("link", "add", "eth0", "type", "veth", "peer", "name", "far")
        for link in ("eth0", "far"):
            self.ip("link", "set", link, "addrgenmode", "none")
            self.ip("link", "set", link, "up")
        self.run(_wait_for_carrier)
        self.ip("address", "add", f"{UPLINK}/15", "dev", "eth0")
        self.ip("address", "add", f"{UPLINK_SIX}/31", "dev", "eth0", "nodad")
        deadline = time.monotonic() + 20
        while str(UPLINK_SIX) not in self.ip("-6", "route", "show", "table", "local", "type", "local"):
            assert time.monotonic() < deadline  # the kernel makes it a little later, even without looking for others
        self.mechanism = self.run(self.new_mechanism)

    def new_mechanism(self) -> NetworkMechanism:
        """One without memory, for the calling thread."""
        return NetworkMechanism(lambda link, address: self.announced.append((link, str(address))))

    def run(self, work: Callable[[], Result]) -> Result:
        return self.namespace.run(work)

    def ip(self, *words: str) -> str:
        return self.run(lambda: command.run("ip", *words, mechanism="test", doing="change"))

    def bridge(self, *words: str) -> str:
        return self.run(lambda: command.run("bridge", *words, mechanism="test", doing="change"))

    def shown(self, *words: str) -> list[dict[str, Any]]:
        said: list[dict[str, Any]] = json.loads(self.ip("-json", "-details", *words) or "[]")
        return [each for each in said if each]

    def pending(self, want: NetworkProgram, *, reread: bool = True, sweep: bool = True) -> Pending:
        return self.run(lambda: self.mechanism.pending(Program(network=want), reread=reread, sweep=sweep))

    def apply(self, want: NetworkProgram, *, reread: bool = True, sweep: bool = True) -> Pending:
        """As the host does it."""

        def work() -> Pending:
            try:
                pending = self.mechanism.pending(Program(network=want), reread=reread, sweep=sweep)
                pending.make()
                if sweep:
                    pending.sweep()
                else:
                    self.mechanism.forget()
            except BaseException:
                self.mechanism.forget()
                raise
            return pending

        return self.run(work)

    def everything(self) -> dict[str, list[str]]:
        """All there is, ours or not, as `ip` and `bridge` say it; what the kernel makes by itself is left out."""
        links = [
            (
                each["ifname"],
                each.get("linkinfo", {}).get("info_kind"),
                each["mtu"],
                each["address"],
                "UP" in each["flags"],
            )
            for each in self.shown("link", "show")
        ]
        return {
            "links": sorted(map(str, links)),
            "addresses": sorted(line.split(": ", 1)[1] for line in self.ip("-o", "address", "show").splitlines()),
            "routes": [*self.lines("-4", "route"), *self.lines("-6", "route")],
            "rules": [*self.ip("-4", "rule").splitlines(), *self.ip("-6", "rule").splitlines()],
            "neighbours": sorted(self.ip("neighbour", "show", "nud", "permanent").splitlines()),
            "forwarding": sorted(line for line in self.bridge("fdb", "show").splitlines() if " dst " in line),
        }

    def lines(self, family: str, what: str) -> list[str]:
        said = self.ip(family, what, "show", "table", "all").splitlines()
        return sorted(line.strip() for line in said if "table local" not in line)

    def ours(self) -> list[str]:
        """Our routes, as `ip` says them."""
        words = ("route", "show", "table", "all", "proto", "98")
        lines = (line for family in ("-4", "-6") for line in self.ip(family, *words).splitlines())
        return sorted(line.replace(" linkdown", "").strip() for line in lines)

    def close(self) -> None:
        self.mechanism.close()
        self.namespace.close()


def _wait_for_carrier() -> None:
    with Links() as kernel:
        kernel.wait_ready({"eth0", "far"}, 20)


def without(program: NetworkProgram, **changes: Any) -> NetworkProgram:
    return replace(program, **changes)
