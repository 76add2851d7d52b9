"""Results of lab runs for people: a matrix of packets or cases by backend, then every difference with its rules."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.table import Table

    from netplane.lab.run import CaseResult, PacketResult

_AGREES, _DIFFERS = "[green]✓[/green]", "[bold red]✗[/bold red]"


def print_matrix(results: Sequence[CaseResult]) -> None:
    """Print what was expected and seen: packet by packet for one case, case by case for several."""
    from rich.console import Console

    # Piped into a file there is no width to respect: lines must stay whole.
    Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(matrix(results))
    for result in results:
        if result.error:
            click.echo(f"{result.case} on {result.backend} could not run: {result.error}")
        if result.skipped:
            click.echo(f"{result.case} on {result.backend} was skipped: {result.skipped}")
        for packet in result.packets:
            if not packet.agrees:
                _print_difference(result, packet)
    packets = sum(len(result.packets) for result in results)
    wrong = sum(not packet.agrees for result in results for packet in result.packets)
    failed = sum(bool(result.error) for result in results)
    click.echo(f"{packets - wrong} of {packets} packets agree" + (f", {failed} runs failed" if failed else ""))


def matrix(results: Sequence[CaseResult]) -> Table:
    """The table alone."""
    return _packets(results) if len({result.case for result in results}) == 1 else _cases(results)


def _table(*headings: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _packets(results: Sequence[CaseResult]) -> Table:
    """One case: a row per packet, what was expected, and what was seen on each backend: in full if there is one."""
    table = _table("packet", "expected", *(f"seen on {result.backend}" for result in results))
    by_line = [{packet.line: packet for packet in result.packets} for result in results]
    for line, packet in next((each for each in by_line if each), {}).items():
        seen = [_seen(packets[line], len(by_line)) if line in packets else "-" for packets in by_line]
        table.add_row(_plain(packet.packet), _plain(packet.expected), *seen)
    return table


def _seen(packet: PacketResult, backends: int) -> str:
    if backends > 1 and packet.agrees and packet.seen == packet.expected:
        return f"{_AGREES} the same"
    return f"{_AGREES if packet.agrees else _DIFFERS} {_plain(packet.seen)}"


def _cases(results: Sequence[CaseResult]) -> Table:
    """Several cases: a row per case, and how many packets agree on each backend."""
    backends = [*dict.fromkeys(result.backend for result in results)]
    found = {(result.case, result.backend): result for result in results}
    table = _table("case", *backends)
    for case in dict.fromkeys(result.case for result in results):
        table.add_row(case, *(_count(found.get((case, backend))) for backend in backends))
    return table


def _count(result: CaseResult | None) -> str:
    if result is None:
        return "-"
    if result.error or result.skipped:
        return f"{_DIFFERS} cannot run" if result.error else "skipped"
    agree = sum(packet.agrees for packet in result.packets)
    return f"{_AGREES if result.agrees else _DIFFERS} {agree} of {len(result.packets)} agree"


def _print_difference(result: CaseResult, packet: PacketResult) -> None:
    click.echo(f"\n{result.case} on {result.backend}, line {packet.line}: {packet.packet}")
    click.echo(f"  expected  {packet.expected}\n  seen      {packet.seen}")
    for difference in packet.differences:
        click.echo(f"  why       {difference}")
    for rule in packet.rules:
        click.echo(f"  rule      {rule}")
    click.echo(f"  again     sudo {packet.again}")


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
