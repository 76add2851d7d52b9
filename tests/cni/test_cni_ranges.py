"""Ranges: host-local's cases by name (range_test, range_set_test, allocator_test), and integer arithmetic."""

from ipaddress import ip_address, ip_network

import pytest

from cni import ranges
from cni.config import Range
from cni.failure import Code, Failure


def made(subnet: str, first: str = "", last: str = "", gateway: str = "") -> Range:
    given = (ip_address(each) if each else None for each in (first, last, gateway))
    return ranges.range_of(ranges.subnet_of(subnet), *given)


def refused(*words: str) -> str:
    with pytest.raises(Failure) as raised:
        made(*words)
    assert raised.value.code is Code.INVALID_CONFIG
    return raised.value.msg


def said(found: Range) -> tuple[str, str, str]:
    return str(found.first), str(found.last), str(found.gateway)


DEFAULTS = {
    "should generate sane defaults for ipv4 with a clean prefix": (
        ("192.0.2.0/24",),
        ("192.0.2.1", "192.0.2.254", "192.0.2.1"),
    ),
    "should generate sane defaults for a smaller ipv4 subnet": (
        ("192.0.2.0/25",),
        ("192.0.2.1", "192.0.2.126", "192.0.2.1"),
    ),
    "should generate sane defaults for ipv6 with a clean prefix": (
        ("2001:DB8:1::/64",),
        ("2001:db8:1::1", "2001:db8:1:0:ffff:ffff:ffff:ffff", "2001:db8:1::1"),
    ),
    "should accept an explicit valid gateway inside the subnet": (
        ("10.0.0.0/24", "", "", "10.0.0.254"),
        ("10.0.0.1", "10.0.0.254", "10.0.0.254"),
    ),
    "should parse all fields correctly": (
        ("192.0.2.0/24", "192.0.2.40", "192.0.2.50", "192.0.2.254"),
        ("192.0.2.40", "192.0.2.50", "192.0.2.254"),
    ),
    "the smallest subnet": (("10.0.0.0/30",), ("10.0.0.1", "10.0.0.2", "10.0.0.1")),
}


@pytest.mark.parametrize(("words", "want"), DEFAULTS.values(), ids=DEFAULTS)
def test_host_local_range(words, want):
    assert said(made(*words)) == want


REFUSED = {
    "should reject an explicit gateway outside the subnet": (
        ("10.0.0.0/24", "", "", "192.168.1.1"),
        "gateway 192.168.1.1 not in network 10.0.0.0/24",
    ),
    "should reject an explicit gateway with mismatched address family": (
        ("10.0.0.0/24", "", "", "2001:db8::1"),
        "gateway 2001:db8::1 not in network 10.0.0.0/24",
    ),
    "should reject ipv4 subnet using a masked address": (
        ("192.0.2.12/24",),
        "Network has host bits set. For a subnet mask of length 24 the network address is 192.0.2.0",
    ),
    "should reject ipv6 subnet using a masked address": (
        ("2001:DB8:1::24:19ff:fee1:c44a/64",),
        "Network has host bits set. For a subnet mask of length 64 the network address is 2001:db8:1::",
    ),
    "should reject ipv6 prefix with host bit set": (
        ("2001:DB8:24:19ff::/63",),
        "Network has host bits set. For a subnet mask of length 63 the network address is 2001:db8:24:19fe::",
    ),
    "should reject ipv4 network with host bit set": (
        ("192.168.127.0/23",),
        "Network has host bits set. For a subnet mask of length 23 the network address is 192.168.126.0",
    ),
    "should reject a network that's too small": (
        ("192.0.2.0/31",),
        "Network 192.0.2.0/31 too small to allocate from",
    ),
    "too small: /32": (("192.0.2.0/32",), "Network 192.0.2.0/32 too small to allocate from"),
    "too small: /127": (("fd00::/127",), "Network fd00::/127 too small to allocate from"),
    "too small: /128": (("fd00::/128",), "Network fd00::/128 too small to allocate from"),
    "should reject invalid RangeStart specifications": (
        ("192.0.2.0/24", "192.0.3.0"),
        "RangeStart 192.0.3.0 not in network 192.0.2.0/24",
    ),
    "should reject invalid RangeEnd specifications": (
        ("192.0.2.0/24", "", "192.0.4.0"),
        "RangeEnd 192.0.4.0 not in network 192.0.2.0/24",
    ),
    "should reject RangeStart after RangeEnd": (
        ("192.0.2.0/24", "192.0.2.50", "192.0.2.40"),
        "RangeStart 192.0.2.50 not in network 192.0.2.0/24",
    ),
    "RangeEnd before the default start": (
        ("192.0.2.0/24", "", "192.0.2.0"),
        "RangeEnd 192.0.2.0 not in network 192.0.2.0/24",
    ),
    "RangeStart of the other family": (("192.0.2.0/24", "fd00::1"), "RangeStart fd00::1 not in network 192.0.2.0/24"),
    "RangeEnd of the other family": (("fd00::/64", "", "1.2.3.4"), "RangeEnd 1.2.3.4 not in network fd00::/64"),
}


