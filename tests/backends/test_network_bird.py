"""The configuration of bird: that bird takes it, whatever the plan, and that nothing of the cluster gets into it."""

from __future__ import annotations

import json
import random
import subprocess
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path

import pytest

from netplane.backends.network.bird import bird_text, session_name
from netplane.errors import InputError
from netplane.kernel import command
from netplane.model.address import IPNetwork
from netplane.plan.network_plan import BgpPlan, BgpSession
from netplane.plan.network_settings import Bgp
from netplane.programs import bird

needs_bird = pytest.mark.skipif(command.find("bird") is None, reason="bird is not installed")
HOSTILE = '/etc/a "b"\n}; filter x { accept; }\n# password np_password_9 is in "/etc/shadow"\\'
NODE = BgpSession("node_n2", ip_address("198.18.0.1"), ip_address("198.18.0.2"), 64512)
ROUTER = BgpSession("router_198_18_0_100", ip_address("198.18.0.1"), ip_address("198.18.0.100"), 65001)
SIX = BgpSession("node_n2_v6", ip_address("2001:db8::1"), ip_address("2001:db8::2"), 64512)
PLAN = BgpPlan(
    Bgp(),
    IPv4Address("198.18.0.1"),
    (NODE, ROUTER, SIX),
    (ip_network("10.244.1.0/24"), ip_network("fd00:244:0:1::/64"), ip_network("192.0.2.7/32")),
    (ip_network("10.244.0.0/16"), ip_network("fd00:244::/48"), ip_network("192.0.2.0/24")),
)


def refusal(text: str, folder: Path, passwords: str | None = None) -> str:
    """What bird says against it, "" if it takes it."""
    (folder / "bird.conf").write_text(text)
    if passwords is None:
        passwords = bird.passwords_text(dict.fromkeys(bird.references(text), "secret"))
    (folder / bird.PASSWORDS).write_text(passwords)
    done = subprocess.run(
        [str(command.find("bird")), "-p", "-c", "bird.conf"], cwd=folder, capture_output=True, text=True, check=False
    )
    return done.stderr if done.returncode else ""


def networks(chance: random.Random, count: int) -> tuple[IPNetwork, ...]:
    four = (IPv4Network((chance.getrandbits(32), chance.randrange(33)), strict=False) for _ in range(count))
    six = (IPv6Network((chance.getrandbits(128), chance.randrange(129)), strict=False) for _ in range(count))
    return tuple(chance.sample([*four, *six], count)) if count else ()


def any_session(chance: random.Random, number: int) -> BgpSession:
    kind, bits = chance.choice([(IPv4Address, 32), (IPv6Address, 128)])
    name = chance.choice([f"node_n{number}", f"router_{number}", f"{number};}} filter\n", "protocol", "x" * 300])
    return BgpSession(
        f"{name}{number}" if name[0] in "px" else name,
        kind(chance.getrandbits(bits)),
        kind(chance.getrandbits(bits)),
        chance.choice([64512, 1, 4294967294]),
        chance.choice(["", "/etc/one", HOSTILE, "/etc/\udcff"]),
        chance.random() < 0.5,
        False,
    )


def any_plan(seed: int) -> BgpPlan:
    chance = random.Random(seed)
    found = [any_session(chance, number) for number in range(chance.choice([0, 1, 5, 40]))]
    inside = [replace(each, client=each.asn == 64512 and chance.random() < 0.5) for each in found]
    return BgpPlan(
        Bgp(
            hold_seconds=chance.choice([0, 3, 90, 65535]),
            graceful_restart_seconds=chance.choice([0, 1, 120, 4095, 100000]),
        ),
        IPv4Address(chance.randrange(1, 1 << 32)),
        tuple(inside),
        networks(chance, chance.choice([0, 1, 7])),
        networks(chance, chance.choice([0, 1, 7])),
        chance.choice([None, IPv4Address("10.0.0.1")]),
    )


@needs_bird
@pytest.mark.parametrize("seed", range(25))
def test_bird_takes_every_plan(seed, tmp_path):
    assert refusal(bird_text(any_plan(seed)), tmp_path) == ""


@needs_bird
def test_bird_takes_a_plan_that_announces_nothing_to_nobody(tmp_path):
    assert refusal(bird_text(replace(PLAN, sessions=(), announced=(), accepted=())), tmp_path) == ""


def test_equal_plans_give_equal_bytes_in_whatever_order_their_parts_are():
    shuffled = replace(
        PLAN,
        sessions=PLAN.sessions[::-1],
        announced=PLAN.announced[::-1],
        accepted=PLAN.accepted[::-1],
    )
    assert bird_text(shuffled) == bird_text(PLAN)


