"""Node (core/v1), as far as the network sees it."""

from __future__ import annotations

from dataclasses import dataclass

from netplane.model.address import IPAddress, IPNetwork

ZONE_LABEL = "topology.kubernetes.io/zone"


@dataclass(frozen=True, slots=True)
class Node:
    """A Node. `addresses` are its InternalIPs in API order; the first of each family is the primary one."""

    name: str
    addresses: tuple[IPAddress, ...] = ()
    pod_ranges: tuple[IPNetwork, ...] = ()
    zone: str = ""
    labels: frozenset[tuple[str, str]] = frozenset()
    annotations: tuple[tuple[str, str], ...] = ()
    ready: bool = True
    """Condition `Ready` is True, or nobody says."""
