"""Snapshot: all cluster facts at one instant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from netplane.model.endpoint import EndpointSlice
from netplane.model.node import Node
from netplane.model.pod import Namespace, Pod, PodId
from netplane.model.service import Service, ServiceId


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Immutable. An object that did not change between two snapshots is the *same* object in both.

    That identity is how cost follows the change: whoever derives something per Service may keep it for as long
    as the Service and its tuple of slices are the same objects. Sources make `services` and `slices` as `Table`s,
    which makes finding those that are not as cheap as the change; any mapping will do.
    """

    services: Mapping[ServiceId, Service] = field(default_factory=dict)
    slices: Mapping[ServiceId, tuple[EndpointSlice, ...]] = field(default_factory=dict)
    nodes: Mapping[str, Node] = field(default_factory=dict)
    pods: Mapping[PodId, Pod] = field(default_factory=dict)
    namespaces: Mapping[str, Namespace] = field(default_factory=dict)
