"""What holds for changes between any two nftables states, also where sets come and go with what is in them."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from generated.simulator import Simulator, plain, wanted

from netplane.model.address import Family
from netplane.programs.nftables import (
    Chain,
    Data,
    Field,
    Hook,
    NftablesChanges,
    NftablesProgram,
    Part,
    SetName,
    SetSpec,
    Structure,
)
from netplane.programs.nftables_changes import Applied, as_found, changes_from_found

SEEDS = range(60)
NAMES = range(6)
REFUSE = Chain("refuse", ("reject",))
ONE = (Field.ADDRESS4,)
SETS = {
    "endpoints": SetSpec("endpoints", "{ type ipv4_addr; }", ONE),
    "hairpins": SetSpec("hairpins", "{ type ipv4_addr; }", ONE),
    "from-pod": SetSpec("from-pod", "{ type ipv4_addr : verdict; }", ONE, verdicts=True),
    "slots": SetSpec("slots", "{ type ipv4_addr : ipv4_addr; }", ONE, ONE),
    "allowed": SetSpec("allowed", "{ type ipv4_addr . ipv4_addr; flags interval; }", ONE * 2, interval=True),
}
CLIENTS = "{ type ipv4_addr; flags dynamic,timeout; timeout 60s; }"


class World:
    """Programs one after another; parts stay the same objects while their sets are there and nobody changes them."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.bases = {family: self._base() for family in Family}
        self.families: tuple[Family, ...] = tuple(Family)
        self.parts: dict[int, Part] = {}

    def program(self) -> NftablesProgram:
        """The next one."""
        if self._chance(0.2):
            self.families = self.random.choice(((), (Family.IPV4,), (Family.IPV6,), tuple(Family)))
        for family in Family:
            if self._chance(0.4):
                self.bases[family] = self._base()
        for name in NAMES:
            part = self.parts.get(name)
            if part is None or self._chance(0.3) or not self._fits(part):
                self.parts.pop(name, None)
                if self._chance(0.8):
                    self.parts[name] = self._part(name)
        return NftablesProgram({family: self.bases[family] for family in self.families}, dict(self.parts))

    def _chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def _base(self) -> Structure:
        """Some of the sets, and a chain for some of these that reads them."""
        sets = {name: spec for name, spec in SETS.items() if self._chance(0.6)}
        read = [Chain(f"read-{name}", (f"ip saddr @{name} drop",)) for name in sets if self._chance(0.5)]
        hook = Hook("filter", "input", self.random.choice((-1, 0)))
        chains = (REFUSE, *read, *([Chain("input", ("goto refuse",), hook)] if self._chance(0.7) else []))
        return Structure({each.name: each for each in chains}, sets)

    def _fits(self, part: Part) -> bool:
        """Whether all it has something in is there."""
        families = {family for family, _ in part.elements} | part.structure.keys()
        sets = (name in self.bases[family].sets for family, name in part.elements)
        return families <= {*self.families} and all(sets)

    def _part(self, number: int) -> Part:
        elements: dict[SetName, dict[bytes, Data]] = {}
        structure: dict[Family, Structure] = {}
        for family in self.families:
            leads = "goto refuse"
            if self._chance(0.3):
                clients = SetSpec(f"clients-{number}", CLIENTS, dynamic=True)
                own = Chain(f"pick-{number}", (f"update @{clients.name} {{ ip saddr }}",))
                structure[family] = Structure({own.name: own}, {clients.name: clients})
                leads = f"goto {own.name}"
            for name in self.bases[family].sets:
                if self._chance(0.7):
                    elements[family, name] = self._elements(name, number, leads)
        return Part(elements, structure)

    def _elements(self, name: str, number: int, leads: str) -> dict[bytes, Data]:
        pick, of_part = self.random.choice, bytes((10, 0, number))
        if SETS[name].interval:
            first, last = pick(((0, 9), (5, 20), (10, 30), (40, 50)))
            return {of_part + bytes((first,)) + b"\0" * 4 + of_part + bytes((last,)) + b"\xff" * 4: None}
        data: dict[str, tuple[Data, ...]] = {
            "from-pod": ("drop", leads),
            "slots": (b"\x0a\x00\x00\x01", b"\x0a\x00\x00\x02"),
        }
        if name in data:
            return {of_part + bytes((last,)): pick(data[name]) for last in self.random.sample(range(4), 2)}
        return {b"\x0a\x00\x00" + bytes((last,)): None for last in self.random.sample(range(4), 2)}  # of several


def walks(seed: int) -> Iterator[tuple[NftablesProgram, NftablesProgram]]:
    """A program and the next, from nothing on."""
    world, have = World(seed), NftablesProgram()
    for _ in range(12):
        want = world.program()
        yield have, want
        have = want


def said(changes: NftablesChanges) -> tuple[object, ...]:
    """What compares: of chains and sets that come and go together the order means nothing."""
    scripts = (changes.make_structure, changes.make_hooks, changes.sweep_structure)
    return (*(sorted(each.splitlines()) for each in scripts), changes.make_elements, changes.sweep_elements)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_remembered_and_what_is_read_lead_to_the_same_by_the_same_changes(seed):
    applied, by_memory, by_reading = Applied.of(NftablesProgram()), Simulator(), Simulator()
    for have, want in walks(seed):
        remembered, read = applied.changes_to(want), changes_from_found(as_found(have), want)
        assert said(remembered) == said(read)
        by_memory.apply(remembered)
        by_reading.apply(read)
        assert plain(by_memory.found()) == plain(by_reading.found()) == wanted(want)


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_was_applied_before_is_remembered_like_what_is_read_now(seed):
    applied = Applied.of(NftablesProgram())
    for have, want in walks(seed):
        assert said(applied.changes_to(want)) == said(Applied.of(have).changes_to(want))
        assert applied.changes_to(want) == NftablesChanges()


@pytest.mark.parametrize("seed", SEEDS)
def test_of_a_set_that_goes_no_element_is_removed_by_itself(seed):
    for have, want in walks(seed):
        made = Applied.of(have).changes_to(want)
        for changes in (made.make_elements, made.sweep_elements):
            assert {(family, name) for family, name in changes.remove} <= sets_of(want)


def test_the_walks_are_about_sets_that_go_and_come_with_elements():
    gone = come = 0
    for seed in SEEDS:
        for have, want in walks(seed):
            gone += any(where not in sets_of(want) for part in have.parts.values() for where in part.elements)
            come += any(where not in sets_of(have) for part in want.parts.values() for where in part.elements)
    assert min(gone, come) > 100


def sets_of(program: NftablesProgram) -> set[SetName]:
    """The sets of the tables themselves."""
    return {(family, name) for family, whole in program.structure.items() for name in whole.sets}
