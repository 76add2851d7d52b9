"""The host's side of attachments compared with what it should be, and mended: bridges, links, routes, settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from cni import link_program
from cni.attachment import Attachment
from cni.bridges import Bridges
from cni.failure import Failure
from cni.link_news import PREFIXES
from netplane.errors import NetplaneError
from netplane.kernel import link_orders, link_read, routes, sysctls
from netplane.kernel.link_orders import GET_LINK, LINK
from netplane.kernel.link_read import LinkFacts
from netplane.kernel.links import LOOPBACK, Links, Order
from netplane.kernel.netlink import Request
from netplane.kernel.netns import Visit
from netplane.model.address import IPAddress

USUAL_MTU = 1500
_DEFAULT = (IPv4Address("203.0.113.1"), IPv6Address("2001:db8::1"))
"""Only the default route goes there (RFC 5737, RFC 3849)."""


class Seen(NamedTuple):
    """The host's links that are ours, by name; host routes and addresses, each by the number of its link."""

    links: dict[str, LinkFacts]
    routes: frozenset[tuple[int, bytes]] = frozenset()
    addresses: frozenset[tuple[int, bytes]] = frozenset()


def look(kernel: Links, *, routed: bool) -> Seen:
    """All that can be repaired link by link. What was attached before it began, and has not been touched, is in it."""
    if not routed:
        return Seen(ours(kernel))
    routes_first = frozenset(
        (each.index, each.to.network_address.packed) for each in routes.read(kernel, routes.PROTOCOL)
    )
    addresses = frozenset((each.index, each.address.packed) for each in link_read.addresses(kernel))
    return Seen(ours(kernel), routes_first, addresses)


class _Found(NamedTuple):
    """What was seen, and the number of an attachment's bridge, 0 for none."""

    bridge: int
    routes: frozenset[tuple[int, bytes]]
    addresses: frozenset[tuple[int, bytes]]


class Repair:
    """One round of mending. `kernel` and `netns_fd` are of the host's namespace."""

    def __init__(self, kernel: Links, bridges: Bridges, netns_fd: int) -> None:
        self._kernel, self._bridges, self._netns_fd = kernel, bridges, netns_fd

    def mend_shared(self, attachments: Iterable[Attachment], forwarding: Callable[[int], bool]) -> list[str]:
        """What several have together was not as it should be, in words. What cannot be mended says so."""
        own = [each for each in attachments if each.link]
        return [*_forwarding(own, forwarding), *self._mended_bridges(own)]

    def mend(self, attachments: Iterable[Attachment], seen: Seen) -> list[str]:
        """Which of their own links were not as they should be, in words. What cannot be mended says so.

        `mend_shared` comes before, and nobody has touched these attachments since `seen`.
        """
        words: list[str] = []
        numbers: dict[str, int] = {}
        for each in attachments:
            facts = seen.links.get(each.link)
            if facts is None:
                continue
            name = each.bridge.name if each.bridge else ""
            if name and name not in numbers:
                numbers[name] = link_read.number(self._kernel, name)
            words += self._mended_link(each, facts, _Found(numbers.get(name, 0), seen.routes, seen.addresses))
        return words

    def _mended_bridges(self, attachments: Sequence[Attachment]) -> Iterator[str]:
        for each in _of_bridges(attachments):
            try:
                yield from self._bridges.mend(each)
            except Failure as failure:
                yield f"not mended: {failure}"

    def _mended_link(self, attachment: Attachment, facts: LinkFacts, found: _Found) -> Iterator[str]:
        try:
            for order, word in _corrections(attachment, facts, found):
                refused = self._kernel.attempt([order])
                yield f"{facts.name}: {word}" + "".join(f": not mended: {each.said}" for each in refused)
            yield from self._mended_parameters(attachment, facts)
        except NetplaneError as error:  # the link went away meanwhile
            yield f"{facts.name}: not mended: {error}"

    def _mended_parameters(self, attachment: Attachment, facts: LinkFacts) -> Iterator[str]:
        wanted_ndp = link_program.families(attachment)[1]
        wrong = facts.inet6 and (facts.accept_ra or facts.proxy_ndp != wanted_ndp)
        if attachment.bridge is None and wrong:
            with Visit(self._netns_fd):
                sysctls.write(link_program.host_parameters(attachment))
            yield f"{facts.name}: accept_ra, proxy_ndp"


