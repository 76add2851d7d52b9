"""Rules in the words of iptables, by what a trace says of them: a handle (nf_tables variant) or a number (legacy).

Comments are then there too; what nft prints of such rules lacks them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from functools import cache

from netplane.kernel import command

IPTABLES_TABLES = frozenset({"filter", "nat", "mangle", "raw", "security"})
_SAVE = {"ip": "iptables", "ip6": "ip6tables"}
_CHAIN = re.compile(r"\s*chain (?P<chain>\S+) \{")
_HANDLE = re.compile(r"# handle (?P<handle>\d+)$")
_COUNTER = re.compile(r"\bcounter packets ")
"""Every rule iptables makes has one."""
_RULE = re.compile(r"-A (?P<chain>\S+) ?(?P<rule>.*)")


class RuleTexts:
    """Rules of the calling thread's network namespace, listed once per table."""

    def __init__(self) -> None:
        self._by_handle = cache(_by_handle)
        self._legacy = cache(lambda family, table: _saved(f"{_SAVE[family]}-legacy-save", table))

    def of_handle(self, family: str, table: str, chain: str, handle: int) -> str | None:
        """The rule of an nftables handle; None if it is not a rule that iptables made."""
        if family not in _SAVE or table not in IPTABLES_TABLES:
            return None
        return self._by_handle(family, table).get((chain, handle))

    def of_number(self, family: str, table: str, chain: str, number: int) -> str:
        """The `number`th rule, from 1, of a chain of the legacy tables; "" for the end of the chain."""
        rules = self._legacy(family, table).get(chain, [])
        return rules[number - 1] if number <= len(rules) else ""


def _by_handle(family: str, table: str) -> dict[tuple[str, int], str]:
    """Rules stand in the same order in both listings; but of those nft made, iptables says what they are not."""
    program = f"{_SAVE[family]}-nft-save"
    rules = _saved(program, table) if command.find(program) else {}
    return {
        (chain, handle): rule
        for chain, handles in _handles(family, table).items()
        if len(handles) == len(rules.get(chain, []))
        for (handle, line), rule in zip(handles, rules[chain], strict=True)
        if _COUNTER.search(line)
    }


def _handles(family: str, table: str) -> dict[str, list[tuple[int, str]]]:
    """The handle of every rule of a chain, and its line."""
    listed = command.run("nft", "-a", "list", "table", family, table, mechanism="trace", doing="list handles")
    found: dict[str, list[tuple[int, str]]] = defaultdict(list)
    chain = ""
    for line in listed.splitlines():
        if opened := _CHAIN.match(line):
            chain = opened["chain"]
        elif line.strip() == "}":
            chain = ""
        elif chain and (handle := _HANDLE.search(line)):
            found[chain].append((int(handle["handle"]), line))
    return found


def _saved(program: str, table: str) -> dict[str, list[str]]:
    """The rules of each chain as `iptables-save` prints them."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in command.run(program, "-t", table, mechanism="trace", doing=f"list {table}").splitlines():
        if rule := _RULE.match(line):
            found[rule["chain"]].append(rule["rule"])
    return found
