"""One round: snapshot -> plan -> program -> kernel."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from netplane.agent.flows import Cleaned, Flows
from netplane.backends.backend import Backend, Compiled
from netplane.errors import Problem
from netplane.kernel.host import Host, Summary
from netplane.model.service import ServiceId
from netplane.model.snapshot import Snapshot
from netplane.model.table import changes
from netplane.plan.node import plan_node
from netplane.plan.plan import HealthCheck, Plan, ServicePlan
from netplane.plan.settings import Settings
from netplane.programs.program import Program


@dataclass(frozen=True, slots=True)
class Round:
    """What a successful round did."""

    summary: Summary
    services: int
    """How many Services were planned anew."""
    seconds: float
    flows: Cleaned
    """The established flows that were ended or freed to go elsewhere."""


class Reconciler:
    """Keeps what the last round derived, so that the next one costs what has changed."""

    def __init__(self, node: str, settings: Settings, backend: Backend, host: Host) -> None:
        self._node, self._settings, self._backend, self._host = node, settings, backend, host
        self._compiled: Compiled | None = None
        self.flows = Flows()
        self._problems: dict[str, tuple[Problem, ...]] = {}
        self._health: dict[ServiceId, tuple[HealthCheck, ...]] = {}
        self.frontends = 0
        """How many there are, as of the last successful round."""

    def reconcile(self, snapshot: Snapshot, *, whole: bool, sweep: bool) -> Round:
        """Make the kernel do what `snapshot` means; with `whole`, by comparing everything with the kernel.

        Without `sweep` nothing is removed: the source is not sure that it knows everything.

        Raises NetplaneError. Then the kernel keeps its last good state, as far as the mechanism is atomic, and the
        next round converges.
        """
        started = time.monotonic()
        before = self._compiled
        plan = plan_node(snapshot, self._node, self._settings, before.plan if before else None)
        compiled = self._backend.compile(plan, before)
        try:
            summary = self._host.apply(compiled.program, reread=whole, sweep=sweep)
        except BaseException:
            self.flows.forget()
            raise
        self._compiled = compiled
        planned = self._note(before.plan if before else None, plan)
        flows = self._follow(plan, summary, sweep=sweep, whole=whole)
        return Round(summary, planned, time.monotonic() - started, flows)

    def _follow(self, plan: Plan, summary: Summary, *, sweep: bool, whole: bool) -> Cleaned:
        if whole:
            self.flows.look_at_table()
        if summary.drift or not sweep:
            self.flows.forget()  # other rules than ours were at work, or endpoints may serve that nobody told us of
        return self.flows.follow(plan) if sweep else Cleaned()

    def problems(self) -> tuple[Problem, ...]:
        """What could not be planned, by Service, as of the last successful round."""
        return tuple(problem for _, each in sorted(self._problems.items()) for problem in each)

    @property
    def plan(self) -> Plan | None:
        """The plan of the last successful round."""
        return self._compiled.plan if self._compiled else None

    @property
    def program(self) -> Program:
        """The program of the last successful round, the empty one before."""
        return self._compiled.program if self._compiled else Program()

    def health_checks(self) -> list[HealthCheck]:
        """The health check node ports of the last successful round, by Service."""
        return [check for _, checks in sorted(self._health.items()) for check in checks]

    def _note(self, before: Plan | None, plan: Plan) -> int:
        """Keep what the agent tells others: problems and health checks. Returns how many Services changed."""
        planned: Mapping[ServiceId, ServicePlan] = before.services if before else {}
        changed, removed = changes(planned, plan.services)
        self.frontends -= _rows(planned[each] for each in (*removed, *changed) if each in planned)
        self.frontends += _rows(plan.services[each] for each in changed)
        for service in (*removed, *changed):
            self._problems.pop(str(service), None)
            self._health.pop(service, None)
        for service in changed:
            entry = plan.services[service]
            if entry.problems:
                self._problems[str(service)] = entry.problems
            if entry.health:
                self._health[service] = entry.health
        self._problems[""] = plan.problems
        return len(changed)


def _rows(entries: Iterable[ServicePlan]) -> int:
    return sum(len(port.rows) for entry in entries for port in entry.ports)
