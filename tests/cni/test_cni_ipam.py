"""Addresses: who gets which, in what order, and when one is given again. Upstream's cases have upstream's names."""

import random
from ipaddress import IPv4Address, ip_address, ip_interface, ip_network

import pytest

from cni.attachment import PodAddress
from cni.config import Range
from cni.failure import Code, Failure
from cni.ipam import Ipam, Numbers, Usage

QUARANTINE = 30.0


def pool(subnet, first="", last="", gateway=""):
    """A range with host-local's defaults."""
    network = ip_network(subnet)
    return Range(
        network,
        ip_address(first) if first else network.network_address + 1,
        ip_address(last) if last else network.broadcast_address - (network.version == 4),
        ip_address(gateway) if gateway else network.network_address + 1,
    )


SMALL = ((pool("192.168.1.0/29"),),)  # gateway .1, free: .2 to .6


def take(ipam, sets=SMALL, *requested, now=0.0, network="pods"):
    given = ipam.take(network, sets, [ip_address(each) for each in requested], now, QUARANTINE)
    return [str(each.address.ip) for each in given]


def give_back(ipam, *addresses, now=0.0, network="pods"):
    ipam.give_back(network, [ip_address(each) for each in addresses], now)


def refused(ipam, sets=SMALL, *requested, now=0.0):
    with pytest.raises(Failure) as refusal:
        take(ipam, sets, *requested, now=now)
    return refusal.value


# --- host-local's allocator -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (None, "2 3 4 5 6"),
        ("192.168.1.1", "2 3 4 5 6"),
        ("192.168.1.2", "3 4 5 6 2"),
        ("192.168.1.4", "5 6 2 3 4"),
        ("192.168.1.6", "2 3 4 5 6"),
        ("10.1.2.3", "2 3 4 5 6"),
    ],
    ids=["without memory", "beginning", "after the beginning", "middle", "end", "memory of another range"],
)
def test_range_iter_loops_correctly_from_the(last, expected):
    ipam = Ipam()
    if last:
        ipam.continue_after("pods", 0, ip_address(last))
    assert [take(ipam)[0].removeprefix("192.168.1.") for _ in range(5)] == expected.split()
    assert refused(ipam).code is Code.EXHAUSTED


def test_allocates_in_a_round_robin_fashion():
    ipam = Ipam()
    assert take(ipam) == ["192.168.1.2"]
    give_back(ipam, "192.168.1.2", now=0.0)
    assert take(ipam, now=1000.0) == ["192.168.1.3"]


def test_should_not_allocate_the_broadcast_address():
    ipam = Ipam()
    whole = ((pool("192.168.1.0/24", "192.168.1.0", "192.168.1.255"),),)
    given = {take(ipam, whole)[0] for _ in range(253)}
    assert given == {f"192.168.1.{last}" for last in range(2, 255)}
    assert refused(ipam, whole).code is Code.EXHAUSTED


def test_the_last_address_of_ipv6_is_one_like_others_and_the_routers_anycast_address_is_not():
    ipam = Ipam()
    whole = ((pool("fd00::/125", "fd00::", "fd00::7"),),)
    assert [take(ipam, whole)[0] for _ in range(6)] == [f"fd00::{last}" for last in range(2, 8)]
    assert refused(ipam, whole).msg == "no IP addresses available in range set: fd00::-fd00::7"


def test_should_allocate_in_the_order_of_the_ranges_of_a_set():
    ranges = ((pool("192.168.1.0/29"), pool("192.168.2.0/30"), pool("192.168.3.0/30")),)
    ipam = Ipam()
    ipam.continue_after("pods", 0, ip_address("192.168.2.2"))
    assert [take(ipam, ranges)[0] for _ in range(7)] == [
        "192.168.3.2",
        *(f"192.168.1.{last}" for last in range(2, 7)),
        "192.168.2.2",
    ]


@pytest.mark.parametrize("last", ["192.168.1.3", "192.168.1.2"])
def test_should_wrap_when_last_reserved_is_at_the_end_of_multi_ranges(last):
    ranges = ((pool("192.168.1.0/29", last="192.168.1.3"), pool("192.168.1.0/29", first="192.168.1.5")),)
    ipam = Ipam()
    ipam.continue_after("pods", 0, ip_address("192.168.1.6"))
    assert take(ipam, ranges) == ["192.168.1.2"]
    ipam.continue_after("pods", 0, ip_address(last))
    assert take(ipam, ranges) == [{"192.168.1.3": "192.168.1.5", "192.168.1.2": "192.168.1.3"}[last]]


