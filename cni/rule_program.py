"""Attachments as the nftables tables `netplane-pods`: masquerade, host ports, and no forged sources. Pure.

    prerouting, output (nat, just after the Services') --- to an address of this node? ---> host-ports
        host-ports: a client that would be answered past us is marked; dnat to host-address-ports[address . port],
                    else to host-ports[port]
    postrouting (nat, just after the Services'): marked, or a pod sent to itself, or a pod leaving the cluster
                    -> masquerade
    anti-spoofing (filter, before connections are tracked): a source that does not lead back to its link -> drop

The Services' tables come first and the first nat chain that maps a connection wins: a node port beats a host port.

Attachments are elements of sets, and every distinct list of ranges is a set with a rule of its own. Not a map from a
pod to the chain of its list: the kernel walks through a whole map of verdicts for each one added to it (50 ns for
every pod there is, tried on 6.18), a set without verdicts it does not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from struct import Struct

from cni.attachment import LINK_PREFIXES, Attachment, AttachmentId
from cni.config import Mode, PortMapping
from netplane.model.address import Family, IPAddress, IPNetwork, Protocol
from netplane.programs.nftables import Chain, Data, Field, Hook, NftablesProgram, Part, SetName, SetSpec, Structure

TABLE = "netplane-pods"
PORTS, ADDRESS_PORTS = "host-ports", "host-address-ports"
"""The maps from a host port to who has it: of all addresses of the node, and of one."""
MASQUERADE = 0x4000
"""The bit of the packet mark that says "masquerade on the way out": the Services' and kube-proxy's, and whoever's
postrouting comes first does it and clears the bit."""

_DSTNAT, _SRCNAT, _RAW = -99, 101, -300
"""The Services' nat chains are at -100 and 100 (their backends, iptables and kube-proxy alike)."""

Networks = tuple[IPNetwork, ...]
"""Merged, sorted, of one family."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What one family's table needs besides elements."""

    masquerade_not_to: frozenset[Networks] = frozenset()
    clients: frozenset[Networks] = frozenset()
    """Clients of host ports that are masqueraded: one list for each kind of Pod network."""
    ports: bool = False
    guarded: bool = False

    def __or__(self, other: Shape) -> Shape:
        return Shape(
            self.masquerade_not_to | other.masquerade_not_to,
            self.clients | other.clients,
            self.ports or other.ports,
            self.guarded or other.guarded,
        )


@dataclass(frozen=True, slots=True)
class Needs:
    """What one attachment needs: elements, and tables of a shape. `part` holds no structure of its own."""

    part: Part
    shapes: Mapping[Family, Shape]


@dataclass(frozen=True, slots=True)
class HostPort:
    """What a host port occupies. `address` None: every address of the family."""

    family: Family
    address: IPAddress | None
    protocol: Protocol
    port: int

    def __str__(self) -> str:
        where = "" if self.address is None else f" of {self.address}"
        return f"{self.protocol} port {self.port}{where} ({self.family})"


@dataclass(frozen=True, slots=True)
class _Words:
    ip: str
    address: Field
    multicast: IPNetwork
    loopback: IPNetwork


_WORDS = {
    Family.IPV4: _Words("ip", Field.ADDRESS4, ip_network("224.0.0.0/4"), ip_network("127.0.0.0/8")),
    Family.IPV6: _Words("ip6", Field.ADDRESS6, ip_network("ff00::/8"), ip_network("::1/128")),
}
_UNSPECIFIED = {Family.IPV4: bytes(4), Family.IPV6: bytes(16)}
_PROTOCOL = {protocol: bytes((protocol.number, 0, 0, 0)) for protocol in Protocol}
_PORT = Struct(">H2x")
_FAMILIES = (Family.IPV4, Family.IPV6)


# --- attachments ----------------------------------------------------------------------------------------------------


def program(attachments: Iterable[Attachment], families: Sequence[Family] = _FAMILIES) -> NftablesProgram:
    """The tables for exactly these attachments; none if none needs one. `families` are those the host has."""
    found = {each.id: needs(each, families) for each in attachments}
    return assembled({id_: each.part for id_, each in found.items()}, merged(each.shapes for each in found.values()))


def assembled(parts: Mapping[AttachmentId, Part], shapes: Mapping[Family, Shape]) -> NftablesProgram:
    """The tables for parts and the shapes they need."""
    return NftablesProgram({family: structure(family, shapes[family]) for family in sorted(shapes)}, parts, table=TABLE)


def merged(shapes: Iterable[Mapping[Family, Shape]]) -> dict[Family, Shape]:
    """One shape for each family that has room for all."""
    found: dict[Family, set[Shape]] = {}
    for each in shapes:
        for family, shape in each.items():
            found.setdefault(family, set()).add(shape)
    return {family: reduce(Shape.__or__, several) for family, several in found.items()}


