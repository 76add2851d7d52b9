"""The decision table: what one Service means on one node.

| frontend                          | policy           | from pod         | from node        | from outside      |
|-----------------------------------|------------------|------------------|------------------|-------------------|
| cluster IP                        | internal Cluster | all, no masq     | all, masq        | all, masq         |
| cluster IP                        | internal Local   | local or drop    | local or drop, masq | local or drop, masq |
| external IP, LB IP, node port     | external Cluster | all, masq        | all, masq        | all, masq         |
| external IP, LB IP, node port     | external Local   | all, no masq     | all, masq        | local or drop, no masq |
| any, no endpoint anywhere         |                  | reject           | reject           | reject            |

docs/semantics.md explains every cell and where kube-proxy's own backends disagree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network

from netplane.errors import Problem
from netplane.model.address import Family, IPAddress, IPNetwork, Protocol, family_of
from netplane.model.endpoint import EndpointSlice, EndpointState
from netplane.model.service import (
    HEADLESS_LABEL,
    PROXY_NAME_LABEL,
    REMOVED_ENDPOINTS_ANNOTATION,
    RemovedEndpoints,
    Scope,
    Service,
    ServicePort,
    ServicePortId,
    ServiceType,
)
from netplane.plan.endpoints import candidates, choose
from netplane.plan.plan import (
    Affinity,
    Drop,
    Forward,
    Frontend,
    FrontendKind,
    FrontendRow,
    HealthCheck,
    NodeFacts,
    Note,
    Pool,
    PortPlan,
    Reject,
    ServicePlan,
    ThisNode,
    Verdict,
    Verdicts,
)
from netplane.plan.settings import Settings

Slices = tuple[EndpointSlice, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """The node a Service is planned for: facts, settings (local detection resolved) and families served."""

    facts: NodeFacts
    settings: Settings
    families: frozenset[Family]


@dataclass(frozen=True, slots=True)
class Pools:
    """What the endpoints of one port come down to. `known` is whether any usable one exists in the cluster."""

    anywhere: Pool | None
    here: Pool | None
    known: bool


def plan_service(service: Service, slices: Slices, place: Place) -> ServicePlan:
    """What the Service means on the node. Depends on nothing but the arguments."""
    if reason := not_served(service, place.settings):
        return ServicePlan(service.id, notes=(Note(str(service.id), reason),))
    families, problems = _families(service), (*_unserved_families(service, place), *_of_the_node(service, place))
    if problems:
        refused = place.facts.addresses
        usable = tuple(address for address in service.cluster_ips if address not in refused)
        service = replace(service, cluster_ips=usable)
    ports = tuple(
        _plan_port(service, port, family, slices, place)
        for family in families
        if family in place.families
        for port in service.ports
    )
    return ServicePlan(
        service=service.id,
        ports=ports,
        cluster_ips=tuple(address for address in service.cluster_ips if family_of(address) in place.families),
        health=tuple(_health(service, slices, families, place)),
        problems=problems,
    )


def not_served(service: Service, settings: Settings) -> str:
    """Why the Service is not this proxy's business, or "" if it is."""
    labels = dict(service.labels)
    if service.type is ServiceType.EXTERNAL_NAME:
        return "type ExternalName: a DNS name, no packets to handle"
    if not service.cluster_ips:
        return "headless: clients talk to the Pods themselves"
    if HEADLESS_LABEL in labels:
        return f"label {HEADLESS_LABEL}: not for a service proxy"
    if labels.get(PROXY_NAME_LABEL, "") != settings.proxy_name:
        return f"label {PROXY_NAME_LABEL}={labels.get(PROXY_NAME_LABEL, '')}: for another service proxy"
    return ""


def _families(service: Service) -> tuple[Family, ...]:
    return tuple(dict.fromkeys(map(family_of, service.cluster_ips)))


