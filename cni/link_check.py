"""Whether links are as an attachment says: CHECK. What is expected and what was seen is named; additions are fine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cni import link_program
from cni.attachment import Attachment
from cni.config import Mode
from cni.failure import Code, Failure
from netplane.kernel import link_read, routes, tc
from netplane.kernel.link_orders import Conf
from netplane.kernel.link_read import AddressFacts, LinkFacts
from netplane.kernel.links import Links
from netplane.kernel.routes import MAIN_TABLE, RouteFacts
from netplane.model.address import IPAddress, IPNetwork


@dataclass(frozen=True, slots=True)
class Inside:
    """What the container has: its interface (None: none), that one's addresses and routes."""

    link: LinkFacts | None
    addresses: tuple[AddressFacts, ...] = ()
    routes: tuple[RouteFacts, ...] = ()


def look_inside(kernel: Links, attachment: Attachment) -> Inside:
    """Read it, in the container's namespace."""
    link = link_read.link(kernel, attachment.id.ifname)
    if link is None:
        return Inside(None)
    found = [each for each in routes.read(kernel) if each.index == link.index]
    return Inside(link, tuple(link_read.addresses(kernel, link.index)), tuple(found))


def same(what: str, expected: object, seen: object) -> None:
    """Raises Failure(DIFFERS) that names both if they are not equal."""
    if expected != seen:
        raise Failure(Code.DIFFERS, f"{what}: expected {expected}, found {seen}")


def inside(attachment: Attachment, found: Inside) -> None:
    """Raises Failure(DIFFERS) if the container lacks something."""
    name, link = attachment.id.ifname, found.link
    if link is None:
        raise Failure(Code.DIFFERS, f"interface {name}: it is not in the container")
    same(f"interface {name}", "veth", link.kind)
    if attachment.mac:
        same(f"MAC of {name}", attachment.mac.hex(":"), link.mac.hex(":"))
    if not attachment.interface:
        return
    same(f"interface {name}", "up", "up" if link.up else "down")
    have = {each.address for each in found.addresses}
    for each in attachment.addresses:
        if each.address not in have:
            raise Failure(Code.DIFFERS, f"address of {name}: expected {each.address}, found {_listed(have)}")
    for route in attachment.routes:
        _routed(route.to, link_program.next_hop(attachment, route), route.table or MAIN_TABLE, found.routes)
    if attachment.mode is Mode.BRIDGE:
        for each in attachment.addresses:
            _routed(each.address.network, None, MAIN_TABLE, found.routes)


def host(attachment: Attachment, found: Inside, facts: LinkFacts | None, kernel: Links) -> None:
    """Raises Failure(DIFFERS) if the host's end, its bridge or its routes are not as they should be."""
    name = attachment.link
    if facts is None:
        raise Failure(Code.DIFFERS, f"host link {name}: it is gone")
    same(f"host link {name}", "up", "up" if facts.up else "down")
    same(f"other end of {name}", found.link and found.link.index, facts.peer)
    if attachment.host_mac:
        same(f"MAC of {name}", attachment.host_mac.hex(":"), facts.mac.hex(":"))
    if attachment.bridge is not None:
        options = attachment.bridge
        bridge = link_read.link(kernel, options.name)
        same(f"bridge {options.name}", "bridge", bridge.kind if bridge else "nothing")
        same(f"bridge of {name}", bridge and bridge.index, facts.master)
        same(f"hairpin of {name}", options.hairpin, facts.hairpin)
        same(f"isolation of {name}", options.isolated, facts.isolated)
        return
    for what, value in link_program.STRICT:
        same(f"{what.name.lower()} of {name}", value, facts.conf(Conf(what)))
    for each in attachment.addresses:
        route = routes.towards(kernel, each.address.ip)
        same(f"host route to {each.address.ip}", name, _link_of(route, each.address.ip, facts, kernel))


def limited(attachment: Attachment, facts: LinkFacts, kernel: Links) -> None:
    """Raises Failure(DIFFERS) if bandwidth is not limited as it should be. `facts`: the host's end."""
    bandwidth = attachment.bandwidth
    if bandwidth is None:
        return
    have = tc.read(kernel)
    if bandwidth.ingress_rate:
        same("ingress bandwidth", bandwidth.ingress_rate // 8, _rate(have, facts.index))
    if bandwidth.egress_rate:
        queue = link_read.link(kernel, link_program.queue_name(attachment))
        if queue is None:
            raise Failure(Code.DIFFERS, f"link {link_program.queue_name(attachment)}: it is gone")
        same(f"link {queue.name}", "up", "up" if queue.up else "down")
        same("egress bandwidth", bandwidth.egress_rate // 8, _rate(have, queue.index))
        redirected = any(each.index == facts.index and each.kind == "ingress" for each in have)
        same("redirection of egress", "ingress queue", "ingress queue" if redirected else "none")


def _routed(to: IPNetwork, via: IPAddress | None, table: int, have: Iterable[RouteFacts]) -> None:
    there = [each for each in have if each.to == to and each.table == table]
    if not any(via is None or each.via == via for each in there):
        seen = ", ".join(f"via {each.via}" if each.via else "on the link" for each in there) or "none"
        raise Failure(Code.DIFFERS, f"route to {to}{f' via {via}' if via else ''}: found {seen}")


def _link_of(route: RouteFacts | None, to: IPAddress, facts: LinkFacts, kernel: Links) -> str:
    """The name of the link by which a host route goes to exactly this address."""
    if route is None or route.to.prefixlen != to.max_prefixlen:
        return "none"
    if route.index == facts.index:
        return facts.name
    other = link_read.link(kernel, route.index)
    return other.name if other else str(route.index)


def _rate(have: Iterable[tc.QueueFacts], index: int) -> int:
    return next((each.rate for each in have if each.index == index and each.root), 0)


def _listed(have: Iterable[object]) -> str:
    return ", ".join(sorted(map(str, have))) or "none"
