"""What one Service wants of the load-balancer pools: a function of the Service and the addresses they have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from netplane.errors import Problem
from netplane.model.address import Family, IPAddress, family_of
from netplane.model.service import Service, ServiceType
from netplane.plan.address_ring import Claim, Stage
from netplane.plan.load_balancer_pools import Pools, find, shown
from netplane.plan.plan import Note

OWN_CLASS = "netplane.dev/network"
_NO_AGE = "~"  # after every date: who does not say how old it is counts as the youngest


class Want(NamedTuple):
    """Claims to certain addresses, claims to some address of a family, and what is wrong whoever has what."""

    fixed: tuple[tuple[Claim, IPAddress], ...] = ()
    automatic: tuple[tuple[Claim, Family], ...] = ()
    said: tuple[Problem | Note, ...] = ()


def want_of(service: Service, pools: Pools) -> Want:
    """What the Service wants. One of another type only has its cluster IPs, which nobody else may get."""
    fixed = [
        (_claim(Stage.CLUSTER_IP, service, number), address)
        for number, address in enumerate(service.cluster_ips)
        if find(pools, address)
    ]
    if service.type is not ServiceType.LOAD_BALANCER or not pools:
        return Want(tuple(fixed))
    kept = [each.address for each in service.ingress if find(pools, each.address)]
    reason = _not_ours(service, kept)
    stage = Stage.FOREIGN if reason else Stage.KEPT
    fixed += [(_claim(stage, service, number), address) for number, address in enumerate(kept)]
    if reason:
        return Want(tuple(fixed), said=(Note(str(service.id), reason),))
    families = dict.fromkeys(map(family_of, service.cluster_ips))
    has = {family_of(address) for address in kept}
    asked = {family_of(address): address for address in (service.asked.addresses if service.asked else ())}
    said: list[Problem | Note] = list(_about_asked(service, asked, kept, pools))
    automatic = []
    for family in families:
        if family in has:
            continue
        if family in asked:
            if find(pools, asked[family]):
                fixed.append((_claim(Stage.ASKED, service, family.value), asked[family]))
        elif service.asked is None or service.asked.addresses:
            if any(pool.family is family for pool in pools):
                automatic.append((_claim(Stage.AUTOMATIC, service, family.value), family))
            else:
                said.append(_no_pool(service, family, alone=len(families) == 1))
    return Want(tuple(fixed), tuple(automatic), tuple(said))


def _claim(stage: Stage, service: Service, number: int) -> Claim:
    return Claim(stage, service.created or _NO_AGE, service.id.namespace, service.id.name, number)


def _not_ours(service: Service, kept: list[IPAddress]) -> str:
    """Why the Service gets no address from here, "" if it does."""
    if service.load_balancer_class not in ("", OWN_CLASS):
        return f"spec.loadBalancerClass {service.load_balancer_class}: left to whoever that is"
    foreign = [each.address for each in service.ingress if each.address not in kept]
    if foreign:
        return f"status.loadBalancer.ingress has {foreign[0]}, which is in no pool: left to whoever wrote it"
    return "" if service.cluster_ips else "has no cluster IP, so it is not served and needs no address"


def _about_asked(
    service: Service, asked: dict[Family, IPAddress], kept: list[IPAddress], pools: Pools
) -> Iterator[Problem]:
    if service.asked is None:
        return
    field = service.asked.field
    families = set(map(family_of, service.cluster_ips))
    if not asked:
        yield problem(service, field, "names no address that can be used, so none is given; correct or remove it")
    for family, address in sorted(asked.items()):
        mine = [one for one in kept if family_of(one) is family]
        if family not in families:
            yield problem(service, field, f"{address} is {family}, and the Service has no cluster IP of that family")
        elif mine and address not in mine:
            why = f"{address} is not given: status.loadBalancer.ingress has {mine[0]}, which is kept; remove it there"
            yield problem(service, field, why)
        elif not find(pools, address):
            have = shown(((pool.address(0), pool.address(pool.ring.size - 1)) for pool in pools), family)
            yield problem(service, field, f"{address} is in no pool; write one of {have}")


def _no_pool(service: Service, family: Family, *, alone: bool) -> Problem | Note:
    """A Service of two families makes do with an address of one."""
    if alone:
        return problem(service, "spec.type", f"gets no address: no load-balancer pool has {family} addresses; add one")
    return Note(str(service.id), f"gets no {family} address: no load-balancer pool has any")


def problem(service: Service, field: str, why: str) -> Problem:
    """A Problem of a field of the Service."""
    return Problem(where="", what=f"Service {service.id}: {field}", why=why)
