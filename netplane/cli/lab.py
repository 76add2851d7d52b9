"""`netplane lab`: namespaces posing as a cluster, and real packets between them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from netplane.backends.registry import BACKENDS
from netplane.cli.matrix import print_matrix
from netplane.cli.options import output_option
from netplane.errors import RequirementError
from netplane.kernel import probe

if TYPE_CHECKING:
    from netplane.lab.run import CaseResult


@click.group("lab")
def group() -> None:
    """Namespaces posing as a cluster, and real packets."""


@group.command()
@click.argument("cases", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--backend", "backends", multiple=True, type=click.Choice(sorted(BACKENDS)), help="Only this one; may be repeated."
)
@click.option("--agent", is_flag=True, help="Let the real agent apply the program, one process per node.")
@click.option("--packet", "packets", multiple=True, type=int, help="Only this line of packets.txt; may be repeated.")
@click.option("--pcap", type=click.Path(file_okay=False, path_type=Path), help="Write what was sent to this folder.")
@click.option("--keep", is_flag=True, help="Leave the lab of the last case up, for `netplane lab shell`.")
@output_option
def run(
    cases: tuple[Path, ...],
    backends: tuple[str, ...],
    agent: bool,
    packets: tuple[int, ...],
    pcap: Path | None,
    keep: bool,
    output: str,
) -> None:
    """Send the packets of CASES (folders) for real and compare with the plan. Exits 1 if anything differs.

    docs/cases.md says how to write one.
    """
    from netplane.lab.cases import find_cases
    from netplane.lab.run import RunOptions, run_cases

    if not probe.is_root():
        raise RequirementError("the lab needs network namespaces: run as root")
    options = RunOptions(agent=agent, only=frozenset(packets), pcap=pcap)
    results = []
    for result in run_cases(find_cases([*cases]), backends or sorted(BACKENDS), options):
        results.append(result)
        click.echo(_progress(result), err=True)
    if output == "json":
        click.echo(json.dumps([asdict(result) | {"agrees": result.agrees} for result in results], indent=2))
    else:
        print_matrix(results)
    if not all(result.agrees for result in results):
        raise click.exceptions.Exit(1)


def _progress(result: CaseResult) -> str:
    verdict = "agrees" if result.agrees else "cannot run" if result.error else "DIFFERS"
    return f"{result.case} on {result.backend}: {verdict}, {len(result.packets)} packets in {result.seconds:.1f} s"
