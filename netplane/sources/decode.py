"""Documents -> the model's objects, and a Problem for everything that could not be used.

An object is refused as a whole at its first bad field; entries that only add an address are passed over instead
(docs/manifests.md). Objects of kinds that netplane does not read are ignored.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from netplane.errors import Problem
from netplane.model.endpoint import EndpointSlice
from netplane.model.node import Node
from netplane.model.pod import Namespace, Pod, PodId
from netplane.model.service import Service, ServiceId
from netplane.sources import fields, wire
from netplane.sources.documents import BadText, Document, Doubled, documents_of
from netplane.sources.fields import Bad, Skip, shown
from netplane.sources.pods import namespace_of, node_of, pod_of
from netplane.sources.service import service_of
from netplane.sources.slices import Legacy, legacy_of, slice_of

Object = Service | EndpointSlice | Legacy | Pod | Node | Namespace


class Key(NamedTuple):
    """What makes an object the same one: `namespace` is "" for Nodes and Namespaces."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


class Found(NamedTuple):
    """An object and the number of its document in the file."""

    document: int
    value: Object


@dataclass(slots=True)
class Decoded:
    """What a file holds. `refused` are objects known by name only; `unknown`: something there has not even a name."""

    objects: dict[Key, Found] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    refused: set[Key] = field(default_factory=set)
    unknown: bool = False


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind that is read: its version, the rule for its names, and how it is decoded."""

    version: str
    shape: type[wire.Object]
    named: Callable[[str | None, str], str]
    namespaced: bool
    decode: Callable[[Any, Key, Skip], Object | None]


_KINDS = {
    "Service": _Kind(
        "v1", wire.Service, fields.dns_label, True, lambda read, key, skip: service_of(read, ServiceId(*key[1:]), skip)
    ),
    "EndpointSlice": _Kind(
        "discovery.k8s.io/v1",
        wire.EndpointSlice,
        fields.dns_subdomain,
        True,
        lambda read, key, skip: slice_of(read, key.namespace, key.name, skip),
    ),
    "Endpoints": _Kind(
        "v1",
        wire.Endpoints,
        fields.dns_subdomain,
        True,
        lambda read, key, skip: legacy_of(read, ServiceId(*key[1:]), skip),
    ),
    "Pod": _Kind(
        "v1", wire.Pod, fields.dns_subdomain, True, lambda read, key, skip: pod_of(read, PodId(*key[1:]), skip)
    ),
    "Node": _Kind("v1", wire.Node, fields.dns_subdomain, False, lambda read, key, skip: node_of(read, key.name, skip)),
    "Namespace": _Kind(
        "v1", wire.Namespace, fields.dns_label, False, lambda read, key, _: namespace_of(read, key.name)
    ),
}

_OTHER_V1 = frozenset(
    (
        *("Binding", "ComponentStatus", "ConfigMap", "Event", "LimitRange", "PersistentVolume"),
        *("PersistentVolumeClaim", "PodTemplate", "ReplicationController", "ResourceQuota", "Secret"),
        *("ServiceAccount", "Status"),
    )
)
"""The kinds of v1 that are not read, so that a misspelt one is told from them."""


class _Head(wire.Wire, frozen=True):
    """What tells a JSON object's kind. `items` is read only in lists, and left as it is otherwise."""

    apiVersion: Any = None
    kind: Any = None
    items: msgspec.Raw = msgspec.Raw(b"null")  # not in a union: msgspec takes Raw only alone


_heads = msgspec.json.Decoder(_Head)
_items = msgspec.json.Decoder(list[msgspec.Raw])
_shapes: dict[type[wire.Wire], msgspec.json.Decoder[Any]] = {
    kind.shape: msgspec.json.Decoder(kind.shape) for kind in _KINDS.values()
}


def decode(name: str, content: bytes) -> Decoded:
    """All objects of a file called `name`. Never raises: what cannot be used is among the problems."""
    into = Decoded()
    for document in documents_of(name, content):
        _Reader(name, document, into).read()
    return into


