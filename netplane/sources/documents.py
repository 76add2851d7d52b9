"""Bytes of a manifest file -> documents: plain values of YAML, undecoded bytes of JSON.

YAML is read as its version 1.2 core schema: `on`, `no`, `2001-01-01`, `0080` and `12:30` are strings. Mapping keys
are always strings. Built from parser events, because composing nodes in libyaml overflows the C stack on deeply
nested input; depth and the expansion of aliases are limited, so no text can hang or crash its reader.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import msgspec
from yaml import YAMLError
from yaml._yaml import CParser
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    StreamEndEvent,
)

MAX_DEPTH = 100
MAX_ALIASED = 1_000_000  # values that aliases may add to a document

_MARKER = re.compile(r"^---(?=\s|\Z)", re.MULTILINE)
_EMPTY = re.compile(r"(?:---)?(?:\s|#[^\n]*(?:\n|\Z)|^%[^\n]*(?:\n|\Z)|^\.\.\.\s)*\Z", re.MULTILINE)
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z|0x[0-9a-fA-F]+\Z|0o[0-7]+\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?\Z")
_WORDS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NULLS = frozenset(("", "~", "null", "Null", "NULL"))
_TAG = "tag:yaml.org,2002:"


class BadText(Exception):
    """A text, or the rest of it, is not YAML or JSON. `line` counts from 1; 0 where unknown."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(why)
        self.line = line
        self.why = why


class Doubled(dict[str, object]):
    """A mapping in which `key` was written twice. Holds the last value of each key."""

    key = ""
    line = 0


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a file, counted from 1. `value` is a plain value, JSON bytes, or why there is none.

    `doubled` tells that some mapping inside is `Doubled`.
    """

    number: int
    value: object | msgspec.Raw | BadText
    doubled: bool = False


def documents_of(name: str, content: bytes) -> Iterator[Document]:
    """The documents of a file called `name`. Yields a BadText where text cannot be read; never raises."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        yield Document(1, BadText(line, "is not UTF-8 text; save the file as UTF-8"))
        return
    yield from _json(text, content) if name.endswith(".json") else _yaml(text)


# --- JSON ------------------------------------------------------------------------------------------------------


def _json(text: str, content: bytes) -> Iterator[Document]:
    """The one document of a JSON file: as bytes to decode later, or as a plain value if a key is doubled."""
    if not text.strip():
        return
    doubled: list[str] = []

    def watch(pairs: list[tuple[str, object]]) -> None:
        if len(pairs) > 1 and len(dict(pairs)) != len(pairs):
            doubled.append(pairs[0][0])

    try:
        # Keeps nothing: this pass finds doubled keys and syntax errors with their place, which msgspec cannot say.
        json.loads(text, object_pairs_hook=watch, parse_constant=_no_constant)
        raw = msgspec.json.decode(content.removeprefix(b"\xef\xbb\xbf"), type=msgspec.Raw)
        value = json.loads(text, object_pairs_hook=_pairs) if doubled else raw
        yield Document(1, value, doubled=bool(doubled))
    except json.JSONDecodeError as error:
        yield Document(1, BadText(error.lineno, f"is not JSON: {error.msg}; correct it"))
    except msgspec.DecodeError:  # all that is left is what only Python lets pass
        yield Document(1, BadText(0, "is not JSON: \\ud800 to \\udfff is half a character; write both halves"))
    except RecursionError:
        yield Document(1, BadText(0, "is nested too deeply; flatten it"))
    except ValueError as error:  # a number with more digits than Python converts, or NaN
        yield Document(1, BadText(0, f"is not JSON: {error}; correct it"))


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a number")


def _pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    doubled, seen = Doubled(made), set[str]()
    for key, _ in pairs:
        doubled.key = key if key in seen else doubled.key
        seen.add(key)
    return doubled


# --- YAML ------------------------------------------------------------------------------------------------------


def _yaml(text: str) -> Iterator[Document]:
    """The documents of a YAML text. One that is broken does not hide the others: `---` always starts a new one."""
    starts = [0, *(match.start() for match in _MARKER.finditer(text) if match.start())]
    number, line = 0, 0
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        part = text[start:end]
        if not _EMPTY.match(part):
            number += 1
            yield _document(part, line, number)
        line += part.count("\n")


def _document(text: str, line: int, number: int) -> Document:
    """The document that `text` is, which begins after `line` lines."""
    builder = _Builder(text, line)
    try:
        return Document(number, builder.document(), builder.doubled)
    except BadText as error:
        return Document(number, error)
    except YAMLError as error:
        return Document(number, BadText(*_told(error, line)))


