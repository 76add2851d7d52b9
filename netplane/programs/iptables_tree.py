"""A chain that becomes a tree of chains when it has many rules: the kernel looks at a few of them, not at all.

    KUBE-SERVICES --- -d 10.96.0.0/20 ---> KUBE-IP-10.96.0.0/20 --- -d 10.96.4.0/24 ---> ... the rules of /24
              |------ -d 10.96.16.0/20 --> ...
              '------ the rules that must come last

The shape follows from the entries alone, whatever the order in which they came and went. Trees are immutable; a
changed one shares with the old one all that did not change, and that is how few chains are rewritten.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

Rules = tuple[str, ...]
"""The rules of a chain in order, each as `iptables-save` prints it after `-A CHAIN `."""


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """What an entry is found by: a number (an address, a port), and what tells entries of one number apart."""

    number: int
    rest: tuple[str, ...] = ()


class Words(Protocol):
    """How one kind of tree spells its branches."""

    @property
    def bits(self) -> int:
        """The width of a number: 32, 128, 16."""

    def chain(self, prefix: int, length: int) -> str:
        """The name of the chain for numbers that start with these bits, at most 28 characters, unique in its table."""

    def branch(self, prefix: int, length: int, chain: str) -> Rules:
        """The rules that send such numbers to `chain`."""


Entry = tuple[Key, Rules]

_LEAF = 8
"""Entries a chain may have before it is split; those of one number are never split."""
_STRIDE = 4
"""Bits decided by one chain: at most 16 branches, so that 16 384 addresses are three or four chains away."""


@dataclass(frozen=True, slots=True)
class _Leaf:
    entries: tuple[Entry, ...]
    """Sorted by key."""

    @property
    def weight(self) -> int:
        return len(self.entries)


@dataclass(frozen=True, slots=True)
class _Branch:
    """All entries start with the `length` bits `prefix` (a multiple of the stride), and not all go on alike."""

    prefix: int
    length: int
    children: Mapping[int, _Node]
    weight: int


_Node = _Leaf | _Branch
_NOTHING = _Leaf(())


@dataclass(frozen=True, slots=True)
class Tree:
    """The chain `root` and the chains below it. `first` and `last` are the rules around what is dispatched."""

    root: str
    words: Words
    first: Rules = ()
    last: Rules = ()
    node: _Node = _NOTHING

    def derive(self, put: Mapping[Key, Rules], drop: Iterable[Key] = ()) -> Tree:
        """This tree without the entries of `drop`, and then with `put` added or replaced."""
        node, bits = self.node, self.words.bits
        if len(put) > max(node.weight, _LEAF):  # most of it is new: quicker at once than one by one
            gone = {*drop, *put}
            kept = (entry for entry in _entries(node) if entry[0] not in gone)
            node = _made(tuple(sorted((*kept, *put.items()))), bits)
        else:
            for key in drop:
                node = _without(node, key, bits)
            for entry in put.items():
                node = _with(node, entry, bits)
        return Tree(self.root, self.words, self.first, self.last, node)

    def chains(self) -> Iterator[tuple[str, Rules]]:
        """Every chain and its rules, the root first."""
        yield self.root, (*self.first, *_rules(self.words, self.node), *self.last)
        yield from _below(self.words, self.node)


def tree_changes(old: Tree | None, new: Tree | None) -> tuple[dict[str, Rules], list[str]]:
    """The chains to write and those to remove. Costs what differs where `new` was derived from `old`."""
    before: dict[str, Rules] = {}
    after: dict[str, Rules] = {}
    if old is None or new is None or old.words != new.words:
        before.update(old.chains() if old else ())
        after.update(new.chains() if new else ())
    elif not (old.node is new.node and (old.root, old.first, old.last) == (new.root, new.first, new.last)):
        before[old.root] = (*old.first, *_rules(old.words, old.node), *old.last)
        after[new.root] = (*new.first, *_rules(new.words, new.node), *new.last)
        _compare(new.words, old.node, new.node, before, after)
    put = {chain: rules for chain, rules in after.items() if before.get(chain) != rules}
    return put, [chain for chain in before if chain not in after]


def _compare(words: Words, old: _Node, new: _Node, before: dict[str, Rules], after: dict[str, Rules]) -> None:
    """Collect the chains below two nodes that stand for the same numbers, passing over what they share."""
    if old is new:
        return
    if not (isinstance(old, _Branch) and isinstance(new, _Branch)):
        before.update(_below(words, old))
        after.update(_below(words, new))
        return
    upper = old if old.length <= new.length else new
    ones, others = _children_at(old, upper), _children_at(new, upper)
    for slot in {**ones, **others}:
        one, other = ones.get(slot), others.get(slot)
        if one is other and old.length == new.length:
            continue
        # A node that is seen as a child of itself has had its own chain looked at already.
        for node, parent, found in ((one, old, before), (other, new, after)):
            if node is not None and node is not parent and not _inlined(node):
                found[_name(words, parent, slot, node)] = _rules(words, node)
        _compare(words, one or _NOTHING, other or _NOTHING, before, after)


def _children_at(node: _Branch, upper: _Branch) -> Mapping[int, _Node]:
    """The children of `node` as `upper` divides the numbers: a longer prefix is all in one slot.

    A prefix that is not even below `upper` is in a slot of its own, so that nothing is compared with it.
    """
    if node.length == upper.length and node.prefix == upper.prefix:
        return node.children
    above = node.length - upper.length
    if node.prefix >> above != upper.prefix:
        return {-1: node}
    return {node.prefix >> (above - _STRIDE) & (1 << _STRIDE) - 1: node}


def _with(node: _Node, entry: Entry, bits: int) -> _Node:
    """The node with one entry more, or another one of the same key."""
    key = entry[0]
    if isinstance(node, _Leaf):
        return _made(tuple(sorted((*(each for each in node.entries if each[0] != key), entry))), bits)
    if key.number >> (bits - node.length) != node.prefix:
        return _joined(node, entry, bits)
    slot = _slot(key.number, node.length, bits)
    old = node.children.get(slot, _NOTHING)
    return _branch(node, slot, _with(old, entry, bits), old)


def _without(node: _Node, key: Key, bits: int) -> _Node:
    """The node without the entry of that key. What is left takes the shape it would have had from the start."""
    if isinstance(node, _Leaf):
        kept = tuple(each for each in node.entries if each[0] != key)
        return node if len(kept) == len(node.entries) else _Leaf(kept)
    slot = _slot(key.number, node.length, bits)
    old = node.children.get(slot)
    if old is None or key.number >> (bits - node.length) != node.prefix:
        return node
    new = _without(old, key, bits)
    if new is old:
        return node
    made = _branch(node, slot, new, old)
    if made.weight <= _LEAF:
        return _Leaf(tuple(sorted(_entries(made))))
    return made if len(made.children) > 1 else next(iter(made.children.values()))


def _branch(node: _Branch, slot: int, child: _Node, old: _Node) -> _Branch:
    children = {**node.children, slot: child}
    if not child.weight:
        del children[slot]
    return _Branch(node.prefix, node.length, dict(sorted(children.items())), node.weight + child.weight - old.weight)


def _joined(node: _Branch, entry: Entry, bits: int) -> _Branch:
    """A branch above `node` for it and an entry that does not start as its entries do."""
    number, here = entry[0].number, node.prefix << (bits - node.length)
    length = _common(number, here, bits)
    children: dict[int, _Node] = {_slot(here, length, bits): node, _slot(number, length, bits): _Leaf((entry,))}
    return _Branch(number >> (bits - length), length, dict(sorted(children.items())), node.weight + 1)


def _made(entries: tuple[Entry, ...], bits: int) -> _Node:
    """The node for these entries, which are sorted."""
    if len(entries) <= _LEAF or entries[0][0].number == entries[-1][0].number:
        return _Leaf(entries)
    length = _common(entries[0][0].number, entries[-1][0].number, bits)
    slots: dict[int, list[Entry]] = {}
    for entry in entries:
        slots.setdefault(_slot(entry[0].number, length, bits), []).append(entry)
    children = {slot: _made(tuple(each), bits) for slot, each in slots.items()}
    return _Branch(entries[0][0].number >> (bits - length), length, children, len(entries))


def _common(one: int, other: int, bits: int) -> int:
    """How many leading bits two different numbers share, rounded down to the stride."""
    shared = bits - (one ^ other).bit_length()
    return shared - shared % _STRIDE


def _slot(number: int, length: int, bits: int) -> int:
    return number >> (bits - length - _STRIDE) & (1 << _STRIDE) - 1


def _entries(node: _Node) -> Iterator[Entry]:
    if isinstance(node, _Leaf):
        yield from node.entries
    else:
        for child in node.children.values():
            yield from _entries(child)


def _inlined(node: _Node) -> bool:
    """Whether the rules stand in the chain above: a jump would cost as much as the one rule it leads to."""
    return isinstance(node, _Leaf) and sum(len(rules) for _, rules in node.entries) <= 1


def _rules(words: Words, node: _Node) -> Rules:
    """The rules of the node's own chain."""
    if isinstance(node, _Leaf):
        return tuple(rule for _, rules in node.entries for rule in rules)
    found: list[str] = []
    for slot, child in node.children.items():
        if _inlined(child):
            found.extend(_rules(words, child))
        else:
            found.extend(words.branch(*_range(node, slot, child), _name(words, node, slot, child)))
    return tuple(found)


def _below(words: Words, node: _Node) -> Iterator[tuple[str, Rules]]:
    """The chains below the node's own."""
    if isinstance(node, _Branch):
        for slot, child in node.children.items():
            if not _inlined(child):
                yield _name(words, node, slot, child), _rules(words, child)
                yield from _below(words, child)


def _name(words: Words, parent: _Branch, slot: int, child: _Node) -> str:
    return words.chain(*_range(parent, slot, child))


def _range(parent: _Branch, slot: int, child: _Node) -> tuple[int, int]:
    """The prefix and its length that lead to a child: its own, or for a leaf those of its slot."""
    if isinstance(child, _Branch):
        return child.prefix, child.length
    return parent.prefix << _STRIDE | slot, parent.length + _STRIDE
