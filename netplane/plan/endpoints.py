"""Which endpoints a Service port can use on this node.

The choice is kube-proxy's CategorizeEndpoints: ready ones near enough (KEP-3015 node hints, then KEP-2433 zone
hints), else all ready ones, else those serving while terminating (KEP-1669); and the same among this node's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from netplane.model.address import Family
from netplane.model.endpoint import EndpointSlice, EndpointState, SliceEndpoint
from netplane.model.service import ServicePort
from netplane.plan.plan import Endpoint, NodeFacts, Note


class Candidate(NamedTuple):
    """An endpoint of the port, with what the slice says about it."""

    endpoint: Endpoint
    listed: SliceEndpoint


@dataclass(frozen=True, slots=True)
class Choice:
    """`anywhere` and `here` are what cluster-wide and node-local policies may use; `serving` still answer at all."""

    anywhere: tuple[Endpoint, ...]
    here: tuple[Endpoint, ...]
    serving: tuple[Endpoint, ...]
    notes: tuple[Note, ...] = ()


_BEST_FIRST = {EndpointState.READY: 0, EndpointState.DRAINING: 1, EndpointState.DOWN: 2}


def candidates(port: ServicePort, slices: Iterable[EndpointSlice], family: Family) -> list[Candidate]:
    """All endpoints the slices list for the port in one family, sorted by address and port, each once.

    Where slices disagree about an endpoint the better state counts, so that the order of slices leaves no trace.
    """
    found: dict[tuple[int, int], Candidate] = {}
    for listed, number in _listed(port, slices, family):
        key = (int(listed.address), number)
        other = found.get(key)
        if other is None or _rank(listed) < _rank(other.listed):
            endpoint = Endpoint(listed.address, number, listed.node, listed.state, listed.pod)
            found[key] = Candidate(endpoint, listed)
    return [found[key] for key in sorted(found)]


def _listed(port: ServicePort, slices: Iterable[EndpointSlice], family: Family) -> Iterator[tuple[SliceEndpoint, int]]:
    for each in slices:
        if each.family is not family:
            continue
        for slice_port in each.ports:
            if slice_port.name == port.name and slice_port.protocol is port.protocol:
                for listed in each.endpoints:
                    yield listed, slice_port.port


def _rank(listed: SliceEndpoint) -> tuple[int, bool, str, list[str], list[str], str]:
    hints = sorted(listed.node_hints), sorted(listed.zone_hints)
    return _BEST_FIRST[listed.state], not listed.node, listed.node, *hints, listed.pod


def choose(found: list[Candidate], facts: NodeFacts) -> Choice:
    """Split the candidates into what each policy may use on this node."""
    ready = [each for each in found if each.endpoint.state is EndpointState.READY]
    draining = tuple(each.endpoint for each in found if each.endpoint.state is EndpointState.DRAINING)
    near, notes = _near(ready, facts)
    all_ready = tuple(each.endpoint for each in ready)
    here = _of_node(all_ready, facts) or _of_node(draining, facts)
    serving = tuple(each.endpoint for each in found if each.endpoint.state is not EndpointState.DOWN)
    return Choice(
        anywhere=near or draining,
        here=here,
        serving=serving if len(serving) != len(near) else near,  # equal tuples are one object: 10k services add up
        notes=(*notes, *_down(found), *_drained(draining, near, here)),
    )


def _of_node(endpoints: tuple[Endpoint, ...], facts: NodeFacts) -> tuple[Endpoint, ...]:
    return tuple(endpoint for endpoint in endpoints if endpoint.node == facts.name)


def _near(ready: list[Candidate], facts: NodeFacts) -> tuple[tuple[Endpoint, ...], tuple[Note, ...]]:
    """The ready endpoints hinted for this node, else for this zone, else all of them.

    A hint mode is on only if *every* ready endpoint carries the hint and at least one names us.
    """
    if not any(each.listed.node_hints or each.listed.zone_hints for each in ready):
        return tuple(each.endpoint for each in ready), ()
    if all(each.listed.node_hints for each in ready):
        same_node = tuple(each.endpoint for each in ready if facts.name in each.listed.node_hints)
        if same_node:
            return same_node, (Note("hints", f"only endpoints hinted for node {facts.name} are used"),)
    if facts.zone and all(each.listed.zone_hints for each in ready):
        same_zone = tuple(each.endpoint for each in ready if facts.zone in each.listed.zone_hints)
        if same_zone:
            return same_zone, (Note("hints", f"only endpoints hinted for zone {facts.zone} are used"),)
    return tuple(each.endpoint for each in ready), (Note("hints", _why_ignored(ready, facts)),)


def _why_ignored(ready: list[Candidate], facts: NodeFacts) -> str:
    for each in ready:
        if not each.listed.zone_hints and not each.listed.node_hints:
            return f"hints ignored: {each.endpoint} has none"
    if not facts.zone:
        return f"hints ignored: node {facts.name} has no zone label"
    return f"hints ignored: not every ready endpoint names a zone, or none names zone {facts.zone}"


def _down(found: list[Candidate]) -> tuple[Note, ...]:
    return tuple(
        Note(str(each.endpoint), "not ready: never chosen")
        for each in found
        if each.endpoint.state is EndpointState.DOWN
    )


def _drained(draining: tuple[Endpoint, ...], near: tuple[Endpoint, ...], here: tuple[Endpoint, ...]) -> Iterator[Note]:
    for endpoint in draining:
        if not near:
            said = "terminating, but nothing is ready: used"
        elif endpoint in here:
            said = "terminating: only policy Local uses it, as nothing on this node is ready"
        else:
            said = "terminating: new connections only go to ready ones"
        yield Note(str(endpoint), said)
