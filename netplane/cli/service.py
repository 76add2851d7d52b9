"""`netplane service`: the rows of a Service, and why."""

from __future__ import annotations

from pathlib import Path

import click

from netplane.cli.options import (
    columns,
    output_option,
    plan_options,
    planned,
    say,
)
from netplane.cli.values import service_value
from netplane.errors import InputError
from netplane.model.service import ServiceId
from netplane.plan.plan import Plan, ServicePlan
from netplane.plan.settings import Settings
from netplane.plan.text import service_lines


@click.group("service")
def group() -> None:
    """The rows of a Service, and why."""


@group.command("list")
@plan_options
@output_option
def list_(source: Path, node: str, settings: Settings, output: str) -> None:
    """List every Service with its frontends and how many endpoints this node uses."""
    plan = planned(source, node, settings).plan
    rows: list[tuple[str, ...]] = [("SERVICE", "FRONTEND", "KIND", "SERVING", "HERE")]
    for entry in plan.sorted_services():
        rows.extend(_rows(entry, plan.node.name))
    say(output, [service_value(entry) for entry in plan.sorted_services()], columns(rows))


def _rows(entry: ServicePlan, node: str) -> list[tuple[str, ...]]:
    if not any(port.rows for port in entry.ports):
        why = entry.notes[0].said if entry.notes else "not served"
        return [(str(entry.service), "-", why, "-", "-")]
    return [
        (
            str(entry.service),
            str(row.frontend),
            row.kind.value,
            str(len(port.serving)),
            str(sum(endpoint.node == node for endpoint in port.serving)),
        )
        for port in entry.ports
        for row in port.rows
    ]


@group.command()
@click.argument("name")
@plan_options
@output_option
def explain(name: str, source: Path, node: str, settings: Settings, output: str) -> None:
    """Explain Service NAME (namespace/name, or name alone): where packets go, from whom, and why.

    Shows the rows of the decision table, the endpoints with their Pods and nodes, why others are not used, and what
    is wrong with the Service.
    """
    plan = planned(source, node, settings).plan
    entry = _find(plan, name)
    lines = [*service_lines(entry), *_endpoint_lines(entry, node)]
    lines += [f"  problem {problem}" for problem in entry.problems]
    say(output, service_value(entry), "\n".join(lines))


def _endpoint_lines(entry: ServicePlan, node: str) -> list[str]:
    rows = [
        (f"  {endpoint}/{port.id.protocol}", endpoint.pod or "-", _where(endpoint.node, node), endpoint.state.value)
        for port in entry.ports
        for endpoint in port.serving
    ]
    return ["endpoints that serve", columns(rows)] if rows else []


def _where(endpoint_node: str, node: str) -> str:
    return f"{endpoint_node} (this node)" if endpoint_node == node else endpoint_node or "unknown node"


def _find(plan: Plan, name: str) -> ServicePlan:
    namespace, slash, bare = name.partition("/")
    if slash:
        matching = [plan.services[each] for each in (ServiceId(namespace, bare),) if each in plan.services]
    else:
        matching = [entry for entry in plan.sorted_services() if entry.service.name == name]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise InputError(f"Service {name!r} is in several namespaces: " + ", ".join(str(e.service) for e in matching))
    raise InputError(f"there is no Service {name!r} in the source; `netplane service list` shows them")
