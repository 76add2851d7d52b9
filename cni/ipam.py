"""Who may have which address: taken, resting, free. Pure: clocks and memory of the disk are handed in.

Addresses are unique within a network. They are given round robin, after the last one that was given, so that a new
container rarely meets what others remember of an old one; and one that comes back rests before it is given again. No
question walks over a range: a /8, or a full /16, is answered as quickly as an empty /28.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface

from cni.attachment import PodAddress
from cni.config import Range, RangeSet
from cni.failure import Code, Failure
from cni.ranges import range_with, words
from netplane.model.address import IPAddress

_BITS = 8
_SIZE = 1 << _BITS
_LOW, _FULL = _SIZE - 1, (1 << _SIZE) - 1


@dataclass(frozen=True, slots=True)
class Usage:
    """How many addresses there are to be given away, and how many of them are not free."""

    total: int
    taken: int
    resting: int
    """Given back a moment ago, or of an attachment that is being removed. They are used if no other is left."""

    @property
    def free(self) -> int:
        """Addresses that are neither taken nor resting."""
        return max(self.total - self.taken - self.resting, 0)


class Numbers:
    """A set of integers >= 0 that knows at once the next one that is *not* in it.

    Level 0 has a mask of 256 bits for each 256 numbers, level 1 a mask that says which of these masks are full, and so
    on: what is full is stepped over as a whole.
    """

    __slots__ = ("_levels",)

    def __init__(self) -> None:
        self._levels: list[dict[int, int]] = [{}]

    def __contains__(self, number: int) -> bool:
        return bool(self._levels[0].get(number >> _BITS, 0) >> (number & _LOW) & 1)

    def add(self, number: int) -> None:
        """Put it in."""
        for level in self._levels:
            number, bit = number >> _BITS, number & _LOW
            mask = level[number] = level.get(number, 0) | 1 << bit
            if mask != _FULL:
                return
        self._levels.append({number >> _BITS: 1 << (number & _LOW)})

    def discard(self, number: int) -> None:
        """Take it out, if it is in."""
        for level in self._levels:
            number, bit = number >> _BITS, number & _LOW
            before = level.get(number, 0)
            if after := before & ~(1 << bit):
                level[number] = after
            else:
                level.pop(number, None)
            if before != _FULL:
                return

    def next_absent(self, number: int, level: int = 0) -> int:
        """The smallest number >= `number` that is not in the set."""
        if level == len(self._levels):
            return number
        masks = self._levels[level]
        chunk, bit = number >> _BITS, number & _LOW
        bit += _lowest_zero(masks.get(chunk, 0) >> bit)
        if bit < _SIZE:
            return chunk << _BITS | bit
        chunk = self.next_absent(chunk + 1, level + 1)
        return chunk << _BITS | _lowest_zero(masks.get(chunk, 0))

    def count(self, first: int, last: int) -> int:
        """How many from `first` to `last` are in the set."""
        masks, low, high = self._levels[0], first >> _BITS, last >> _BITS
        chunks = range(low, high + 1) if high - low < len(masks) else [each for each in masks if low <= each <= high]
        found = 0
        for chunk in chunks:
            mask = masks.get(chunk, 0)
            if chunk == high:
                mask &= (2 << (last & _LOW)) - 1
            if chunk == low:
                mask >>= first & _LOW
            found += mask.bit_count()
        return found


class _Pool:
    """The addresses of one family in one network, as integers."""

    __slots__ = ("held", "resting", "shared", "used")

    def __init__(self) -> None:
        self.used = Numbers()  # taken, held and resting
        self.resting: dict[int, float] = {}  # since when; the oldest is first
        self.held: set[int] = set()
        self.shared: dict[int, int] = {}  # owners beyond the first: only a damaged journal, or an import, makes them

    def wake(self, now: float, quarantine: float) -> None:
        """Free what has rested for long enough."""
        while self.resting:
            oldest = next(iter(self.resting))
            if now - self.resting[oldest] < quarantine:
                return
            del self.resting[oldest]
            self.used.discard(oldest)

    def occupy(self, value: int) -> None:
        if value in self.used and value not in self.resting:
            self.shared[value] = self.shared.get(value, 0) + 1
            return
        self.resting.pop(value, None)
        self.used.add(value)

    def give_back(self, value: int, now: float) -> None:
        if others := self.shared.pop(value, 0):
            if others > 1:
                self.shared[value] = others - 1
        elif value in self.used and value not in self.resting:
            self.held.discard(value)
            self.resting[value] = now


class Ipam:
    """The addresses of all networks. Not for several threads at once."""

    def __init__(self) -> None:
        self._pools: dict[tuple[str, int], _Pool] = {}
        self._last: dict[tuple[str, int], int] = {}

    def take(
        self, network: str, sets: Sequence[RangeSet], requested: Iterable[IPAddress], now: float, quarantine: float
    ) -> tuple[PodAddress, ...]:
        """One address of each set, in their order; all of them or none.

        `requested` are served by the first set that has them. `now` is any clock in seconds that never goes back,
        `quarantine` how long addresses rest. Raises Failure: EXHAUSTED, DUPLICATE (a requested address is in use),
        INVALID_CONFIG (it cannot be given at all).
        """
        asked = list(requested)
        chosen: list[tuple[_Pool, Range, int]] = []
        for index, ranges in enumerate(sets):
            pool = self._pool(network, ranges[0].first.version)
            pool.wake(now, quarantine)
            wish = next((each for each in asked if range_with(ranges, each)), None)
            barred = _barred(ranges) | {value for its, _, value in chosen if its is pool}
            if wish is None:
                value = _next(pool, ranges, self._last.get((network, index), -1), barred)
            else:
                asked.remove(wish)
                value = _requested(pool, ranges, wish, barred)
            chosen.append((pool, _holder(value, ranges), value))
        if asked:
            left = " ".join(str(each) for each in asked)
            raise Failure(Code.INVALID_CONFIG, f"failed to allocate all requested IPs: {left}")
        for index, (pool, _, value) in enumerate(chosen):
            pool.occupy(value)
            self._last[network, index] = value
        return tuple(_pod_address(range_, value) for _, range_, value in chosen)

    def occupy(self, network: str, addresses: Iterable[IPAddress]) -> None:
        """Somebody has them: what the journal or another plugin's folder says. Each owner gives them back once."""
        for address in addresses:
            self._pool(network, address.version).occupy(int(address))

    def hold(self, network: str, addresses: Iterable[IPAddress]) -> None:
        """Their attachment is being removed: nobody gets them until they are given back. Counted as resting."""
        for address in addresses:
            pool, value = self._pool(network, address.version), int(address)
            if value in pool.used and value not in pool.resting and value not in pool.shared:
                pool.held.add(value)

    def give_back(self, network: str, addresses: Iterable[IPAddress], now: float) -> None:
        """Their owner has no more use for them; they begin to rest. What nobody has stays as it is."""
        for address in addresses:
            self._pool(network, address.version).give_back(int(address), now)

    def continue_after(self, network: str, index: int, address: IPAddress) -> None:
        """`address` is the last one given of the set at `index`, before a restart."""
        self._last[network, index] = int(address)

    def usage(self, network: str, sets: Sequence[RangeSet]) -> Usage:
        """Of the set that has the fewest addresses left: so many more containers find room. Zeros without sets."""
        found = [self._usage(network, ranges) for ranges in sets]
        return min(found, key=lambda usage: (usage.free, usage.free + usage.resting), default=Usage(0, 0, 0))

    def _usage(self, network: str, ranges: RangeSet) -> Usage:
        pool = self._pool(network, ranges[0].first.version)
        bounds, barred = [(int(each.first), int(each.last)) for each in ranges], _barred(ranges)
        size = sum(last - first + 1 for first, last in bounds)
        never = [value for value in barred if _within(value, bounds)]
        used = sum(pool.used.count(first, last) for first, last in bounds) - sum(each in pool.used for each in never)
        waiting = [each for some in (pool.resting, pool.held) for each in some if _within(each, bounds)]
        resting = sum(each not in barred for each in waiting)
        return Usage(size - len(never), used - resting, resting)

    def _pool(self, network: str, version: int) -> _Pool:
        found = self._pools.get((network, version))
        if found is None:
            found = self._pools[network, version] = _Pool()
        return found


