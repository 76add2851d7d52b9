"""What links and addresses there are, and how they are set: read, decoded (linux/if_link.h)."""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface

from netplane.kernel.link_orders import ADDRESS, GET_LINK, LINK, PROMISCUOUS, UP, Conf
from netplane.kernel.links import Links
from netplane.kernel.netlink import Refused, Request, as_text, attribute, attributes, text

TENTATIVE, DUPLICATE = 0x40, 0x08
"""Flags of an address: nobody was asked yet whether it is free; somebody else has it."""

WITHOUT_COUNTERS = attribute(29, struct.pack("=I", 8))  # IFLA_EXT_MASK: RTEXT_FILTER_SKIP_STATS
_GET_ADDRESS, _GET_NAMESPACE_ID = 22, 90
_NO_IDS = -1
_PROXY_NDP, _ACCEPT_RA = 22, 3  # places in IFLA_INET6_CONF
_U32, _I32, _ATTRIBUTE = struct.Struct("=I"), struct.Struct("=i"), struct.Struct("=HH")
_OF_LINK, _OF_BRIDGE, _OF_PORT = frozenset({1, 3, 4, 5, 10, 18, 20, 26, 27, 37}), frozenset({7}), frozenset({4, 33})


@dataclass(frozen=True, slots=True)
class LinkFacts:
    """A link as the kernel shows it. `peer` is the number of a veth's other end, in namespace number `peer_netns`."""

    name: str
    index: int
    kind: str
    mac: bytes
    mtu: int
    up: bool
    promiscuous: bool
    master: int
    group: int
    peer: int
    peer_netns: int
    alias: str
    hairpin: bool
    isolated: bool
    vlan_filtering: bool
    inet: tuple[int, ...]
    inet6: tuple[int, ...]

    def conf(self, which: Conf) -> int:
        """An IPv4 setting."""
        return self.inet[which - 1] if len(self.inet) >= which else 0

    @property
    def accept_ra(self) -> int:
        """net.ipv6.conf.LINK.accept_ra; 0 without IPv6."""
        return self.inet6[_ACCEPT_RA] if len(self.inet6) > _ACCEPT_RA else 0

    @property
    def proxy_ndp(self) -> int:
        """net.ipv6.conf.LINK.proxy_ndp; 0 without IPv6."""
        return self.inet6[_PROXY_NDP] if len(self.inet6) > _PROXY_NDP else 0


@dataclass(frozen=True, slots=True)
class AddressFacts:
    """An address of a link."""

    index: int
    address: IPv4Interface | IPv6Interface
    flags: int

    @property
    def link_local(self) -> bool:
        """Whether it is one of IPv6's that every link has."""
        return self.address.version == 6 and self.address.is_link_local


def link(kernel: Links, which: str | int) -> LinkFacts | None:
    """One link, by name or number; None if there is none."""
    if isinstance(which, int):
        payload = LINK.pack(0, 0, 0, which, 0, 0) + WITHOUT_COUNTERS
    else:
        payload = LINK.pack(0, 0, 0, 0, 0, 0) + text(3, which) + WITHOUT_COUNTERS
    try:
        return decode(kernel.ask(Request(GET_LINK, payload), f"look at link {which}")[0])
    except Refused as refused:
        if refused.refusal.errno == errno.ENODEV:
            return None
        raise


def number(kernel: Links, name: str) -> int:
    """The index of a link; 0 if there is none."""
    payload = LINK.pack(0, 0, 0, 0, 0, 0) + text(3, name) + WITHOUT_COUNTERS
    try:
        return int(LINK.unpack_from(kernel.ask(Request(GET_LINK, payload), f"look at link {name}")[0])[3])
    except Refused as refused:
        if refused.refusal.errno == errno.ENODEV:
            return 0
        raise


