"""The tables of a run, with the targets. What was not measured has no table, no row or an empty cell."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from bench.agent import FLAPS_PER_SECOND
from bench.clusters import Size
from bench.report import Table, below, judged, median, percentile, ratio, seconds, times
from bench.results import BASELINE, CONTROL, NETPLANE, AgentRun, Changes, ColdLoads, Kills, Results, Samples, target
from bench.ways import IPTABLES, LEGACY, NFTABLES, Way

_COLD_ALL_IN = {NFTABLES: 3.0, IPTABLES: 15.0, LEGACY: 15.0}
_COLD_KERNEL = {NFTABLES: 1.0}
_COLD_RATIO = {IPTABLES: 0.7, LEGACY: 0.7}
_COLD_SIZE = Size(20_000, 2)
_DOUBLING = (Size(10_000, 2), Size(20_000, 2))
_DOUBLED = {NFTABLES: 2.2}
_CHANGE_SIZE = Size(10_000, 10)
_CHANGE_TARGETS = {NFTABLES: (("end to end", 50, 0.005), ("end to end", 99, 0.020))}
_CHANGE_TARGETS[IPTABLES] = (("in process", 50, 0.3), ("end to end", 50, 0.3))
_MEMORY_MIB = 250.0
_PACKETS = {IPTABLES: 1.3, LEGACY: 1.3}


def tables(results: Results) -> list[Table]:
    """All tables of a run that have anything to show, but those of containers (`cni_tables`)."""
    made = [_cold(results), _scaling(results), *_changes(results), _agents(results), _flaps(results)]
    return [table for table in (*made, _packets(results), _kills(results)) if table.rows]


# --- cold load ---


def _cold(results: Results) -> Table:
    stages = ("plan", "compile", "diff", "kernel", "all in")
    columns = ("Services x endpoints", "backend", *stages, "baseline", "netplane / baseline", "target")
    return Table("Cold load: decoded manifests to kernel (medians)", columns, tuple(map(_cold_row, results.cold)))


def _cold_row(loads: ColdLoads) -> tuple[str, ...]:
    way, total = _way(loads.way), median(each.total for each in loads.netplane)
    plan, compiling, diff, kernel = (
        median(getattr(each, stage) for each in loads.netplane) for stage in ("plan", "compile", "diff", "kernel")
    )
    least = median(loads.baseline) if loads.baseline else loads.stopped
    targets = []
    if loads.size == _COLD_SIZE:
        if way in _COLD_ALL_IN:
            targets.append(f"all in {judged(total, _COLD_ALL_IN[way])}")
        if way in _COLD_KERNEL:
            targets.append(f"kernel {judged(kernel, _COLD_KERNEL[way])}")
        if way in _COLD_RATIO and least:
            targets.append(judged(total / least, _COLD_RATIO[way], times))
    compared = ("", "")
    if loads.baseline:
        compared = (seconds(least), ratio(total, least))
    elif least:
        compared = (f"> {least:g} s", below(total, least))
    stages = (plan, compiling, diff, kernel, total)
    return (str(loads.size), loads.way, *map(seconds, stages), *compared, "; ".join(targets))


def _scaling(results: Results) -> Table:
    rows = [row for way in _in_order(each.way for each in results.cold) for row in _growing(results.cold, way)]
    columns = ("from -> to", "backend", "Services", "netplane", "baseline", "target")
    return Table("More Services", columns, tuple(rows))


def _growing(cold: list[ColdLoads], name: str) -> Iterator[tuple[str, ...]]:
    for small, large in pairwise(each for each in cold if each.way == name):
        if small.size.endpoints != large.size.endpoints:
            continue
        netplane = [median(each.total for each in of.netplane) for of in (small, large)]
        baseline = [median(of.baseline) if of.baseline else 0.0 for of in (small, large)]
        limit = _DOUBLED.get(_way(name)) if (small.size, large.size) == _DOUBLING else None
        yield (
            f"{small.size} -> {large.size}",
            name,
            ratio(large.size.services, small.size.services),
            ratio(*reversed(netplane)),
            ratio(*reversed(baseline)) if all(baseline) else "",
            judged(netplane[1] / netplane[0], limit, times) if limit else "",
        )


# --- one change ---

_ONE_ENDPOINT = ("replaced", "removed", "added")
_KINDS = {
    "replaced": "one replaced",
    "removed": "one removed",
    "added": "one added",
    "new count": "to a count no other has",
    "old count": "and back",
}


def _changes(results: Results) -> Iterator[Table]:
    for name in _in_order((*results.changes, *results.agents)):
        changes, agent = results.changes.get(name, Changes()), results.agents.get(name, AgentRun())
        columns = (
            f"one endpoint, {results.big}, {name}",
            "in process p50 / p99",
            "end to end p50 / p99 / max",
            "baseline p50 / p99",
            "netplane / baseline p50",
            "target",
        )
        rows = [_change_row("any of these three", _ONE_ENDPOINT, changes, agent, _change_target(results, name))]
        rows += [_change_row(said, (kind,), changes, agent, "") for kind, said in _KINDS.items()]
        title = f"One change, {name} (in process: Snapshot to kernel; end to end: rename to kernel, by the agent)"
        yield Table(title, columns, tuple(rows))


def _change_row(name: str, kinds: tuple[str, ...], changes: Changes, agent: AgentRun, reached: str) -> tuple[str, ...]:
    here, there, baseline = (_every(each, kinds) for each in (changes.netplane, agent.changes, changes.baseline))
    return (
        f"{name} ({len(here)} and {len(there)} times)",
        _two(here),
        f"{_two(there)} / {seconds(max(there))}" if there else "",
        _two(baseline),
        ratio(median(here), median(baseline)) if here and baseline else "",
        reached,
    )


def _change_target(results: Results, name: str) -> str:
    if results.big != _CHANGE_SIZE:
        return ""
    samples: dict[str, list[float]] = {
        "in process": _every(results.changes.get(name, Changes()).netplane, _ONE_ENDPOINT),
        "end to end": _every(results.agents.get(name, AgentRun()).changes, _ONE_ENDPOINT),
    }
    return "; ".join(
        f"{where} p{percent} {judged(percentile(samples[where], percent), limit)}"
        for where, percent, limit in _CHANGE_TARGETS.get(_way(name), ())
        if samples[where]
    )


def _every(samples: Samples, kinds: tuple[str, ...]) -> list[float]:
    return [sample for kind in kinds for sample in samples.get(kind, [])]


def _two(samples: list[float]) -> str:
    return f"{seconds(percentile(samples, 50))} / {seconds(percentile(samples, 99))}" if samples else ""


# --- the agent ---


def _agents(results: Results) -> Table:
    ways = _in_order((*results.agents, *results.changes))
    agents = [results.agents.get(name) for name in ways]
    compared = [results.changes.get(name, Changes()) for name in ways]
    most = max((each.peak_mib for each in agents if each), default=0.0)

    def row(what: str, shown: list[str], reached: str = "") -> tuple[str, ...]:
        return (what, *shown, reached)

    def of_agents(what: str, unit: str) -> list[str]:
        values = [getattr(each, what) if each else None for each in agents]
        return ["" if each is None else seconds(each) if unit == "s" else f"{each:.0f} MiB" for each in values]

    rows = (
        row("start to ready: read and decode a file for each Service, first round", of_agents("start_seconds", "s")),
        row("memory when ready (VmRSS)", of_agents("started_mib", "MiB")),
        row("memory after all changes (VmRSS)", of_agents("ended_mib", "MiB")),
        row(
            "most memory ever (VmHWM)",
            of_agents("peak_mib", "MiB"),
            judged(most, _MEMORY_MIB, lambda value: f"{value:g} MiB") if most else "",
        ),
        row(
            "compare everything, nobody else changed anything",
            [seconds(median(each.undisturbed)) if each.undisturbed else "" for each in compared],
        ),
        row(
            "compare everything, somebody else did",
            [seconds(median(each.disturbed)) if each.disturbed else "" for each in compared],
        ),
    )
    shown = tuple(each for each in rows if any(each[1:-1]))
    return Table(f"The agent process at {results.big}", ("", *ways, "target"), shown)


def _flaps(results: Results) -> Table:
    rows = []
    for name, agent in results.agents.items():
        flaps = agent.flaps
        if flaps.changes:
            used = flaps.itself + flaps.programs
            rows.append(
                (
                    name,
                    str(flaps.changes),
                    seconds(flaps.seconds),
                    seconds(flaps.itself),
                    seconds(flaps.programs),
                    f"{100 * used / flaps.seconds:.0f} %",
                    str(flaps.rounds),
                    f"{flaps.changes / max(flaps.rounds, 1):.1f}",
                    seconds(flaps.lag),
                )
            )
    columns = (
        "backend",
        "changes",
        "until the kernel has all",
        "processor time of the agent",
        "of the programs it starts",
        "of one processor",
        "rounds",
        "changes in a round",
        "the last change took",
    )
    return Table(f"{FLAPS_PER_SECOND} endpoint changes a second at {results.big}, by the agent", columns, tuple(rows))


# --- connections ---


def _packets(results: Results) -> Table:
    counts = sorted({int(name.rpartition(" ")[2]) for name in results.packets})
    rows = []
    for name in _in_order(each.partition(":")[0] for each in results.packets):
        for who in (NETPLANE, BASELINE, CONTROL):
            medians = {
                count: [median(each) for each in results.packets[target(name, who, count)]]
                for count in counts
                if target(name, who, count) in results.packets
            }
            rows.append(_packet_row(results, name, who, counts, medians))
    columns = ("backend", "", *(f"the last of {count}" if count > 1 else "the only one" for count in counts))
    compared = (f"last of {max(counts, default=0)} / only one", "in single rounds", "target")
    return Table(
        "First packet: connect() until established, from a Pod through the node", (*columns, *compared), tuple(rows)
    )


def _packet_row(
    results: Results, name: str, who: str, counts: list[int], medians: dict[int, list[float]]
) -> tuple[str, ...]:
    only = [median(each) for each in results.packets[target(name, NETPLANE if who == CONTROL else who, counts[0])]]
    compared = medians[max(medians)]
    ratios = [one / other for one, other in zip(compared, only, strict=True)]
    limit = _PACKETS.get(_way(name)) if who == NETPLANE else None
    reached = "(this is the noise)" if who == CONTROL else judged(median(ratios), limit, times) if limit else ""
    return (
        name,
        who,
        *(seconds(median(medians[count])) if count in medians else "" for count in counts),
        f"{median(ratios):.3f} x",
        f"{min(ratios):.3f} to {max(ratios):.3f}",
        "within noise" if who == NETPLANE and not limit else reached,
    )


def _kills(results: Results) -> Table:
    columns = (
        "backend",
        "agents killed",
        "before they were ready",
        "while a program of theirs was at work",
        "changes meanwhile",
        "new connections served",
        "failed or a SYN lost",
        "established",
        "broken",
        "wrong in the kernel at the end",
        "target",
    )
    return Table(
        "kill -9 at random moments, while endpoints change and connections are made and last",
        columns,
        tuple(_kills_row(name, found) for name, found in results.kills.items()),
    )


def _kills_row(name: str, found: Kills) -> tuple[str, ...]:
    counts = (
        found.kills, found.starting, found.working, found.changes, found.served, found.failed,
        found.established, found.broken, found.differences,
    )  # fmt: skip
    reached = "reached" if found.failed == found.broken == found.differences == 0 else "missed"
    return (name, *map(str, counts), f"0 failed, 0 broken, 0 wrong: {reached}")


def _way(name: str) -> Way:
    return next(each for each in (NFTABLES, IPTABLES, LEGACY) if str(each) == name)


def _in_order(names: Iterator[str] | tuple[str, ...]) -> list[str]:
    """Each of them once, as first met."""
    return [*dict.fromkeys(names)]
