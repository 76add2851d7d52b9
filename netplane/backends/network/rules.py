"""The nftables tables `netplane-network`: who may send by an overlay, and who leaves under which address.

    prerouting (filter, before connections are tracked): of what there is most, the least is asked
        vxlan         VXLAN to us, from a known node -> taken, not tracked; from anybody else -> drop
        handshake     TCP over an overlay agrees on segments that fit
        a source of ours, neither by an overlay nor by an uplink -> accept
        from-overlay  by an overlay: a source behind it -> accept, any other -> drop
        a source of ours, by an uplink -> drop
        astray        a source behind the overlay, by another link -> drop
    output (filter, before connections are tracked): VXLAN to a known node is not tracked
    forward, input (filter): what the Services left of a load-balancer address -> drop
    encrypted-only (filter postrouting, WireGuard): to a Pod of another node, but not by WireGuard -> drop
    postrouting (nat, just after the Services'): a Pod leaving the cluster, what enters an overlay and is neither
                                                 of a Pod nor from an address that others know this node by
                                                 -> masquerade

Structure follows from the settings, this node and its links. Another node is elements, unless it is the first whose Pod
range has a prefix of some length: sets hold first addresses, one set for each length (docs/decisions/0039).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from netplane.backends.network import judged
from netplane.backends.network.words import IP, PROTOCOL, among, host, several, within
from netplane.model.address import Family, IPAddress, IPNetwork
from netplane.plan.network_plan import WIREGUARD_LINK, NetworkPlan
from netplane.plan.network_settings import Mode, Vxlan
from netplane.plan.network_spans import merged, span_of
from netplane.programs.network import GROUP
from netplane.programs.nftables import Chain, Field, Hook, SetSpec, Structure

VXLAN_PEERS, KEEPS_SOURCE, LOAD_BALANCERS = "vxlan-peers", "keeps-source", "load-balancers"
NODES, PODS, REFUSED, PLAIN = "nodes", "pods", "refused", "plain"
"""Of other nodes' own addresses, and, with the length of the prefix after a dash, of Pod ranges that come by an
overlay, by no way, and in plain text where others must not."""
LARGEST_SET = 32768
"""Elements of the sets that every packet is looked up in: other nodes. (Kubernetes promises 5000.)"""


@dataclass(frozen=True, slots=True)
class Shape:
    """What one family's table needs besides elements.

    `own`: this node's Pod ranges, merged; `addresses`: its own, where Pods of others may speak to it by an uplink.
    `overlay`: what tells that a packet came by it, as nft says it, "" for none.
    `sources`: with which this node's own packets may enter it besides its address there.
    `vxlan` is received at the addresses `outer`. `segment`: of TCP over the overlay, in bytes, 0: whatever they say.
    `pods`, `refused`, `plain`: lengths of the prefixes of other nodes' Pod ranges, see the sets of these names.
    `confined`: Pods of other nodes come by the overlay alone: all of `cluster`, and those in these sets if `more`;
    `encrypted`: and go by it alone.
    """

    own: tuple[IPNetwork, ...] = ()
    addresses: tuple[IPAddress, ...] = ()
    uplinks: tuple[str, ...] = ()
    overlay: str = ""
    sources: tuple[IPAddress, ...] = ()
    outer: tuple[IPAddress, ...] = ()
    vxlan: Vxlan | None = None
    segment: int = 0
    pods: tuple[int, ...] = ()
    refused: tuple[int, ...] = ()
    plain: tuple[int, ...] = ()
    cluster: tuple[IPNetwork, ...] = ()
    more: bool = False
    confined: bool = False
    encrypted: bool = False
    masquerade: bool = False
    load_balancers: bool = False


_ADDRESS = {Family.IPV4: Field.ADDRESS4, Family.IPV6: Field.ADDRESS6}
_NEIGHBOURS = {Family.IPV4: "{ 224.0.0.0/4, 255.255.255.255 }", Family.IPV6: "{ fe80::/10, ff00::/8 }"}
"""What never leaves a link, or leaves to many."""
_HEADERS = {Family.IPV4: 40, Family.IPV6: 60}
"""Bytes of IP and TCP (RFC 9293, section 3.7.1)."""
_VXLAN = f"iifgroup {GROUP}"  # a number is compared faster than a name
_OVERLAYS = {Mode.VXLAN: _VXLAN, Mode.CROSS_SUBNET: _VXLAN, Mode.WIREGUARD: f'iifname "{WIREGUARD_LINK}"'}
# NF_IP_PRI_RAW, NF_IP_PRI_MANGLE; the Services' nat chains are at -100 and 100.
_RAW, _MANGLE, _SRCNAT = -300, -150, 101
_VNI = "@th,96,24"  # of the VXLAN header, which follows the 64 bits of UDP's (RFC 7348, section 5)
_PIECE = {Family.IPV4: "ip frag-off & 0x3fff != 0", Family.IPV6: "exthdr frag exists"}


# --- shape ----------------------------------------------------------------------------------------------------------


def shapes(plan: NetworkPlan) -> dict[Family, Shape]:
    """What the plan needs of each family; a family in which there is nothing to say is absent."""
    found = {family: _shape(plan, family) for family in Family}
    return {family: shape for family, shape in found.items() if shape != Shape()}


def _shape(plan: NetworkPlan, family: Family) -> Shape:
    settings = plan.settings
    own = merged(span_of(each) for each in plan.ranges if each.version == family)
    outer = tuple(each.outer for each in plan.overlays if each.mac and each.outer.version == family)
    served = [first for first, _ in settings.load_balancers.pools] + [*plan.load_balancer_addresses]
    shape = Shape(
        own=own,
        uplinks=tuple(judged.nameable(plan.uplinks)) if own else (),
        outer=outer,
        vxlan=settings.vxlan if outer else None,
        masquerade=bool(own) and settings.masquerade,
        load_balancers=any(each.version == family for each in served),
    )
    return _overlaid(plan, family, shape) if own and settings.mode in _OVERLAYS else shape


def _overlaid(plan: NetworkPlan, family: Family, shape: Shape) -> Shape:
    """`shape` with what an overlay needs."""
    settings, asked = plan.settings, judged.judged_of(plan)
    peers = plan.peers.values()
    mtu = min((each.mtu for each in peers if each.way in judged.OVERLAID and each.mtu), default=0)
    cluster, everything = judged.only_pods(plan, family) if asked.confined else ((), False)
    direct = settings.nodes_directly
    sources = {each for end in plan.overlays for each in end.sources if each.version == family}
    return replace(
        shape,
        addresses=tuple(each for each in plan.addresses if each.version == family) if direct else (),
        overlay=_OVERLAYS[settings.mode],
        sources=() if direct else tuple(sorted(sources, key=int)),
        segment=max(mtu - _HEADERS[family], 0) if settings.clamp_mss else 0,
        pods=judged.lengths((each for peer in peers for each in judged.behind(peer, asked)), family),
        refused=judged.lengths((each for peer in peers for each in judged.refused(peer, asked)), family),
        plain=judged.lengths((each for peer in peers for each in judged.plain(peer, asked)), family),
        cluster=cluster,
        more=not everything,
        confined=asked.confined,
        encrypted=settings.mode is Mode.WIREGUARD,
    )


# --- structure ------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=16)
def structure(family: Family, shape: Shape) -> Structure:
    """The table of one family. The same object for the same arguments."""
    chains = [chain for chain in _Table(family, shape).chains() if chain.rules]
    return Structure(
        chains={chain.name: chain for chain in sorted(chains, key=lambda chain: chain.name)},
        sets={spec.name: spec for spec in sorted(_sets(family, shape), key=lambda spec: spec.name)},
    )


def _sets(family: Family, shape: Shape) -> Iterator[SetSpec]:
    """A name stands for one declaration for ever: whoever changes one gives it another name, for the kernel cannot
    change that of a set.
    """
    address = _ADDRESS[family]
    one, many = f"{{ type {address.value}; }}", f"{{ type {address.value}; size {LARGEST_SET}; }}"
    if shape.vxlan:
        yield SetSpec(VXLAN_PEERS, many, (address,))
    if shape.overlay:
        yield SetSpec(NODES, many, (address,))
    yield from (SetSpec(f"{PODS}-{each}", many, (address,)) for each in shape.pods)
    yield from (SetSpec(f"{REFUSED}-{each}", one, (address,)) for each in shape.refused)
    yield from (SetSpec(f"{PLAIN}-{each}", one, (address,)) for each in shape.plain)
    if shape.load_balancers:
        yield SetSpec(LOAD_BALANCERS, one, (address,))
    if shape.masquerade:
        pair = f"{{ type {address.value} . {address.value}; flags interval; }}"
        yield SetSpec(KEEPS_SOURCE, pair, (address, address), interval=True)


@dataclass(frozen=True, slots=True)
class _Table:
    """The chains of one family. Those without a rule are for nobody: a hook costs even what it lets through."""

    family: Family
    shape: Shape

    def chains(self) -> Iterator[Chain]:
        yield Chain("prerouting", tuple(self._prerouting()), Hook("filter", "prerouting", _RAW))
        if vxlan := self.shape.vxlan:
            yield Chain("vxlan", tuple(self._vxlan(vxlan)))
            known = among("daddr", self.family, VXLAN_PEERS)
            untracked = f"{self._udp(vxlan.port)} {known} notrack"
            yield Chain("output", (untracked,), Hook("filter", "output", _RAW))
        if self.shape.segment:
            yield Chain("handshake", tuple(self._handshake()))
        if self.shape.overlay:
            yield Chain("from-overlay", tuple(self._from_overlay()))
        if self.shape.confined:
            yield Chain("astray", tuple(self._astray()))
        if self.shape.load_balancers:
            yield Chain("forward", (self._unserved(),), Hook("filter", "forward", _MANGLE))
            yield Chain("input", tuple(self._input()), Hook("filter", "input", _MANGLE))
        if self.shape.encrypted:
            yield Chain("encrypted-only", tuple(self._encrypted_only()), Hook("filter", "postrouting", _MANGLE))
            yield Chain("must-be-encrypted", (*self._accept_plain("daddr"), "drop"))
        if self.shape.masquerade:
            yield Chain("postrouting", tuple(self._postrouting()), Hook("nat", "postrouting", _SRCNAT))

    # --- filters, before connections are tracked ---

    def _prerouting(self) -> Iterator[str]:
        shape = self.shape
        if vxlan := shape.vxlan:
            yield f"{self._udp(vxlan.port)} jump vxlan"
            if self.family is Family.IPV6:  # with extension headers
                yield f"ip6 nexthdr != tcp ip6 nexthdr != udp udp dport {vxlan.port} jump vxlan"
        if shape.segment:
            yield f"{PROTOCOL[self.family]} tcp tcp flags & (syn | rst) == syn jump handshake"
        uplink = f"iifname {several(shape.uplinks)}" if shape.uplinks else ""
        if shape.overlay:
            elsewhere = " ".join(_not(each) for each in (shape.overlay, uplink) if each)
            yield from (f"{within('saddr', each)} {elsewhere} accept" for each in shape.own)
            yield f"{shape.overlay} goto from-overlay"
        if uplink:
            yield from (f"{within('saddr', each)} {uplink} drop" for each in shape.own)
        if shape.confined:
            yield from (f"{each} goto astray" for each in self._of_others("saddr"))
        elif shape.overlay:
            # Who comes by an uplink with such a source cannot be told from a node that goes another way than we do.
            not_up = _not(uplink)
            yield from (f"{not_up} {self._in('saddr', PODS, each)} drop".lstrip() for each in shape.pods)

    def _vxlan(self, vxlan: Vxlan) -> Iterator[str]:
        for outer in self.shape.outer:
            known = among("saddr", self.family, VXLAN_PEERS)
            yield f"{within('daddr', host(outer))} {known} notrack accept"
        # Of our network alone: others on that port may be somebody else's. The kernel takes what is sent to all, too.
        yield f"{_VNI} {vxlan.id} fib daddr type != unicast drop"
        # Where nothing tracks connections, pieces come as they are: the first may have no more than the ports in it.
        yield f"{_PIECE[self.family]} fib daddr type != unicast drop"

    def _handshake(self) -> Iterator[str]:
        """One number for all peers: Pods have links that take no more than the worst of ways either (`pod_mtu`)."""
        fits = f"tcp option maxseg size set {self.shape.segment}"
        yield f"{self.shape.overlay} {fits}"
        yield from (f"{self._in('daddr', PODS, each)} {fits}" for each in self.shape.pods)

    def _from_overlay(self) -> Iterator[str]:
        yield from (f"{self._in('saddr', PODS, each)} accept" for each in self.shape.pods)
        yield f"{among('saddr', self.family, NODES)} accept"
        yield "drop"

    def _astray(self) -> Iterator[str]:
        shape = self.shape
        if shape.addresses and shape.uplinks:
            # To this node itself, or to a Service at its address: then the answer goes by the overlay.
            yield f"iifname {several(shape.uplinks)} {IP[self.family]} daddr {several(shape.addresses)} accept"
        yield from self._accept_plain("saddr")
        yield "drop"

    # --- filters, later ---

    def _input(self) -> Iterator[str]:
        if self.family is Family.IPV6:
            # Neighbours ask whether it is still there, and at which MAC: this is never tracked.
            yield "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept"
        yield self._unserved()

    def _unserved(self) -> str:
        """What a Service takes has another destination by now."""
        return f"{among('daddr', self.family, LOAD_BALANCERS)} ct state new,invalid,untracked drop"

    def _encrypted_only(self) -> Iterator[str]:
        yield f'oifname "{WIREGUARD_LINK}" accept'
        yield from (f"{within('daddr', each)} accept" for each in self.shape.own)
        yield from (f"{each} goto must-be-encrypted" for each in self._of_others("daddr"))

    # --- addresses ---

    def _postrouting(self) -> Iterator[str]:
        shape, ip, masquerade = self.shape, IP[self.family], "masquerade fully-random"
        if shape.overlay:
            leaving = shape.overlay.replace("iif", "oif")
            if shape.sources:
                # From here alone: by no link has it come. What is routed through us has our source only if forged.
                yield f"{leaving} iif 0 {ip} saddr {several(shape.sources)} accept"
            yield f"{leaving} {ip} saddr != {several(shape.own)} {masquerade}"
        pod = f"{ip} saddr {several(shape.own)} {ip} daddr != {_NEIGHBOURS[self.family]}"
        yield f"{pod} {ip} saddr . {ip} daddr != @{KEEPS_SOURCE} {masquerade}"

    # --- parts of rules ---

    def _udp(self, port: int) -> str:
        return f"{PROTOCOL[self.family]} udp udp dport {port}"

    def _of_others(self, field: str) -> Iterator[str]:
        """Whether `field` is of a Pod of another node; our own have been asked for."""
        shape = self.shape
        yield from (within(field, each) for each in shape.cluster)
        if shape.more:
            yield from (self._in(field, PODS, each) for each in shape.pods)
            yield from (self._in(field, REFUSED, each) for each in shape.refused)

    def _accept_plain(self, field: str) -> Iterator[str]:
        return (f"{self._in(field, PLAIN, each)} accept" for each in self.shape.plain)

    def _in(self, field: str, name: str, length: int) -> str:
        return among(field, self.family, f"{name}-{length}", length)


def _not(matching: str) -> str:
    """The opposite of one comparison, "" of none."""
    return matching.replace(" ", " != ", 1)
