"""A plan as text, for people and for `plan.txt` of a case. Equal plans give equal text."""

from __future__ import annotations

from collections.abc import Iterator

from netplane.plan.plan import Drop, Forward, FrontendRow, Origin, Plan, PortPlan, Reject, ServicePlan, Verdict
from netplane.plan.settings import Bridge, InterfacePrefix, NodePortScope, PodRange, Settings


def plan_text(plan: Plan) -> str:
    """The whole plan: node and settings, then every Service by namespace and name."""
    lines = [f"node {plan.node.name}" + (f" in zone {plan.node.zone}" if plan.node.zone else "")]
    lines.append("  addresses " + (", ".join(map(str, plan.node.addresses)) or "unknown"))
    lines.extend(f"  {line}" for line in settings_lines(plan.settings))
    for service in plan.sorted_services():
        lines.extend(("", *service_lines(service)))
    problems = [*plan.problems, *(problem for entry in plan.sorted_services() for problem in entry.problems)]
    if problems:
        lines.extend(("", "problems", *(f"  {problem}" for problem in problems)))
    return "\n".join(lines) + "\n"


def settings_lines(settings: Settings) -> Iterator[str]:
    """The settings that differ between clusters, one per line."""
    match settings.local:
        case PodRange(networks):
            yield "a pod is whoever sends from " + ", ".join(map(str, networks))
        case Bridge(name):
            yield f"a pod is whoever arrives over bridge {name}"
        case InterfacePrefix(prefix):
            yield f"a pod is whoever arrives over an interface {prefix}*"
    match settings.node_ports:
        case NodePortScope.PRIMARY:
            yield "node ports on the primary addresses"
        case NodePortScope.ALL:
            yield "node ports on every address except loopback"
        case networks:
            yield "node ports on addresses in " + ", ".join(map(str, networks))
    if settings.masquerade_all:
        yield "all cluster IP traffic is masqueraded"
    if settings.service_ranges:
        yield "service ranges " + ", ".join(map(str, settings.service_ranges))
    if not settings.drop_invalid:
        yield "INVALID packets of endpoints are left alone"


def service_lines(service: ServicePlan) -> Iterator[str]:
    """One Service: its rows, then what is worth knowing about its endpoints."""
    yield f"service {service.service}"
    yield from (f"  note {note}" for note in service.notes)
    for port in service.ports:
        yield from _port_lines(port)
    for check in service.health:
        yield f"  health check port {check.port} ({check.family}): {check.local_ready} local endpoints ready"


def _port_lines(port: PortPlan) -> Iterator[str]:
    for row in port.rows:
        yield from row_lines(row)
    yield from (f"    note {note}" for note in port.notes)


def row_lines(row: FrontendRow) -> Iterator[str]:
    """One row: the frontend, then a line per distinct verdict and the origins it is for."""
    name = f' "{row.service_port.port}"' if row.service_port.port else ""
    yield f"  {row.frontend} {row.kind.value}{name}"
    if row.allowed:
        yield "    only from " + ", ".join(map(str, row.allowed))
    by_verdict: dict[Verdict, list[Origin]] = {}
    for origin in Origin:
        by_verdict.setdefault(row.verdicts[origin], []).append(origin)
    for verdict, origins in by_verdict.items():
        who = "any" if len(origins) == len(Origin) else ", ".join(origin.value for origin in origins)
        yield f"    {who}: {verdict_text(verdict)}"


def verdict_text(verdict: Verdict) -> str:
    """`forward to 10.0.1.5:8080, 10.0.2.6:8080 masqueraded, sticky 3h`, `drop` or `reject`."""
    match verdict:
        case Forward(pool, masquerade):
            to = ", ".join(map(str, pool.endpoints))
            sticky = f", sticky {int(pool.affinity.timeout.total_seconds())}s" if pool.affinity else ""
            return f"forward to {to}{' masqueraded' if masquerade else ''}{sticky}"
        case Drop():
            return "drop"
        case Reject():
            return "reject"
