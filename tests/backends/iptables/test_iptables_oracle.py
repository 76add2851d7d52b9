"""The rules, walked as the kernel would, do what the oracle says: for every frontend, origin and family of random
clusters and of all cases, and with the same probability for every endpoint.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import cache
from ipaddress import ip_address, ip_network
from pathlib import Path
from random import Random

import pytest
from builders import exposed, plan_of, port, service, slices, up
from generated.asked import FREE, LOCAL, SOURCES, expected, packets, plans
from iptables_path import outcomes, ways
from iptables_rules import Around, Seen, UnknownRule, tables

from netplane.backends.iptables import IPTABLES
from netplane.lab.cases import find_cases, load_case
from netplane.model.address import Family, IPAddress, Protocol, family_of
from netplane.model.service import Ingress, Scope, ServiceType
from netplane.plan.node import plan_node
from netplane.plan.oracle import Deliver, Oracle, Packet, Untouched
from netplane.plan.plan import Forward, Origin, Plan

CASES = find_cases([Path(__file__).parents[2] / "cases"])
SEEDS = range(30)
WORLD = Around(LOCAL)
NODE_V4, NODE_V6 = ip_address("192.0.2.1"), ip_address("2001:db8::1")
EVERYWHERE = (ip_network("0.0.0.0/0"), ip_network("::/0"))


def text(plan: Plan) -> str:
    return IPTABLES.text(IPTABLES.compile(plan).program)


def asked(plan: Plan, random: Random, *where: Iterable[IPAddress]) -> Iterator[tuple[Packet, str]]:
    """Without packets from a link whose source is the node's: iptables tells the node by its addresses, a deviation."""
    local = where[0] if where else LOCAL
    for packet, link in packets(plan, random, *where):
        if packet.origin is Origin.NODE or packet.source not in local:
            yield packet, link


def seen_of(packet: Packet, link: str) -> Seen:
    return Seen(packet.source, packet.destination, packet.protocol, packet.port, iif=link)


def differences(
    plan: Plan, questions: Iterable[tuple[Packet, str]], spoil: Callable[[str], str] = str, around: Around = WORLD
) -> Iterator[str]:
    """Where the rules and the oracle disagree; `spoil` plants a fault into the rules."""
    oracle = Oracle(plan, around.local)
    kernel = tables(spoil(text(plan)))
    for packet, link in questions:
        family = family_of(packet.source)
        if family not in kernel:
            assert isinstance(oracle.decide(packet).outcome, Untouched)
            continue
        decision = oracle.decide(packet)
        answer = outcomes(kernel[family], seen_of(packet, link), around)
        if answer != expected(decision.outcome):
            yield f"{packet}\n  the rules: {answer}\n  the oracle: {decision.outcome} ({decision.reason})"


@cache
def made(seed: int) -> list[Plan]:
    """The plans of a random world, and its last one with node ports at every address."""
    found = plans(seed)
    last = found[-1]
    everywhere = replace(last.settings, node_ports=EVERYWHERE)
    return [*found, plan_node(last.snapshot, last.node.name, everywhere)]


@cache
def crossed() -> Plan:
    """Services that stand in each other's way: addresses of the node with the numbers of node ports.

    An external one that not everybody may use, one without endpoints, and an endpoint behind which there is nothing.
    """
    here, there = up("10.244.1.5", "n1"), up("10.244.2.6", "n2")
    on_node = [up("192.0.2.1", "n1"), up("2001:db8::1", "n1")]
    guarded = service(
        "guarded", ips=("10.96.0.1", "fd00:96::1"), ports=(port(30001),), ranges=("192.0.2.128/25", "2001:db8::200/120")
    )
    guarded = replace(guarded, type=ServiceType.LOAD_BALANCER, ingress=tuple(map(Ingress, (NODE_V4, NODE_V6))))
    empty = service("empty", ips=("10.96.0.2",), ports=(port(30002),), external_ips=(str(NODE_V4),))
    host = service("host", ips=("10.96.0.3", "fd00:96::3"))
    others = [
        service(f"n{number}", ips=(f"10.96.0.{number % 100 + 10}",), ports=(port(80, node_port=number),))
        for number in (30001, 30002, 30003)
    ]
    listed = [slices(guarded, here, there), slices(host, *on_node, target=30003)]
    listed += [slices(each, here, there) for each in others[:2]]
    return plan_of(guarded, empty, host, *others, *listed)


@pytest.mark.parametrize("seed", SEEDS)
def test_rules_do_what_the_oracle_says(seed):
    for plan in made(seed):
        assert next(differences(plan, asked(plan, Random(seed))), "") == ""


def test_rules_do_what_the_oracle_says_of_services_in_each_others_way():
    assert next(differences(crossed(), asked(crossed(), Random(1))), "") == ""


