"""What nodes know of each other without a word between them: a function of a node's name and its Pod ranges
(docs/decisions/0028).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import sha256
from ipaddress import IPv4Address

from netplane.model.address import Family, IPAddress, IPNetwork, family_of

_PLAIN = re.compile(r"[a-z0-9]{1,40}\Z")
_STRANGE = re.compile(r"[^a-z0-9]")


def vtep_mac(node: str) -> bytes:
    """The MAC of a node's VXLAN links: unicast, locally administered (IEEE 802, 46 bits of a hash)."""
    digest = _digest("vtep", node)
    return bytes((digest[0] & 0xFC | 0x02,)) + digest[1:6]


def inner_addresses(ranges: Iterable[IPNetwork]) -> tuple[IPAddress, ...]:
    """A node's addresses on its overlay links: the network address of its first Pod range of each family.

    No IPAM gives a Pod the network address, so it needs neither allocation nor announcement.
    """
    first: dict[Family, IPAddress] = {}
    for each in ranges:
        first.setdefault(family_of(each), each.network_address)
    return tuple(first[family] for family in sorted(first))


def router_id(node: str, addresses: Iterable[IPAddress]) -> IPv4Address:
    """A node's BGP identifier (RFC 4271, 4.2; RFC 6286): its first IPv4 address, or 32 bits of a hash, never 0."""
    for address in addresses:
        if isinstance(address, IPv4Address):
            return address
    return IPv4Address(int.from_bytes(_digest("router id", node)[:4]) or 1)


def node_session(node: str, family: Family) -> str:
    """The name of the BGP session with a node: `node_n2` over IPv4, `node_n2_v6` over IPv6.

    At most 53 characters (bird takes 64), and never the same for two nodes whose names differ in '-' and '.' only.
    """
    word = node if _PLAIN.match(node) else f"{_STRANGE.sub('_', node[:36])}_{_digest('session', node).hex()[:8]}"
    return f"node_{word}" if family is Family.IPV4 else f"node_{word}_v6"


def router_session(address: IPAddress) -> str:
    """The name of the BGP session with a router: `router_198_18_0_1`, `router_fd00__1`."""
    return f"router_{_STRANGE.sub('_', str(address))}"


def _digest(what: str, node: str) -> bytes:
    return sha256(f"netplane {what} {node}".encode()).digest()
