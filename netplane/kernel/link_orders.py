"""Orders about links that containers need: cables into their namespaces, bridges, queues of their own (ifb), groups.

Pure: bytes in linux/if_link.h's and linux/if_addr.h's numbers. `links.Links` carries them out.
"""

from __future__ import annotations

import socket
import struct
from enum import IntEnum
from typing import NamedTuple

from netplane.kernel.links import Order
from netplane.kernel.netlink import CREATE, Request, attribute, nested, text

NEW_LINK, DELETE_LINK, GET_LINK, SET_LINK = 16, 17, 18, 19
EXCLUSIVE, REPLACE = 0x200, 0x100
UP, PROMISCUOUS = 0x1, 0x100
NODAD, NO_PREFIX_ROUTE = 0x02, 0x200
"""Flags of an address: usable at once; no route to its network."""

LINK = struct.Struct("=BBHiII")
ADDRESS = struct.Struct("=BBBBI")
_U32 = struct.Struct("=I")
# The whole message of an address: header, IFA_LOCAL, IFA_ADDRESS, IFA_FLAGS.
_FOUR, _SIX = struct.Struct("=BBBBIHH4sHH4sHHI"), struct.Struct("=BBBBIHH16sHH16sHHI")

_MAC, _NAME, _MTU, _MASTER, _PROTOCOL_INFO, _INFO, _ALIAS, _AF_SPEC, _GROUP, _NETNS_FD = (
    1,
    3,
    4,
    10,
    12,
    18,
    20,
    26,
    27,
    28,
)
_KIND, _DATA, _PORT_KIND, _PORT_DATA = 1, 2, 4, 5
_TX_QUEUES, _RX_QUEUES = 31, 32
_VETH_PEER = 1 | 0x8000
_FORWARD_DELAY, _STP, _VLAN_FILTERING, _SNOOPING = 1, 5, 7, 23  # IFLA_BR_*
_HAIRPIN, _STATE, _ISOLATED = 4, 1, 33  # IFLA_BRPORT_*
_INET_CONF, _GENERATE_MODE = 1, 8
_BRIDGE_FLAGS, _BRIDGE_VLAN = 0, 2
_SELF, _PVID, _UNTAGGED = 2, 2, 4

# Of a veth the kernel makes as many queues as there are processors, each with its own folders in sysfs. They matter
# to XDP only (a veth sends without a lock), and one of each makes the pair a fifth faster here, more on large machines.
_ONE_QUEUE = attribute(_TX_QUEUES, _U32.pack(1)) + attribute(_RX_QUEUES, _U32.pack(1))
_KIND_VETH = text(_KIND, "veth")
_BRIDGE_INFO = nested(
    _INFO,
    text(_KIND, "bridge"),
    # Forward at once, no spanning tree, multicast is flooded: neighbour discovery needs no querier then.
    nested(_DATA, attribute(_FORWARD_DELAY, _U32.pack(0)), attribute(_STP, _U32.pack(0)), attribute(_SNOOPING, b"\0")),
)


class Conf(IntEnum):
    """IPv4 settings of one link: IPV4_DEVCONF_* of linux/ip.h. `LinkFacts.inet` shows them, at these places."""

    FORWARDING = 1
    PROXY_ARP = 3
    RP_FILTER = 8
    ARP_NOTIFY = 22
    ROUTE_LOCALNET = 26


class End(NamedTuple):
    """One end of a cable. `number` is its index; the two ends of a cable must have different ones."""

    name: str
    number: int
    mac: bytes


