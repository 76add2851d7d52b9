"""Which node answers for which load-balancer address, and what is told to routers."""

import random
from collections import Counter
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from builders import LOCAL, down, draining, exposed, node, service, slices, snapshot, up

from netplane.model.service import ServiceId, ServiceType
from netplane.model.snapshot import Snapshot
from netplane.model.table import Table
from netplane.plan.advertising import advertise, advertised
from netplane.plan.announcing import Announcing, Electorate, announced_here, announcing, number_of, winner
from netplane.plan.load_balancers import allocate
from netplane.plan.network_plan import HostFacts
from netplane.plan.network_settings import Announce, Bgp, LoadBalancers, Mode, NetworkSettings
from netplane.plan.node import plan_node
from netplane.plan.settings import Settings

POOL = LoadBalancers(((ip_address("192.0.2.100"), ip_address("192.0.2.119")),))
FACTS = HostFacts(networks={"lo": (ip_network("127.0.0.0/8"),), "eth0": (ip_network("192.0.2.0/24"),)})
NODES = [node(f"n{number}") for number in range(1, 6)]
NAMES = [each.name for each in NODES]


def balanced(name: str = "web", **changes: object):
    return service(name, ips=("10.96.0.10",), type=ServiceType.LOAD_BALANCER, **changes)


def answering(now: Snapshot, on: str, facts: HostFacts = FACTS, of: LoadBalancers = POOL) -> Announcing:
    allocation = allocate(now, of)
    plan = plan_node(allocation.snapshot, on, Settings())
    return announcing(allocation, plan, Electorate(now.nodes, on, facts, of))


def everywhere(*objects: object, facts: HostFacts = FACTS) -> dict[str, list[str]]:
    """Who answers for what, as each node sees it."""
    now = snapshot(*objects)
    made = {name: answering(now, name, facts).announced for name in now.nodes}
    return {name: [str(each.address) for each in found] for name, found in made.items() if found}


def elected(*objects: object, facts: HostFacts = FACTS) -> str:
    ((name, _),) = everywhere(*objects, facts=facts).items()
    return name


def test_exactly_one_node_answers_for_each_address():
    names = [f"s{number}" for number in range(18)]
    made = everywhere(NODES, [balanced(name) for name in names])
    said = [address for found in made.values() for address in found]
    assert len(said) == len(set(said)) == 18
    assert len(made) > 1


def test_it_answers_on_the_link_whose_network_has_the_address():
    networks = {
        "eth0": (ip_network("192.0.0.0/16"),),
        "eth1": (ip_network("192.0.2.0/24"), ip_network("192.0.2.100/32")),
    }
    (one,) = answering(snapshot(node(), balanced()), "n1", HostFacts(networks=networks)).announced
    assert one.link == "eth1"


def test_another_takes_over_from_a_node_that_does_not_answer():
    first = elected(NODES, balanced())
    now = snapshot(NODES, balanced())
    facts = replace(FACTS, silent=frozenset({first}))
    others = [name for name in NAMES if name != first and answering(now, name, facts).announced]
    assert len(others) == 1


def test_a_node_never_counts_itself_as_silent():
    first = elected(NODES, balanced())
    facts = replace(FACTS, silent=frozenset(NAMES))
    assert answering(snapshot(NODES, balanced()), first, facts).announced


def test_another_takes_over_from_a_node_that_is_not_ready():
    first = elected(NODES, balanced())
    nodes = [replace(each, ready=each.name != first) for each in NODES]
    assert elected(nodes, balanced()) not in ("", first)


def test_where_no_node_is_ready_readiness_is_not_looked_at():
    first = elected(NODES, balanced())
    assert elected([replace(each, ready=False) for each in NODES], balanced()) == first


def test_only_nodes_in_the_network_of_the_address_are_elected():
    here, far = node("n1"), replace(node("n2"), addresses=(ip_address("198.18.0.2"),))
    for number in range(6):
        made = answering(snapshot(here, far, balanced(f"s{number}")), "n1")
        assert made.announced
        beside = HostFacts(networks={"eth0": (ip_network("198.18.0.0/24"),)})
        away = answering(snapshot(here, far, balanced(f"s{number}")), "n2", beside)
        assert away == Announcing()


def test_a_network_no_node_address_is_in_may_be_any_nodes():
    facts = HostFacts(networks={"eth1": (ip_network("203.0.113.0/24"),)})
    of = LoadBalancers(((ip_address("203.0.113.1"), ip_address("203.0.113.9")),))
    now = snapshot(NODES, balanced())
    assert sum(bool(answering(now, name, facts, of).announced) for name in NAMES) == 1


