"""iptables state as text: the lines of `iptables-save` as a value, and changes as a script of `iptables-restore`.

Text travels line by line: the rules of 100 000 endpoints are never one string.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from netplane.errors import OwnershipError
from netplane.model.address import Family
from netplane.programs.iptables import MARKER, TABLES, IptablesProgram, Jump, TableKey, is_of_a_service, is_ours
from netplane.programs.iptables_tree import Rules

IP = {Family.IPV4: "ip", Family.IPV6: "ip6"}
HEADING = {Family.IPV4: "# iptables-restore --noflush", Family.IPV6: "# ip6tables-restore --noflush"}
"""What stands above each family's part of a text for both."""

_TARGET = re.compile(r"(?:^|(?<= ))-[jg] (?=(\S+))")
_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"')

# What kube-proxy's chains lead to, besides its own chains (its rules are read only to take them over).
_KUBE_PROXY = frozenset({
    "", "ACCEPT", "DROP", "REJECT", "RETURN", "MARK", "MASQUERADE", "DNAT", "KUBE-FIREWALL", "KUBE-MARK-DROP",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class FoundTable:
    """What is ours in one table of the kernel. Rules are not kept, only what tells whether they are as wanted."""

    chains: Mapping[str, int] = field(default_factory=dict)
    """`digest` of the rules of each chain of ours."""
    jumps: tuple[Jump, ...] = ()
    """The rules of built-in chains that lead to ours, in order."""
    built_in: frozenset[str] = frozenset()
    """The built-in chains there are: the nf_tables variant makes them when they are first used."""
    references: Mapping[str, str] = field(default_factory=dict)
    """Chains of ours that somebody else's chain refers to, and that chain."""
    shared: Mapping[str, Rules] = field(default_factory=dict)
    """The rules of those chains that are of no single Service; only kept where they were asked for."""


Found = Mapping[TableKey, FoundTable]


def digest(rules: Iterable[str]) -> int:
    """A number that is the same for the same rules, within this process."""
    return hash(tuple(rules))


def target(rule: str) -> str:
    """Where a rule leads by `-j` or `-g`, "" if nowhere."""
    found = _TARGET.findall(_QUOTED.sub("", rule) if '"' in rule else rule)
    return found[-1] if found else ""


def table_name(key: TableKey) -> str:
    """`ip nat`."""
    return f"{IP[key[0]]} {key[1]}"


def found_table(key: TableKey, lines: Iterable[str], *, shared: bool = False) -> FoundTable:
    """What `iptables-save -t TABLE` printed. `shared`: keep the rules of chains that are of no single Service.

    Raises OwnershipError if a chain of our name has a rule that neither netplane nor kube-proxy would write, and
    the marker is not there to say that the chain is ours all the same.
    """
    reading = _Reading(key, shared=shared)
    for line in lines:
        if line.startswith("-A "):
            chain, _, rule = line[3:].rstrip("\n").partition(" ")
            reading.rule(chain, rule)
        elif line.startswith(":"):
            reading.chain(*line[1:].split()[:2])
    return reading.done()


class _Reading:
    """One table being read: the rules of a chain follow one another."""

    def __init__(self, key: TableKey, *, shared: bool) -> None:
        self._key = key
        self._keep = shared
        self._shared: dict[str, Rules] = {}
        self._ours: dict[str, int] = {}
        self._built_in: set[str] = set()
        self._jumps: list[Jump] = []
        self._references: dict[str, str] = {}
        self._at = ""
        self._rules: list[str] = []

    def chain(self, name: str, policy: str) -> None:
        if is_ours(name):
            self._ours[name] = digest(())
        elif policy != "-":
            self._built_in.add(name)

    def rule(self, chain: str, rule: str) -> None:
        if chain not in self._ours:
            self._others(chain, rule)
            return
        if chain != self._at:
            self._end()
            self._at = chain
        self._rules.append(rule)
        if MARKER not in self._ours:
            self._written_for_services(chain, rule)

    def done(self) -> FoundTable:
        self._end()
        return FoundTable(self._ours, tuple(self._jumps), frozenset(self._built_in), self._references, self._shared)

    def _end(self) -> None:
        if self._rules:
            self._ours[self._at] = digest(self._rules)
            if self._keep and not is_of_a_service(self._at):
                self._shared[self._at] = tuple(self._rules)
            self._rules = []

    def _others(self, chain: str, rule: str) -> None:
        to = target(rule)
        if to not in self._ours:
            return
        if chain in self._built_in:
            self._jumps.append(Jump(chain, rule))
        else:
            self._references.setdefault(to, chain)

    def _written_for_services(self, chain: str, rule: str) -> None:
        to = target(rule)
        if to in _KUBE_PROXY or is_ours(to):
            return
        table = table_name(self._key)
        raise OwnershipError(
            f"iptables: {table} chain {chain} is not ours: it has the rule '-A {chain} {rule}', which neither netplane "
            f"nor kube-proxy writes; nothing was changed; rename the chain, or remove the rule; or say that the chain "
            f"is netplane's with: {'iptables' if self._key[0] is Family.IPV4 else 'ip6tables'} -t {self._key[1]} "
            f"-N {MARKER}"
        )


# --- writing --------------------------------------------------------------------------------------------------------


def chain_rules(chain: str, rules: Rules) -> Iterator[str]:
    """`-A KUBE-SVC-... ...`, a line for each rule."""
    for rule in rules:
        yield f"-A {chain} {rule}\n"


def program_script(program: IptablesProgram) -> str:
    """The whole program as text for iptables-restore and, under its heading, for ip6tables-restore.

    Loaded into an empty kernel it gives the state the program wants.
    """
    lines: list[str] = []
    for family in Family:
        keys = [(family, table) for table in TABLES if (family, table) in program.frames]
        if keys:
            lines.append(f"{HEADING[family]}\n")
        for key in keys:
            chains = whole_chains(program, key)
            lines.append(f"*{key[1]}\n")
            lines.extend(f":{name} - [0:0]\n" for name in chains)
            for name, rules in chains.items():
                lines.extend(chain_rules(name, rules))
            lines.extend(insert(jump) for jump in reversed(program.frames[key].jumps))
            lines.append("COMMIT\n")
    return "".join(lines)


def scripts(text: str) -> dict[Family, str]:
    """The script of each family in a text with headings; without any it is all IPv4."""
    found: dict[Family, str] = {}
    family = Family.IPV4
    for line in text.splitlines(keepends=True):
        family = next((each for each in Family if line.rstrip() == HEADING[each]), family)
        found[family] = found.get(family, "") + line
    return found


def whole_chains(program: IptablesProgram, key: TableKey) -> dict[str, Rules]:
    """All chains of one table: of the frame, of the trees and of the Services, in this order, each sorted by name."""
    whole = dict(sorted(fixed_chains(program, key).items()))
    of_services: dict[str, Rules] = {}
    for part in program.parts.values():
        of_services.update(part.chains().get(key, {}))
    return whole | dict(sorted(of_services.items()))


def fixed_chains(program: IptablesProgram, key: TableKey) -> dict[str, Rules]:
    """The chains of one table that belong to no Service: the marker, the frame and the trees."""
    if key not in program.frames:
        return {}
    chains: dict[str, Rules] = {MARKER: (), **program.frames[key].chains}
    for tree in program.trees.get(key, ()):
        chains.update(tree.chains())
    return chains


def insert(jump: Jump) -> str:
    """`-I PREROUTING ... -j KUBE-SERVICES`: first in its chain."""
    return f"-I {jump.chain} {jump.rule}\n"


def delete(jump: Jump) -> str:
    """`-D PREROUTING ... -j KUBE-SERVICES`."""
    return f"-D {jump.chain} {jump.rule}\n"
