"""Who gets which load-balancer address: one test for each sentence of docs/decisions/0036."""

from dataclasses import replace
from ipaddress import ip_address

import pytest
from builders import addresses, node, service, snapshot

from netplane.model.service import Asked, Ingress, Service, ServiceId, ServiceType
from netplane.model.snapshot import Snapshot
from netplane.plan.load_balancers import Allocation, Why, allocate
from netplane.plan.network_settings import LoadBalancers

V4 = ("198.51.100.1", "198.51.100.14")
V6 = ("2001:db8:51::", "2001:db8:51::ffff")
FIELD = "metadata.annotations[netplane.dev/load-balancer-address]"


def pools(*ranges: tuple[str, str]) -> LoadBalancers:
    return LoadBalancers(tuple((ip_address(first), ip_address(last)) for first, last in ranges or (V4, V6)))


def balanced(name: str = "web", *asked: str, ips: tuple[str, ...] = ("10.96.0.10",), **changes: object) -> Service:
    """A Service of type LoadBalancer; what it asks for."""
    made = service(name, ips=ips, type=ServiceType.LOAD_BALANCER, **changes)
    return replace(made, asked=Asked(FIELD, addresses(*asked))) if asked else made


def allocation(*objects: object, of: LoadBalancers | None = None) -> Allocation:
    return allocate(snapshot(*objects), of or pools())


def given(of: Allocation, name: str = "web") -> list[tuple[str, str]]:
    return [(str(each.address), each.why.value) for each in of.given.get(ServiceId("shop", name), ())]


def ingress(of: Allocation, name: str = "web") -> list[str]:
    return [str(each.address) for each in of.snapshot.services[ServiceId("shop", name)].ingress]


def said(of: Allocation) -> list[str]:
    return [f"{each.what}: {each.why}" for each in of.problems]


def test_a_load_balancer_gets_an_address_of_the_pool():
    made = allocation(balanced())
    ((address, why),) = given(made)
    assert why == Why.AUTOMATIC.value
    assert ip_address(V4[0]) <= ip_address(address) <= ip_address(V4[1])
    assert ingress(made) == [address]
    assert made.addresses == (ip_address(address),)
    assert not made.problems


def test_one_address_for_each_family_of_its_cluster_ips():
    made = allocation(balanced(ips=("fd00:96::10", "10.96.0.10")))
    assert [ip_address(address).version for address, _ in given(made)] == [4, 6]


def test_other_types_get_none_and_stay_the_same_object():
    before = snapshot(service(), service("other", type=ServiceType.NODE_PORT), balanced("lb"))
    made = allocate(before, pools())
    assert set(made.given) == {ServiceId("shop", "lb")}
    for name in ("web", "other"):
        assert made.snapshot.services[ServiceId("shop", name)] is before.services[ServiceId("shop", name)]


def test_without_pools_nothing_is_done():
    before = snapshot(balanced())
    made = allocate(before, LoadBalancers())
    assert made.snapshot is before
    assert not made.problems


def test_what_the_status_has_is_kept():
    made = allocation(balanced(ingress=["198.51.100.9"]))
    assert given(made) == [("198.51.100.9", "kept")]
    assert ingress(made) == ["198.51.100.9"]


def test_a_second_family_is_added_to_what_is_kept():
    made = allocation(balanced(ips=("10.96.0.10", "fd00:96::10"), ingress=["198.51.100.9"]))
    assert [why for _, why in given(made)] == ["kept", "automatic"]
    assert ingress(made)[0] == "198.51.100.9"


def test_what_is_asked_for_is_given():
    made = allocation(balanced("web", "198.51.100.3", "2001:db8:51::7", ips=("10.96.0.10", "fd00:96::10")))
    assert given(made) == [("198.51.100.3", "asked"), ("2001:db8:51::7", "asked")]


def test_who_asks_for_one_family_gets_the_other_too():
    made = allocation(balanced("web", "198.51.100.3", ips=("10.96.0.10", "fd00:96::10")))
    assert [why for _, why in given(made)] == ["asked", "automatic"]