def test_an_address_that_is_on_no_link_is_said_once_for_its_pool():
    of = LoadBalancers(((ip_address("203.0.113.1"), ip_address("203.0.113.9")),))
    made = answering(snapshot(node(), balanced("a"), balanced("b")), "n1", of=of)
    assert made.announced == ()
    (problem,) = made.problems
    assert str(problem).startswith(
        "load-balancers.pools: 203.0.113.1-203.0.113.9: has addresses that are in no network"
    )
    assert "eth0: 192.0.2.0/24" in problem.why


def test_the_last_address_of_a_network_cannot_be_found():
    now = snapshot(node(), balanced(ingress=["192.0.2.119"]))
    facts = HostFacts(networks={"eth0": (ip_network("192.0.2.0/25"), ip_network("192.0.2.112/29"))})
    made = answering(now, "n1", facts)
    assert made.announced == ()
    assert str(made.problems[0]).startswith("Service shop/web: 192.0.2.119: nobody can reach it")


def test_a_node_that_is_back_is_elected_again():
    now = snapshot(NODES, [balanced(f"s{number}") for number in range(12)])
    allocation = allocate(now, POOL)
    plan = plan_node(allocation.snapshot, "n1", Settings())
    made: Announcing | None = None
    seen = []
    for silent in ((), ("n2", "n3", "n4", "n5"), ("n2", "n3"), ()):
        electorate = Electorate(now.nodes, "n1", replace(FACTS, silent=frozenset(silent)), POOL)
        made = announcing(allocation, plan, electorate, made)
        assert made == announcing(allocation, plan, electorate)
        seen.append(len(made.announced))
    assert seen[0] == seen[3] < seen[2] < seen[1] == 12


def test_policy_local_endpoints_of_the_other_family_do_not_count():
    both = LoadBalancers((*POOL.pools, (ip_address("2001:db8:2::100"), ip_address("2001:db8:2::119"))))
    networks = {"eth0": (ip_network("192.0.2.0/24"), ip_network("2001:db8:2::/64"))}
    ips = ("10.96.0.10", "fd00:96::10")
    web = service(ips=ips, type=ServiceType.LOAD_BALANCER, external=LOCAL)
    now = snapshot(NODES, web, slices("web", up("10.244.1.5", "n1"), up("fd00:244:2::5", "n2")))
    found = {name: answering(now, name, HostFacts(networks=networks), both).announced for name in NAMES}
    assert {name: [each.address.version for each in made] for name, made in found.items() if made} == {
        "n1": [4],
        "n2": [6],
    }


def test_policy_local_only_nodes_with_an_endpoint_answer():
    web = balanced(external=LOCAL)
    ready = slices("web", up("10.244.2.5", "n2"), draining("10.244.3.5", "n3"), down("10.244.4.5", "n4"))
    assert elected(NODES, web, ready) == "n2"


def test_policy_local_draining_endpoints_count_where_nothing_is_ready():
    web = balanced(external=LOCAL)
    assert elected(NODES, web, slices("web", draining("10.244.3.5", "n3"), down("10.244.4.5", "n4"))) == "n3"


def test_policy_local_without_an_endpoint_nobody_answers():
    assert everywhere(NODES, balanced(external=LOCAL), slices("web", down("10.244.4.5", "n4"))) == {}


def test_policy_cluster_without_an_endpoint_is_answered_for():
    """So that clients are refused at once."""
    assert len(everywhere(NODES, balanced())) == 1


def test_what_another_proxy_serves_is_not_answered_for():
    other = frozenset({("service.kubernetes.io/service-proxy-name", "other")})
    assert everywhere(NODES, balanced(labels=other)) == {}


@pytest.mark.parametrize("how", [Announce.BGP, Announce.NONE])
def test_without_neighbours_nobody_answers(how):
    of = replace(POOL, announce=how)
    assert answering(snapshot(node(), balanced()), "n1", of=of) == Announcing()


def test_the_short_form_says_the_same():
    now = snapshot(NODES, balanced())
    allocation = allocate(now, POOL)
    for name in NAMES:
        plan = plan_node(allocation.snapshot, name, Settings())
        made = answering(now, name)
        assert announced_here(allocation, plan, now.nodes, name, FACTS, POOL) == (made.announced, made.problems)


