"""The rules, walked as the kernel would, do what the oracle says: for every frontend, origin and family of random
clusters, and with the same probability for every endpoint.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import cache
from ipaddress import ip_address
from random import Random

import pytest
from generated.clusters import NODE_IPS, OUTER_IPS, POD_IPS, World
from interpreter import Seen, tables
from packet_path import RESET, Outcomes, Sent, outcomes, ways

from netplane.backends.nftables import NFTABLES
from netplane.model.address import Family, IPAddress, Protocol, family_of
from netplane.plan.node import plan_node
from netplane.plan.oracle import Deliver, Oracle, Outcome, Packet, Untouched
from netplane.plan.plan import Drop, Forward, FrontendKind, Origin, Plan, Pool, Reject, ThisNode, Verdict
from netplane.plan.settings import Bridge, InterfacePrefix, PodRange

EXTRA = NODE_IPS["n1"]  # all of these are local, whether or not the Node object names them
LOOPBACK = (ip_address("127.0.0.1"), ip_address("::1"))
FREE = tuple(map(ip_address, ("10.96.0.77", "fd00:96::77", "192.0.2.222", "2001:db8::222")))


def expected(outcome: Outcome) -> Outcomes:
    match outcome:
        case Deliver(to):
            return {
                Sent(str(each.endpoint.address), each.endpoint.port, each.masqueraded): Fraction(1, len(to))
                for each in to
            }
        case Drop():
            return {"drop": Fraction(1)}
        case Reject():
            return {"reject": Fraction(1)}
        case Untouched():
            return {"untouched": Fraction(1)}


TEXTS = "192.0.2.1 192.0.2.127 192.0.2.128 192.0.2.200 8.8.8.8 2001:db8::1 2001:db8::1ff 2001:db8::200 2600::1"
SOURCES = (*map(ip_address, TEXTS.split()), *POD_IPS["n1"], *POD_IPS["n2"][:2], *OUTER_IPS)
"""Pods here and elsewhere, nodes, strangers, and the edges of source ranges."""

Target = tuple[IPAddress, int, Protocol | None]


def targets(plan: Plan) -> tuple[set[Target], list[Target]]:
    """Every frontend; and the same addresses, and others, with other protocols and ports or an echo."""
    here = (*NODE_IPS["n1"], *LOOPBACK)
    named = {
        (address, row.frontend.port, row.frontend.protocol)
        for row in plan.rows()
        for address in (here if isinstance(row.frontend.address, ThisNode) else (row.frontend.address,))
        if family_of(address) is row.frontend.family
    }
    addresses = {*NODE_IPS["n1"], *LOOPBACK, *FREE, *(address for address, *_ in named)}
    numbers = {number for _, number, _ in named} | {9}
    beside: list[Target] = [(address, number, each) for address in addresses for number in numbers for each in Protocol]
    beside += [(address, 0, None) for address in addresses]
    return named, [each for each in beside if each not in named and family_of(each[0]) in plan.families]


def arrival(plan: Plan, origin: Origin, source: IPAddress) -> str | None:
    """The link over which such a packet comes, "" for none; None if it cannot be of that origin."""
    if origin is Origin.NODE:
        return "" if source in EXTRA else None
    match plan.settings.local:
        case PodRange(networks):
            inside = any(source in network for network in networks)
            return "eth0" if inside is (origin is Origin.POD) else None
        case Bridge(name):
            return name if origin is Origin.POD else f"{name}1"
        case InterfacePrefix(prefix):
            return f"{prefix}7" if origin is Origin.POD else f"x{prefix}7"


def packets(plan: Plan, random: Random) -> Iterator[tuple[Packet, str]]:
    """Everybody to every frontend, and a few to everything beside them; each with the link it comes over."""
    named, beside = targets(plan)
    some = {*named, *random.sample(sorted(beside, key=str), min(len(beside), 25))}
    for address, number, protocol in sorted(some, key=str):
        for source in SOURCES:
            if source.version == address.version:
                for origin in Origin:
                    if (link := arrival(plan, origin, source)) is not None:
                        yield Packet(origin, source, address, protocol, number), link


def differences(plan: Plan, random: Random, spoil: Callable[[str], str] = str) -> Iterator[str]:
    """Where the rules and the oracle disagree; `spoil` plants a fault into the rules."""
    oracle = Oracle(plan, EXTRA)
    kernel = tables(spoil(NFTABLES.text(NFTABLES.compile(plan).program)))
    for asked, link in packets(plan, random):
        decision = oracle.decide(asked)
        seen = Seen(asked.source, asked.destination, asked.protocol, asked.port, iif=link)
        table = kernel["ip" if seen.source.version == 4 else "ip6"]
        found = outcomes(table, seen, frozenset(EXTRA))
        if found != expected(decision.outcome):
            yield f"{asked}\n  the rules: {found}\n  the oracle: {decision.outcome} ({decision.reason})"


@cache
def plans(seed: int) -> list[Plan]:
    """Two plans of a random world."""
    world, made = World(seed), []
    for _ in range(2):
        world.change()
        made.append(plan_node(world.snapshot, "n1", world.settings))
    return made


@cache
def text(seed: int, index: int) -> str:
    return NFTABLES.text(NFTABLES.compile(plans(seed)[index]).program)


@pytest.mark.parametrize("seed", range(30))
def test_rules_do_what_the_oracle_says(seed):
    for plan in plans(seed):
        assert next(differences(plan, Random(seed)), "") == ""


@pytest.mark.parametrize("seed", range(0, 30, 3))
def test_a_packet_of_a_connection_nobody_knows_is_decided_as_a_first_one_but_rejected_with_a_reset(seed):
    for plan in plans(seed):
        kernel = tables(NFTABLES.text(NFTABLES.compile(plan).program))
        for asked, link in packets(plan, Random(seed)):
            table = kernel["ip" if asked.source.version == 4 else "ip6"]
            first = Seen(asked.source, asked.destination, asked.protocol, asked.port, iif=link)
            later = replace(first, established=True)
            opened, found = (outcomes(table, each, frozenset(EXTRA)) for each in (first, later))
            if asked.protocol is Protocol.TCP and opened == {"reject": 1}:
                assert found == {RESET: 1}
            else:
                assert found == opened


def _pool(verdict: Verdict) -> Pool | None:
    return verdict.pool if isinstance(verdict, Forward) else None


def test_the_random_clusters_hold_every_kind_of_frontend_verdict_and_setting():
    made = [plan for seed in range(30) for plan in plans(seed)]
    rows = [row for plan in made for row in plan.rows()]
    verdicts = [row.verdicts[origin] for row in rows for origin in Origin]
    assert {(row.kind, row.frontend.family) for row in rows} == {(k, f) for k in FrontendKind for f in Family}
    assert {type(verdict) for verdict in verdicts} == {Forward, Drop, Reject}
    forwards = [verdict for verdict in verdicts if isinstance(verdict, Forward)]
    assert {each.pool.affinity is None for each in forwards} == {True, False}
    assert len(forwards) > len(verdicts) / 2
    assert len({len(each.pool.endpoints) for each in forwards}) > 4
    short_circuits = [row for row in rows if _pool(row.verdicts.pod) != _pool(row.verdicts.outside)]
    assert len({row.kind for row in short_circuits}) == 3
    assert len(short_circuits) > len(rows) / 10
    assert {bool(row.allowed) for row in rows} == {True, False}
    assert {type(plan.settings.local) for plan in made} == {PodRange, Bridge, InterfacePrefix}
    assert any(entry.problems for plan in made for entry in plan.services.values())


# --- and they would be caught if they did not -------------------------------------------------------------------------

FAULTS = {
    "pods are not asked for": (r"(ip6? saddr \{[^}]*\}|iifname \S+) goto decide-pod", r"\1 goto decide-outside"),
    "outsiders are taken for pods": (r"prerouting goto decide-outside", "prerouting goto decide-pod"),
    "the node is taken for a pod": (r"output goto decide-node", "output goto decide-pod"),
    "source ranges are not asked for": (r"add rule \S+ netplane decide-\S+ [^\n]* != @allowed drop[^\n]*\n", ""),
    "source ranges are turned around": (r"saddr != @allowed", "saddr @allowed"),
    "a guard is missing": (r"add element ip netplane guarded [^\n]*\n", ""),
    "cluster IPs are not closed": (r"add rule \S+ netplane decide-node [^\n]*@cluster-ips goto refuse[^\n]*\n", ""),
    "closing cluster IPs drops": (r"@cluster-ips goto refuse", "@cluster-ips drop"),
    "refusing drops": (r"refuse reject", "refuse drop"),
    "service ranges are rejected": (r"(ip6? daddr \{[^}]*\}) drop", r"\1 reject"),
    "node ports answer on loopback": (r" daddr != (127.0.0.0/8|::1)", r" daddr != 127.99.0.0/16"),
    "node ports answer everywhere": (r"fib daddr type local ", ""),
    "nothing is marked": (r"meta mark set meta mark \| 0x4000", "meta mark set meta mark | 0x0"),
    "marks are not heeded": (r"meta mark & 0x4000 != 0", "meta mark & 0x8000 != 0"),
    "hairpins are not masqueraded": (r"add element ip6? netplane hairpins [^\n]*\n", ""),
    "one slot is never drawn": (r"numgen random mod 3 map", "numgen random mod 2 map"),
    "one slot is empty": (r"add element ip netplane (node-port-)?slots \{ [^}]* 1 : [^\n]*\n", ""),
    "slots are exchanged": (r"map @slots-outside", "map @slots"),
    "UDP has no pick": (r"add rule \S+ netplane pick-\d+ dnat [^\n]* udp dport[^\n]*\n", ""),
    "sticky choices are not fair": (r"numgen random mod 3 0", "numgen random mod 4 0"),
    "a verdict is dropped": (r"(netplane from-outside \{ [^}]*) : goto (?!refuse)\S+", r"\1 : drop"),
    "a node port is dropped": (r"(netplane node-ports-from-node \{ [^}]*) : goto (?!refuse)\S+", r"\1 : drop"),
    "drop and reject are exchanged": (r"(netplane from-pod \{ [^}]*) : drop", r"\1 : goto refuse"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_planted_in_the_rules_is_found(fault):
    pattern, instead = FAULTS[fault]
    # A digest does not change with its rule here, which nobody in this test minds.
    found = (
        difference
        for seed in range(30)
        for index, plan in enumerate(plans(seed))
        if re.search(pattern, text(seed, index))
        for difference in differences(plan, Random(seed), lambda text: re.sub(pattern, instead, text))
    )
    assert next(found, None) is not None


# --- affinity ---------------------------------------------------------------------------------------------------------


def sticky(plan: Plan) -> Iterator[tuple[Packet, str]]:
    """Packets to frontends with affinity."""
    oracle = Oracle(plan, EXTRA)
    for asked, link in packets(plan, Random(0)):
        outcome = oracle.decide(asked).outcome
        if isinstance(outcome, Deliver) and outcome.sticky:
            yield asked, link


@pytest.mark.parametrize("seed", range(0, 30, 3))
def test_a_client_is_remembered_and_comes_back_to_its_endpoint(seed):
    for plan in plans(seed):
        kernel = tables(NFTABLES.text(NFTABLES.compile(plan).program))
        for asked, link in sticky(plan):
            table = kernel["ip" if asked.source.version == 4 else "ip6"]
            seen = Seen(asked.source, asked.destination, asked.protocol, asked.port, iif=link)
            for _, last, _ in ways(table, seen, frozenset(EXTRA)):
                again = ways(table, seen, frozenset(EXTRA), {last.remembered: {str(asked.source)}})
                assert [(share, to) for share, to, _ in again] == [(Fraction(1), last)]
                others = ways(table, seen, frozenset(EXTRA), {last.remembered: {"another"}})
                assert sum(share for share, *_ in others) == 1