class _Reader:
    """Decodes one document into `into`."""

    def __init__(self, name: str, document: Document, into: Decoded) -> None:
        self._where = f"{name}#{document.number}"
        self._document = document
        self._into = into

    def read(self) -> None:
        """Add the document's objects and problems."""
        value = self._document.value
        if isinstance(value, BadText):
            self._lost(f"line {value.line}" if value.line else "", value.why)
        elif value is not None:
            self._item(value, "", ("", ""))

    def _item(self, value: object, at: str, default: tuple[str, str]) -> None:
        """One object, or the list that a document is. `at` is its place in a list, `default` what the list implies."""
        head = _head(value)
        if head is None:
            self._lost(at, "is not an object; write a mapping with apiVersion, kind and metadata")
            return
        version, kind, items = head[0] or default[0], head[1] or default[1], head[2]
        if not isinstance(version, str) or not isinstance(kind, str) or not version or not kind:
            self._lost(
                _path(at, "kind" if version else "apiVersion"), "is missing or no string; write both of an object"
            )
        elif _lists_ours(version, kind):
            self._list(items, at, version, kind)
        elif kind in _KINDS and version == _KINDS[kind].version:
            self._object(value, kind)
        elif remedy := _misspelt(version, kind):
            self._lost(_path(at, f"kind {shown(kind)} of apiVersion {shown(version)}"), remedy)

    def _list(self, read: object, at: str, version: str, kind: str) -> None:
        """The objects of a list."""
        if at:
            self._lost(at, f"is a {shown(kind)} inside a list; write its items into the outer one")
            return
        items = _items_of(read) if isinstance(read, msgspec.Raw) else read
        if not isinstance(items, list | None):
            self._lost("items", "is not a list; write one, or remove it")
            return
        implied = ("", "") if kind == "List" else (version, kind.removesuffix("List"))
        for place, item in enumerate(items or ()):
            self._item(item, f"items[{place}]", implied)

    def _object(self, value: object, kind: str) -> None:
        try:
            key = _key_of(value, kind)
        except Bad as bad:
            self._lost(f"{kind} {_name_shown(value)}: {bad.field}", bad.why)
            return
        try:
            made = self._made(value, key)
        except Bad as bad:
            self._problem(f"{_shown_key(key)}: {bad.field}" if bad.field else _shown_key(key), bad.why)
            self._into.refused.add(key)
            return
        if made is not None:
            self._add(key, made)

    def _made(self, value: object, key: Key) -> Object | None:
        if self._document.doubled and (twice := _doubled_in(value)):
            raise Bad(*twice)
        kind = _KINDS[key.kind]
        return kind.decode(
            _shaped(value, kind.shape), key, lambda field, why: self._problem(f"{_shown_key(key)}: {field}", why)
        )

    def _add(self, key: Key, made: Object) -> None:
        first = self._into.objects.setdefault(key, Found(self._document.number, made))
        if first.value is not made:
            self._problem(_shown_key(key), f"is also in document {first.document}, which is used; remove one of them")

    def _problem(self, what: str, why: str) -> None:
        self._into.problems.append(Problem(self._where, what, why))

    def _lost(self, what: str, why: str) -> None:
        self._into.unknown = True
        self._problem(what, why)


def _key_of(value: object, kind: str) -> Key:
    """The name of an object, checked. Raises Bad."""
    rules = _KINDS[kind]
    meta = _shaped(value, wire.Named).metadata
    name = rules.named(meta.name, "metadata.name")
    if not rules.namespaced:
        return Key(kind, "", name)
    return Key(kind, fields.shared(fields.dns_label(meta.namespace or "default", "metadata.namespace")), name)


def _shaped(value: object, shape: type[Any]) -> Any:
    """`value` with the types of `shape`, or Bad with the path of the field whose type is wrong."""
    try:
        if isinstance(value, msgspec.Raw):
            return _shapes[shape].decode(value)
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        raise _mistyped(str(error)) from None
    except msgspec.DecodeError as error:
        raise Bad("", f"is not JSON: {error}; correct it") from None


