"""The chains there always are, and the trees that lead from them to the chains of the Services.

    nat     PREROUTING, OUTPUT ---> KUBE-SERVICES (tree) ---> KUBE-SVC-, KUBE-EXT-, KUBE-FW-... -> KUBE-SEP-... -> DNAT
                                        '- last: to this node -> KUBE-NODEPORTS (tree) -> KUBE-EXT-...
            POSTROUTING ----------> KUBE-POSTROUTING: marked -> MASQUERADE
    filter  INPUT, FORWARD, OUTPUT, new and not translated
               1. KUBE-PROXY-FIREWALL (tree) -> KUBE-FW-...: not in the source ranges -> DROP
               2. KUBE-SERVICES (tree): cluster IPs; a refused port, then every other packet -> DROP, KUBE-REFUSE
               3. KUBE-EXTERNAL-SERVICES (tree): refused external addresses
                      '- last: the Service range -> DROP; to this node -> KUBE-EXTERNAL-NODEPORTS (tree)
            INPUT ----------------> KUBE-NODEPORTS (tree): health check node ports -> ACCEPT
            INPUT, FORWARD -------> KUBE-DROP-INVALID (tree): INVALID and from an endpoint -> DROP
            FORWARD --------------> KUBE-FORWARD: what we translated is let through

What nat forwards is translated when filter sees it, and passed over there by the first rule of each chain. What nat
does not forward keeps its address and meets its DROP or REJECT in filter, for nat cannot say either.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, collapse_addresses, ip_network

from netplane.backends.iptables.words import (
    FROM_HERE,
    LOOPBACK,
    TO_HERE,
    UNREACHABLE,
    address_text,
    comment,
    host,
    network,
    rule,
    short_hash,
)
from netplane.backends.marks import MASQUERADE
from netplane.model.address import Family, IPAddress, IPNetwork, Protocol, family_of
from netplane.plan.plan import NodeFacts, Origin
from netplane.plan.settings import Bridge, InterfacePrefix, NodePortScope, PodRange, Settings
from netplane.programs.iptables import (
    BRANCHES,
    DROP_INVALID,
    EXTERNAL_NODE_PORTS,
    EXTERNAL_SERVICES,
    FILTER,
    FIREWALL,
    FORWARD,
    MARK_MASQ,
    MASQ_UNLESS_POD,
    NAT,
    NODE_PORTS,
    POSTROUTING,
    REFUSE,
    SERVICES,
    Frame,
    Jump,
    TableKey,
)
from netplane.programs.iptables_tree import Rules, Tree

_LONGEST_LINK = 15  # IFNAMSIZ without the final NUL
_MARK = f"{MASQUERADE:#x}/{MASQUERADE:#x}"
_UNMARK = f"{MASQUERADE:#x}/0x0"
_TRANSLATED = "-m conntrack --ctstate DNAT -j RETURN"


@dataclass(frozen=True, slots=True)
class Here:
    """The node and the settings a plan is for. Equal ones give equal rules."""

    facts: NodeFacts
    settings: Settings

    def guards(self, origin: Origin, family: Family) -> Iterator[tuple[str, str]]:
        """What tells packets of that origin from those of the origins after it: NODE, POD, OUTSIDE.

        Each is the beginning of a rule and a match further on; a packet is of the origin if one of them holds.
        """
        match origin:
            case Origin.NODE:
                yield "", FROM_HERE
            case Origin.POD:
                yield from ((guard, "") for guard in self._from_pod(family))
            case Origin.OUTSIDE:
                yield "", ""

    def _from_pod(self, family: Family) -> Iterator[str]:
        match self.settings.local:
            case PodRange(networks):
                yield from (network("-s", each) for each in _merged(networks, family))
            case Bridge(name):
                yield f"-i {name}"
            case InterfacePrefix(prefix):
                yield f"-i {prefix}+" if len(prefix) < _LONGEST_LINK else f"-i {prefix}"

    def unless_pod(self, family: Family) -> Rules:
        """The chain that marks for masquerade what does not come from a pod.

        A process of the node may use an address of the pod range, and the link of its packets has no name yet.
        """
        own = FROM_HERE.replace("--src-type", "! --src-type") if isinstance(self.settings.local, PodRange) else ""
        return (*(rule(guard, own, "-j RETURN") for guard in self._from_pod(family)), _mark(_MARK))

    def may_answer_node_ports(self, address: IPAddress) -> bool:
        """Whether a packet to `address` could come to the node ports if nothing else took it."""
        if address.is_loopback or any(address in each for each in self.settings.service_ranges):
            return False
        match self.settings.node_ports:
            case NodePortScope.ALL:
                return True
            case NodePortScope.PRIMARY:
                return address in self.facts.primary_addresses()
            case networks:
                return any(address in each for each in networks)

    def service_ranges(self, family: Family) -> tuple[IPNetwork, ...]:
        """The Service ranges of one family that are known."""
        return _merged(self.settings.service_ranges, family)

    def to_node_ports(self, family: Family, chain: str) -> Rules:
        """The rules that send packets for a node-port address to `chain`. They must stand last."""
        said = comment("kubernetes service nodeports; NOTE: this must be the last rule in this chain")
        match self.settings.node_ports:
            case NodePortScope.ALL:
                return (rule(f"! -d {LOOPBACK[family]}", said, TO_HERE, f"-j {chain}"),)
            case NodePortScope.PRIMARY:
                primary = (each for each in self.facts.primary_addresses() if family_of(each) is family)
                return tuple(rule(host("-d", each), said, f"-j {chain}") for each in primary if not each.is_loopback)
            case networks:
                own = _merged(networks, family)
                rules = [rule(network("-d", each), said, TO_HERE, f"-j {chain}") for each in own]
                loopback = ip_network(LOOPBACK[family])
                if any(each.overlaps(loopback) for each in own):
                    rules.insert(0, f"-d {loopback} -j RETURN")
                return tuple(rules)


def _merged(networks: tuple[IPNetwork, ...], family: Family) -> tuple[IPNetwork, ...]:
    """Those of one family, without those that are inside others."""
    if family is Family.IPV4:
        return tuple(collapse_addresses(each for each in networks if isinstance(each, IPv4Network)))
    return tuple(collapse_addresses(each for each in networks if isinstance(each, IPv6Network)))


# --- how trees spell their branches -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AddressWords:
    """A tree by address: `-d 10.96.0.0/20 -j KUBE-IP-10.96.0.0/20`. Prefixes of IPv6 are too long for a name."""

    family: Family
    stem: str
    flag: str = "-d"

    @property
    def bits(self) -> int:
        """The width of an address."""
        return 32 if self.family is Family.IPV4 else 128

    def chain(self, prefix: int, length: int) -> str:
        """`KUBE-IP-10.96.0.0/20`, or `KUBE-IP-` and a hash."""
        prefix_text = self._text(prefix, length)
        return f"{self.stem}-{prefix_text if self.family is Family.IPV4 else short_hash(prefix_text)}"

    def branch(self, prefix: int, length: int, chain: str) -> Rules:
        """One rule."""
        return (f"{self.flag} {self._text(prefix, length)} -j {chain}",)

    def _text(self, prefix: int, length: int) -> str:
        return prefix_text(self.family, prefix << (self.bits - length), length)


def prefix_text(family: Family, number: int, length: int) -> str:
    """`10.96.0.0/20`: the network of that length at the address with that number."""
    address = IPv4Address(number) if family is Family.IPV4 else IPv6Address(number)
    return f"{address_text(address)}/{length}"


@dataclass(frozen=True, slots=True)
class PortWords:
    """A tree by protocol and port: `-p tcp -m tcp --dport 30000:30015 -j KUBE-PORT-TCP-30000-30015`.

    The number is the protocol's, then 16 bits of port; the first four bits of a protocol tell the three apart.
    """

    stem: str
    bits: int = 24

    def chain(self, prefix: int, length: int) -> str:
        """`KUBE-PORT-TCP` for a whole protocol, `KUBE-PORT-TCP-30000-30015` for some of its ports."""
        protocol, first, last = _ports(prefix, length)
        return f"{self.stem}-{protocol.value}" + (f"-{first}-{last}" if length > 8 else "")

    def branch(self, prefix: int, length: int, chain: str) -> Rules:
        """One rule."""
        protocol, first, last = _ports(prefix, length)
        ports = f"{first}:{last}" if last > first else f"{first}"
        return (rule(f"-p {protocol}", f"-m {protocol} --dport {ports}" if length > 8 else "", f"-j {chain}"),)


def port_number(protocol: Protocol, port: int) -> int:
    """The number by which a tree of ports finds them."""
    return protocol.number << 16 | port


def _ports(prefix: int, length: int) -> tuple[Protocol, int, int]:
    """The protocol, and the first and last port, of numbers that start with these bits."""
    first, last = prefix << (24 - length), ((prefix + 1) << (24 - length)) - 1
    protocol = next(each for each in Protocol if first >> 16 <= each.number <= last >> 16)
    return protocol, first & 0xFFFF, last & 0xFFFF


# --- the tables -------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=16)
def frames(families: frozenset[Family], here: Here) -> dict[TableKey, Frame]:
    """What each table has whatever the Services are. The same objects for the same arguments."""
    made = {FILTER: _filter_frame, NAT: _nat_frame}
    return {(family, table): made[table](family, here) for family in sorted(families) for table in (FILTER, NAT)}


def _nat_frame(family: Family, here: Here) -> Frame:
    portals = rule(comment("kubernetes service portals"), f"-j {SERVICES}")
    return Frame(
        chains={
            MARK_MASQ: (_mark(_MARK),),
            MASQ_UNLESS_POD: here.unless_pod(family),
            POSTROUTING: (
                f"-m mark ! --mark {_MARK} -j RETURN",
                _mark(_UNMARK),
                rule(comment("kubernetes service traffic requiring SNAT"), "-j MASQUERADE --random-fully"),
            ),
        },
        jumps=(
            Jump("PREROUTING", portals),
            Jump("OUTPUT", portals),
            Jump("POSTROUTING", rule(comment("kubernetes postrouting rules"), f"-j {POSTROUTING}")),
        ),
    )


def _mark(bits: str) -> str:
    return f"-j MARK --set-xmark {bits}"


def _filter_frame(family: Family, here: Here) -> Frame:
    accepted = (
        rule(comment("kubernetes forwarding rules"), f"-m mark --mark {_MARK} -j ACCEPT"),
        rule(comment("kubernetes forwarding conntrack rule"), "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"),
    )
    # A client in the middle of a connection takes an ICMP error for a passing trouble: only a reset ends it.
    refuse = (
        "-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -j REJECT --reject-with tcp-reset",
        f"-j REJECT --reject-with {UNREACHABLE[family]}",
    )
    # A reply conntrack cannot place keeps the endpoint's address; its receiver would answer with a reset.
    invalid = f"-m conntrack --ctstate INVALID -j {DROP_INVALID}"
    drop_invalid = (invalid,) if here.settings.drop_invalid else ()
    checks = (
        _new("kubernetes load balancer firewall", FIREWALL),
        _new("kubernetes service portals", SERVICES),
        _new("kubernetes externally-visible service portals", EXTERNAL_SERVICES),
    )
    by_hook = {
        "INPUT": (*checks, _new("kubernetes health check service ports", NODE_PORTS), *drop_invalid),
        "FORWARD": (*checks, rule(comment("kubernetes forwarding rules"), f"-j {FORWARD}")),
        "OUTPUT": checks,
    }
    return Frame(
        chains={FORWARD: (*drop_invalid, *accepted), REFUSE: refuse},
        jumps=tuple(Jump(hook, each) for hook, rules in by_hook.items() for each in rules),
    )


def _new(said: str, chain: str) -> str:
    return rule("-m conntrack --ctstate NEW", comment(said), f"-j {chain}")


@lru_cache(maxsize=16)
def roots(families: frozenset[Family], here: Here) -> dict[TableKey, tuple[Tree, ...]]:
    """The trees without entries. The same objects for the same arguments."""
    return {
        (family, table): tuple(trees)
        for family in sorted(families)
        for table, trees in ((FILTER, _filter_trees(family, here)), (NAT, _nat_trees(family, here)))
    }


def _nat_trees(family: Family, here: Here) -> Iterable[Tree]:
    to_node_ports = here.to_node_ports(family, NODE_PORTS)
    # Nothing in a Service range is a node port, also if it is an address of this node.
    unallocated = (rule(network("-d", each), "-j RETURN") for each in here.service_ranges(family))
    yield Tree(SERVICES, _by_address(family, SERVICES), last=(*(unallocated if to_node_ports else ()), *to_node_ports))
    yield Tree(NODE_PORTS, PortWords(BRANCHES[NODE_PORTS]))


def _filter_trees(family: Family, here: Here) -> Iterable[Tree]:
    first = (_TRANSLATED,)
    yield Tree(FIREWALL, _by_address(family, FIREWALL), first)
    yield Tree(SERVICES, _by_address(family, SERVICES), first)
    said = comment("no Service has this address")
    unallocated = (rule(network("-d", each), said, "-j DROP") for each in here.service_ranges(family))
    last = (*unallocated, *here.to_node_ports(family, EXTERNAL_NODE_PORTS))
    yield Tree(EXTERNAL_SERVICES, _by_address(family, EXTERNAL_SERVICES), first, last)
    yield Tree(EXTERNAL_NODE_PORTS, PortWords(BRANCHES[EXTERNAL_NODE_PORTS]))
    yield Tree(NODE_PORTS, PortWords(BRANCHES[NODE_PORTS]))
    if here.settings.drop_invalid:
        yield Tree(DROP_INVALID, AddressWords(family, BRANCHES[DROP_INVALID], "-s"))


def _by_address(family: Family, root: str) -> AddressWords:
    return AddressWords(family, BRANCHES[root])
