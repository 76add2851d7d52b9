"""Options that several commands share, and how they print."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from netplane.backends.registry import BACKENDS
from netplane.errors import InputError, Problem
from netplane.kernel.iptables_variants import AUTO, WISHES
from netplane.plan.network_settings import Mode, NetworkSettings
from netplane.plan.node import plan_node
from netplane.plan.plan import Plan
from netplane.plan.settings import Settings
from netplane.sources.manifests import Loaded, load
from netplane.sources.network_options import read_network_settings
from netplane.sources.options import settings_of

Command = TypeVar("Command", bound=Callable[..., Any])

SOURCE_HELP = "Directory (or file) of manifests."


def from_option(command: Command) -> Command:
    """`--from DIR`."""
    return click.option("--from", "source", type=click.Path(path_type=Path), required=True, help=SOURCE_HELP)(command)


def node_option(command: Command) -> Command:
    """`--node NAME`."""
    return click.option("--node", required=True, help="The Node whose packets this is about.")(command)


def backend_option(command: Command) -> Command:
    """`--backend NAME`."""
    choice = click.Choice(sorted(BACKENDS))
    return click.option("--backend", type=choice, default="nftables", show_default=True, help="How to spell it.")(
        command
    )


def output_option(command: Command) -> Command:
    """`--output text|json`."""
    return click.option(
        "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="JSON is the contract."
    )(command)


def variant_option(command: Command) -> Command:
    """`--iptables-variant auto|legacy|nf_tables`."""
    choice = click.Choice(WISHES)
    text = "Whose rules iptables writes (auto: the variant that this node uses)."
    return click.option("--iptables-variant", "variant", type=choice, default=AUTO, show_default=True, help=text)(
        command
    )


class _Network(click.ParamType):  # type: ignore[type-arg]
    """`none`, a mode, or a YAML file of settings -> NetworkSettings or None."""

    name = "value"

    def convert(self, value: Any, *_: object) -> NetworkSettings | None:
        return read_network_settings(value) if value != _NO_NETWORK else None


_NO_NETWORK = "none"


def network_option(command: Command) -> Command:
    """`--network none|MODE|FILE`; None for `none`."""
    text = f"How Pods reach those of other nodes: none, {', '.join(mode.value for mode in Mode)}, or a YAML file."
    return click.option(
        "--network", type=_Network(), default=_NO_NETWORK, show_default=True, metavar="VALUE", help=text
    )(command)


_SETTINGS = (
    (
        "--local",
        "How Pods are told from the rest: pod-range[=CIDR,...] (default: the Node's podCIDRs), bridge=NAME or"
        " interface-prefix=PREFIX.",
    ),
    ("--node-ports", "Addresses node ports answer on: primary (default), all, or CIDR,..."),
    ("--service-ranges", "The cluster's Service CIDRs; unallocated addresses in them are dropped."),
    ("--proxy-name", "Serve Services whose service-proxy-name label has this value (default: those without it)."),
)


_FLAGS = (
    ("--masquerade-all/--no-masquerade-all", "Masquerade all cluster IP traffic (default: only what needs it)."),
    (
        "--drop-invalid/--keep-invalid",
        "What to do with endpoints' packets that conntrack calls INVALID (default: drop).",
    ),
)
_SETTING_KEYS = tuple(name.split("/")[0].removeprefix("--") for name, _ in (*_SETTINGS, *_FLAGS))


def settings_options(command: Callable[..., None]) -> Callable[..., None]:
    """The settings of a plan, collected into one `settings` argument."""

    @functools.wraps(command)
    def collected(**arguments: Any) -> None:
        given = {key: arguments.pop(key.replace("-", "_")) for key in _SETTING_KEYS}
        settings = settings_of({key: value for key, value in given.items() if value is not None})
        command(**arguments, settings=settings)

    decorated: Callable[..., None] = collected
    for name, text in reversed(_FLAGS):
        decorated = click.option(name, default=None, help=text)(decorated)
    for name, text in reversed(_SETTINGS):
        decorated = click.option(name, metavar="VALUE", help=text)(decorated)
    return decorated


def plan_options(command: Callable[..., None]) -> Callable[..., None]:
    """What makes a plan: `--from`, `--node` and the settings."""
    return from_option(node_option(settings_options(command)))


@dataclass(frozen=True, slots=True)
class Planned:
    """What was loaded, and the plan made of it."""

    loaded: Loaded
    plan: Plan

    def problems(self) -> list[Problem]:
        """Everything that could not be used, of the manifests and of the plan."""
        of_services = (problem for entry in self.plan.sorted_services() for problem in entry.problems)
        return [*self.loaded.problems, *self.plan.problems, *of_services]


def planned(source: Path, node: str, settings: Settings) -> Planned:
    """The plan of a node from manifests. Problems go to standard error; the rest is used."""
    loaded = load(source)
    result = Planned(loaded, plan_node(loaded.snapshot, node, settings))
    say_problems(result.problems())
    return result


def known_node(plan: Plan) -> None:
    """Refuse a node that is not in the manifests, where an answer about it would mislead."""
    for problem in plan.problems:
        raise InputError(str(problem))


def say_problems(problems: Iterable[Problem]) -> None:
    """Problems on standard error, a line each."""
    for problem in problems:
        click.echo(f"problem: {problem}", err=True)


def say(output: str, value: object, text: str) -> None:
    """The result: `value` as JSON or `text` for people."""
    click.echo(json.dumps(value, indent=2) if output == "json" else text.rstrip("\n"))


def columns(rows: Iterable[tuple[str, ...]]) -> str:
    """Rows as aligned columns."""
    table = [*rows]
    if not table:
        return ""
    widths = [max(len(row[index]) for row in table) for index in range(len(table[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
    )