def addresses(kernel: Links, index: int | None = None) -> list[AddressFacts]:
    """The addresses of all links, or of one."""
    payloads = kernel.dump(Request(_GET_ADDRESS, ADDRESS.pack(0, 0, 0, 0, index or 0)), "list addresses")
    return [fact for fact in map(_decode_address, payloads) if index is None or fact.index == index]


def namespace_number(kernel: Links, fd: int) -> int:
    """By which number links here call the namespace `fd` is open on (`peer_netns`); -1 if none has an end there."""
    payload = struct.pack("=B3x", socket.AF_UNSPEC) + attribute(3, _U32.pack(fd))
    found = attributes(kernel.ask(Request(_GET_NAMESPACE_ID, payload), "ask for a namespace's number")[0], 4)
    return int(_I32.unpack(found[1])[0]) if 1 in found else _NO_IDS


def decode(payload: bytes) -> LinkFacts:
    """An answer to RTM_GETLINK, or a notification of one."""
    _, _, _, index, flags, _ = LINK.unpack_from(payload)
    found = _picked(payload, _OF_LINK, LINK.size)
    info = attributes(found[18]) if 18 in found else {}
    kind = as_text(info.get(1, b""))
    data = _picked(info[2], _OF_BRIDGE) if 2 in info and kind == "bridge" else {}
    port = _picked(info[5], _OF_PORT) if 5 in info and as_text(info.get(4, b"")) == "bridge" else {}
    families = attributes(found[26]) if 26 in found else {}
    return LinkFacts(
        name=as_text(found.get(3, b"")),
        index=index,
        kind=kind,
        mac=found.get(1, b""),
        mtu=_number(found, 4),
        up=bool(flags & UP),
        promiscuous=bool(flags & PROMISCUOUS),
        master=_number(found, 10),
        group=_number(found, 27),
        peer=_number(found, 5),
        peer_netns=_I32.unpack(found[37])[0] if 37 in found else _NO_IDS,
        alias=as_text(found.get(20, b"")),
        hairpin=port.get(4, b"\0") == b"\1",
        isolated=port.get(33, b"\0") == b"\1",
        vlan_filtering=data.get(7) == b"\1",
        inet=_array(families.get(socket.AF_INET, b""), 1),
        inet6=_array(families.get(socket.AF_INET6, b""), 2),
    )


def decode_name(payload: bytes) -> str:
    """The name of a link, of a message about it."""
    size, kind = _ATTRIBUTE.unpack_from(payload, LINK.size)
    if kind == 3:  # as a rule it comes first
        return as_text(payload[LINK.size + 4 : LINK.size + size])
    return as_text(attributes(payload, LINK.size).get(3, b""))


def _decode_address(payload: bytes) -> AddressFacts:
    family, length, flags, _, index = ADDRESS.unpack_from(payload)
    found = attributes(payload, ADDRESS.size)
    packed = found.get(2) or found[1]
    flags = _number(found, 8) or flags
    kind = IPv4Interface if family == socket.AF_INET else IPv6Interface
    return AddressFacts(index, kind((packed, length)), flags)


def _picked(payload: bytes, wanted: frozenset[int], start: int = 0) -> dict[int, bytes]:
    """Like `attributes`, of the few kinds that are wanted: a link has fifty, and there may be a thousand links."""
    found = {}
    end = len(payload) - 4
    unpack = _ATTRIBUTE.unpack_from
    while start <= end:
        size, kind = unpack(payload, start)
        kind &= 0x3FFF
        if kind in wanted:
            found[kind] = payload[start + 4 : start + size]
        start += (max(size, 4) + 3) & ~3
    return found


def _array(family: bytes, which: int) -> tuple[int, ...]:
    values = attributes(family).get(which, b"") if family else b""
    return struct.unpack(f"={len(values) // 4}i", values[: len(values) & ~3])


def _number(found: dict[int, bytes], kind: int) -> int:
    value = found.get(kind, b"")
    return int(_U32.unpack(value)[0]) if len(value) == 4 else 0
