"""Neighbours, forwarding entries and addresses of the Pod network (linux/neighbour.h, if_addr.h).

Ours are those on our links; and on others' links addresses whose IFA_PROTO is 98 (Linux 5.18).
"""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from netplane.kernel.link_orders import ADDRESS, EXCLUSIVE, NO_PREFIX_ROUTE, NODAD
from netplane.kernel.links import Links, Order
from netplane.kernel.netlink import CREATE, Request, attribute, attributes
from netplane.model.address import IPAddress
from netplane.programs.network import PROTOCOL

NEW_ADDRESS, DELETE_ADDRESS, NEW_NEIGHBOUR, DELETE_NEIGHBOUR = 20, 21, 28, 29
NEIGHBOUR = struct.Struct("=BBHiHBB")
BRIDGE = socket.AF_BRIDGE

_GET_ADDRESS, _GET_NEIGHBOUR = 22, 30
_REPLACE = 0x100
_PERMANENT, _SELF = 0x80, 0x02
_DESTINATION, _MAC, _PORT, _VNI, _OUT = 1, 2, 6, 7, 8
_LOCAL, _LIFETIMES, _FLAGS, _PROTOCOL = 2, 6, 8, 11
_FOREVER = 0xFFFFFFFF
_HOST_SCOPE = 254
_OPTIMISTIC, _FAILED, _DEPRECATED, _TENTATIVE = 0x04, 0x08, 0x20, 0x40
_U32, _LIFE = struct.Struct("=I"), struct.Struct("=IIII")
_MARK = attribute(_PROTOCOL, bytes((PROTOCOL,)))


class AddressFacts(NamedTuple):
    """An address of a link. `marked`: with our mark; `usual`: as we make them. `settled`: one may send from it, since
    nobody else on the link can have it (RFC 4862, section 5.4).
    """

    link: int
    address: IPAddress
    announced: bool
    marked: bool
    usual: bool
    settled: bool


def put_neighbour(index: int, to: IPAddress, mac: bytes) -> Order:
    """Who has this address on the link need not be asked."""
    payload = _neighbour(index, to, _PERMANENT) + attribute(_MAC, mac)
    return Order(f"put neighbour {to}", Request(NEW_NEIGHBOUR, payload, CREATE | _REPLACE))


def remove_neighbour(index: int, to: IPAddress) -> Order:
    """Nothing is known any more of who has this address on the link."""
    return Order(f"remove neighbour {to}", Request(DELETE_NEIGHBOUR, _neighbour(index, to, 0)))


def put_forwarding(index: int, mac: bytes, to: IPAddress) -> Order:
    """Frames to `mac` are sent to the node `to`."""
    payload = NEIGHBOUR.pack(BRIDGE, 0, 0, index, _PERMANENT, _SELF, 0)
    payload += attribute(_MAC, mac) + attribute(_DESTINATION, to.packed)
    return Order(f"put forwarding of {mac.hex(':')} to {to}", Request(NEW_NEIGHBOUR, payload, CREATE | _REPLACE))


def remove_forwarding(index: int, mac: bytes) -> Order:
    """Frames to `mac` are sent nowhere."""
    payload = NEIGHBOUR.pack(BRIDGE, 0, 0, index, 0, _SELF, 0) + attribute(_MAC, mac)
    return Order(f"remove forwarding of {mac.hex(':')}", Request(DELETE_NEIGHBOUR, payload))


def add_address(index: int, address: IPAddress, *, announced: bool) -> Order:
    """Give a link an address with our mark that is usable at once; refused with EEXIST if the link has it.

    One that is announced is never chosen as source: IPv6 because it is deprecated, IPv4 because of its scope
    (inet_select_addr passes over the scope `host`; who asks for it by ARP is answered all the same).
    """
    flags = NODAD | NO_PREFIX_ROUTE
    scope = _HOST_SCOPE if announced and address.version == 4 else 0
    payload = _address(index, address, flags, scope) + attribute(_FLAGS, _U32.pack(flags)) + _MARK
    if announced:
        payload += attribute(_LIFETIMES, _LIFE.pack(0, _FOREVER, 0, 0))
    return Order(f"add address {address}", Request(NEW_ADDRESS, payload, CREATE | EXCLUSIVE))


def remove_address(index: int, address: IPAddress) -> Order:
    """Take an address from a link."""
    return Order(f"remove address {address}", Request(DELETE_ADDRESS, _address(index, address, 0, 0)))


