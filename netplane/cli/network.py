"""`netplane network`: how Pods of this node reach those of others, and what the kernel has for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from netplane.agent.network import Look, PodNetwork, Seen
from netplane.cli.options import network_option, output_option, plan_options, say, say_problems
from netplane.cli.values import pending_value
from netplane.errors import InputError
from netplane.kernel.host import RUN_DIRECTORY, STATE_DIRECTORY, HostOptions, Summary
from netplane.kernel.mechanism import Pending
from netplane.plan.network_settings import NetworkSettings
from netplane.plan.network_text import network_text
from netplane.plan.node import plan_node
from netplane.plan.settings import Settings
from netplane.sources.manifests import Loaded, load


@click.group("network")
def group() -> None:
    """The Pod network across nodes."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a command was asked about."""

    source: Path
    node: str
    settings: Settings
    network: NetworkSettings
    host: HostOptions


def _directories(command: Callable[..., None]) -> Callable[..., None]:
    """`--run-dir` and `--state-dir`."""
    path = click.Path(path_type=Path)
    command = click.option(
        "--state-dir", type=path, default=STATE_DIRECTORY, show_default=True, help="Folder of this node's keys."
    )(command)
    return click.option(
        "--run-dir", type=path, default=RUN_DIRECTORY, show_default=True, help="Folder of what runs besides the agent."
    )(command)


def _asking(command: Callable[..., None]) -> Callable[..., None]:
    """The options that make a network plan, collected into one `asked` argument."""

    def collected(**given: Any) -> None:
        host = HostOptions(run_directory=given.pop("run_dir"), state_directory=given.pop("state_dir"))
        source, node, settings, network = (given.pop(name) for name in ("source", "node", "settings", "network"))
        if network is None:
            raise InputError("--network: none has no plan; say which mode, or name a file of settings")
        command(asked=_Asked(source, node, settings, network, host), **given)

    collected.__name__, collected.__doc__ = command.__name__, command.__doc__
    return plan_options(network_option(_directories(collected)))


@group.command()
@output_option
@_asking
def plan(asked: _Asked, output: str) -> None:
    """Show how this node reaches every other, by its kernel's routes of this moment. Changes nothing."""
    with _opened(asked) as (network, loaded, seen):
        network.pending(seen)
        say_problems((*loaded.problems, *network.problems()))
        if network.plan is not None:
            say(output, network.value(), network_text(network.plan))


@group.command()
@output_option
@_asking
def diff(asked: _Asked, output: str) -> None:
    """Show what `apply` would change in the kernel now. Exits 1 if anything."""
    with _opened(asked) as (network, loaded, seen):
        pending = network.pending(seen)
        say_problems((*loaded.problems, *network.problems()))
        _show(pending, output)


@group.command()
@output_option
@_asking
def apply(asked: _Asked, output: str) -> None:
    """Make the kernel of this namespace do what the manifests mean, once."""
    with _opened(asked) as (network, loaded, seen):
        done = network.reconcile(seen, Look.KERNEL, sweep=loaded.complete)
        say_problems((*loaded.problems, *network.problems()))
        _say_done(done, output)


@group.command()
@click.option("--dry-run", is_flag=True, help="Only show what would go. Exits 1 if anything.")
@_directories
@output_option
def clean(dry_run: bool, run_dir: Path, state_dir: Path, output: str) -> None:
    """Remove everything netplane made for the Pod network, by reconciling towards nothing. Leaves all else alone."""
    host = HostOptions(run_directory=run_dir, state_directory=state_dir)
    with PodNetwork("", None, host) as network:
        nothing = Seen.nothing()
        if dry_run:
            _show(network.pending(nothing), output)
        else:
            _say_done(network.reconcile(nothing, Look.KERNEL, sweep=True), output)


@contextmanager
def _opened(asked: _Asked) -> Iterator[tuple[PodNetwork, Loaded, Seen]]:
    loaded = load(asked.source)
    with PodNetwork(asked.node, asked.network, asked.host) as network:
        snapshot = network.allocated(loaded.snapshot)
        yield network, loaded, Seen(snapshot, plan_node(snapshot, asked.node, asked.settings))


def _say_done(done: Summary, output: str) -> None:
    say(output, {"made": done.made, "swept": done.swept}, f"made {done.made}, swept {done.swept}")


def _show(pending: list[Pending], output: str) -> None:
    values = [pending_value(each) for each in pending]
    lines = [line for value in values for line in value["lines"]]
    say(output, values, "\n".join(lines) or "nothing to do")
    if any(each.made or each.swept for each in pending):
        raise click.exceptions.Exit(1)