def test_must_allocate_the_requested_address_and_continue_after_it():
    ipam = Ipam()
    assert take(ipam, SMALL, "192.168.1.5") == ["192.168.1.5"]
    assert take(ipam) == ["192.168.1.6"]
    assert take(ipam) == ["192.168.1.2"]


def test_must_fail_when_the_requested_address_is_in_use():
    ipam = Ipam()
    take(ipam)
    failure = refused(ipam, SMALL, "192.168.1.2")
    assert failure.code is Code.DUPLICATE
    assert failure.msg == ("requested IP address 192.168.1.2 is not available in range set 192.168.1.1-192.168.1.6")


@pytest.mark.parametrize("outside", ["192.168.1.6", "192.168.1.2", "fd00::5", "10.0.0.5"])
def test_must_fail_when_requested_is_after_range_end_or_before_range_start(outside):
    narrow = ((pool("192.168.1.0/29", "192.168.1.3", "192.168.1.5"),),)
    failure = refused(Ipam(), narrow, outside)
    assert failure.code is Code.INVALID_CONFIG
    assert failure.msg == f"failed to allocate all requested IPs: {outside}"


def test_must_fail_when_the_requested_address_is_the_gateway():
    failure = refused(Ipam(), SMALL, "192.168.1.1")
    assert (failure.code, failure.msg) == (Code.INVALID_CONFIG, "requested ip 192.168.1.1 is subnet's gateway")


def test_returns_a_meaningful_error_when_out_of_ips():
    ipam = Ipam()
    ranges = ((pool("192.168.1.0/30"), pool("192.168.2.0/30")),)
    assert take(ipam, ranges) + take(ipam, ranges) == ["192.168.1.2", "192.168.2.2"]
    failure = refused(ipam, ranges)
    assert failure.code is Code.EXHAUSTED
    assert failure.msg == ("no IP addresses available in range set: 192.168.1.1-192.168.1.2,192.168.2.1-192.168.2.2")


def test_allocates_custom_ips_from_multiple_ranges_and_protocols():
    sets = ((pool("10.1.2.0/24"), pool("10.1.3.0/24")), (pool("2001:db8:1::/64"),), (pool("172.16.1.0/24"),))
    assert take(Ipam(), sets, "2001:db8:1::999", "10.1.3.77", "172.16.1.9") == [
        "10.1.3.77",
        "2001:db8:1::999",
        "172.16.1.9",
    ]
    assert take(Ipam(), sets, "172.16.1.9") == ["10.1.2.2", "2001:db8:1::2", "172.16.1.9"]


def test_fails_if_a_requested_ip_is_unused_and_gives_nothing_away():
    ipam = Ipam()
    assert refused(ipam, SMALL, "192.168.1.4", "192.168.1.5").msg.endswith("requested IPs: 192.168.1.5")
    assert ipam.usage("pods", SMALL).taken == 0
    assert take(ipam) == ["192.168.1.2"]


# --- what host-local does not do --------------------------------------------------------------------------------------


def test_an_address_has_its_subnets_length_and_its_ranges_gateway():
    sets = ((pool("10.0.0.0/20", gateway="10.0.3.9"),), (pool("fd00::/64"),))
    assert Ipam().take("pods", sets, (), 0.0, QUARANTINE) == (
        PodAddress(ip_interface("10.0.0.1/20"), ip_address("10.0.3.9")),
        PodAddress(ip_interface("fd00::2/64"), ip_address("fd00::1")),
    )


def test_a_later_set_that_is_full_leaves_the_earlier_ones_alone():
    ipam = Ipam()
    sets = (SMALL[0], (pool("fd00::/126", last="fd00::2"),))
    assert take(ipam, sets) == ["192.168.1.2", "fd00::2"]
    for _ in range(3):
        assert refused(ipam, sets).code is Code.EXHAUSTED
    assert ipam.usage("pods", SMALL) == Usage(5, 1, 0)
    assert take(ipam) == ["192.168.1.3"]


