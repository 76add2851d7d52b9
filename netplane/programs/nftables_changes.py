"""What leads from one nftables state to another.

Two ways to the same changes: `changes_from_found` compares everything with what the kernel was read to have, and
`Applied.changes_to` compares two programs, looking only at the Services whose parts are not the same objects.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from netplane.model.address import Family
from netplane.model.table import changes
from netplane.programs.nftables import (
    NFT_FAMILY,
    SHARED,
    Data,
    ElementChanges,
    Found,
    FoundChain,
    FoundTable,
    Hook,
    NftablesChanges,
    NftablesProgram,
    Part,
    SetName,
    SetSpec,
    Structure,
)
from netplane.programs.nftables_text import (
    add_chain,
    add_rules,
    add_set,
    add_table,
    whole_elements,
    whole_structure,
)

MutableElements = dict[SetName, dict[bytes, Data]]


@dataclass(frozen=True, slots=True)
class _Table:
    """What a comparison needs of a table's structure, found or wanted."""

    chains: Mapping[str, tuple[Hook | None, tuple[str, ...]]]
    sets: Iterable[str]


def changes_from_found(found: Found, want: NftablesProgram) -> NftablesChanges:
    """Everything that differs between the kernel and the program."""
    draft = _Draft(want.table)
    for family in sorted({*found, *want.structure}):
        if family not in want.structure:
            draft.delete_table(family)
            continue
        table = found.get(family)
        whole = whole_structure(want, family)
        if table is None:
            draft.new_table(family)
            table = FoundTable()
        chains = {name: (chain.hook, chain.digests) for name, chain in table.chains.items()}
        draft.structure(family, _Table(chains, table.sets), whole)
        wanted = whole_elements(want, family)
        for name in sorted({*table.elements, *wanted}):
            if spec := whole.sets.get(name):
                draft.elements((family, name), spec, table.elements.get(name, {}), wanted.get(name, {}))
    return draft.changes()


@dataclass(slots=True)
class Applied:
    """A program the kernel is known to have, since the driver just put it there.

    Elements of shared sets are counted, so that one goes when its last Service does. After a failed apply the
    object no longer knows and must be thrown away.
    """

    program: NftablesProgram
    _counts: Counter[tuple[SetName, bytes]] = field(default_factory=Counter)

    @classmethod
    def of(cls, program: NftablesProgram) -> Applied:
        """The kernel has exactly `program`."""
        applied = cls(program)
        for part in program.parts.values():
            applied._count(part, 1)
        return applied

    def changes_to(self, want: NftablesProgram) -> NftablesChanges:
        """The changes to `want`; from here on the kernel is taken to have it."""
        have, self.program = self.program, want
        if have.structure.keys() != want.structure.keys():
            # A family comes or goes: rare, and cheaper to say as a whole.
            self._counts = Applied.of(want)._counts
            return changes_from_found(as_found(have), want)
        draft = _Draft(want.table)
        changed, removed = changes(have.parts, want.parts)
        before = [have.parts[each] for each in (*changed, *removed) if each in have.parts]
        after = [want.parts[each] for each in changed]
        for family in sorted(want.structure):
            old, new = have.structure[family], want.structure[family]
            if old is not new or _any_own(before, family) or _any_own(after, family):
                draft.structure(family, _comparable(_with(old, before, family)), _with(new, after, family))
        shared_before, shared_after = self._recount(before, after)
        held, needed = _own(before) | shared_before, _own(after) | shared_after
        for where in sorted({*held, *needed}):
            family, name = where
            if spec := want.structure[family].sets.get(name):  # a set that goes takes its elements along
                draft.elements(where, spec, held.get(where, {}), needed.get(where, {}))
        return draft.changes()

    def _recount(self, before: list[Part], after: list[Part]) -> tuple[MutableElements, MutableElements]:
        """Elements of shared sets that go with their last Service, and that come with their first."""
        touched = {
            (where, key)
            for part in (*before, *after)
            for where, elements in part.elements.items()
            if where[1] in SHARED
            for key in elements
        }
        had = {each for each in touched if self._counts[each] > 0}
        for part in before:
            self._count(part, -1)
        for part in after:
            self._count(part, 1)
        have: MutableElements = {}
        need: MutableElements = {}
        for each in touched:
            where, key = each
            if each in had:
                have.setdefault(where, {})[key] = None
            if self._counts[each] > 0:
                need.setdefault(where, {})[key] = None
            else:
                del self._counts[each]
        return have, need

    def _count(self, part: Part, by: int) -> None:
        for where, elements in part.elements.items():
            if where[1] in SHARED:
                for key in elements:
                    self._counts[where, key] += by


def _own(parts: list[Part]) -> MutableElements:
    """Elements of the sets in which each belongs to one part."""
    own: MutableElements = {}
    for part in parts:
        for where, elements in part.elements.items():
            if where[1] not in SHARED:
                own.setdefault(where, {}).update(elements)
    return own


def _any_own(parts: list[Part], family: Family) -> bool:
    return any(family in part.structure for part in parts)


