"""Whatever stands in a manifest, reading it never raises, and nothing is lost without a word."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
from manifest_objects import ALL

from netplane.sources.decode import decode

SHOP = Path(__file__).parents[2] / "examples" / "shop"
ODD: tuple[object, ...] = (
    *(None, True, 0, -1, 65536, 10**25, 1.5, "", "None", "TCP", "x" * 4000, "a\nb", "\u202e", "';{}$(x)`", "10.0.0.1"),
    *("::1", "fd00::/64", [], [None], [[]], {}, {"a": None}, {"": ""}, [{}], [{"name": 5}], "2026-01-01", "\x00"),
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container and key inside a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, part in inner for place in ((value, key), *places(part))]


def mutated(random_: random.Random) -> list[Any]:
    """Some good objects with one to three values replaced, removed or doubled."""
    objects = copy.deepcopy([random_.choice(ALL) for _ in range(3)])
    for _ in range(random_.randint(1, 3)):
        container, key = random_.choice(places(objects))
        match random_.randrange(3):
            case 0:
                container[key] = random_.choice(ODD)
            case 1 if isinstance(container, dict):
                container[random_.choice(("name", "port", "kind", "extra", "a b"))] = container.pop(key)
            case _ if isinstance(container, list):
                container.append(copy.deepcopy(container[key]))
            case _:
                del container[key]
    return objects


@pytest.mark.parametrize("seed", range(20))
def test_mutated_objects_give_objects_or_problems_and_never_an_exception(seed):
    random_ = random.Random(seed)
    for _ in range(100):
        objects = mutated(random_)
        as_json = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}).encode()
        as_yaml = "".join(f"---\n{json.dumps(one)}\n" for one in objects).encode()
        for name, content in (("x.json", as_json), ("x.yaml", as_yaml)):
            result = decode(name, content)
            for problem in result.problems:
                line = str(problem)
                assert line.isprintable()
                assert len(line) <= 400
                assert problem.where.startswith(name)
                assert problem.why
            # An object is there, or refused by name, or something is known to be missing.
            assert result.unknown or result.problems or result.objects or any(type(one) is not dict for one in objects)


@pytest.mark.parametrize("path", sorted(SHOP.glob("*.yaml")), ids=lambda path: path.name)
def test_cut_flipped_and_doubled_texts_never_raise(path):
    random_ = random.Random(path.name)
    whole = path.read_bytes()
    for _ in range(60):
        content = bytearray(whole)
        for _ in range(random_.randint(1, 4)):
            at = random_.randrange(len(content))
            match random_.randrange(4):
                case 0:
                    del content[at:]
                case 1:
                    content[at] = random_.randrange(256)
                case 2:
                    content[at:at] = random_.choice(
                        (b"---\n", b"{", b"[", b": ", b"&a *a", b"\t", b"!!x ", b"- ", b"'")
                    )
                case _:
                    content[at:at] = content[at : at + random_.randrange(200)]
            content = content or bytearray(b"\n")
        for problem in decode(path.name, bytes(content)).problems:
            assert str(problem).isprintable()


@pytest.mark.parametrize("path", sorted(SHOP.glob("*.yaml")), ids=lambda path: path.name)
def test_a_file_cut_off_anywhere_loses_no_object_without_a_word(path):
    """Every object before the cut is there as it was; the one that is cut is refused, or cut between documents."""
    whole = decode(path.name, path.read_bytes())
    text = path.read_bytes()
    for end in range(0, len(text), 97):
        part = decode(path.name, text[:end])
        missing = whole.objects.keys() - part.objects.keys()
        before = {key for key, found in whole.objects.items() if found.document <= text[:end].count(b"\n---\n")}
        assert not before & missing
