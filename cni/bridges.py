"""The bridges of the host that containers are plugged into: made, adopted, and kept as they should be.

What was found right once is believed until the kernel tells of a change: a socket hears of these bridges' links and
addresses only, so that asking whether there was any costs a microsecond per container.
"""

from __future__ import annotations

import errno
import threading
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv6Interface

from cni import link_program
from cni.attachment import Attachment
from cni.config import BridgeOptions
from cni.failure import Code, Failure
from netplane.closing import Closing
from netplane.errors import KernelError
from netplane.kernel import link_events, link_orders, link_read, sysctls
from netplane.kernel.link_events import LinkEvents
from netplane.kernel.link_orders import LINK, Conf
from netplane.kernel.link_read import AddressFacts, LinkFacts
from netplane.kernel.links import Links, Order
from netplane.kernel.netlink import Message
from netplane.kernel.netns import Visit

MARK = "netplane "
"""A bridge we made says so in its alias, followed by the MAC it is to keep."""

_INDEX = 20
"""Where ifinfomsg and ifaddrmsg have the number of the link, in a message."""

Wanted = tuple[BridgeOptions, tuple[tuple[bytes, int], ...], bool]


@dataclass(slots=True)
class _Known:
    """A bridge that was found right for what is in `settled`."""

    index: int
    mac: bytes
    settled: set[Wanted] = field(default_factory=set)


class Bridges(Closing):
    """Of the namespace of the thread that makes it, which `netns_fd` is open on; used from any thread."""

    def __init__(self, kernel: Links, netns_fd: int) -> None:
        self._lock = threading.RLock()
        self._kernel, self._netns_fd = kernel, netns_fd
        self._known: dict[str, _Known] = {}
        self._events = LinkEvents((*link_events.LINKS, *link_events.ADDRESSES), [])

    def ensure(self, attachment: Attachment) -> int:
        """The number of the attachment's bridge, which is as it should be. Raises Failure if it must not be."""
        options = attachment.bridge
        assert options is not None  # noqa: S101  only for bridge mode
        with self._lock:
            for message in self._events.read():
                self._told(message)
            known = self._known.get(options.name)
            wanted = _wanted(attachment, options)
            if known is None or wanted not in known.settled:
                self._mend(attachment, options)
                known = self._known[options.name]
            return known.index

    def mend(self, attachment: Attachment) -> list[str]:
        """Make, adopt or correct the bridge; what had to be done, in words. Raises Failure if it must not be."""
        options = attachment.bridge
        assert options is not None  # noqa: S101  only for bridge mode
        with self._lock:
            return self._mend(attachment, options)

    def _mend(self, attachment: Attachment, options: BridgeOptions) -> list[str]:
        facts = link_read.link(self._kernel, options.name)
        words = []
        if facts is None:
            facts = self._make(attachment, options)
            words.append(f"bridge {options.name}: made")
        if facts.kind != "bridge":
            raise Failure(Code.INVALID_CONFIG, f'"{options.name}" already exists but is not a bridge')
        known = self._know(options.name, facts)
        for order, word in self._corrections(attachment, options, known.mac, facts):
            self._do(order)
            words.append(f"bridge {options.name}: {word}")
        if options.vlan:
            self._filter_vlans(options, facts)
        known.settled.add(_wanted(attachment, options))
        return words

    def mac(self, name: str) -> bytes:
        """The MAC of a bridge; b"" if there is none."""
        known = self._known.get(name)
        if known is not None:
            return known.mac
        facts = link_read.link(self._kernel, name)
        return facts.mac if facts else b""

    def forget(self, name: str) -> None:
        """Look at the bridge again before it is used."""
        with self._lock:
            self._known.pop(name, None)

    def close(self) -> None:
        """Close the socket; bridges stay."""
        self._events.close()

    # --- what others do ---------------------------------------------------------------------------------------------

    def _told(self, message: Message | None) -> None:
        if message is None:
            self._known.clear()
            return
        if message.kind in (link_events.NEW_LINK, link_events.DELETE_LINK):
            family, _, _, index, _, _ = LINK.unpack_from(message.payload)
            if family:
                return  # a port's, or VLANs'
            if message.kind == link_events.NEW_LINK and self._right(link_read.decode(message.payload)):
                return
        else:
            index = link_orders.ADDRESS.unpack_from(message.payload)[-1]
        for name in [name for name, known in self._known.items() if known.index == index]:
            del self._known[name]

    def _right(self, facts: LinkFacts) -> bool:
        known = self._known.get(facts.name)
        return known is not None and facts.up and (known.index, known.mac) == (facts.index, facts.mac)

    def _know(self, name: str, facts: LinkFacts) -> _Known:
        """From now on changes of this bridge are told; what was before must be looked at after this."""
        known = self._known.get(name)
        mac = _own_mac(facts) or facts.mac
        if known is None or (known.index, known.mac) != (facts.index, mac):
            known = self._known[name] = _Known(facts.index, mac)
            numbers = sorted(each.index for each in self._known.values())
            self._events.filter([((link_events.Is(_INDEX, 4, number),), True) for number in numbers])
            if not _own_mac(facts):
                # Adopted: setting its address to what it is keeps it from following its ports'.
                self._do(link_orders.change(facts.index, link_orders.mac(facts.mac)))
                self._quiet(name)
        return known

    # --- what we do -------------------------------------------------------------------------------------------------

    def _make(self, attachment: Attachment, options: BridgeOptions) -> LinkFacts:
        mac = link_program.bridge_mac(attachment)
        refused = self._kernel.attempt([link_orders.new_bridge(options.name, mac, attachment.mtu)])
        if refused and refused[0].errno != errno.EEXIST:  # somebody else was quicker
            raise _not_done(refused[0].order, refused[0].said)
        if not refused:
            self._do(link_orders.change(options.name, link_orders.alias(f"{MARK}{mac.hex(':')}")))
            self._quiet(options.name)
        facts = link_read.link(self._kernel, options.name)
        if facts is None:
            raise KernelError(mechanism="links", doing=f"make bridge {options.name}", said="it is gone already")
        return facts

    def _corrections(
        self, attachment: Attachment, options: BridgeOptions, mac: bytes, facts: LinkFacts
    ) -> list[tuple[Order, str]]:
        found = []
        if facts.mac != mac:
            found.append((link_orders.change(facts.index, link_orders.mac(mac)), f"address {mac.hex(':')}"))
        if not facts.up:
            found.append((link_orders.change(facts.index, up=True), "up"))
        if options.promiscuous and not facts.promiscuous:
            found.append((link_orders.promiscuous(facts.index), "promiscuous"))
        if link_program.wants_localnet(attachment) and not facts.conf(Conf.ROUTE_LOCALNET):
            localnet = link_orders.settings((Conf.ROUTE_LOCALNET, 1), link_local=True)
            found.append((link_orders.change(facts.index, localnet), "route_localnet"))
        wanted = link_program.gateway_addresses(attachment)
        if wanted:
            have = link_read.addresses(self._kernel, facts.index)
            found += _address_corrections(options, facts.index, wanted, have)
        return found

    def _filter_vlans(self, options: BridgeOptions, facts: LinkFacts) -> None:
        if facts.vlan_filtering:
            return
        refused = self._kernel.attempt([link_orders.change(facts.index, link_orders.vlan_filtering())])
        after = link_read.link(self._kernel, facts.index)
        if refused or after is None or not after.vlan_filtering:  # some kernels ignore what they cannot do
            said = f"vlan {options.vlan}: this kernel cannot filter VLANs on bridges"
            raise Failure(Code.UNSUPPORTED_FIELD, said, "it lacks CONFIG_BRIDGE_VLAN_FILTERING; leave `vlan` out")
        if options.gateway:
            for order in link_orders.vlan(facts.index, options.vlan, of_bridge=True):
                self._do(order)

    def _quiet(self, name: str) -> None:
        """A container must not configure the host by router advertisements."""
        with Visit(self._netns_fd):
            if sysctls.exists(f"net/ipv6/conf/{name}/accept_ra"):
                sysctls.write({f"net/ipv6/conf/{name}/accept_ra": 0})

    def _do(self, order: Order) -> None:
        for refused in self._kernel.attempt([order]):
            raise _not_done(order, refused.said)