def _lowest_zero(mask: int) -> int:
    return (~mask & mask + 1).bit_length() - 1


def _next(pool: _Pool, ranges: RangeSet, last: int, barred: set[int]) -> int:
    """The next free address after `last`, else the one that rested longest."""
    bounds = [(int(each.first), int(each.last)) for each in ranges]
    for start, stop in _round(bounds, last):
        value = pool.used.next_absent(start)
        while value in barred:
            value = pool.used.next_absent(value + 1)
        if value <= stop:
            return value
    for value in pool.resting:
        if _within(value, bounds) and value not in barred:
            return value
    raise Failure(Code.EXHAUSTED, f"no IP addresses available in range set: {words(ranges)}")


def _round(bounds: Sequence[tuple[int, int]], last: int) -> Iterator[tuple[int, int]]:
    """The whole set once, from what follows `last` to `last`; from its beginning if `last` is not in it."""
    for at, (start, stop) in enumerate(bounds):
        if start <= last <= stop:
            yield last + 1, stop
            yield from bounds[at + 1 :]
            yield from bounds[:at]
            yield start, last
            return
    yield from bounds


def _requested(pool: _Pool, ranges: RangeSet, address: IPAddress, barred: set[int]) -> int:
    """Its number, if it can be given. One that rests can: no other would do."""
    value = int(address)
    if any(value == int(each.gateway) for each in ranges):
        raise Failure(Code.INVALID_CONFIG, f"requested ip {address} is subnet's gateway")
    if value in pool.used and value not in pool.resting:
        raise Failure(Code.DUPLICATE, f"requested IP address {address} is not available in range set {words(ranges)}")
    if value in barred:
        raise Failure(Code.INVALID_CONFIG, f"requested ip {address} is the address of a network or its broadcast")
    return value


def _holder(value: int, ranges: RangeSet) -> Range:
    return next(each for each in ranges if int(each.first) <= value <= int(each.last))


def _within(value: int, bounds: Iterable[tuple[int, int]]) -> bool:
    return any(first <= value <= last for first, last in bounds)


def _barred(ranges: RangeSet) -> set[int]:
    """Never given: gateways, IPv4's network and broadcast addresses, IPv6's anycast address of the routers."""
    found = set()
    for each in ranges:
        found.add(int(each.gateway))
        subnet = each.subnet
        rest = subnet.max_prefixlen - subnet.prefixlen
        if rest > 1:  # in RFC 3021's /31, in /127 and in networks of one, every address is a host's
            base = int(subnet.network_address)
            found.add(base)
            if subnet.version == 4:
                found.add(base | (1 << rest) - 1)
    return found


def _pod_address(range_: Range, value: int) -> PodAddress:
    kind = IPv4Interface if range_.subnet.version == 4 else IPv6Interface
    return PodAddress(kind((value, range_.subnet.prefixlen)), range_.gateway)
