"""Laws of allocation on generated clusters: the result never depends on the way to it, and few have to move."""

import random
from dataclasses import replace
from ipaddress import ip_address

import pytest
from builders import node, service

from netplane.model.service import Asked, Ingress, Service, ServiceId, ServiceType
from netplane.model.snapshot import Snapshot
from netplane.model.table import Table, changes
from netplane.plan.load_balancers import Allocation, Why, allocate
from netplane.plan.network_settings import LoadBalancers

SETTINGS = LoadBalancers(
    tuple(
        (ip_address(first), ip_address(last))
        for first, last in (
            ("198.51.100.0", "198.51.100.9"),
            ("2001:db8:51::", "2001:db8:51::6"),
            ("203.0.113.1", "203.0.113.4"),
        )
    )
)
V4 = [*(f"198.51.100.{n}" for n in range(11)), *(f"203.0.113.{n}" for n in range(1, 6))]
V6 = [f"2001:db8:51::{n}" for n in range(8)]


def some_service(random: random.Random, name: str) -> Service:
    ips = random.choice([("10.96.0.1",), ("fd00:96::1",), ("10.96.0.1", "fd00:96::1"), ("198.51.100.8",), ()])
    kind = random.choice([ServiceType.LOAD_BALANCER] * 5 + [ServiceType.CLUSTER_IP])
    made = service(name, ips=ips, type=kind)
    if kind is ServiceType.CLUSTER_IP:
        return made
    asked = random.choice([None] * 4 + [Asked("spec.loadBalancerIP", _some(random))])
    kept = _some(random) if random.random() < 0.3 else ()
    created = random.choice(["", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"])
    other = random.choice([""] * 9 + ["cloud"])
    return replace(made, asked=asked, ingress=tuple(map(Ingress, kept)), created=created, load_balancer_class=other)


def _some(random: random.Random):
    listed = random.choice([[random.choice(V4)], [random.choice(V6)], [random.choice(V4), random.choice(V6)], []])
    return tuple(map(ip_address, listed))


def some_nodes(random: random.Random):
    made = {}
    for name in ("n1", "n2", "n3"):
        if random.random() < 0.7:
            made[name] = node(name, addresses=(ip_address(random.choice(["192.0.2.1", *V4])),))
    return made


def step(random: random.Random, old: Snapshot) -> Snapshot:
    names = [f"s{number}" for number in range(24)]
    put = {}
    for name in random.sample(names, random.choice([1, 1, 1, 2, 5])):
        made = some_service(random, name)
        put[made.id] = made
    drop = [ServiceId("shop", name) for name in random.sample(names, random.choice([0, 1, 2, 6]))]
    services = Table(old.services).derive(put, drop)
    return replace(old, services=services, nodes=some_nodes(random) if random.random() < 0.2 else old.nodes)


@pytest.mark.parametrize("seed", range(40))
def test_the_result_never_depends_on_the_previous_one(seed):
    dice = random.Random(seed)
    now, made = Snapshot(services=Table(), nodes=some_nodes(dice)), None
    for _ in range(25):
        now = step(dice, now)
        made = allocate(now, SETTINGS, made)
        assert made == allocate(now, SETTINGS)
        assert_sound(now, made)


def assert_sound(now: Snapshot, made: Allocation) -> None:
    """Nobody has another's address, nobody went without while one was free, all others are the same objects."""
    chosen = [each.address for every in made.given.values() for each in every if each.why is not Why.KEPT]
    assert len(chosen) == len(set(chosen))
    kept = {each.address for every in made.given.values() for each in every if each.why is Why.KEPT}
    nodes = {address for each in now.nodes.values() for address in each.addresses}
    assert not nodes & {*chosen, *kept}
    assert not kept & set(chosen)
    for id, one in now.services.items():
        if id not in made.given or all(each.why is Why.KEPT for each in made.given[id]):
            assert made.snapshot.services[id] is one
    exhausted = {each.what.split()[1].rstrip(":") for each in made.problems if "none is left" in each.why}
    for family, text in ((4, "IPv4"), (6, "IPv6")):
        if any("none is left" in each.why and text in each.why for each in made.problems):
            blocked = {*made.addresses, *nodes, *(ip for one in now.services.values() for ip in one.cluster_ips)}
            blocked |= {each.address for one in now.services.values() for each in one.ingress}
            free = [ip_address(each) for each in (V4 if family == 4 else V6)]
            usable = {
                each
                for each in free
                if any(first <= each <= last for first, last in SETTINGS.pools if first.version == each.version)
                and int(each) & (0xFF if family == 4 else (1 << 64) - 1)
            }
            assert usable <= blocked, exhausted


def plain(number: int, created: str = "") -> Service:
    return replace(service(f"s{number}", ips=("10.96.0.1",), type=ServiceType.LOAD_BALANCER), created=created)


WIDE = LoadBalancers(((ip_address("198.51.100.1"), ip_address("198.51.100.254")),))


def test_a_younger_service_moves_nobody():
    services = {each.id: each for each in (plain(number, "2026-01-01T00:00:00Z") for number in range(253))}
    before = allocate(Snapshot(services=Table(services)), WIDE)
    younger = plain(999, "2026-01-02T00:00:00Z")
    after = allocate(Snapshot(services=Table({**services, younger.id: younger})), WIDE)
    assert {id: after.given[id] for id in services} == before.given
    assert younger.id in after.given


def test_without_dates_a_new_service_seldom_moves_another():
    """A pool half full: less than one other has to move for a new one."""
    services = {each.id: each for each in map(plain, range(127))}
    before = allocate(Snapshot(services=Table(services)), WIDE)
    moved = 0
    for number in range(1000, 1200):
        one = plain(number)
        after = allocate(Snapshot(services=Table({**services, one.id: one})), WIDE, before)
        moved += sum(after.given[id] != before.given[id] for id in services)
    assert moved < 200


def test_of_5000_services_only_the_changed_one_is_another_object():
    wide = LoadBalancers(((ip_address("10.200.0.0"), ip_address("10.200.31.255")),))
    services = Table({each.id: each for each in (plain(number, "2026-01-01T00:00:00Z") for number in range(5000))})
    before = allocate(Snapshot(services=services), wide)
    one = plain(7777, "2026-01-02T00:00:00Z")
    after = allocate(Snapshot(services=services.derive({one.id: one})), wide, before)
    assert changes(before.snapshot.services, after.snapshot.services) == ([one.id], [])
    assert len(after.addresses) == 5001
