"""The words of `iptables-save`, and kube-proxy's chain names.

Every rule is spelled as `iptables-save` 1.8.9 prints it, which both variants do alike: addresses first, then the link,
the protocol, the matches in the order they were given, the target. Comparing with the kernel is comparing strings.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from ipaddress import IPv4Address

from netplane.model.address import Family, IPAddress, IPNetwork, Protocol
from netplane.model.service import ServicePortId
from netplane.plan.plan import Endpoint, Frontend, ThisNode

LONGEST_COMMENT = 255
"""XT_MAX_COMMENT_LEN without the final NUL."""
_BARE = re.compile(r"[A-Za-z0-9_-]+\Z")
_UNPRINTABLE = re.compile(r"[^ -~]")
_ESCAPED = re.compile(r"([\"\\'])")

FROM_HERE = "-m addrtype --src-type LOCAL"
TO_HERE = "-m addrtype --dst-type LOCAL"

LOOPBACK = {Family.IPV4: "127.0.0.0/8", Family.IPV6: "::1/128"}
UNREACHABLE = {Family.IPV4: "icmp-port-unreachable", Family.IPV6: "icmp6-port-unreachable"}
_WHOLE = {Family.IPV4: "255.255.255.255", Family.IPV6: ":".join(["ffff"] * 8)}


def rule(*words: str) -> str:
    """The words that are not empty, in this order."""
    return " ".join(filter(None, words))


def comment(text: str) -> str:
    """`-m comment --comment "ns/svc:p cluster IP"`, quoted as save does.

    Nothing a manifest says can end the quotation, the line or the program that reads it: what is not printable ASCII
    becomes `_`, and what is too long for the kernel is cut.
    """
    shown = _UNPRINTABLE.sub("_", text)
    if len(shown) > LONGEST_COMMENT:
        shown = shown[: LONGEST_COMMENT - 3] + "..."
    quoted = shown if _BARE.match(shown) else '"' + _ESCAPED.sub(r"\\\1", shown) + '"'
    return f"-m comment --comment {quoted}"


def address_text(address: IPAddress) -> str:
    """The address as inet_ntop writes it: an IPv6 one that is an IPv4 one after zeros, or after ::ffff, shows that."""
    if address.version == 4:
        return str(address)
    number = int(address)
    match number >> 32:
        case 0 if number >> 16:
            return f"::{IPv4Address(number & 0xFFFFFFFF)}"
        case 0xFFFF:
            return f"::ffff:{IPv4Address(number & 0xFFFFFFFF)}"
    return str(address)


def network(flag: str, network: IPNetwork) -> str:
    """`-s 10.0.0.0/8`; nothing for the network of all addresses, which save leaves out."""
    return f"{flag} {address_text(network.network_address)}/{network.prefixlen}" if network.prefixlen else ""


def host(flag: str, address: IPAddress) -> str:
    """`-d 10.96.0.10/32`."""
    return f"{flag} {address_text(address)}/{address.max_prefixlen}"


def dport(protocol: Protocol, port: int) -> str:
    """`-m tcp --dport 80`, which needs a `-p tcp` before it."""
    return f"-m {protocol} --dport {port}"


def addressed(frontend: Frontend, said: str, target: str) -> str:
    """What is addressed to `frontend` goes to `target`: `-d 10.96.0.10/32 -p tcp ... -m tcp --dport 80 -j ...`.

    The rule of a node port names no address: it stands where only packets to this node come.
    """
    to = "" if isinstance(frontend.address, ThisNode) else host("-d", frontend.address)
    return rule(to, f"-p {frontend.protocol}", comment(said), dport(frontend.protocol, frontend.port), f"-j {target}")


@lru_cache(maxsize=256)
def probability(count: int) -> str:
    """One in `count`, as the kernel keeps it (in units of 2^-31) and save prints it: `0.33333333349`."""
    return f"-m statistic --mode random --probability {round(2**31 / count) / 2**31:.11f}"


def seen_within(chain: str, family: Family, seconds: int) -> str:
    """Whether the sender is in the list named for `chain`, and for no longer than that."""
    return f"-m recent --rcheck --seconds {seconds} --reap --name {chain} --mask {_WHOLE[family]} --rsource"


def remember(chain: str, family: Family) -> str:
    """Put the sender into the list named for `chain`, as seen now."""
    return f"-m recent --set --name {chain} --mask {_WHOLE[family]} --rsource"


def to_endpoint(endpoint: Endpoint) -> str:
    """`10.0.1.5:80` or `[fd00::5]:80`."""
    address = address_text(endpoint.address)
    return f"[{address}]:{endpoint.port}" if endpoint.address.version == 6 else f"{address}:{endpoint.port}"


# --- names ------------------------------------------------------------------------------------------------------------

_BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"  # RFC 4648
_PAIRS = tuple(one + other for one in _BASE32 for other in _BASE32)


def short_hash(text: str) -> str:
    """kube-proxy's: the first 16 characters of base32(sha256(text))."""
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:10])
    pairs = _PAIRS  # every comparison asks for every name: base64.b32encode takes six times as long
    return (
        pairs[number >> 70]
        + pairs[number >> 60 & 1023]
        + pairs[number >> 50 & 1023]
        + pairs[number >> 40 & 1023]
        + pairs[number >> 30 & 1023]
        + pairs[number >> 20 & 1023]
        + pairs[number >> 10 & 1023]
        + pairs[number & 1023]
    )


def port_chain(kind: str, port: ServicePortId) -> str:
    """`KUBE-SVC-XPGD46QRK7WJZT7O` for kind SVC; so for SVL, EXT and FW."""
    return f"KUBE-{kind}-{short_hash(f'{port}{port.protocol}')}"


def endpoint_chain(port: ServicePortId, endpoint: Endpoint) -> str:
    """`KUBE-SEP-SXIVWICOYRO3J4NJ`."""
    return f"KUBE-SEP-{short_hash(f'{port}{port.protocol}{endpoint}')}"
