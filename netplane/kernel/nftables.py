"""The nftables driver: reads and applies what is in our two tables (IPv4 and IPv6) of one name.

Structure goes through `nft -f -`, elements through netlink. Never looks into or changes another table, and never
remembers elements: what the kernel has is read from the kernel.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from errno import ENOENT

from netplane.closing import Closing
from netplane.errors import KernelError, OwnershipError
from netplane.kernel import command, netlink, nft_codec
from netplane.kernel.netlink import NetlinkSocket, Refused, Request
from netplane.kernel.nft_codec import KernelSet
from netplane.kernel.transactions import OwnTransactions
from netplane.model.address import Family
from netplane.programs.nftables import (
    KUBE_PROXY_COMMENT,
    KUBE_PROXY_TABLE,
    NFT_FAMILY,
    TABLE,
    TABLE_COMMENT,
    Data,
    ElementChanges,
    Elements,
    Found,
    FoundChain,
    FoundTable,
    Hook,
    NftablesChanges,
    SetName,
)

_MECHANISM = "nftables"
_READ_ATTEMPTS = 16
_LARGEST_TRANSACTION = 150_000
"""Operations. A larger transaction holds the kernel's transaction lock for too long."""
_DIGEST = re.compile(r"(?:.* )?([0-9a-f]{8})\Z")