def _told(error: YAMLError, line: int) -> tuple[int, str]:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    said = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    return (line + mark.line + 1 if mark else 0), f"is not YAML: {said}; correct it"


class _Builder:
    """Plain values from parser events: dict, list, str, int, float, bool, None."""

    def __init__(self, text: str, line: int) -> None:
        self._parser = CParser(text)
        self._line = line
        self._anchors: dict[str, tuple[object, int]] = {}
        self._built = 0  # values so far, an alias counting as often as it is used
        self._aliased = 0
        self.doubled = False

    def document(self) -> object:
        """The value of the one document. Raises BadText or YAMLError if it cannot be read to its end."""
        while not isinstance(self._next(), DocumentStartEvent):
            pass
        value = self._value(self._next(), 0)
        while not isinstance(self._next(), StreamEndEvent):
            pass
        return value

    def _next(self) -> Any:
        # Any: the attributes of events are not in their stubs.
        return self._parser.get_event()

    def _value(self, event: Any, depth: int) -> object:
        if depth > MAX_DEPTH:
            self._bad(event, f"is nested more than {MAX_DEPTH} levels deep; flatten it")
        if isinstance(event, AliasEvent):
            return self._alias(event)
        before = self._built
        self._built += 1
        made: object
        if isinstance(event, ScalarEvent):
            made = self._scalar(event)
        elif isinstance(event, MappingStartEvent):
            made = self._mapping(event, depth)
        else:
            made = self._sequence(event, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = made, self._built - before
        return made

    def _alias(self, event: Any) -> object:
        """The value an alias names; its anchor is known only when complete, so no value contains itself."""
        known = self._anchors.get(event.anchor)
        if known is None:
            self._bad(event, f"alias *{event.anchor} names nothing, or something it is part of; write the value out")
        self._built += known[1]
        self._aliased += known[1]
        if self._aliased > MAX_ALIASED:
            self._bad(event, f"aliases expand to more than {MAX_ALIASED} values; write less")
        return known[0]

    def _sequence(self, start: Any, depth: int) -> list[object]:
        self._check_tag(start, "seq")
        made: list[object] = []
        while not isinstance(event := self._next(), SequenceEndEvent):
            made.append(self._value(event, depth + 1))
        return made

    def _mapping(self, start: Any, depth: int) -> dict[str, object]:
        self._check_tag(start, "map")
        made: dict[str, object] = {}
        merged: list[object] = []
        twice: Any = None
        while not isinstance(event := self._next(), MappingEndEvent):
            if not isinstance(event, ScalarEvent):
                self._bad(event, "a mapping key must be a word, not a list, mapping or alias; write a word")
            value = self._value(self._next(), depth + 1)
            if event.value == "<<" and event.implicit[0]:
                merged += value if isinstance(value, list) else [value]
                continue
            if event.value in made:
                twice = event
            made[event.value] = value
        for one in merged:
            if not isinstance(one, dict):
                self._bad(start, "'<<' must name a mapping; correct it or write the value out")
            made = {**one, **made}
        return made if twice is None else self._twice(made, twice)

    def _twice(self, made: dict[str, object], event: Any) -> Doubled:
        self.doubled = True
        doubled = Doubled(made)
        doubled.key, doubled.line = event.value, self._line + event.start_mark.line + 1
        return doubled

    def _scalar(self, event: Any) -> object:
        text: str = event.value
        if event.tag is None or event.tag == "!":
            return _plain(text) if event.implicit[0] else text
        kind = event.tag.removeprefix(_TAG)
        if kind in ("str", "timestamp"):
            return text
        value = _plain(text)
        if {"int": int, "float": float, "bool": bool, "null": type(None)}.get(kind) is not type(value):
            self._bad(event, f"tag {event.tag} does not go with its value; remove the tag")
        return value

    def _check_tag(self, event: Any, kind: str) -> None:
        if event.tag not in (None, "!", _TAG + kind):
            self._bad(event, f"tag {event.tag} is not read; remove the tag")

    def _bad(self, event: Any, why: str) -> NoReturn:
        raise BadText(self._line + event.start_mark.line + 1, why)


def _plain(text: str) -> object:
    """What a plain scalar means in YAML's core schema."""
    if text in _NULLS:
        return None
    if text in _WORDS:
        return _WORDS[text]
    # Longer digit strings than any field holds stay text: converting them takes quadratic time.
    if len(text) <= 40:
        if _INTEGER.match(text):
            return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
        if _FLOAT.match(text):
            return float(text)
    return text
