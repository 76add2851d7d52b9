"""The objects of the churn are what the agent reads, and the mistakes in them are what it refuses."""

from __future__ import annotations

from random import Random

import pytest
from churn.background import Background
from churn.fronts import Front, Picked
from churn.manifests import SUFFIXES, cut, encoded, name_of, refused, text

from netplane.sources.decode import decode

SEEDS = range(4)


def worlds(seed):
    """Files of a cluster, after each of some changes."""
    random = Random(seed)
    front, picked, background = Front(random, 0, ""), Picked(random, 1, "c"), Background(seed)
    for _ in range(60):
        background.change()
        picked.change()
        front.change()
        yield random, front.files() | picked.files() | background.files()


def found(content, suffix=".yaml"):
    decoded = decode(f"x{suffix}", content.encode())
    return decoded, {tuple(key): each.value for key, each in decoded.objects.items()}


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_written_is_read_as_the_same_objects(seed):
    seen = {}
    for random, files in worlds(seed):
        for objects in files.values():
            if seen.get(name_of(objects[0])) != objects:
                seen[name_of(objects[0])] = objects
                suffix = random.choice(SUFFIXES)
                decoded, values = found(text(random, suffix, map(encoded, objects)), suffix)
                assert values == {name_of(each): each for each in objects}
                assert not decoded.problems
                assert not decoded.unknown


@pytest.mark.parametrize("seed", SEEDS)
def test_a_file_that_ends_early_is_known_to_be_broken(seed):
    for random, files in worlds(seed):
        objects = random.choice(list(files.values()))
        content, whole = cut(random, map(encoded, objects))
        decoded, values = found(content)
        assert values == {name_of(each): each for each in objects[:whole]}
        assert decoded.unknown


@pytest.mark.parametrize("seed", SEEDS)
def test_an_object_with_a_mistake_is_refused_by_name(seed):
    for random, files in worlds(seed):
        objects = random.choice(list(files.values()))
        number = random.randrange(len(objects))
        documents = [encoded(each) for each in objects]
        documents[number] = refused(random, documents[number])
        decoded, values = found(text(random, ".yaml", documents))
        assert values == {name_of(each): each for place, each in enumerate(objects) if place != number}
        assert decoded.refused == {name_of(objects[number])}
        assert not decoded.unknown
