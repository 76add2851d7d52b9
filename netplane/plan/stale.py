"""Which conntrack entries no longer agree with the plan.

UDP has no handshake: a flow keeps its entry, and so its endpoint, for as long as it talks. An entry is stale if it
belongs to a UDP Service port and is answered by something that no longer serves it: an endpoint that is gone, or
the frontend itself (an entry from the time when the Service had no endpoint). Flows to endpoints that still serve,
terminating ones too, are left alone whatever the policy says.

A TCP connection to an endpoint that no longer serves is stale only if its Service says so (`RemovedEndpoints`), and
then even if no other endpoint is left. SCTP associations are never stale.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

from netplane.model.address import Family, IPAddress, Protocol
from netplane.model.service import RemovedEndpoints, ServiceId
from netplane.model.table import changes
from netplane.plan.plan import Frontend, Plan, PortPlan, ThisNode


class Server(NamedTuple):
    """Who answers a flow."""

    address: IPAddress
    port: int


class Flow(NamedTuple):
    """A conntrack entry: where the first packet was sent, and who answers."""

    protocol: Protocol
    destination: IPAddress
    port: int
    server: Server


class Suspects(NamedTuple):
    """Flows some of which may be stale; None stands for any."""

    protocol: Protocol
    family: Family
    destination: IPAddress | None = None
    port: int | None = None
    server: Server | None = None

    @property
    def all_stale(self) -> bool:
        """Whether none needs to be judged."""
        return self.destination is not None and self.port is not None and self.server is not None


class StaleFlows:
    """Judges flows by one plan. `local` are further addresses of the node, beyond those of its Node object.

    A node port counts on every address of the node.
    """

    def __init__(self, plan: Plan, local: Iterable[IPAddress] = ()) -> None:
        self._plan = plan
        self._node = frozenset((*plan.node.addresses, *local))
        self._serving: dict[Frontend, frozenset[Server] | None] = {}

    def is_stale(self, flow: Flow) -> bool:
        """Whether the entry should be deleted so that the next packet is decided anew."""
        serving = self._may_answer(Frontend(flow.destination, flow.protocol, flow.port))
        if serving is None or flow.server in serving:
            return False
        # What netplane never translated was no connection to an endpoint; TCP there is somebody else's.
        return flow.protocol is Protocol.UDP or flow.server != (flow.destination, flow.port)

    def among(self, flows: Iterable[Flow]) -> Iterator[Flow]:
        """Those of the flows that are stale."""
        return filter(self.is_stale, flows)

    def since(self, before: StaleFlows) -> list[Suspects] | None:
        """Where flows may be stale that were not so under `before`; nowhere else are any.

        None if that may be anywhere: node ports have other addresses. Costs what has changed.
        """
        changed, removed = changes(before._plan.services, self._plan.services)
        touched = (*changed, *removed)
        if before._node != self._node or before._taken(touched) != self._taken(touched):
            return None
        frontends = dict.fromkeys((*before._judged(touched), *self._judged(touched)))
        return [each for frontend in frontends for each in self._suspects(frontend, before)]

    def everywhere(self) -> list[Suspects]:
        """All flows that can be stale at all."""
        ports = (port for service in self._plan.services.values() for port in service.ports if _is_judged(port))
        return sorted({Suspects(port.id.protocol, port.family) for port in ports}, key=str)

    def _suspects(self, frontend: Frontend, before: StaleFlows) -> Iterator[Suspects]:
        serving, served = self._may_answer(frontend), before._may_answer(frontend)
        if serving is None:
            return
        destination = None if isinstance(frontend.address, ThisNode) else frontend.address
        # Where nothing was judged, anybody may be answering.
        for server in [None] if served is None else sorted(served - serving, key=_by_number):
            yield Suspects(frontend.protocol, frontend.family, destination, frontend.port, server)

    def _taken(self, services: Iterable[ServiceId]) -> set[IPAddress]:
        """Addresses of the node that are cluster IPs, so that no node port answers there."""
        entries = (self._plan.services[each] for each in services if each in self._plan.services)
        return {address for entry in entries for address in entry.cluster_ips if address in self._node}

    def _judged(self, services: Iterable[ServiceId]) -> Iterator[Frontend]:
        """Frontends of the services where the answer can change. At an address of the node, whatever has the
        frontend keeps it from a node port of the same number."""
        for service in services:
            entry = self._plan.services.get(service)
            for port in entry.ports if entry else ():
                every = _is_judged(port)
                for row in port.rows:
                    if every or row.frontend.address in self._node:
                        yield row.frontend

    def _may_answer(self, frontend: Frontend) -> frozenset[Server] | None:
        """Who may answer flows to it; None if that is not judged."""
        try:
            return self._serving[frontend]
        except KeyError:
            port = self._port_of(frontend)
            servers = (Server(endpoint.address, endpoint.port) for endpoint in port.serving) if port else ()
            found = self._serving[frontend] = frozenset(servers) if port and _is_judged(port) else None
            return found

    def _port_of(self, frontend: Frontend) -> PortPlan | None:
        """The Service port that decides about packets to it, found by who claims what."""
        owner = self._owner_of(frontend)
        if owner is None and frontend.address in self._node:
            node = ThisNode.IPV4 if frontend.family is Family.IPV4 else ThisNode.IPV6
            frontend = replace(frontend, address=node)
            owner = self._owner_of(frontend)
        ports = self._plan.services[owner].ports if owner else ()
        return next((port for port in ports if any(row.frontend == frontend for row in port.rows)), None)

    def _owner_of(self, frontend: Frontend) -> ServiceId | None:
        claims = self._plan.claims
        if not isinstance(frontend.address, ThisNode):
            for rank, service in claims.get(frontend.address, ())[:1]:
                if rank == 0:  # a cluster IP is one Service's, whole
                    return service
        return next((service for _, service in claims.get(frontend, ())), None)


def _is_judged(port: PortPlan) -> bool:
    match port.id.protocol:
        case Protocol.UDP:
            # Without a serving endpoint there is nowhere better to go: kube-proxy leaves such flows alone, too.
            return bool(port.serving)
        case Protocol.TCP:
            return port.removed_endpoints is RemovedEndpoints.RESET
        case Protocol.SCTP:
            return False


def _by_number(server: Server) -> tuple[int, int]:
    return int(server.address), server.port
