"""`netplane lab`: namespaces posing as a cluster, and real packets between them."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from netplane.backends.registry import BACKENDS
from netplane.cli.matrix import print_matrix
from netplane.cli.options import backend_option, columns, output_option, say
from netplane.errors import InputError, RequirementError
from netplane.kernel import probe

if TYPE_CHECKING:
    from netplane.lab.hold import Held
    from netplane.lab.run import CaseResult
    from netplane.lab.switching import Switched

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_ID = click.option("--id", "id_", default="", help="Which lab, if there are several.")
_CNI = click.option("--cni", is_flag=True, help="Let the CNI plugin attach the Pods; with --agent, launcher and agent.")
_ATTACH = click.option(
    "--attach",
    type=click.Choice(["bridge", "routed"]),
    default="bridge",
    show_default=True,
    help="How Pods are attached, where a case does not say.",
)
_NETWORK = click.option(
    "--network",
    default="none",
    show_default=True,
    metavar="MODE|FILE",
    help="Let this Pod network be between nodes, where a case does not say. Without: routes of the lab's own.",
)
_TWO_SUBNETS = click.option(
    "--two-subnets", is_flag=True, help="With --network: every second node is in another subnet, behind a router."
)
_AGENT = click.option("--agent", is_flag=True, help="Let the real agent apply the program, one process per node.")


@click.group("lab")
def group() -> None:
    """Namespaces posing as a cluster, and real packets."""


@group.command(short_help="Send the packets of cases for real and compare with the plan.")
@click.argument("cases", nargs=-1, required=True, type=_FOLDER)
@click.option(
    "--backend", "backends", multiple=True, type=click.Choice(sorted(BACKENDS)), help="Only this one; may be repeated."
)
@_AGENT
@_CNI
@_ATTACH
@_NETWORK
@_TWO_SUBNETS
@click.option("--packet", "packets", multiple=True, type=int, help="Only this line of packets.txt; may be repeated.")
@click.option("--pcap", type=click.Path(file_okay=False, path_type=Path), help="Write what was sent to this folder.")
@click.option("--keep", is_flag=True, help="Leave a lab of the last case up, for `netplane lab shell`.")
@output_option
def run(
    cases: tuple[Path, ...],
    backends: tuple[str, ...],
    agent: bool,
    cni: bool,
    attach: str,
    network: str,
    two_subnets: bool,
    packets: tuple[int, ...],
    pcap: Path | None,
    keep: bool,
    output: str,
) -> None:
    """Send the packets of CASES (folders) for real and compare with the plan. Exits 1 if anything differs.

    docs/cases.md says how to write one.
    """
    from netplane.lab.case_settings import network_of
    from netplane.lab.cases import find_cases
    from netplane.lab.run import RunOptions, run_cases
    from netplane.lab.topology import Attach

    _require_root()
    folders = find_cases([*cases])
    options = RunOptions(
        agent=agent,
        plugin=cni,
        attach=Attach(attach),
        network=network_of(network, two_subnets=two_subnets),
        network_words=f"--network {network}{' --two-subnets' if two_subnets else ''}",
        only=frozenset(packets),
        pcap=pcap,
        tell=_tell if len(folders) == 1 else _tell_tty,
    )
    results = []
    for result in run_cases(folders, backends or sorted(BACKENDS), options):
        results.append(result)
        _tell("")
        click.echo(_progress(result), err=True)
    if output == "json":
        click.echo(json.dumps([asdict(result) | {"agrees": result.agrees} for result in results], indent=2))
    else:
        print_matrix(results)
    if keep:
        _leave_up(folders[-1], results[-1].backend, _options(agent, cni, attach, network, two_subnets))
    if not all(result.agrees for result in results):
        raise click.exceptions.Exit(1)


@group.command(short_help="Change the backend of running agents under open connections.")
@click.argument("case", type=_FOLDER)
@click.argument("backends", nargs=-1, type=click.Choice(sorted(BACKENDS)))
@_CNI
@_ATTACH
@_NETWORK
@_TWO_SUBNETS
@output_option
def switch(
    case: Path,
    backends: tuple[str, ...],
    cni: bool,
    attach: str,
    network: str,
    two_subnets: bool,
    output: str,
) -> None:
    """Let the real agents of CASE go from backend to backend while connections are open and new ones are made.

    BACKENDS are taken in order; without any: all of them, and back to the first. Exits 1 if a connection broke or a
    new one failed.
    """
    from netplane.lab.case_settings import network_of
    from netplane.lab.cases import load_case
    from netplane.lab.switching import switch_case
    from netplane.lab.topology import Attach

    _require_root()
    every = tuple(sorted(BACKENDS, reverse=True))
    way = backends or (*every, every[0])
    if len(way) < 2:
        raise InputError(f"backends: {way[0]} alone is no way from one to another")
    _tell(f"wiring, starting agents with {way[0]}, connecting")
    results = []
    between = network_of(network, two_subnets=two_subnets)
    for each in switch_case(load_case(case, attach=Attach(attach), plugin=cni, network=between), way):
        results.append(each)
        _tell("")
        if output == "text":
            click.echo(switched_text(each))
    if output == "json":
        click.echo(json.dumps([asdict(each) | {"unnoticed": each.unnoticed} for each in results], indent=2))
    if not all(each.unnoticed for each in results):
        raise click.exceptions.Exit(1)


@group.command(short_help="Bring up a lab that stays.")
@click.argument("folder", type=_FOLDER)
@backend_option
@_AGENT
@_CNI
@_ATTACH
@_NETWORK
@_TWO_SUBNETS
def up(folder: Path, backend: str, agent: bool, cni: bool, attach: str, network: str, two_subnets: bool) -> None:
    """Bring up the cluster of FOLDER (manifests, or a case) as namespaces, with BACKEND on every node.

    With --agent, edit the manifests and watch the nodes follow.
    """
    _require_root()
    _leave_up(folder, backend, _options(agent, cni, attach, network, two_subnets))


@group.command("list", short_help="Labs that are up.")
@output_option
def list_(output: str) -> None:
    """List the labs that are up and what is in them."""
    from netplane.lab.hold import held

    labs = held()
    rows = [("LAB", "BACKEND", "NAMESPACES"), *((lab.id, lab.backend, ", ".join(lab.namespaces)) for lab in labs)]
    say(output, [asdict(lab) for lab in labs], columns(rows))


@group.command(short_help="A shell, or a command, inside a lab.")
@click.argument("name")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@_ID
def shell(name: str, command: tuple[str, ...], id_: str) -> None:
    """Become a shell (or COMMAND) in the namespace of NAME: a node, a Pod (namespace/name) or `outside`.

    `netplane lab shell n1 -- nft list map ip netplane from-pod`
    """
    from netplane.lab.hold import find
    from netplane.lab.hold import shell as enter

    _require_root()
    enter(find(id_), name, command)


@group.command(short_help="End a lab.")
@_ID
def down(id_: str) -> None:
    """End a lab; nothing of it is left."""
    from netplane.lab.hold import down as end
    from netplane.lab.hold import find

    _require_root()
    lab = find(id_)
    end(lab)
    click.echo(f"lab {lab.id} is down")


def _options(agent: bool, cni: bool, attach: str, network: str, two_subnets: bool) -> list[str]:
    """What the process that holds a lab is told."""
    told = {"--agent": agent, "--cni": cni, "--routed": attach == "routed", "--two-subnets": two_subnets}
    return [*(option for option, wanted in told.items() if wanted), f"--network={network}"]


def _leave_up(folder: Path, backend: str, options: list[str]) -> None:
    from netplane.lab.hold import up as bring_up

    click.echo(_how_to_use(bring_up(folder, backend, options=options)))


def _how_to_use(lab: Held) -> str:
    return (
        f"lab {lab.id} is up with {lab.backend}: {', '.join(lab.namespaces)}\n"
        f"  look around  sudo netplane lab shell --id {lab.id} {next(name for name in lab.namespaces if '/' in name)}\n"
        f"  end it       sudo netplane lab down --id {lab.id}"
    )


def switched_text(each: Switched) -> str:
    """`nftables -> iptables: 40 of 40 open connections go on, none of 940 new ones failed`."""
    new = f"{each.failed or 'none'} of {each.made} new ones failed"
    counted = f"; the agents count {each.counted} broken" if each.counted else ""
    held = f"{each.open - each.broken} of {each.open} open connections go on"
    return f"{each.before} -> {each.after}: {held}, {new}{counted}"


def _require_root() -> None:
    if not probe.can_make_namespace():  # root in a container may not be allowed to either
        raise RequirementError("the lab needs network namespaces: run as root (with CAP_SYS_ADMIN)")


def _tell(step: str) -> None:
    """The step a run is at: on a terminal one line that the next one replaces."""
    if step and not sys.stderr.isatty():
        click.echo(step, err=True)
    _tell_tty(step)


def _tell_tty(step: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{step and step + ' …'}", err=True, nl=False)


def _progress(result: CaseResult) -> str:
    if result.skipped:
        return f"{result.case} on {result.backend}: skipped: {result.skipped}"
    verdict = "agrees" if result.agrees else "cannot run" if result.error else "DIFFERS"
    packets = f"{len(result.packets)} kinds of packets in {result.seconds:.1f} s"
    return f"{result.case} on {result.backend}: {verdict}, {packets}"