def test_a_status_counts_more_than_what_is_asked_for_and_that_is_said():
    made = allocation(balanced("web", "198.51.100.3", ingress=["198.51.100.9"]))
    assert given(made) == [("198.51.100.9", "kept")]
    (problem,) = said(made)
    assert problem.startswith(f"Service shop/web: {FIELD}: 198.51.100.3 is not given")


def test_nobody_gets_what_another_has_in_its_status():
    made = allocation(balanced("web", "198.51.100.9"), balanced("old", ingress=["198.51.100.9"]))
    assert given(made) == []
    assert said(made) == [
        f"Service shop/web: {FIELD}: 198.51.100.9 is in the status of Service shop/old, which keeps it; choose another"
    ]


def test_two_with_one_address_in_their_status_share_it():
    made = allocation(balanced("a", ingress=["198.51.100.9"]), balanced("b", ingress=["198.51.100.9"]))
    assert given(made, "a") == given(made, "b") == [("198.51.100.9", "kept")]
    assert not made.problems


def test_of_two_who_ask_for_one_address_the_older_has_it():
    made = allocation(
        balanced("a", "198.51.100.9", created="2026-01-02T00:00:00Z"),
        balanced("b", "198.51.100.9", created="2026-01-01T00:00:00Z"),
        balanced("c", "198.51.100.9"),
    )
    assert given(made, "b") == [("198.51.100.9", "asked")]
    assert [problem.split(":")[0] for problem in said(made)] == ["Service shop/a", "Service shop/c"]
    assert "given to Service shop/b, which asks for it too" in said(made)[0]


def test_who_asks_in_vain_does_not_get_another_address():
    made = allocation(balanced("web", "203.0.113.9"))
    assert given(made) == []
    assert said(made) == [
        f"Service shop/web: {FIELD}: 203.0.113.9 is in no pool; write one of 198.51.100.1-198.51.100.14"
    ]


def test_who_asks_for_nothing_that_can_be_used_gets_nothing():
    made = allocation(replace(balanced(), asked=Asked("spec.loadBalancerIP", ())))
    assert given(made) == []
    assert said(made)[0].startswith("Service shop/web: spec.loadBalancerIP: names no address")


def test_an_address_of_a_family_the_service_does_not_have():
    made = allocation(balanced("web", "2001:db8:51::7"))
    assert "has no cluster IP of that family" in said(made)[0]
    assert [why for _, why in given(made)] == ["automatic"]


def test_who_asks_drives_out_who_does_not():
    ((address, _),) = given(allocation(balanced()))
    made = allocation(balanced(), balanced("other", address))
    assert given(made, "other") == [(address, "asked")]
    assert given(made) != [(address, "automatic")]
    assert not made.problems


def test_an_address_of_a_node_is_never_given():
    every = pools(("192.0.2.1", "192.0.2.2"))
    made = allocation(node("n1"), node("n2"), balanced("a", "192.0.2.1"), balanced("b"), of=every)
    assert made.addresses == ()
    assert "192.0.2.1 is an address of Node n1; choose another" in said(made)[0]
    assert "none is left in the pools 192.0.2.1-192.0.2.2" in said(made)[1]


def test_a_cluster_ip_is_never_given():
    made = allocation(balanced(), service("db", ips=("198.51.100.2",)), of=pools(("198.51.100.2", "198.51.100.2")))
    assert made.addresses == ()


def test_when_the_pool_is_used_up_the_younger_go_without():
    made = allocation(
        *(balanced(name, created=f"2026-01-0{9 - at}T00:00:00Z") for at, name in enumerate("abc")),
        of=pools(("198.51.100.1", "198.51.100.2")),
    )
    assert set(made.given) == {ServiceId("shop", "b"), ServiceId("shop", "c")}
    (problem,) = said(made)
    assert problem.startswith(
        "Service shop/a: spec.type: gets no IPv4 address: none is left in the pools 198.51.100.1-"
    )


def test_a_further_pool_is_for_who_finds_no_place_in_the_first():
    names = [f"s{number}" for number in range(5)]
    small, more = ("198.51.100.1", "198.51.100.3"), ("203.0.113.1", "203.0.113.9")
    before = allocation(*map(balanced, names), of=pools(small))
    after = allocation(*map(balanced, names), of=pools(small, more))
    assert len(before.addresses) == 3
    assert len(after.addresses) == 5
    assert all(given(after, name) == given(before, name) for name in names if given(before, name))


