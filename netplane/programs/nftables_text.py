"""nftables state as text `nft -f -` understands: for people, for cases and for structure on its way to the kernel."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, summarize_address_range
from struct import unpack

from netplane.model.address import Family
from netplane.programs.nftables import (
    NFT_FAMILY,
    TABLE,
    TABLE_COMMENT,
    Chain,
    Data,
    Field,
    NftablesChanges,
    NftablesProgram,
    SetName,
    SetSpec,
    Structure,
    digest,
)

_PROTOCOL_NAMES = {6: "tcp", 17: "udp", 132: "sctp"}


def program_script(program: NftablesProgram) -> str:
    """The whole program as one script: loaded into an empty kernel it gives the state the program wants."""
    lines: list[str] = []
    for family in sorted(program.structure):
        whole = whole_structure(program, family)
        lines.append(add_table(family, program.table))
        lines.extend(add_set(family, spec, program.table) for spec in whole.sets.values())
        lines.extend(add_chain(family, chain, program.table) for chain in whole.chains.values())
        for chain in whole.chains.values():
            lines.extend(add_rules(family, chain, program.table))
        for name, elements in sorted(whole_elements(program, family).items()):
            spec = whole.sets[name]
            at = f"{NFT_FAMILY[family]} {program.table} {name}"
            lines.extend(
                f"add element {at} {{ {element_text(spec, key, data)} }}" for key, data in sorted(elements.items())
            )
    return "".join(f"{line}\n" for line in lines)


def whole_structure(program: NftablesProgram, family: Family) -> Structure:
    """Structure of one table with what every Service adds to it, sorted by name."""
    base = program.structure[family]
    chains, sets = dict(base.chains), dict(base.sets)
    for part in program.parts.values():
        if own := part.structure.get(family):
            chains.update(own.chains)
            sets.update(own.sets)
    return Structure(dict(sorted(chains.items())), dict(sorted(sets.items())))


def whole_elements(program: NftablesProgram, family: Family) -> dict[str, dict[bytes, Data]]:
    """All elements of one table, by set."""
    whole: dict[str, dict[bytes, Data]] = {}
    for part in program.parts.values():
        for (its_family, name), elements in part.elements.items():
            if its_family is family:
                whole.setdefault(name, {}).update(elements)
    return whole


def add_table(family: Family, table: str = TABLE) -> str:
    """`add table ip netplane { comment "made by netplane"; }`."""
    return f'add table {NFT_FAMILY[family]} {table} {{ comment "{TABLE_COMMENT}"; }}'


def add_set(family: Family, spec: SetSpec, table: str = TABLE) -> str:
    """`add map ip netplane slots { typeof ...; }`."""
    return f"add {_kind(spec)} {NFT_FAMILY[family]} {table} {spec.name} {spec.declaration}"


def _kind(spec: SetSpec) -> str:
    return "map" if spec.data or spec.verdicts else "set"


def add_chain(family: Family, chain: Chain, table: str = TABLE) -> str:
    """`add chain ip netplane output { type nat hook output priority -100; }`."""
    hook = f" {{ {chain.hook} }}" if chain.hook else ""
    return f"add chain {NFT_FAMILY[family]} {table} {chain.name}{hook}"


def add_rules(family: Family, chain: Chain, table: str = TABLE) -> Iterator[str]:
    """The rules in order, each with its digest as comment."""
    for rule in chain.rules:
        yield f'add rule {NFT_FAMILY[family]} {table} {chain.name} {rule} comment "{digest(rule)}"'


def element_text(spec: SetSpec, key: bytes, data: Data) -> str:
    """`10.96.0.10 . tcp . 80 . 0 : 10.0.1.5 . 8080`, as nft prints it."""
    if spec.interval:
        half = len(key) // 2
        text = _range_text(spec.key, key[:half], key[half:])
    else:
        text = _fields_text(spec.key, key)
    match data:
        case None:
            return text
        case str():
            return f"{text} : {data}"
        case bytes():
            return f"{text} : {_fields_text(spec.data, data)}"


def changes_lines(changes: NftablesChanges, want: NftablesProgram) -> Iterator[str]:
    """Changes for people, in the order they are carried out: `+` makes, `-` sweeps, `~` replaces. Written when read."""
    specs = {
        (family, name): spec for family in want.structure for name, spec in whole_structure(want, family).sets.items()
    }

    def shown(where: SetName, key: bytes, data: Data) -> str:
        spec = specs.get(where)
        text = element_text(spec, key, data) if spec else key.hex()
        return f"{NFT_FAMILY[where[0]]} {where[1]} {{ {text} }}"

    make, sweep = changes.make_elements, changes.sweep_elements
    yield from (f"+ {line}" for line in changes.make_structure.splitlines())
    for where, elements in sorted(make.add.items()):
        replaced = make.remove.get(where, {})
        for key, data in sorted(elements.items()):
            yield f"{'~' if key in replaced else '+'} {shown(where, key, data)}"
    for where, elements in sorted(make.remove.items()):
        added = make.add.get(where, {})
        yield from (f"- {shown(where, key, data)}" for key, data in sorted(elements.items()) if key not in added)
    yield from (f"+ {line}" for line in changes.make_hooks.splitlines())
    for where, elements in sorted(sweep.remove.items()):
        yield from (f"- {shown(where, key, data)}" for key, data in sorted(elements.items()))
    yield from (f"- {line}" for line in changes.sweep_structure.splitlines())


def _fields_text(fields: tuple[Field, ...], value: bytes) -> str:
    return " . ".join(_split(fields, value))


def _split(fields: tuple[Field, ...], value: bytes) -> Iterator[str]:
    at = 0
    for each in fields:
        yield _field_text(each, value[at : at + each.size])
        at += -(-each.size // 4) * 4


def _field_text(each: Field, value: bytes) -> str:
    match each:
        case Field.ADDRESS4:
            return str(IPv4Address(value))
        case Field.ADDRESS6:
            return str(IPv6Address(value))
        case Field.PROTOCOL:
            return _PROTOCOL_NAMES.get(value[0], str(value[0]))
        case Field.PORT:
            return str(int.from_bytes(value, "big"))
        case Field.SLOT:
            return str(unpack("=I", value)[0])


def _range_text(fields: tuple[Field, ...], first: bytes, last: bytes) -> str:
    pairs = zip(_split(fields, first), _split(fields, last), strict=True)
    return " . ".join(low if low == high else _between(low, high) for low, high in pairs)


def _between(low: str, high: str) -> str:
    """A range of addresses, as a prefix where it is one."""
    if ":" in low:
        whole = [*summarize_address_range(IPv6Address(low), IPv6Address(high))]
        return str(whole[0]) if len(whole) == 1 else f"{low}-{high}"
    narrow = [*summarize_address_range(IPv4Address(low), IPv4Address(high))]
    return str(narrow[0]) if len(narrow) == 1 else f"{low}-{high}"