@pytest.mark.parametrize(("words", "want"), REFUSED.values(), ids=REFUSED)
def test_host_local_range_refused(words, want):
    assert want in refused(*words)


@pytest.mark.parametrize(
    "text",
    ["", "10.0.0.0", "10.0.0.0/255.255.255.0", "10.0.0.0/33", "10.0.0.0/-1", "fe80::%1/64", "x/24", "10.0/8", "/8"],
)
def test_no_network(text):
    with pytest.raises(Failure, match="is not a network"):
        ranges.subnet_of(text)


@pytest.mark.parametrize(
    ("one", "inside", "outside"),
    [
        pytest.param(
            made("192.0.2.0/24", "192.0.2.40", "192.0.2.50", "192.0.2.254"),
            ("192.0.2.40", "192.0.2.50"),
            ("192.0.3.0", "192.0.2.39", "192.0.2.51", "::c000:228"),
            id="should accept v4 IPs in range and reject IPs out of range",
        ),
        pytest.param(
            made("2001:DB8:1::/64", "2001:db8:1::40", "2001:db8:1::50"),
            ("2001:db8:1::40", "2001:db8:1::50"),
            ("2001:db8:2::", "2001:db8:1::39", "2001:db8:1::51"),
            id="should accept v6 IPs in range and reject IPs out of range",
        ),
    ],
)
def test_host_local_membership(one, inside, outside):
    assert all(ranges.holds((one,), ip_address(each)) for each in inside)
    assert all(ranges.range_with((one,), ip_address(each)) is one for each in inside)
    assert not any(ranges.holds((one,), ip_address(each)) for each in outside)
    assert not any(ranges.range_with((one,), ip_address(each)) for each in outside)


OVERLAP = {
    "non-overlapping": (("10.0.0.0/24",), ("10.0.1.0/24",), False),
    "different families": (("0.0.0.0/24",), ("::/24",), False),
    "Identical": (("10.0.0.0/24",), ("10.0.0.0/24",), True),
    "Containing": (("10.0.0.0/20",), ("10.0.1.0/24",), True),
    "same subnet, non overlapping start + end": (
        ("10.0.0.0/24", "", "10.0.0.127"),
        ("10.0.0.0/24", "10.0.0.128"),
        False,
    ),
    "same subnet, overlapping start + end": (("10.0.0.0/24", "", "10.0.0.127"), ("10.0.0.0/24", "10.0.0.127"), True),
}


@pytest.mark.parametrize(("one", "other", "want"), OVERLAP.values(), ids=OVERLAP)
def test_host_local_detecting_overlap(one, other, want):
    assert ranges.overlap(made(*one), made(*other)) is want
    assert ranges.overlap(made(*other), made(*one)) is want


def test_host_local_should_detect_set_membership_correctly():
    both = (made("192.168.0.0/24"), made("172.16.1.0/24"))
    assert ranges.range_with(both, ip_address("192.168.0.55")) is both[0]
    assert ranges.refusal(both, ip_address("192.168.0.55")) == ""
    why = "192.168.99.99 not in range set 192.168.0.1-192.168.0.254,172.16.1.1-172.16.1.254"
    assert ranges.refusal(both, ip_address("192.168.99.99")) == why


SETS_REFUSED = {
    "should discover overlaps within a set": (
        ((made("192.168.0.0/20"), made("192.168.2.0/24")),),
        "subnets 192.168.0.1-192.168.15.254 and 192.168.2.1-192.168.2.254 overlap",
    ),
    "should discover overlaps outside a set": (
        ((made("192.168.0.0/20"),), (made("192.168.2.0/24"),)),
        "range set 0 overlaps with 1",
    ),
    "mixed families": (((made("192.168.0.0/20"), made("fd00::/64")),), "mixed address families in a range set"),
    "an empty set": (((made("192.168.0.0/20"),), ()), "empty range set"),
}


@pytest.mark.parametrize(("sets", "want"), SETS_REFUSED.values(), ids=SETS_REFUSED)
def test_host_local_range_sets_refused(sets, want):
    with pytest.raises(Failure) as raised:
        ranges.checked(sets)
    assert raised.value.msg == want


