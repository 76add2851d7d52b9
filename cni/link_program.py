"""What an attachment is made of in the kernel: link orders for the host's side and for the container's. Pure.

    host                                      container
    cni0 (gateway's address) -- npb...  ====  eth0: address, routes via the gateway             bridge
    route to the address --> npr...     ====  eth0: address, 169.254.1.1 on the link, default   routed
    npi... : egress of npb/npr passes this ifb's bucket, ingress the bucket of npb/npr itself   bandwidth

Built once per container on the hot path: bytes, no address objects.
"""

from __future__ import annotations

from collections.abc import Iterable

from cni.attachment import Attachment, link_name
from cni.config import BridgeOptions, Mode
from cni.failure import Code, Failure
from cni.result import Route
from netplane.kernel import link_orders, routes, tc
from netplane.kernel.link_orders import NO_PREFIX_ROUTE, NODAD, Conf, End
from netplane.kernel.links import LOOPBACK, Order, up
from netplane.kernel.tc import Bucket
from netplane.model.address import IPAddress

QUEUE_PREFIX = "npi"
"""Of the ifb that limits what a container sends."""
LATENCY = 0.025
"""Seconds a packet may wait in a bucket's queue (the reference plugin's)."""

_NO_BURST_SAID = (1 << 31) - 1
"""Bursts from here on, in bit, are what runtimes send when nobody said one (containerd: 2^32-1)."""
_SMALLEST_BURST = 128 << 10  # bytes: two of the largest packets a container can hand over at once
_DERIVED_MAC = b"\x0a\x58"
_ANNOUNCE = link_orders.settings((Conf.ARP_NOTIFY, 1), link_local=True)
STRICT = ((Conf.FORWARDING, 1), (Conf.PROXY_ARP, 1), (Conf.RP_FILTER, 1))
"""IPv4 settings of the host's end in routed mode: what comes from it must be routed back to it."""
_LOCALNET = (Conf.ROUTE_LOCALNET, 1)
# By whether this kernel has IPv6: of a family it does not have it takes no settings.
_NO_LINK_LOCAL = {True: link_orders.settings(), False: b""}
_ROUTED = {ipv6: link_orders.settings(*STRICT, link_local=not ipv6) for ipv6 in (False, True)}
_ROUTED_LOCALNET = {ipv6: link_orders.settings(*STRICT, _LOCALNET, link_local=not ipv6) for ipv6 in (False, True)}
_BOTH = (False, True)
_PORTS = {(hairpin, isolated): link_orders.port(hairpin, isolated) for hairpin in _BOTH for isolated in _BOTH}
_LINK_LOCAL = b"\xfe\x80"
_LOOPBACK_UP = up(LOOPBACK)


def links_of(attachment: Attachment) -> tuple[str, ...]:
    """The links of an attachment on the host, by name: its end of the cable, and its queue."""
    limits = attachment.bandwidth
    queue = (queue_name(attachment),) if limits and limits.egress_rate else ()
    return (attachment.link, *queue) if attachment.link else queue


def queue_name(attachment: Attachment) -> str:
    """The ifb of an attachment, whether it has one or not."""
    return QUEUE_PREFIX + (attachment.link or link_name(Mode.BRIDGE, attachment.id))[3:]


def with_queues(links: Iterable[str]) -> list[str]:
    """Host links, and the names their queues have if there are any."""
    return sorted({each for link in links for each in (link, QUEUE_PREFIX + link[3:])})


def cable(attachment: Attachment, index: int, netns_fd: int, bridge: int, *, ipv6: bool) -> list[Order]:
    """The links, and what can be said of the host's end by its name: nothing of it harms if the number was taken."""
    near = End(attachment.link, index, attachment.host_mac)
    far = End(attachment.id.ifname, index + 1, attachment.mac)
    made = link_orders.cable(near, far, netns_fd, attachment.mtu, bridge)
    return [made, link_orders.change(attachment.link, *host_settings(attachment, ipv6=ipv6))]