def read_neighbours(kernel: Links, index: int) -> dict[IPAddress, bytes]:
    """The permanent neighbours of a link."""
    found = {}
    request = Request(_GET_NEIGHBOUR, NEIGHBOUR.pack(0, 0, 0, 0, 0, 0, 0) + attribute(_OUT, _U32.pack(index)))
    for payload in kernel.dump(request, "list neighbours"):
        of, state = NEIGHBOUR.unpack_from(payload)[3:5]
        if of == index and state & _PERMANENT:
            to, mac = decode_neighbour(payload)
            found[to] = mac
    return found


def decode_neighbour(payload: bytes) -> tuple[IPAddress, bytes]:
    """Address and MAC of an entry; the MAC is b"" if it is not permanent."""
    entry = attributes(payload, NEIGHBOUR.size)
    permanent = NEIGHBOUR.unpack_from(payload)[4] & _PERMANENT
    return _ip(entry[_DESTINATION]), entry.get(_MAC, b"") if permanent else b""


def read_forwarding(kernel: Links, index: int) -> dict[bytes, IPAddress | None]:
    """Where a VXLAN link sends frames; None for entries that are not permanent or not as simple as ours."""
    found: dict[bytes, IPAddress | None] = {}
    request = Request(_GET_NEIGHBOUR, NEIGHBOUR.pack(BRIDGE, 0, 0, index, 0, 0, 0))
    for payload in kernel.dump(request, "list forwarding entries"):
        if NEIGHBOUR.unpack_from(payload)[3] == index:
            mac, to = decode_forwarding(payload)
            found[mac] = to if mac not in found else None
    return found


def decode_forwarding(payload: bytes) -> tuple[bytes, IPAddress | None]:
    """MAC and node of an entry; no node if it is not as we make them."""
    entry = attributes(payload, NEIGHBOUR.size)
    usual = NEIGHBOUR.unpack_from(payload)[4] & _PERMANENT and not entry.keys() & {_PORT, _VNI, _OUT}
    to = entry.get(_DESTINATION)
    return entry.get(_MAC, b""), _ip(to) if usual and to else None


def read_addresses(kernel: Links, ours: frozenset[int]) -> list[tuple[AddressFacts, bytes]]:
    """All addresses of the links with these numbers, those with our mark of all others, and how they were told."""
    found = []
    for payload in kernel.dump(Request(_GET_ADDRESS, ADDRESS.pack(0, 0, 0, 0, 0)), "list addresses"):
        # A host may have thousands: most are not worth decoding.
        if _MARK[:5] in payload or ADDRESS.unpack_from(payload)[4] in ours:
            fact = decode_address(payload)
            if fact.marked or fact.link in ours:
                found.append((fact, payload))
    return found


def decode_address(payload: bytes) -> AddressFacts:
    """An address of any link."""
    _, length, flags, scope, index = ADDRESS.unpack_from(payload)
    entry = attributes(payload, ADDRESS.size)
    packed = entry.get(_LOCAL) or entry[_DESTINATION]
    flags = _U32.unpack(entry[_FLAGS])[0] if _FLAGS in entry else flags
    announced = bool(flags & _DEPRECATED)  # IPv4 tells no lifetimes of an address that never ends
    wanted_scope = _HOST_SCOPE if announced and len(packed) == 4 else 0
    usual = length == 8 * len(packed) and scope == wanted_scope and not flags & (_FAILED | _TENTATIVE)
    marked = entry.get(_PROTOCOL) == bytes((PROTOCOL,))
    settled = not flags & (_FAILED | _TENTATIVE) or flags & (_FAILED | _OPTIMISTIC) == _OPTIMISTIC
    return AddressFacts(index, _ip(packed), announced, marked, usual, settled)


def _neighbour(index: int, to: IPAddress, state: int) -> bytes:
    family = socket.AF_INET if to.version == 4 else socket.AF_INET6
    return NEIGHBOUR.pack(family, 0, 0, index, state, 0, 0) + attribute(_DESTINATION, to.packed)


def _address(index: int, address: IPAddress, flags: int, scope: int) -> bytes:
    packed = address.packed
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    head = ADDRESS.pack(family, 8 * len(packed), flags & 0xFF, scope, index)
    return head + attribute(_LOCAL, packed) + attribute(_DESTINATION, packed)


def _ip(packed: bytes) -> IPAddress:
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)