@pytest.mark.parametrize("folder", CASES, ids=lambda folder: folder.name)
def test_rules_of_every_case_do_what_the_oracle_says(folder):
    for plan in load_case(folder).plans().values():
        local = frozenset(plan.node.addresses)
        endpoints = {
            each.address for service in plan.services.values() for port in service.ports for each in port.serving
        }
        sources = sorted({*SOURCES, *local, *endpoints}, key=str)
        questions = [*asked(plan, Random(1), local, sources)]
        questions = Random(1).sample(questions, min(len(questions), 500))
        assert next(differences(plan, questions, around=Around(local)), "") == ""


@pytest.mark.parametrize("seed", range(0, 30, 5))
def test_a_packet_of_a_connection_nobody_knows_is_decided_as_a_first_one_but_rejected_with_a_reset(seed):
    for plan in made(seed):
        kernel = tables(text(plan))
        for packet, link in asked(plan, Random(seed)):
            if (own := kernel.get(family_of(packet.source))) is None:
                continue
            first = seen_of(packet, link)
            opened, later = (outcomes(own, each, WORLD) for each in (first, replace(first, opens=False)))
            assert later == ({"reset": 1} if packet.protocol is Protocol.TCP and opened == {"reject": 1} else opened)


# --- and they would be caught if they did not -------------------------------------------------------------------------

