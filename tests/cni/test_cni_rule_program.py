"""Attachments as nftables tables: the text, and who is in which set."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from cni_attachments import CLUSTER, attachment

from cni import rule_program
from cni.config import Mode, PortMapping
from cni.rule_program import HostPort, host_ports, needs, program
from netplane.backends import marks
from netplane.model.address import Family, Protocol
from netplane.programs.nftables import SHARED, NftablesProgram
from netplane.programs.nftables_text import program_script

TCP, UDP, SCTP = Protocol.TCP, Protocol.UDP, Protocol.SCTP
FOUR, SIX = Family.IPV4, Family.IPV6
DUAL = ("10.244.1.5/24", "fd00:244:1::5/64")


def lines(*attachments, word: str = "") -> list[str]:
    return [line for line in program_script(program(attachments)).splitlines() if word in line]


def rules(chain: str, *attachments, family: str = "ip") -> list[str]:
    start = f"add rule {family} netplane-pods {chain} "
    return [line.removeprefix(start).partition(" comment ")[0] for line in lines(*attachments, word=start)]


def elements(*attachments) -> dict[str, list[str]]:
    """By family and set, as nft prints them."""
    found: dict[str, list[str]] = {}
    for line in lines(*attachments, word="add element"):
        where, _, what = line.removeprefix("add element ").partition(" { ")
        found.setdefault(where.replace(" netplane-pods", ""), []).append(what.removesuffix(" }"))
    return found


# --- what is needed -------------------------------------------------------------------------------------------------


def test_nothing_needs_nothing():
    assert lines(attachment(masquerade=False)) == []
    assert needs(attachment(masquerade=False)).shapes == {}
    assert program([]) == NftablesProgram(table="netplane-pods")


def test_without_ports_there_are_no_chains_for_them():
    assert lines(attachment(), word="add chain") == [
        "add chain ip netplane-pods postrouting { type nat hook postrouting priority 101; }"
    ]


def test_the_tables_say_whose_they_are():
    assert lines(attachment(5, *DUAL), word="add table") == [
        'add table ip netplane-pods { comment "made by netplane"; }',
        'add table ip6 netplane-pods { comment "made by netplane"; }',
    ]


def test_a_host_without_a_family_gets_no_table_of_it():
    assert set(program([attachment(5, *DUAL, mode=Mode.ROUTED)], families=(FOUR,)).structure) == {FOUR}


def test_no_set_is_one_that_parts_of_services_share():
    every = program([attachment(5, *DUAL, ports=(PortMapping(TCP, 1, 1),))])
    assert not {name for each in every.structure.values() for name in each.sets} & SHARED


def test_the_mark_is_that_of_the_services():
    assert rule_program.MASQUERADE == marks.MASQUERADE


# --- masquerade -----------------------------------------------------------------------------------------------------


def test_masquerade_is_one_rule_for_all_with_the_same_list():
    (rule,) = rules("postrouting", attachment(5), attachment(6))
    assert rule == (
        "ip saddr @masquerade-but-to-10.244.0.0-16-12240718 ip daddr != { 10.244.0.0/16, 224.0.0.0/4 } "
        "masquerade fully-random"
    )
    assert elements(attachment(5), attachment(6)) == {
        "ip masquerade-but-to-10.244.0.0-16-12240718": ["10.244.1.5", "10.244.1.6"]
    }


def test_each_family_has_the_ranges_of_its_own():
    (rule,) = rules("postrouting", attachment(5, *DUAL), family="ip6")
    assert "ip6 daddr != { fd00:244::/32, ff00::/8 }" in rule


def test_overlapping_ranges_are_merged_for_the_kernel_takes_no_others():
    wide = (ip_network("10.0.0.0/8"), *CLUSTER, ip_network("10.128.0.0/9"), ip_network("224.0.0.0/8"))
    (rule,) = rules("postrouting", attachment(masquerade_not_to=wide))
    assert "ip daddr != { 10.0.0.0/8, 224.0.0.0/4 }" in rule


def test_two_lists_are_two_sets_and_two_rules_in_an_order_that_does_not_depend_on_who_comes_first():
    one, other = attachment(5), attachment(6, masquerade_not_to=(ip_network("10.0.0.0/8"),))
    assert len(rules("postrouting", one, other)) == 2
    assert rules("postrouting", one, other) == rules("postrouting", other, one)


def test_no_ranges_at_all_is_everywhere_but_multicast():
    (rule,) = rules("postrouting", attachment(masquerade_not_to=()))
    assert rule == "ip saddr @masquerade-everywhere ip daddr != { 224.0.0.0/4 } masquerade fully-random"


@pytest.mark.parametrize("mode", [Mode.ROUTED, Mode.CHAINED])
def test_a_containers_own_address_among_the_ranges_makes_no_list_of_its_own(mode):
    """Or each routed container would cost a set and a rule."""
    own = [
        attachment(
            number, f"10.244.1.{number}/32", mode=mode, masquerade_not_to=(*CLUSTER, ip_network(f"10.9.0.{number}/32"))
        )
        for number in (5, 6)
    ]
    assert len(rules("postrouting", *own)) == 2
    without = [
        replace(each, masquerade_not_to=(*CLUSTER, ip_network(str(each.addresses[0].address.ip)))) for each in own
    ]
    assert len(rules("postrouting", *without)) == 1


def test_a_name_stands_for_one_list():
    """Names that begin alike differ at their end."""
    lists = [(*CLUSTER[:1], ip_network(f"192.168.{number}.0/24")) for number in range(50)]
    names = {rule_program.masquerade_name(each) for each in lists}
    assert len(names) == 50
    assert all(len(name) < 128 for name in names)


# --- host ports -----------------------------------------------------------------------------------------------------


def test_a_port_of_all_addresses_and_one_of_a_certain_one():
    ports = (PortMapping(TCP, 8080, 80), PortMapping(UDP, 53, 5353, ip_address("192.0.2.1")))
    clients = "masqueraded-from-10.244.0.0-16-and-1-734bc5bf"
    assert elements(attachment(masquerade=False, ports=ports)) == {
        "ip host-ports": ["tcp . 8080 : 10.244.1.5 . 80"],
        "ip host-address-ports": ["192.0.2.1 . udp . 53 : 10.244.1.5 . 5353"],
        "ip selves": ["10.244.1.5 . 10.244.1.5"],
        f"ip ports-{clients}": ["tcp . 8080"],
        f"ip address-ports-{clients}": ["192.0.2.1 . udp . 53"],
    }


def test_the_chains_of_host_ports():
    mapped = attachment(masquerade=False, ports=(PortMapping(SCTP, 9, 9),), mode=Mode.ROUTED)
    local = "ip saddr { 127.0.0.0/8 } meta mark set meta mark | 0x4000"
    named = "ports-masqueraded-from-this-node-4a7ea159"
    assert rules("host-ports", mapped) == [
        f"ip daddr . meta l4proto . th dport @address-{named} {local}",
        "dnat ip to ip daddr . meta l4proto . tcp dport map @host-address-ports",
        "dnat ip to ip daddr . meta l4proto . udp dport map @host-address-ports",
        "dnat ip to ip daddr . meta l4proto . sctp dport map @host-address-ports",
        f"meta l4proto . th dport @{named} {local}",
        "dnat ip to meta l4proto . tcp dport map @host-ports",
        "dnat ip to meta l4proto . udp dport map @host-ports",
        "dnat ip to meta l4proto . sctp dport map @host-ports",
    ]
    assert rules("prerouting", mapped) == rules("output", mapped) == ["fib daddr type local goto host-ports"]
    assert lines(mapped, word="hook output") == [
        "add chain ip netplane-pods output { type nat hook output priority -99; }"
    ]
    assert rules("postrouting", mapped) == [
        "meta mark & 0x4000 != 0 meta mark set meta mark ^ 0x4000 masquerade fully-random",
        "ct status dnat ip saddr . ip daddr @selves masquerade fully-random",
    ]


def test_without_snat_no_client_is_marked_but_the_container_reaches_itself():
    mapped = attachment(masquerade=False, ports=(PortMapping(TCP, 80, 80),), snat=False)
    assert not [rule for rule in rules("host-ports", mapped) if "mark" in rule]
    assert elements(mapped)["ip selves"] == ["10.244.1.5 . 10.244.1.5"]


def test_a_port_of_one_family_is_nothing_to_the_other():
    ports = (PortMapping(TCP, 80, 80, ip_address("2001:db8::1")), PortMapping(TCP, 81, 81, ip_address("0.0.0.0")))
    found = elements(attachment(5, *DUAL, masquerade=False, ports=ports))
    assert found["ip6 host-address-ports"] == ["2001:db8::1 . tcp . 80 : fd00:244:1::5 . 80"]
    assert found["ip host-ports"] == ["tcp . 81 : 10.244.1.5 . 81"]
    assert "ip host-address-ports" not in found
    assert "ip6 host-ports" not in found


def test_a_port_leads_to_the_first_address_of_its_family():
    several = attachment(5, "10.244.1.5/24", "10.244.2.5/24", masquerade=False, ports=(PortMapping(TCP, 80, 8080),))
    assert elements(several)["ip host-ports"] == ["tcp . 80 : 10.244.1.5 . 8080"]


def test_a_port_of_a_family_without_an_address_leads_nowhere():
    assert elements(attachment(5, masquerade=False, ports=(PortMapping(TCP, 80, 80, ip_address("::")),))) == {}


def test_host_ports_are_told_for_each_family():
    ports = (PortMapping(TCP, 80, 80), PortMapping(UDP, 53, 53, ip_address("192.0.2.1")))
    assert [*host_ports(attachment(5, *DUAL, ports=ports))] == [
        HostPort(FOUR, None, TCP, 80),
        HostPort(FOUR, ip_address("192.0.2.1"), UDP, 53),
        HostPort(SIX, None, TCP, 80),
    ]


# --- forged sources -------------------------------------------------------------------------------------------------


def test_routed_links_are_guarded_in_both_families_before_connections_are_tracked():
    routed = attachment(masquerade=False, mode=Mode.ROUTED)
    assert rules("anti-spoofing", routed) == ['iifname "npr*" fib saddr . iif oif missing drop']
    assert rules("anti-spoofing", routed, family="ip6") == [
        'iifname "npr*" ip6 saddr != { ::, fe80::/10 } fib saddr . iif oif missing drop'
    ]
    assert lines(routed, word="add chain ip ") == [
        "add chain ip netplane-pods anti-spoofing { type filter hook prerouting priority -300; }"
    ]


@pytest.mark.parametrize("mode", [Mode.BRIDGE, Mode.CHAINED, Mode.LOOPBACK])
def test_nothing_else_is_guarded(mode):
    assert rules("anti-spoofing", attachment(mode=mode)) == []


# --- laws -----------------------------------------------------------------------------------------------------------


def test_the_order_of_attachments_changes_nothing():
    chance = random.Random(4)
    every = [
        attachment(
            number,
            mode=chance.choice([Mode.BRIDGE, Mode.ROUTED]),
            masquerade=chance.random() < 0.8,
            snat=chance.random() < 0.5,
            ports=tuple(PortMapping(chance.choice([*Protocol]), number, 80) for _ in range(chance.randint(0, 2))),
        )
        for number in range(2, 60)
    ]
    text = program_script(program(every))
    chance.shuffle(every)
    assert program_script(program(every)) == text
