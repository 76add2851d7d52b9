"""VXLAN links of the Pod network, as orders and as the kernel shows them (linux/if_link.h: IFLA_VXLAN_*)."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from netplane.kernel import link_orders
from netplane.kernel.link_orders import EXCLUSIVE, LINK, NEW_LINK, UP
from netplane.kernel.link_read import WITHOUT_COUNTERS
from netplane.kernel.links import Order
from netplane.kernel.netlink import CREATE, Request, as_text, attribute, attributes, nested, text
from netplane.model.address import IPAddress
from netplane.programs.network import GROUP, LINKS, VxlanLink
from netplane.programs.network_changes import FoundLink, LinkChange, LinkWork

_GET_LINK = 18
_MAC, _NAME, _MTU, _INFO, _AF_SPEC, _GROUP = 1, 3, 4, 18, 26, 27
_KIND, _DATA = 1, 2
_ID, _REMOTE, _LOWER, _LOCAL, _LEARNING, _PROXY, _SHORT_CIRCUIT, _MISS_TWO, _MISS_THREE = 1, 2, 3, 4, 7, 11, 12, 13, 14
_PORT, _REMOTE_SIX, _LOCAL_SIX, _CHECKSUM, _REMOTE_CHECKSUMS, _COLLECT, _FILTER = 15, 16, 17, 18, (21, 22), 25, 30
_POLICY, _OPTIMISTIC, _PROTOCOLS = 23, 24, 27
_NEVER = (_REMOTE, _REMOTE_SIX, _POLICY, _OPTIMISTIC, _PROTOCOLS)
"""What is never there; and what is there but zero:"""
_ZERO = (_LOWER, _PROXY, _SHORT_CIRCUIT, _MISS_TWO, _MISS_THREE, *_REMOTE_CHECKSUMS, _COLLECT, _FILTER)
_INET_SIX, _GENERATE_MODE, _NONE = 10, 8, 1
_U32 = struct.Struct("=I")

WIREGUARD_KINDS = frozenset({"wireguard", "tun"})
"""By the kernel, and by wireguard-go."""


def question(link: str | int) -> Request:
    """For one link, by name or number."""
    index, name = (link, b"") if isinstance(link, int) else (0, text(_NAME, link))
    return Request(_GET_LINK, LINK.pack(0, 0, 0, index, 0, 0) + name + WITHOUT_COUNTERS)


def number_and_name(payload: bytes) -> tuple[int, str]:
    """Of an answer about a link."""
    return LINK.unpack_from(payload)[3], as_text(attributes(payload, LINK.size)[_NAME])


def orders(change: LinkChange, number: int) -> list[Order]:
    """What makes a link be as wanted. `number`: of the one that is there, 0 if there is none.

    It gets its group in the message that makes it: a link without it was never ours, however that ended.
    """
    link = change.link
    if not isinstance(link, VxlanLink):
        return _changed(link.name, link_orders.mtu(link.mtu))
    if change.work is LinkWork.CHANGE:
        data = nested(_DATA, _local(link.local), attribute(_ID, _U32.pack(link.id)), attribute(_LEARNING, b"\0"))
        info = nested(_INFO, text(_KIND, "vxlan"), data)
        # Of its own, for the kernel takes no MTU together with settings of VXLAN.
        of_vxlan = link_orders.change(link.name, info)
        address = [link_orders.mac(link.mac)] if change.new_mac else []
        return [of_vxlan, *_changed(link.name, *address, link_orders.mtu(link.mtu))]
    removed = [link_orders.delete(number)] if number else []
    return [*removed, _made(link), *_changed(link.name)]


def doing_quiet(name: str) -> str:
    """What the order says that is refused where a link has no IPv6, and need not be carried out there."""
    return f"set addrgenmode of link {name}"


def _made(link: VxlanLink) -> Order:
    checksum = attribute(_CHECKSUM, bytes((link.checksum,))) if link.local.version == 4 else b""
    data = nested(
        _DATA,
        attribute(_ID, _U32.pack(link.id)),
        _local(link.local),
        attribute(_PORT, struct.pack(">H", link.port)),
        attribute(_LEARNING, b"\0"),
        checksum,
    )
    parts = (
        LINK.pack(0, 0, 0, 0, 0, 0),  # down: else it would get a link-local address before it can be told not to
        text(_NAME, link.name),
        link_orders.mac(link.mac),
        link_orders.mtu(link.mtu),
        link_orders.group(GROUP),
        nested(_INFO, text(_KIND, "vxlan"), data),
    )
    return Order(f"make link {link.name}", Request(NEW_LINK, b"".join(parts), CREATE | EXCLUSIVE))


def _changed(name: str, *settings: bytes) -> list[Order]:
    """First of all the MTU: below 1280 bytes a link has nothing of IPv6 that could be set."""
    quiet = link_orders.change(name, link_orders.settings())._replace(doing=doing_quiet(name))
    return [*([link_orders.change(name, *settings)] if settings else []), quiet, link_orders.change(name, up=True)]


def _local(address: IPAddress) -> bytes:
    return attribute(_LOCAL if address.version == 4 else _LOCAL_SIX, address.packed)


def decode(payload: bytes) -> FoundLink | None:
    """A link of one of our names; None if it is not ours."""
    found = attributes(payload, LINK.size)
    info = attributes(found[_INFO]) if _INFO in found else {}
    kind, name = as_text(info.get(_KIND, b"")), as_text(found[_NAME])
    mtu = _number(found, _MTU)
    settled = bool(LINK.unpack_from(payload)[4] & UP) and _quiet(found.get(_AF_SPEC, b""))
    if name == LINKS[2]:
        return FoundLink(mtu, None, settled) if kind in WIREGUARD_KINDS else None
    if kind != "vxlan" or _number(found, _GROUP) != GROUP:
        return None
    data = attributes(info.get(_DATA, b""))
    strange = any(each in data for each in _NEVER) or any(any(data.get(each, b"")) for each in _ZERO)
    if strange or not {_LOCAL, _LOCAL_SIX} & data.keys():
        return FoundLink(mtu, None, settled, strange=True)
    local = IPv4Address(data[_LOCAL]) if _LOCAL in data else IPv6Address(data[_LOCAL_SIX])
    checksum = local.version == 6 or data.get(_CHECKSUM) == b"\1"
    port = int.from_bytes(data.get(_PORT, b""), "big")
    link = VxlanLink(name, found.get(_MAC, b""), mtu, _number(data, _ID), port, local, checksum)
    return FoundLink(mtu, link, settled and data.get(_LEARNING) == b"\0")


def _quiet(families: bytes) -> bool:
    """Whether the kernel makes up no IPv6 address; where it has no IPv6 it cannot."""
    six = attributes(families).get(_INET_SIX) if families else None
    return six is None or attributes(six).get(_GENERATE_MODE) == bytes((_NONE,))


def _number(found: dict[int, bytes], kind: int) -> int:
    value = found.get(kind, b"")
    return int(_U32.unpack(value)[0]) if len(value) == 4 else 0
