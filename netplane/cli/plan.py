"""`netplane plan`: what must happen to packets on a node."""

from __future__ import annotations

import difflib
from pathlib import Path

import click

from netplane.cli.options import from_option, node_option, output_option, plan_options, planned, say, settings_options
from netplane.cli.values import plan_value
from netplane.plan.settings import Settings
from netplane.plan.text import plan_text


@click.group("plan")
def group() -> None:
    """What must happen to packets on a node."""


@group.command()
@plan_options
@output_option
def show(source: Path, node: str, settings: Settings, output: str) -> None:
    """Show the whole decision table of a node."""
    plan = planned(source, node, settings).plan
    say(output, plan_value(plan), plan_text(plan))


@group.command()
@from_option
@click.option("--to", "other", type=click.Path(path_type=Path), required=True, help="The source to compare with.")
@node_option
@settings_options
@output_option
def diff(source: Path, other: Path, node: str, settings: Settings, output: str) -> None:
    """Show what changes for packets between two sources. Exits 1 if anything does."""
    before = plan_text(planned(source, node, settings).plan).splitlines()
    after = plan_text(planned(other, node, settings).plan).splitlines()
    lines = [*difflib.unified_diff(before, after, str(source), str(other), lineterm="")]
    say(output, {"differences": lines}, "\n".join(lines) or "no difference")
    if lines:
        raise click.exceptions.Exit(1)
