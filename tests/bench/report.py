"""Words for numbers, and tables in Markdown. Only arithmetic: nothing here measures."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

from bench.results import Results


@dataclass(frozen=True, slots=True)
class Table:
    """A titled table. The first column is text, the others are numbers or short words."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def percentile(samples: Iterable[float], percent: float) -> float:
    """The smallest sample that at least `percent` percent of all are not above (nearest rank)."""
    ordered = sorted(samples)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(int(rank), 1) - 1]


def median(samples: Iterable[float]) -> float:
    """The middle sample, or the mean of the two in the middle."""
    return statistics.median(samples)


def ratio(of: float, to: float) -> str:
    """How many times `to` is in `of`, with two significant digits or more: `23 x`, `0.98 x`, `0.022 x`."""
    quotient = of / to
    if quotient < 0.1:
        return f"{quotient:.3f} x" if quotient >= 0.01 else f"{quotient:.4f} x"
    return f"{quotient:.0f} x" if quotient >= 20 else f"{quotient:.1f} x" if quotient >= 3 else f"{quotient:.2f} x"


def below(of: float, to: float) -> str:
    """The same where only is known that `to` is more: `< 0.05 x`, never too little."""
    quotient = of / to
    digits = 2 if quotient >= 0.01 else 4
    return f"< {math.ceil(quotient * 10**digits) / 10**digits:.{digits}f} x"


def seconds(value: float) -> str:
    """`2.31 s`, `4.2 ms`, `31.2 us`."""
    if value >= 0.1:
        return f"{value:.2f} s"
    return f"{value * 1e3:.1f} ms" if value >= 1e-3 else f"{value * 1e6:.1f} us"


def judged(value: float, limit: float, unit: Callable[[float], str] = seconds) -> str:
    """A target, with whether it was reached."""
    return f"<= {unit(limit)}: {'reached' if value <= limit else 'missed'}"


def times(value: float) -> str:
    """`1.3 x`."""
    return f"{value:g} x"


def text(results: Results, tables: Sequence[Table]) -> str:
    """The run for people, in Markdown that is aligned enough to be read as it is."""
    about = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    return "\n\n".join([about, *map(rendered, tables)]) + "\n"


def as_json(results: Results, tables: Sequence[Table]) -> str:
    """Every sample, and the tables made of them."""
    return json.dumps({"samples": asdict(results), "tables": [asdict(each) for each in tables]}, indent=1)


def rendered(table: Table) -> str:
    """The table in Markdown, with aligned columns."""
    lines = [table.columns, *table.rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.columns))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([f"**{table.title}**", "", line(table.columns), rule, *map(line, table.rows)])
