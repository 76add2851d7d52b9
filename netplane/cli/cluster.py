"""`netplane cluster`: the manifests themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from netplane.cli.options import columns, output_option, say, say_problems
from netplane.cli.values import problem_value
from netplane.errors import InputError
from netplane.model.snapshot import Snapshot
from netplane.plan.node import rivals
from netplane.plan.strangers import strangers
from netplane.sources.manifests import load

_SOURCE = click.argument("source", type=click.Path(path_type=Path))


@click.group("cluster")
def group() -> None:
    """The manifests: check, show, compare."""


@group.command()
@_SOURCE
@output_option
def check(source: Path, output: str) -> None:
    """List what in SOURCE cannot be used, by file and field, and which Services want the same address.

    Exits 3 if there is anything. Also notes endpoints that are in no Node's pod range: they are used, and more often
    than not mistyped.
    """
    loaded = load(source)
    counts = _counts(loaded.snapshot)
    problems = [*loaded.problems, *rivals(loaded.snapshot)]
    notes = [*strangers(loaded.snapshot)]
    lines = [*map(str, problems), *(f"note: {note}" for note in notes)]
    found = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    value = {
        "problems": [problem_value(problem) for problem in problems],
        "notes": [problem_value(note) for note in notes],
        "objects": counts,
    }
    say(output, value, "\n".join([*lines, f"{len(problems)} problems; {found or 'no objects'}"]))
    if problems:
        raise click.exceptions.Exit(InputError.exit_code)


@group.command()
@_SOURCE
@output_option
def show(source: Path, output: str) -> None:
    """Show the Services of SOURCE with their addresses and endpoints, as they are understood."""
    loaded = load(source)
    say_problems(loaded.problems)
    rows = [("SERVICE", "TYPE", "ADDRESSES", "PORTS", "ENDPOINTS")]
    values = []
    for service in (loaded.snapshot.services[each] for each in sorted(loaded.snapshot.services)):
        slices = loaded.snapshot.slices.get(service.id, ())
        endpoints = sorted({(each.state.value, str(each.address)) for part in slices for each in part.endpoints})
        states = Counter(state for state, _ in endpoints)
        ports = [f"{port.port}/{port.protocol}" for port in service.ports]
        addresses = [str(address) for address in service.cluster_ips]
        rows.append(
            (
                str(service.id),
                service.type.value,
                ",".join(addresses) or "none",
                ",".join(ports) or "-",
                ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none",
            )
        )
        values.append(
            {
                "namespace": service.id.namespace,
                "name": service.id.name,
                "type": service.type.value,
                "clusterIPs": addresses,
                "ports": ports,
                "endpoints": [{"address": address, "state": state} for state, address in endpoints],
            }
        )
    say(output, {"services": values, "objects": _counts(loaded.snapshot)}, columns(rows))


@group.command()
@_SOURCE
@click.argument("other", type=click.Path(path_type=Path))
@output_option
def diff(source: Path, other: Path, output: str) -> None:
    """Compare two sources object by object. Exits 1 if they differ."""
    before, after = load(source).snapshot, load(other).snapshot
    lines = [
        *_differences("Service", before.services, after.services),
        *_differences("endpoints of", before.slices, after.slices),
        *_differences("Pod", before.pods, after.pods),
        *_differences("Node", before.nodes, after.nodes),
        *_differences("Namespace", before.namespaces, after.namespaces),
    ]
    say(output, {"differences": lines}, "\n".join(lines) or "no difference")
    if lines:
        raise click.exceptions.Exit(1)


def _differences(kind: str, before: Mapping[Any, object], after: Mapping[Any, object]) -> list[str]:
    return [
        f"{'+' if key not in before else '-' if key not in after else '~'} {kind} {key}"
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key)
    ]


def _counts(snapshot: Snapshot) -> dict[str, int]:
    return {
        "Services": len(snapshot.services),
        "EndpointSlices": sum(len(slices) for slices in snapshot.slices.values()),
        "Pods": len(snapshot.pods),
        "Nodes": len(snapshot.nodes),
        "Namespaces": len(snapshot.namespaces),
    }
