"""What the agent remembers of what it did: see netplane/agent/status.py. The clock is given."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from netplane.agent.flows import Cleaned, Pressure
from netplane.agent.reconcile import Round
from netplane.agent.status import DRIFTS, PROBLEMS, Facts, History, timestamp
from netplane.cli.agent_text import status_text, switch_text
from netplane.errors import Problem
from netplane.kernel.host import Summary
from netplane.kernel.mechanism import DRIFT_NAMED, Drift

START = datetime(2026, 11, 21, 4, 0, tzinfo=UTC)
FACTS = Facts(
    pid=4711,
    version="0.1.0",
    node="n1",
    configured="nftables",
    running="nftables",
    source="/manifests",
    complete=True,
    services=2,
    frontends=7,
    problems=(),
    due=START + timedelta(seconds=30),
    memory=32 << 20,
    pressure=Pressure(10, 1000),
    troubles=(),
)
QUIET = Round(Summary(0, 0), 0, 0.25, Cleaned())
BUSY = Round(Summary(4, 2), 1, 0.25, Cleaned())


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def drifted(count: int = 1, *named: str) -> Round:
    return Round(
        Summary(count, 0, {"nftables": Drift(count, named or ("+ add table ip netplane",))}), 0, 0.1, Cleaned()
    )


@pytest.fixture
def history() -> History:
    return History(START)


def value(history: History, seconds: float = 0.0, **facts: object) -> dict:
    found = history.value(at(seconds), replace(FACTS, **facts))
    assert json.loads(json.dumps(found)) == found
    return found


def test_before_the_first_round_it_is_starting(history):
    history.begin(at(1), "round")
    found = value(history, 2)
    assert found["state"] == "starting"
    assert found["working"] == {"at": "round", "since": "2026-11-21T04:00:01.000Z"}
    assert found["lastRound"] is found["failure"] is found["switch"] is None
    assert history.busy_seconds(at(4)) == 3


def test_rounds_are_told_by_what_they_did(history):
    history.done(at(1), BUSY, whole=True, by="")
    history.done(at(2), BUSY, whole=False, by="")
    history.done(at(3), QUIET, whole=False, by="")
    found = value(history)
    assert found["state"] == "healthy"
    assert [found[name]["at"] for name in ("lastCompare", "lastChange", "lastRound")] == [
        "2026-11-21T04:00:01.000Z",
        "2026-11-21T04:00:02.000Z",
        "2026-11-21T04:00:03.000Z",
    ]
    assert found["lastChange"] == {
        "at": "2026-11-21T04:00:02.000Z",
        "seconds": 0.25,
        "services": 1,
        "made": 4,
        "swept": 2,
    }
    assert history.busy_seconds(at(4)) == 0


def test_a_failure_is_told_with_its_beginning_its_count_and_what_comes_next(history):
    history.done(at(0), BUSY, whole=True, by="")
    for second in (1, 2, 4):
        history.begin(at(second), "round")
        history.failed(at(second), f"reason {second}")
    found = value(history, 5, due=at(8))
    assert found["state"] == "failing"
    assert found["failure"] == {
        "why": "reason 4",
        "since": "2026-11-21T04:00:01.000Z",
        "last": "2026-11-21T04:00:04.000Z",
        "times": 3,
        "next": "2026-11-21T04:00:08.000Z",
    }
    assert history.failure == "reason 4"
    history.done(at(8), QUIET, whole=True, by="")
    assert value(history)["failure"] is None
    assert history.failure == ""


def test_drift_is_told_with_who_did_it(history):
    history.done(at(0), BUSY, whole=True, by="")
    (repair,) = history.done(at(1), drifted(2, "+ a", "- b"), whole=True, by="nft[7]")
    assert (repair.mechanism, repair.drift.count, repair.by) == ("nftables", 2, "nft[7]")
    assert value(history)["drift"] == {
        "times": 1,
        "last": [
            {
                "at": "2026-11-21T04:00:01.000Z",
                "mechanism": "nftables",
                "by": "nft[7]",
                "count": 2,
                "named": ["+ a", "- b"],
            }
        ],
    }


def test_the_value_is_bounded_whatever_happens(history):
    for second in range(1000):
        history.done(at(second), drifted(10**6, *("x" * 10_000 for _ in range(DRIFT_NAMED))), whole=True, by="nft[7]")
        history.failed(at(second), "y" * 10_000)
    problems = tuple(Problem("z" * 10_000, "z" * 10_000, "z" * 10_000) for _ in range(10_000))
    found = value(history, problems=problems)
    assert found["drift"]["times"] == 1000
    assert len(found["drift"]["last"]) == DRIFTS
    assert found["problems"]["count"] == 10_000
    assert len(found["problems"]["first"]) == PROBLEMS
    assert len(json.dumps(found)) < 300_000


def test_times_are_rfc_3339_in_utc():
    assert timestamp(START) == "2026-11-21T04:00:00.000Z"


# --- as text --------------------------------------------------------------------------------------------------------


def test_the_text_of_a_quiet_agent(history):
    history.done(at(0), BUSY, whole=True, by="")
    assert status_text(value(history, 90)).splitlines() == [
        "state         healthy",
        "process       pid 4711, netplane 0.1.0, since 2026-11-21T04:00:00.000Z (1 min ago)",
        "backend       nftables on node n1",
        "source        /manifests: 2 Services, 7 frontends",
        "last change   2026-11-21T04:00:00.000Z (1 min ago): made 4, swept 2 in 0.250 s",
        "last compare  2026-11-21T04:00:00.000Z (1 min ago): made 4, swept 2 in 0.250 s",
        "conntrack     10 of 1000 entries (1 %)",
        "memory        32 MiB",
    ]


def test_the_text_of_one_with_worries(history):
    history.done(at(0), BUSY, whole=True, by="")
    history.done(at(1), drifted(3, "+ a", "+ b"), whole=True, by="")
    history.begin(at(2), "round")
    history.failed(at(2), "nftables: read: no")
    problem = Problem("shop.yaml#3", "Service shop/web", "is odd")
    text = status_text(
        value(
            history,
            3,
            running="iptables",
            complete=False,
            problems=(problem,),
            pressure=None,
            troubles=("it is full",),
            due=at(4),
        )
    )
    for said in (
        "state         failing: the last good state stays",
        "iptables (switched; a restart goes back to nftables) on node n1",
        "not all of it was ever read, so nothing is swept",
        "failing: nftables: read: no",
        "  since 2026-11-21T04:00:02.000Z (1 s ago), tried 1 times, next 2026-11-21T04:00:04.000Z",
        "trouble: it is full",
        "drift: repaired 1 times; last:",
        "  2026-11-21T04:00:01.000Z nftables: 3 differences, by unknown",
        "    + b",
        "problems: 1; netplane cluster check lists them; the first:",
        "  shop.yaml#3: Service shop/web: is odd",
    ):
        assert said in text
    assert "conntrack" not in text


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ({"changed": False, "connections": None}, "iptables runs already; nothing was changed"),
        (
            {"changed": True, "connections": {"kept": 37, "broken": 0, "ended": 0}},
            "switched from nftables to iptables\nconnections: 37 kept, 0 broken",
        ),
        (
            {"changed": True, "connections": {"kept": 30, "broken": 5, "ended": 2}},
            "switched from nftables to iptables\nconnections: 30 kept, 5 broken, 2 ended by themselves",
        ),
        (
            {"changed": True, "connections": None},
            "switched from nftables to iptables\nconnections: the kernel does not list them",
        ),
    ],
)
def test_the_text_of_a_switch(found, text):
    assert switch_text({"from": "nftables", "to": "iptables"} | found) == text