def host_settings(attachment: Attachment, *, ipv6: bool) -> tuple[bytes, ...]:
    """How the host's end is set, by `link_orders.change`."""
    words = link_orders.alias(attachment.pod or attachment.id.container)
    if attachment.bridge is not None:
        return (words, _PORTS[attachment.bridge.hairpin, attachment.bridge.isolated], _NO_LINK_LOCAL[ipv6])
    return (words, (_ROUTED_LOCALNET if wants_localnet(attachment) else _ROUTED)[ipv6])


def wants_localnet(attachment: Attachment) -> bool:
    """Whether packets from 127.0.0.1 are to reach it: clients of its host ports on this node."""
    return attachment.snat and bool(attachment.ports)


def host_side(attachment: Attachment, index: int) -> list[Order]:
    """What needs the number of the host's end: in routed mode its routes and next hops."""
    if attachment.bridge is not None:
        vlan = attachment.bridge.vlan
        return link_orders.vlan(index, vlan) if vlan else []
    orders = []
    for each in attachment.addresses:
        packed = each.address.packed
        if len(packed) == 16:
            hop = each.gateway.packed if each.gateway else b""
            orders.append(link_orders.address(hop, 64 if hop[:2] == _LINK_LOCAL else 128, index))
        orders.append(routes.to_host(packed, index))
    if any(each.address.version == 4 for each in attachment.addresses):
        orders.append(link_orders.answer_at_once(index))
    return orders


def inside(attachment: Attachment, index: int, *, ipv6: bool) -> list[Order]:
    """Everything inside the container, on its end of the cable, which is number `index`."""
    if not attachment.interface:
        return []
    v4, v6 = families(attachment)
    checked = attachment.duplicate_address_detection
    # Runtimes of Kubernetes set `lo` up themselves, or by a network of its own; others (`ctr run --cni`) do not, and
    # nothing would reach a container's own address. It costs a twentieth of everything.
    orders = [] if attachment.pod else [_LOOPBACK_UP]
    # Neighbours need not hear of a MAC that follows from the address: what they remember is right. To tell them at
    # once costs a tenth of all this; so the setting, which counts whenever the link changes later, comes afterwards.
    announce = v4 and not attachment.mac.startswith(_DERIVED_MAC)
    before = link_orders.settings(*(((Conf.ARP_NOTIFY, 1),) if announce else ()), link_local=checked or not ipv6)
    orders.append(link_orders.change(index, before))
    orders += _addresses(attachment, index)
    orders.append(link_orders.change(index, *((_ANNOUNCE,) if v4 and not announce else ()), up=True))
    if v6 and not checked:
        orders.insert(-1, link_orders.address(link_local(attachment.mac), 64, index))
    if attachment.mode is Mode.ROUTED:
        orders += _next_hops(attachment, index)
    orders += _routes(attachment, index)
    return orders


def families(attachment: Attachment) -> tuple[bool, bool]:
    """Whether it has IPv4 and IPv6 addresses."""
    versions = [each.address.version for each in attachment.addresses]
    return 4 in versions, 6 in versions


def link_local(mac: bytes) -> bytes:
    """The address every IPv6 interface has (RFC 4291, appendix A): the kernel would only use it after a second."""
    return b"\xfe\x80" + bytes(6) + bytes((mac[0] ^ 2,)) + mac[1:3] + b"\xff\xfe" + mac[3:]


def gateway_addresses(attachment: Attachment) -> list[tuple[bytes, int]]:
    """What the bridge answers to: each gateway with its network's length."""
    if attachment.bridge is None or not attachment.bridge.gateway:
        return []
    found = [
        (each.gateway.packed, each.address.network.prefixlen)
        for each in attachment.addresses
        if each.gateway is not None
    ]
    return list(dict.fromkeys(found))


def bridge_mac(attachment: Attachment) -> bytes:
    """The MAC of a bridge we make: from its first gateway's address, or its name; never from a port."""
    gateways = gateway_addresses(attachment)
    name = attachment.bridge.name if attachment.bridge else ""
    return _DERIVED_MAC + (gateways[0][0][-4:] if gateways else name.encode()[-4:].rjust(4, b"\0"))


