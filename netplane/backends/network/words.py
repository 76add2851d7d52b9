"""Comparisons as nft text, in the form that the kernel evaluates fastest.

What the kernel does on the spot (6.18: nft_payload_fast_eval, nft_bitwise_fast_eval, nft_cmp_fast_eval): load 1, 2 or 4
bytes, mask them, compare them. Of a prefix of 24 bits nft loads 3 bytes and of an IPv6 address 16, which costs far more
(docs/performance.md). So a mask is always said, and IPv6 is compared in words of 32 bits, the last one first: there
addresses differ most often. A set of single keys with a `size` is a table of fixed size, the fastest there is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Network

from netplane.model.address import Family, IPAddress, IPNetwork

IP = {Family.IPV4: "ip", Family.IPV6: "ip6"}
PROTOCOL = {Family.IPV4: "ip protocol", Family.IPV6: "ip6 nexthdr"}
"""What is transported; over IPv6 in packets without extension headers."""

_WORD, _ALL = 32, 0xFFFFFFFF
_OFFSET = {"saddr": 64, "daddr": 192}
"""Where addresses begin in the header of IPv6, in bits (RFC 8200, section 3)."""


def within(field: str, network: IPNetwork) -> str:
    """Whether `saddr` or `daddr` is in a network: comparisons that all have to hold. "" if any address is in it."""
    if isinstance(network, IPv6Network):
        return " ".join(reversed(list(_words(field, network))))
    if network.prefixlen == 0:
        return ""
    return f"{_masked(field, network)} == {network.network_address}"


def among(field: str, family: Family, name: str, length: int = 128) -> str:
    """Whether `saddr` or `daddr`, or its first `length` bits, are in a set of addresses."""
    whole = IPv4Network((0, min(length, 32))) if family is Family.IPV4 else IPv6Network((0, length))
    return f"{_masked(field, whole)} @{name}"


def several(things: Iterable[IPNetwork | IPAddress | str]) -> str:
    """One, or a set of several; what is text is a name."""
    texts = [f'"{each}"' if isinstance(each, str) else str(each) for each in things]
    return texts[0] if len(texts) == 1 else f"{{ {', '.join(texts)} }}"


def host(address: IPAddress) -> IPNetwork:
    """The network of one address."""
    return IPv4Network(address) if isinstance(address, IPv4Address) else IPv6Network(address)


def _masked(field: str, network: IPNetwork) -> str:
    ip = IP[Family.IPV6 if isinstance(network, IPv6Network) else Family.IPV4]
    return f"{ip} {field}" + (f" & {network.netmask}" if network.prefixlen < network.max_prefixlen else "")


def _words(field: str, network: IPv6Network) -> Iterator[str]:
    value, mask = int(network.network_address), int(network.netmask)
    for shift in range(network.max_prefixlen - _WORD, -1, -_WORD):
        if kept := mask >> shift & _ALL:
            loaded = f"@nh,{_OFFSET[field] + network.max_prefixlen - _WORD - shift},{_WORD}"
            masked = "" if kept == _ALL else f" & {kept:#010x}"
            yield f"{loaded}{masked} == {value >> shift & _ALL:#010x}"