def test_a_node_that_goes_moves_only_its_own_addresses_and_evenly():
    names = {f"node-{number}": number_of(f"node-{number}") for number in range(10)}
    every = [ip_address("10.0.0.0") + number for number in range(2000)]
    before = {address: winner(address, names) for address in every}
    assert max(Counter(before.values()).values()) < 1.3 * 200
    gone = "node-3"
    after = {
        address: winner(address, {name: number for name, number in names.items() if name != gone}) for address in every
    }
    moved = [address for address in every if after[address] != before[address]]
    assert moved == [address for address in every if before[address] == gone]
    assert max(Counter(after[address] for address in moved).values()) < 3 * len(moved) / 9


@pytest.mark.parametrize("seed", range(20))
def test_the_result_never_depends_on_the_previous_one(seed):
    dice = random.Random(seed)
    now = Snapshot(services=Table(), slices=Table(), nodes={each.name: each for each in NODES})
    allocation, plan, answers, told = None, None, None, None
    bgp = NetworkSettings(Mode.BGP, bgp=Bgp(advertise_external_ips=True, advertise_load_balancer_ips=True))
    for _ in range(15):
        now, facts = _step(dice, now)
        allocation = allocate(now, POOL, allocation)
        plan = plan_node(allocation.snapshot, "n1", Settings(), plan)
        electorate = Electorate(now.nodes, "n1", facts, POOL)
        answers = announcing(allocation, plan, electorate, answers)
        fresh = allocate(now, POOL)
        other = plan_node(fresh.snapshot, "n1", Settings())
        assert answers == announcing(fresh, other, electorate)
        told = advertise(plan, bgp, told)
        assert told.addresses == advertised(other, bgp)


def _step(dice: random.Random, old: Snapshot) -> tuple[Snapshot, HostFacts]:
    name = f"s{dice.randrange(12)}"
    id = ServiceId("shop", name)
    if dice.random() < 0.2:
        return replace(old, services=Table(old.services).derive({}, [id])), FACTS
    kept = dice.choice([{}, {}, {"ingress": [f"192.0.2.{dice.randrange(100, 120)}"]}])
    one = balanced(name, external=dice.choice([LOCAL, service().external]), external_ips=("198.51.100.7",), **kept)
    group = tuple(slices(name, *(up(f"10.244.{number}.5", f"n{number}") for number in range(1, dice.randrange(1, 5)))))
    nodes = old.nodes
    if dice.random() < 0.3:
        nodes = {each.name: replace(each, ready=dice.random() < 0.7) for each in NODES}
    silent = frozenset(dice.sample(NAMES, 1)) if dice.random() < 0.3 else frozenset()
    services = Table(old.services).derive({id: one})
    endpoints = Table(old.slices).derive({id: group}, [] if group else [id])
    return Snapshot(services=services, slices=endpoints, nodes=nodes), replace(FACTS, silent=silent)


# --- what is told to routers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bgp", "balancers", "kinds"),
    [
        (Bgp(), LoadBalancers(), set()),
        (Bgp(advertise_external_ips=True), LoadBalancers(), {"198.51.100.7", "2001:db8:51::7"}),
        (Bgp(advertise_load_balancer_ips=True), LoadBalancers(), {"203.0.113.5", "2001:db8:113::5"}),
        (Bgp(), LoadBalancers(announce=Announce.BGP), {"203.0.113.5", "2001:db8:113::5"}),
    ],
)
def test_routers_are_told_what_the_settings_want(bgp, balancers, kinds):
    plan = plan_node(snapshot(exposed()), "n1", Settings())
    assert set(map(str, advertised(plan, NetworkSettings(Mode.BGP, bgp=bgp, load_balancers=balancers)))) == kinds


@pytest.mark.parametrize(
    ("endpoint", "told"),
    [
        (up("10.244.1.5", "n1"), True),
        (draining("10.244.1.5", "n1"), True),
        (up("10.244.2.5", "n2"), False),
        (down("10.244.1.5", "n1"), False),
    ],
)
def test_policy_local_is_told_only_while_an_endpoint_here_answers(endpoint, told):
    plan = plan_node(snapshot(exposed(external=LOCAL), slices("web", endpoint)), "n1", Settings())
    settings = NetworkSettings(Mode.BGP, bgp=Bgp(advertise_external_ips=True))
    assert (ip_address("198.51.100.7") in advertised(plan, settings)) is told
