"""What the agent did, when, and what failed: the value behind `netplane agent status`. Pure: the clock is an argument.

The value is the contract of `--output json` (docs/cli.md): fields are only ever added. It is bounded however long the
agent runs and whatever happens to it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from netplane.agent.flows import Pressure
from netplane.agent.reconcile import Round
from netplane.errors import Problem, one_line
from netplane.kernel.mechanism import Drift

DRIFTS, PROBLEMS = 20, 100
_LINE = 200


@dataclass(frozen=True, slots=True)
class Repair:
    """What somebody else had changed, found and repaired. `by` is whom the kernel named, "" if nobody was."""

    at: datetime
    mechanism: str
    drift: Drift
    by: str


@dataclass(slots=True)
class _Failure:
    why: str
    since: datetime
    last: datetime
    times: int = 1


@dataclass(frozen=True, slots=True)
class _Done:
    at: datetime
    round: Round


@dataclass(frozen=True, slots=True)
class Facts:
    """What holds now, whatever happened before."""

    pid: int
    version: str
    node: str
    configured: str
    """The backend it was started with: what a restart goes back to."""
    running: str
    source: str
    complete: bool
    services: int
    frontends: int
    problems: tuple[Problem, ...]
    due: datetime
    memory: int
    """Bytes."""
    pressure: Pressure | None
    """None where the kernel tracks no connections."""
    troubles: tuple[str, ...]
    """What else is wrong, in one line each: with the table of connections, with removing stale flows."""
    cni: dict[str, Any] | None = None
    """The attachments of the CNI plugin; None if this agent does not serve it."""
    network: dict[str, Any] | None = None
    """The Pod network; None if this agent does not make it, or did not yet."""


@dataclass(slots=True)
class History:
    """What happened since the start, the last of each kind."""

    since: datetime
    _repairs: deque[Repair] = field(default_factory=lambda: deque(maxlen=DRIFTS))
    _repaired: int = 0
    _working: tuple[datetime, str] | None = None
    _last: _Done | None = None
    _change: _Done | None = None
    _whole: _Done | None = None
    _failure: _Failure | None = None
    _switch: dict[str, Any] | None = None

    @property
    def failure(self) -> str:
        """Why the last round failed, "" if it did not."""
        return self._failure.why if self._failure else ""

    @property
    def started(self) -> bool:
        """Whether any round succeeded."""
        return self._last is not None

    def busy_seconds(self, now: datetime) -> float:
        """For how long it has been at the work it does now; 0 at rest."""
        return (now - self._working[0]).total_seconds() if self._working else 0.0

    def begin(self, at: datetime, what: str) -> None:
        """A piece of work begins: "round", "switch to iptables"."""
        self._working = (at, what)

    def done(self, at: datetime, done: Round, *, whole: bool, by: str) -> list[Repair]:
        """A round succeeded. What it repaired of what somebody else, `by`, had changed."""
        self._working = self._failure = None
        self._last = _Done(at, done)
        if whole:
            self._whole = self._last
        if done.summary.changed:
            self._change = self._last
        repairs = [Repair(at, mechanism, drift, by) for mechanism, drift in done.summary.drift.items()]
        self._repairs.extend(repairs)
        self._repaired += len(repairs)
        return repairs

    def failed(self, at: datetime, why: str) -> None:
        """A round failed."""
        self._working = None
        if self._failure is None:
            self._failure = _Failure(why, at, at)
        else:
            self._failure.why, self._failure.last = why, at
            self._failure.times += 1

    def refused(self) -> None:
        """A piece of work came to nothing and left everything as it was."""
        self._working = None

    def switched(self, at: datetime, was: str, now: str, connections: dict[str, int] | None) -> None:
        """The backend was changed."""
        self._switch = {"at": timestamp(at), "from": was, "to": now, "connections": connections}

    def value(self, now: datetime, facts: Facts) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "state": self._state(),
            "pid": facts.pid,
            "version": facts.version,
            "now": timestamp(now),
            "since": timestamp(self.since),
            "node": facts.node,
            "backend": {"configured": facts.configured, "running": facts.running},
            "source": {"path": facts.source, "complete": facts.complete},
            "services": facts.services,
            "frontends": facts.frontends,
            "working": {"since": timestamp(self._working[0]), "at": self._working[1]} if self._working else None,
            "lastRound": _round_value(self._last),
            "lastChange": _round_value(self._change),
            "lastCompare": _round_value(self._whole),
            "next": timestamp(facts.due),
            "failure": self._failure_value(facts.due),
            "drift": {"times": self._repaired, "last": [_repair_value(each) for each in self._repairs]},
            "switch": self._switch,
            "problems": {"count": len(facts.problems), "first": _problem_values(facts.problems[:PROBLEMS])},
            "conntrack": _pressure_value(facts.pressure),
            "troubles": [one_line(each) for each in facts.troubles],
            "cni": facts.cni,
            "network": facts.network,
            "memoryBytes": facts.memory,
        }

    def _state(self) -> str:
        if self._failure is not None:
            return "failing"
        return "healthy" if self.started else "starting"

    def _failure_value(self, due: datetime) -> dict[str, Any] | None:
        if self._failure is None:
            return None
        return {
            "why": one_line(self._failure.why),
            "since": timestamp(self._failure.since),
            "last": timestamp(self._failure.last),
            "times": self._failure.times,
            "next": timestamp(due),
        }


def timestamp(at: datetime) -> str:
    """RFC 3339 in UTC: `2026-11-21T04:00:00.123Z`."""
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _round_value(done: _Done | None) -> dict[str, Any] | None:
    if done is None:
        return None
    return {
        "at": timestamp(done.at),
        "seconds": round(done.round.seconds, 4),
        "services": done.round.services,
        "made": done.round.summary.made,
        "swept": done.round.summary.swept,
    }


def _repair_value(each: Repair) -> dict[str, Any]:
    return {
        "at": timestamp(each.at),
        "mechanism": each.mechanism,
        "by": each.by,
        "count": each.drift.count,
        "named": [one_line(line, _LINE) for line in each.drift.named],
    }


def _problem_values(problems: Iterable[Problem]) -> list[dict[str, str]]:
    return [
        {"where": one_line(each.where, _LINE), "what": one_line(each.what, _LINE), "why": one_line(each.why)}
        for each in problems
    ]


def _pressure_value(found: Pressure | None) -> dict[str, int] | None:
    return {"entries": found.count, "limit": found.limit} if found else None
