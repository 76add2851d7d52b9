"""A second pair of eyes for the legacy variant: python-iptables reads the kernel's tables, and is compared.

It shares no code with `iptables-save`. But it crashes on some rules (NFLOG) and on threads, and cannot look at both
families in one process: it runs in a process of its own for each, `python -m netplane.kernel.iptables_readback ipv4`,
and looks at no chain that is not ours. It never writes.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Address
from typing import Any

from netplane.errors import RequirementError, UnsupportedError
from netplane.kernel import command
from netplane.kernel.iptables import IptablesDriver
from netplane.kernel.iptables_facts import IptablesFacts
from netplane.kernel.iptables_variants import Variant
from netplane.model.address import Family
from netplane.programs.iptables import TABLES, IptablesProgram, is_ours
from netplane.programs.iptables_seen import SeenTables, disagreements, option

_FAMILY = {"ipv4": Family.IPV4, "ipv6": Family.IPV6}
_GOTO = {Family.IPV4: 0x02, Family.IPV6: 0x04}  # IPT_F_GOTO, IP6T_F_GOTO


def verify(program: IptablesProgram, wish: str) -> list[str]:
    """Where python-iptables sees something else in this namespace than `program`, a line for each difference.

    Jumps of built-in chains are not looked at. Raises UnsupportedError where it can see nothing, RequirementError if
    it is not installed.
    """
    if importlib.util.find_spec("iptc") is None:
        raise RequirementError("python-iptables is missing; install it (pip install 'netplane[verify]')")
    with IptablesDriver(wish) as driver:
        driver.read(program.frames, take_over=True)
        variant = driver.variant
    if variant is not Variant.LEGACY:
        used = f"this node uses the {variant.value} variant" if variant else "there is nothing of iptables here"
        raise UnsupportedError(f"--verify: python-iptables sees only the legacy variant of iptables; {used}")
    return [line for family in Family for line in disagreements(program, family, _read_back(family))]


def _read_back(family: Family) -> SeenTables:
    name = next(word for word, each in _FAMILY.items() if each is family)
    words = (sys.executable, "-m", __name__, name)
    said = command.run(*words, mechanism="python-iptables", doing=f"read {name} tables")
    seen: SeenTables = json.loads(said)
    return seen


def main(words: list[str]) -> None:
    """Print what python-iptables sees of our chains of a family, as JSON."""
    import iptc

    family = _FAMILY[words[0]]
    with IptablesFacts() as facts:
        tables = [table for of, table in facts.legacy_marks() if of is family and table in TABLES]
    kind = iptc.Table if family is Family.IPV4 else iptc.Table6
    seen = {
        table: {
            chain.name: [sorted(_facts(rule, family)) for rule in chain.rules]
            for chain in kind(table).chains
            if is_ours(chain.name)
        }
        for table in tables
    }
    json.dump(seen, sys.stdout)


def _facts(rule: Any, family: Family) -> Iterator[str]:
    if rule.protocol != "ip":
        yield f"protocol {_no(rule.protocol)}"
    for name, address in (("source", rule.src), ("destination", rule.dst)):
        shown = _network(address, family)
        if not shown.endswith("/0"):
            yield f"{name} {shown}"
    for name, interface in (("in", rule.in_interface), ("out", rule.out_interface)):
        if interface:
            yield f"{name} {_no(interface)}"
    for match in rule.matches:
        yield f"match {match.name}"
        yield from _options(match)
    target = rule.target
    if target is not None and target.name:
        yield f"{'goto' if rule.get_ip().flags & _GOTO[family] else 'target'} {target.name}"
        if not is_ours(target.name):
            yield from _options(target)


def _options(extension: Any) -> Iterator[str]:
    for name, values in extension.get_all_parameters().items():
        no = values[:1] == ["!"]
        yield option(extension.name, name, values[1:] if no else values, no=no)


def _no(value: str) -> str:
    return f"! {value[1:]}" if value.startswith("!") else value


def _network(address: str, family: Family) -> str:
    """`10.1.0.1/32` of `10.1.0.1/255.255.255.255`."""
    start, _, mask = address.removeprefix("!").partition("/")
    no = "! " if address.startswith("!") else ""
    if family is Family.IPV4:
        return f"{no}{IPv4Network((start, mask))}"
    length = mask if mask.isdigit() else str(int(IPv6Address(mask)).bit_count())
    return f"{no}{IPv6Address(start)}/{length}"


if __name__ == "__main__":
    main(sys.argv[1:])