def test_a_session_carries_the_routes_of_its_own_family_alone():
    found = bird.parts(bird_text(PLAN))
    assert "ipv4 {" in found["protocol bgp node_n2"]
    assert "ipv6" not in found["protocol bgp node_n2"]
    assert "ipv6 {" in found["protocol bgp node_n2_v6"]
    assert "ipv4" not in found["protocol bgp node_n2_v6"]


def test_only_a_router_may_tell_of_our_own_system():
    found = bird.parts(bird_text(PLAN))
    assert "allow local as 1;" in found["protocol bgp router_198_18_0_100"]
    assert "allow local as" not in found["protocol bgp node_n2"]


def test_what_was_reflected_is_passed_on_to_nodes_and_never_to_routers():
    reflector = replace(PLAN, sessions=(replace(NODE, client=True), ROUTER), cluster_id=IPv4Address("10.0.0.1"))
    found = bird.parts(bird_text(reflector))
    assert "export filter np_reflect4;" in found["protocol bgp node_n2"]
    assert "rr client;" in found["protocol bgp node_n2"]
    assert "export filter np_export4;" in found["protocol bgp router_198_18_0_100"]
    assert "np_reflect4;" not in bird_text(PLAN)


def test_no_default_route_is_accepted_even_where_everything_is():
    everything = bird_text(replace(PLAN, accepted=(ip_network("0.0.0.0/0"), ip_network("::/0"))))
    assert "0.0.0.0/0{8,32}" in everything
    assert "::/0{16,128}" in everything


@pytest.mark.parametrize("name", ["node_n2;", "node_ü", "protocol", "np_import4", "node_" + "x" * 60, "", "router_a b"])
def test_a_name_that_is_no_word_for_bird_becomes_one(name):
    assert session_name(replace(NODE, name=name)).removeprefix("session_").isalnum()
    assert session_name(replace(NODE, name=name)) != session_name(replace(NODE, name=name + "x"))


def test_a_configuration_names_files_of_passwords_and_holds_none():
    text = bird_text(
        replace(PLAN, sessions=(replace(NODE, password_file=HOSTILE), replace(ROUTER, password_file="/etc/router")))
    )
    assert sorted(bird.references(text).values()) == sorted([HOSTILE, "/etc/router"])
    constants = {path: constant for constant, path in bird.references(text).items()}
    assert f"password {constants[HOSTILE]};" in bird.parts(text)["protocol bgp node_n2"]
    assert json.dumps(HOSTILE) in text
    assert bird.references(bird_text(PLAN)) == {}
    assert bird.PASSWORDS not in bird_text(PLAN)


@needs_bird
@pytest.mark.parametrize("password", ["a", "x" * 80, "#;{}'\\ $(id) %s\\n", " blank ", "define", "'"])
def test_whatever_can_be_said_bird_takes(password, tmp_path):
    text = bird_text(replace(PLAN, sessions=(replace(NODE, password_file="/etc/one"),)))
    said = bird.password_of(f"{password}\n".encode(), "/etc/one")
    assert said == password
    assert refusal(text, tmp_path, bird.passwords_text({"np_password_1": said})) == ""


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b'se"cret', "a quotation mark"),
        (b"sec\nret", "a control character"),
        (b'"; }\nprotocol bgp x {', "a quotation mark or a control character"),
        (b"sec\0ret", "a control character"),
        (b"secret\n\n", "a control character"),
        ("geheim-ß".encode(), "not ASCII"),
        (b"\xff\xfe", "not ASCII"),
        (b"s" * 81, "81 bytes, TCP takes 80"),
    ],
)
def test_a_password_that_cannot_be_said_is_refused_and_not_shown(content, why):
    with pytest.raises(InputError, match=why) as caught:
        bird.password_of(content, "/etc/one")
    assert "/etc/one" in str(caught.value)
    assert "cret" not in str(caught.value)


def test_the_end_of_the_line_is_no_part_of_a_password():
    assert {bird.password_of(end, "x") for end in (b"secret", b"secret\n", b"secret\r\n")} == {"secret"}


def test_what_changes_is_said_by_the_name_of_the_block():
    before, after = bird_text(PLAN), bird_text(replace(PLAN, sessions=(NODE, replace(SIX, multihop=True, asn=7))))
    assert bird.changed_lines(before, before) == []
    assert bird.changed_lines(before, after) == [
        "- protocol bgp node_n2_v6",
        "- protocol bgp router_198_18_0_100",
        "+ protocol bgp node_n2_v6",
    ]
