"""What leads from one iptables state to another.

Two ways to the same changes: `changes_from_found` compares everything with what the kernel was read to have, and
`Applied.changes_to` compares two programs, looking only at the Services whose parts are not the same objects.

Chains of Services are rendered to compare them and rendered again to write them; in between only names are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain as chained
from zlib import crc32

from netplane.model.address import Family
from netplane.model.table import changes
from netplane.programs.iptables import TABLES, Chains, IptablesProgram, Jump, Part, TableKey
from netplane.programs.iptables_text import (
    Found,
    FoundTable,
    delete,
    digest,
    fixed_chains,
    insert,
    table_name,
    target,
)
from netplane.programs.iptables_tree import Rules, tree_changes


@dataclass(frozen=True, slots=True)
class TableChanges:
    """What to do in one table. It is one transaction, but for what `late` says."""

    put: Mapping[str, bool] = field(default_factory=dict)
    """The chains to write, and whether they exist already."""
    fixed: Mapping[str, Rules] = field(default_factory=dict)
    """The rules of those of `put` that belong to no Service."""
    insert: tuple[Jump, ...] = ()
    replace: tuple[Jump, ...] = ()
    """Jumps to remove because `insert` has them in the right form or order."""
    stray: tuple[Jump, ...] = ()
    """Jumps to remove for good: nobody wants any like them there."""
    drop: tuple[str, ...] = ()
    kept: Mapping[str, str] = field(default_factory=dict)
    """Chains that nobody wants but somebody else's chain, named here, refers to: they stay."""
    built_in: frozenset[str] = frozenset()
    """The built-in chains that are known to exist."""

    def made(self) -> int:
        """Chains written and jumps inserted."""
        return len(self.put) + len(self.insert)

    def swept(self) -> int:
        """Chains and jumps removed for good."""
        return len(self.drop) + len(self.stray)

    def late(self) -> tuple[Jump, ...]:
        """Jumps into built-in chains that do not exist yet."""
        return tuple(jump for jump in self.insert if jump.chain not in self.built_in)


@dataclass(frozen=True, slots=True)
class IptablesChanges:
    """`parts` are those that have chains among the `put` of any table."""

    tables: Mapping[TableKey, TableChanges] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()

    def made(self) -> int:
        """Chains written and jumps inserted."""
        return sum(each.made() for each in self.tables.values())

    def swept(self) -> int:
        """Chains and jumps removed for good."""
        return sum(each.swept() for each in self.tables.values())

    def without_sweep(self) -> IptablesChanges:
        """The same, removing nothing for good."""
        return self._each(lambda _, each: replace(each, drop=(), stray=()))

    def keeping(self, kept: Mapping[TableKey, Mapping[str, str]]) -> IptablesChanges:
        """The same without removing these chains; each is named with the chain of others that refers to it."""

        def without(key: TableKey, each: TableChanges) -> TableChanges:
            stay = {name: kept[key][name] for name in each.drop if name in kept.get(key, {})}
            return replace(each, drop=tuple(name for name in each.drop if name not in stay), kept=stay)

        return self._each(without)

    def _each(self, change: Callable[[TableKey, TableChanges], TableChanges]) -> IptablesChanges:
        return replace(self, tables={key: change(key, each) for key, each in self.tables.items()})

    def of(self, family: Family) -> dict[str, TableChanges]:
        """The tables of a family in which something is to do, in the order they are written."""
        tables = {table: self.tables[family, table] for table in TABLES if (family, table) in self.tables}
        return {table: each for table, each in tables.items() if each.made() or each.swept() or each.replace}

    def rules(self) -> Iterator[tuple[TableKey, str, Rules]]:
        """Every chain to write with its rules. Each part is rendered once."""
        for key, each in self.tables.items():
            for name, rules in each.fixed.items():
                yield key, name, rules
        for part in self.parts:
            for key, chains in part.chains().items():
                put = self.tables[key].put if key in self.tables else {}
                for name, rules in chains.items():
                    if name in put:
                        yield key, name, rules