_shapes[wire.Named] = msgspec.json.Decoder(wire.Named)
_TYPES = {
    "int": "a whole number",
    "str": "a string",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping",
    "float": "a number with a fraction",
    "null": "null",
}
# Expected `int | null`, got `str` - at `$.spec.ports[0].port`
_EXPECTED = re.compile(r"Expected `(.+?)`, got `(.+?)`")
_AT = re.compile(r" - at `\$\.?(.*)`\Z")


def _mistyped(said: str) -> Bad:
    """msgspec's words in ours."""
    at = _AT.search(said)
    path = at[1] if at else ""
    found = _EXPECTED.match(said)
    if not found:
        return Bad(path, f"{_AT.sub('', said).lower()}; correct it")
    wanted = [_TYPES.get(word, word) for word in found[1].split(" | ") if word != "null"]
    remedy = "put it in quotes" if wanted == ["a string"] and found[2] in ("int", "float", "bool") else "correct it"
    return Bad(path, f"must be {' or '.join(wanted)}, not {_TYPES.get(found[2], found[2])}; {remedy}")


def _lists_ours(version: str, kind: str) -> bool:
    """Whether the kind is a list whose items may be of kinds that are read."""
    rules = _KINDS.get(kind.removesuffix("List"))
    return kind == "List" or (kind.endswith("List") and rules is not None and rules.version == version)


def _misspelt(version: str, kind: str) -> str:
    """What to write if an unread kind looks like a mistake; "" for what is simply not ours to read."""
    group, bare = version.rpartition("/")[0], kind.removesuffix("List")
    if bare in _KINDS:
        foreign = "." in group and not group.endswith(".k8s.io")
        return "" if foreign else f"is not read; write apiVersion: {_KINDS[bare].version}"
    ours = {rules.version.rpartition("/")[0] for rules in _KINDS.values()}
    if group not in ours or bare in _OTHER_V1:
        return ""
    close = difflib.get_close_matches(kind, [*_KINDS, *_OTHER_V1], 1)
    return f"does not exist; did you mean {close[0]}?" if close else "does not exist; correct the kind"


def _doubled_in(value: object) -> tuple[str, str] | None:
    """Path and reason of a mapping in which a key was written twice."""
    left = [("", value)]  # no recursion: JSON may be nested almost as deeply as Python's stack
    while left:
        path, part = left.pop()
        if isinstance(part, Doubled):
            line = f" (line {part.line})" if part.line else ""
            return path, f"key {shown(part.key)} appears twice{line}; keep one"
        if isinstance(part, dict):
            left += ((_path(path, key), inner) for key, inner in part.items())
        elif isinstance(part, list):
            left += fields.each(part, path)
    return None


def _head(value: object) -> tuple[object, object, object] | None:
    """apiVersion, kind and items of an object; None if `value` is none."""
    if isinstance(value, msgspec.Raw):
        try:
            head = _heads.decode(value)
        except msgspec.DecodeError:
            return None
        return head.apiVersion, head.kind, head.items
    return (value.get("apiVersion"), value.get("kind"), value.get("items")) if isinstance(value, dict) else None


def _items_of(raw: msgspec.Raw) -> object:
    try:
        return _items.decode(raw)
    except msgspec.DecodeError:
        return _plain_of(raw)


def _plain_of(raw: msgspec.Raw) -> object:
    """The plain value of JSON bytes; None if they are none."""
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return None


def _path(at: str, field: str) -> str:
    return f"{at}.{field}" if at else field


def _shown_key(key: Key) -> str:
    """The key, short enough that the reason still fits on the line."""
    shorter = (part if len(part) <= 64 else part[:63] + "…" for part in key[1:])
    return str(Key(key.kind, *shorter))


def _name_shown(value: object) -> str:
    """Whatever stands in metadata.name, for a message about an object without a usable name."""
    plain = _plain_of(value) if isinstance(value, msgspec.Raw) else value
    meta = plain.get("metadata") if isinstance(plain, dict) else None
    name = meta.get("name") if isinstance(meta, dict) else None
    return shown(name) if isinstance(name, str) and name else "without a name"