def test_sets_that_overlap_never_give_one_address_twice():
    assert take(Ipam(), (*SMALL, *SMALL, *SMALL)) == ["192.168.1.2", "192.168.1.3", "192.168.1.4"]


def test_networks_do_not_know_of_each_other():
    ipam = Ipam()
    assert take(ipam, network="blue") == take(ipam, network="green") == ["192.168.1.2"]


def test_an_address_that_came_back_rests_and_is_used_earlier_only_if_no_other_is_left():
    ipam = Ipam()
    given = [take(ipam)[0] for _ in range(5)]
    give_back(ipam, given[3], now=100.0)
    give_back(ipam, given[1], now=101.0)
    give_back(ipam, given[4], now=102.0)
    assert ipam.usage("pods", SMALL) == Usage(5, 2, 3)
    assert take(ipam, now=103.0) == [given[3]], "the one that rested longest"
    assert take(ipam, now=131.5) == [given[1]], "the only one that has rested enough"
    assert take(ipam, now=131.5) == [given[4]]
    assert refused(ipam, now=131.5).code is Code.EXHAUSTED


def test_rest_ends_exactly_after_the_quarantine():
    ipam = Ipam()
    for _ in range(4):
        take(ipam)
    give_back(ipam, "192.168.1.2", now=100.0)
    assert take(ipam, now=129.9) == ["192.168.1.6"]
    give_back(ipam, "192.168.1.3", now=110.0)
    ipam.continue_after("pods", 0, ip_address("192.168.1.2"))
    assert take(ipam, now=130.0) == ["192.168.1.2"], ".3 rests still"


def test_a_requested_address_may_be_one_that_rests():
    ipam = Ipam()
    take(ipam)
    give_back(ipam, "192.168.1.2")
    assert take(ipam, SMALL, "192.168.1.2") == ["192.168.1.2"]
    assert ipam.usage("pods", SMALL) == Usage(5, 1, 0)


def test_a_held_address_is_given_to_nobody_until_it_is_given_back():
    ipam = Ipam()
    given = [ip_address(take(ipam)[0]) for _ in range(5)]
    ipam.hold("pods", given[:2])
    assert ipam.usage("pods", SMALL) == Usage(5, 3, 2)
    assert refused(ipam, now=1e9).code is Code.EXHAUSTED
    assert refused(ipam, SMALL, str(given[0])).code is Code.DUPLICATE
    ipam.give_back("pods", given[:1], 1e9)
    assert take(ipam, now=1e9) == [str(given[0])]


def test_what_nobody_has_cannot_be_given_back_or_held():
    ipam = Ipam()
    ipam.hold("pods", [IPv4Address("192.168.1.3")])
    give_back(ipam, "192.168.1.3")
    assert ipam.usage("pods", SMALL) == Usage(5, 0, 0)
    taken = take(ipam)
    give_back(ipam, *taken, now=5.0)
    give_back(ipam, *taken, now=500.0)
    assert ipam.usage("pods", SMALL) == Usage(5, 0, 1)
    for _ in range(4):
        take(ipam, now=6.0)
    assert take(ipam, now=35.0) == taken, "rests since it was given back first"


def test_occupied_addresses_are_stepped_over_and_interfaces_count_as_addresses():
    ipam = Ipam()
    ipam.occupy("pods", [ip_address("192.168.1.2"), ip_interface("192.168.1.3/29"), ip_address("fd00::2")])
    assert take(ipam) == ["192.168.1.4"]
    assert ipam.usage("pods", SMALL) == Usage(5, 3, 0)


def test_an_address_with_two_owners_stays_taken_until_both_gave_it_back():
    """A damaged journal lost that the first one let go of it."""
    ipam = Ipam()
    for _ in range(3):
        ipam.occupy("pods", [ip_address("192.168.1.2")])
    for _ in range(2):
        give_back(ipam, "192.168.1.2")
        assert ipam.usage("pods", SMALL) == Usage(5, 1, 0)
        assert refused(ipam, SMALL, "192.168.1.2").code is Code.DUPLICATE
    give_back(ipam, "192.168.1.2")
    assert ipam.usage("pods", SMALL) == Usage(5, 0, 1)


def test_what_was_taken_outside_of_the_ranges_does_not_count():
    ipam = Ipam()
    ipam.occupy("pods", [ip_address(each) for each in ("192.168.1.1", "192.168.1.7", "10.0.0.1", "192.168.1.6")])
    assert ipam.usage("pods", SMALL) == Usage(5, 1, 0)