def needs(attachment: Attachment, families: Sequence[Family] = _FAMILIES) -> Needs:
    """What `attachment` needs; nothing at all without masquerade, ports and a routed link."""
    elements: dict[SetName, dict[bytes, Data]] = {}
    shapes: dict[Family, Shape] = {}
    guarded = attachment.mode is Mode.ROUTED and attachment.interface
    for family in families:
        addresses = [each.address for each in attachment.addresses if each.address.version == family]
        lists: frozenset[Networks] = frozenset()
        clients: frozenset[Networks] = frozenset()
        if attachment.masquerade and addresses:
            kept = _of_family(family, _kept(attachment))
            lists = frozenset((kept,))
            pods = elements.setdefault((family, masquerade_name(kept)), {})
            pods.update((each.packed, None) for each in addresses)
        ports = _mapped(attachment, family) if attachment.ports and addresses else ()
        if ports:
            target = addresses[0].packed
            elements[family, "selves"] = {target + target: None}
            local = _clients(attachment, family)
            clients = frozenset((local,)) if local else frozenset()
            for mapping in ports:
                _map_port(elements, family, target, mapping, local)
        if lists or ports or guarded:
            shapes[family] = _shape(lists, clients, bool(ports), guarded)
    return Needs(Part(elements), shapes)


_shape = lru_cache(Shape)
"""The same object for the same arguments."""


def host_ports(attachment: Attachment, families: Sequence[Family] = _FAMILIES) -> Iterator[HostPort]:
    """The host ports it occupies: those that lead to an address it has."""
    for family in families if attachment.ports else ():
        if any(each.address.version == family for each in attachment.addresses):
            for mapping in _mapped(attachment, family):
                host = mapping.host_address
                address = None if host is None or host.is_unspecified else host
                yield HostPort(family, address, mapping.protocol, mapping.host_port)


def _mapped(attachment: Attachment, family: Family) -> list[PortMapping]:
    return [each for each in attachment.ports if each.host_address is None or each.host_address.version == family]


def _map_port(
    elements: dict[SetName, dict[bytes, Data]], family: Family, target: bytes, mapping: PortMapping, local: Networks
) -> None:
    key = _PROTOCOL[mapping.protocol] + _PORT.pack(mapping.host_port)
    to = target + _PORT.pack(mapping.container_port)
    host = mapping.host_address.packed if mapping.host_address is not None else b""
    at_address = bool(host) and host != _UNSPECIFIED[family]
    if at_address:
        key = host + key
    elements.setdefault((family, ADDRESS_PORTS if at_address else PORTS), {})[key] = to
    if local:
        elements.setdefault((family, clients_name(local, at_address=at_address)), {})[key] = None


def _kept(attachment: Attachment) -> Networks:
    """Where it is not masqueraded, without itself: a list of its own would cost a set and a rule for each container."""
    if attachment.mode is Mode.BRIDGE:
        return attachment.masquerade_not_to
    own = {each.address.ip for each in attachment.addresses}
    return tuple(
        each
        for each in attachment.masquerade_not_to
        if each.prefixlen < each.max_prefixlen or each.network_address not in own
    )


@lru_cache
def _of_family(family: Family, networks: Networks) -> Networks:
    if family is Family.IPV4:
        return tuple(collapse_addresses(each for each in networks if isinstance(each, IPv4Network)))
    return tuple(collapse_addresses(each for each in networks if isinstance(each, IPv6Network)))


def _clients(attachment: Attachment, family: Family) -> Networks:
    """Who must be masqueraded towards its host ports: whoever the container would answer past us.

    That is this node calling itself by a loopback address, and whoever is on the same link as the container.
    """
    if not attachment.snat:
        return ()
    loopback = _WORDS[family].loopback
    if attachment.mode is Mode.ROUTED:
        return (loopback,)
    networks = (each.address.network for each in attachment.addresses)
    return _of_family(family, (loopback, *(each for each in networks if each.prefixlen < each.max_prefixlen)))


# --- structure ------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=16)
def structure(family: Family, shape: Shape) -> Structure:
    """The table of one family. The same object for the same arguments."""
    chains = [*_host_port_chains(family, shape), *_guard(family, shape)]
    if rules := tuple(_postrouting(family, shape)):
        chains.append(Chain("postrouting", rules, Hook("nat", "postrouting", _SRCNAT)))
    return Structure(
        chains={chain.name: chain for chain in sorted(chains, key=lambda chain: chain.name)},
        sets={spec.name: spec for spec in sorted(_sets(family, shape), key=lambda spec: spec.name)},
    )


def masquerade_name(networks: Networks) -> str:
    """The set of pods that are masqueraded except towards `networks`. (nft takes no set called `masquerade`.)"""
    return f"masquerade-but-to-{_named(networks)}" if networks else "masquerade-everywhere"


