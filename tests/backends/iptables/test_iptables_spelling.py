"""Names, words and shapes: kube-proxy's hashes, quotation, what is there only if needed, how trees name branches."""

from __future__ import annotations

import re
import shlex
import socket
from datetime import timedelta
from ipaddress import IPv6Address, ip_address, ip_network
from random import Random

import pytest
from builders import IPV4, LOCAL, TCP, UDP, exposed, node, plan_of, port, service, slices, up
from iptables_rules import tables

from netplane.backends.iptables import IPTABLES
from netplane.backends.iptables.layout import AddressWords, Here, PortWords, port_number
from netplane.backends.iptables.needs import REQUIREMENTS
from netplane.backends.iptables.services import ServiceChains, entries
from netplane.backends.iptables.words import address_text, comment, endpoint_chain, port_chain, probability
from netplane.errors import UnsupportedError
from netplane.model.address import Family, Protocol
from netplane.model.service import ServicePortId
from netplane.plan.plan import (
    Drop,
    Endpoint,
    Forward,
    Frontend,
    FrontendKind,
    FrontendRow,
    NodeFacts,
    Pool,
    PortPlan,
    Reject,
    ServicePlan,
    Verdict,
    Verdicts,
)
from netplane.plan.settings import Bridge, InterfacePrefix, NodePortScope, Settings
from netplane.programs.iptables import BRANCHES, is_ours

HERE, THERE = up("10.244.1.5", "n1"), up("10.244.2.6", "n2")
BOTH = [HERE, THERE, up("fd00:244:1::5", "n1"), up("fd00:244:2::6", "n2")]


def lines(*objects, **changes):
    return IPTABLES.text(IPTABLES.compile(plan_of(*objects, **changes)).program).splitlines()


def rules(text, chain, heading="# iptables-restore --noflush", table="nat"):
    """The rules of a chain of IPv4, or of the family with that heading."""
    at = text.index(f"*{table}", text.index(heading))
    own = text[at : text.index("COMMIT", at)]
    return [line.removeprefix(f"-A {chain} ") for line in own if line.startswith(f"-A {chain} ")]


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("namespace", "name", "number", "protocol", "hashed"),
    [
        ("ns1", "svc1", "p80", TCP, "XPGD46QRK7WJZT7O"),
        ("ns4", "svc4", "p80", TCP, "4SW47YFZTEDKD3PK"),
        ("ns5", "svc5", "p80", TCP, "NUKIZ6OKUXPJNT4C"),
        ("default", "kubernetes", "https", TCP, "NPX46M4PTMTKRN6Y"),
        ("kube-system", "kube-dns", "dns", UDP, "TCOU7JCQXEZGVUNU"),
        ("ns1", "svc1", "", TCP, "AQI2S6QIMU7PVVRP"),
    ],
)
def test_chains_of_a_port_have_the_names_kube_proxy_gives_them(namespace, name, number, protocol, hashed):
    assert port_chain("SVC", ServicePortId(namespace, name, number, protocol)) == f"KUBE-SVC-{hashed}"


@pytest.mark.parametrize(
    ("name", "address", "hashed"),
    [
        ("1", "10.180.0.1", "SXIVWICOYRO3J4NJ"),
        ("4", "10.180.0.4", "UKSFD7AGPMPPLUHC"),
        ("4", "10.180.0.5", "C6EBXVWJJZMIWKLZ"),
        ("1", "fd00::1", "T5UNFIPVCZXM3U7X"),
    ],
)
def test_chains_of_an_endpoint_have_the_names_kube_proxy_gives_them(name, address, hashed):
    owner = ServicePortId(f"ns{name}", f"svc{name}", "p80", TCP)
    assert endpoint_chain(owner, Endpoint(ip_address(address), 80)) == f"KUBE-SEP-{hashed}"


