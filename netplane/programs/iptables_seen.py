"""Rules as facts, to compare what two readers of the kernel say: `source 10.1.0.1/32`, `DNAT --to-destination ...`.

Only for checking. What is written and what is compared on every round is text.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence

from netplane.model.address import Family
from netplane.programs.iptables import IptablesProgram
from netplane.programs.iptables_text import table_name, whole_chains

Facts = tuple[str, ...]
"""Sorted."""

SeenTables = Mapping[str, Mapping[str, Sequence[Sequence[str]]]]
"""The facts of each rule, by table and chain."""

_OWN_OPTIONS = {"-p": "protocol", "-s": "source", "-d": "destination", "-i": "in", "-o": "out"}
_EXTENSIONS = {"-m": "match", "-j": "target", "-g": "goto"}


def rule_facts(rule: str) -> Facts:
    """The facts of a rule as `iptables-save` prints it.

    `-s 10.1.0.1/32 -m comment --comment "shop/web" -j KUBE-MARK-MASQ` is `comment --comment shop/web`,
    `match comment`, `source 10.1.0.1/32`, `target KUBE-MARK-MASQ`.
    """
    return tuple(sorted(_facts(shlex.split(rule))))


def _facts(words: list[str]) -> Iterator[str]:
    extension, no, at = "", "", 0
    while at < len(words):
        word = words[at]
        at += 1
        if word == "!":
            no = "! "
            continue
        if word in _EXTENSIONS:
            extension = words[at]
            at += 1
            yield f"{_EXTENSIONS[word]} {extension}"
        elif word in _OWN_OPTIONS:
            yield f"{_OWN_OPTIONS[word]} {no}{words[at]}"
            at += 1
        else:
            end = at + 1 if word == "--comment" else _end_of_values(words, at)
            yield option(extension, word.removeprefix("--"), words[at:end], no=bool(no))
            at = end
        no = ""


def option(extension: str, name: str, values: Sequence[str], *, no: bool = False) -> str:
    """One option of a match or target: `conntrack ! --ctstate NEW`."""
    return " ".join((extension, *(("!",) if no else ()), f"--{name}", *values))


def _end_of_values(words: list[str], at: int) -> int:
    while at < len(words) and words[at] != "!" and not words[at].startswith("-"):
        at += 1
    return at


def disagreements(program: IptablesProgram, family: Family, seen: SeenTables) -> Iterator[str]:
    """Where `seen`, the chains of ours that another reader found, is not what the program says."""
    tables = {table for of, table in program.frames if of is family}
    for table in sorted({*tables, *seen}):
        wanted = whole_chains(program, (family, table)) if table in tables else {}
        found = seen.get(table, {})
        name = table_name((family, table))
        for chain in sorted({*wanted, *found}):
            if chain not in found:
                yield f"! {name} chain {chain} is not seen"
            elif chain not in wanted:
                yield f"! {name} chain {chain} is seen, and nobody wants it"
            else:
                yield from _rules(f"! {name} chain {chain}", wanted[chain], found[chain])


def _rules(chain: str, wanted: Sequence[str], found: Sequence[Sequence[str]]) -> Iterator[str]:
    if len(wanted) != len(found):
        yield f"{chain} is seen with {len(found)} rules, not {len(wanted)}"
        return
    for number, (rule, facts) in enumerate(zip(wanted, found, strict=True), 1):
        want, have = {*rule_facts(rule)}, {*facts}
        if want != have:
            seen, missing = ", ".join(sorted(have - want)), ", ".join(sorted(want - have))
            yield f"{chain} rule {number} is seen with ({seen}) instead of ({missing})"
