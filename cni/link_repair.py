"""The host's side of attachments compared with what it should be, and mended: bridges, links, routes, settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

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
from netplane.kernel.routes import RouteFacts
from netplane.model.address import IPAddress, IPNetwork

USUAL_MTU = 1500
_DEFAULT = (IPv4Address("203.0.113.1"), IPv6Address("2001:db8::1"))
"""Only the default route goes there (RFC 5737, RFC 3849)."""


class Repair:
    """One round of mending. `kernel` and `netns_fd` are of the host's namespace."""

    def __init__(self, kernel: Links, bridges: Bridges, netns_fd: int) -> None:
        self._kernel, self._bridges, self._netns_fd = kernel, bridges, netns_fd

    def mend(self, attachments: Sequence[Attachment], forwarding: Callable[[int], bool]) -> list[str]:
        """What was not as it should be, in words. What cannot be mended says so and does not stop the rest."""
        own = [each for each in attachments if each.link]
        words = [*_forwarding(own, forwarding), *self._mended_bridges(own)]
        have = ours(self._kernel)
        host_routes = set(_keys(routes.read(self._kernel, routes.PROTOCOL)))
        for each in own:
            facts = have.get(each.link)
            if facts is not None:
                words += self._mended_link(each, facts, host_routes)
        return words

    def _mended_bridges(self, attachments: Iterable[Attachment]) -> Iterator[str]:
        different = {(each.bridge, *link_program.gateway_addresses(each)): each for each in attachments if each.bridge}
        for each in different.values():
            try:
                yield from self._bridges.mend(each)
            except Failure as failure:
                yield f"not mended: {failure}"

    def _mended_link(
        self, attachment: Attachment, facts: LinkFacts, host_routes: set[tuple[IPNetwork, int]]
    ) -> Iterator[str]:
        try:
            for order, word in self._corrections(attachment, facts, host_routes):
                refused = self._kernel.attempt([order])
                yield f"{facts.name}: {word}" + "".join(f": not mended: {each.said}" for each in refused)
            yield from self._mended_parameters(attachment, facts)
        except NetplaneError as error:  # the link went away meanwhile
            yield f"{facts.name}: not mended: {error}"

    def _corrections(
        self, attachment: Attachment, facts: LinkFacts, host_routes: set[tuple[IPNetwork, int]]
    ) -> Iterator[tuple[Order, str]]:
        name = facts.index
        if attachment.host_mac and facts.mac != attachment.host_mac:
            yield link_orders.change(name, link_orders.mac(attachment.host_mac)), "its MAC"
        if attachment.mtu and facts.mtu != attachment.mtu:
            yield link_orders.change(name, link_orders.mtu(attachment.mtu)), f"its MTU was {facts.mtu}"
        if facts.group:
            yield link_orders.change(name, link_orders.group(0)), f"its group was {facts.group}"
        if attachment.bridge is not None:
            bridge = link_read.link(self._kernel, attachment.bridge.name)
            if bridge is not None and facts.master != bridge.index:
                yield link_orders.change(name, link_orders.master(bridge.index)), f"not in {bridge.name}"
            as_wanted = (attachment.bridge.hairpin, attachment.bridge.isolated)
            if facts.master != (bridge and bridge.index) or (facts.hairpin, facts.isolated) != as_wanted:
                yield link_orders.change(name, link_program.port_of(attachment.bridge)), "its port's flags"
        elif facts.master:
            yield link_orders.change(name, link_orders.master(0)), "in a bridge"
        if not facts.up:
            yield link_orders.change(name, up=True), "down"
        if attachment.bridge is None:
            yield from _routed(attachment, facts, host_routes)

    def _mended_parameters(self, attachment: Attachment, facts: LinkFacts) -> Iterator[str]:
        wanted_ndp = link_program.families(attachment)[1]
        wrong = facts.inet6 and (facts.accept_ra or facts.proxy_ndp != wanted_ndp)
        if attachment.bridge is None and wrong:
            with Visit(self._netns_fd):
                sysctls.write(link_program.host_parameters(attachment))
            yield f"{facts.name}: accept_ra, proxy_ndp"


def ours(kernel: Links) -> dict[str, LinkFacts]:
    """The host's links whose names say that they are ours, by name."""
    payloads = kernel.dump(Request(GET_LINK, LINK.pack(0, 0, 0, 0, 0, 0) + link_read.WITHOUT_COUNTERS), "list links")
    names = ((link_read.decode_names(payload)[0], payload) for payload in payloads)
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


def _routed(
    attachment: Attachment, facts: LinkFacts, host_routes: set[tuple[IPNetwork, int]]
) -> Iterator[tuple[Order, str]]:
    wrong = [what.name.lower() for what, value in link_program.STRICT if facts.conf(what) != value]
    if link_program.wants_localnet(attachment) and not facts.conf(link_orders.Conf.ROUTE_LOCALNET):
        wrong.append("route_localnet")
    if wrong:
        yield link_orders.change(facts.index, *link_program.host_settings(attachment, ipv6=True)), ", ".join(wrong)
    missing = not {(_own(each.address.ip), facts.index) for each in attachment.addresses} <= host_routes
    if missing or not facts.up:  # with the link going down its routes went
        for order in link_program.host_side(attachment, facts.index):
            yield order, order.doing


def _keys(found: Iterable[RouteFacts]) -> Iterator[tuple[IPNetwork, int]]:
    for each in found:
        yield each.to, each.index


def _own(address: IPAddress) -> IPNetwork:
    return IPv4Network(address) if address.version == 4 else IPv6Network(address)


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
