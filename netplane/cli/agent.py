"""`netplane agent`: the root daemon of a node."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from netplane.agent.logs import log_to_stderr
from netplane.agent.loop import AgentOptions, run_agent
from netplane.agent.pace import Limits
from netplane.backends.registry import backend_named
from netplane.cli.backend import require
from netplane.cli.options import backend_option, from_option, node_option, settings_options
from netplane.plan.settings import Settings


class _Seconds(click.FloatRange):
    """A number of seconds from a millisecond to a day. NaN is in no range, although it compares as if it were."""

    def __init__(self) -> None:
        super().__init__(min=0.001, max=86400)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds: float = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value} is not a number of seconds.", param, ctx)
        return seconds


_SECONDS = _Seconds()


@click.group("agent")
def group() -> None:
    """The root daemon of a node."""


@group.command()
@from_option
@node_option
@backend_option
@settings_options
@click.option("--at-least", type=_SECONDS, default=0.05, show_default=True, help="Seconds between two rounds.")
@click.option("--at-most", type=_SECONDS, default=30.0, show_default=True, help="Seconds between full comparisons.")
@click.option("--log", "style", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--ready-fd", type=int, default=-1, hidden=True, help="Write a byte here when the kernel is up to date.")
def run(
    source: Path,
    node: str,
    backend: str,
    settings: Settings,
    at_least: float,
    at_most: float,
    style: str,
    ready_fd: int,
) -> None:
    """Keep this namespace's kernel doing what the manifests mean, until SIGTERM.

    Edit a manifest and only what changed is applied. SIGTERM leaves the data path working; `netplane backend clean`
    removes it.
    """
    log_to_stderr(style)
    chosen = backend_named(backend)
    require(chosen)
    run_agent(AgentOptions(node, source, chosen, settings, Limits(at_least=at_least, at_most=at_most), ready_fd))