def test_every_chain_is_known_as_ours_and_short_enough_and_nothing_of_the_kubelet_is():
    text = lines(*(exposed(f"s{i}", ips=(f"10.96.{i}.1", f"fd00:96::{i}:1")) for i in range(60)), node())
    names = {line.split()[0][1:] for line in text if line.startswith(":")}
    assert len(names) > 25
    assert all(is_ours(name) and len(name) <= 28 for name in names)
    assert not any(map(is_ours, ("KUBE-FIREWALL", "KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY", "KUBE-IPVS-FILTER")))


def test_branches_have_names_that_say_what_they_are_for():
    words = AddressWords(Family.IPV4, "KUBE-IP")
    assert words.chain(10 << 12 | 96 << 4, 20) == "KUBE-IP-10.96.0.0/20"
    assert words.branch(10 << 12 | 96 << 4, 20, "X") == ("-d 10.96.0.0/20 -j X",)
    assert re.fullmatch("KUBE-IP-[A-Z2-7]{16}", AddressWords(Family.IPV6, "KUBE-IP").chain(0xFD0000960000, 48))
    ports = PortWords("KUBE-PORT")
    tcp = port_number(TCP, 30000)
    assert ports.chain(tcp >> 4, 20) == "KUBE-PORT-TCP-30000-30015"
    assert ports.branch(tcp >> 4, 20, "X") == ("-p tcp -m tcp --dport 30000:30015 -j X",)
    assert ports.branch(tcp, 24, "X") == ("-p tcp -m tcp --dport 30000 -j X",)


@pytest.mark.parametrize("protocol", Protocol)
@pytest.mark.parametrize("length", [4, 8])
def test_the_ports_of_a_whole_protocol_are_found_by_the_protocol_alone(protocol, length):
    words, prefix = PortWords("KUBE-PORT"), port_number(protocol, 0) >> (24 - length)
    assert words.chain(prefix, length) == f"KUBE-PORT-{protocol.value}"
    assert words.branch(prefix, length, "X") == (f"-p {protocol} -j X",)


def test_the_longest_names_of_branches_are_short_enough():
    for root, stem in BRANCHES.items():
        if "PORT" in stem:
            longest = PortWords(stem).chain(port_number(Protocol.SCTP, 65520) >> 4, 20)
        else:
            longest = AddressWords(Family.IPV4, stem).chain(int(ip_address("255.255.255.255")), 32)
        assert len(longest) <= 28, root
        assert is_ours(longest)


def test_branches_of_different_trees_of_a_table_have_different_names():
    assert len(set(BRANCHES.values())) == len(BRANCHES)


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "quoted"),
    [
        ("web", "web"),
        ("shop/web:http", '"shop/web:http"'),
        ("a \"b\" 'c' \\d", '"a \\"b\\" \\\'c\\\' \\\\d"'),
        ("two\nlines\0\x1b[31m", '"two_lines__[31m"'),
        ("é", "_"),
        ("x" * 300, '"' + "x" * 252 + '..."'),
    ],
)
def test_no_name_can_end_a_comment(said, quoted):
    assert comment(said) == f"-m comment --comment {quoted}"


def test_hostile_names_stay_in_their_comments():
    name = 'web" -j ACCEPT\nCOMMIT\n*filter'
    text = lines(exposed(name), node())
    assert sum(line == "COMMIT" for line in text) == 4
    for line in text:
        if line.startswith("-A"):
            words = shlex.split(line)
            assert words.count("-j") + words.count("-g") == 1


def test_addresses_are_written_as_the_kernel_s_tools_write_them():
    random = Random(1)
    some = [random.getrandbits(32), random.getrandbits(16), 0xFFFF << 32 | random.getrandbits(32), 1, 0, 1 << 32]
    some += [random.getrandbits(128) & random.getrandbits(128) & ~(0xFFFFFFFF << 16 * i) for i in range(7)]
    for number in some:
        address = IPv6Address(number)
        assert address_text(address) == socket.inet_ntop(socket.AF_INET6, address.packed)


