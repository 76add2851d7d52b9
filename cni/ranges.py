"""Ranges of addresses: what host-local would make of them, and integer arithmetic on what is given away.

    10.88.0.0/24                  first 10.88.0.1, last 10.88.0.254, gateway 10.88.0.1: 253 addresses to give away
    10.88.0.0/24, rangeEnd .255   neither is the broadcast address given away, nor the network's own

The defaults, the checks and their words are those of the reference plugin host-local (`backend/allocator`), so that a
configuration means the same here. Nothing costs more for a large range than for a small one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_network

from cni.config import Range, RangeSet
from cni.failure import Code, Failure
from netplane.model.address import IPAddress, IPNetwork

_GIVES_NOTHING = 2
"""Networks with fewer than this many host bits have no address to give: /31, /32, /127, /128."""


@lru_cache(maxsize=1024)
def subnet_of(text: str) -> IPNetwork:
    """`10.88.0.0/24` as a network. Raises Failure(INVALID_CONFIG) if it is none, or has host bits."""
    address, slash, length = text.partition("/")
    if not slash or not length.isascii() or not length.isdecimal() or "%" in address:
        raise _bad(f"{text!r} is not a network: 10.88.0.0/24 is one")
    try:
        network: IPNetwork = ip_network(text, strict=False)
    except ValueError as error:
        raise _bad(f"{text!r} is not a network: {error}") from None
    if str(network.network_address) != _canonical(address):
        raise _bad(
            f"{text}: Network has host bits set. For a subnet mask of length {network.prefixlen}"
            f" the network address is {network.network_address}"
        )
    return network


@lru_cache(maxsize=1024)
def range_of(
    subnet: IPNetwork,
    first: IPAddress | None = None,
    last: IPAddress | None = None,
    gateway: IPAddress | None = None,
) -> Range:
    """The range that host-local would use; what is None has its default. Raises Failure(INVALID_CONFIG)."""
    if subnet.max_prefixlen - subnet.prefixlen < _GIVES_NOTHING:
        raise _bad(f"Network {subnet} too small to allocate from")
    if gateway is not None and gateway not in subnet:
        raise _bad(f"gateway {gateway} not in network {subnet}")
    if first is not None and (first not in subnet or (last is not None and last in subnet and int(last) < int(first))):
        raise _bad(f"RangeStart {first} not in network {subnet}", f"rangeEnd is {last}" if last else "")
    if last is not None and last not in subnet:
        raise _bad(f"RangeEnd {last} not in network {subnet}")
    usual = subnet.network_address + 1
    end = subnet.broadcast_address - (1 if subnet.version == 4 else 0)
    found = Range(subnet, usual if first is None else first, end if last is None else last, gateway or usual)
    if int(found.last) < int(found.first):
        raise _bad(f"RangeEnd {found.last} not in network {subnet}", f"the range begins with {found.first}")
    return found


@lru_cache(maxsize=256)
def checked(sets: tuple[RangeSet, ...]) -> tuple[RangeSet, ...]:
    """`sets`, if each is of one family and none overlap. Raises Failure(INVALID_CONFIG)."""
    for each in sets:
        _check_set(each)
    for at, one in enumerate(sets):
        for after, other in enumerate(sets[at + 1 :], at + 1):
            if any(overlap(left, right) for left in one for right in other):
                raise _bad(f"range set {at} overlaps with {after}", f"{words(one)} and {words(other)}")
    return sets


def overlap(one: Range, other: Range) -> bool:
    """Whether an address is in both ranges, given away or not."""
    same = one.subnet.version == other.subnet.version
    return same and int(one.first) <= int(other.last) and int(other.first) <= int(one.last)


def count(ranges: RangeSet) -> int:
    """How many addresses of a set can be given away."""
    return sum(last - first + 1 for first, last in spans(ranges))


def numbers(ranges: RangeSet, after: int | None = None) -> Iterator[int]:
    """Every address of a set that can be given away, once, as a number: from the one after `after`, round to it."""
    parts = spans(ranges)
    at = next((index for index, (first, last) in enumerate(parts) if after is not None and first <= after <= last), 0)
    if after is None or not parts or not parts[at][0] <= after <= parts[at][1]:
        for first, last in parts:
            yield from range(first, last + 1)
        return
    yield from range(after + 1, parts[at][1] + 1)
    for first, last in (*parts[at + 1 :], *parts[:at]):
        yield from range(first, last + 1)
    yield from range(parts[at][0], after + 1)


def addresses(ranges: RangeSet, after: IPAddress | None = None) -> Iterator[IPAddress]:
    """What `numbers` says, as addresses."""
    kind = address_type(ranges)
    for number in numbers(ranges, None if after is None else int(after)):
        yield kind(number)


def address_type(ranges: RangeSet) -> type[IPv4Address] | type[IPv6Address]:
    """What a number of this set is an address of."""
    return IPv4Address if ranges[0].subnet.version == 4 else IPv6Address


def range_with(ranges: RangeSet, address: IPAddress) -> Range | None:
    """The range an address is in, whether it can be given away or not; None if in none."""
    number = int(address)
    for each in ranges:
        if each.subnet.version == address.version and int(each.first) <= number <= int(each.last):
            return each
    return None


def holds(ranges: RangeSet, address: IPAddress) -> bool:
    """Whether an address can be given away."""
    number = int(address)
    return ranges[0].subnet.version == address.version and any(low <= number <= high for low, high in spans(ranges))


def refusal(ranges: RangeSet, address: IPAddress) -> str:
    """Why an address cannot be given away, whoever asks; "" if it can."""
    if holds(ranges, address):
        return ""
    if any(address == each.gateway for each in ranges):
        return f"requested ip {address} is subnet's gateway"
    if range_with(ranges, address):
        return f"requested ip {address} is the address of a network or its broadcast"
    return f"{address} not in range set {words(ranges)}"


def words(ranges: RangeSet) -> str:
    """`192.168.0.1-192.168.0.254,172.16.1.1-172.16.1.254`, as host-local names a set."""
    return ",".join(f"{each.first}-{each.last}" for each in ranges)


@lru_cache(maxsize=256)
def spans(ranges: RangeSet) -> tuple[tuple[int, int], ...]:
    """The set without what nobody gets: first and last number of each piece, in the set's order.

    That is gateways, the network's own address (in IPv6 all routers' anycast address) and IPv4's broadcast address.
    """
    holes = {int(number) for each in ranges for number in (each.gateway, each.subnet.network_address)}
    holes |= {int(each.subnet.broadcast_address) for each in ranges if each.subnet.version == 4}
    return tuple(piece for each in ranges for piece in _without(int(each.first), int(each.last), sorted(holes)))


def _without(first: int, last: int, holes: Sequence[int]) -> Iterator[tuple[int, int]]:
    for hole in holes:
        if first <= hole <= last:
            if first < hole:
                yield first, hole - 1
            first = hole + 1
    if first <= last:
        yield first, last


def _check_set(ranges: RangeSet) -> None:
    if not ranges:
        raise _bad("empty range set", 'a set needs at least one range: [{"subnet": "10.88.0.0/24"}]')
    if len({each.subnet.version for each in ranges}) > 1:
        raise _bad("mixed address families in a range set", words(ranges))
    for at, one in enumerate(ranges):
        for other in ranges[at + 1 :]:
            if overlap(one, other):
                raise _bad(f"subnets {words((one,))} and {words((other,))} overlap")


def _canonical(address: str) -> str:
    return str(ip_network(address).network_address)


def _bad(msg: str, details: str = "") -> Failure:
    return Failure(Code.INVALID_CONFIG, msg, details)
