"""The iptables driver: reads what is ours in the tables and applies changes, in whichever variant this node uses.

Reads the lines of `iptables-save`, writes scripts for `iptables-restore --noflush`. Never touches a chain or a rule
that is not ours, and never starts a process where there is nothing to do.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Generator, Iterable, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import pairwise, takewhile
from pathlib import Path
from typing import IO

from netplane.closing import Closing
from netplane.errors import KernelError
from netplane.kernel import command, iptables_lock
from netplane.kernel.iptables_facts import Holding, IptablesFacts, legacy_size
from netplane.kernel.iptables_variants import AUTO, Variant, chosen, tool
from netplane.kernel.transactions import OwnTransactions
from netplane.model.address import Family
from netplane.programs.iptables import MARKER, TableKey, is_ours
from netplane.programs.iptables_changes import IptablesChanges, TableChanges, section_end, section_start
from netplane.programs.iptables_text import IP, Found, FoundTable, chain_rules, found_table, table_name, target

_MECHANISM = "iptables"
_MANY = 100
"""Chains in a section beyond which the nf_tables variant is told to list them first (docs/decisions/0015)."""

_LARGE = 4 << 20
"""Bytes of a legacy table that are too many to look through here only to decide which variant is used."""

_LINE = re.compile(r"\bline:? (\d+)\b")
_NOISE = re.compile(
    r"\S*ip6?tables\S*( v[\d.]+ \(\w+\))?:\s*|Error occurred at line: \d+|Try `.*|\bline \d+( failed)?:?\s*"
)
_NEXT = re.compile(r"(?<=\S) (?=(?:RULE|CHAIN|TABLE)_\w+ failed)")
_MISSING = re.compile(r"Couldn't load (match|target) `([^']+)'")


class IptablesDriver(Closing):
    """Our chains in the network namespace of the thread that creates the driver. Used by one thread at a time.

    `wish` is one of `iptables_variants.WISHES`.
    """

    def __init__(self, wish: str = AUTO, own: OwnTransactions | None = None) -> None:
        self._wish = wish
        self._own = own or OwnTransactions()
        self._facts = IptablesFacts()
        self._nf_tables: tuple[int, Holding] | None = None
        self._legacy: tuple[Mapping[TableKey, bytes], Holding] | None = None
        self._left: Mapping[TableKey, bytes] = {}
        self._foreign = 0
        self.variant: Variant | None = None
        """The variant in use, None where there is nothing to use one for."""
        self.read_mark = 0
        """What `mark` was just before the last reading."""

    def read(self, wanted: Collection[TableKey], *, take_over: bool, shared: bool = False) -> Found:
        """What is ours in the tables `wanted` and wherever else we have something, at one moment for each table.

        With `take_over` the chains of kube-proxy are ours too; without, only tables with our marker count. With
        `shared` the rules of chains that are of no single Service are told, too.

        Raises OwnershipError for a chain of our name that is neither's, and if Service rules are or would be in both
        variants; RequirementError if the programs for the variant are missing.
        """
        generation, marks = self._facts.generation(), self._facts.legacy_marks()
        holdings = self._look(generation, marks, wanted)
        if not take_over:
            holdings = {variant: holding.only_marked() for variant, holding in holdings.items()}
        self.variant = None
        if wanted or any(holding.ours for holding in holdings.values()):
            variant = chosen(self._wish, holdings, writing=bool(wanted))
            if wanted or holdings[variant].ours:
                self.variant = variant
        self.read_mark = self._mark(generation, marks)
        if self.variant is None:
            return {}
        variant, holding = self.variant, holdings[self.variant]
        return {key: self._table(key, variant, holding, shared=shared) for key in sorted({*wanted, *holding.ours})}

    def decide(self) -> Variant:
        """The variant this namespace uses, were it to be written to. Raises as `read` does."""
        return chosen(self._wish, self._look(self._facts.generation(), self._facts.legacy_marks(), ()), writing=False)

    def reachable(self, key: TableKey, chains: Iterable[str]) -> frozenset[str]:
        """The chains of ours that these chains lead to, and these."""
        edges: dict[str, set[str]] = {}
        for line in self._saved(key, self.variant) if self.variant else ():
            if line.startswith("-A "):
                name, _, rule = line[3:].rstrip("\n").partition(" ")
                to = target(rule) if is_ours(name) else ""
                if is_ours(to):
                    edges.setdefault(name, set()).add(to)
        found: set[str] = set()
        ahead = [*chains]
        while ahead:
            name = ahead.pop()
            if name not in found:
                found.add(name)
                ahead.extend(edges.get(name, ()))
        return frozenset(found)

    def apply(self, changes: IptablesChanges) -> None:
        """Carry out the changes, a process for each family; what is in one table happens at one stroke.

        Raises KernelError naming the line that was refused; then what was not yet done is not done.
        """
        if self.variant is None:
            return
        self.mark()
        with ExitStack() as stack:
            bodies = {
                key: stack.enter_context(closing(spool(table_name(key))))
                for family in Family
                for key in ((family, table) for table in changes.of(family))
            }
            for key, name, rules in changes.rules():
                bodies[key].write("".join(chain_rules(name, rules)).encode())
            for family in Family:
                if tables := changes.of(family):
                    with spool(IP[family]) as script:
                        commits = self._write(script, tables, {table: bodies[family, table] for table in tables})
                        restore(self.variant, family, script)
                    self._own.count += commits if self.variant is Variant.NF_TABLES else 0
        if self.variant is Variant.LEGACY:
            self._left = self._facts.legacy_marks()

    def mark(self) -> int:
        """A number that stays the same for as long as nobody but us changes anything where our rules are.

        In the legacy variant a change that keeps number, size and shape of the rules is not seen, nor is one in the
        instant after our own.
        """
        if self.variant is Variant.LEGACY:
            return self._mark(0, self._facts.legacy_marks())
        return self._mark(self._facts.generation(), {})

    def _mark(self, generation: int, marks: Mapping[TableKey, bytes]) -> int:
        if self.variant is not Variant.LEGACY:
            return generation - self._own.count
        if marks != self._left:
            self._left = marks
            self._foreign += 1
        return self._foreign

    def close(self) -> None:
        """Close the sockets; what was made stays."""
        self._facts.close()

    def _look(
        self, generation: int, marks: Mapping[TableKey, bytes], wanted: Collection[TableKey]
    ) -> dict[Variant, Holding]:
        if self._nf_tables is None or self._nf_tables[0] != generation:
            self._nf_tables = generation, self._facts.nf_tables()
        if self._legacy is None or self._legacy[0] != marks:
            self._legacy = marks, self._facts.legacy(marks, self._known(marks, wanted))
        return {Variant.NF_TABLES: self._nf_tables[1], Variant.LEGACY: self._legacy[1]}

    def _known(self, marks: Mapping[TableKey, bytes], wanted: Collection[TableKey]) -> dict[TableKey, frozenset[str]]:
        """Chains of legacy tables that are ours anyway, or so large that another process had better copy them."""
        known: dict[TableKey, frozenset[str]] = {}
        for key, mark in marks.items():
            if self.variant is Variant.LEGACY and key in wanted:
                known[key] = frozenset({MARKER})
            elif legacy_size(mark) > _LARGE:
                with closing(self._saved(key, Variant.LEGACY)) as lines:
                    chains = takewhile(lambda line: not line.startswith("-A "), lines)
                    known[key] = frozenset(line[1:].split()[0] for line in chains if line.startswith(":"))
        return known

    def _table(self, key: TableKey, variant: Variant, holding: Holding, *, shared: bool) -> FoundTable:
        built_in = holding.built_in.get(key, frozenset())
        if key not in holding.ours:
            return FoundTable(built_in=built_in)
        with closing(self._saved(key, variant)) as lines:
            return replace(found_table(key, lines, shared=shared), built_in=built_in)

    def _saved(self, key: TableKey, variant: Variant) -> Generator[str, None, None]:
        doing = f"read {table_name(key)}"
        save = tool(variant, key[0], "save")
        with command.lines(save, "-t", key[1], mechanism=_MECHANISM, doing=doing) as lines:
            yield from lines

    def _write(self, script: IO[bytes], tables: Mapping[str, TableChanges], bodies: Mapping[str, IO[bytes]]) -> int:
        """Write the script of one family; returns how many transactions it makes."""
        commits = 0
        for table, changes in tables.items():
            nf_tables = self.variant is Variant.NF_TABLES
            listed = nf_tables and len(changes.put) + len(changes.drop) > _MANY
            start = section_start(table, changes, listed=listed, scattered=nf_tables)
            script.writelines(line.encode() for line in start)
            bodies[table].seek(0)
            shutil.copyfileobj(bodies[table], script, 1 << 20)
            end = [*section_end(table, changes, listed=listed)]
            script.writelines(line.encode() for line in end)
            commits += end.count("COMMIT\n")
        return commits


def restore(variant: Variant, family: Family, script: IO[bytes]) -> None:
    """Run a script, keeping what it does not mention. Raises KernelError naming the line that was refused."""
    script.flush()
    words = (tool(variant, family, "restore"), "-w", str(iptables_lock.SECONDS), "--noflush")
    try:
        command.feed(*words, stdin=script.fileno(), mechanism=_MECHANISM, doing=f"restore {IP[family]}")
    except KernelError as error:
        raise _explained(error, family, variant, script) from error


def spool(name: str) -> IO[bytes]:
    """A file in memory, outside of this process's own."""
    return os.fdopen(os.memfd_create(f"netplane {name}", os.MFD_CLOEXEC), "w+b", buffering=1 << 18)