def _with(base: Structure, parts: list[Part], family: Family) -> Structure:
    chains, sets = dict(base.chains), dict(base.sets)
    for part in parts:
        if own := part.structure.get(family):
            chains.update(own.chains)
            sets.update(own.sets)
    return Structure(chains, sets)


def _comparable(structure: Structure) -> _Table:
    return _Table(
        {name: (chain.hook, chain.digests()) for name, chain in structure.chains.items()}, structure.sets.keys()
    )


def as_found(program: NftablesProgram) -> Found:
    """What reading the kernel shows when it has `program`."""
    return {
        family: FoundTable(
            chains={name: FoundChain(name, chain.digests(), chain.hook) for name, chain in whole.chains.items()},
            sets={name: spec.dynamic for name, spec in whole.sets.items()},
            elements=whole_elements(program, family),
        )
        for family in program.structure
        for whole in (whole_structure(program, family),)
    }


def _in_the_way(gone: Iterable[bytes], new: Iterable[bytes]) -> list[bytes]:
    """The ranges of `gone` that overlap one of `new`, and so must go before it comes: the kernel refuses both at once.

    Both halves of a key begin with the same frontend, so ranges of different frontends never overlap.
    """
    ranges = sorted((key[: len(key) // 2], key[len(key) // 2 :]) for key in new)
    starts = [first for first, _ in ranges]

    def overlaps(key: bytes) -> bool:
        nearest = bisect_right(starts, key[len(key) // 2 :]) - 1  # the last one that starts before this one ends
        return nearest >= 0 and ranges[nearest][1] >= key[: len(key) // 2]

    return [key for key in gone if overlaps(key)]


class _Draft:
    """Changes of one table being written: structure line by line, elements by set."""

    def __init__(self, table: str) -> None:
        self._table = table
        self._sets: list[str] = []
        self._chains: list[str] = []
        self._rules: list[str] = []
        self._hooks: list[str] = []
        self._swept: list[str] = []
        self._remove: MutableElements = {}
        self._replace: MutableElements = {}
        self._add: MutableElements = {}

    def new_table(self, family: Family) -> None:
        self._sets.append(add_table(family, self._table))

    def delete_table(self, family: Family) -> None:
        self._swept.append(f"delete table {NFT_FAMILY[family]} {self._table}")

    def structure(self, family: Family, have: _Table, want: Structure) -> None:
        """Chains and sets to write and to sweep."""
        table = self._table
        at = f"{NFT_FAMILY[family]} {table}"
        had_sets = frozenset(have.sets)
        self._sets.extend(add_set(family, spec, table) for name, spec in want.sets.items() if name not in had_sets)
        for name, chain in want.chains.items():
            hook, digests = have.chains.get(name, (None, None))
            if digests == chain.digests() and hook == chain.hook:
                continue
            flush = f"flush chain {at} {name}"
            if digests is None and chain.hook:
                self._hooks.extend((add_chain(family, chain, table), flush, *add_rules(family, chain, table)))
                continue
            if digests is None:
                # Flushed, since whoever else makes the same at the same time must not leave each rule twice.
                self._chains.extend((add_chain(family, chain, table), flush))
            elif hook != chain.hook:
                # A base chain cannot move: in one transaction it goes and comes back elsewhere.
                self._chains.extend((flush, f"delete chain {at} {name}", add_chain(family, chain, table)))
            else:
                self._chains.append(flush)
            self._rules.extend(add_rules(family, chain, table))
        gone = [name for name in have.chains if name not in want.chains]
        self._swept.extend(f"flush chain {at} {name}" for name in gone)
        self._swept.extend(f"delete chain {at} {name}" for name in gone)
        self._swept.extend(f"delete set {at} {name}" for name in sorted(had_sets - want.sets.keys()))

    def elements(self, where: SetName, spec: SetSpec, have: Mapping[bytes, Data], need: Mapping[bytes, Data]) -> None:
        """Elements of one set to remove, to give other data or another range, and to add."""
        gone = {key: data for key, data in have.items() if key not in need}
        other = {key: have[key] for key, data in need.items() if key in have and have[key] != data}
        new = {key: data for key, data in need.items() if key not in have or key in other}
        if spec.interval and gone and new:
            for key in _in_the_way(gone, new):
                other[key] = gone.pop(key)
        for kept, into in ((gone, self._remove), (other, self._replace), (new, self._add)):
            if kept:
                into.setdefault(where, {}).update(kept)

    def changes(self) -> NftablesChanges:
        """The changes: replacing is part of make, removing what is not replaced is sweep."""
        return NftablesChanges(
            make_structure="".join(f"{line}\n" for line in (*self._sets, *self._chains, *self._rules)),
            make_elements=ElementChanges(remove=self._replace, add=self._add),
            make_hooks="".join(f"{line}\n" for line in self._hooks),
            sweep_elements=ElementChanges(remove=self._remove),
            sweep_structure="".join(f"{line}\n" for line in self._swept),
        )