def bucket(rate: int, burst: int) -> Bucket:
    """Rate in bit/s and burst in bit, as a token bucket. No burst, or an endless one: a tenth of a second's worth."""
    per_second = max(rate // 8, 1)
    at_once = burst // 8
    if not 0 < burst < _NO_BURST_SAID:
        at_once = max(per_second // 10, _SMALLEST_BURST)
    return Bucket(per_second, at_once, int(per_second * LATENCY) + at_once)


def limits(attachment: Attachment, index: int, queue: int, *, ipv6: bool) -> list[Order]:
    """Buckets for host link `index`; what the container sends goes through link `queue`, which `new_queue` made."""
    bandwidth = attachment.bandwidth
    if bandwidth is None:
        return []
    orders = []
    if bandwidth.ingress_rate:
        orders.append(tc.limit(index, bucket(bandwidth.ingress_rate, bandwidth.ingress_burst)))
    if bandwidth.egress_rate:
        orders.append(link_orders.change(queue, _NO_LINK_LOCAL[ipv6]))
        orders.append(link_orders.change(queue, up=True))
        orders.append(tc.limit(queue, bucket(bandwidth.egress_rate, bandwidth.egress_burst)))
        orders += tc.redirect(index, queue)
    return orders


def host_parameters(attachment: Attachment) -> dict[str, int]:
    """What netlink cannot set of the host's end in routed mode: a container must not configure the host."""
    folder = f"net/ipv6/conf/{attachment.link}/"
    found = {folder + "accept_ra": 0}
    return found | {folder + "proxy_ndp": 1} if families(attachment)[1] else found


def inside_parameters(attachment: Attachment) -> dict[str, str]:
    """What netlink cannot set inside: IPv6 addresses survive when the link goes down and up."""
    if not attachment.interface or not families(attachment)[1]:
        return {}
    return {f"net/ipv6/conf/{attachment.id.ifname}/keep_addr_on_down": "1"}


def checked_sysctls(attachment: Attachment) -> dict[str, str]:
    """The parameters to write inside. Raises Failure for a name that is none of `net/`."""
    for name, _ in attachment.sysctls:
        parts = name.split("/")
        if parts[0] != "net" or len(parts) < 2 or any(part in ("", ".", "..") for part in parts) or "\0" in name:
            raise Failure(Code.INVALID_CONFIG, f"sysctl {name!r} is not one of the network's")
    return dict(attachment.sysctls)


def gateway_of(attachment: Attachment, version: int) -> IPAddress | None:
    """The first gateway of a family."""
    found = (each.gateway for each in attachment.addresses if each.gateway and each.gateway.version == version)
    return next(found, None)


def next_hop(attachment: Attachment, route: Route) -> IPAddress | None:
    """By what a route goes: as it says, or by the first gateway of its family."""
    return route.via if route.via is not None else gateway_of(attachment, route.to.version)


def _addresses(attachment: Attachment, index: int) -> list[Order]:
    flags = 0 if attachment.duplicate_address_detection else NODAD
    if attachment.mode is Mode.ROUTED:
        flags |= NO_PREFIX_ROUTE  # the others of its network are not on this cable
    return [
        link_orders.address(each.address.packed, each.address.network.prefixlen, index, flags)
        for each in attachment.addresses
    ]


def _next_hops(attachment: Attachment, index: int) -> list[Order]:
    orders = []
    for hop in dict.fromkeys(each.gateway.packed for each in attachment.addresses if each.gateway is not None):
        if hop[:2] != _LINK_LOCAL or len(hop) == 4:
            orders.append(routes.on_link(hop, index))
        orders.append(routes.permanent_neighbour(hop, attachment.host_mac, index))
    return orders


def _routes(attachment: Attachment, index: int) -> list[Order]:
    orders = []
    for each in attachment.routes:
        via = next_hop(attachment, each)
        details = routes.NO_DETAILS
        if each.mtu or each.advertised_mss or each.priority is not None or each.table or each.scope is not None:
            details = routes.Details(each.mtu, each.advertised_mss, each.priority, each.table, each.scope)
        to = each.to.network_address.packed
        orders.append(routes.route(to, each.to.prefixlen, index, via.packed if via else b"", details))
    return orders


def port_of(options: BridgeOptions) -> bytes:
    """How a port of this bridge is set, by `link_orders.change`."""
    return _PORTS[options.hairpin, options.isolated]
