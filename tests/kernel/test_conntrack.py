"""The table of connections: chosen, erased and deleted exactly, on the real kernel."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from connections import connection, names, put

from netplane.kernel.conntrack import Conntrack, Pattern, read
from netplane.kernel.netns import Namespace
from netplane.model.address import Family

pytestmark = pytest.mark.kernel

TCP, UDP, SCTP, ICMP = 6, 17, 132, 1
VIP = {Family.IPV4: "10.96.0.10", Family.IPV6: "fd00:96::10"}
GONE = {Family.IPV4: "10.244.1.5", Family.IPV6: "fd00:244:1::5"}
STAYS = {Family.IPV4: "10.244.1.6", Family.IPV6: "fd00:244:1::6"}
CLIENT = {Family.IPV4: "10.244.1.9", Family.IPV6: "fd00:244:1::9"}

families = pytest.mark.parametrize("family", list(Family), ids=str)


def udp(family, port, answers, *, to=None, number=53, answers_from=5353, **more):
    protocol = more.pop("protocol", UDP)
    return connection(protocol, (CLIENT[family], port), (to or VIP[family], number), (answers, answers_from), **more)


def pattern(family, **changes):
    server = (ip_address(GONE[family]), 5353)
    return Pattern(UDP, family, ip_address(VIP[family]), 53, server)._replace(**changes)


def stale(family):
    return [udp(family, port, GONE[family]) for port in (1000, 1001)]


def others(family):
    """Each differs from the stale ones in one thing."""
    gone, other = GONE[family], Family.IPV6 if family is Family.IPV4 else Family.IPV4
    return [
        udp(family, 2000, STAYS[family]),
        udp(family, 2001, gone, to=STAYS[family]),
        udp(family, 2002, gone, number=54),
        udp(family, 2003, gone, answers_from=5354),
        udp(family, 2004, gone, protocol=TCP),
        udp(family, 2005, gone, protocol=SCTP),
        udp(family, 1000, gone, zone=5),
        udp(family, 2006, VIP[family], answers_from=53),
        udp(other, 1000, GONE[other]),
    ]


@pytest.fixture(params=list(Family), ids=str)
def family(request):
    return request.param


@pytest.fixture
def namespace(family):
    with Namespace() as made:
        made.run(lambda: put([*stale(family), *others(family)]))
        yield made


def on_table(namespace, work):
    def within():
        with Conntrack() as table:
            return work(table)

    return namespace.run(within)


def test_what_was_put_is_read(namespace, family):
    assert names(namespace.run(read)) == names([*stale(family), *others(family)])


def test_a_pattern_chooses_exactly(namespace, family):
    found = on_table(namespace, lambda table: list(table.choose(pattern(family), lambda _: True)))
    assert names(found) == names(stale(family))


def test_of_what_matches_only_what_is_wanted_is_chosen_and_each_kind_is_judged_once(namespace, family):
    asked = []

    def wanted(one):
        asked.append((one.protocol, one.original[2:], one.reply[:2]))
        return one.reply.source == ip_address(GONE[family])

    wide = Pattern(UDP, family)
    found = on_table(namespace, lambda table: list(table.choose(wide, wanted)))
    assert names(found) == names(
        each
        for each in [*stale(family), *others(family)]
        if pattern_of(wide, each) and each.reply[0] == found[0].reply[0]
    )
    refused = [each for each in asked if each[2][0] != ip_address(GONE[family])]
    assert len(refused) == len(set(refused))


def pattern_of(wide, each):
    return wide.matches(each) and not each.zone


def test_the_kernel_erases_exactly_what_a_pattern_says(namespace, family):
    done, can = on_table(namespace, lambda table: (table.erase(pattern(family)), table.erases))
    if not can:
        pytest.skip("this kernel cannot delete connections by a filter (6.12 can)")
    assert done is (family is Family.IPV4)  # an IPv6 address is never put into a filter
    assert names(namespace.run(read)) == names(others(family) if done else [*stale(family), *others(family)])


def test_ports_are_compared_by_the_kernel_in_both_families(namespace, family):
    wide = pattern(family, destination=None, answers=(None, 5353))
    assert wide.asked() == wide
    found = on_table(namespace, lambda table: (list(table.choose(wide, lambda _: True)), table.filters))
    assert {(each.original.destination_port, each.reply.source_port) for each in found[0]} == {(53, 5353)}
    assert found[1]


def test_connections_are_deleted_exactly_and_those_that_are_gone_are_not_counted(namespace, family):
    def work(table):
        found = list(table.choose(pattern(family), lambda _: True))
        return table.delete(found), table.delete(found), table.delete([])

    assert on_table(namespace, work) == (2, 0, 0)
    assert names(namespace.run(read)) == names(others(family))


def test_a_flow_that_is_answered_by_another_by_now_is_left_alone(namespace, family):
    later = [udp(family, port, STAYS[family]) for port in (1000, 1001)]

    def work(table):
        found = list(table.choose(pattern(family), lambda _: True))
        table.delete(found)
        put(later)
        return table.delete(found)

    assert on_table(namespace, work) == 0
    assert names(namespace.run(read)) == names([*later, *others(family)])


def test_deleting_more_than_fit_into_one_write(family):
    many = [udp(family, port, GONE[family]) for port in range(10000, 13500)]
    with Namespace() as namespace:
        namespace.run(lambda: put([*many, *others(family)]))
        wide = pattern(family)
        deleted = on_table(namespace, lambda table: table.delete(table.choose(wide, lambda _: True)))
        assert deleted == len(many)
        assert names(namespace.run(read)) == names(others(family))


def test_connections_without_ports_are_passed_over():
    """The layout of their messages is another; they match no pattern of one with ports."""
    with Namespace() as namespace:
        one = udp(Family.IPV4, 1000, GONE[Family.IPV4])
        namespace.run(lambda: put([one]))
        wide = Pattern(ICMP, Family.IPV4)
        assert on_table(namespace, lambda table: list(table.choose(wide, lambda _: True))) == []


def test_a_kernel_that_shows_more_than_was_asked_for_is_noticed():
    def work(table):
        found = list(table.choose(Pattern(UDP, Family.IPV4), lambda _: True))
        return len(found), table.filters

    with Namespace() as namespace:
        namespace.run(lambda: put([udp(Family.IPV4, 1000, GONE[Family.IPV4])]))
        assert on_table(namespace, work) == (1, True)


@pytest.mark.parametrize("more", [0, 5], ids=["one host", "many hosts"])
@pytest.mark.parametrize("erases", [True, False], ids=["erasing", "deleting"])
def test_all_that_a_host_began_or_answers_is_erased_and_nothing_else(family, more, erases):
    gone, stays, vip = GONE[family], STAYS[family], VIP[family]
    other = Family.IPV6 if family is Family.IPV4 else Family.IPV4
    its = [
        connection(UDP, (gone, 1000), (vip, 53), (stays, 53)),
        connection(TCP, (gone, 1001), (stays, 80), (stays, 80)),
        connection(TCP, (CLIENT[family], 1002), (vip, 80), (gone, 8080)),
        connection(UDP, (CLIENT[family], 1003), (gone, 53), (gone, 53)),
    ]
    left = [
        connection(UDP, (CLIENT[family], 1004), (vip, 53), (stays, 53)),
        connection(UDP, (gone, 1000), (vip, 53), (stays, 53), zone=5),
        connection(UDP, (CLIENT[other], 1005), (VIP[other], 53), (GONE[other], 53)),
    ]
    hosts = [ip_address(gone), *(ip_address(VIP[family]) + number for number in range(1, 1 + more))]

    def erase(table):
        table.erases = erases
        table.erase_hosts(hosts)

    with Namespace() as namespace:
        namespace.run(lambda: put([*its, *left]))
        on_table(namespace, erase)
        assert names(namespace.run(read)) == names(left)