# --- refusals -------------------------------------------------------------------------------------------------------


def _explained(error: KernelError, family: Family, variant: Variant, script: IO[bytes]) -> KernelError:
    """The same failure with the line it is about, and with what can be done."""
    if "xtables lock" in error.said:
        said = f"another program has the lock of iptables for {iptables_lock.SECONDS} s: {iptables_lock.held()}"
        return KernelError(mechanism=_MECHANISM, doing=f"restore {IP[family]}", said=said)
    why = _NEXT.split(" ".join(_NOISE.sub("", error.said).split()))[0] or "refused"
    number = _LINE.search(error.said)
    if not number:
        return KernelError(mechanism=_MECHANISM, doing=f"restore {IP[family]}", said=error.said)
    table, line = _line(script, int(number[1]))
    place = f"{IP[family]} {table}, line {number[1]}: {line}"
    if missing := _MISSING.search(why):
        why = f"this iptables has no {missing[1]} {missing[2]!r}: install it, or a newer iptables"
    elif line == "COMMIT" and variant is Variant.LEGACY and (lacking := _unknown(script, family, table)):
        why = f"the kernel refused the table; it does not have {', '.join(lacking)}"
    elif "RULE_" in why:
        why += f"; does this kernel have {', '.join(_extensions(line))}?"
    return KernelError(mechanism=_MECHANISM, doing=f"restore {place}", said=why)


