"""Tables of attaching containers, with the targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

from bench.cni_results import AT_ONCE, Attached, AttachRun, case
from bench.cni_sides import PLAIN, PORTS
from bench.report import Table, judged, median, percentile, ratio, seconds, times

_LAUNCHER_KIB, _AGENT_MIB = 100.0, 120.0
_PYTHON_MIB = 6.0
"""No Python starts in less."""
_ADD, _ADD_PORTS, _DELETE = 0.15, 0.1, 0.1
_THROUGHPUT = 6.0


@dataclass(frozen=True, slots=True)
class _Row:
    """What is compared: seconds of `name`, by block, of one case. `limit`: the largest ratio, 0 if there is none."""

    name: str
    workers: int
    way: object
    seconds: Callable[[Attached], list[list[float]]]
    limit: float = 0.0


def attach_tables(run: AttachRun) -> list[Table]:
    """All tables of a run."""
    rows = chain(_durations(run), _rates(run), _versions(run))
    columns = (
        "container",
        "netplane p50 / p90",
        "reference p50 / p90",
        "netplane / reference",
        "by block",
        "fastest",
        "target",
    )
    return [
        Table("Attaching a container: netplane and Debian's bridge + host-local (+ portmap)", columns, tuple(rows)),
        Table("What is started, and what serves", ("", "netplane", "reference", "target"), tuple(_sizes(run))),
    ]


def _durations(run: AttachRun) -> Iterator[tuple[str, ...]]:
    for row in (
        _Row("ADD", 1, PLAIN.name, lambda each: each.add.seconds, _ADD),
        _Row("ADD", AT_ONCE, PLAIN.name, lambda each: each.add.seconds),
        _Row("ADD", 1, PORTS.name, lambda each: each.add.seconds, _ADD_PORTS),
        _Row("DEL acknowledged", 1, PLAIN.name, lambda each: each.delete.seconds),
        _Row("DEL acknowledged", AT_ONCE, PLAIN.name, lambda each: each.delete.seconds, _DELETE),
        _Row("DEL acknowledged", 1, PORTS.name, lambda each: each.delete.seconds),
        _Row("DEL, until the link is gone, each", 1, PLAIN.name, lambda each: [[gone] for gone in each.gone]),
        _Row("DEL, until the link is gone, each", AT_ONCE, PLAIN.name, lambda each: [[gone] for gone in each.gone]),
        _Row("ADD, processor time", 1, PLAIN.name, lambda each: [[used] for used in each.add.cpu]),
        _Row("ADD, processor time", 1, PORTS.name, lambda each: [[used] for used in each.add.cpu]),
        _Row("DEL, processor time", 1, PLAIN.name, lambda each: [[used] for used in each.delete.cpu]),
        _Row("DEL, processor time", 1, PORTS.name, lambda each: [[used] for used in each.delete.cpu]),
    ):
        if found := run.attached.get(case(row.way, row.workers)):
            yield _duration(row, *map(row.seconds, found))


def _duration(row: _Row, netplane: list[list[float]], reference: list[list[float]]) -> tuple[str, ...]:
    ours, theirs = list(chain(*netplane)), list(chain(*reference))
    quotient = median(ours) / median(theirs)
    return (
        f"{row.name}: {case(row.way, row.workers)}",
        _percentiles(ours),
        _percentiles(theirs),
        ratio(median(ours), median(theirs)),
        _range(map(median, netplane), map(median, reference)),
        ratio(min(ours), min(theirs)),
        judged(quotient, row.limit, times) if row.limit else "",
    )


def _rates(run: AttachRun) -> Iterator[tuple[str, ...]]:
    if found := run.attached.get(case(PLAIN.name, AT_ONCE)):
        ours, theirs = (each.add.rate for each in found)
        quotient = median(ours) / median(theirs)
        yield (
            f"ADD, throughput: {case(PLAIN.name, AT_ONCE)}",
            f"{median(ours):.0f} per second",
            f"{median(theirs):.0f} per second",
            ratio(median(ours), median(theirs)),
            _range(ours, theirs),
            ratio(max(ours), max(theirs)),
            f">= {times(_THROUGHPUT)}: {'reached' if quotient >= _THROUGHPUT else 'missed'}",
        )


def _versions(run: AttachRun) -> Iterator[tuple[str, ...]]:
    ours, theirs = run.versions
    if ours and theirs:
        compared = (ratio(median(ours), median(theirs)), "", ratio(min(ours), min(theirs)))
        yield ("VERSION: nothing but starting", _percentiles(ours), _percentiles(theirs), *compared, "")


def _sizes(run: AttachRun) -> Iterator[tuple[str, ...]]:
    found = run.attached.values()
    started, reference = (max(max(pair[side].add.mib, pair[side].delete.mib) for pair in found) for side in (0, 1))
    kib = run.launcher_bytes / 1024
    reached = "reached" if started < _PYTHON_MIB else "missed"
    yield ("executable", f"{kib:.1f} KiB", f"{run.reference_bytes / 1024:.0f} KiB", judged(kib, _LAUNCHER_KIB, _kib))
    yield ("largest process started", _mib(started), _mib(reference), f"no Python (< {_mib(_PYTHON_MIB)}): {reached}")
    yield ("agent without containers", _mib(run.empty_mib), "", "")
    limit = judged(run.many_mib, _AGENT_MIB, _mib) if run.many >= 1000 else ""
    yield (f"agent with {run.many} containers", _mib(run.many_mib), "", limit)
    yield ("processors that others used meanwhile", f"{run.other:.2f}", "", "")


def _percentiles(samples: list[float]) -> str:
    if len(samples) < 10:
        return seconds(median(samples))
    return f"{seconds(median(samples))} / {seconds(percentile(samples, 90))}"


def _range(ours: Iterator[float] | list[float], theirs: Iterator[float] | list[float]) -> str:
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    return f"{ratio(min(ratios), 1.0)} to {ratio(max(ratios), 1.0)}"


def _kib(value: float) -> str:
    return f"{value:g} KiB"


def _mib(value: float) -> str:
    return f"{value:.1f} MiB"
