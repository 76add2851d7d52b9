"""Dispatch trees: the shape follows from the entries, every number finds its rules, changes cost what changed."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from netplane.programs.iptables_tree import Key, Rules, Tree, tree_changes


@dataclass(frozen=True)
class Bits:
    """Branches as text that says what they match."""

    bits: int = 16

    def chain(self, prefix: int, length: int) -> str:
        return f"T-{prefix:x}/{length}"

    def branch(self, prefix: int, length: int, chain: str) -> Rules:
        return (f"{prefix}/{length} {chain}",)


WORDS = Bits()
EMPTY = Tree("root", WORDS, ("first",), ("last",))


def entries(numbers: list[int]) -> dict[Key, Rules]:
    return {Key(number, ("tcp",)): (f"= {number}",) for number in numbers}


def chains(tree: Tree) -> dict[str, Rules]:
    made = list(tree.chains())
    assert len(made) == len(dict(made)), "two chains of one name"
    return dict(made)


def walk(tree: Tree, number: int) -> tuple[list[str], int]:
    """The rules that match a number, and how many were looked at."""
    found: list[str] = []
    looked = 0

    def visit(chain: str) -> None:
        nonlocal looked
        for rule in all_chains[chain]:
            looked += 1
            match, _, target = rule.partition(" ")
            if match == "=":
                if int(target) == number:
                    found.append(rule)
            elif target:
                prefix, length = map(int, match.split("/"))
                if number >> (WORDS.bits - length) == prefix:
                    visit(target)

    all_chains = chains(tree)
    visit("root")
    return found, looked


def shape(numbers: list[int]) -> dict[str, Rules]:
    return chains(EMPTY.derive(entries(numbers)))


@pytest.mark.parametrize("count", [0, 1, 8, 9, 40, 700])
@pytest.mark.parametrize("spread", [16, 4096, 65536])
def test_every_number_finds_its_rule_and_only_that(count: int, spread: int) -> None:
    rng = random.Random(f"{count} {spread}")
    numbers = rng.sample(range(spread), min(count, spread))
    tree = EMPTY.derive(entries(numbers))
    for number in (*numbers[:60], *(rng.randrange(65536) for _ in range(60))):
        found, looked = walk(tree, number)
        assert found == ([f"= {number}"] if number in numbers else [])
        assert looked <= 2 + 4 * 16 + 8


@pytest.mark.parametrize("seed", range(12))
def test_the_shape_follows_from_the_entries_and_changes_lead_from_one_tree_to_the_next(seed: int) -> None:
    rng = random.Random(seed)
    tree, have, kernel = EMPTY, set[int](), chains(EMPTY)
    for _ in range(120):
        pool = range(0x1200, 0x1200 + rng.choice([24, 200, 3000])) if rng.random() < 0.8 else range(65536)
        put = set(rng.choices(pool, k=rng.choice([0, 1, 1, 2, 30])))
        drop = set(rng.sample(sorted(have), min(len(have), rng.choice([0, 0, 1, 2, 25])))) - put
        new = tree.derive(entries(sorted(put, key=lambda _: rng.random())), [Key(each, ("tcp",)) for each in drop])
        have = (have | put) - drop
        written, removed = tree_changes(tree, new)
        for chain in removed:
            del kernel[chain]
        kernel |= written
        assert kernel == chains(new) == shape(sorted(have))
        tree = new
    written, removed = tree_changes(tree, None)
    assert not written
    assert set(removed) == set(kernel)


def test_one_change_among_many_writes_few_chains() -> None:
    tree = EMPTY.derive(entries(list(range(0, 60000, 6))))
    written, removed = tree_changes(tree, tree.derive(entries([30001])))
    assert len(written) <= 2
    assert not removed


def test_an_unchanged_entry_changes_nothing() -> None:
    tree = EMPTY.derive(entries(list(range(100))))
    assert tree_changes(tree, tree.derive(entries([50]))) == ({}, [])
    assert tree_changes(tree, tree.derive({}, [Key(200, ("tcp",))])) == ({}, [])


def test_entries_of_one_number_stay_together() -> None:
    many = {Key(7, (str(index),)): (f"= 7 {index}",) for index in range(30)}
    assert chains(EMPTY.derive(many)) == {"root": ("first", *(f"= 7 {i}" for i in sorted(map(str, range(30)))), "last")}
