"""Tables of the Pod network, with the targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bench.network_results import (
    HAND_MADE,
    HOST_GW,
    PLAIN,
    PLAIN_AGAIN,
    SIDES,
    VXLAN,
    NetworkRun,
    PeerRun,
)
from bench.report import Table, judged, median, percentile, ratio, seconds

_COMPARED = {HOST_GW: (PLAIN, 0.01), VXLAN: (HAND_MADE, 0.03)}
"""What a side is held against, and how much it may be worse."""
_COLD, _CHANGE = 1.0, 0.010
_GROWN_MIB = 1.0
"""Memory that grows less in all changes is flat: what a Python allocates and gives back is more."""
_TARGET_PEERS = 500


def network_tables(run: NetworkRun) -> list[Table]:
    """All tables of a run that have anything to show."""
    streams = ("TCP, one stream", f"/ {PLAIN}", "in single rounds", "/ hand-made", "target")
    trips = ("round trip of one byte", f"/ {PLAIN}", "in single rounds", "/ hand-made", "target")
    made = [
        Table("Pod to Pod across two nodes: throughput", ("", *streams), tuple(_streams(run))),
        Table("Pod to Pod across two nodes: latency", ("", *trips), tuple(_trips(run))),
        Table(f"{run.peers} peers", _PEER_COLUMNS, tuple(_peers(run, each) for each in run.peer_runs)),
        Table(
            "Memory while peers change one after the other (VmRSS)",
            ("", f"after {run.kept // 10} changes", f"after {run.kept}", "grown", "target"),
            tuple(_memory(run, each) for each in run.peer_runs if len(each.memory) > 1),
        ),
    ]
    return [table for table in made if table.rows]


# --- packets ---

Values = dict[str, list[float]]
"""By side, a value for every round."""


def _streams(run: NetworkRun) -> Iterator[tuple[str, ...]]:
    yield from _rows({name: each.streams for name, each in run.packets.items()}, _rate, more_is_better=True)
    yield from ((name, why, "", "", "", "") for name, why in run.missing.items())


def _trips(run: NetworkRun) -> Iterator[tuple[str, ...]]:
    yield from _rows({name: each.trips for name, each in run.packets.items()}, seconds, more_is_better=False)
    if run.packets:
        yield ("processors that others used meanwhile", f"{run.other:.2f}", "", "", "", "")


def _rows(values: Values, shown: Callable[[float], str], *, more_is_better: bool) -> Iterator[tuple[str, ...]]:
    for name in (each for each in SIDES if values.get(each)):
        ours, plain, hand_made = (values.get(each, []) for each in (name, PLAIN, HAND_MADE))
        ratios = _ratios(ours, plain)
        yield (
            name,
            shown(median(ours)),
            f"{median(ratios):.3f} x" if ratios else "",
            f"{min(ratios):.3f} to {max(ratios):.3f}" if ratios and name != PLAIN else "",
            f"{median(_ratios(ours, hand_made)):.3f} x" if name == VXLAN and hand_made else "",
            _reached(name, values, more_is_better=more_is_better),
        )


def _reached(name: str, values: Values, *, more_is_better: bool) -> str:
    if name == PLAIN_AGAIN:
        return "(this is the noise)"
    other, worse = _COMPARED.get(name, ("", 0.0))
    if not values.get(other):
        return ""
    found = median(_ratios(values[name], values[other]))
    if more_is_better:
        return f">= {1 - worse:g} x: {'reached' if found >= 1 - worse else 'missed'}"
    return judged(found, 1 + worse, lambda value: f"{value:g} x")


def _ratios(ours: list[float], theirs: list[float]) -> list[float]:
    return [one / other for one, other in zip(ours, theirs, strict=True)] if theirs else []


def _rate(value: float) -> str:
    return f"{8 * value / 1e9:.2f} Gbit/s"


# --- many peers ---

_PEER_COLUMNS = (
    "",
    "facts",
    "plan",
    "compile",
    "kernel",
    "all in",
    "ip -batch, bridge -batch",
    "netplane / batch",
    "one changed p50 / p99",
    "batch p50",
    "target",
)


def _peers(run: NetworkRun, each: PeerRun) -> tuple[str, ...]:
    stages = [median(getattr(one, name) for one in each.cold) for name in ("facts", "plan", "compile", "kernel")]
    total, change = median(one.total for one in each.cold), median(each.changes)
    targets = f"all in {judged(total, _COLD)}; one changed p50 {judged(change, _CHANGE)}"
    return (
        each.mode,
        *map(seconds, (*stages, total)),
        seconds(median(each.batch_cold)),
        ratio(total, median(each.batch_cold)),
        f"{seconds(change)} / {seconds(percentile(each.changes, 99))}",
        seconds(median(each.batch_changes)),
        targets if run.peers >= _TARGET_PEERS else "",
    )


def _memory(run: NetworkRun, each: PeerRun) -> tuple[str, ...]:
    first, last = each.memory[0], each.memory[-1]
    return (
        f"{each.mode}, {run.peers} peers",
        _mib(first),
        _mib(last),
        _mib(last - first),
        judged(last - first, _GROWN_MIB, _mib) if run.peers >= _TARGET_PEERS else "",
    )


def _mib(value: float) -> str:
    return f"{value:.1f} MiB"