def changes_from_found(found: Found, want: IptablesProgram, *, joined: bool = False) -> IptablesChanges:
    """Everything that differs between the kernel and the program.

    `joined`: the dispatch keeps leading to what it leads to now, after all that is wanted (docs/decisions/0011). It
    takes a reading with `shared`.
    """
    nothing = FoundTable()
    drafts = {key: _Draft(found.get(key, nothing)) for key in sorted({*found, *want.frames})}
    for key in want.frames:
        fixed = fixed_chains(want, key)
        if joined and key in found:
            fixed |= _joined(found[key].shared, want, key)
        for name, rules in fixed.items():
            if drafts[key].found(name, rules):
                drafts[key].fixed[name] = rules
    parts: list[Part] = []
    for part in want.parts.values():
        differs = False
        for key, chains in part.chains().items():
            for name, rules in chains.items():
                differs |= drafts[key].found(name, rules)
        if differs:
            parts.append(part)
    for key, draft in drafts.items():
        draft.jumps(found.get(key, nothing).jumps, want.frames[key].jumps if key in want.frames else ())
    return _changes(drafts, parts)


def _joined(have: Chains, want: IptablesProgram, key: TableKey) -> dict[str, Rules]:
    """The chains of the trees with the rules they have already. What must be last stays last."""
    joined: dict[str, Rules] = {}
    for tree in want.trees.get(key, ()):
        for name, rules in tree.chains():
            end = len(rules) - (len(tree.last) if name == tree.root else 0)
            others = (rule for rule in have.get(name, ()) if rule not in rules)
            joined[name] = (*rules[:end], *others, *rules[end:])
    return joined


@dataclass(slots=True)
class Applied:
    """A program the kernel is known to have, since it was just put there or read.

    After a failed apply the object no longer knows and must be thrown away.
    """

    program: IptablesProgram
    built_in: Mapping[TableKey, frozenset[str]] = field(default_factory=dict)
    referred: Mapping[TableKey, frozenset[str]] = field(default_factory=dict)
    """Chains of ours that chains of others referred to when the kernel was read."""

    @classmethod
    def of(cls, program: IptablesProgram, found: Found) -> Applied:
        """The kernel has exactly `program`, after `found` was changed to it."""
        return cls(
            program,
            {key: each.built_in for key, each in found.items()},
            {key: frozenset(each.references) for key, each in found.items() if each.references},
        )

    def changes_to(self, want: IptablesProgram) -> IptablesChanges | None:
        """The changes to `want`; from here on the kernel is taken to have it. None where it must be read for that."""
        have = self.program
        if have.frames.keys() != want.frames.keys():
            return None
        drafts = {key: _Draft(FoundTable(built_in=self._built_in(key))) for key in want.frames}
        for key, draft in drafts.items():
            _compare_fixed(draft, have, want, key)
        parts = _compare_parts(drafts, have, want)
        for key, draft in drafts.items():
            old, new = have.frames[key].jumps, want.frames[key].jumps
            draft.jumps(old if old != new else (), new if old != new else ())
        made = _changes(drafts, parts)
        if any(not self.referred.get(key, frozenset()).isdisjoint(each.drop) for key, each in made.tables.items()):
            return None
        self.program = want
        return made

    def _built_in(self, key: TableKey) -> frozenset[str]:
        used = (jump.chain for jump in self.program.frames[key].jumps)
        return self.built_in.get(key, frozenset()).union(used)


def _compare_fixed(draft: _Draft, have: IptablesProgram, want: IptablesProgram, key: TableKey) -> None:
    old, new = have.frames[key], want.frames[key]
    if old is not new:
        draft.both(old.chains, new.chains, draft.fixed)
    before = {tree.root: tree for tree in have.trees.get(key, ())}
    after = {tree.root: tree for tree in want.trees.get(key, ())}
    for root in before | after:
        if before.get(root) is not after.get(root):
            put, drop = tree_changes(before.get(root), after.get(root))
            for name, rules in put.items():
                draft.put[name] = False
                draft.fixed[name] = rules
            draft.gone.update(drop)


def _compare_parts(drafts: Mapping[TableKey, _Draft], have: IptablesProgram, want: IptablesProgram) -> list[Part]:
    changed, removed = changes(have.parts, want.parts)
    parts: list[Part] = []
    for service in chained(changed, removed):
        old = have.parts[service].chains() if service in have.parts else {}
        new = want.parts[service].chains() if service in want.parts else {}
        differs = False
        for key in {**old, **new}:
            differs |= drafts[key].both(old.get(key, {}), new.get(key, {}))
        if differs:
            parts.append(want.parts[service])
    return parts