def _line(script: IO[bytes], number: int) -> tuple[str, str]:
    """The table that a line of the script belongs to, and the line."""
    table = line = ""
    script.seek(0)
    for at, each in enumerate(script, 1):
        line = each.decode(errors="backslashreplace").rstrip("\n")
        if line.startswith("*"):
            table = line[1:]
        if at == number:
            break
    return table, line


def _extensions(rule: str) -> list[str]:
    """The matches and the target of a rule."""
    words = rule.split()
    return [word for before, word in pairwise(words) if before in ("-m", "-j") and not is_ours(word)]


def _unknown(script: IO[bytes], family: Family, table: str) -> list[str]:
    """The matches and targets of a section that the kernel does not list, now that it was asked for them."""
    prefix = "ip" if family is Family.IPV4 else "ip6"
    listed: set[str] = {"ACCEPT", "DROP", "RETURN"}
    for kind in ("matches", "targets"):
        path = Path("/proc/thread-self/net", f"{prefix}_tables_{kind}")
        listed.update(path.read_text().split() if path.exists() else ())
    used: dict[str, None] = {}
    here = ""
    script.seek(0)
    for each in script:
        if each.startswith(b"*"):
            here = each[1:].strip().decode()
        elif here == table and each.startswith(b"-A "):
            used.update(dict.fromkeys(_extensions(each.decode(errors="backslashreplace"))))
    return [name for name in used if name not in listed]
