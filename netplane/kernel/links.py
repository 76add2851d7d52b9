"""Links, addresses, routes, policy rules and neighbours of a network namespace (rtnetlink).

An order is a value: what to do, in words, and the message that does it. `Links` carries out many orders in one
write, in sequence, inside the namespace of the thread that made it. Numbers are from linux/if_link.h,
linux/if_addr.h, linux/rtnetlink.h and linux/fib_rules.h.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from netplane.closing import Closing
from netplane.errors import KernelError
from netplane.kernel import netlink
from netplane.kernel.netlink import CREATE, NetlinkSocket, Request, acknowledged, attribute, attributes, nested, text
from netplane.model.address import Family, IPAddress, IPNetwork, family_of

MAIN_TABLE = 254
LOOPBACK = 1
"""The index every namespace gives `lo`."""

_NEW_LINK, _GET_LINK, _SET_LINK, _NEW_ADDRESS, _NEW_ROUTE, _NEW_NEIGHBOUR, _NEW_RULE = 16, 18, 19, 20, 24, 28, 32
_EXCLUSIVE, _REPLACE = 0x200, 0x100
_FAMILY = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
_IFF_UP, _OPER_UNKNOWN, _OPER_UP = 1, 0, 6
_NODAD, _ONLINK, _PERMANENT = 0x02, 4, 0x80
_UNICAST, _LOCAL, _FOREVER = 1, 2, 0xFFFFFFFF
_STATIC, _TO_TABLE = 4, 1
_SCOPE_LINK, _SCOPE_HOST = 253, 254
_POLL_SECONDS = 0.001
_ASKED_AT_ONCE = 512
"""Questions whose answers fit into the socket's buffer: the kernel takes a page or two for each."""

