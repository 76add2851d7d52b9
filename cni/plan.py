"""From configuration, addresses and facts of the host to the attachment, and from there to what the runtime is told.

Pure: what an interface of a container will be is decided here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import (
    IPv4Interface,
    IPv4Network,
    IPv6Interface,
    IPv6Network,
    collapse_addresses,
    ip_address,
    ip_network,
)

from cni.attachment import Attachment, AttachmentId, NetnsId, PodAddress, link_name
from cni.config import Mode, NetworkConfig
from cni.request import Invocation
from cni.result import Dns, Interface, IPInterface, Result, ResultAddress, Route
from netplane.model.address import Family, IPAddress, IPNetwork, family_of

NEXT_HOPS = {Family.IPV4: ip_address("169.254.1.1"), Family.IPV6: ip_address("fe80::1")}
"""What a routed container takes for its gateway: an address of the host's end of its own cable, the same for all."""
ROUTED_HOST_MAC = bytes.fromhex("eeeeeeeeeeee")
"""Of the host's end in routed mode: what the next hop answers to, so that it never has to be asked."""
_EVERYWHERE = {Family.IPV4: ip_network("0.0.0.0/0"), Family.IPV6: ip_network("::/0")}
_CONTAINER_MAC, _HOST_MAC = b"\x0a\x58", b"\x0a\x59"  # locally administered; four bytes of the address follow
_OWN = {Family.IPV4: 32, Family.IPV6: 128}


@dataclass(frozen=True, slots=True)
class Given:
    """What IPAM said: our own, or another plugin's result."""

    addresses: tuple[PodAddress, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: Dns = field(default_factory=Dns)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the interface will be: the container's namespace, the MTU the host's links allow, and whether CNI_NETNS
    leads to the namespace from where we are.
    """

    netns_id: NetnsId
    mtu: int
    seen: bool = False


def attachment_id(config: NetworkConfig, invocation: Invocation) -> AttachmentId:
    """Which attachment a request is about."""
    return AttachmentId(config.name, invocation.container, invocation.ifname)


def given_by(result: Result) -> Given:
    """The addresses, routes and DNS settings another plugin decided."""
    return Given(tuple(PodAddress(each.address, each.gateway) for each in result.addresses), result.routes, result.dns)


def plan(config: NetworkConfig, invocation: Invocation, given: Given, place: Place) -> Attachment:
    """The attachment a request asks for."""
    id_ = attachment_id(config, invocation)
    mode = Mode.CHAINED if config.previous is not None else config.mode
    own = mode is not Mode.CHAINED
    addresses = tuple(map(_routed, given.addresses)) if mode is Mode.ROUTED else given.addresses
    first = given.addresses[0].address.packed[-4:] if given.addresses else link_name(mode, id_)[-4:].encode()
    names = invocation.arguments
    pod = f"{names['K8S_POD_NAMESPACE']}/{names['K8S_POD_NAME']}" if "K8S_POD_NAME" in names else ""
    return Attachment(
        id=id_,
        mode=mode,
        netns=invocation.netns,
        netns_id=place.netns_id,
        netns_seen=place.seen,
        link=link_name(mode, id_) if own else "",
        mac=(config.mac or _CONTAINER_MAC + first) if own else b"",
        host_mac=b"" if not own else ROUTED_HOST_MAC if mode is Mode.ROUTED else _HOST_MAC + first,
        mtu=(config.mtu or place.mtu) if own else 0,
        bridge=config.bridge if mode is Mode.BRIDGE else None,
        addresses=addresses,
        routes=_routes(config, addresses, given.routes) if own else (),
        interface=config.interface,
        duplicate_address_detection=config.duplicate_address_detection,
        masquerade=config.masquerade and bool(addresses),
        masquerade_not_to=_not_to(tuple(each.address.network for each in given.addresses), config.masquerade_not_to),
        snat=config.snat,
        ports=config.ports,
        bandwidth=config.bandwidth,
        sysctls=config.sysctls,
        dns=config.dns or given.dns,
        delegate=config.ipam.type if own and config.ipam and config.ipam.delegated else "",
        cni_path=invocation.path,
        pod=pod,
    )


def chained(previous: Result, ifname: str) -> Given:
    """What a plugin before us gave the interface `ifname` of the container; nothing if it names none such."""
    inside = {at for at, each in enumerate(previous.interfaces) if each.name == ifname and each.sandbox}
    mine = (each for each in previous.addresses if each.interface in inside)
    return Given(tuple(PodAddress(each.address, each.gateway) for each in mine), previous.routes, previous.dns)


def result_of(attachment: Attachment, bridge_mac: bytes = b"") -> Result:
    """What ADD answers for an attachment that we made the interface of."""
    host = Interface(attachment.link, _mac(attachment.host_mac), mtu=attachment.mtu)
    inside = Interface(attachment.id.ifname, _mac(attachment.mac), attachment.netns, attachment.mtu)
    interfaces: tuple[Interface, ...] = (host, inside)
    if attachment.bridge is not None:
        interfaces = (Interface(attachment.bridge.name, _mac(bridge_mac), mtu=attachment.mtu), *interfaces)
    at = len(interfaces) - 1
    addresses = tuple(ResultAddress(each.address, each.gateway, at) for each in attachment.addresses)
    return Result(interfaces, addresses, attachment.routes, attachment.dns)


def peers_of(addresses: Iterable[IPAddress], own: Iterable[IPAddress]) -> tuple[IPAddress, ...]:
    """The addresses of other nodes, in order of value."""
    return tuple(sorted(set(addresses) - set(own), key=lambda each: (each.version, int(each))))


def _routed(given: PodAddress) -> PodAddress:
    """The address alone, with the next hop every routed container has: there is no network on its cable."""
    family = family_of(given.address)
    only: IPInterface = (
        IPv4Interface((given.address.packed, _OWN[family]))
        if family is Family.IPV4
        else IPv6Interface((given.address.packed, _OWN[family]))
    )
    return PodAddress(only, NEXT_HOPS[family])


def _routes(config: NetworkConfig, addresses: Sequence[PodAddress], given: Iterable[Route]) -> tuple[Route, ...]:
    """IPAM's routes, each by its own next hop or the family's gateway, and the default routes if none of them is."""
    gateways = {family_of(each.address): each.gateway for each in reversed(addresses) if each.gateway is not None}
    routes = [_via(route, gateways.get(family_of(route.to)), config.mode) for route in given]
    there = {route.to for route in routes}
    if config.default_route:
        routes += (
            Route(_EVERYWHERE[family], gateway)
            for family, gateway in sorted(gateways.items())
            if _EVERYWHERE[family] not in there
        )
    return tuple(routes)


def _via(route: Route, gateway: IPAddress | None, mode: Mode) -> Route:
    """In routed mode nothing but the next hop is on the cable, whatever the configuration names."""
    via = gateway if route.via is None or mode is Mode.ROUTED else route.via
    if via == route.via:
        return route
    return Route(route.to, via, route.mtu, route.advertised_mss, route.priority, route.table, route.scope)


@lru_cache(maxsize=256)
def _not_to(own: tuple[IPNetwork, ...], ranges: tuple[IPNetwork, ...]) -> tuple[IPNetwork, ...]:
    """Own networks and the cluster's ranges, merged and sorted: equal for all Pods of a network."""
    both = {*own, *ranges}
    v4 = collapse_addresses(each for each in both if isinstance(each, IPv4Network))
    v6 = collapse_addresses(each for each in both if isinstance(each, IPv6Network))
    return (*v4, *v6)


def _mac(address: bytes) -> str:
    return address.hex(":")