def _wanted(attachment: Attachment, options: BridgeOptions) -> Wanted:
    gateways = tuple(link_program.gateway_addresses(attachment))
    return options, gateways, link_program.wants_localnet(attachment)


def _own_mac(facts: LinkFacts) -> bytes:
    """The MAC a bridge of ours is to keep; b"" of somebody else's."""
    try:
        return bytes.fromhex(facts.alias.removeprefix(MARK).replace(":", "")) if facts.alias.startswith(MARK) else b""
    except ValueError:
        return b""


def _address_corrections(
    options: BridgeOptions, index: int, wanted: list[tuple[bytes, int]], have: list[AddressFacts]
) -> list[tuple[Order, str]]:
    """The gateways the bridge lacks, and first what is in their way. Raises Failure if that must stay."""
    found = []
    there = [(each.address.packed, each.address.network.prefixlen) for each in have]
    for packed, length in wanted:
        if (packed, length) in there:
            continue
        own = _interface(packed, length)
        for other in have:
            at = (other.address.packed, other.address.network.prefixlen)
            if other.link_local or at in wanted or not _in_the_way(own, other.address):
                continue
            if not options.force_address:
                said = f'"{options.name}" already has an IP address different from {own}'
                raise Failure(Code.INVALID_CONFIG, said, f"it has {other.address}; forceAddress would take it away")
            found.append((link_orders.no_address(*at, index), f"without {other.address}"))
        found.append((link_orders.address(packed, length, index), f"with {own}"))
    return found


def _in_the_way(own: IPv4Interface | IPv6Interface, other: IPv4Interface | IPv6Interface) -> bool:
    """One IPv4 address is enough; of IPv6 two networks may be there that do not overlap (the reference's rule)."""
    if own.version != other.version:
        return False
    return own.version == 4 or own.network.overlaps(other.network)


def _interface(packed: bytes, length: int) -> IPv4Interface | IPv6Interface:
    return IPv4Interface((packed, length)) if len(packed) == 4 else IPv6Interface((packed, length))


def _not_done(order: Order, said: str) -> KernelError:
    return KernelError(mechanism="links", doing=order.doing, said=said)