class NftablesDriver(Closing):
    """Our tables in the network namespace of the thread that creates the driver. Used by one thread at a time.

    `table` is their name. Drivers that share `own` are not strangers to one another: see `mark`.
    """

    def __init__(self, own: OwnTransactions | None = None, table: str = TABLE) -> None:
        self._name = table
        self._socket = NetlinkSocket(netlink.NETFILTER, _MECHANISM)
        self._sets: dict[SetName, KernelSet] = {}  # declarations do not change unless a script of ours runs
        self._own = own or OwnTransactions()

    def read(self) -> Found:
        """What is in our tables, at one moment; elements of dynamic sets are left out.

        Raises OwnershipError if a table of our name lacks our comment.
        """
        for _ in range(_READ_ATTEMPTS):
            before = self._generation()
            try:
                tables = {family: self._table(family) for family in Family if self._owned(family)}
            except Refused:
                if self._generation() == before:
                    raise
                continue  # something was removed between two dumps
            if self._generation() == before:
                return tables
        said = f"the ruleset changed during each of {_READ_ATTEMPTS} readings; what else writes nftables here?"
        raise KernelError(mechanism=_MECHANISM, doing="read our tables", said=said)

    def make(self, changes: NftablesChanges) -> None:
        """Create and replace: structure, elements, then what sees packets. Repeating it changes nothing."""
        self._run(changes.make_structure, "make structure")
        self._apply(changes.make_elements)
        self._run(changes.make_hooks, "make hooks")

    def sweep(self, changes: NftablesChanges) -> None:
        """Remove what nothing refers to any more: elements, then structure."""
        self._apply(changes.sweep_elements)
        self._run(changes.sweep_structure, "sweep structure")

    def mark(self) -> int:
        """A number that stays the same for as long as nobody but the drivers of this host changes nftables here.

        The kernel numbers its transactions; this is the number of the last one less those made here.
        """
        return int.from_bytes(self._generation()) - self._own.count

    def close(self) -> None:
        """Close the netlink socket; what was made stays."""
        self._socket.close()

    @contextmanager
    def _counting(self) -> Iterator[None]:
        """Counts the transaction made meanwhile. One that changed nothing has no number: the kernel gave it none."""
        before = self._generation()
        yield
        self._own.count += self._generation() != before

    def _generation(self) -> bytes:
        return nft_codec.generation(self._socket.ask(nft_codec.get_generation(), "read the generation")[0])

    def kube_proxy(self) -> tuple[Family, ...]:
        """The families in which kube-proxy's own table stands: its name, with the comment it writes."""
        return tuple(family for family in Family if self._comment(family, KUBE_PROXY_TABLE) == KUBE_PROXY_COMMENT)

    def sweep_kube_proxy(self, families: Iterable[Family]) -> None:
        """Remove kube-proxy's tables of these families, if they are still there and still its own."""
        for family in set(families) & set(self.kube_proxy()):
            table = f"{NFT_FAMILY[family]} {KUBE_PROXY_TABLE}"
            with self._counting():
                command.run("nft", f"delete table {table}", mechanism=_MECHANISM, doing=f"remove table {table}")

    def _comment(self, family: Family, table: str) -> str | None:
        """The comment of a table, "" without; None if there is no such table."""
        try:
            answers = self._socket.ask(nft_codec.get_table(family, table), f"read table {NFT_FAMILY[family]} {table}")
        except Refused as refused:
            if refused.refusal.errno == ENOENT:
                return None
            raise
        return nft_codec.table_comment(answers[0])

    def _owned(self, family: Family) -> bool:
        """Whether our table exists. Raises OwnershipError if it is somebody else's."""
        name = f"{NFT_FAMILY[family]} {self._name}"
        comment = self._comment(family, self._name)
        if comment is None:
            return False
        if comment != TABLE_COMMENT:
            raise OwnershipError(
                f"nftables: table {name} is not ours: its comment is {comment!r}, not {TABLE_COMMENT!r}; "
                f"it was left alone; rename it, or remove it with: nft delete table {name}"
            )
        return True

    def _table(self, family: Family) -> FoundTable:
        name = f"{NFT_FAMILY[family]} {self._name}"
        chains = self._socket.dump(nft_codec.get_chains(family), f"read chains of {name}")
        rules = self._socket.dump(nft_codec.get_rules(family, self._name), f"read rules of {name}")
        sets = self._named_sets(family)
        return FoundTable(
            chains=_found_chains(self._name, chains, rules),
            sets={target.name: target.dynamic for target in sets},
            elements={target.name: self._elements(target) for target in sets if not target.dynamic},
        )

    def _named_sets(self, family: Family) -> list[KernelSet]:
        doing = f"read sets of {NFT_FAMILY[family]} {self._name}"
        answers = self._socket.dump(nft_codec.get_sets(family, self._name), doing)
        declared = [nft_codec.declared_set(family, answer) for answer in answers]
        return [target for target in declared if not target.anonymous]

    def _elements(self, target: KernelSet) -> dict[bytes, Data]:
        """All elements of a set.

        While the kernel grows the hash table of a set, shortly after many elements were added, a dump shows some
        elements twice and others not at all, without a word (tried on 6.18; never where the set has a `size`). So a
        reading counts if it has as many elements as the set, or if the next one is the same.
        """
        if not target.readable:
            return {}
        before: dict[bytes, Data] | None = None
        for _ in range(_READ_ATTEMPTS):
            count, found = self._count(target), self._dumped(target)
            if len(found) - (b"" in found) == count or found == before:
                return found
            before = found
        said = f"every one of {_READ_ATTEMPTS} readings was different"
        raise KernelError(mechanism=_MECHANISM, doing=f"read elements of {target}", said=said)

    def _count(self, target: KernelSet) -> int | None:
        request = nft_codec.get_set((target.family, target.name), self._name)
        answers = self._socket.ask(request, f"count elements of {target}")
        return nft_codec.element_count(answers[0])

    def _dumped(self, target: KernelSet) -> dict[bytes, Data]:
        found: dict[bytes, Data] = {}
        for answer in self._socket.dump(nft_codec.get_elements(target), f"read elements of {target}"):
            found.update(nft_codec.elements(target, answer))
        return found

    def _declared(self, name: SetName) -> KernelSet | None:
        """A set as the kernel declares it, None if there is none."""
        if name not in self._sets:
            try:
                request = nft_codec.get_set(name, self._name)
                answers = self._socket.ask(request, f"look up set {NFT_FAMILY[name[0]]} {name[1]}")
            except Refused as refused:
                if refused.refusal.errno == ENOENT:
                    return None
                raise
            self._owned(name[0])
            self._sets[name] = nft_codec.declared_set(name[0], answers[0])
        return self._sets[name]

    def _run(self, script: str, doing: str) -> None:
        if not script:
            return
        self._sets.clear()
        for family in Family:
            self._owned(family)
        with self._counting():
            command.run("nft", "-f", "-", stdin=script, mechanism=_MECHANISM, doing=doing)

    def _apply(self, changes: ElementChanges) -> None:
        for part in _split(changes, _LARGEST_TRANSACTION):
            self._commit(part)

    def _commit(self, changes: ElementChanges) -> None:
        """One transaction. If the kernel refuses it, once more with only what really differs from what it has."""
        if any(self._is_interval(name) for name, keys in changes.remove.items() if keys):
            changes = self._differing(changes)  # see nft_codec.remove_elements
        try:
            self._transact(changes)
        except Refused as refused:
            self._sets.clear()
            try:
                self._transact(self._differing(changes))
            except Refused as again:
                raise again from refused

    def _is_interval(self, name: SetName) -> bool:
        target = self._declared(name)
        return target is not None and target.interval

    def _differing(self, changes: ElementChanges) -> ElementChanges:
        targets = {name: self._declared(name) for name in {**changes.remove, **changes.add}}
        return _differing(changes, {name: self._elements(target) for name, target in targets.items() if target})

    def _transact(self, changes: ElementChanges) -> None:
        steps = list(self._steps(changes))
        if not steps:
            return
        refusals, told = self._socket.exchange(nft_codec.transaction([request for _, request in steps]))
        self._own.count += nft_codec.numbered(told)
        if refusals:
            first = refusals[0]
            position = first.position - 1  # the batch begins with a message of its own
            # A refusal of no single request is that of the whole batch, at its commit.
            doing = (
                nft_codec.describe(*steps[position], first.offset)
                if 0 <= position < len(steps)
                else f"commit {changes.count()} changes of elements"
            )
            raise Refused(_MECHANISM, doing, first)

    def _steps(self, changes: ElementChanges) -> Iterator[tuple[KernelSet, Request]]:
        for name, keys in changes.remove.items():
            if target := self._declared(name):  # without the set its elements are gone
                yield from ((target, request) for request in nft_codec.remove_elements(target, keys))
        for name, elements in changes.add.items():
            if elements:
                target = self._writable(name)
                yield from ((target, request) for request in nft_codec.add_elements(target, elements))

    def _writable(self, name: SetName) -> KernelSet:
        target = self._declared(name)
        doing = f"add elements to {NFT_FAMILY[name[0]]} {self._name} {name[1]}"
        if target is None:
            raise KernelError(mechanism=_MECHANISM, doing=doing, said="there is no such set")
        if not target.readable:
            said = "it is an interval set of a single field; only concatenated ones can be filled"
            raise KernelError(mechanism=_MECHANISM, doing=doing, said=said)
        return target


