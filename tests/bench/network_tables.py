"""Tables of the Pod network, with the targets."""

from __future__ import annotations

from collections.abc import Iterator

from bench.network_results import (
    BGP,
    HAND_MADE,
    HAND_MADE_MASQUERADE,
    HOST_GW,
    HOST_GW_BARE,
    PLAIN,
    PLAIN_AGAIN,
    PLAIN_MASQUERADE,
    SIDES,
    VXLAN,
    VXLAN_BARE,
    VXLAN_DIRECT,
    WIREGUARD,
    NetworkRun,
    PeerRun,
)
from bench.report import Table, judged, median, percentile, ratio, seconds

_COMPARED = {
    HOST_GW_BARE: (PLAIN, 0.01),
    HOST_GW: (PLAIN_MASQUERADE, 0.01),
    BGP: (PLAIN_MASQUERADE, 0.0),
    VXLAN_BARE: (HAND_MADE, 0.03),
    VXLAN_DIRECT: (HAND_MADE_MASQUERADE, 0.03),
    VXLAN: (HAND_MADE_MASQUERADE, 0.03),
}
"""What a side is held against, which does what it does, and how much it may be worse; 0: no target."""
_COLD, _CHANGE = 1.0, 0.010
_GROWN_MIB = 1.0
"""Memory that grows less in all changes is flat: what a Python allocates and gives back is more."""
_TARGET_PEERS = 500


def network_tables(run: NetworkRun) -> list[Table]:
    """All tables of a run that have anything to show."""
    ratios = (f"/ {PLAIN}", "/ the same by hand", "in single rounds", "target")
    streams, trips = ("TCP, one stream", *ratios), ("round trip of one byte", *ratios)
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
    for name in (each for each in SIDES if each in run.packets):
        # What wireguard-go does is on the account of other processes.
        values = {each: by.streams if name == WIREGUARD else by.work for each, by in run.packets.items()}
        shown = f"{8 * median(run.packets[name].streams) / 1e9:.2f} Gbit/s"
        yield (name, shown, *_compared(name, values, more_is_better=True))
    yield from ((name, why, *[""] * 4) for name, why in run.missing.items())


def _trips(run: NetworkRun) -> Iterator[tuple[str, ...]]:
    values = {name: each.trips for name, each in run.packets.items()}
    for name in (each for each in SIDES if each in values):
        lost = f" ({run.packets[name].lost} lost)" if run.packets[name].lost else ""
        yield (name, f"{seconds(median(values[name]))}{lost}", *_compared(name, values, more_is_better=False))
    if run.packets:
        yield ("processors that others used meanwhile", f"{run.other:.2f}", *[""] * 4)


def _compared(name: str, values: Values, *, more_is_better: bool) -> tuple[str, ...]:
    plain = _ratios(values[name], values.get(PLAIN, []))
    other, worse = _COMPARED.get(name, (PLAIN, 0.0))
    by_hand = _ratios(values[name], values.get(other, []))
    return (
        _middle(plain),
        _middle(by_hand) if name in _COMPARED else "",
        f"{min(by_hand):.3f} to {max(by_hand):.3f}" if by_hand and name != PLAIN else "",
        "(this is the noise)" if name == PLAIN_AGAIN else _reached(by_hand, worse, more_is_better=more_is_better),
    )


def _reached(ratios: list[float], worse: float, *, more_is_better: bool) -> str:
    if not ratios or not worse:
        return ""
    if more_is_better:
        return f">= {1 - worse:g} x: {'reached' if median(ratios) >= 1 - worse else 'missed'}"
    return judged(median(ratios), 1 + worse, lambda value: f"{value:g} x")


def _middle(ratios: list[float]) -> str:
    return f"{median(ratios):.3f} x" if ratios else ""


def _ratios(ours: list[float], theirs: list[float]) -> list[float]:
    return [one / other for one, other in zip(ours, theirs, strict=True)] if theirs else []


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
