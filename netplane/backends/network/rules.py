"""The nftables tables `netplane-network`: who may send by an overlay, and who leaves under which address.

    prerouting (filter, before connections are tracked)
        VXLAN to us, from a known node    -> taken, not tracked; from anybody else -> drop
        by an overlay, or a source of ours -> must-lead-back: a source that does not lead back to its link -> drop
        a source behind an overlay, by another link -> drop
    output (filter, before connections are tracked): VXLAN to a known node is not tracked
    forward, input (filter): what the Services left of a load-balancer address -> drop; over an overlay: clamp MSS
    encrypted-only (filter postrouting, WireGuard): to a Pod of another node, but not by WireGuard -> drop
    postrouting (nat, just after the Services'): a Pod leaving the cluster, what enters an overlay and is neither
                                                 of a Pod nor from an address that others know this node by
                                                 -> masquerade

Structure follows from the settings and this node; another node is elements. Only sets of several fields can hold
ranges that are changed one by one (see kernel/nftables.py), so a range here is one of a pair, source and destination.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from netplane.model.address import Family, IPAddress, IPNetwork
from netplane.plan.network_plan import WIREGUARD_LINK, NetworkPlan
from netplane.plan.network_settings import Mode, Vxlan
from netplane.plan.network_spans import merged, span_of
from netplane.programs.nftables import Chain, Field, Hook, SetSpec, Structure

VXLAN_PEERS, KEEPS_SOURCE = "vxlan-peers", "keeps-source"
BEHIND_OVERLAY, LOAD_BALANCERS = "behind-overlay", "load-balancers"


@dataclass(frozen=True, slots=True)
class Shape:
    """What one family's table needs besides elements.

    `own`: this node's Pod ranges, merged. `overlay`: the links of the overlay, as nft names them, "" for none.
    `sources`: with which this node's own packets may enter it besides its address there.
    `vxlan` is received at the addresses `outer`. `confined`: Pods of other nodes come by the overlay alone;
    `encrypted`: and go by it alone.
    """

    own: tuple[IPNetwork, ...] = ()
    overlay: str = ""
    sources: tuple[IPAddress, ...] = ()
    outer: tuple[IPAddress, ...] = ()
    vxlan: Vxlan | None = None
    confined: bool = False
    encrypted: bool = False
    masquerade: bool = False
    clamp: bool = False
    load_balancers: bool = False


@dataclass(frozen=True, slots=True)
class _Words:
    ip: str
    address: Field
    neighbours: str
    """What never leaves a link, or leaves to many."""


_WORDS = {
    Family.IPV4: _Words("ip", Field.ADDRESS4, "{ 224.0.0.0/4, 255.255.255.255 }"),
    Family.IPV6: _Words("ip6", Field.ADDRESS6, "{ fe80::/10, ff00::/8 }"),
}
_OVERLAYS = {
    Mode.VXLAN: '"np-vxlan*"',
    Mode.CROSS_SUBNET: '"np-vxlan*"',
    Mode.WIREGUARD: f'"{WIREGUARD_LINK}"',
    Mode.HOST_GW: "",
    Mode.BGP: "",
}
# NF_IP_PRI_RAW, NF_IP_PRI_MANGLE; the Services' nat chains are at -100 and 100.
_RAW, _MANGLE, _SRCNAT = -300, -150, 101
_VNI = "@th,96,24"  # of the VXLAN header, which follows the 64 bits of UDP's (RFC 7348, section 5)
_PIECE = {"ip": "ip frag-off & 0x3fff != 0", "ip6": "exthdr frag exists"}


# --- structure ------------------------------------------------------------------------------------------------------


def shapes(plan: NetworkPlan) -> dict[Family, Shape]:
    """What the plan needs of each family; a family in which there is nothing to say is absent."""
    found = {family: _shape(plan, family) for family in Family}
    return {family: shape for family, shape in found.items() if shape != Shape()}


def _shape(plan: NetworkPlan, family: Family) -> Shape:
    settings = plan.settings
    own = merged(span_of(each) for each in plan.ranges if each.version == family)
    outer = tuple(each.outer for each in plan.overlays if each.mac and each.outer.version == family)
    served = [first for first, _ in settings.load_balancers.pools] + [*plan.load_balancer_addresses]
    overlay = _OVERLAYS[settings.mode] if own else ""
    sources = {each for end in plan.overlays for each in end.sources if each.version == family}
    return Shape(
        own=own,
        overlay=overlay,
        sources=tuple(sorted(sources, key=int)) if overlay else (),
        outer=outer,
        vxlan=settings.vxlan if outer else None,
        confined=bool(own) and settings.mode in (Mode.VXLAN, Mode.WIREGUARD),
        encrypted=bool(own) and settings.mode is Mode.WIREGUARD,
        masquerade=bool(own) and settings.masquerade,
        clamp=bool(overlay) and settings.clamp_mss,
        load_balancers=any(each.version == family for each in served),
    )


@lru_cache(maxsize=16)
def structure(family: Family, shape: Shape) -> Structure:
    """The table of one family. The same object for the same arguments."""
    chains = [chain for chain in _chains(family, shape) if chain.rules]
    return Structure(
        chains={chain.name: chain for chain in sorted(chains, key=lambda chain: chain.name)},
        sets=_sets(family),
    )


@lru_cache
def _sets(family: Family) -> dict[str, SetSpec]:
    """The sets every table has, filled or not. A name stands for one declaration for ever: whoever changes one gives
    it another name, for the kernel cannot change that of a set.
    """
    address = _WORDS[family].address
    one = f"{{ type {address.value}; }}"
    pair = f"{{ type {address.value} . {address.value}; flags interval; }}"
    specs = [SetSpec(name, one, (address,)) for name in (VXLAN_PEERS, LOAD_BALANCERS)]
    specs += (SetSpec(name, pair, (address, address), interval=True) for name in (KEEPS_SOURCE, BEHIND_OVERLAY))
    return {spec.name: spec for spec in sorted(specs, key=lambda spec: spec.name)}


def _chains(family: Family, shape: Shape) -> Iterator[Chain]:
    ip = _WORDS[family].ip
    yield Chain("prerouting", tuple(_prerouting(ip, shape)), Hook("filter", "prerouting", _RAW))
    if shape.own:
        yield Chain("must-lead-back", ("fib saddr . iif oif missing drop",))
    if shape.vxlan:
        untracked = f"udp dport {shape.vxlan.port} {ip} daddr @{VXLAN_PEERS} notrack"
        yield Chain("output", (untracked,), Hook("filter", "output", _RAW))
    yield Chain("forward", tuple(_forward(ip, shape)), Hook("filter", "forward", _MANGLE))
    yield Chain("input", tuple(_input(family, shape)), Hook("filter", "input", _MANGLE))
    if shape.encrypted:
        plain = f"oifname != {shape.overlay} {ip} daddr . {ip} saddr @{BEHIND_OVERLAY} drop"
        yield Chain("encrypted-only", (plain,), Hook("filter", "postrouting", _MANGLE))
    yield Chain("postrouting", tuple(_postrouting(family, shape)), Hook("nat", "postrouting", _SRCNAT))


def _prerouting(ip: str, shape: Shape) -> Iterator[str]:
    if shape.vxlan:
        port = f"udp dport {shape.vxlan.port}"
        for outer in shape.outer:
            yield f"{ip} daddr {outer} {port} {ip} saddr @{VXLAN_PEERS} notrack accept"
        # Of our network alone: others on that port may be somebody else's. The kernel takes what is sent to all, too.
        yield f"{port} {_VNI} {shape.vxlan.id} fib daddr type != unicast drop"
        # Where nothing tracks connections, pieces come as they are: the first may have no more than the ports in it.
        yield f"{port} {_PIECE[ip]} fib daddr type != unicast drop"
    if shape.overlay:
        yield f"iifname {shape.overlay} goto must-lead-back"
    if shape.own:
        yield f"{ip} saddr {_listed(shape.own)} goto must-lead-back"
    if shape.confined:
        yield f"{ip} saddr . {ip} daddr @{BEHIND_OVERLAY} drop"


def _forward(ip: str, shape: Shape) -> Iterator[str]:
    if shape.load_balancers:
        yield _unserved(ip)
    if shape.clamp:
        for end in ("oifname", "iifname"):
            yield f"{end} {shape.overlay} tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu"


def _input(family: Family, shape: Shape) -> Iterator[str]:
    if shape.load_balancers:
        if family is Family.IPV6:
            # Neighbours ask whether it is still there, and at which MAC: this is never tracked.
            yield "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept"
        yield _unserved(_WORDS[family].ip)


def _unserved(ip: str) -> str:
    """What a Service takes has another destination by now."""
    return f"{ip} daddr @{LOAD_BALANCERS} ct state new,invalid,untracked drop"


def _postrouting(family: Family, shape: Shape) -> Iterator[str]:
    words = _WORDS[family]
    ip, masquerade = words.ip, "masquerade fully-random"
    if shape.overlay:
        if shape.sources:
            # From here alone: by no link has it come. What is routed through us has a source of ours only if forged.
            yield f"oifname {shape.overlay} iif 0 {ip} saddr {_listed(shape.sources)} accept"
        yield f"oifname {shape.overlay} {ip} saddr != {_listed(shape.own)} {masquerade}"
    if shape.masquerade:
        pod = f"{ip} saddr {_listed(shape.own)} {ip} daddr != {words.neighbours}"
        yield f"{pod} {ip} saddr . {ip} daddr != @{KEEPS_SOURCE} {masquerade}"


def _listed(several: Iterable[IPNetwork | IPAddress]) -> str:
    texts = [str(each) for each in several]
    return texts[0] if len(texts) == 1 else f"{{ {', '.join(texts)} }}"