def _of_bridges(attachments: Sequence[Attachment]) -> list[Attachment]:
    """One for each thing that is wanted of a bridge. Of two IPv4 gateways only the newer one's can be had."""
    gateways: dict[str, tuple[bytes, int]] = {}
    different: dict[tuple[object, ...], Attachment] = {}
    for each in reversed(attachments):  # the newest first
        if each.bridge is None:
            continue
        wanted = link_program.gateway_addresses(each)
        v4 = next((gateway for gateway in wanted if len(gateway[0]) == 4), None)
        if v4 is None or gateways.setdefault(each.bridge.name, v4) == v4:
            different.setdefault((each.bridge, *wanted), each)
    return [*different.values()]


def ours(kernel: Links) -> dict[str, LinkFacts]:
    """The host's links whose names say that they are ours, by name."""
    payloads = kernel.dump(Request(GET_LINK, LINK.pack(0, 0, 0, 0, 0, 0) + link_read.WITHOUT_COUNTERS), "list links")
    names = ((link_read.decode_name(payload), payload) for payload in payloads)
    return {name: link_read.decode(payload) for name, payload in names if name.startswith(PREFIXES)}


def path_mtu(kernel: Links, peers: Sequence[IPAddress]) -> int:
    """The largest packet that fits through the links to all peers; to the default route's if there are none."""
    return min(_mtus(kernel, peers), default=0) or min(_mtus(kernel, _DEFAULT), default=USUAL_MTU)


def _mtus(kernel: Links, peers: Sequence[IPAddress]) -> Iterator[int]:
    known: dict[int, int] = {LOOPBACK: 0}  # a peer that is this host
    for peer in peers:
        route = routes.towards(kernel, peer)
        if route is None:
            continue
        if route.index not in known:
            facts = link_read.link(kernel, route.index)
            known[route.index] = facts.mtu if facts else 0
        if size := known[route.index]:
            yield min(size, route.mtu or size)


def _corrections(attachment: Attachment, facts: LinkFacts, found: _Found) -> Iterator[tuple[Order, str]]:
    """Orders for the host's end, in the order they must be carried out in, each with what it mends."""
    name = facts.index
    if attachment.host_mac and facts.mac != attachment.host_mac:
        yield link_orders.change(name, link_orders.mac(attachment.host_mac)), "its MAC"
    if attachment.mtu and facts.mtu != attachment.mtu:
        yield link_orders.change(name, link_orders.mtu(attachment.mtu)), f"its MTU was {facts.mtu}"
    if facts.group:
        yield link_orders.change(name, link_orders.group(0)), f"its group was {facts.group}"
    if facts.master != found.bridge:
        where = f"not in {attachment.bridge.name}" if attachment.bridge else "in a bridge"
        yield link_orders.change(name, link_orders.master(found.bridge)), where
    if attachment.bridge is not None:
        as_wanted = (attachment.bridge.hairpin, attachment.bridge.isolated)
        if facts.master != found.bridge or (facts.hairpin, facts.isolated) != as_wanted:
            yield link_orders.change(name, link_program.port_of(attachment.bridge)), "its port's flags"
    if not facts.up:
        yield link_orders.change(name, up=True), "down"
    if attachment.bridge is None:
        yield from _routed(attachment, facts, found)


def _routed(attachment: Attachment, facts: LinkFacts, found: _Found) -> Iterator[tuple[Order, str]]:
    wrong = [what.name.lower() for what, value in link_program.STRICT if facts.conf(what) != value]
    if link_program.wants_localnet(attachment) and not facts.conf(link_orders.Conf.ROUTE_LOCALNET):
        wrong.append("route_localnet")
    if wrong:
        settings = link_program.host_settings(attachment, ipv6=bool(facts.inet6))
        yield link_orders.change(facts.index, *settings), ", ".join(wrong)
    own = {(facts.index, each.address.packed) for each in attachment.addresses}
    hops = {(facts.index, each.gateway.packed) for each in attachment.addresses if each.gateway}
    six = {hop for hop in hops if len(hop[1]) == 16}
    if not facts.up or not own <= found.routes or not six <= found.addresses:  # a link that goes down loses both
        for order in link_program.host_side(attachment, facts.index):
            yield order, order.doing


def _forwarding(attachments: Iterable[Attachment], mend: Callable[[int], bool]) -> Iterator[str]:
    wanted = {
        version
        for each in attachments
        if each.bridge is None or each.bridge.gateway
        for version, has in zip((4, 6), link_program.families(each), strict=True)
        if has
    }
    for version in sorted(wanted):
        if mend(version):
            yield f"IPv{version} was not forwarded"