def cable(near: End, far: End, netns_fd: int, mtu: int, master: int = 0) -> Order:
    """Two links in one message: the near one here and up, in bridge number `master` if it is not 0; the far one born
    in the namespace `netns_fd` is open on, and down (it cannot be born up: it has no peer yet).

    Their numbers differ, because a link that is its own peer by number looks like one without a peer.
    """
    size = attribute(_MTU, _U32.pack(mtu)) if mtu else b""
    there = b"".join(
        (
            LINK.pack(0, 0, 0, far.number, 0, 0),
            text(_NAME, far.name),
            attribute(_MAC, far.mac) if far.mac else b"",
            size,
            _ONE_QUEUE,
            attribute(_NETNS_FD, _U32.pack(netns_fd)),
        )
    )
    here = b"".join(
        (
            LINK.pack(0, 0, 0, near.number, UP, UP),
            text(_NAME, near.name),
            attribute(_MAC, near.mac) if near.mac else b"",
            size,
            _ONE_QUEUE,
            nested(_INFO, _KIND_VETH, nested(_DATA, attribute(_VETH_PEER, there))),
            attribute(_MASTER, _U32.pack(master)) if master else b"",
        )
    )
    return Order(f"make the cable {near.name} to {far.name}", Request(NEW_LINK, here, CREATE | EXCLUSIVE))


def settings(*values: tuple[Conf, int], link_local: bool = False) -> bytes:
    """For `change`: IPv4 settings; and no IPv6 link-local address by itself, unless `link_local`."""
    four = nested(_INET_CONF, *(attribute(which, _U32.pack(value)) for which, value in values)) if values else b""
    parts = [nested(socket.AF_INET, four)] if four else []
    if not link_local:
        parts.append(nested(socket.AF_INET6, attribute(_GENERATE_MODE, b"\1")))
    return nested(_AF_SPEC, *parts)


def port(hairpin: bool, isolated: bool) -> bytes:
    """For `change` of a link in a bridge: whether frames may go back out of it, and not to other isolated ports."""
    flags = attribute(_HAIRPIN, bytes((hairpin,))) + attribute(_ISOLATED, bytes((isolated,)))
    return nested(_INFO, text(_PORT_KIND, "bridge"), nested(_PORT_DATA, flags))


def alias(words: str) -> bytes:
    """For `change`: words that `ip link` shows."""
    return attribute(_ALIAS, words.encode()[:200])


def mac(address: bytes) -> bytes:
    """For `change`."""
    return attribute(_MAC, address)


def mtu(size: int) -> bytes:
    """For `change`."""
    return attribute(_MTU, _U32.pack(size))


def master(index: int) -> bytes:
    """For `change`: the bridge to be in, 0 for none."""
    return attribute(_MASTER, _U32.pack(index))


def group(number: int) -> bytes:
    """For `change`: IFLA_GROUP."""
    return attribute(_GROUP, _U32.pack(number))


def vlan_filtering() -> bytes:
    """For `change` of a bridge. A kernel that lacks it ignores this (`LinkFacts.vlan_filtering`)."""
    return nested(_INFO, text(_KIND, "bridge"), nested(_DATA, attribute(_VLAN_FILTERING, b"\1")))


def change(link: str | int, *attributes: bytes, up: bool | None = None) -> Order:
    """Change a link that is there, by name or number. Flags are set before `settings`, after all else."""
    flags, mask = (UP if up else 0, 0 if up is None else UP)
    return _change(link, attributes, flags, mask)


def disable_port(index: int) -> Order:
    """Let a link in a bridge take and send nothing, until something else about it changes or it loses its carrier."""
    payload = LINK.pack(socket.AF_BRIDGE, 0, 0, index, 0, 0) + nested(_PROTOCOL_INFO, attribute(_STATE, b"\0"))
    return Order(f"disable port {index}", Request(SET_LINK, payload))


def promiscuous(link: int) -> Order:
    """Let a link take every frame."""
    return _change(link, (), PROMISCUOUS, PROMISCUOUS)


def delete(link: str | int) -> Order:
    """Remove a link: 16 ms, for the kernel waits for everybody who might still use it. See `delete_group`."""
    index, name = (link, b"") if isinstance(link, int) else (0, text(_NAME, link))
    return Order(f"delete link {link}", Request(DELETE_LINK, LINK.pack(0, 0, 0, index, 0, 0) + name))


