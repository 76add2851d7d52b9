"""The chains, sets and maps of one table: everything that does not depend on a Service.

    prerouting (nat) --- from a pod? ---> decide-pod ------.          maps     from-pod     frontend -> verdict
          '------------- otherwise -----> decide-outside --+--->      of       from-node
    output (nat) -----------------------> decide-node -----'          elements from-outside
                                                                        |
       drop  <---------------- verdict of the frontend -----------------+----> goto refuse (unreachable, reset)
                                                                        |
              goto pick-3, or masq-pick-3 which marks first             v
              pick-3: dnat to slots[frontend . random of 3]   (one chain per endpoint *count*, not per Service)

    postrouting (nat): marked, or a pod that was sent to itself -> masquerade
    forward, input (filter): INVALID from an endpoint -> drop

The whole decision is made in the nat hooks, which see only the first packet of a connection: established traffic
pays for nothing but one look at its conntrack state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from ipaddress import IPv4Network, IPv6Network, collapse_addresses

from netplane.backends.marks import MASQUERADE
from netplane.model.address import Family, IPNetwork, family_of
from netplane.plan.plan import NodeFacts, Origin
from netplane.plan.settings import Bridge, InterfacePrefix, NodePortScope, PodRange, Settings
from netplane.programs.nftables import Chain, Field, Hook, SetSpec, Structure


@dataclass(frozen=True, slots=True)
class Words:
    """How nft spells one address family."""

    ip: str
    address: Field
    loopback: str

    @property
    def frontend(self) -> str:
        """The key of a frontend that has an address."""
        return f"{self.ip} daddr . meta l4proto . th dport"


WORDS = {
    Family.IPV4: Words("ip", Field.ADDRESS4, "127.0.0.0/8"),
    Family.IPV6: Words("ip6", Field.ADDRESS6, "::1"),
}

NODE_PORT = "meta l4proto . th dport"

# Priorities of the kernel's own NAT: NF_IP_PRI_NAT_DST and NF_IP_PRI_NAT_SRC.
_DSTNAT, _SRCNAT, _FILTER = -100, 100, 0

# A client in the middle of a connection takes an ICMP error for a passing trouble: only a reset ends it.
_REFUSE = Chain("refuse", ("tcp flags & (fin | syn | rst | ack) != syn reject with tcp reset", "reject"))


def structure(family: Family, facts: NodeFacts, settings: Settings, picks: Iterable[Chain]) -> Structure:
    """The table of one family, with the given pick chains."""
    chains = (*_hooks(family, settings), *_decisions(family, facts, settings), _REFUSE, *picks)
    return Structure(
        chains={chain.name: chain for chain in sorted(chains, key=lambda chain: chain.name)},
        sets=_sets(family),
    )


@lru_cache
def _sets(family: Family) -> dict[str, SetSpec]:
    """The sets every table has. A name stands for one declaration for ever: whoever changes one gives it another name,
    for the kernel cannot change a set that an older version left behind.
    """
    words = WORDS[family]
    address, frontend, node_port = (
        words.address,
        (words.address, Field.PROTOCOL, Field.PORT),
        (Field.PROTOCOL, Field.PORT),
    )
    endpoint = (address, Field.PORT)
    specs = [_set("cluster-ips", (address,)), _set("guarded", frontend), _set("endpoints", frontend)]
    specs.append(_set("hairpins", (address, *frontend)))
    specs.append(_set("allowed", (*frontend, address), interval=True))
    for origin in Origin:
        specs.append(_verdicts(f"from-{origin.value}", frontend))
        specs.append(_verdicts(f"node-ports-from-{origin.value}", node_port))
    for end in ("", "-outside"):
        # nft forgets the length of `numgen` in a plain `type`; and of the ways to say "a port" in the data only
        # `tcp dport` lets rules be added in later transactions (nft 1.0.6: "conflicting protocols specified").
        data = f"{words.ip} daddr . tcp dport"
        slot = "numgen random mod 65536"
        specs.append(
            SetSpec(
                f"slots{end}", f"{{ typeof {words.frontend} . {slot} : {data}; }}", (*frontend, Field.SLOT), endpoint
            )
        )
        specs.append(
            SetSpec(
                f"node-port-slots{end}",
                f"{{ typeof {NODE_PORT} . {slot} : {data}; }}",
                (*node_port, Field.SLOT),
                endpoint,
            )
        )
    return {spec.name: spec for spec in sorted(specs, key=lambda spec: spec.name)}


def _set(name: str, key: tuple[Field, ...], *, interval: bool = False) -> SetSpec:
    flags = " flags interval;" if interval else ""
    return SetSpec(name, f"{{ type {_types(key)};{flags} }}", key, interval=interval)


def _verdicts(name: str, key: tuple[Field, ...]) -> SetSpec:
    return SetSpec(name, f"{{ type {_types(key)} : verdict; }}", key, verdicts=True)


def _types(key: tuple[Field, ...]) -> str:
    return " . ".join(each.value for each in key)


def _hooks(family: Family, settings: Settings) -> Iterator[Chain]:
    ip = WORDS[family].ip
    from_pod = (*_from_pod(family, settings), "goto decide-outside")
    yield Chain("prerouting", from_pod, Hook("nat", "prerouting", _DSTNAT))
    yield Chain("output", ("goto decide-node",), Hook("nat", "output", _DSTNAT))
    marked = f"meta mark & {MASQUERADE:#x} != 0 meta mark set meta mark ^ {MASQUERADE:#x} masquerade fully-random"
    hairpin = f"ct status dnat {ip} saddr . {ip} daddr . meta l4proto . th dport @hairpins masquerade fully-random"
    yield Chain("postrouting", (marked, hairpin), Hook("nat", "postrouting", _SRCNAT))
    # A reply conntrack cannot place keeps the endpoint's address; its receiver would answer with a reset.
    invalid = f"ct state invalid {ip} saddr . meta l4proto . th sport @endpoints drop"
    rules = (invalid,) if settings.drop_invalid else ()
    for hook in ("forward", "input"):
        yield Chain(hook, rules, Hook("filter", hook, _FILTER))


def _from_pod(family: Family, settings: Settings) -> Iterator[str]:
    match settings.local:
        case PodRange(networks):
            if own := _networks(networks, family):
                yield f"{WORDS[family].ip} saddr {own} goto decide-pod"
        case Bridge(name):
            yield f'iifname "{name}" goto decide-pod'
        case InterfacePrefix(prefix):
            yield f'iifname "{prefix}*" goto decide-pod'


def _decisions(family: Family, facts: NodeFacts, settings: Settings) -> Iterator[Chain]:
    words = WORDS[family]
    for origin in Origin:
        rules = [
            f"{words.frontend} @guarded {words.frontend} . {words.ip} saddr != @allowed drop",
            f"{words.frontend} vmap @from-{origin.value}",
            f"{words.ip} daddr @cluster-ips goto refuse",
        ]
        if ranges := _networks(settings.service_ranges, family):
            rules.append(f"{words.ip} daddr {ranges} drop")
        if here := _node_port_addresses(family, facts, settings):
            rules.append(f"{here} {NODE_PORT} vmap @node-ports-from-{origin.value}")
        yield Chain(f"decide-{origin.value}", tuple(rules))


def _node_port_addresses(family: Family, facts: NodeFacts, settings: Settings) -> str:
    words = WORDS[family]
    local = f"fib daddr type local {words.ip} daddr != {words.loopback}"
    match settings.node_ports:
        case NodePortScope.ALL:
            return local
        case NodePortScope.PRIMARY:
            primary = [address for address in facts.primary_addresses() if family_of(address) is family]
            return f"{words.ip} daddr {primary[0]}" if primary else ""
        case networks:
            own = _networks(networks, family)
            return f"{local} {words.ip} daddr {own}" if own else ""


def _networks(networks: tuple[IPNetwork, ...], family: Family) -> str:
    """An anonymous set of the networks of one family, or ""; overlapping ones would be refused, so they are merged."""
    merged: Iterable[IPNetwork]
    if family is Family.IPV4:
        merged = collapse_addresses(each for each in networks if isinstance(each, IPv4Network))
    else:
        merged = collapse_addresses(each for each in networks if isinstance(each, IPv6Network))
    text = ", ".join(map(str, merged))
    return f"{{ {text} }}" if text else ""


@cache
def pick(family: Family, slots: str, count: int) -> Chain:
    """The chain that sends a packet to one of `count` endpoints in the map `slots`, each equally likely."""
    words = WORDS[family]
    node_port = slots.startswith("node-port")
    rules = []
    for protocol in ("tcp", "udp", "sctp"):
        # Three rules because nft must be told the protocol to call something a port in the data of a `typeof` map.
        key = f"meta l4proto . {protocol} dport" if node_port else f"{words.ip} daddr . meta l4proto . {protocol} dport"
        rules.append(f"dnat {words.ip} to {key} . numgen random mod {count} map @{slots}")
    # Not reached but by a packet between two transactions; unfinished it would be remembered as not ours.
    rules.append("drop")
    return Chain(f"{slots.replace('slots', 'pick')}-{count}", tuple(rules))


@lru_cache(maxsize=4096)
def masquerading(chain: str) -> Chain:
    """The chain that marks a packet for masquerade and goes on to `chain`."""
    return Chain(f"masq-{chain}", (f"meta mark set meta mark | {MASQUERADE:#x}", f"goto {chain}"))
