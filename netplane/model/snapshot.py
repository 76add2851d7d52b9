"""Snapshot: all cluster facts at one instant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import is_
from typing import TypeVar

from netplane.model.endpoint import EndpointSlice
from netplane.model.node import Node
from netplane.model.pod import Namespace, Pod, PodId
from netplane.model.service import Service, ServiceId

Key = TypeVar("Key")
_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Immutable. An object that did not change between two snapshots is the *same* object in both.

    That identity is how cost follows the change: whoever derives something per Service may keep it for as long
    as the Service and its tuple of slices are the same objects.
    """

    services: Mapping[ServiceId, Service] = field(default_factory=dict)
    slices: Mapping[ServiceId, tuple[EndpointSlice, ...]] = field(default_factory=dict)
    nodes: Mapping[str, Node] = field(default_factory=dict)
    pods: Mapping[PodId, Pod] = field(default_factory=dict)
    namespaces: Mapping[str, Namespace] = field(default_factory=dict)


def changed_keys(old: Mapping[Key, object], new: Mapping[Key, object]) -> tuple[list[Key], list[Key]]:
    """Keys of `new` whose value is another object than in `old`, and keys that are gone; in the mappings' order."""
    if len(old) == len(new) and all(map(is_, old, new)):  # the common case: a copy with some values replaced
        same = map(is_, old.values(), new.values())
        return [key for key, unchanged in zip(new, same, strict=True) if not unchanged], []
    changed = [key for key, value in new.items() if old.get(key, _ABSENT) is not value]
    return changed, [key for key in old if key not in new]
