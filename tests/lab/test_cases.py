"""Reading cases: what a line means, and what is said about a line that means nothing."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest
from cluster import CLIENT, NODE_1, wiring

from netplane.errors import InputError
from netplane.lab.case_settings import read_settings
from netplane.lab.cases import find_cases, load_case, read_line
from netplane.lab.outcome import Arrival, Reaches, say
from netplane.lab.probe import FromOutside, Probe
from netplane.lab.topology import Attach
from netplane.model.address import Protocol
from netplane.plan.oracle import Untouched
from netplane.plan.plan import Drop, Reject
from netplane.plan.settings import InterfacePrefix

WIRING = wiring(Attach.BRIDGE)
NODE = """
apiVersion: v1
kind: Node
metadata: {name: n1}
spec: {podCIDRs: [10.244.1.0/24]}
status: {addresses: [{type: InternalIP, address: 192.0.2.11}]}
"""


def test_a_pod_asks_from_its_address_of_the_destinations_family():
    probe, _ = read_line("pod client tcp [fd00:10:96::a]:80 -> drop", WIRING)
    assert probe == Probe(CLIENT, ip_address("fd00:10:244:1::9"), Protocol.TCP, ip_address("fd00:10:96::a"), 80)


def test_a_node_asks_from_its_internal_address():
    probe, _ = read_line("node n1 udp 10.96.0.10:53 -> drop", WIRING)
    assert probe == Probe(NODE_1, ip_address("192.0.2.11"), Protocol.UDP, ip_address("10.96.0.10"), 53)


def test_outside_may_ask_from_any_address():
    probe, _ = read_line("outside  via n2 from 8.8.8.8 sctp 203.0.113.6:80 -> drop", WIRING)
    assert probe == Probe(FromOutside("n2"), ip_address("8.8.8.8"), Protocol.SCTP, ip_address("203.0.113.6"), 80)


def test_an_echo_request_has_no_port():
    probe, outcome = read_line("pod client icmp 10.96.0.10 -> reject", WIRING)
    assert (probe.protocol, probe.port, outcome) == (None, 0, Reject())


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("drop", Drop()),
        ("reject  (nobody there)", Reject()),
        ("untouched", Untouched()),
        ("web-2, web-1 masqueraded", Reaches(frozenset({Arrival("shop/web-2"), Arrival("shop/web-1", True)}))),
        ("one of web-1", Reaches(frozenset({Arrival("shop/web-1")}), sticky=True)),
        ("node n1 masqueraded", Reaches(frozenset({Arrival("node n1", True)}))),
        ("203.0.113.7", Reaches(frozenset({Arrival("203.0.113.7")}))),
        ("10.244.2.5", Reaches(frozenset({Arrival("shop/web-2")}))),
    ],
)
def test_outcomes(text, outcome):
    assert read_line(f"pod client tcp 10.96.0.10:80 -> {text}", WIRING)[1] == outcome


@pytest.mark.parametrize("text", ["drop", "reject", "untouched", "web-1, web-2 masqueraded", "one of web-1"])
def test_an_outcome_said_is_read_back_as_itself(text):
    outcome = read_line(f"pod client tcp 10.96.0.10:80 -> {text}", WIRING)[1]
    assert say(outcome, WIRING) == text


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("pod client tcp 10.96.0.10:80", "write FROM PROTOCOL DESTINATION"),
        ("pod client quic 10.96.0.10:80 -> drop", "write FROM PROTOCOL DESTINATION"),
        ("pod nobody tcp 10.96.0.10:80 -> drop", "pod 'nobody' is unknown; there is shop/client"),
        ("node n9 tcp 10.96.0.10:80 -> drop", "node 'n9' is unknown; there is n1, n2"),
        ("somebody tcp 10.96.0.10:80 -> drop", "write pod NAME, node NAME or outside via NODE"),
        ("pod client tcp 10.96.0.10 -> drop", "write ADDRESS:PORT"),
        ("pod client tcp 10.96.0.10:0 -> drop", "between 1 and 65535"),
        ("pod client tcp 10.96.0.300:80 -> drop", "is not an address"),
        ("pod client tcp 10.96.0.10:80 -> web-9", "pod 'web-9' is unknown"),
        ("pod client tcp 10.96.0.10:80 -> web-1 maskeraded", "write drop, reject, untouched, or pods"),
        ("pod client from fd00::1 tcp 10.96.0.10:80 -> drop", "must be of one family"),
    ],
)
def test_a_line_that_means_nothing_is_refused_with_a_remedy(line, said):
    with pytest.raises(InputError, match=f"(?s).*{said}"):
        read_line(line, WIRING)


def case_in(folder: Path, packets: str, settings: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cluster.yaml").write_text(NODE)
    (folder / "packets.txt").write_text(packets)
    if settings:
        (folder / "settings.yaml").write_text(settings)
    return folder


def test_a_case_names_file_and_line_of_what_it_cannot_read(tmp_path):
    folder = case_in(tmp_path, "# nothing\n\nnode n1 tcp 10.96.0.10 -> drop\n")
    with pytest.raises(InputError, match=r"packets\.txt:3: destination"):
        load_case(folder)


def test_settings_change_the_plan_the_wiring_and_the_words_for_the_agent(tmp_path):
    text = "attach: routed\nlocal: interface-prefix=np\nmasquerade-all: true\nnode-ports: [192.0.2.0/24]\n"
    case = load_case(case_in(tmp_path, "node n1 tcp 10.96.0.10:80 -> untouched  # no Service\n", text))
    assert case.settings.plan.local == InterfacePrefix("np")
    assert case.topology.attach is Attach.ROUTED
    assert case.settings.options == ("--local=interface-prefix=np", "--masquerade-all", "--node-ports=192.0.2.0/24")
    assert case.problems == ()
    assert case.oracles().decide(case.lines[0].probe).outcome == Untouched()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("attach: cable", "attach: 'cable' is not one of bridge, routed"),
        ("- a list", "write options as `key: value` lines"),
        ("colour: blue", "option .*colour.* is unknown"),
        ("a: b: c", "cannot be read"),
    ],
)
def test_settings_that_mean_nothing_are_refused(tmp_path, text, said):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        read_settings(path)


def test_the_node_a_plan_is_about_must_exist(tmp_path):
    with pytest.raises(InputError, match="node 'n7'"):
        load_case(case_in(tmp_path, "", "node: n7\n"))


def test_cases_are_found_below_a_folder_and_a_folder_without_one_is_refused(tmp_path):
    a, b = case_in(tmp_path / "some" / "a", ""), case_in(tmp_path / "some" / "b", "")
    assert find_cases([tmp_path, b]) == [a, b]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no case"):
        find_cases([tmp_path / "empty"])
