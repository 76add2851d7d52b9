"""Objects -> Snapshot, change by change.

The cost of `apply` follows the change: the mappings of a Snapshot are tables that share what did not change with the
Snapshot before, and only Services whose slices or Pods changed get a new tuple of slices.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from netplane.model.endpoint import EndpointSlice
from netplane.model.node import Node
from netplane.model.pod import Labels, Namespace, Pod, PodId
from netplane.model.service import Service, ServiceId
from netplane.model.snapshot import Snapshot
from netplane.model.table import derived
from netplane.sources.decode import Object
from netplane.sources.derive import slices_from, wants_pods
from netplane.sources.slices import Legacy


class Change(NamedTuple):
    """An object before and after; None where there was or is none. One of the two is there."""

    before: Object | None
    after: Object | None


class _Anchor(NamedTuple):
    """One label every Pod of a Service must have: Pods and Services find each other by it."""

    namespace: str
    label: tuple[str, str]


class Assembler:
    """Holds the last Snapshot and what is needed to make the next one from changes alone."""

    def __init__(self) -> None:
        self.snapshot = Snapshot()
        self._explicit: dict[ServiceId, tuple[EndpointSlice, ...]] = {}
        self._legacy: dict[ServiceId, tuple[EndpointSlice, ...]] = {}
        # By anchor: the Services that have it, and the Pods, noted only for anchors that some Service has.
        self._selecting: dict[_Anchor, tuple[ServiceId, ...]] = {}
        self._anchored: dict[_Anchor, set[PodId]] = {}

    def apply(self, changes: Iterable[Change]) -> Snapshot:
        """The Snapshot after `changes`; the same one if nothing changed."""
        of: dict[type, list[Change]] = {}
        for change in changes:
            of.setdefault(type(change.after or change.before), []).append(change)
        if not of:
            return self.snapshot
        old = self.snapshot
        services = _after(old.services, of.get(Service, ()), "id")
        pods = _after(old.pods, of.get(Pod, ()), "id")
        dirty = self._note_services(of.get(Service, ()), old.pods)
        dirty |= self._note_pods(of.get(Pod, ()), services)
        dirty |= self._note_slices(of.get(EndpointSlice, ()))
        dirty |= self._note_legacy(of.get(Legacy, ()))
        self.snapshot = Snapshot(
            services=services,
            slices=self._slices(dirty, services, pods),
            nodes=_after(old.nodes, of.get(Node, ()), "name"),
            pods=pods,
            namespaces=_after(old.namespaces, of.get(Namespace, ()), "name"),
        )
        return self.snapshot

    def _note_services(self, changes: Iterable[Change], pods: Mapping[PodId, Pod]) -> set[ServiceId]:
        """Index the Services by anchor; all of them need a look. `pods` are those before this round."""
        dirty: set[ServiceId] = set()
        fresh: set[_Anchor] = set()
        for before, after in changes:
            old = _anchors(before) if isinstance(before, Service) else {}
            new = _anchors(after) if isinstance(after, Service) else {}
            dirty.update(one.id for one in (before, after) if isinstance(one, Service))
            for anchor in old.keys() - new.keys():
                self._forget(anchor, old[anchor])
            for anchor in new.keys() - old.keys():
                if anchor not in self._selecting:
                    fresh.add(anchor)
                self._selecting[anchor] = (*self._selecting.get(anchor, ()), new[anchor])
        if fresh:
            for pod in pods.values():
                self._anchor_pod(pod, fresh)
        return dirty

    def _forget(self, anchor: _Anchor, service: ServiceId) -> None:
        left = tuple(one for one in self._selecting[anchor] if one != service)
        if left:
            self._selecting[anchor] = left
        else:
            del self._selecting[anchor]
            self._anchored.pop(anchor, None)

    def _anchor_pod(self, pod: Pod, among: Container[_Anchor]) -> None:
        for label in pod.labels:
            anchor = _Anchor(pod.id.namespace, label)
            if anchor in among and anchor in self._selecting:
                self._anchored.setdefault(anchor, set()).add(pod.id)

    def _note_pods(self, changes: Iterable[Change], services: Mapping[ServiceId, Service]) -> set[ServiceId]:
        """Index the Pods by anchor. The Services that selected one of them before or do so now need a look."""
        dirty: set[ServiceId] = set()
        for before, after in changes:
            for pod in (before, after):
                if isinstance(pod, Pod):
                    dirty.update(self._selecting_pod(pod, services))
            if isinstance(before, Pod):
                for label in before.labels:
                    self._anchored.get(_Anchor(before.id.namespace, label), set()).discard(before.id)
            if isinstance(after, Pod):
                self._anchor_pod(after, self._selecting)
        return dirty

    def _selecting_pod(self, pod: Pod, services: Mapping[ServiceId, Service]) -> Iterable[ServiceId]:
        for label in pod.labels:
            for service in self._selecting.get(_Anchor(pod.id.namespace, label), ()):
                if _selects(services[service], pod.labels):
                    yield service

    def _note_slices(self, changes: Iterable[Change]) -> set[ServiceId]:
        """Regroup the slices by Service, each group sorted by name."""
        touched: dict[ServiceId, dict[str, EndpointSlice | None]] = {}
        for before, after in changes:
            if isinstance(before, EndpointSlice):
                touched.setdefault(before.service, {}).setdefault(before.name, None)
            if isinstance(after, EndpointSlice):
                touched.setdefault(after.service, {})[after.name] = after
        for service, named in touched.items():
            group = {one.name: one for one in self._explicit.pop(service, ())} | named
            if left := tuple(one for _, one in sorted(group.items()) if one is not None):
                self._explicit[service] = left
        return set(touched)

    def _note_legacy(self, changes: Iterable[Change]) -> set[ServiceId]:
        dirty: set[ServiceId] = set()
        for before, after in changes:
            if isinstance(before, Legacy):
                self._legacy.pop(before.service, None)
                dirty.add(before.service)
            if isinstance(after, Legacy):
                self._legacy[after.service] = after.slices
                dirty.add(after.service)
        return dirty

    def _slices(
        self, dirty: Iterable[ServiceId], services: Mapping[ServiceId, Service], pods: Mapping[PodId, Pod]
    ) -> Mapping[ServiceId, tuple[EndpointSlice, ...]]:
        """The table of slices with those of `dirty` looked up again."""
        old = self.snapshot.slices
        changed: dict[ServiceId, tuple[EndpointSlice, ...]] = {}
        for service in sorted(dirty):
            made, was = self._slices_of(service, services, pods), old.get(service, ())
            if made != was:
                known = {one.name: one for one in was}
                changed[service] = tuple(known[one.name] if known.get(one.name) == one else one for one in made)
        gone = [service for service, made in changed.items() if not made]
        return derived(old, changed, gone) if changed else old

    def _slices_of(
        self, id: ServiceId, services: Mapping[ServiceId, Service], pods: Mapping[PodId, Pod]
    ) -> tuple[EndpointSlice, ...]:
        """Slices that are written down, else Endpoints, else what follows from the Pods."""
        if id in self._explicit:
            return self._explicit[id]
        if id in self._legacy:
            return self._legacy[id]
        service = services.get(id)
        if service is None or not wants_pods(service):
            return ()
        candidates = (pods[pod] for anchor in _anchors(service) for pod in self._anchored.get(anchor, ()))
        return slices_from(service, (pod for pod in candidates if _selects(service, pod.labels)))


def _anchors(service: Service) -> dict[_Anchor, ServiceId]:
    """The anchor of a Service; none if it does not select Pods."""
    return {_Anchor(service.id.namespace, service.selector[0]): service.id} if wants_pods(service) else {}


def _selects(service: Service, labels: Labels) -> bool:
    return labels.issuperset(service.selector)


def _after(table: Mapping[Any, Any], changes: Sequence[Change], key: str) -> Mapping[Any, Any]:
    """`table` with `changes` made; `table` itself if there are none. `key` is the attribute it is keyed by."""
    put = {getattr(after, key): after for _, after in changes if after is not None}
    drop = [getattr(before, key) for before, after in changes if after is None]
    return derived(table, put, drop) if changes else table