FAULTS = {
    "pods are masqueraded": (r"-A KUBE-MASQ-UNLESS-POD -[si][^\n]*\n", ""),
    "nobody is masqueraded": (r"(-A KUBE-MASQ-UNLESS-POD) -j MARK[^\n]*", r"\1 -j RETURN"),
    "the node with a pod's address is a pod": (r" -m addrtype ! --src-type LOCAL -j RETURN", " -j RETURN"),
    "nothing is marked": (r"--set-xmark 0x4000/0x4000", "--set-xmark 0x0/0x4000"),
    "marks are not heeded": (r"-m mark ! --mark 0x4000/0x4000 -j RETURN", "-m mark ! --mark 0x8000/0x8000 -j RETURN"),
    "the mark is not cleared": (r"-A KUBE-POSTROUTING -j MARK[^\n]*\n", ""),
    "source ranges are not asked for": (r"-I \S+ [^\n]*-j KUBE-PROXY-FIREWALL\n", ""),
    "refused sources are forwarded": (
        r"(-A KUBE-FW-\S+ -m comment --comment \"other[^\n]*) -j ACCEPT",
        r"\1 -j RETURN",
    ),
    "source ranges are turned around": (r"(-A KUBE-FW-\S+) -s", r"\1 ! -s"),
    "the last rule of a guard is missing": (r"-A KUBE-FW-\S+ [^\n]*-j DROP\n", ""),
    "hairpins are not masqueraded": (r"-A KUBE-SEP-\S+ -s [^\n]*\n", ""),
    "probabilities are equal": (r"--probability 0.50000000000", "--probability 0.33333333349"),
    "an endpoint is forgotten": (r"-A KUBE-SV[CL]-\S+ [^\n]*--probability 0.50000000000[^\n]*\n", ""),
    "the last endpoint is not certain": (
        r"(-A KUBE-SVC-\S+ -m comment --comment \"[^\"]*\") (-j KUBE-SEP)",
        r"\1 -m statistic --mode random --probability 0.50000000000 \2",
    ),
    "outsiders go anywhere": (r"-j KUBE-SVL-(\S+)", r"-j KUBE-SVC-\1"),
    "pods are outsiders": (r"-A KUBE-EXT-\S+ -[si] [^\n]*\n", ""),
    "the node is an outsider": (r"-A KUBE-EXT-\S+ [^\n]*--src-type LOCAL[^\n]*\n", ""),
    "what is refused reaches a node port": (r"(-A KUBE-\S+ [^\n]*) -j ACCEPT", r"\1 -j RETURN"),
    "cluster IPs are not closed": (r"-A \S+ -d [^\n]*no such port[^\n]*-j KUBE-REFUSE\n", ""),
    "drop for reject": (r"-j REJECT --reject-with icmp\S+", "-j DROP"),
    "reject for drop": (
        r"(has no local endpoints\"[^\n]*) -j DROP",
        r"\1 -j KUBE-REFUSE",
    ),
    "service ranges are rejected": (r"(no Service has this address\") -j DROP", r"\1 -j RETURN"),
    "service ranges reach node ports": (r"-A KUBE-SERVICES -d \S+ -j RETURN\n", ""),
    "node ports answer on loopback": (r"! -d (127.0.0.0/8|::1/128) ", ""),
    "networks with loopback answer there": (r"-A KUBE-SERVICES -d 127.0.0.0/8 -j RETURN\n", ""),
    "node ports answer everywhere": (r"-m addrtype --dst-type LOCAL ", ""),
    "UDP is taken for TCP": (r"-p udp (.*)-m udp", r"-p tcp \1-m tcp"),
    "translated packets are refused": (r"-A \S+ -m conntrack --ctstate DNAT -j RETURN\n", ""),
    "what arrives is not refused": (r"-I INPUT [^\n]*-j KUBE-EXTERNAL-SERVICES\n", ""),
    "what the node sends is not refused": (r"-I OUTPUT -m conntrack[^\n]*-j KUBE-SERVICES\n", ""),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_planted_in_the_rules_is_found(fault):
    pattern, instead = FAULTS[fault]

    def spoil(good: str) -> str:
        return re.sub(pattern, instead, good)

    def found() -> Iterator[str]:
        for plan in (crossed(), *(plan for seed in SEEDS for plan in made(seed))):
            if re.search(pattern, text(plan)):
                yield from differences(plan, asked(plan, Random(1)), spoil)

    try:
        difference = next(found(), None)
    except UnknownRule as error:
        difference = str(error)
    assert difference is not None


# --- affinity ---------------------------------------------------------------------------------------------------------


def sticky(plan: Plan) -> Iterator[tuple[Packet, str]]:
    """Packets to frontends with affinity."""
    oracle = Oracle(plan, LOCAL)
    for packet, link in asked(plan, Random(0)):
        outcome = oracle.decide(packet).outcome
        if isinstance(outcome, Deliver) and outcome.sticky:
            yield packet, link


@pytest.mark.parametrize("seed", range(0, 30, 3))
def test_a_client_is_remembered_and_comes_back_to_its_endpoint(seed):
    for plan in made(seed):
        kernel = tables(text(plan))
        for packet, link in sticky(plan):
            own, seen = kernel[family_of(packet.source)], seen_of(packet, link)
            for _, last, _ in ways(own, seen, WORLD):
                again = ways(own, seen, Around(LOCAL, {last.remembered: {str(packet.source)}}))
                assert [(share, to) for share, to, _ in again] == [(Fraction(1), last)]
                others = ways(own, seen, Around(LOCAL, {last.remembered: {"another"}}))
                assert sum(share for share, *_ in others) == 1


# --- INVALID packets --------------------------------------------------------------------------------------------------


def endpoints(plan: Plan) -> set[Seen]:
    """An INVALID packet of every endpoint somebody is sent to, to somewhere else and to the node."""
    return {
        Seen(each.address, to, row.frontend.protocol, 40000, each.port, iif="eth0", state="INVALID")
        for row in plan.rows()
        for origin in Origin
        if isinstance(verdict := row.verdicts[origin], Forward)
        for each in verdict.pool.endpoints
        for to in (*FREE, *LOCAL)
        if to.version == each.address.version
    }


@pytest.mark.parametrize("seed", range(0, 30, 3))
def test_invalid_packets_of_endpoints_are_dropped_and_no_others(seed):
    for plan in made(seed):
        kernel, mine = tables(text(plan)), endpoints(plan)
        known = {(each.source, each.protocol, each.source_port) for each in mine}
        for seen in mine:
            own = kernel[family_of(seen.source)]
            wanted = "drop" if plan.settings.drop_invalid else "untouched"
            assert outcomes(own, seen, WORLD) == {wanted: Fraction(1)}
            assert outcomes(own, replace(seen, source_port=7), WORLD) == {"untouched": Fraction(1)}
            assert outcomes(own, replace(seen, state="ESTABLISHED"), WORLD) == {"untouched": Fraction(1)}
            stranger = replace(seen, source=seen.source + (1 << 13 if seen.source.version == 4 else 1 << 70))
            if (stranger.source, stranger.protocol, stranger.source_port) not in known:
                assert outcomes(own, stranger, WORLD) == {"untouched": Fraction(1)}


# --- deviations -------------------------------------------------------------------------------------------------------


def test_deviation_node_by_address_a_packet_from_a_link_with_an_address_of_the_node_counts_as_the_node_s():
    web = exposed(external=Scope.LOCAL)
    plan = plan_of(web, slices(web, up("10.244.1.5", "n1"), up("10.244.2.6", "n2")))
    odd = Packet(Origin.OUTSIDE, NODE_V4, ip_address("203.0.113.5"), Protocol.TCP, 80)
    answer = outcomes(tables(text(plan))[family_of(NODE_V4)], seen_of(odd, "eth0"), WORLD)
    oracle = Oracle(plan, LOCAL)
    assert answer != expected(oracle.decide(odd).outcome)
    assert answer == expected(oracle.decide(replace(odd, origin=Origin.NODE)).outcome)


def test_deviation_invalid_by_network_packets_of_an_endpoint_s_neighbour_are_dropped_too():
    web = service()
    plan = plan_of(web, slices(web, up("10.244.2.6", "n2")))
    kernel = tables(text(plan))[Family.IPV4]
    seen = Seen(ip_address("10.244.2.7"), FREE[0], Protocol.TCP, 40000, 8080, iif="eth0", state="INVALID")
    assert outcomes(kernel, seen, WORLD) == {"drop": Fraction(1)}
    for other in ({"source_port": 8081}, {"protocol": Protocol.UDP}, {"source": ip_address("10.244.3.7")}):
        assert outcomes(kernel, replace(seen, **other), WORLD) == {"untouched": Fraction(1)}


def test_every_deviation_is_on_the_page():
    page = (Path(__file__).parents[3] / "docs" / "backends" / "iptables.md").read_text()
    for each in IPTABLES.deviations:
        assert f"| `{each.name}` | {each.promise} | {each.instead} |" in page
