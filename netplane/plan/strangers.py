"""Endpoints that are nobody's: outside every Node's pod range and no Node's address.

They are used as they are, since a Service may well stand for something outside the cluster. More often it is a
mistyped address, so whoever asks is told.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from netplane.errors import Problem
from netplane.model.address import IPAddress
from netplane.model.snapshot import Snapshot

_SHOWN = 3


def strangers(snapshot: Snapshot) -> Iterator[Problem]:
    """One line for each Service with such endpoints, by name. Nothing if no Node tells its pod ranges."""
    cluster = _Cluster(snapshot)
    if not cluster.known:
        return
    for service in sorted(snapshot.slices):
        addresses = {
            endpoint.address
            for each in snapshot.slices[service]
            for endpoint in each.endpoints
            if not cluster.has(endpoint.address)
        }
        if addresses:
            found = sorted(addresses, key=lambda address: (address.version, int(address)))
            shown = ", ".join(map(str, found[:_SHOWN])) + (f" and {len(found) - _SHOWN} more" * (len(found) > _SHOWN))
            why = "in no Node's pod range and no Node's address; used as it is, correct it if it should be a Pod"
            yield Problem(where="", what=f"endpoints of Service {service}: {shown}", why=why)


class _Cluster:
    """The addresses that are somebody's."""

    def __init__(self, snapshot: Snapshot) -> None:
        nodes = snapshot.nodes.values()
        ranges = sorted(
            (each.version, int(each.network_address), int(each.broadcast_address))
            for node in nodes
            for each in node.pod_ranges
        )
        self.known = bool(ranges)
        self._nodes = frozenset(address for node in nodes for address in node.addresses)
        self._first = [(version, first) for version, first, _ in ranges]
        self._last = [last for _, _, last in ranges]

    def has(self, address: IPAddress) -> bool:
        """Whether the address is in a pod range, or a Node's."""
        index = bisect_right(self._first, (address.version, int(address))) - 1
        in_range = index >= 0 and self._first[index][0] == address.version and int(address) <= self._last[index]
        return in_range or address in self._nodes
