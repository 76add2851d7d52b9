"""The state of the nftables tables that are ours.

A table has *structure* (chains with their rules, declarations of sets) and *elements* of sets and maps.
Structure is small, is written as text and is recognised in the kernel by a digest in each rule's comment;
elements are many and are kept in the kernel's own bytes, so that comparing and sending them needs no parsing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from netplane.model.address import Family

TABLE = "netplane"
"""The table of the Services. Others of ours, as the CNI plugin's, have names of their own."""
TABLE_COMMENT = "made by netplane"
"""How a table says it is ours, to a process with no memory: a table of this name without it is somebody else's."""

KUBE_PROXY_TABLE, KUBE_PROXY_COMMENT = "kube-proxy", "rules for kube-proxy"
"""What kube-proxy 1.29 and later calls its own table and writes into its comment: what a take-over removes."""

NFT_FAMILY = {Family.IPV4: "ip", Family.IPV6: "ip6"}


class Field(Enum):
    """One part of a set's key or a map's data, with its nft type. Each takes a multiple of four bytes."""

    ADDRESS4 = "ipv4_addr"
    ADDRESS6 = "ipv6_addr"
    PROTOCOL = "inet_proto"
    PORT = "inet_service"
    SLOT = "slot"
    """A choice of `numgen`: 32 bits in host byte order."""

    @property
    def size(self) -> int:
        """Bytes the value itself takes, before padding to a register."""
        return {"ipv4_addr": 4, "ipv6_addr": 16, "inet_proto": 1, "inet_service": 2, "slot": 4}[self.value]


Data = bytes | str | None
"""What a map holds for a key: bytes, or the text of a verdict ("goto masq-pick-2", "drop"); None in a set."""


@dataclass(frozen=True, slots=True)
class SetSpec:
    """The declaration of a set or map, as text after its name: `{ type ipv4_addr : verdict; }`.

    `key` and `data` name the fields of an element, each padded to four bytes in the kernel; `data` is empty for a
    set, and for a map whose data is a verdict (`verdicts`). `dynamic` sets are filled by packets: their elements
    are the kernel's business and are neither read nor compared. `interval` keys hold two keys of half the length
    after one another: first and last.
    """

    name: str
    declaration: str
    key: tuple[Field, ...] = ()
    data: tuple[Field, ...] = ()
    verdicts: bool = False
    dynamic: bool = False
    interval: bool = False


@dataclass(frozen=True, slots=True)
class Hook:
    """Where a base chain hangs: `type nat hook prerouting priority -100`."""

    type: str
    hook: str
    priority: int

    def __str__(self) -> str:
        return f"type {self.type} hook {self.hook} priority {self.priority};"


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain and its rules in order. `rules` are nft text without comments; comments carry the digests."""

    name: str
    rules: tuple[str, ...] = ()
    hook: Hook | None = None

    def __hash__(self) -> int:
        return hash(self.name)

    def digests(self) -> tuple[str, ...]:
        """What the kernel shows of each rule: the digest its comment carries."""
        return tuple(digest(rule) for rule in self.rules)


def digest(rule: str) -> str:
    """Eight characters that stand for the text of a rule."""
    return hashlib.sha256(rule.encode()).hexdigest()[:8]


SetName = tuple[Family, str]
Elements = Mapping[SetName, Mapping[bytes, Data]]


@dataclass(frozen=True, slots=True)
class Structure:
    """Chains and set declarations of one table, by name."""

    chains: Mapping[str, Chain] = field(default_factory=dict)
    sets: Mapping[str, SetSpec] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FoundChain:
    """A chain as read from the kernel: its hook and the digests in its rules' comments ("" where there is none)."""

    name: str
    digests: tuple[str, ...]
    hook: Hook | None


@dataclass(frozen=True, slots=True)
class FoundTable:
    """One of our tables as read from the kernel. `sets` maps names to whether they are dynamic."""

    chains: Mapping[str, FoundChain] = field(default_factory=dict)
    sets: Mapping[str, bool] = field(default_factory=dict)
    elements: Mapping[str, Mapping[bytes, Data]] = field(default_factory=dict)


Found = Mapping[Family, FoundTable]
"""What the kernel has: a family without a table of ours is absent."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one Service, or attachment, contributes: elements, and chains and sets of its own (for client-IP affinity).

    Elements of the sets in `SHARED` may be contributed by several parts; all others belong to one part only.
    `uses` are the chains its elements lead to that many Services have in common.
    """

    elements: Elements = field(default_factory=dict)
    structure: Mapping[Family, Structure] = field(default_factory=dict)
    uses: frozenset[tuple[Family, Chain]] = frozenset()


SHARED = frozenset({"endpoints", "hairpins"})


@dataclass(frozen=True, slots=True)
class NftablesProgram:
    """The tables of one name that should exist, and what is in them. An empty program wants no table at all.

    `parts` are by whom they come from (ServiceId, AttachmentId).
    """

    structure: Mapping[Family, Structure] = field(default_factory=dict)
    parts: Mapping[Any, Part] = field(default_factory=dict)
    uses: Mapping[frozenset[tuple[Family, Chain]], int] = field(default_factory=dict, compare=False)
    """How many parts use which shared chains: memory for whoever derives the next program from this one."""
    table: str = TABLE


@dataclass(frozen=True, slots=True)
class ElementChanges:
    """Elements to remove and to add in one kernel transaction, removals first.

    An element whose data changes stands on both sides; so do ranges that make room for others they overlap.
    """

    remove: Elements = field(default_factory=dict)
    add: Elements = field(default_factory=dict)

    def count(self) -> int:
        """How many operations this is."""
        return sum(map(len, self.remove.values())) + sum(map(len, self.add.values()))


@dataclass(frozen=True, slots=True)
class NftablesChanges:
    """What leads from one state to another, in the order of the fields.

    Each script is one transaction of `nft -f -` ("" for none). Make creates and replaces; sweep removes what
    nothing refers to any more. Chains that see packets come last: half a table would drop what another backend serves.
    """

    make_structure: str = ""
    make_elements: ElementChanges = field(default_factory=ElementChanges)
    make_hooks: str = ""
    sweep_elements: ElementChanges = field(default_factory=ElementChanges)
    sweep_structure: str = ""

    def made(self) -> int:
        """Lines and elements made."""
        lines = len(self.make_structure.splitlines()) + len(self.make_hooks.splitlines())
        return lines + self.make_elements.count()

    def swept(self) -> int:
        """Lines and elements swept."""
        return len(self.sweep_structure.splitlines()) + self.sweep_elements.count()