@pytest.mark.parametrize("count", [2, 3, 7, 100, 1000])
def test_probabilities_are_as_near_as_the_kernel_can_come(count):
    said = float(probability(count).split()[-1])
    assert round(said * 2**31) == round(2**31 / count)


# --- shapes -----------------------------------------------------------------------------------------------------------


def test_the_probabilities_are_one_nth_then_one_of_those_left_and_the_last_is_certain():
    endpoints = [up(f"10.244.2.{i}", "n2") for i in range(1, 5)]
    web = service()
    chosen = rules(lines(web, slices(web, *endpoints)), port_chain("SVC", ServicePortId("shop", "web", "", TCP)))[1:]
    assert [re.findall(r"--probability (\S+)", each) for each in chosen] == [
        ["0.25000000000"],
        ["0.33333333349"],
        ["0.50000000000"],
        [],
    ]


def test_a_pool_nobody_is_sent_to_has_no_chains():
    web = service()
    assert not [line for line in lines(web) if "KUBE-S" in line.split()[0] and "KUBE-SERVICES" not in line]
    local = exposed(external=LOCAL)
    text = lines(local, slices(local, THERE))
    assert sum(line.startswith(":KUBE-SVC") for line in text) == 1
    assert not any(line.startswith((":KUBE-SVL", ":KUBE-FW")) for line in text)


def test_endpoints_that_are_shared_by_two_pools_and_two_addresses_have_one_chain():
    web = exposed(external=LOCAL, affinity=timedelta(seconds=60))
    text = lines(web, slices(web, HERE, THERE))
    assert sum(line.startswith(":KUBE-SEP") for line in text) == 2
    assert sum(line.startswith((":KUBE-SVC", ":KUBE-SVL")) for line in text) == 2


def test_only_endpoints_that_may_be_here_have_a_rule_for_hairpins():
    web = service()
    text = lines(web, slices(web, HERE, THERE, up("10.244.3.7")))
    hairpins = [re.findall(r"-s (\S+)", line)[0] for line in text if line.startswith("-A KUBE-SEP") and " -s " in line]
    assert sorted(hairpins) == ["10.244.1.5/32", "10.244.3.7/32"]


@pytest.mark.parametrize(
    ("local", "unless"),
    [
        (Bridge("cni0"), ["-i cni0 -j RETURN"]),
        (InterfacePrefix("veth"), ["-i veth+ -j RETURN"]),
        (InterfacePrefix("fifteen-letters"), ["-i fifteen-letters -j RETURN"]),
    ],
)
def test_local_detection_by_links(local, unless):
    text = lines(service(), local=local)
    assert rules(text, "KUBE-MASQ-UNLESS-POD") == [*unless, "-j MARK --set-xmark 0x4000/0x4000"]


def test_every_pod_range_is_looked_at_and_a_process_with_such_an_address_is_no_pod():
    ranges = tuple(map(ip_network, ("10.244.0.0/17", "10.244.128.0/17", "10.246.0.0/16")))
    text = lines(service(), node(pod_ranges=ranges))
    assert rules(text, "KUBE-MASQ-UNLESS-POD")[:2] == [
        f"-s {network} -m addrtype ! --src-type LOCAL -j RETURN" for network in ("10.244.0.0/16", "10.246.0.0/16")
    ]


def test_node_ports_of_every_address():
    text = lines(service(), node_ports=NodePortScope.ALL)
    assert rules(text, "KUBE-SERVICES")[-1].startswith("! -d 127.0.0.0/8 -m comment")
    assert "-m addrtype --dst-type LOCAL -j KUBE-NODEPORTS" in rules(text, "KUBE-SERVICES")[-1]


def test_a_table_of_a_family_that_is_not_served_has_nothing_of_ours():
    program = IPTABLES.compile(plan_of(node(pod_ranges=(ip_network("10.244.1.0/24"),)))).program
    assert {family for family, _ in program.iptables.frames} == {Family.IPV4}


