"""The rules, walked as the kernel would, do what the oracle says: for every frontend, origin and family of random
clusters, and with the same probability for every endpoint.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import cache
from random import Random

import pytest
from generated.asked import LOCAL, expected, packets, plans
from interpreter import Seen, tables
from packet_path import RESET, outcomes, ways

from netplane.backends.nftables import NFTABLES
from netplane.model.address import Family, Protocol
from netplane.plan.oracle import Deliver, Oracle, Packet
from netplane.plan.plan import Drop, Forward, FrontendKind, Origin, Plan, Pool, Reject, Verdict
from netplane.plan.settings import Bridge, InterfacePrefix, PodRange


def differences(plan: Plan, random: Random, spoil: Callable[[str], str] = str) -> Iterator[str]:
    """Where the rules and the oracle disagree; `spoil` plants a fault into the rules."""
    oracle = Oracle(plan, LOCAL)
    kernel = tables(spoil(NFTABLES.text(NFTABLES.compile(plan).program)))
    for asked, link in packets(plan, random):
        decision = oracle.decide(asked)
        seen = Seen(asked.source, asked.destination, asked.protocol, asked.port, iif=link)
        table = kernel["ip" if seen.source.version == 4 else "ip6"]
        found = outcomes(table, seen, LOCAL)
        if found != expected(decision.outcome):
            yield f"{asked}\n  the rules: {found}\n  the oracle: {decision.outcome} ({decision.reason})"


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
            opened, found = (outcomes(table, each, LOCAL) for each in (first, later))
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
    oracle = Oracle(plan, LOCAL)
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
            for _, last, _ in ways(table, seen, LOCAL):
                again = ways(table, seen, LOCAL, {last.remembered: {str(asked.source)}})
                assert [(share, to) for share, to, _ in again] == [(Fraction(1), last)]
                others = ways(table, seen, LOCAL, {last.remembered: {"another"}})
                assert sum(share for share, *_ in others) == 1
