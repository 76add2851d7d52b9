"""Attachments with random values in every field, made from the fields' types."""

import random
from dataclasses import fields, is_dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from types import NoneType
from typing import get_args, get_origin, get_type_hints

from cni.attachment import Attachment

LETTERS = "aZ09-_./ \"\\'\n\x00\x1e\x7fé\ud800\u2028😀"


def attachment(chance: random.Random) -> Attachment:
    """Any attachment that the types allow."""
    return value(Attachment, chance)


def value(kind, chance):
    """Any value of a type that a field may have."""
    members = get_args(kind)
    if get_origin(kind) is tuple:
        many = members[-1] is ...
        return tuple(value(each, chance) for each in (members[:1] * chance.randrange(4) if many else members))
    if members:
        return value(chance.choice(members), chance)
    if kind in SIMPLE:
        return SIMPLE[kind](chance)
    if issubclass(kind, Enum):
        return chance.choice(list(kind))
    if issubclass(kind, tuple):
        return kind(*(value(each, chance) for each in get_type_hints(kind).values()))
    assert is_dataclass(kind)
    hints = get_type_hints(kind)
    chosen = [each.name for each in fields(kind) if not _has_default(each) or chance.random() < 0.8]
    return kind(**{name: value(hints[name], chance) for name in chosen})


def _has_default(field):
    return field.default is not field.default_factory  # both are MISSING where there is none


def _network(kind, bits):
    def made(chance):
        length = chance.randrange(bits + 1)
        return kind((chance.randrange(2**bits) >> (bits - length) << (bits - length), length))

    return made


SIMPLE = {
    NoneType: lambda chance: None,
    bool: lambda chance: chance.random() < 0.5,
    int: lambda chance: chance.choice([0, 1, -1, 65535, 2**32, 2**63, chance.randrange(2**40)]),
    str: lambda chance: "".join(chance.choice(LETTERS) for _ in range(chance.randrange(12))),
    bytes: lambda chance: chance.randbytes(chance.choice([0, 6])),
    IPv4Address: lambda chance: IPv4Address(chance.randrange(2**32)),
    IPv6Address: lambda chance: IPv6Address(chance.choice([0, 1, 2**128 - 1, chance.randrange(2**128)])),
    IPv4Interface: lambda chance: IPv4Interface((chance.randrange(2**32), chance.randrange(33))),
    IPv6Interface: lambda chance: IPv6Interface((chance.randrange(2**128), chance.randrange(129))),
    IPv4Network: _network(IPv4Network, 32),
    IPv6Network: _network(IPv6Network, 128),
}