_LINK = struct.Struct("=BBHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_NEIGHBOUR = struct.Struct("=BBHiHBB")
_U32 = struct.Struct("=I")


class Order(NamedTuple):
    """One thing to do, in words and as a message."""

    doing: str
    request: Request


class NotDone(NamedTuple):
    """An order the kernel refused, and why: a number of `errno`, and words."""

    order: Order
    errno: int
    said: str


@dataclass(frozen=True, slots=True)
class LinkState:
    """A link as the kernel shows it. `ready`: up, with carrier, and allowed to send."""

    name: str
    index: int
    mac: bytes
    ready: bool


class Peer(NamedTuple):
    """The far end of a veth: its name and index (`number`) in the namespace `fd` is open on."""

    name: str
    number: int
    fd: int


def veth(name: str, index: int, peer: Peer, bridge: int = 0) -> Order:
    """A pair of links, the near one up, the far one born where it is to live. `bridge`: index of one to join, or 0."""
    # The far one cannot be born up: it has no peer yet (veth_open).
    far = _link_message(peer.number, 0) + text(3, peer.name) + attribute(28, _U32.pack(peer.fd))
    data = nested(2, attribute(1 | 0x8000, far))
    master = attribute(10, _U32.pack(bridge)) if bridge else b""
    payload = _link_message(index, _IFF_UP) + text(3, name) + nested(18, text(1, "veth"), data) + master
    return Order(f"make link {name}", Request(_NEW_LINK, payload, CREATE | _EXCLUSIVE))


def bridge(name: str, index: int, mac: bytes) -> Order:
    """A bridge, up, that forwards at once (no spanning tree) and floods multicast. `mac` stays its address."""
    data = nested(2, attribute(1, _U32.pack(0)), attribute(5, _U32.pack(0)), attribute(23, b"\0"))
    payload = _link_message(index, _IFF_UP) + text(3, name) + attribute(1, mac) + nested(18, text(1, "bridge"), data)
    return Order(f"make bridge {name}", Request(_NEW_LINK, payload, CREATE | _EXCLUSIVE))


def hairpin(index: int) -> Order:
    """Let the bridge send a frame back out of the port it came from."""
    payload = _LINK.pack(socket.AF_BRIDGE, 0, 0, index, 0, 0) + nested(12, attribute(4, b"\1"))
    return Order(f"turn on hairpin mode of link {index}", Request(_SET_LINK, payload))


def up(index: int) -> Order:
    """Set a link up."""
    return Order(f"set link {index} up", Request(_NEW_LINK, _link_message(index, _IFF_UP)))


def address(to: IPAddress, length: int, index: int, *, preferred: bool = True) -> Order:
    """Give a link an address at once (no duplicate address detection).

    `preferred=False` (IPv6 only): the kernel never chooses it as a source by itself. A link-local address is never
    chosen for packets that leave the link.
    """
    scope = _SCOPE_LINK if to.is_link_local else 0
    attributes_ = [attribute(2, to.packed), attribute(1, to.packed), attribute(8, _U32.pack(_NODAD))]
    if not preferred and to.version == 6:
        attributes_.append(attribute(6, struct.pack("=IIII", 0, _FOREVER, 0, 0)))
    payload = _ADDRESS.pack(_FAMILY[family_of(to)], length, _NODAD, scope, index) + b"".join(attributes_)
    return Order(f"add address {to}/{length} to link {index}", Request(_NEW_ADDRESS, payload, CREATE | _REPLACE))


def route(to: IPNetwork, index: int, via: IPAddress | None = None, table: int = MAIN_TABLE) -> Order:
    """A route over a link, directly or via a next hop that is taken to be on that link."""
    gateway = attribute(5, via.packed) if via else b""
    scope = 0 if via or to.version == 6 else _SCOPE_LINK
    return _route(to, index, gateway, table, _RouteKind(_UNICAST, scope, _ONLINK if via else 0))


def local_route(to: IPNetwork, table: int) -> Order:
    """Packets to `to` that look into `table` are taken as if the address were this namespace's own (AnyIP)."""
    return _route(to, LOOPBACK, b"", table, _RouteKind(_LOCAL, _SCOPE_HOST, 0))


def rule_for_link(family: Family, link: str, table: int, priority: int) -> Order:
    """Packets that arrive on `link` look into `table`."""
    return _rule(family, text(3, link), table, priority)


def rule_for_mark(family: Family, mark: int, table: int, priority: int) -> Order:
    """Packets with exactly this mark look into `table`."""
    return _rule(family, attribute(10, _U32.pack(mark)) + attribute(16, _U32.pack(_FOREVER)), table, priority)


def neighbour(to: IPAddress, mac: bytes, index: int) -> Order:
    """A permanent neighbour entry."""
    header = _NEIGHBOUR.pack(_FAMILY[family_of(to)], 0, 0, index, _PERMANENT, 0, 0)
    payload = header + attribute(1, to.packed) + attribute(2, mac)
    return Order(f"add neighbour {to} to link {index}", Request(_NEW_NEIGHBOUR, payload, CREATE | _REPLACE))


class Links(Closing):
    """The links of the namespace of the thread that creates this; for any thread, and several. Close it when done."""

    def __init__(self, *, strict: bool = False) -> None:
        """`strict`: see NetlinkSocket."""
        self._netlink = NetlinkSocket(netlink.ROUTE, "links", strict=strict)
        self._lock = threading.Lock()

    def carry_out(self, orders: Sequence[Order]) -> None:
        """Do all of it, in order. Raises KernelError for the first order refused; the others are tried anyway."""
        if not orders:
            return
        *others, last = (order.request for order in orders)
        with self._lock:
            refusals = self._netlink.transact([*others, acknowledged(last)])
        for at, _, said, _ in refusals[:1]:
            raise KernelError(mechanism="links", doing=orders[at].doing, said=said)

    def attempt(self, orders: Sequence[Order]) -> list[NotDone]:
        """Do all of it, in order; what the kernel refused."""
        *others, last = (order.request for order in orders)
        with self._lock:
            refusals = self._netlink.transact([*others, acknowledged(last)])
        return [NotDone(orders[at], number, said) for at, number, said, _ in refusals]

    def ask(self, request: Request, doing: str) -> list[bytes]:
        """The answers to a question (`netlink.NetlinkSocket.ask`)."""
        with self._lock:
            return self._netlink.ask(request, doing)

    def ask_all(self, requests: Sequence[Request], doing: str) -> list[bytes | None]:
        """The one answer to each of many questions, asked in few writes; None where the kernel refuses one."""
        found: list[bytes | None] = []
        for start in range(0, len(requests), _ASKED_AT_ONCE):
            *others, last = requests[start : start + _ASKED_AT_ONCE]
            with self._lock:
                refusals, told = self._netlink.exchange([*others, acknowledged(last)])
            refused = {refusal.position for refusal in refusals}
            if len(refused) + len(told) != len(others) + 1:
                raise KernelError(mechanism="links", doing=doing, said="not one answer to each question")
            answers = iter(told)
            found += (None if at in refused else next(answers).payload for at in range(len(others) + 1))
        return found

    def dump(self, request: Request, doing: str) -> list[bytes]:
        """All there is of something (`netlink.NetlinkSocket.dump`)."""
        with self._lock:
            return self._netlink.dump(request, doing)

    def namespace_cookie(self) -> int:
        """A number that this namespace has and no other ever had since the host was started; 0 before Linux 5.14."""
        return self._netlink.namespace_cookie()

    def read(self) -> dict[str, LinkState]:
        """All links, by name."""
        request = Request(_GET_LINK, _link_message(0, 0))
        return {link.name: link for link in map(_decode, self.dump(request, "list links"))}

    def wait_ready(self, names: Collection[str], seconds: float) -> None:
        """Return as soon as all of `names` are ready; KernelError names those that are not after `seconds`."""
        deadline = time.monotonic() + seconds
        while missing := sorted(set(names) - {link.name for link in self.read().values() if link.ready}):
            if time.monotonic() > deadline:
                said = f"not up after {seconds:g} s: {', '.join(missing)}"
                raise KernelError(mechanism="links", doing="wait for carrier", said=said)
            time.sleep(_POLL_SECONDS)

    def close(self) -> None:
        """Close the socket; links stay."""
        self._netlink.close()


class _RouteKind(NamedTuple):
    type: int
    scope: int
    flags: int


def _route(to: IPNetwork, index: int, gateway: bytes, table: int, kind: _RouteKind) -> Order:
    header = _ROUTE.pack(_FAMILY[family_of(to)], to.prefixlen, 0, 0, 0, _STATIC, kind.scope, kind.type, kind.flags)
    attributes_ = (attribute(1, to.network_address.packed), attribute(4, _U32.pack(index)), gateway)
    payload = header + b"".join(attributes_) + attribute(15, _U32.pack(table))
    return Order(f"add route {to} over link {index}", Request(_NEW_ROUTE, payload, CREATE | _REPLACE))


def _rule(family: Family, selector: bytes, table: int, priority: int) -> Order:
    header = _ROUTE.pack(_FAMILY[family], 0, 0, 0, 0, 0, 0, _TO_TABLE, 0)
    payload = header + selector + attribute(6, _U32.pack(priority)) + attribute(15, _U32.pack(table))
    return Order(f"add {family} rule {priority} for table {table}", Request(_NEW_RULE, payload, CREATE | _EXCLUSIVE))


def _link_message(index: int, flags: int) -> bytes:
    return _LINK.pack(socket.AF_UNSPEC, 0, 0, index, flags, flags)


def _decode(payload: bytes) -> LinkState:
    _, _, _, index, flags, _ = _LINK.unpack_from(payload)
    found = attributes(payload, _LINK.size)
    state = found.get(16, b"\0")[0]
    name = netlink.as_text(found[3])
    ready = bool(flags & _IFF_UP) and state in ((_OPER_UP, _OPER_UNKNOWN) if name == "lo" else (_OPER_UP,))
    return LinkState(name, index, found.get(1, b""), ready)
