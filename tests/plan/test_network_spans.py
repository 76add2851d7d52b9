"""Networks on a line of whole numbers, compared with what `ipaddress` says of them."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address, ip_network
from random import Random

import pytest
from builders import networks

from netplane.plan.network_spans import inside, merged, overlapping, span_of


def some(random: Random) -> tuple[list[IPv4Network], list[IPv6Network]]:
    four = [IPv4Network((random.randrange(64) << random.randrange(26), random.choice((0, 5, 24, 30, 31, 32))), False)
            for _ in range(random.randrange(14))]  # fmt: skip
    six = [IPv6Network((random.randrange(64) << random.randrange(120), random.choice((0, 9, 64, 127, 128))), False)
           for _ in range(random.randrange(14))]  # fmt: skip
    return four, six


@pytest.mark.parametrize("seed", range(60))
def test_merged_networks_are_the_collapsed_ones(seed):
    four, six = some(Random(seed))
    mixed = [*six, *four]
    Random(seed).shuffle(mixed)
    assert merged(map(span_of, mixed)) == (*collapse_addresses(four), *collapse_addresses(six))


@pytest.mark.parametrize("seed", range(60))
def test_spans_overlap_and_hold_each_other_as_networks_do(seed):
    four, six = some(Random(seed))
    listed = [*four, *six]
    for one in listed:
        places = [place for place, each in enumerate(listed) if each.version == one.version and each.overlaps(one)]
        assert overlapping(span_of(one), map(span_of, listed)) == places[0]
        others = [each for each in listed if each is not one]
        held = any(each.version == one.version and one.subnet_of(each) for each in others)
        assert inside(span_of(one), map(span_of, others)) == held


def test_neighbours_are_one():
    assert merged(map(span_of, networks("10.0.1.0/24", "10.0.0.0/24", "10.0.3.0/24"))) == networks(
        "10.0.0.0/23", "10.0.3.0/24"
    )


def test_holes_are_left_out():
    holes = sorted(span_of(ip_address(text))[0] for text in ("10.0.0.0", "10.0.0.5", "10.0.0.7", "10.9.9.9", "fd00::"))
    left = merged(map(span_of, networks("10.0.0.0/29", "fd00::/127", "10.9.9.9/32")), holes)
    assert left == networks("10.0.0.1/32", "10.0.0.2/31", "10.0.0.4/32", "10.0.0.6/32", "fd00::1/128")


def test_the_last_address_of_ipv4_and_the_first_of_ipv6_are_no_neighbours():
    ends = networks("255.255.255.255/32", "::/128", "0.0.0.0/32")
    assert merged(map(span_of, ends)) == (ends[2], ends[0], ends[1])
    assert merged(()) == ()
    assert merged(map(span_of, networks("::/0", "0.0.0.0/0"))) == networks("0.0.0.0/0", "::/0")
    assert span_of(ip_network("::/128")) == span_of(ip_address("::"))
