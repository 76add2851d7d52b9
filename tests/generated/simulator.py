"""The kernel's tables as plain values, changed by `NftablesChanges` with the strictness of the kernel.

What is missing cannot be removed, what is there cannot be added again, and nothing is removed that is referred to.
Each half of the changes is its own series of transactions, as the driver does it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from netplane.model.address import Family
from netplane.programs.nftables import (
    NFT_FAMILY,
    Data,
    ElementChanges,
    Found,
    FoundChain,
    FoundTable,
    Hook,
    NftablesChanges,
    NftablesProgram,
)
from netplane.programs.nftables_changes import as_found

_FAMILY = {word: family for family, word in NFT_FAMILY.items()}
_LINE = re.compile(r"(add|flush|delete) (table|set|map|chain|rule) (ip6?) netplane ?(\S*) ?(.*)")
_HOOK = re.compile(r"\{ type (\w+) hook (\w+) priority (-?\d+); \}")
_RULE = re.compile(r'(.+) comment "([0-9a-f]{8})"')
_TO = re.compile(r"\b(?:goto|jump) (\S+)")
_SET = re.compile(r"@(\S+)")


class Refused(AssertionError):
    """The kernel would not do this."""


@dataclass
class _Chain:
    hook: Hook | None
    rules: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class _Table:
    chains: dict[str, _Chain] = field(default_factory=dict)
    sets: dict[str, bool] = field(default_factory=dict)
    elements: dict[str, dict[bytes, Data]] = field(default_factory=dict)


class Simulator:
    """An nf_tables that holds our tables only."""

    def __init__(self) -> None:
        self._tables: dict[Family, _Table] = {}

    def apply(self, changes: NftablesChanges) -> None:
        """Make, then sweep."""
        self.make(changes)
        self.sweep(changes)

    def make(self, changes: NftablesChanges) -> None:
        self.script(changes.make_structure)
        self.change(changes.make_elements)
        self.script(changes.make_hooks)

    def sweep(self, changes: NftablesChanges) -> None:
        self.change(changes.sweep_elements)
        self.script(changes.sweep_structure)

    def found(self) -> Found:
        """What a driver would read."""
        return {
            family: FoundTable(
                chains={
                    name: FoundChain(name, tuple(digest for _, digest in chain.rules), chain.hook)
                    for name, chain in table.chains.items()
                },
                sets=dict(table.sets),
                elements={name: dict(found) for name, found in table.elements.items()},
            )
            for family, table in self._tables.items()
        }

    def script(self, text: str) -> None:
        """One transaction of `nft -f -`: references are checked at its end."""
        for line in text.splitlines():
            if not (match := _LINE.fullmatch(line)):
                raise Refused(f"unknown line: {line}")
            self._line(*match.groups())
        self._check()

    def change(self, changes: ElementChanges) -> None:
        """One transaction of elements, removals first."""
        for (family, name), elements in changes.remove.items():
            have = self._set(family, name)
            for key, data in elements.items():
                if key not in have or have[key] != data:
                    raise Refused(f"remove what is not there: {name} {key.hex()} {data}")
                del have[key]
        for (family, name), elements in changes.add.items():
            have = self._set(family, name)
            for key, data in elements.items():
                if key in have:
                    raise Refused(f"add what is there: {name} {key.hex()}")
                if name == "allowed" and any(_overlap(key, other) for other in have):
                    raise Refused(f"add a range that overlaps another: {name} {key.hex()}")
                have[key] = data
        self._check()

    def _set(self, family: Family, name: str) -> dict[bytes, Data]:
        table = self._tables[family]
        if name not in table.sets:
            raise Refused(f"no set {name}")
        if table.sets[name]:
            raise Refused(f"set {name} is filled by packets")
        return table.elements.setdefault(name, {})

    def _line(self, verb: str, what: str, family: str, name: str, rest: str) -> None:
        if what == "table":
            if verb == "add":
                self._tables.setdefault(_FAMILY[family], _Table())
            else:
                del self._tables[_FAMILY[family]]
            return
        table = self._tables[_FAMILY[family]]
        match verb, what:
            case "add", "chain":
                hook = _HOOK.fullmatch(rest)
                made = Hook(hook[1], hook[2], int(hook[3])) if hook else None
                if table.chains.setdefault(name, _Chain(made)).hook != made:
                    raise Refused(f"chain {name} has another hook")
            case "add", "rule":
                if not (rule := _RULE.fullmatch(rest)):
                    raise Refused(f"a rule without digest: {rest}")
                table.chains[name].rules.append((rule[1], rule[2]))
            case "add", _:
                if name in table.sets:
                    raise Refused(f"set {name} is there")
                table.sets[name] = "flags dynamic" in rest
            case "flush", "chain":
                table.chains[name].rules.clear()
            case "delete", "chain":
                del table.chains[name]
            case "delete", _:
                del table.sets[name]
                table.elements.pop(name, None)

    def _check(self) -> None:
        """Whatever is referred to is there."""
        for table in self._tables.values():
            rules = [rule for chain in table.chains.values() for rule, _ in chain.rules]
            texts = [
                data for elements in table.elements.values() for data in elements.values() if isinstance(data, str)
            ]
            for text in (*rules, *texts):
                if gone := set(_TO.findall(text)) - table.chains.keys():
                    raise Refused(f"chain {gone} is referred to: {text}")
                if gone := set(_SET.findall(text)) - table.sets.keys():
                    raise Refused(f"set {gone} is referred to: {text}")


def _overlap(one: bytes, other: bytes) -> bool:
    """Whether two ranges of one frontend have anything in common."""
    half = len(one) // 2
    return one[:half] <= other[half:] and other[:half] <= one[half:]


def plain(found: Found) -> dict[Family, tuple[object, object, object]]:
    """A state that compares: chains with digests, sets, elements; sets without elements are not mentioned."""
    return {
        family: (
            dict(table.chains),
            dict(table.sets),
            {name: dict(elements) for name, elements in table.elements.items() if elements},
        )
        for family, table in found.items()
    }


def wanted(program: NftablesProgram) -> dict[Family, tuple[object, object, object]]:
    """What `plain` shows of a kernel that has `program`."""
    return plain(as_found(program))
