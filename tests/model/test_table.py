"""A Table is a mapping that shares what did not change, and finds what did without looking at the rest."""

from __future__ import annotations

from random import Random

import pytest

from netplane.model.table import Table, changes, derived


def values(seed, count):
    random = Random(seed)
    return {random.randrange(5000): object() for _ in range(count)}


def test_a_table_is_a_mapping():
    plain = values(1, 3000)
    table = Table(plain)
    assert dict(table) == plain
    assert len(table) == len(plain)
    assert table == plain
    assert set(table) == set(plain)
    assert all(key in table and table[key] is plain[key] for key in plain)


@pytest.mark.parametrize("absent", [-1, "no", None, (1, 2)])
def test_an_absent_key_is_absent(absent):
    table = Table({1: "a"})
    assert absent not in table
    assert table.get(absent, "x") == "x"
    with pytest.raises(KeyError):
        table[absent]


def test_the_empty_table_is_empty_and_stays_so():
    assert (len(Table()), list(Table()), dict(Table({}))) == (0, [], {})
    Table({1: 2})
    assert len(Table()) == 0


@pytest.mark.parametrize("seed", range(5))
def test_deriving_is_what_a_dictionary_would_do_and_leaves_the_original_alone(seed):
    random = Random(seed)
    plain = values(seed, 2000)
    table = Table(plain)
    for _ in range(50):
        put = {random.randrange(5000): object() for _ in range(random.choice((0, 1, 3)))}
        drop = random.sample(range(5000), random.choice((0, 1, 3))) + list(put)[: random.choice((0, 1))]
        before = dict(plain)
        after = {key: value for key, value in {**plain, **put}.items() if key not in drop}
        made = table.derive(put, drop)
        assert dict(table) == before
        assert dict(made) == after
        assert len(made) == len(after)
        changed, gone = changes(table, made)
        assert set(changed) == {key for key in after if before.get(key) is not after[key]}
        assert set(gone) == before.keys() - after.keys()
        table, plain = made, after


def test_dropping_wins_over_putting():
    assert dict(Table({1: "a"}).derive({2: "b"}, [2, 1])) == {}


def test_changes_are_told_by_identity_not_by_equality():
    one, other = [1], [1]
    assert changes(Table({"a": one}), Table({"a": other})) == (["a"], [])
    assert changes({"a": one}, {"a": other}) == (["a"], [])
    assert changes(Table({"a": one}), Table({"a": one})) == ([], [])


@pytest.mark.parametrize("old", [dict, Table])
@pytest.mark.parametrize("new", [dict, Table])
def test_changes_between_any_two_kinds_of_mapping_are_the_same(old, new):
    a, b, c = object(), object(), object()
    changed, gone = changes(old({1: a, 2: b, 3: c}), new({1: a, 2: c, 4: b}))
    assert (sorted(changed), gone) == ([2, 4], [3])


def test_a_value_of_none_is_a_value():
    assert changes(Table({}), Table({1: None})) == ([1], [])
    assert changes({}, {1: None}) == ([1], [])
    assert changes(Table({1: None}), Table({})) == ([], [1])


def test_deriving_from_a_plain_mapping_gives_a_table():
    plain = {1: "a", 2: "b"}
    made = derived(plain, {3: "c"}, [1])
    assert isinstance(made, Table)
    assert dict(made) == {2: "b", 3: "c"}
    assert plain == {1: "a", 2: "b"}


def test_what_did_not_change_is_shared():
    table = Table({number: object() for number in range(4096)})
    made = table.derive({1: object()})
    assert sum(a is not b for a, b in zip(table._shards, made._shards, strict=True)) == 1


def test_keys_whose_hashes_collide_are_kept_apart():
    keys = [number * 1024 for number in range(100)]
    table = Table({key: str(key) for key in keys})
    assert dict(table.derive({}, keys[::2])) == {key: str(key) for key in keys[1::2]}
