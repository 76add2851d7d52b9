"""iptables comes in two variants that share no rules, and the kernel obeys both: which of them is used here.

Never both: a packet translated by one is not seen by the other. See docs/decisions/0014.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from netplane.errors import InputError, KernelError, OwnershipError, RequirementError
from netplane.kernel import command
from netplane.kernel.iptables_facts import Holding
from netplane.model.address import Family
from netplane.programs.iptables import TableKey
from netplane.programs.iptables_text import table_name

_TOOL = {Family.IPV4: "iptables", Family.IPV6: "ip6tables"}


class Variant(Enum):
    """Who keeps the rules: the old tables of the kernel, or nf_tables behind the same words."""

    LEGACY = "legacy"
    NF_TABLES = "nf_tables"

    @property
    def other(self) -> Variant:
        """The one that is not this."""
        return Variant.LEGACY if self is Variant.NF_TABLES else Variant.NF_TABLES


AUTO = "auto"
WISHES = (AUTO, *(each.value for each in Variant))
"""What may be wished for: `auto` takes the variant that is in use."""


def chosen(wish: str, holdings: dict[Variant, Holding], *, writing: bool) -> Variant:
    """The variant to use: the wished one, else that of who was here before, else what `iptables` means.

    Raises OwnershipError if that would leave Service rules in both, or if nothing decides. With `writing` the other
    variant must have none.
    """
    if wish not in WISHES:
        raise InputError(f"--iptables-variant {wish!r}: there is {', '.join(WISHES)}")
    if wish != AUTO:
        variant = Variant(wish)
        if writing:
            _refuse_both(variant, holdings)
        return variant
    signs: tuple[Callable[[Holding], bool], ...] = (
        lambda holding: bool(holding.ours),
        lambda holding: holding.hints,
        lambda holding: bool(holding.rules),
    )
    for sign in signs:
        holders = [variant for variant in Variant if sign(holdings[variant])]
        if len(holders) == 1:
            return holders[0]
        if holders and sign is signs[0]:
            _refuse_both(holders[0], holdings)
    if holders:
        raise OwnershipError(
            f"iptables: both variants hold rules ({_held(holdings, lambda each: each.rules)}) and nothing tells which "
            f"one this node uses; nothing was changed; choose with --iptables-variant"
        )
    return _meant()


def _refuse_both(variant: Variant, holdings: dict[Variant, Holding]) -> None:
    """Raise OwnershipError if the variant that is not used has Service rules."""
    other = variant.other
    if not holdings[other].ours:
        return
    if holdings[variant].ours:
        where = _held(holdings, lambda each: each.ours)
        raise OwnershipError(
            f"iptables: both variants hold chains of a Service proxy ({where}), and the kernel obeys both; nothing was "
            f"changed; remove one: netplane backend clean iptables --iptables-variant {other.value} (or "
            f"{variant.value}), or the cleanup of kube-proxy that wrote them"
        )
    raise OwnershipError(
        f"iptables: the {other.value} variant holds chains of a Service proxy "
        f"({_tables(tuple(holdings[other].ours))}), and the kernel would obey both; nothing was changed; use "
        f"--iptables-variant {other.value}, or remove them first: netplane backend clean iptables "
        f"--iptables-variant {other.value}"
    )


def _held(holdings: dict[Variant, Holding], what: Callable[[Holding], object]) -> str:
    parts = []
    for variant in Variant:
        tables = what(holdings[variant])
        parts.append(f"{variant.value}: {_tables(tuple(tables))}")  # type: ignore[arg-type]
    return "; ".join(parts)


def _tables(keys: tuple[TableKey, ...]) -> str:
    return ", ".join(table_name(key) for key in keys)


def _meant() -> Variant:
    """What `iptables` means on this host, or what there is of it."""
    for family in Family:
        if command.find(_TOOL[family]):
            return _variant_of(_TOOL[family])
    for variant in (Variant.NF_TABLES, Variant.LEGACY):
        if command.find(_own_name(Family.IPV4, variant, "restore")):
            return variant
    raise RequirementError("iptables: the program 'iptables' is missing; install it (Debian: apt install iptables)")


def tool(variant: Variant, family: Family, verb: str) -> str:
    """The program that does `verb` ("restore", "save") to a variant: `iptables-nft-restore`.

    Raises RequirementError if this host has none: which variant a program is, it is asked.
    """
    name, plain = _own_name(family, variant, verb), f"{_TOOL[family]}-{verb}"
    if command.find(name):
        return name
    if command.find(plain) and _variant_of(plain) is variant:
        return plain
    raise RequirementError(
        f"iptables: the program {name!r} is missing, for the {variant.value} variant that this node uses; "
        f"install it (Debian: apt install iptables)"
    )


def _own_name(family: Family, variant: Variant, verb: str) -> str:
    return f"{_TOOL[family]}-{'nft' if variant is Variant.NF_TABLES else 'legacy'}-{verb}"


def _variant_of(program: str) -> Variant:
    """`iptables v1.8.9 (nf_tables)`; those before 1.8 say nothing and are legacy."""
    try:
        said = command.run(program, "-V", mechanism="iptables", doing=f"ask which variant {program} is")
    except KernelError:
        return Variant.LEGACY  # too old to know the question
    return Variant.NF_TABLES if "nf_tables" in said else Variant.LEGACY
