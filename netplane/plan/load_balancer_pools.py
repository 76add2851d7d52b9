"""The addresses that may be given to Services of type LoadBalancer: pools, and who has which address of them.

Pools are filled in the order they are written: what finds no place in one goes on to the next of its family. So a
pool that is added at the end moves nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address

from netplane.model.address import Family, IPAddress, family_of
from netplane.model.table import changes
from netplane.plan.address_ring import Claim, Ring, RingDraft

_LOW_HALF = (1 << 64) - 1

Range = tuple[IPAddress, IPAddress]


@dataclass(frozen=True, slots=True)
class Pool:
    """The addresses of one family from `first` to `last`, and who has them."""

    family: Family
    first: int
    last: int
    ring: Ring

    def place(self, address: IPAddress) -> int | None:
        """The place of an address on the ring, None if it is not in the pool."""
        number = int(address)
        same = family_of(address) is self.family
        return number - self.first if same and self.first <= number <= self.last else None

    def address(self, place: int) -> IPAddress:
        """The address of a place."""
        number = self.first + place
        return IPv4Address(number) if self.family is Family.IPV4 else IPv6Address(number)


Pools = tuple[Pool, ...]


def empty(ranges: Iterable[Range]) -> Pools:
    """Pools nobody has anything of. Where ranges overlap, the address is in the first."""
    made: list[Pool] = []
    for first, last in ranges:
        family, low, high = family_of(first), int(first), int(last)
        before = sorted((one.first, one.last) for one in made if one.family is family)
        for start, end in _without(low, high, before):
            made.append(Pool(family, start, end, Ring(end - start + 1, _usable(family, start))))
    return tuple(made)


def _without(first: int, last: int, taken: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    for start, end in taken:
        if end >= first and start <= last:
            if start > first:
                yield first, start - 1
            first = end + 1
    if first <= last:
        yield first, last


@lru_cache(maxsize=64)
def _usable(family: Family, first: int) -> Callable[[int], bool]:
    """Whether nobody has to ask for a place: in most networks, these addresses are not a host's.

    x.x.x.0 and x.x.x.255 are the network and broadcast address of so many IPv4 networks that hosts and routers exist
    which drop them anyway. In IPv6, the first address of every /64 is that of all its routers (RFC 4291, 2.6.1).
    """

    def usable(place: int) -> bool:
        number = first + place
        if family is Family.IPV4:
            return number & 0xFF not in (0, 0xFF)
        return bool(number & _LOW_HALF)

    return usable


def find(pools: Pools, address: IPAddress) -> tuple[int, int] | None:
    """Which pool an address is in, and its place there."""
    for at, pool in enumerate(pools):
        place = pool.place(address)
        if place is not None:
            return at, place
    return None


class PoolsDraft:
    """Pools with changes. After `done`, `affected` are claims that have, or may have, another address now."""

    def __init__(self, pools: Pools) -> None:
        self._pools = pools
        self._rings = [RingDraft(pool.ring) for pool in pools]
        self._first = {family: _next(pools, -1, family) for family in Family}
        self.affected: set[Claim] = set()

    def fix(self, claim: Claim, address: IPAddress) -> None:
        """Add a claim to one address; nothing if it is in no pool."""
        if at := find(self._pools, address):
            self._rings[at[0]].fix(claim, at[1])

    def unfix(self, claim: Claim, address: IPAddress) -> None:
        """Remove it."""
        if at := find(self._pools, address):
            self._rings[at[0]].unfix(claim, at[1])

    def add(self, claim: Claim, family: Family) -> None:
        """Add a claim to some address of the family, which has a pool."""
        self._add(claim, self._first[family])

    def remove(self, claim: Claim, family: Family) -> None:
        """Remove it."""
        at = self._first[family]
        if at is not None:
            self._rings[at].remove(claim)

    def done(self) -> Pools:
        """The pools as they are now."""
        made: list[Pool] = []
        for at, pool in enumerate(self._pools):
            draft = self._rings[at]
            ring = draft.done()
            self._pass_on(at, pool, ring)
            for place in draft.touched:
                self.affected.update((*pool.ring.fixed.get(place, ()), *ring.fixed.get(place, ())))
            self.affected |= draft.moved
            made.append(pool if ring is pool.ring else Pool(pool.family, pool.first, pool.last, ring))
        return tuple(made)

    def _pass_on(self, at: int, pool: Pool, ring: Ring) -> None:
        """Who waits goes on to the next pool; who does not any more leaves it."""
        following = _next(self._pools, at, pool.family)
        if following is None or ring.waiting is pool.ring.waiting:
            return
        waits, gone = changes(pool.ring.waiting, ring.waiting)
        for claim in gone:
            self._rings[following].remove(claim)
        for claim in sorted(waits):
            if claim not in pool.ring.waiting:
                self._add(claim, following)

    def _add(self, claim: Claim, at: int | None) -> None:
        if at is not None:
            self._rings[at].add(claim, _home(claim, self._pools[at].ring.size))


def _next(pools: Pools, after: int, family: Family) -> int | None:
    return next((at for at, pool in enumerate(pools) if at > after and pool.family is family), None)


def _home(claim: Claim, size: int) -> int:
    """Where a claim begins: a function of its owner's name."""
    return _hash(claim.namespace, claim.name) % size


@lru_cache(maxsize=1 << 14)
def _hash(namespace: str, name: str) -> int:
    return int.from_bytes(sha256(f"{namespace}/{name}".encode()).digest()[:16], "big")


def held(pools: Pools, claim: Claim, family: Family) -> IPAddress | None:
    """The address that a claim to some address has."""
    for pool in pools:
        if pool.family is family:
            place = pool.ring.places.get(claim)
            if place is not None:
                return pool.address(place)
    return None


def holder(pools: Pools, address: IPAddress) -> Claim | None:
    """Who has an address."""
    at = find(pools, address)
    return pools[at[0]].ring.holder(at[1]) if at else None


def shown(ranges: Iterable[Range], family: Family | None = None) -> str:
    """`198.51.100.0-198.51.100.31, ...`, of one family or all."""
    return ", ".join(f"{first}-{last}" for first, last in ranges if family in (None, family_of(first))) or "none"