def test_pools_that_overlap_are_each_address_once():
    made = allocation(
        *(balanced(f"s{number}") for number in range(4)), of=pools(*([("198.51.100.1", "198.51.100.3")] * 2))
    )
    assert len(made.addresses) == 3


@pytest.mark.parametrize(
    ("first", "last", "usable"),
    [
        ("198.51.100.0", "198.51.100.1", {"198.51.100.1"}),
        ("198.51.100.254", "198.51.101.1", {"198.51.100.254", "198.51.101.1"}),
        ("2001:db8:51::", "2001:db8:51::1", {"2001:db8:51::1"}),
    ],
)
def test_addresses_that_mean_a_network_are_only_given_to_who_asks(first, last, usable):
    ips = ("10.96.0.10",) if ":" not in first else ("fd00:96::10",)
    made = allocation(*(balanced(f"s{number}", ips=ips) for number in range(3)), of=pools((first, last)))
    assert set(map(str, made.addresses)) == usable
    asking = allocation(balanced("web", first, ips=ips), of=pools((first, last)))
    assert given(asking) == [(first, "asked")]


def test_another_class_is_left_alone():
    made = allocation(
        replace(balanced(), load_balancer_class="cloud.example/lb"),
        balanced("own", load_balancer_class="netplane.dev/network"),
    )
    assert given(made) == []
    assert len(given(made, "own")) == 1
    assert [str(note) for note in made.notes] == [
        "shop/web: spec.loadBalancerClass cloud.example/lb: left to whoever that is"
    ]


def test_what_another_class_has_of_the_pool_is_not_given_to_anybody():
    other = balanced("other", load_balancer_class="cloud.example/lb", ingress=["198.51.100.9"])
    made = allocation(other, balanced("web", "198.51.100.9"))
    assert made.addresses == ()
    assert "198.51.100.9 is in the status of Service shop/other" in said(made)[0]


def test_who_has_an_address_of_somebody_else_is_left_alone():
    made = allocation(balanced(ips=("10.96.0.10", "fd00:96::10"), ingress=["203.0.113.77"]))
    assert given(made) == []
    assert ingress(made) == ["203.0.113.77"]


def test_ip_mode_proxy_in_the_status_stays():
    made = allocation(balanced(ingress=[Ingress(ip_address("198.51.100.9"), proxy=True)]))
    assert given(made) == [("198.51.100.9", "kept")]
    assert made.snapshot.services[ServiceId("shop", "web")].ingress[0].proxy


def test_a_family_without_a_pool_is_a_problem_only_for_who_has_no_other():
    only4 = pools(V4)
    assert "no load-balancer pool has IPv6" in said(allocation(balanced(ips=("fd00:96::10",)), of=only4))[0]
    both = allocation(balanced(ips=("10.96.0.10", "fd00:96::10")), of=only4)
    assert not both.problems
    assert len(both.notes) == 1


def test_a_service_without_cluster_ip_gets_none():
    assert allocation(balanced(ips=())).addresses == ()


def test_a_huge_pool_is_no_trouble():
    made = allocation(
        balanced(ips=("fd00:96::10",)), of=pools(("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"))
    )
    assert len(made.addresses) == 1


def test_nothing_new_is_the_very_same_allocation():
    before = snapshot(balanced())
    made = allocate(before, pools())
    assert allocate(before, pools(), made) is made


def test_endpoints_that_change_leave_the_services_as_they_are():
    before = snapshot(balanced())
    made = allocate(before, pools())
    later = Snapshot(services=before.services, nodes=before.nodes)
    again = allocate(later, pools(), made)
    assert again.snapshot.services is made.snapshot.services
    assert again.snapshot.slices is later.slices


def test_the_order_of_pools_is_what_the_plan_sees_of_a_change_of_settings():
    before = snapshot(balanced())
    made = allocate(before, pools(V4))
    assert allocate(before, pools(V6, V4), made) == allocate(before, pools(V6, V4))
