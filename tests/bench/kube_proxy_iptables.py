"""The baseline: the rules kube-proxy writes in iptables mode, as text for `iptables-restore --noflush`.

Names, hashes and rules are kube-proxy's: one linear list KUBE-SERVICES, a KUBE-SVC- chain for every Service port, a
KUBE-SEP- chain for every endpoint. Beyond 1000 endpoints it is the text of its large-cluster mode: no comments on
rules of endpoints, and chains of endpoints that went are left for later. What a ClusterIP Service does not need is
left out.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator

from bench.clusters import POD_RANGE, SERVICE_PORT, TARGET_PORT, Addresses, Size, cluster_ip, endpoints

_LARGE_CLUSTER = 1000
_MARK = "0x4000/0x4000"
_NEW = "-m conntrack --ctstate NEW -m comment --comment"

_JUMPS = {
    "filter": (
        ("INPUT", f'{_NEW} "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL'),
        ("INPUT", '-m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS'),
        ("INPUT", f'{_NEW} "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES'),
        ("INPUT", "-j KUBE-FIREWALL"),
        ("FORWARD", f'{_NEW} "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL'),
        ("FORWARD", '-m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD'),
        ("FORWARD", f'{_NEW} "kubernetes service portals" -j KUBE-SERVICES'),
        ("FORWARD", f'{_NEW} "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES'),
        ("OUTPUT", f'{_NEW} "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL'),
        ("OUTPUT", f'{_NEW} "kubernetes service portals" -j KUBE-SERVICES'),
        ("OUTPUT", "-j KUBE-FIREWALL"),
    ),
    "nat": (
        ("PREROUTING", '-m comment --comment "kubernetes service portals" -j KUBE-SERVICES'),
        ("OUTPUT", '-m comment --comment "kubernetes service portals" -j KUBE-SERVICES'),
        ("POSTROUTING", '-m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING'),
    ),
}
_TOP = {
    "filter": (
        "KUBE-NODEPORTS", "KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-FIREWALL", "KUBE-FORWARD",
        "KUBE-PROXY-FIREWALL",
    ),
    "nat": ("KUBE-NODEPORTS", "KUBE-SERVICES", "KUBE-MARK-MASQ", "KUBE-POSTROUTING"),
}  # fmt: skip
_FILTER_RULES = (
    '-A KUBE-FIREWALL -m comment --comment "block incoming localnet connections" -d 127.0.0.0/8 ! -s 127.0.0.0/8 '
    "-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP",
    "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
    f'-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark {_MARK} -j ACCEPT',
    '-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" '
    "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
)
_NAT_RULES = (
    f"-A KUBE-POSTROUTING -m mark ! --mark {_MARK} -j RETURN",
    "-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000",
    '-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully',
    "-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000",
)
_LAST = (
    '-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this '
    'chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS'
)


def jumps() -> str:
    """The top-level chains, empty, and the jumps to them: kube-proxy makes sure of them before it writes rules."""
    return _script(
        (*(f":{chain} - [0:0]" for chain in _TOP["filter"]), *_inserted("filter")),
        (*(f":{chain} - [0:0]" for chain in _TOP["nat"]), *_inserted("nat")),
    )


def ruleset(size: Size) -> str:
    """What a full sync sends: everything but the jumps."""
    chains, rules = _all_chains(size, range(size.services)), _all_rules(size, range(size.services))
    return _synced(chains, (*dispatch(size), *rules))


def parts(size: Size, services: int) -> Iterator[str]:
    """The same rules in several pieces of so many Services, each with sorted chains.

    iptables-nft-restore 1.8.9 inserts every new chain into a sorted list, and finds chains in 512 buckets. So it takes
    seconds for what takes many minutes in one piece: not what kube-proxy does, but the way to its state.
    """
    yield _synced((), ())
    for first in range(0, size.services, services):
        numbers = range(first, min(first + services, size.services))
        listed = (f"-A KUBE-SERVICES{_dispatched(index)}" for index in numbers)
        yield _script((), (*sorted(_all_chains(size, numbers)), *_all_rules(size, numbers), *listed))
    yield _script((), (_LAST,))


def change(size: Size, index: int, addresses: Addresses, went: Addresses, dispatching: tuple[str, ...]) -> str:
    """What a partial sync sends: all top-level chains in full, and the chains of the Service that changed.

    `dispatching` is `dispatch(size)`, which does not change.
    """
    gone = () if _large(size) else tuple(endpoint_chain(index, each) for each in went)
    chains = (service_chain(index), *(endpoint_chain(index, each) for each in addresses), *gone)
    rules = (*_service_rules(size, index, addresses), *(f"-X {chain}" for chain in gone))
    return _synced((f":{chain} - [0:0]" for chain in chains), (*dispatching, *rules))


def dispatch(size: Size) -> tuple[str, ...]:
    """The rules of KUBE-SERVICES."""
    return (*(f"-A KUBE-SERVICES{_dispatched(index)}" for index in range(size.services)), _LAST)


def service_chain(index: int) -> str:
    """`KUBE-SVC-XPGD46QRK7WJZT7O`: named after the Service port and its protocol."""
    return f"KUBE-SVC-{hashed(f'{port_name(index)}tcp')}"


def endpoint_chain(index: int, address: object) -> str:
    """`KUBE-SEP-SXIVWICOYRO3J4NJ`: named after the Service port, its protocol and the endpoint."""
    return f"KUBE-SEP-{hashed(f'{port_name(index)}tcp{address}:{TARGET_PORT}')}"


def port_name(index: int) -> str:
    """`bench/svc-7:http`."""
    return f"bench/svc-{index}:http"


def hashed(text: str) -> str:
    """How kube-proxy makes names of any length fit: 16 letters of the SHA-256 in base 32."""
    return base64.b32encode(hashlib.sha256(text.encode()).digest())[:16].decode()


def _large(size: Size) -> bool:
    return size.services * size.endpoints > _LARGE_CLUSTER


def _synced(chains: Iterable[str], rules: Iterable[str]) -> str:
    """The filter table, and the nat table with these chains and rules in addition to what it always has."""
    tops = {table: [f":{chain} - [0:0]" for chain in names] for table, names in _TOP.items()}
    return _script((*tops["filter"], *_FILTER_RULES), (*tops["nat"], *chains, *_NAT_RULES, *rules))


def _script(filtering: Iterable[str], translating: Iterable[str]) -> str:
    lines = ["*filter", *filtering, "COMMIT", "*nat", *translating, "COMMIT", ""]
    return "\n".join(lines)


def _inserted(table: str) -> Iterator[str]:
    return (f"-I {chain} {rule}" for chain, rule in _JUMPS[table])


def _all_chains(size: Size, numbers: Iterable[int]) -> Iterator[str]:
    for index in numbers:
        yield f":{service_chain(index)} - [0:0]"
        yield from (f":{endpoint_chain(index, each)} - [0:0]" for each in endpoints(index, size))


def _all_rules(size: Size, numbers: Iterable[int]) -> Iterator[str]:
    for index in numbers:
        yield from _service_rules(size, index, endpoints(index, size))


def _dispatched(index: int) -> str:
    return f"{_to(index)} -j {service_chain(index)}"


def _to(index: int) -> str:
    comment = f' -m comment --comment "{port_name(index)} cluster IP"'
    return f"{comment} -m tcp -p tcp -d {cluster_ip(index)} --dport {SERVICE_PORT}"


def _service_rules(size: Size, index: int, addresses: Addresses) -> Iterator[str]:
    chain, large = service_chain(index), _large(size)
    yield f"-A {chain}{_to(index)} ! -s {POD_RANGE} -j KUBE-MARK-MASQ"
    for place, each in enumerate(addresses):
        said = "" if large else f' -m comment --comment "{port_name(index)} -> {each}:{TARGET_PORT}"'
        left = len(addresses) - place
        chance = f" -m statistic --mode random --probability {1 / left:.10f}" if left > 1 else ""
        yield f"-A {chain}{said}{chance} -j {endpoint_chain(index, each)}"
    for each in addresses:
        own, said = endpoint_chain(index, each), "" if large else f" -m comment --comment {port_name(index)}"
        yield f"-A {own}{said} -s {each} -j KUBE-MARK-MASQ"
        yield f"-A {own}{said} -m tcp -p tcp -j DNAT --to-destination {each}:{TARGET_PORT}"