def _plan_port(service: Service, port: ServicePort, family: Family, slices: Slices, place: Place) -> PortPlan:
    port_id = ServicePortId(service.id.namespace, service.id.name, port.name, port.protocol)
    choice = choose(candidates(port, slices, family), place.facts)
    affinity = Affinity(port_id, service.affinity) if service.affinity else None
    pools = Pools(
        anywhere=Pool(choice.anywhere, affinity) if choice.anywhere else None,
        here=Pool(choice.here, affinity) if choice.here else None,
        known=bool(choice.serving),
    )
    addresses = _Addresses(service, port, family)
    internal = for_cluster_ip(service.internal, pools, masquerade_all=place.settings.masquerade_all)
    external = for_external(service.external, pools)
    rows = [_row(address, FrontendKind.CLUSTER_IP, port, port_id, internal) for address in addresses.cluster_ips()]
    rows += [_row(address, FrontendKind.EXTERNAL_IP, port, port_id, external) for address in addresses.external_ips()]
    rows += _load_balancer_rows(addresses, port_id, external, place.facts)
    if port.node_port:
        rows.append(FrontendRow(addresses.node_port(), FrontendKind.NODE_PORT, port_id, external))
    notes = choice.notes + addresses.notes() + tuple(_ends(service, port))
    return PortPlan(port_id, family, tuple(rows), choice.serving, notes, service.removed_endpoints)


def _ends(service: Service, port: ServicePort) -> Iterator[Note]:
    if service.removed_endpoints is RemovedEndpoints.RESET and port.protocol is Protocol.TCP:
        yield Note(REMOVED_ENDPOINTS_ANNOTATION, "connections to an endpoint that no longer serves are reset")


def for_cluster_ip(internal: Scope, pools: Pools, *, masquerade_all: bool) -> Verdicts:
    """Verdicts of a cluster IP: only Pods can be answered directly, everyone else must come back through us."""
    pool = pools.anywhere if internal is Scope.CLUSTER else pools.here
    return Verdicts(
        pod=_to(pool, pools, masquerade=masquerade_all),
        node=_to(pool, pools, masquerade=True),
        outside=_to(pool, pools, masquerade=True),
    )


def for_external(external: Scope, pools: Pools) -> Verdicts:
    """Verdicts of node ports, external and load-balancer addresses."""
    if external is Scope.CLUSTER:
        return Verdicts.same(_to(pools.anywhere, pools, masquerade=True))
    return Verdicts(
        pod=_to(pools.anywhere, pools, masquerade=False),  # as if it had gone out and come back
        node=_to(pools.anywhere, pools, masquerade=True),  # so that the reply returns here
        outside=_to(pools.here, pools, masquerade=False),  # the client's address survives
    )


def _to(pool: Pool | None, pools: Pools, *, masquerade: bool) -> Verdict:
    if pool is not None:
        return Forward(pool, masquerade)
    # A silent drop makes a load balancer or client try another node; where nobody could serve, say so at once.
    return Drop() if pools.known else Reject()


@dataclass(frozen=True, slots=True)
class _Addresses:
    """The addresses of one Service port in one family."""

    service: Service
    port: ServicePort
    family: Family

    def cluster_ips(self) -> Iterator[IPAddress]:
        return (address for address in self.service.cluster_ips if family_of(address) is self.family)

    def external_ips(self) -> Iterator[IPAddress]:
        # An address listed as both is a load-balancer address: its source ranges must hold.
        taken = {*self.service.cluster_ips, *self.ingress_ips()}
        found = dict.fromkeys(address for address in self.service.external_ips if family_of(address) is self.family)
        return (address for address in found if address not in taken)

    def ingress_ips(self) -> tuple[IPAddress, ...]:
        """Load-balancer addresses that are ours to serve: `ipMode: Proxy` means the packet must reach the LB."""
        if self.service.type is not ServiceType.LOAD_BALANCER:
            return ()
        own = self.service.cluster_ips
        listed = (ingress.address for ingress in self.service.ingress if not ingress.proxy)
        return tuple(
            dict.fromkeys(address for address in listed if family_of(address) is self.family and address not in own)
        )

    def node_port(self) -> Frontend:
        node = ThisNode.IPV4 if self.family is Family.IPV4 else ThisNode.IPV6
        return Frontend(node, self.port.protocol, self.port.node_port)

    def notes(self) -> tuple[Note, ...]:
        return tuple(
            Note(str(ingress.address), "ipMode Proxy: left to the load balancer itself")
            for ingress in self.service.ingress
            if ingress.proxy and family_of(ingress.address) is self.family
        )


