"""What a Service becomes in the tables: elements, names, chains of its own; and what never becomes rule text."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from fractions import Fraction

import pytest
from builders import (
    IPV4,
    IPV6,
    LOCAL,
    TCP,
    UDP,
    addresses,
    exposed,
    networks,
    node,
    plan_of,
    port,
    service,
    settings,
    slices,
    snapshot,
    up,
)
from generated.asked import Sent
from generated.clusters import World
from interpreter import Seen, tables
from packet_path import outcomes

from netplane.backends.nftables import NFTABLES
from netplane.backends.nftables.services import frontend_key, kernel_name
from netplane.errors import UnsupportedError
from netplane.kernel.command import run
from netplane.kernel.netns import Namespace
from netplane.model.service import ServiceId
from netplane.plan.node import plan_node
from netplane.plan.plan import Endpoint, Forward, Frontend, Pool, ThisNode, Verdicts
from netplane.plan.settings import Bridge, InterfacePrefix, NodePortScope
from netplane.programs.nftables import digest


def program_of(*objects, **changes):
    return NFTABLES.compile(plan_of(*objects, **changes)).program


def script(*objects, **changes):
    return NFTABLES.text(program_of(*objects, **changes))


def elements(text, name, family="ip"):
    """The elements of a set as nft prints them."""
    return re.findall(rf"^add element {family} netplane {name} \{{ (.*) \}}$", text, re.MULTILINE)


def rules(text, chain, family="ip"):
    comment = r'comment "[0-9a-f]{8}"'
    return re.findall(rf"^add rule {family} netplane {re.escape(chain)} (.*) {comment}$", text, re.MULTILINE)


# --- elements ---------------------------------------------------------------------------------------------------------


def test_a_frontend_is_address_protocol_and_port_each_in_four_bytes():
    v4, v6 = Frontend(node().addresses[0], TCP, 443), Frontend(node().addresses[1], UDP, 53)
    assert frontend_key(v4).hex(" ", 4) == "c0000201 06000000 01bb0000"
    assert frontend_key(v6).hex(" ", 4) == "20010db8 00000000 00000000 00000001 11000000 00350000"
    assert frontend_key(Frontend(ThisNode.IPV6, TCP, 30080)).hex(" ", 4) == "06000000 75800000"


def test_a_cluster_ip_is_one_verdict_per_origin_and_one_slot_per_endpoint():
    of = service(ips=("10.96.0.10",))
    text = script(of, slices(of, up("10.244.1.5", "n1"), up("10.244.2.6", "n2")))
    assert elements(text, "cluster-ips") == ["10.96.0.10"]
    assert elements(text, "from-pod") == ["10.96.0.10 . tcp . 80 : goto pick-2"]
    assert elements(text, "from-node") == ["10.96.0.10 . tcp . 80 : goto masq-pick-2"]
    assert elements(text, "from-outside") == ["10.96.0.10 . tcp . 80 : goto masq-pick-2"]
    assert elements(text, "slots") == [
        "10.96.0.10 . tcp . 80 . 0 : 10.244.1.5 . 8080",
        "10.96.0.10 . tcp . 80 . 1 : 10.244.2.6 . 8080",
    ]
    assert elements(text, "endpoints") == ["10.244.1.5 . tcp . 8080", "10.244.2.6 . tcp . 8080"]
    assert elements(text, "hairpins") == ["10.244.1.5 . 10.244.1.5 . tcp . 8080"]
    assert elements(text, "slots-outside") == elements(text, "guarded") == elements(text, "node-port-slots") == []


def test_outsiders_have_slots_of_their_own_only_where_their_endpoints_differ():
    of = exposed(external=LOCAL)
    both = slices(of, up("10.244.1.5", "n1"), up("10.244.2.6", "n2"))
    text = script(of, both)
    assert elements(text, "node-port-slots-outside") == ["tcp . 30080 . 0 : 10.244.1.5 . 8080"]
    assert "198.51.100.7 . tcp . 80 . 0 : 10.244.1.5 . 8080" in elements(text, "slots-outside")
    assert elements(text, "node-ports-from-outside") == ["tcp . 30080 : goto node-port-pick-outside-1"]
    assert elements(script(of, slices(of, up("10.244.1.5", "n1"))), "node-port-slots-outside") == []


def test_ranges_are_elements_of_one_interval_set():
    of = exposed(ranges=("192.0.2.0/24", "198.51.100.9/32", "2001:db8::/64"))
    text = script(of)
    assert elements(text, "guarded") == ["203.0.113.5 . tcp . 80"]
    assert elements(text, "allowed") == [
        "203.0.113.5 . tcp . 80 . 192.0.2.0/24",
        "203.0.113.5 . tcp . 80 . 198.51.100.9",
        "203.0.113.5 . tcp . 80 . 203.0.113.5",  # a node inside may use the address itself
    ]
    assert elements(text, "allowed", "ip6") == [
        "2001:db8:113::5 . tcp . 80 . 2001:db8::/64",
        "2001:db8:113::5 . tcp . 80 . 2001:db8:113::5",
    ]


def test_more_than_256_endpoints_have_a_slot_each():
    of = service(ips=("10.96.0.10",))
    many = [up(f"10.244.{i // 200 + 1}.{i % 200 + 1}", "n2") for i in range(300)]
    text = script(of, slices(of, *many))
    slots = elements(text, "slots")
    assert sorted(int(each.partition(" : ")[0].rpartition(" . ")[2]) for each in slots) == list(range(300))
    assert len({each.partition(" : ")[2] for each in slots}) == 300
    assert "numgen random mod 300" in rules(text, "pick-300")[0]


def test_without_services_there_are_tables_that_do_nothing_yet():
    found = tables(script())
    assert set(found) == {"ip", "ip6"}
    assert not any(each.exact[name] for each in found.values() for name in each.exact)


# --- structure --------------------------------------------------------------------------------------------------------


def test_there_is_one_chain_per_endpoint_count_whatever_the_number_of_services():
    def chains(count):
        of = [service(f"s{i}", ips=(f"10.96.1.{i}",)) for i in range(count)]
        return set(tables(script(*of, *(slices(each, up("10.244.1.5")) for each in of)))["ip"].chains)

    assert chains(2) == chains(50)


def test_a_packet_that_meets_a_half_written_pool_is_dropped_not_remembered_as_somebody_elses():
    of = service(ips=("10.96.0.10",))
    text = script(of, slices(of, up("10.244.1.5", "n1"), up("10.244.2.6", "n2")))
    half = re.sub(r"add element ip netplane slots \{ .* 1 : .*\n", "", text)
    seen = Seen(*addresses("10.244.1.99", "10.96.0.10"), TCP, 80, iif="eth0")
    assert outcomes(tables(half)["ip"], seen, frozenset()) == {
        Sent("10.244.1.5", 8080, masqueraded=False): Fraction(1, 2),
        "drop": Fraction(1, 2),
    }


@pytest.mark.parametrize(
    ("changes", "ip", "ip6"),
    [
        ({}, "ip saddr { 10.244.1.0/24 } goto decide-pod", "ip6 saddr { fd00:244:1::/64 } goto decide-pod"),
        ({"local": Bridge("cni0")}, 'iifname "cni0" goto decide-pod', 'iifname "cni0" goto decide-pod'),
        ({"local": InterfacePrefix("v")}, 'iifname "v*" goto decide-pod', 'iifname "v*" goto decide-pod'),
    ],
)
def test_local_detection_is_the_first_rule(changes, ip, ip6):
    text = script(**changes)
    assert rules(text, "prerouting") == [ip, "goto decide-outside"]
    assert rules(text, "prerouting", "ip6") == [ip6, "goto decide-outside"]


@pytest.mark.parametrize(
    ("scope", "said"),
    [
        (NodePortScope.PRIMARY, "ip daddr 192.0.2.1 "),
        (NodePortScope.ALL, "fib daddr type local ip daddr != 127.0.0.0/8 "),
        (networks("192.0.2.0/24"), "fib daddr type local ip daddr != 127.0.0.0/8 ip daddr { 192.0.2.0/24 } "),
        (networks("2001:db8::/64"), None),
    ],
)
def test_node_ports_are_asked_for_on_the_chosen_addresses_only(scope, said):
    last = rules(script(node_ports=scope), "decide-pod")[-1]
    closed, answered = "ip daddr @cluster-ips goto refuse", "meta l4proto . th dport vmap @node-ports-from-pod"
    assert last == (closed if said is None else said + answered)


def test_overlapping_networks_are_merged_because_nft_refuses_them():
    text = script(service_ranges=networks("10.96.0.0/16", "10.96.0.0/12", "10.112.0.0/12"))
    assert "ip daddr { 10.96.0.0/11 } drop" in rules(text, "decide-pod")


def test_invalid_packets_are_dropped_in_forward_and_input_or_left_alone():
    assert rules(script(), "forward") == rules(script(), "input") != []
    assert rules(script(drop_invalid=False), "forward") == rules(script(drop_invalid=False), "input") == []


def test_the_comment_of_a_rule_is_its_digest():
    found = re.findall(r'^add rule \S+ netplane \S+ (.*) comment "([0-9a-f]{8})"$', script(), re.MULTILINE)
    assert found
    assert all(digest(rule) == comment for rule, comment in found)


# --- affinity ---------------------------------------------------------------------------------------------------------


def sticky(seconds=60, **changes):
    of = exposed(seconds=seconds, **changes)
    return script(of, slices(of, up("10.244.1.5", "n1"), up("10.244.2.6", "n2"), up("fd00:244:1::5", "n1")))


def sticky_chains(text):
    return sorted(name for name in tables(text)["ip"].chains if name.startswith("sticky-"))


def test_clients_are_remembered_per_endpoint_of_a_service_port_not_per_address():
    text = sticky()
    names = {name for name in tables(text)["ip"].dynamic if name.startswith("clients-")}
    assert names == {
        f"clients-60s-{kernel_name(f'shop/web/tcp/__{address}/8080')}" for address in ("10.244.1.5", "10.244.2.6")
    }
    (chain,) = sticky_chains(text)
    assert chain.startswith(f"sticky-{kernel_name('shop/web/tcp/')}-")
    assert set(elements(text, "from-pod")) == {
        f"10.96.0.10 . tcp . 80 : goto {chain}",
        f"198.51.100.7 . tcp . 80 : goto masq-{chain}",
        f"203.0.113.5 . tcp . 80 : goto masq-{chain}",
    }


def test_the_timeout_is_in_the_set_and_in_its_name():
    text = sticky(7200)
    declared = [line for line in text.splitlines() if "flags dynamic" in line]
    assert declared
    assert all("clients-7200s-" in line and "timeout 7200s;" in line for line in declared)


def test_policy_local_has_a_chain_of_its_own_and_shares_the_memory():
    text = sticky(external=LOCAL)
    assert len(tables(text)["ip"].dynamic) == 2
    assert len(sticky_chains(text)) == 2


def test_the_chain_of_a_pool_has_the_same_name_whatever_other_pools_the_service_has():
    """Elements of before must not lead into a chain of after that means something else."""
    alone, beside = sticky(), sticky(external=LOCAL)
    both = sticky(external=LOCAL, internal=LOCAL)
    (everybody,) = sticky_chains(alone)
    assert everybody in sticky_chains(beside)
    assert sticky_chains(both) == sticky_chains(beside)


def test_a_service_with_affinity_leaves_nothing_in_the_common_slots():
    assert elements(sticky(), "slots") == elements(sticky(), "node-port-slots") == []


def test_each_protocol_and_port_remembers_on_its_own():
    of = service(seconds=60, ports=(port(53, UDP, "dns"), port(53, TCP, "dns-tcp")))
    text = script(of, slices(of, up("10.244.1.5")))
    assert len(tables(text)["ip"].dynamic) == 2


def test_pods_and_the_node_with_different_endpoints_are_refused_because_the_layout_has_no_words_for_it():
    plan = plan_of(service(ips=("10.96.0.10",)))
    (entry,) = plan.services.values()
    (row,) = entry.rows()
    one, other = (Forward(Pool((Endpoint(each, 80),)), masquerade=True) for each in addresses("10.0.0.1", "10.0.0.2"))
    bad = replace(row, verdicts=Verdicts(pod=one, node=other, outside=one))
    spoiled = replace(entry, ports=(replace(entry.ports[0], rows=(bad,)),))
    with pytest.raises(UnsupportedError, match="different endpoints"):
        NFTABLES.compile(replace(plan, services={entry.service: spoiled}))


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "hash_"),
    [
        ("ns1/svc1/tcp/p80", "ULMVA6XW"),
        ("ns1/svc1/tcp/p80__10.180.0.1/80", "5OJB2KTY"),
        ("ns2/svc2/tcp/p80", "42NFTM6N"),
    ],
)
def test_names_carry_kube_proxys_hash(base, hash_):
    assert kernel_name(base) == f"{hash_}-{base}"


def test_the_names_of_a_service_are_built_from_kube_proxys_base():
    of = service("svc1", namespace="ns1", seconds=60, ips=("10.96.0.10",), ports=(port(80, name="p80"),))
    listed = slices(of, up("10.180.0.1"), target=80)
    assert "add chain ip netplane sticky-ULMVA6XW-ns1/svc1/tcp/p80-" in script(of, listed)
    assert "add chain ip netplane endpoint-5OJB2KTY-ns1/svc1/tcp/p80__10.180.0.1/80\n" in script(of, listed)


def test_long_names_are_cut_and_stay_different():
    names = [kernel_name("n" * 300 + end) for end in "ab"]
    assert names[0] != names[1]
    assert all(len(each) <= 200 for each in names)


HOSTILE = [
    'a"; flush ruleset; "',
    "a\nflush ruleset",
    "a } ; delete table ip x",
    "$(reboot)`id`",
    "a b { } ; # * \\ '",
    "\u202eevil\u202c",
    "x" * 4000,
    "\x00",
    "ä" * 300,
    "@set",
    "",
]


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_never_reach_the_text(name):
    # Decoding refuses such names; should one get past it, the text is still safe.
    of = service("web", seconds=60, ips=("10.96.0.10",), ports=(port(80, name=name),))
    of = replace(of, id=ServiceId(name, name))
    text = script(of, slices(of, up("10.244.1.5", "n1"), up("10.244.2.6", "n1")))
    allowed = re.compile(r'[A-Za-z0-9 _./:;,{}@|&^!=*"<>()-]*')
    assert all(allowed.fullmatch(line) and len(line) < 1000 for line in text.splitlines())
    assert "flush ruleset" not in text
    assert "delete table" not in text
    tables(text)  # every line is one the layout knows


@pytest.mark.kernel
@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_nft_takes_the_names_made_of_hostile_ones(name, empty_kernel):
    of = service("web", seconds=60, ips=("10.96.0.10",), ports=(port(80, name=name),))
    of = replace(of, id=ServiceId(name, name))
    check(empty_kernel, script(of, slices(of, up("10.244.1.5", "n1"), up("10.244.2.6", "n1"))))


# --- the kernel takes it ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def empty_kernel():
    with Namespace() as namespace:
        yield namespace


def check(namespace, text):
    namespace.run(lambda: run("nft", "--check", "-f", "-", stdin=text, mechanism="nftables", doing="check"))


@pytest.mark.kernel
@pytest.mark.parametrize("seed", range(12))
def test_nft_takes_every_program(seed, empty_kernel):
    world = World(seed)
    for _ in range(2):
        world.change()
        plan = plan_node(world.snapshot, "n1", world.settings)
        check(empty_kernel, NFTABLES.text(NFTABLES.compile(plan).program))


@pytest.mark.kernel
def test_the_ruleset_that_is_tried_before_compiling_is_taken_and_has_every_kind_of_set(empty_kernel):
    tried = [need.script for need in NFTABLES.needs if need.script]
    assert tried
    for text in tried:
        check(empty_kernel, text)
        used = {name for each in tables(text).values() for name in each.exact if each.exact[name]}
        assert used >= {"guarded", "slots", "slots-outside", "node-port-slots", "node-port-slots-outside", "hairpins"}


# --- incremental ------------------------------------------------------------------------------------------------------


def test_parts_of_unchanged_services_are_the_same_objects():
    a, b = service("a", ips=("10.96.0.1",)), service("b", ips=("10.96.0.2",))
    before = plan_of(a, b)
    compiled = NFTABLES.compile(before)
    endpoint = slices(b, up("10.244.1.5"))
    after = plan_node(snapshot(a, b, endpoint), "n1", settings(), before)
    # The same objects in both snapshots: only b has changed.
    again = NFTABLES.compile(after, compiled)
    assert again.program.nftables.parts[a.id] is compiled.program.nftables.parts[a.id]
    assert again.program.nftables.parts[b.id] is not compiled.program.nftables.parts[b.id]
    assert again.program == NFTABLES.compile(after).program


def test_a_pick_chain_goes_with_the_last_service_that_uses_it():
    a = service("a", ips=("10.96.0.1",))
    three = slices(a, up("10.244.1.5"), up("10.244.1.6"), up("10.244.1.7"))
    first = NFTABLES.compile(plan_of(a, three))
    assert "pick-3" in first.program.nftables.structure[IPV4].chains
    after = NFTABLES.compile(plan_node(snapshot(a), "n1", settings(), first.plan), first)
    assert "pick-3" not in after.program.nftables.structure[IPV4].chains
    assert "pick-3" not in after.program.nftables.structure[IPV6].chains


def test_another_node_or_timeout_changes_the_program():
    of = exposed(seconds=60)
    listed = slices(of, up("10.244.1.5", "n1"))
    assert script(of, listed) != script(replace(of, affinity=timedelta(seconds=61)), listed)
    assert script(of, listed) != script(of, listed, node(addresses=node("n3").addresses))
