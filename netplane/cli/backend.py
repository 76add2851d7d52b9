"""`netplane backend`: what a backend needs, renders and applies on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from netplane.backends.backend import Backend, Requirement
from netplane.backends.registry import BACKENDS, backend_named
from netplane.cli.options import (
    columns,
    output_option,
    plan_options,
    planned,
    say,
    variant_option,
)
from netplane.cli.values import pending_value
from netplane.errors import RequirementError
from netplane.kernel import iptables_readback, probe
from netplane.kernel.host import Host, HostOptions
from netplane.kernel.iptables_variants import AUTO
from netplane.plan.settings import Settings
from netplane.programs.program import Program

_NAME = click.argument("name", metavar="BACKEND", type=click.Choice(sorted(BACKENDS)))


@click.group("backend")
def group() -> None:
    """What a backend needs, renders and applies."""


@group.command("list")
@output_option
def list_(output: str) -> None:
    """List the backends and where each deviates from the plan."""
    rows = [("BACKEND", "DEVIATIONS")]
    rows += [(each.name, ", ".join(d.name for d in each.deviations) or "none") for each in BACKENDS.values()]
    value = [
        {
            "name": each.name,
            "deviations": [{"name": d.name, "promise": d.promise, "instead": d.instead} for d in each.deviations],
        }
        for each in BACKENDS.values()
    ]
    say(output, value, columns(rows))


@group.command()
@_NAME
@variant_option
@output_option
def check(name: str, variant: str, output: str) -> None:
    """Try on this host what BACKEND needs, in a scratch namespace. Exits 4 if something is missing."""
    results = missing(backend_named(name), variant)
    rows = [("ok" if not said else "MISSING", need.name, said or need.minimum) for need, said in results]
    value = [{"name": need.name, "minimum": need.minimum, "missing": said} for need, said in results]
    say(output, value, columns(rows))
    if any(said for _, said in results):
        raise click.exceptions.Exit(RequirementError.exit_code)


@group.command()
@_NAME
@plan_options
def render(name: str, source: Path, node: str, settings: Settings) -> None:
    """Print the program in the mechanism's own language; it changes nothing."""
    backend = backend_named(name)
    click.echo(backend.text(backend.compile(planned(source, node, settings).plan).program), nl=False)


@group.command()
@_NAME
@plan_options
@variant_option
@click.option("--verify", is_flag=True, help="Have python-iptables read the kernel too, and compare.")
@output_option
def diff(name: str, source: Path, node: str, settings: Settings, variant: str, verify: bool, output: str) -> None:
    """Show what `apply` would change in the kernel now. Exits 1 if anything.

    With --verify also what an independent reader of the kernel's tables sees otherwise (iptables, legacy variant).
    """
    backend = backend_named(name)
    program = backend.compile(planned(source, node, settings).plan).program
    _show_pending(program, variant, output, iptables_readback.verify(program.iptables, variant) if verify else [])


@group.command()
@_NAME
@plan_options
@variant_option
@output_option
def apply(name: str, source: Path, node: str, settings: Settings, variant: str, output: str) -> None:
    """Make the kernel of this namespace do what the manifests mean, once."""
    backend = backend_named(name)
    require(backend, variant)
    result = planned(source, node, settings)
    _apply(backend.compile(result.plan).program, variant, output, sweep=result.loaded.complete)


@group.command()
@_NAME
@click.option("--dry-run", is_flag=True, help="Only show what would go. Exits 1 if anything.")
@variant_option
@output_option
def clean(name: str, dry_run: bool, variant: str, output: str) -> None:
    """Remove everything netplane made for BACKEND, by reconciling towards nothing. Leaves all else alone.

    Established connections go on if something else on this node uses NAT; otherwise the kernel stops translating.
    """
    backend_named(name)
    if dry_run:
        _show_pending(Program(), variant, output)
    else:
        _apply(Program(), variant, output, sweep=True)


def missing(backend: Backend, variant: str = AUTO) -> list[tuple[Requirement, str]]:
    """Each requirement with what the host said against it, "" where it is met; `variant` is that of iptables."""
    return [(need, _said(need, variant)) for need in backend.needs]


def require(backend: Backend, variant: str = AUTO) -> None:
    """Raise RequirementError naming everything the backend needs and the host lacks."""
    said = [f"{need.name} (needs {need.minimum}): {said}" for need, said in missing(backend, variant) if said]
    if said:
        raise RequirementError(f"backend {backend.name}: " + "; ".join(said))


def _said(need: Requirement, variant: str) -> str:
    if need.program and probe.missing_programs((need.program,)):
        return f"the program {need.program} is not installed"
    said = probe.try_ruleset(need.script) if need.script else None
    if said is None and need.restore:
        said = probe.try_restore(need.restore, variant)
    return said or ""


def _apply(program: Program, variant: str, output: str, *, sweep: bool) -> None:
    with Host(HostOptions(variant)) as host:
        done = host.apply(program, reread=True, sweep=sweep)
    say(output, {"made": done.made, "swept": done.swept}, f"made {done.made}, swept {done.swept}")


def _show_pending(program: Program, variant: str, output: str, disagreements: Sequence[str] = ()) -> None:
    with Host(HostOptions(variant)) as host:
        pending = host.pending(program)
    values = [pending_value(each) for each in pending]
    if disagreements:
        values.append({"mechanism": "python-iptables", "made": 0, "swept": 0, "lines": [*disagreements]})
    lines = [line for value in values for line in value["lines"]]
    say(output, values, "\n".join(lines) or "nothing to do")
    if disagreements or any(each.made or each.swept for each in pending):
        raise click.exceptions.Exit(1)