def test_the_health_check_port_of_two_services_that_name_the_same_is_accepted_once_each():
    both = [exposed(name, external=LOCAL, health_check_node_port=32000) for name in ("a", "b")]
    accepted = [line for line in lines(*both) if "--dport 32000 -j ACCEPT" in line]
    assert len(accepted) == 4


def test_a_large_cluster_is_found_in_few_steps():
    many = [service(f"s{i}", ips=(str(ip_address(0x0A600001 + 7 * i)),)) for i in range(800)]
    wanted = tables("\n".join(lines(*many, slices(many[-1], THERE))) + "\n")[Family.IPV4]["filter"]
    longest = max(len(own) for name, own in wanted.items() if name.startswith(("KUBE-IP", "KUBE-SERVICES")))
    assert longest <= 20


# --- what no plan says, and we do not say wrongly ---------------------------------------------------------------------

OWNER = ServicePortId("shop", "web", "", TCP)
ONE, OTHER, THIRD = (Pool((Endpoint(ip_address(f"10.244.1.{number}"), 80, "n1"),)) for number in (1, 2, 3))


def yes(pool: Pool, *, masquerade: bool = False) -> Forward:
    return Forward(pool, masquerade)


def row(kind: FrontendKind, *verdicts: Verdict, last: int = 1) -> FrontendRow:
    return FrontendRow(Frontend(ip_address(f"203.0.113.{last}"), TCP, 80), kind, OWNER, Verdicts(*verdicts))


def spelled(*rows: FrontendRow) -> None:
    here, service_plan = (
        Here(NodeFacts("n1"), Settings()),
        ServicePlan(OWNER.service, (PortPlan(OWNER, IPV4, rows, ()),)),
    )
    ServiceChains(service_plan, here).chains()
    entries(service_plan, here)


CLUSTER_IP, EXTERNAL_IP = FrontendKind.CLUSTER_IP, FrontendKind.EXTERNAL_IP


@pytest.mark.parametrize(
    "rows",
    [
        (row(CLUSTER_IP, yes(ONE), yes(OTHER), yes(ONE)),),
        (row(CLUSTER_IP, yes(ONE), Drop(), yes(ONE)),),
        (row(CLUSTER_IP, yes(ONE, masquerade=True), yes(ONE), yes(ONE)),),
        (row(EXTERNAL_IP, yes(ONE), yes(OTHER), yes(THIRD)),),
        (row(EXTERNAL_IP, yes(ONE), Drop(), Reject()),),
        (row(EXTERNAL_IP, yes(ONE), yes(ONE), yes(ONE)), row(EXTERNAL_IP, yes(ONE), yes(ONE), Drop(), last=2)),
    ],
    ids=[
        "endpoints by origin at a cluster IP",
        "a cluster IP for some",
        "only pods are masqueraded",
        "three sets of endpoints",
        "some are dropped and some rejected",
        "two addresses with different verdicts",
    ],
)
def test_verdicts_that_no_plan_has_are_refused(rows):
    with pytest.raises(UnsupportedError, match="iptables: "):
        spelled(*rows)


# --- requirements -----------------------------------------------------------------------------------------------------


def test_every_match_and_target_of_the_rules_is_a_requirement():
    web = exposed(external=LOCAL, affinity=timedelta(seconds=60), ports=(port(node_port=30080), port(81, UDP, "u")))
    text = "\n".join(line for line in lines(web, slices(web, *BOTH), node()) if line.startswith("-"))
    used = {*re.findall(r"-m ([a-z]+)", text), *re.findall(r"-j ([A-Z]+)\b(?!-)", text)} - {"ACCEPT", "DROP", "RETURN"}
    assert len(used) >= 12
    tried = " ".join(need.name for need in REQUIREMENTS)
    assert not [each for each in used if not re.search(rf"\b{each}\b", tried)]


def test_each_requirement_is_one_thing():
    for need in REQUIREMENTS:
        assert bool(need.program) != bool(need.restore)
        assert need.restore.count("-A ") == 2 * bool(need.restore)
