"""Who has which place on a ring of addresses: a function of who wants what, whatever came first.

A claim is either fixed on a place or starts at home and goes on, place by place, until it finds one that is free or
has a later claim in it, which then goes on itself. So every claim that goes on has the first place after its home
that no better claim has: there is exactly one such arrangement (an ordered hash table; Amble and Knuth, 1974), and
adding or removing a claim touches only the neighbours on the ring.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Generic, NamedTuple, TypeVar

from netplane.model.table import derived

Key = TypeVar("Key")
Value = TypeVar("Value")


class Stage(IntEnum):
    """Whose claim is better: smaller first."""

    NODE = 0
    """An address of a Node."""
    CLUSTER_IP = 1
    FOREIGN = 2
    """Written in the status of a Service that gets its addresses from somebody else."""
    KEPT = 3
    """Written in the Service's status."""
    ASKED = 4
    AUTOMATIC = 5


class Claim(NamedTuple):
    """Somebody's wish for an address of one family. Compared as it stands: the smaller one is better.

    `age` sorts older first. `namespace` is "" for a Node. `number` tells several claims of one owner and stage apart.
    """

    stage: Stage
    age: str
    namespace: str
    name: str
    number: int = 0


@dataclass(frozen=True, slots=True)
class Ring:
    """An arrangement. `size` places, of which `usable` says which a claim may go on to.

    `fixed`: claims by the place they are fixed on, best first. `automatic`: the claim that went on to a place.
    `homes` and `places`: of each claim that goes on, where it began and where it is; it has no place while the ring
    is full, and is then in `waiting`.
    """

    size: int
    usable: Callable[[int], bool] = field(compare=False)
    fixed: Mapping[int, tuple[Claim, ...]] = field(default_factory=dict)
    automatic: Mapping[int, Claim] = field(default_factory=dict)
    homes: Mapping[Claim, int] = field(default_factory=dict)
    places: Mapping[Claim, int] = field(default_factory=dict)
    waiting: Mapping[Claim, int] = field(default_factory=dict)

    def holder(self, place: int) -> Claim | None:
        """Who has the place."""
        fixed = self.fixed.get(place)
        return fixed[0] if fixed else self.automatic.get(place)


class RingDraft:
    """A ring with changes. `touched` are places that have, or may have, somebody else now; `moved` are claims."""

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self._size = ring.size
        self._fixed = _Draft(ring.fixed)
        self._automatic = _Draft(ring.automatic)
        self._homes = _Draft(ring.homes)
        self._places = _Draft(ring.places)
        self._waiting = _Draft(ring.waiting)
        self.touched: set[int] = set()
        self.moved: set[Claim] = set()

    def fix(self, claim: Claim, place: int) -> None:
        """Add a claim that wants this place only."""
        others = self._fixed.get(place) or ()
        self._fixed.put(place, tuple(sorted((*others, claim))))
        self.touched.add(place)
        evicted = self._automatic.get(place)
        if evicted is not None:
            self._automatic.put(place, None)
            self._go_on(evicted)

    def unfix(self, claim: Claim, place: int) -> None:
        """Remove it."""
        rest = tuple(each for each in self._fixed.get(place) or () if each != claim)
        self._fixed.put(place, rest or None)
        self.touched.add(place)
        if not rest:
            self._fill(place)

    def add(self, claim: Claim, home: int) -> None:
        """Add a claim that begins at home and goes on."""
        self._homes.put(claim, home)
        self._go_on(claim)

    def remove(self, claim: Claim) -> None:
        """Remove it."""
        self.moved.add(claim)
        self._homes.put(claim, None)
        self._waiting.put(claim, None)
        place = self._places.get(claim)
        if place is not None:
            self._places.put(claim, None)
            self._automatic.put(place, None)
            self._fill(place)

    def done(self) -> Ring:
        """The ring as it is now."""
        if not (self.touched or self.moved):
            return self._ring
        return Ring(
            self._size,
            self._ring.usable,
            self._fixed.done(),
            self._automatic.done(),
            self._homes.done(),
            self._places.done(),
            self._waiting.done(),
        )

    def _go_on(self, claim: Claim | None) -> None:
        """Find places for a claim that has none, and for all it drives out."""
        while claim is not None:
            claim = self._place(claim)

    def _place(self, claim: Claim) -> Claim | None:
        """Give the claim its place, or let it wait; who had that place."""
        self.moved.add(claim)
        home = self._homes.get(claim) or 0
        for place in () if self._hopeless(claim) else self._from(home):
            if self._blocked(place):
                continue
            other = self._automatic.get(place)
            if other is None or claim < other:
                self._automatic.put(place, claim)
                self._places.put(claim, place)
                self._waiting.put(claim, None)
                return other
        self._places.put(claim, None)
        self._waiting.put(claim, home)
        return None

    def _hopeless(self, claim: Claim) -> bool:
        """Whether a better one waits already: then the ring is full of even better ones."""
        return any(other < claim for other in self._waiting if other != claim)

    def _fill(self, hole: int) -> None:
        """Let those who went past a place that is free now come back to it, and to what they leave."""
        if self._blocked(hole):
            return
        while (back := self._who_passed(hole)) is not None:
            claim, left = back
            self._automatic.put(left, None)
            self._automatic.put(hole, claim)
            self._places.put(claim, hole)
            self.moved.add(claim)
            hole = left
        best = min(self._waiting, default=None)
        if best is not None:
            self._go_on(best)

    def _who_passed(self, hole: int) -> tuple[Claim, int] | None:
        """The best claim that would rather be here, and where it is: the first found, for it kept others from there."""
        for place in self._from(hole + 1):
            if place == hole:
                return None
            if self._blocked(place):
                continue
            claim = self._automatic.get(place)
            if claim is None:
                return None
            home = self._homes.get(claim) or 0
            if (hole - home) % self._size < (place - home) % self._size:
                return claim, place
        return None

    def _blocked(self, place: int) -> bool:
        return bool(self._fixed.get(place)) or not self._ring.usable(place)

    def _from(self, start: int) -> Iterator[int]:
        """Every place once, from this one on."""
        return ((start + step) % self._size for step in _counting(self._size))


def _counting(size: int) -> Iterator[int]:
    step = 0
    while step < size:  # a range() of more than 2**63 places cannot be iterated over
        yield step
        step += 1


class _Draft(Generic[Key, Value]):
    """A mapping with changes; None is absent."""

    def __init__(self, base: Mapping[Key, Value]) -> None:
        self._base = base
        self._changed: dict[Key, Value | None] = {}

    def get(self, key: Key) -> Value | None:
        return self._changed[key] if key in self._changed else self._base.get(key)

    def put(self, key: Key, value: Value | None) -> None:
        self._changed[key] = value

    def __iter__(self) -> Iterator[Key]:
        yield from (key for key, value in self._changed.items() if value is not None)
        yield from (key for key in self._base if key not in self._changed)

    def done(self) -> Mapping[Key, Value]:
        put = {key: value for key, value in self._changed.items() if value is not None}
        gone = [key for key, value in self._changed.items() if value is None]
        return derived(self._base, put, gone) if self._changed else self._base
