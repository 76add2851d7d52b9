"""EndpointSlice (discovery/v1): the addresses behind a Service, as the API lists them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from netplane.model.address import Family, IPAddress, Protocol
from netplane.model.service import ServiceId


class EndpointState(Enum):
    """What the conditions `ready`, `serving` and `terminating` amount to (KEP-1669)."""

    READY = "ready"
    """Takes new connections (`ready`, which is also the value when the condition is absent)."""
    DRAINING = "draining"
    """Serving and terminating: takes new connections only where nothing is ready."""
    DOWN = "down"
    """Neither: never chosen."""


@dataclass(frozen=True, slots=True)
class SlicePort:
    """One entry of a slice's `ports`. Entries without a number are dropped while decoding."""

    name: str
    protocol: Protocol
    port: int


@dataclass(frozen=True, slots=True)
class SliceEndpoint:
    """One address of a slice. `node` is "" when the API names none; hints are sets, empty when absent."""

    address: IPAddress
    state: EndpointState = EndpointState.READY
    node: str = ""
    zone_hints: frozenset[str] = frozenset()
    node_hints: frozenset[str] = frozenset()
    pod: str = ""
    """Name of the Pod behind the address, for people; "" when the slice does not say."""


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    """Some endpoints of one Service in one address family; every endpoint serves every port."""

    namespace: str
    name: str
    service: ServiceId
    family: Family
    ports: tuple[SlicePort, ...]
    endpoints: tuple[SliceEndpoint, ...]