def clients_name(networks: Networks, *, at_address: bool) -> str:
    """The set of host ports whose clients in `networks` are masqueraded; with a host address, or without."""
    return f"{'address-' if at_address else ''}ports-masqueraded-from-{_named(networks)}"


@lru_cache(maxsize=256)
def _named(networks: Networks) -> str:
    """A name that stands for these networks for ever: the readable part first."""
    first = next((str(each).translate(_PLAIN) for each in networks if not each.is_loopback), "this-node")
    more = f"-and-{len(networks) - 1}" if len(networks) > 1 else ""
    return f"{first}{more}-{hashlib.sha256(_listed(networks).encode()).hexdigest()[:8]}"


_PLAIN = str.maketrans(":/", "--")


def _listed(networks: Iterable[IPNetwork]) -> str:
    return ", ".join(map(str, networks))


def _in_order(lists: Iterable[Networks]) -> list[Networks]:
    return sorted(lists, key=_listed)


def _sets(family: Family, shape: Shape) -> Iterator[SetSpec]:
    """A name stands for one declaration for ever, for the kernel cannot change that of a set."""
    words = _WORDS[family]
    address, port = words.address, (Field.PROTOCOL, Field.PORT)
    yield from (_set(masquerade_name(networks), (address,)) for networks in shape.masquerade_not_to)
    for networks in shape.clients:
        yield _set(clients_name(networks, at_address=False), port)
        yield _set(clients_name(networks, at_address=True), (address, *port))
    if shape.ports:
        yield _set("selves", (address, address))
        # As in the Services' maps: `tcp dport` is the one way to say "a port" that lets rules be added later.
        key, data = "meta l4proto . th dport", f"{words.ip} daddr . tcp dport"
        to = (address, Field.PORT)
        yield SetSpec(PORTS, f"{{ typeof {key} : {data}; }}", port, to)
        yield SetSpec(ADDRESS_PORTS, f"{{ typeof {words.ip} daddr . {key} : {data}; }}", (address, *port), to)


def _set(name: str, key: tuple[Field, ...]) -> SetSpec:
    return SetSpec(name, f"{{ type {' . '.join(each.value for each in key)}; }}", key)


def _host_port_chains(family: Family, shape: Shape) -> Iterator[Chain]:
    if not shape.ports:
        return
    # The kernel takes no answer to ::1 from another link: untranslated its client is refused at once.
    but = "ip6 daddr != ::1 " if family is Family.IPV6 else ""
    for hook in ("prerouting", "output"):
        yield Chain(hook, (f"{but}fib daddr type local goto host-ports",), Hook("nat", hook, _DSTNAT))
    yield Chain("host-ports", tuple(_host_ports(family, shape)))


def _host_ports(family: Family, shape: Shape) -> Iterator[str]:
    """A port of a certain address comes before the same port of all addresses."""
    ip = _WORDS[family].ip
    for at_address in (True, False):
        address = f"{ip} daddr . " if at_address else ""
        for networks in _in_order(shape.clients):
            key = f"{address}meta l4proto . th dport @{clients_name(networks, at_address=at_address)}"
            mark = f"meta mark set meta mark | {MASQUERADE:#x}"
            yield f"{key} {ip} saddr {{ {_listed(networks)} }} {mark}"
        for protocol in ("tcp", "udp", "sctp"):
            # Three rules because nft must be told the protocol to call something a port in the data of such a map.
            key = f"{address}meta l4proto . {protocol} dport"
            yield f"dnat {ip} to {key} map @{ADDRESS_PORTS if at_address else PORTS}"


def _postrouting(family: Family, shape: Shape) -> Iterator[str]:
    words = _WORDS[family]
    if shape.ports:
        yield f"meta mark & {MASQUERADE:#x} != 0 meta mark set meta mark ^ {MASQUERADE:#x} masquerade fully-random"
        yield f"ct status dnat {words.ip} saddr . {words.ip} daddr @selves masquerade fully-random"
    for networks in _in_order(shape.masquerade_not_to):
        kept = _listed(_of_family(family, (*networks, words.multicast)))
        yield (
            f"{words.ip} saddr @{masquerade_name(networks)} {words.ip} daddr != {{ {kept} }} masquerade fully-random"
        )


def _guard(family: Family, shape: Shape) -> Iterator[Chain]:
    """Sources that may be forged by a container of its own link; on a bridge nobody can tell."""
    if shape.guarded:
        link = f'iifname "{LINK_PREFIXES[Mode.ROUTED]}*"'
        # What finds its neighbours has such a source, and is never forwarded. Of IPv4 the kernel excepts DHCP itself.
        unforwarded = "ip6 saddr != { ::, fe80::/10 } " if family is Family.IPV6 else ""
        rules = (f"{link} {unforwarded}fib saddr . iif oif missing drop",)
        yield Chain("anti-spoofing", rules, Hook("filter", "prerouting", _RAW))