class _Draft:
    """The changes of one table being written."""

    def __init__(self, found: FoundTable) -> None:
        self._left = dict(found.chains)
        self._built_in = found.built_in
        self.gone: set[str] = set()
        self.put: dict[str, bool] = {}
        self.fixed: dict[str, Rules] = {}
        self._insert: tuple[Jump, ...] = ()
        self._replace: tuple[Jump, ...] = ()
        self._stray: tuple[Jump, ...] = ()

    def found(self, name: str, rules: Rules) -> bool:
        """Compare a wanted chain with what was found of it; whether it must be written."""
        have = self._left.pop(name, None)
        if have is not None and have == digest(rules):
            return False
        self.put[name] = have is not None
        return True

    def both(self, old: Mapping[str, Rules], new: Mapping[str, Rules], into: dict[str, Rules] | None = None) -> bool:
        """Compare chains as they were with the same as they shall be; whether any must be written."""
        differ = {name: rules for name, rules in new.items() if old.get(name) != rules}
        for name in differ:
            self.put[name] = name in old
        if into is not None:
            into.update(differ)
        self.gone.update(name for name in old if name not in new)
        return bool(differ)

    def jumps(self, have: tuple[Jump, ...], want: tuple[Jump, ...]) -> None:
        """Compare jumps by the chain they are in. Where order, number or text differs all are made anew."""
        gone = {*self._left, *self.gone} - self.put.keys()
        self._stray = tuple(jump for jump in have if jump not in want and target(jump.rule) in gone)
        for chain in dict.fromkeys(jump.chain for jump in (*have, *want)):
            old = tuple(jump for jump in have if jump.chain == chain and jump not in self._stray)
            new = tuple(jump for jump in want if jump.chain == chain)
            if not new:
                self._stray += old
            elif old != new:
                self._replace += old
                self._insert += new

    def changes(self) -> TableChanges:
        drop = sorted(name for name in (*self._left, *self.gone) if name not in self.put)
        return TableChanges(
            self.put,
            self.fixed,
            self._insert,
            self._replace,
            self._stray,
            tuple(drop),
            built_in=self._built_in,
        )


def _changes(drafts: Mapping[TableKey, _Draft], parts: list[Part]) -> IptablesChanges:
    return IptablesChanges({key: draft.changes() for key, draft in drafts.items()}, tuple(parts))


# --- as a script ----------------------------------------------------------------------------------------------------


def section_start(table: str, changes: TableChanges, *, listed: bool, scattered: bool = False) -> Iterator[str]:
    """The lines before the rules: chains are made, and flushed if they exist.

    They come in the order of their names or, `scattered`, in one that has nothing to do with them. Why, and why
    `listed`, is told in docs/decisions/0015.
    """
    yield f"*{table}\n"
    if listed:
        yield "-S\n"
    for name in sorted(chained(changes.put, changes.drop), key=_scattering if scattered else None):
        yield f":{name} - [0:0]\n"


def _scattering(name: str) -> int:
    return crc32(name.encode())


def section_end(table: str, changes: TableChanges, *, listed: bool) -> Iterator[str]:
    """The lines after the rules: jumps, then the chains that go."""
    late = changes.late() if listed else ()
    yield from (delete(jump) for jump in chained(changes.stray, changes.replace))
    yield from (insert(jump) for jump in reversed(changes.insert) if jump not in late)
    yield from (f"-X {name}\n" for name in changes.drop)
    yield "COMMIT\n"
    if late:
        yield f"*{table}\n"
        yield from map(insert, reversed(late))
        yield "COMMIT\n"


# --- for people -----------------------------------------------------------------------------------------------------


def changes_lines(changes: IptablesChanges) -> Iterator[str]:
    """`~ ip nat chain KUBE-SVC-... (2 rules)`: `+` makes, `~` replaces, `-` removes, `=` stays though not wanted."""
    for key, name, rules in changes.rules():
        sign = "~" if changes.tables[key].put[name] else "+"
        yield f"{sign} {table_name(key)} chain {name} ({len(rules)} {'rule' if len(rules) == 1 else 'rules'})"
    for key, each in changes.tables.items():
        table = table_name(key)
        yield from (f"- {table} jump {_jump(jump)}" for jump in chained(each.stray, each.replace))
        yield from (f"+ {table} jump {_jump(jump)}" for jump in each.insert)
        yield from (f"- {table} chain {name}" for name in each.drop)
        yield from (f"= {table} chain {name} stays: chain {by} refers to it" for name, by in each.kept.items())


def _jump(jump: Jump) -> str:
    return f"{jump.chain} -> {target(jump.rule)}"
