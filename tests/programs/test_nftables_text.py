"""nftables state as text."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_address, ip_network
from struct import pack

import pytest

from netplane.model.address import Family
from netplane.programs.nftables import (
    TABLE,
    Chain,
    Field,
    Hook,
    NftablesProgram,
    Part,
    SetSpec,
    Structure,
    digest,
)
from netplane.programs.nftables_changes import as_found, changes_from_found
from netplane.programs.nftables_text import add_chain, add_rules, add_set, add_table, element_text, program_script

A4, A6, PROTOCOL, PORT, SLOT = Field.ADDRESS4, Field.ADDRESS6, Field.PROTOCOL, Field.PORT, Field.SLOT


def address(text):
    return ip_address(text).packed


def number(value):
    return pack(">H2x", value)


TCP = b"\x06\0\0\0"


@pytest.mark.parametrize(
    ("spec", "key", "data", "text"),
    [
        (SetSpec("s", "", (A4,)), address("10.0.0.1"), None, "10.0.0.1"),
        (SetSpec("s", "", (A6, PROTOCOL, PORT)), address("fd00::1") + TCP + number(80), None, "fd00::1 . tcp . 80"),
        (SetSpec("s", "", (PROTOCOL, PORT)), b"\x11\0\0\0" + number(53), None, "udp . 53"),
        (SetSpec("s", "", (PROTOCOL, PORT)), b"\x84\0\0\0" + number(9), None, "sctp . 9"),
        (SetSpec("s", "", (PROTOCOL,)), b"\x2f\0\0\0", None, "47"),
        (SetSpec("s", "", (A4,), verdicts=True), address("10.0.0.1"), "goto refuse", "10.0.0.1 : goto refuse"),
        (
            SetSpec("s", "", (A4, SLOT), (A4, PORT)),
            address("10.0.0.1") + pack("=I", 300),
            address("10.1.0.1") + number(8080),
            "10.0.0.1 . 300 : 10.1.0.1 . 8080",
        ),
    ],
)
def test_an_element_is_text_as_nft_prints_it(spec, key, data, text):
    assert element_text(spec, key, data) == text


@pytest.mark.parametrize(
    ("first", "last", "text"),
    [
        ("10.0.0.0", "10.0.0.255", "10.0.0.0/24"),
        ("10.0.0.7", "10.0.0.7", "10.0.0.7"),
        ("0.0.0.0", "255.255.255.255", "0.0.0.0/0"),
        ("10.0.0.1", "10.0.0.9", "10.0.0.1-10.0.0.9"),
        ("fd00::", "fd00::ffff", "fd00::/112"),
        ("fd00::1", "fd00::1", "fd00::1"),
        ("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::/0"),
        ("fd00::1", "fd00::9", "fd00::1-fd00::9"),
    ],
)
def test_an_interval_is_a_prefix_where_it_is_one(first, last, text):
    kind = A4 if "." in first else A6
    spec = SetSpec("s", "", (PORT, kind), interval=True)
    key = number(80) + address(first) + number(80) + address(last)
    assert element_text(spec, key, None) == f"80 . {text}"


def test_networks_of_the_plan_read_back_as_themselves():
    for text in ("10.0.0.0/8", "192.0.2.128/25", "2001:db8::/33"):
        network = ip_network(text)
        kind = A4 if network.version == 4 else A6
        key = network.network_address.packed + network.broadcast_address.packed
        assert element_text(SetSpec("s", "", (kind,), interval=True), key, None) == text


def test_objects_are_text_with_their_family():
    chain = Chain("output", ("drop", "reject"), Hook("nat", "output", -100))
    assert add_table(Family.IPV6) == 'add table ip6 netplane { comment "made by netplane"; }'
    assert add_set(Family.IPV4, SetSpec("a", "{ x; }", verdicts=True)) == "add map ip netplane a { x; }"
    assert add_set(Family.IPV4, SetSpec("a", "{ x; }", data=(A4,))) == "add map ip netplane a { x; }"
    assert add_set(Family.IPV4, SetSpec("a", "{ x; }")) == "add set ip netplane a { x; }"
    assert add_chain(Family.IPV4, chain) == ("add chain ip netplane output { type nat hook output priority -100; }")
    assert add_chain(Family.IPV4, Chain("x")) == "add chain ip netplane x"
    assert list(add_rules(Family.IPV4, chain)) == [
        f'add rule ip netplane output {rule} comment "{digest(rule)}"' for rule in chain.rules
    ]


def test_a_digest_is_eight_hexadecimal_characters_of_the_rule_alone():
    assert re.fullmatch("[0-9a-f]{8}", digest("drop"))
    assert digest("drop") != digest("reject")
    assert Chain("a", ("drop",)).digests() == Chain("b", ("drop",)).digests() == (digest("drop"),)


def test_a_program_of_another_table_names_it_everywhere():
    chain = Chain("output", ("accept",), Hook("nat", "output", -100))
    table = Structure({"output": chain}, {"s": SetSpec("s", "{ type ipv4_addr; }", (A4,))})
    part = Part({(Family.IPV4, "s"): {address("10.0.0.1"): None}})
    there = NftablesProgram({Family.IPV4: table}, {"somebody": part}, table="another")
    assert program_script(there) == program_script(replace(there, table=TABLE)).replace("ip netplane", "ip another")
    for changes in (
        changes_from_found({}, there),
        changes_from_found(as_found(there), NftablesProgram(table="another")),
    ):
        lines = (changes.make_structure + changes.make_hooks + changes.sweep_structure).splitlines()
        assert lines
        assert all(" ip another" in line for line in lines)
