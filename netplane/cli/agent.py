"""`netplane agent`: the root daemon of a node."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import click

from netplane.agent.control import ask
from netplane.agent.logs import log_to_stderr
from netplane.agent.loop import hold_reloads, run_agent
from netplane.agent.pace import Limits
from netplane.agent.pods import CniOptions
from netplane.agent.work import AgentOptions
from netplane.backends.registry import BACKENDS, backend_named
from netplane.cli.agent_text import status_text, switch_text
from netplane.cli.backend import require
from netplane.cli.options import (
    backend_option,
    from_option,
    network_option,
    node_option,
    output_option,
    say,
    settings_options,
    variant_option,
)
from netplane.kernel.host import RUN_DIRECTORY, STATE_DIRECTORY, HostOptions
from netplane.plan.network_settings import NetworkSettings
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
_STATUS_SECONDS, _SWITCH_SECONDS = 10.0, 600.0


@click.group("agent")
def group() -> None:
    """The root daemon of a node."""


_run_dir_option = click.option(
    "--run-dir",
    type=click.Path(path_type=Path),
    default=RUN_DIRECTORY,
    show_default=True,
    help="Folder of the agent's pid file and socket; only root may write there.",
)


_state_dir_option = click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    default=STATE_DIRECTORY,
    show_default=True,
    help="Folder of what must outlive the agent: which container has which address.",
)


@group.command()
@from_option
@node_option
@backend_option
@settings_options
@variant_option
@_run_dir_option
@click.option("--at-least", type=_SECONDS, default=0.05, show_default=True, help="Seconds between two rounds.")
@click.option("--at-most", type=_SECONDS, default=30.0, show_default=True, help="Seconds between full comparisons.")
@_state_dir_option
@network_option
@click.option("--cni/--no-cni", "serve_cni", default=True, help="Whether to serve the CNI plugin.", show_default=True)
@click.option("--log", "style", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--ready-fd", type=int, default=-1, hidden=True, help="Write a byte here when the kernel is up to date.")
def run(
    source: Path,
    node: str,
    backend: str,
    settings: Settings,
    variant: str,
    run_dir: Path,
    at_least: float,
    at_most: float,
    state_dir: Path,
    network: NetworkSettings | None,
    serve_cni: bool,
    style: str,
    ready_fd: int,
) -> None:
    """Keep this namespace's kernel doing what the manifests mean, until SIGTERM.

    Edit a manifest and only what changed is applied. SIGTERM leaves the data path working; `netplane backend clean`
    removes it. One agent runs in a network namespace; a second one is refused.
    """
    hold_reloads()
    log_to_stderr(style)
    chosen = backend_named(backend)
    limits = Limits(at_least=at_least, at_most=at_most)
    needed = partial(require, variant=variant)
    needed(chosen)
    cni = CniOptions(state_dir) if serve_cni else None
    host = HostOptions(variant, run_dir, state_dir)
    run_agent(AgentOptions(node, source, chosen, settings, needed, limits, run_dir, ready_fd, host, cni, network))


@group.command()
@_run_dir_option
@output_option
def status(run_dir: Path, output: str) -> None:
    """Ask the running agent what it did, what failed and since when. Exits 1 if it is not healthy now."""
    found = ask(run_dir, {"ask": "status"}, _STATUS_SECONDS)
    say(output, found, status_text(found))
    if found["state"] != "healthy":
        raise click.exceptions.Exit(1)


@group.command("backend")
@click.argument("name", metavar="BACKEND", type=click.Choice(sorted(BACKENDS)))
@_run_dir_option
@output_option
def backend_(name: str, run_dir: Path, output: str) -> None:
    """Switch the running agent to BACKEND. Exits 1 if a connection broke.

    All that BACKEND needs is made before anything of the present one is removed, so new connections work throughout
    and established ones go on. If it cannot serve, the present one stays. A restart goes back to what the agent was
    started with.
    """
    found = ask(run_dir, {"ask": "backend", "backend": name}, _SWITCH_SECONDS)
    say(output, found, switch_text(found))
    if (found["connections"] or {}).get("broken"):
        raise click.exceptions.Exit(1)
