"""The baseline: a ruleset of the shape kube-proxy 1.36 makes in nftables mode, as text for `nft -f -`.

The shape is what costs: a chain for every Service port, in it a rule with an anonymous map of its endpoints, and
verdict maps that lead to the chains. Our own words for it; what a ClusterIP Service does not need is left out.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator

from bench.clusters import NODE, POD_RANGE, SERVICE_PORT, TARGET_PORT, Addresses, Size, cluster_ip, endpoints, node_of

TABLE = "ip kube-proxy"
_MARK = 0x4000

_HOOKS = {
    "filter-prerouting-pre-dnat": ("filter", "prerouting", -110),
    "filter-output-pre-dnat": ("filter", "output", -110),
    "filter-input": ("filter", "input", 0),
    "filter-forward": ("filter", "forward", 0),
    "filter-output": ("filter", "output", 0),
    "nat-prerouting": ("nat", "prerouting", -100),
    "nat-output": ("nat", "output", -100),
    "nat-postrouting": ("nat", "postrouting", 100),
}
_FRONTEND = "ipv4_addr . inet_proto . inet_service"
_SETS = {
    "set cluster-ips": "ipv4_addr",
    "set hairpin-connections": f"ipv4_addr . {_FRONTEND}",
    "map service-ips": f"{_FRONTEND} : verdict",
    "map no-endpoint-services": f"{_FRONTEND} : verdict",
    "map firewall-ips": f"{_FRONTEND} : verdict",
    "map service-nodeports": "inet_proto . inet_service : verdict",
    "map no-endpoint-nodeports": "inet_proto . inet_service : verdict",
}
_TO = "ip daddr . meta l4proto . th dport"
_NEW = "ct state new jump"
_RULES = (
    ("filter-prerouting-pre-dnat", f"{_NEW} firewall-check"),
    ("filter-output-pre-dnat", f"{_NEW} firewall-check"),
    ("filter-input", f"{_NEW} nodeport-endpoints-check"),
    ("filter-input", f"{_NEW} service-endpoints-check"),
    ("filter-forward", f"{_NEW} service-endpoints-check"),
    ("filter-forward", f"{_NEW} cluster-ips-check"),
    ("filter-output", f"{_NEW} service-endpoints-check"),
    ("filter-output", f"{_NEW} cluster-ips-check"),
    ("nat-prerouting", "jump services"),
    ("nat-output", "jump services"),
    ("nat-postrouting", "jump masquerading"),
    ("firewall-check", f"{_TO} vmap @firewall-ips"),
    ("service-endpoints-check", f"{_TO} vmap @no-endpoint-services"),
    ("nodeport-endpoints-check", "fib daddr type local meta l4proto . th dport vmap @no-endpoint-nodeports"),
    ("cluster-ips-check", "ip daddr @cluster-ips reject"),
    ("masquerading", f"mark and {_MARK} != 0 mark set mark xor {_MARK} masquerade fully-random"),
    (
        "masquerading",
        "ct status dnat ip saddr . ip daddr . meta l4proto . th dport @hairpin-connections masquerade fully-random",
    ),
    ("services", f"ip daddr @cluster-ips ip saddr != {POD_RANGE} mark set mark or {_MARK}"),
    ("services", f"{_TO} vmap @service-ips"),
    ("services", "fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @service-nodeports"),
)


def ruleset(size: Size) -> str:
    """The whole table, for an empty kernel."""
    return "".join(f"{line}\n" for line in (*_base(), *_services(size)))


def change(index: int, addresses: Addresses, came: Addresses, went: Addresses) -> str:
    """What is sent when the endpoints of one Service change: its chain anew, and hairpins of this node's Pods."""
    chain = chain_name(index)
    lines = [f"add chain {TABLE} {chain}", f"flush chain {TABLE} {chain}", _rule(index, addresses)]
    lines += [f"delete element {TABLE} {_hairpin(each)}" for each in went if node_of(each) == NODE]
    lines += [f"add element {TABLE} {_hairpin(each)}" for each in came if node_of(each) == NODE]
    return "".join(f"{line}\n" for line in lines)


def chain_name(index: int) -> str:
    """A name of the length and kind of the original."""
    port = f"bench/svc-{index}/tcp/http"
    digest = base64.b32encode(hashlib.sha256(port.encode()).digest())[:8].decode()
    return f"service-{digest}-{port}"


def _base() -> Iterator[str]:
    yield f"add table {TABLE}"
    for name, (kind, hook, priority) in _HOOKS.items():
        yield f"add chain {TABLE} {name} {{ type {kind} hook {hook} priority {priority}; }}"
    for name in dict.fromkeys(chain for chain, _ in _RULES if chain not in _HOOKS):
        yield f"add chain {TABLE} {name}"
    for declared, kind in _SETS.items():
        what, name = declared.split()
        yield f"add {what} {TABLE} {name} {{ type {kind}; }}"
    for chain, rule in _RULES:
        yield f"add rule {TABLE} {chain} {rule}"


def _services(size: Size) -> Iterator[str]:
    for index in range(size.services):
        chain, ip, addresses = chain_name(index), cluster_ip(index), endpoints(index, size)
        yield f"add chain {TABLE} {chain}"
        yield _rule(index, addresses)
        yield f"add element {TABLE} cluster-ips {{ {ip} }}"
        yield f"add element {TABLE} service-ips {{ {ip} . tcp . {SERVICE_PORT} : goto {chain} }}"
        for each in addresses:
            if node_of(each) == NODE:
                yield f"add element {TABLE} {_hairpin(each)}"


def _rule(index: int, addresses: Addresses) -> str:
    slots = ", ".join(f"{slot} : {address} . {TARGET_PORT}" for slot, address in enumerate(addresses))
    to = f"dnat ip addr . port to numgen random mod {len(addresses)} map {{ {slots} }}"
    return f"add rule {TABLE} {chain_name(index)} meta l4proto tcp {to}"


def _hairpin(address: object) -> str:
    return f"hairpin-connections {{ {address} . {address} . tcp . {TARGET_PORT} }}"