def test_sets_that_do_not_overlap_are_what_they_were():
    sets = ((made("10.0.0.0/24"), made("10.0.2.0/24")), (made("10.0.1.0/24"),), (made("fd00::/64"),))
    assert ranges.checked(sets) is sets


SMALL = (made("192.168.1.0/29"),)


def listed(set_, after: str = "") -> list[str]:
    return [str(each) for each in ranges.addresses(set_, ip_address(after) if after else None)]


def last_numbers(*numbers: int) -> list[str]:
    return [f"192.168.1.{each}" for each in numbers]


@pytest.mark.parametrize(
    ("after", "want"),
    [
        pytest.param("", (2, 3, 4, 5, 6), id="should loop correctly from the beginning"),
        pytest.param("192.168.1.6", (2, 3, 4, 5, 6), id="should loop correctly from the end"),
        pytest.param("192.168.1.3", (4, 5, 6, 2, 3), id="should loop correctly from the middle"),
        pytest.param("192.168.1.128", (2, 3, 4, 5, 6), id="lastIP is out of range"),
        pytest.param("192.168.1.1", (2, 3, 4, 5, 6), id="after the gateway"),
    ],
)
def test_host_local_range_iterator(after, want):
    assert listed(SMALL, after) == last_numbers(*want)


MULTIPLE = (made("10.0.0.0/30"), made("10.0.1.0/30"), made("10.0.2.0/30"))


@pytest.mark.parametrize(
    ("after", "want"),
    [
        pytest.param("", "10.0.0.2", id="allocate from multiple subnets"),
        pytest.param("10.0.0.2", "10.0.1.2", id="advance to next subnet"),
        pytest.param("10.0.2.2", "10.0.0.2", id="Roll to start subnet"),
    ],
)
def test_host_local_round_robin(after, want):
    assert listed(MULTIPLE, after)[0] == want
    assert sorted(listed(MULTIPLE, after)) == ["10.0.0.2", "10.0.1.2", "10.0.2.2"]


def test_host_local_should_not_allocate_the_broadcast_address():
    explicit = (made("192.168.1.0/29", "", "192.168.1.7"),)
    assert listed(explicit) == last_numbers(2, 3, 4, 5, 6)
    why = "requested ip 192.168.1.7 is the address of a network or its broadcast"
    assert ranges.refusal(explicit, ip_address("192.168.1.7")) == why


def test_requested_ip_is_the_gateway():
    assert ranges.refusal(SMALL, ip_address("192.168.1.1")) == "requested ip 192.168.1.1 is subnet's gateway"


def test_ipv6_has_no_broadcast_address():
    last = (made("fd00::/126"),)
    assert listed(last) == ["fd00::2", "fd00::3"]


@pytest.mark.parametrize(
    ("set_", "want"),
    [
        (SMALL, 5),
        (MULTIPLE, 3),
        ((made("10.0.0.0/24"),), 253),
        ((made("10.0.0.0/24", "10.0.0.10", "10.0.0.20", "10.0.0.15"),), 10),
        ((made("10.0.0.0/24", "10.0.0.10", "10.0.0.20"),), 11),
        ((made("10.0.0.0/8"),), 2**24 - 3),
        ((made("fd00::/64"),), 2**64 - 2),
        # A gateway is nobody's, whichever range of the set names it.
        ((made("10.0.0.0/24", "10.0.0.1", "10.0.0.9", "10.0.0.20"), made("10.0.0.0/24", "10.0.0.20", "10.0.0.29")), 17),
        ((made("10.0.0.0/24", "10.0.0.1", "10.0.0.1"),), 0),
    ],
)
def test_count(set_, want):
    assert ranges.count(set_) == want
    if want < 1000:
        assert len(listed(set_)) == want
        assert all(ranges.holds(set_, each) for each in ranges.addresses(set_))


def test_a_range_without_addresses_gives_none():
    nothing = (made("10.0.0.0/24", "10.0.0.1", "10.0.0.1"),)
    assert listed(nothing) == listed(nothing, "10.0.0.1") == []


def test_every_start_sees_every_address_once_and_ends_with_itself():
    odd = (made("10.0.0.0/28", "10.0.0.3", "10.0.0.12", "10.0.0.7"), made("10.0.9.0/29", "10.0.9.0", "10.0.9.7"))
    everything = listed(odd)
    assert len(set(everything)) == len(everything) == 9 + 5
    for start in everything:
        walk = listed(odd, start)
        assert sorted(walk) == sorted(everything)
        assert walk[-1] == start
        assert walk[0] == everything[(everything.index(start) + 1) % len(everything)]


def test_a_network_object_makes_a_range():
    assert said(ranges.range_of(ip_network("10.1.0.0/16"))) == ("10.1.0.1", "10.1.255.254", "10.1.0.1")
