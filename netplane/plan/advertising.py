"""Which Service addresses this node advertises by BGP: routers may send it packets to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from netplane.model.address import IPAddress
from netplane.model.service import Scope, Service, ServiceId
from netplane.model.table import changes, derived
from netplane.plan.network_settings import Announce, NetworkSettings
from netplane.plan.plan import Forward, FrontendKind, Plan, ServicePlan, ThisNode


@dataclass(frozen=True, slots=True)
class Advertised:
    """The addresses, sorted; and, as memory, those of each Service that has any, of which plan and which kinds."""

    addresses: tuple[IPAddress, ...] = ()
    by_service: Mapping[ServiceId, tuple[IPAddress, ...]] = field(default_factory=dict, compare=False)
    plan: Plan | None = field(default=None, compare=False)
    kinds: frozenset[FrontendKind] = frozenset()


def advertised(plan: Plan, settings: NetworkSettings) -> tuple[IPAddress, ...]:
    """External IPs and load-balancer addresses that the settings want told to routers, sorted.

    With external traffic policy Local only while an endpoint here would get what comes: nobody else may.
    """
    return advertise(plan, settings).addresses


def advertise(plan: Plan, settings: NetworkSettings, previous: Advertised | None = None) -> Advertised:
    """The same, at the cost of the change. `previous` saves work and never changes the result."""
    kinds = _kinds(settings)
    if not kinds:
        return Advertised()
    if previous is None or previous.plan is None or previous.kinds != kinds:
        previous = Advertised(kinds=kinds)
    old = previous.plan.services if previous.plan is not None else {}
    changed, removed = changes(old, plan.services)
    put: dict[ServiceId, tuple[IPAddress, ...]] = {}
    for id in changed:
        found = tuple(dict.fromkeys(_of(plan.services[id], plan.snapshot.services.get(id), kinds)))
        if found != previous.by_service.get(id, ()):
            put[id] = found
    gone = [id for id in removed if id in previous.by_service] + [id for id, found in put.items() if not found]
    if not put and not gone:
        return Advertised(previous.addresses, previous.by_service, plan, kinds)
    by_service = derived(previous.by_service, put, gone)
    every = {address for found in by_service.values() for address in found}
    addresses = tuple(sorted(every, key=lambda address: (address.version, int(address))))
    return Advertised(addresses, by_service, plan, kinds)


def _kinds(settings: NetworkSettings) -> frozenset[FrontendKind]:
    bgp = settings.bgp
    balanced = bgp.advertise_load_balancer_ips or settings.load_balancers.announce is Announce.BGP
    wanted = {FrontendKind.EXTERNAL_IP: bgp.advertise_external_ips, FrontendKind.LOAD_BALANCER: balanced}
    return frozenset(kind for kind, is_wanted in wanted.items() if is_wanted)


def _of(entry: ServicePlan, service: Service | None, kinds: frozenset[FrontendKind]) -> Iterator[IPAddress]:
    local = service is not None and service.external is Scope.LOCAL
    for row in entry.rows():
        address = row.frontend.address
        reached = not local or isinstance(row.verdicts.outside, Forward)
        if row.kind in kinds and reached and not isinstance(address, ThisNode):
            yield address
