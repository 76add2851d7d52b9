"""Plans and answers as JSON values: the contract of `--output json`. Fields are only ever added."""

from __future__ import annotations

from typing import Any

from netplane.errors import Problem
from netplane.kernel.mechanism import Pending
from netplane.plan.oracle import Decision, Deliver, Untouched
from netplane.plan.plan import Drop, Forward, FrontendRow, Origin, Plan, ServicePlan, Verdict


def plan_value(plan: Plan) -> dict[str, Any]:
    """A whole plan."""
    return {
        "node": plan.node.name,
        "zone": plan.node.zone,
        "addresses": [str(address) for address in plan.node.addresses],
        "families": [str(family) for family in sorted(plan.families)],
        "services": [service_value(entry) for entry in plan.sorted_services()],
        "problems": [problem_value(problem) for problem in plan.problems],
    }


def service_value(entry: ServicePlan) -> dict[str, Any]:
    """One Service of a plan."""
    return {
        "namespace": entry.service.namespace,
        "name": entry.service.name,
        "rows": [row_value(row) for row in entry.rows()],
        "notes": [str(note) for note in (*entry.notes, *(note for port in entry.ports for note in port.notes))],
        "problems": [problem_value(problem) for problem in entry.problems],
        "healthChecks": [
            {"family": str(check.family), "port": check.port, "localReady": check.local_ready} for check in entry.health
        ],
    }


def row_value(row: FrontendRow) -> dict[str, Any]:
    """One row of the decision table."""
    return {
        "frontend": str(row.frontend),
        "kind": row.kind.value,
        "port": row.service_port.port,
        "allowed": [str(network) for network in row.allowed],
        "verdicts": {origin.value: verdict_value(row.verdicts[origin]) for origin in Origin},
    }


def verdict_value(verdict: Verdict) -> dict[str, Any]:
    """One cell of the decision table."""
    match verdict:
        case Forward(pool, masquerade):
            seconds = int(pool.affinity.timeout.total_seconds()) if pool.affinity else None
            return {
                "verdict": "forward",
                "masquerade": masquerade,
                "stickySeconds": seconds,
                "endpoints": [
                    {"address": str(each), "node": each.node, "pod": each.pod, "state": each.state.value}
                    for each in pool.endpoints
                ],
            }
        case Drop():
            return {"verdict": "drop"}
        case _:
            return {"verdict": "reject"}


def decision_value(decision: Decision) -> dict[str, Any]:
    """An answer of the oracle."""
    outcome = decision.outcome
    value: dict[str, Any] = {"outcome": type(outcome).__name__.lower(), "reason": decision.reason}
    if isinstance(outcome, Deliver):
        value["sticky"] = outcome.sticky
        value["to"] = [
            {"address": str(each.endpoint), "pod": each.endpoint.pod, "masqueraded": each.masqueraded}
            for each in outcome.to
        ]
    if not isinstance(outcome, Untouched) and decision.row:
        value["service"] = str(decision.row.service_port)
    return value


def problem_value(problem: Problem) -> dict[str, str]:
    """A problem of the input."""
    return {"where": problem.where, "what": problem.what, "why": problem.why}


def pending_value(pending: Pending) -> dict[str, Any]:
    """What a mechanism would do."""
    return {"mechanism": pending.mechanism, "made": pending.made, "swept": pending.swept, "lines": pending.lines()}
