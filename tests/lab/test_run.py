"""Whole runs: a right case, a wrong one, the agent, and labs that stay up."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from cluster import manifests

from netplane.errors import InputError
from netplane.lab import hold, run
from netplane.lab.cases import load_case
from netplane.lab.run import RunOptions, run_case, run_cases, standing
from netplane.lab.trace import rules_for

pytestmark = pytest.mark.lab

GOOD = "node n1 tcp 10.96.0.10:80 -> web-1 masqueraded, web-2 masqueraded\n"
BAD = "node n1 tcp [fd00:10:96::a]:80 -> reject\n"


@pytest.fixture
def case(tmp_path) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "cluster.yaml").write_text(manifests())
    (folder / "packets.txt").write_text(GOOD + BAD)
    return folder


def processes_of(words: str) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in found if words in line]


def test_a_packet_that_differs_comes_with_the_reason_the_rules_and_the_command(case):
    (result,) = run_cases([case], ["nftables"], RunOptions())
    good, bad = result.packets
    assert good.agrees
    assert not bad.agrees
    assert not result.agrees
    assert bad.seen == good.expected
    assert bad.differences[0].startswith("the oracle says web-1 masqueraded")
    assert bad.again == f"netplane lab run {case} --backend nftables --packet 2"


def test_a_program_that_does_not_keep_the_plan_is_caught_with_the_rules_that_matched(case, monkeypatch):
    (case / "packets.txt").write_text(GOOD)

    @contextmanager
    def broken(lab, case, backend):
        with in_process(lab, case, backend):
            rule = ["nft", "insert", "rule", "ip", "netplane", "postrouting", "accept"]
            lab.nodes["n1"].run(lambda: subprocess.run(rule, check=True))
            yield

    in_process = run.in_process
    monkeypatch.setattr(run, "in_process", broken)
    (packet,) = run_case(load_case(case), "nftables", RunOptions())
    assert packet.seen == "web-1, web-2"
    assert any("ip netplane postrouting: rule accept" in rule for rule in packet.rules)


def test_only_the_lines_asked_for_are_run(case):
    (result,) = run_cases([case], ["nftables"], RunOptions(only=frozenset({1})))
    assert [packet.line for packet in result.packets] == [1]


def test_a_case_that_cannot_be_read_does_not_stop_the_others(case, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    results = list(run_cases([broken, case], ["nftables"], RunOptions()))
    assert "packets.txt" in results[0].error
    assert results[1].packets


def test_the_real_agent_does_the_same_and_is_gone_afterwards(case):
    (case / "packets.txt").write_text(GOOD)
    (result,) = run_cases([case], ["nftables"], RunOptions(agent=True))
    assert result.agrees, result
    assert processes_of(str(case)) == []


def test_an_agent_that_does_not_get_ready_says_why(case):
    (case / "settings.yaml").write_text("local: pod-range\n")
    made = load_case(case)
    (case / "settings.yaml").unlink()
    for manifest in case.glob("*.yaml"):
        manifest.unlink()
    with (
        standing(made) as lab,
        pytest.raises(Exception, match="holds no manifest"),
        run.by_agent(lab, made, "nftables"),
    ):
        pass


def test_what_was_sent_can_be_written_down(case, tmp_path):
    (case / "packets.txt").write_text(GOOD)
    list(run_cases([case], ["nftables"], RunOptions(pcap=tmp_path / "pcap")))
    written = {path.name: path.stat().st_size for path in (tmp_path / "pcap" / "shop-nftables").iterdir()}
    assert written["n1.pcap"] > 1000
    assert "shop.web-1.pcap" in written


def test_tracing_leaves_no_table_behind(case):
    made = load_case(case)
    with standing(made) as lab, run.in_process(lab, made, "nftables"):
        assert any("dnat" in rule for rule in rules_for(lab, made.lines[0].probe))
        words = ["nft", "list", "tables"]
        listed = lab.nodes["n1"].run(lambda: subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert listed.split() == ["table", "ip", "netplane", "table", "ip6", "netplane"]


@pytest.mark.parametrize("agent", [False, True], ids=["in process", "by the agent"])
def test_a_lab_stays_up_until_it_is_taken_down(case, tmp_path, agent):
    state = tmp_path / "state"
    lab = hold.up(case, "nftables", options=["--agent"] if agent else [], state=state)
    try:
        assert hold.find("", state) == lab
        words = hold.words_in(lab, "n1", ["nft", "list", "tables"])
        assert "table ip6 netplane" in subprocess.run(words, capture_output=True, text=True, check=True).stdout
        with pytest.raises(InputError, match="has no 'n9'"):
            hold.words_in(lab, "n9", [])
    finally:
        hold.down(lab)
    assert hold.held(state) == []
    assert not list(state.iterdir())
    assert processes_of(str(case)) == []


def test_a_lab_that_cannot_come_up_says_why(tmp_path):
    with pytest.raises(InputError, match="holds no manifest"):
        hold.up(tmp_path, "nftables", state=tmp_path / "state")


def test_the_state_of_a_lab_whose_holder_died_is_removed(tmp_path):
    hold.write(hold.Held("old", os.getpid(), "not its start time", "nftables", {}), tmp_path)
    assert hold.held(tmp_path) == []
    assert not list(tmp_path.iterdir())
