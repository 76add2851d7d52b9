"""Networks of both families as spans of whole numbers on one line, IPv4 first: quick to sort, compare and merge."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network

from netplane.model.address import IPAddress, IPNetwork

Span = tuple[int, int]
"""First and last place on the line."""

_SIX = 1 << 128  # where IPv6 begins


def span_of(what: IPAddress | IPNetwork) -> Span:
    """Where a network, or an address, is on the line."""
    if isinstance(what, IPv4Network | IPv6Network):
        first = int(what.network_address) + (_SIX if what.version == 6 else 0)
        return first, first + (1 << what.max_prefixlen - what.prefixlen) - 1
    place = int(what) + (_SIX if what.version == 6 else 0)
    return place, place


def overlapping(span: Span, others: Iterable[Span]) -> int:
    """The place in `others` of the first that shares something with `span`, -1 if none does."""
    first, last = span
    return next((place for place, (low, high) in enumerate(others) if low <= last and first <= high), -1)


def inside(span: Span, others: Iterable[Span]) -> bool:
    """Whether one of `others` holds all of `span`."""
    first, last = span
    return any(low <= first and last <= high for low, high in others)


def merged(spans: Iterable[Span], holes: Sequence[int] = ()) -> tuple[IPNetwork, ...]:
    """The fewest networks that cover just these spans, without `holes`, which are sorted; sorted as well."""
    whole = joined(spans)
    return tuple(network for first, last in _pierced(whole, holes) for network in _networks(first, last))


def joined(spans: Iterable[Span]) -> Iterator[Span]:
    """The spans without overlaps, neighbours joined, sorted."""
    ordered = sorted(spans)
    if not ordered:
        return
    first, last = ordered[0]
    for low, high in ordered:
        if low > last + 1:
            yield first, last
            first, last = low, high
        elif high > last:
            last = high
    yield first, last


def _pierced(spans: Iterable[Span], holes: Sequence[int]) -> Iterator[Span]:
    for first, last in spans:
        for hole in holes[bisect_left(holes, first) : bisect_right(holes, last)]:
            if first < hole:
                yield first, hole - 1
            first = hole + 1
        if first <= last:
            yield first, last


def _networks(first: int, last: int) -> Iterator[IPNetwork]:
    """The fewest networks from `first` to `last`."""
    while first <= last:
        bits = (last - first + 1).bit_length() - 1
        aligned = (first & -first).bit_length() - 1 if first else bits
        bits = min(bits, aligned)
        yield _network(first, bits)
        first += 1 << bits


@lru_cache(maxsize=1 << 14)
def _network(first: int, bits: int) -> IPNetwork:
    # One object for each: building a network takes twenty times as long as finding it here.
    if first >= _SIX:
        return IPv6Network((first - _SIX, 128 - bits))
    return IPv4Network((first, 32 - bits))
