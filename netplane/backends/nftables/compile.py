"""A plan as nftables tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache
from ipaddress import ip_address, ip_network

from netplane.backends.backend import Compiled, Deviation, Requirement
from netplane.backends.nftables.layout import structure
from netplane.backends.nftables.services import spell
from netplane.model.address import Family, Protocol
from netplane.model.endpoint import EndpointSlice, SliceEndpoint, SlicePort
from netplane.model.node import Node
from netplane.model.service import Ingress, Scope, Service, ServiceId, ServicePort, ServiceType
from netplane.model.snapshot import Snapshot
from netplane.model.table import changes, derived
from netplane.plan.node import plan_node
from netplane.plan.plan import NodeFacts, Plan, ServicePlan
from netplane.plan.settings import PodRange, Settings
from netplane.programs.nftables import Chain, NftablesProgram, Structure
from netplane.programs.nftables_text import program_script
from netplane.programs.program import Program


@dataclass(frozen=True, slots=True)
class NftablesBackend:
    """Frontends, slots and verdicts in maps: one chain per endpoint count, whatever the number of Services."""

    name: str = "nftables"
    deviations: tuple[Deviation, ...] = ()

    @property
    def needs(self) -> tuple[Requirement, ...]:
        """nft itself, and a kernel that takes every kind of rule and set the layout uses."""
        return (
            Requirement("the program nft", "nftables 1.0.6", program="nft"),
            Requirement(
                "kernel support for maps, nat, reject, fib, numgen and conntrack in nftables",
                "Linux 5.13 with nf_tables, nft_nat, nft_masq, nft_reject, nft_fib, nft_numgen, nft_ct",
                script=_sample_script(),
            ),
        )

    def compile(self, plan: Plan, since: Compiled | None = None) -> Compiled:
        """The program for `plan`; parts of Services that did not change are taken from `since`."""
        old = NftablesProgram()
        planned: Mapping[ServiceId, ServicePlan] = {}
        if since is not None:
            old, planned = since.program.nftables, since.plan.services
        changed, removed = changes(planned, plan.services)
        fresh = {service: spell(plan.services[service], plan.node.name) for service in changed}
        parts = derived(old.parts, fresh, removed)
        uses = Counter(old.uses)
        uses.subtract(old.parts[service].uses for service in (*changed, *removed) if service in old.parts)
        uses.update(part.uses for part in fresh.values())
        uses = +uses
        return Compiled(plan, Program(nftables=NftablesProgram(_tables(plan, uses), parts, uses)))

    def text(self, program: Program) -> str:
        """The program as a script for `nft -f -`."""
        return program_script(program.nftables)


def _tables(plan: Plan, uses: Iterable[frozenset[tuple[Family, Chain]]]) -> dict[Family, Structure]:
    used: frozenset[tuple[Family, Chain]] = frozenset().union(*uses)
    return {
        family: _table(
            family, plan.node, plan.settings, frozenset(chain for its_family, chain in used if its_family is family)
        )
        for family in sorted(plan.families)
    }


@lru_cache(maxsize=8)
def _table(family: Family, facts: NodeFacts, settings: Settings, picks: frozenset[Chain]) -> Structure:
    """The same object for the same arguments: that is how an unchanged structure is recognised."""
    return structure(family, facts, settings, picks)


def _sample_script() -> str:
    """A table with every kind of rule, set and element the layout has: what the kernel and nft must take."""
    here = {Family.IPV4: ip_address("192.0.2.1"), Family.IPV6: ip_address("2001:db8::1")}
    ports = tuple(ServicePort(protocol.value.lower(), protocol, 80, 80, 30080) for protocol in Protocol)
    service = Service(
        id=ServiceId("netplane", "probe"),
        type=ServiceType.LOAD_BALANCER,
        ports=ports,
        cluster_ips=(ip_address("10.96.0.1"), ip_address("fd00:96::1")),
        ingress=(Ingress(ip_address("203.0.113.1")), Ingress(ip_address("2001:db8:1::1"))),
        source_ranges=(ip_network("198.51.100.0/24"), ip_network("2001:db8:2::/64")),
        external=Scope.LOCAL,
    )
    sticky = replace(
        service,
        id=ServiceId("netplane", "sticky"),
        type=ServiceType.CLUSTER_IP,
        cluster_ips=(ip_address("10.96.0.2"), ip_address("fd00:96::2")),
        ports=tuple(replace(port, node_port=0) for port in ports),
        affinity=timedelta(hours=3),
    )
    slices = tuple(
        EndpointSlice(
            "netplane",
            f"probe-{family.value}",
            service.id,
            family,
            tuple(SlicePort(port.name, port.protocol, 80) for port in ports),
            (SliceEndpoint(address, node="probe"), SliceEndpoint(address + 1, node="other")),
        )
        for family, address in here.items()
    )
    node = Node("probe", addresses=tuple(here.values()))
    settings = Settings(
        local=PodRange((ip_network("10.0.0.0/16"), ip_network("fd00::/56"))),
        node_ports=(ip_network("192.0.2.0/24"), ip_network("2001:db8::/64")),
        service_ranges=(ip_network("10.96.0.0/16"), ip_network("fd00:96::/112")),
    )
    snapshot = Snapshot(
        {service.id: service, sticky.id: sticky}, {service.id: slices, sticky.id: slices}, {"probe": node}
    )
    backend = NftablesBackend()
    return backend.text(backend.compile(plan_node(snapshot, "probe", settings)).program)


NFTABLES = NftablesBackend()
