"""What was measured, as tables with ratios, and as JSON. Only arithmetic: nothing here measures."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

from bench.clusters import Size
from bench.measure import BASELINE_LAST, BASELINE_ONLY, CONTROL, LAST, ONLY, ColdLoads, Results


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
    """How many times `to` is in `of`, with two significant digits or more: `23 x`, `0.98 x`."""
    quotient = of / to
    return f"{quotient:.0f} x" if quotient >= 20 else f"{quotient:.1f} x" if quotient >= 3 else f"{quotient:.2f} x"


def seconds(value: float) -> str:
    """`2.31 s`, `4.2 ms`, `31.2 us`."""
    if value >= 0.1:
        return f"{value:.2f} s"
    return f"{value * 1e3:.1f} ms" if value >= 1e-3 else f"{value * 1e6:.1f} us"


def judged(shown: str, value: float, limit: float, unit: Callable[[float], str] = seconds) -> tuple[str, str]:
    """A value, and its target with whether it was reached."""
    return shown, f"<= {unit(limit)}: {'reached' if value <= limit else 'missed'}"


def tables(results: Results) -> list[Table]:
    """All tables of a run."""
    return [_cold(results), _scaling(results), _changes(results), _agent(results), _packets(results)]


def text(results: Results) -> str:
    """The run for people, in Markdown that is aligned enough to be read as it is."""
    about = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    return "\n\n".join([about, *map(rendered, tables(results))]) + "\n"


def as_json(results: Results) -> str:
    """Every sample, and the tables made of them."""
    return json.dumps({"samples": asdict(results), "tables": [asdict(each) for each in tables(results)]}, indent=1)


def rendered(table: Table) -> str:
    """The table in Markdown, with aligned columns."""
    lines = [table.columns, *table.rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.columns))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([f"**{table.title}**", "", line(table.columns), rule, *map(line, table.rows)])


# --- the tables ---

_COLD_TARGETS = {Size(20_000, 2): (3.0, 1.0)}
_DOUBLING = (Size(10_000, 2), Size(20_000, 2), 2.2)
_CHANGE_TARGETS = (0.005, 0.020)
_MEMORY_TARGET = 250.0


def _cold(results: Results) -> Table:
    columns = ("Services x endpoints", "plan", "compile", "diff", "kernel", "all in", "baseline", "ratio", "target")
    return Table("Cold load: decoded manifests to kernel (medians)", columns, tuple(map(_cold_row, results.cold)))


def _cold_row(loads: ColdLoads) -> tuple[str, ...]:
    stages = [
        median(getattr(each, stage) for each in loads.netplane) for stage in ("plan", "compile", "diff", "kernel")
    ]
    total = median(each.total for each in loads.netplane)
    target = ""
    if limits := _COLD_TARGETS.get(loads.size):
        judgements = (judged("", total, limits[0])[1], judged("", stages[-1], limits[1])[1])
        target = "all in {}; kernel {}".format(*judgements)
    baseline = median(loads.baseline) if loads.baseline else None
    compared = (seconds(baseline), ratio(baseline, total)) if baseline else ("", "")
    return (str(loads.size), *map(seconds, stages), seconds(total), *compared, target)


def _scaling(results: Results) -> Table:
    by_size = {each.size: each for each in results.cold}
    rows = []
    for small, large in zip(results.cold, results.cold[1:], strict=False):
        if small.size.endpoints != large.size.endpoints:
            continue
        netplane = [median(each.total for each in of.netplane) for of in (small, large)]
        baseline = [median(of.baseline) if of.baseline else 0.0 for of in (small, large)]
        grown = netplane[1] / netplane[0]
        first, second, limit = _DOUBLING
        doubled = (small.size, large.size) == (first, second) and by_size[second] is large
        target = judged("", grown, limit, lambda value: f"{value:g} x")[1] if doubled else ""
        rows.append(
            (
                f"{small.size} -> {large.size}",
                ratio(large.size.services, small.size.services),
                ratio(*reversed(netplane)),
                ratio(*reversed(baseline)) if all(baseline) else "",
                target,
            )
        )
    return Table("More Services", ("from -> to", "Services", "netplane", "baseline", "target"), tuple(rows))


def _changes(results: Results) -> Table:
    rows = []
    for kind, name in _KINDS.items():
        here, there = results.changes.netplane[kind], results.agent.changes[kind]
        rows.append(_change_row(name, here, there, results.changes.baseline.get(kind, []), ""))
    every = [
        [sample for kind in _ONE_ENDPOINT for sample in of.get(kind, [])]
        for of in (results.changes.netplane, results.agent.changes, results.changes.baseline)
    ]
    limits = _CHANGE_TARGETS
    reached = [
        judged("", percentile(every[1], percent), limit)[1] for percent, limit in zip((50, 99), limits, strict=True)
    ]
    target = "end to end p50 {}, p99 {}".format(*reached) if results.big == Size(10_000, 10) else ""
    rows.insert(0, _change_row("any of these three", every[0], every[1], every[2], target))
    columns = (
        f"one endpoint, {results.big}",
        "in process p50 / p99",
        "end to end p50 / p99 / max",
        "baseline p50 / p99",
        "ratio p50",
        "target",
    )
    return Table(
        "One change (in process: Snapshot to kernel; end to end: rename to kernel, by the agent)", columns, tuple(rows)
    )


_ONE_ENDPOINT = ("replaced", "removed", "added")
_KINDS = {
    "replaced": "one replaced",
    "removed": "one removed",
    "added": "one added",
    "new count": "to a count no other has",
    "old count": "and back",
}


def _change_row(
    name: str, here: list[float], there: list[float], baseline: list[float], target: str
) -> tuple[str, ...]:
    compared = (_two(baseline), ratio(median(baseline), median(here))) if baseline else ("", "")
    return (
        f"{name} ({len(here)} and {len(there)} times)",
        _two(here),
        f"{_two(there)} / {seconds(max(there))}",
        *compared,
        target,
    )


def _two(samples: list[float]) -> str:
    return f"{seconds(percentile(samples, 50))} / {seconds(percentile(samples, 99))}"


def _agent(results: Results) -> Table:
    agent = results.agent
    peak = judged("", agent.peak_mib, _MEMORY_TARGET, lambda value: f"{value:g} MiB")[1]
    rows = (
        ("start to ready: read and decode a file for each Service, first round", seconds(agent.start_seconds), ""),
        ("memory when ready (VmRSS)", f"{agent.started_mib:.0f} MiB", ""),
        ("memory after all changes (VmRSS)", f"{agent.ended_mib:.0f} MiB", ""),
        ("most memory ever (VmHWM)", f"{agent.peak_mib:.0f} MiB", peak),
        ("compare everything, nobody else changed nf_tables", seconds(median(results.changes.undisturbed)), ""),
        ("compare everything, somebody else did", seconds(median(results.changes.disturbed)), ""),
    )
    return Table(f"The agent process at {results.big}", ("", "netplane", "target"), rows)


def _packets(results: Results) -> Table:
    rows = []
    for name, other in ((LAST, ONLY), (CONTROL, ONLY), (BASELINE_LAST, BASELINE_ONLY), (LAST, BASELINE_LAST)):
        mine, theirs = ([median(each) for each in results.packets[which]] for which in (name, other))
        ratios = [one / two for one, two in zip(mine, theirs, strict=True)]
        rows.append(
            (
                name,
                other,
                seconds(median(mine)),
                seconds(median(theirs)),
                f"{median(ratios):.3f} x",
                f"{min(ratios):.3f} to {max(ratios):.3f}",
                "within noise" if (name, other) == (LAST, ONLY) else "(this is the noise)" if name == CONTROL else "",
            )
        )
    columns = ("connecting to", "and to", "median", "median", "ratio", "in single rounds", "target")
    return Table("First packet: connect() until established, from a Pod through the node", columns, tuple(rows))