def _row(
    address: IPAddress, kind: FrontendKind, port: ServicePort, port_id: ServicePortId, verdicts: Verdicts
) -> FrontendRow:
    return FrontendRow(Frontend(address, port.protocol, port.port), kind, port_id, verdicts)


def _load_balancer_rows(
    addresses: _Addresses, port_id: ServicePortId, external: Verdicts, facts: NodeFacts
) -> Iterator[FrontendRow]:
    vips = addresses.ingress_ips()
    if not vips:
        return
    ranges = addresses.service.source_ranges
    allowed = _allowed(ranges, vips, addresses.family, facts)
    # Ranges of the other family only: nobody of this family was let in (docs/decisions/0004).
    verdicts = external if allowed or not ranges else Verdicts.same(Drop())
    for address in vips:
        frontend = Frontend(address, addresses.port.protocol, addresses.port.port)
        yield FrontendRow(frontend, FrontendKind.LOAD_BALANCER, port_id, verdicts, allowed)


def _allowed(
    ranges: tuple[IPNetwork, ...], vips: tuple[IPAddress, ...], family: Family, facts: NodeFacts
) -> tuple[IPNetwork, ...]:
    """The ranges of this family; a node inside them may also use the address itself as source (row 15).

    Ranges that overlap are merged: a set of ranges is a set of addresses, and kernels refuse to hold one twice.
    """
    own = [network for network in ranges if family_of(network) is family]
    if any(address in network for address in facts.addresses for network in own):
        own.extend(ip_network(vip) for vip in vips)
    if family is Family.IPV4:
        return tuple(collapse_addresses(each for each in own if isinstance(each, IPv4Network)))
    return tuple(collapse_addresses(each for each in own if isinstance(each, IPv6Network)))


def _health(service: Service, slices: Slices, families: tuple[Family, ...], place: Place) -> Iterator[HealthCheck]:
    """The health check node port exists only for load balancers that keep the client's address (KEP-3836)."""
    wanted = service.type is ServiceType.LOAD_BALANCER and service.external is Scope.LOCAL
    if not wanted or not service.health_check_node_port:
        return
    for family in families:
        if family in place.families:
            local = {
                each.endpoint.address
                for port in service.ports
                for each in candidates(port, slices, family)
                if each.endpoint.state is EndpointState.READY and each.endpoint.node == place.facts.name
            }
            yield HealthCheck(service.id, family, service.health_check_node_port, len(local))


def _unserved_families(service: Service, place: Place) -> tuple[Problem, ...]:
    return tuple(
        Problem(
            where="",
            what=f"Service {service.id}: {address}",
            why=f"{family_of(address)} is not served: no {family_of(address)} pod range is known"
            f" (Node {place.facts.name} spec.podCIDRs, or --local pod-range=...)",
        )
        for address in service.cluster_ips
        if family_of(address) not in place.families
    )


def _of_the_node(service: Service, place: Place) -> tuple[Problem, ...]:
    """A cluster IP rejects every port it does not have; those would be the node's own."""
    return tuple(
        Problem(
            where="",
            what=f"Service {service.id}: {address}",
            why=f"is an address of Node {place.facts.name}, all of whose ports it would take; give it another",
        )
        for address in service.cluster_ips
        if address in place.facts.addresses
    )