def delete_group(number: int) -> Order:
    """Remove all links of a group: the kernel waits once for all of them."""
    return Order(f"delete links of group {number}", Request(DELETE_LINK, LINK.pack(0, 0, 0, 0, 0, 0) + group(number)))


def new_bridge(name: str, mac_: bytes, mtu_: int) -> Order:
    """A bridge, up, that forwards at once. Its address stays, whatever joins it."""
    size = mtu(mtu_) if mtu_ else b""
    payload = LINK.pack(0, 0, 0, 0, UP, UP) + text(_NAME, name) + mac(mac_) + size + _BRIDGE_INFO
    return Order(f"make bridge {name}", Request(NEW_LINK, payload, CREATE | EXCLUSIVE))


def new_queue(name: str, index: int, mtu_: int) -> Order:
    """An ifb: a link whose only use is its queue."""
    info = nested(_INFO, text(_KIND, "ifb"))
    payload = LINK.pack(0, 0, 0, index, 0, 0) + text(_NAME, name) + (mtu(mtu_) if mtu_ else b"") + _ONE_QUEUE + info
    return Order(f"make link {name}", Request(NEW_LINK, payload, CREATE | EXCLUSIVE))


def vlan(index: int, number: int, *, of_bridge: bool = False) -> list[Order]:
    """Put a port, or the bridge itself, into this VLAN untagged, and take it out of the default one."""
    flags = attribute(_BRIDGE_FLAGS, struct.pack("=H", _SELF)) if of_bridge else b""
    header = LINK.pack(socket.AF_BRIDGE, 0, 0, index, 0, 0)

    def spec(flags_: int, which: int) -> bytes:
        return header + nested(_AF_SPEC, flags, attribute(_BRIDGE_VLAN, struct.pack("=HH", flags_, which)))

    join = Order(f"put link {index} into VLAN {number}", Request(SET_LINK, spec(_PVID | _UNTAGGED, number)))
    leave = Order(f"take link {index} out of VLAN 1", Request(DELETE_LINK, spec(0, 1)))
    return [join] if number == 1 else [join, leave]


def address(packed: bytes, length: int, index: int, flags: int = NODAD) -> Order:
    """Give a link an address. `flags`: NODAD, NO_PREFIX_ROUTE."""
    if len(packed) == 4:
        payload = _FOUR.pack(2, length, flags & 0xFF, 0, index, 8, 2, packed, 8, 1, packed, 8, 8, flags)
    else:
        scope = 253 if packed[:2] == b"\xfe\x80" else 0
        payload = _SIX.pack(10, length, flags & 0xFF, scope, index, 20, 2, packed, 20, 1, packed, 8, 8, flags)
    return Order(f"add an address to link {index}", Request(20, payload, CREATE | REPLACE))


def no_address(packed: bytes, length: int, index: int) -> Order:
    """Take an address from a link."""
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    payload = ADDRESS.pack(family, length, 0, 0, index) + attribute(2, packed) + attribute(1, packed)
    return Order(f"take an address from link {index}", Request(21, payload))


def answer_at_once(index: int) -> Order:
    """Proxy ARP on this link answers without the usual delay of up to 0.8 s."""
    parameters = attribute(1, _U32.pack(index)) + attribute(13, struct.pack("=Q", 0))
    payload = struct.pack("=BBH", socket.AF_INET, 0, 0) + text(1, "arp_cache") + nested(6, parameters)
    return Order(f"let link {index} answer ARP at once", Request(67, payload))


def _change(link: str | int, attributes: tuple[bytes, ...], flags: int, mask: int) -> Order:
    if isinstance(link, int):
        payload = LINK.pack(0, 0, 0, link, flags, mask) + b"".join(attributes)
    else:
        payload = LINK.pack(0, 0, 0, 0, flags, mask) + text(_NAME, link) + b"".join(attributes)
    return Order(f"change link {link}", Request(NEW_LINK, payload))