def _found_chains(table: str, chains: list[bytes], rules: list[bytes]) -> dict[str, FoundChain]:
    hooks: dict[str, Hook | None] = dict(filter(None, (nft_codec.chain(each, table) for each in chains)))
    digests: dict[str, list[str]] = {name: [] for name in hooks}
    for name, comment in filter(None, (nft_codec.rule(each, table) for each in rules)):
        found = _DIGEST.match(comment)
        # A chain that came after the chains were listed: then the generation has changed and the reading is repeated.
        digests.setdefault(name, []).append(found[1] if found else "")
    return {name: FoundChain(name, tuple(digests[name]), hook) for name, hook in hooks.items()}


@dataclass(frozen=True, slots=True)
class _Absent:
    """Equal to no data."""


_ABSENT = _Absent()


def _differing(changes: ElementChanges, have: Elements) -> ElementChanges:
    """The part of `changes` that is still to do where the kernel has `have`."""

    def settled(name: SetName, key: bytes) -> bool:
        wanted = changes.add.get(name, {}).get(key, _ABSENT)
        return wanted != _ABSENT and have.get(name, {}).get(key, _ABSENT) == wanted

    return ElementChanges(
        remove={
            name: {key: data for key, data in keys.items() if key in have.get(name, {}) and not settled(name, key)}
            for name, keys in changes.remove.items()
        },
        add={
            name: {key: data for key, data in elements.items() if not settled(name, key)}
            for name, elements in changes.add.items()
        },
    )


def _split(changes: ElementChanges, limit: int) -> Iterator[ElementChanges]:
    """`changes` in parts of about `limit` operations. Removing and adding one key are never in two parts."""
    if changes.count() <= limit:
        yield changes
        return
    remove: dict[SetName, dict[bytes, Data]] = {}
    add: dict[SetName, dict[bytes, Data]] = {}
    count = 0
    for name, key in _keys(changes):
        for side, part in ((changes.remove, remove), (changes.add, add)):
            if key in side.get(name, {}):
                part.setdefault(name, {})[key] = side[name][key]
                count += 1
        if count >= limit:
            yield ElementChanges(remove, add)
            remove, add, count = {}, {}, 0
    if count:
        yield ElementChanges(remove, add)


def _keys(changes: ElementChanges) -> Iterator[tuple[SetName, bytes]]:
    """Every key once, those to remove first: what they make room for comes after."""
    for name, elements in changes.remove.items():
        for key in elements:
            yield name, key
    for name, elements in changes.add.items():
        removed: Mapping[bytes, Data] = changes.remove.get(name, {})
        for key in elements:
            if key not in removed:
                yield name, key