def test_usage_is_that_of_the_scarcest_set():
    ipam = Ipam()
    sets = (SMALL[0], (pool("fd00::/64"),))
    take(ipam, sets)
    assert ipam.usage("pods", sets) == Usage(5, 1, 0)
    assert ipam.usage("pods", sets[1:]) == Usage(2**64 - 2, 1, 0)
    assert ipam.usage("pods", ()) == Usage(0, 0, 0)


# --- laws -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_numbers_are_a_set_that_knows_gaps(seed):
    chance = random.Random(seed)
    top = chance.choice([300, 2000, 70000])
    numbers, plain = Numbers(), set()
    for _ in range(60):
        start, length = chance.randrange(top), chance.choice([1, 1, 256, 600, 66000])
        for number in range(start, min(start + length, top)):
            numbers.add(number)
            plain.add(number)
        for _ in range(chance.choice([0, 3, 300])):
            number = chance.randrange(top)
            numbers.discard(number)
            plain.discard(number)
        at = chance.randrange(top)
        assert (at in numbers) == (at in plain)
        assert numbers.next_absent(at) == next(each for each in range(at, top + 2) if each not in plain)
        first, last = sorted((chance.randrange(top), chance.randrange(top)))
        assert numbers.count(first, last) == sum(first <= each <= last for each in plain)


class Slow:
    """What Ipam does, in the obvious way: it looks at every address."""

    def __init__(self):
        self.taken, self.resting, self.last = set(), {}, {}

    def take(self, sets, now):
        given = []
        for index, ranges in enumerate(sets):
            never = {each.gateway for each in ranges}
            never |= {each.subnet.broadcast_address for each in ranges if each.subnet.version == 4}
            every = [ip_address(number) for each in ranges for number in range(int(each.first), int(each.last) + 1)]
            at = every.index(self.last[index]) + 1 if self.last.get(index) in every else 0
            order = [each for each in every[at:] + every[:at] if each not in never and each not in self.taken]
            tired = [each for each in order if now - self.resting.get(each, -1e9) < QUARANTINE]
            tired.sort(key=list(self.resting).index)
            fresh = [each for each in order if each not in tired]
            if not fresh + tired:
                return None
            given.append((fresh + tired)[0])
        for index, address in enumerate(given):
            self.taken.add(address)
            self.resting.pop(address, None)
            self.last[index] = address
        return given

    def give_back(self, address, now):
        self.taken.discard(address)
        self.resting.pop(address, None)
        self.resting[address] = now


@pytest.mark.parametrize("seed", range(12))
def test_it_gives_what_looking_at_every_address_would_give(seed):
    chance = random.Random(seed)
    sets = (
        (pool("10.0.0.0/27", last="10.0.0.9"), pool("10.0.0.0/27", "10.0.0.12"), pool("10.0.9.0/29")),
        (pool("172.16.0.0/26"),),
    )
    ipam, slow, now, owners = Ipam(), Slow(), 0.0, []
    for _ in range(600):
        now += chance.choice([0.0, 0.5, 3.0])
        if owners and chance.random() < chance.choice([0.3, 0.7]):
            owner = owners.pop(chance.randrange(len(owners)))
            ipam.give_back("pods", owner, now)
            for address in owner:
                slow.give_back(address, now)
            continue
        expected = slow.take(sets, now)
        if expected is None:
            assert refused(ipam, sets, now=now).code is Code.EXHAUSTED
        else:
            assert take(ipam, sets, now=now) == [str(each) for each in expected]
            owners.append(expected)
    usage = ipam.usage("pods", sets[:1])
    assert usage.taken == len(owners)


def test_no_question_walks_over_a_range():
    """A /8 and an IPv6 /64 that are full but for their ends would take hours to walk over."""
    ipam = Ipam()
    wide = ((pool("10.0.0.0/8"),), (pool("fd00::/64"),))
    for _ in range(2000):
        take(ipam, wide)
    assert take(ipam, wide) == ["10.0.7.210", "fd00::7d2"]
    assert ipam.usage("pods", wide) == Usage(2**24 - 3, 2001, 0)
    ipam.continue_after("pods", 0, ip_address("10.255.255.254"))
    assert take(ipam, wide)[0] == "10.0.7.211"
