"""Random clusters and single changes of them, as values: `cluster(seed)`, then `changed(random, snapshot)` as often
as wanted.

Changes are small, as a cluster's are: an endpoint drains, an affinity is given up, a node moves. What they do not
touch stays the same object (Snapshot), and mappings are derived from the ones before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from random import Random

from generated.clusters import NODES, NUMBERS, POD_RANGES, World

from netplane.model.endpoint import EndpointSlice, EndpointState, SliceEndpoint
from netplane.model.service import Scope, Service, ServiceId, ServiceType
from netplane.model.snapshot import Snapshot
from netplane.model.table import derived

AFFINITIES = (None, timedelta(seconds=1), timedelta(seconds=60), timedelta(days=1))


def cluster(seed: int) -> Snapshot:
    """A cluster of three nodes and some Services, the same for the same seed."""
    snapshot, random = World(seed).snapshot, Random(f"churn {seed}")
    for _ in range(60):
        snapshot, _ = changed(random, snapshot)
    return snapshot


def changed(random: Random, snapshot: Snapshot) -> tuple[Snapshot, str]:
    """`snapshot` but for one thing, and what that is: `shop/a: 10.244.1.2 is draining`. Never the same snapshot."""
    draft = _Draft(random, snapshot)
    while draft.snapshot is snapshot:
        kind = random.choices(KINDS, WEIGHTS)[0]
        said = CHANGES[kind][1](draft)
    return draft.snapshot, f"{kind}: {said}"


class _Draft(World):
    """A cluster while it is changed. Methods leave it alone where there is nothing of their kind to change."""

    def __init__(self, random: Random, snapshot: Snapshot) -> None:
        self.random, self.snapshot = random, snapshot

    # --- Services ----------------------------------------------------------------------------------------------------

    def comes(self) -> str:
        service = self._service(self._id())
        self._put(service)
        return f"{service.id} of type {service.type.value}"

    def goes(self) -> str:
        if not (service := self._some_service()):
            return ""
        self.snapshot = replace(self.snapshot, services=derived(self.snapshot.services, {}, [service.id]))
        return str(service.id)

    def edited(self) -> str:
        return self._edit(lambda old: self._varied(old))

    def of_other_type(self) -> str:
        kinds = tuple(ServiceType)
        return self._edit(lambda old: replace(old, type=self._one([kind for kind in kinds if kind is not old.type])))

    def of_other_affinity(self) -> str:
        return self._edit(
            lambda old: replace(old, affinity=self._one([each for each in AFFINITIES if each != old.affinity]))
        )

    def of_other_policy(self) -> str:
        local = {Scope.CLUSTER: Scope.LOCAL, Scope.LOCAL: Scope.CLUSTER}
        return self._edit(
            lambda old: (
                replace(old, internal=local[old.internal])
                if self._chance(0.5)
                else replace(old, external=local[old.external])
            )
        )

    def of_other_families(self) -> str:
        """One family alone, or both, either first."""

        def other(old: Service) -> Service:
            own = self._service(old.id).cluster_ips
            return replace(old, cluster_ips=own[::-1] if self._chance(0.5) else own)

        return self._edit(other)

    def of_other_number(self) -> str:
        def renumbered(old: Service) -> Service:
            first, *rest = old.ports
            return replace(old, ports=(replace(first, port=self._one(NUMBERS)), *rest))

        return self._edit(renumbered)

    # --- endpoints ---------------------------------------------------------------------------------------------------

    def endpoint_comes(self) -> str:
        def more(old: EndpointSlice) -> tuple[EndpointSlice, SliceEndpoint]:
            new = self._endpoint(old.family, self._one((0.0, 1.0)))
            return replace(old, endpoints=(*old.endpoints, new)), new

        return self._edit_slice(more)

    def endpoint_goes(self) -> str:
        def fewer(old: EndpointSlice) -> tuple[EndpointSlice, SliceEndpoint] | None:
            if not old.endpoints:
                return None
            gone = self._one(old.endpoints)
            return replace(old, endpoints=tuple(each for each in old.endpoints if each is not gone)), gone

        return self._edit_slice(fewer)

    def endpoint_turns(self) -> str:
        def turned(old: EndpointSlice) -> tuple[EndpointSlice, SliceEndpoint] | None:
            if not old.endpoints:
                return None
            before = self._one(old.endpoints)
            after = replace(before, state=self._one([each for each in EndpointState if each is not before.state]))
            endpoints = tuple(after if each is before else each for each in old.endpoints)
            return replace(old, endpoints=endpoints), after

        return self._edit_slice(turned)

    def slices_other(self) -> str:
        of = self._id()
        self._put_slices(of, self._slices(of))
        return str(of)

    def slices_gone(self) -> str:
        if not self.snapshot.slices:
            return ""
        gone = self._one(sorted(self.snapshot.slices))
        self.snapshot = replace(self.snapshot, slices=derived(self.snapshot.slices, {}, [gone]))
        return str(gone)

    # --- nodes -------------------------------------------------------------------------------------------------------

    def node_other(self) -> str:
        name = self._one(NODES)
        node = self._node(name)
        self.snapshot = replace(self.snapshot, nodes={**self.snapshot.nodes, name: node})
        return f"{name} in zone {node.zone!r} with {len(node.addresses)} addresses, pods in {node.pod_ranges}"

    def node_families(self) -> str:
        """Pods in one family or in both."""
        old = self.snapshot.nodes[self._one(NODES)]
        both = POD_RANGES[old.name]
        ranges = self._one([each for each in (both, both[:1], both[1:]) if each != old.pod_ranges])
        self.snapshot = replace(self.snapshot, nodes={**self.snapshot.nodes, old.name: replace(old, pod_ranges=ranges)})
        return f"{old.name} pods in {ranges}"

    # --- one object of the cluster -----------------------------------------------------------------------------------

    def _some_service(self) -> Service | None:
        found = self.snapshot.services
        return found[self._one(sorted(found))] if found else None

    def _edit(self, edit: Callable[[Service], Service]) -> str:
        if not (old := self._some_service()):
            return ""
        self.snapshot = replace(self.snapshot, services=derived(self.snapshot.services, {old.id: edit(old)}))
        return str(old.id)

    def _edit_slice(self, edit: Callable[[EndpointSlice], tuple[EndpointSlice, SliceEndpoint] | None]) -> str:
        of: ServiceId | None = self._one(sorted(self.snapshot.slices)) if self.snapshot.slices else None
        if of is None or not self.snapshot.slices[of]:
            return ""
        old = self._one(self.snapshot.slices[of])
        if not (done := edit(old)):
            return ""
        new, endpoint = done
        self._put_slices(of, tuple(new if each is old else each for each in self.snapshot.slices[of]))
        return f"{of} {endpoint.address} {endpoint.state.value}"


CHANGES: dict[str, tuple[int, Callable[[_Draft], str]]] = {
    "Service comes": (16, _Draft.comes),
    "Service goes": (5, _Draft.goes),
    "Service edited": (8, _Draft.edited),
    "Service of other type": (4, _Draft.of_other_type),
    "Service of other affinity": (6, _Draft.of_other_affinity),
    "Service of other policy": (4, _Draft.of_other_policy),
    "Service of other families": (3, _Draft.of_other_families),
    "Service of other number": (3, _Draft.of_other_number),
    "endpoint comes": (18, _Draft.endpoint_comes),
    "endpoint goes": (14, _Draft.endpoint_goes),
    "endpoint turns": (14, _Draft.endpoint_turns),
    "other slices": (8, _Draft.slices_other),
    "no slices": (2, _Draft.slices_gone),
    "other node": (3, _Draft.node_other),
    "node of other families": (4, _Draft.node_families),
}
"""Every kind of change: how often, and how."""
KINDS = tuple(CHANGES)
WEIGHTS = tuple(weight for weight, _ in CHANGES.values())
