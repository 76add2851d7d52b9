"""Times netplane and the baseline in one run, in turns, and returns what was seen. Asserts nothing, rounds nothing."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any

from bench import clusters
from bench.agent import AgentRun, run_agent
from bench.clusters import NODE, Change, Churn, Size
from bench.nodes import BACKEND, Baseline, Netplane, Node, collecting_later, timed
from bench.packets import Target, connect_times
from netplane.backends.registry import backend_named
from netplane.kernel.command import find, run
from netplane.kernel.netns import Namespace
from netplane.kernel.nftables_mechanism import NftablesMechanism
from netplane.plan.node import plan_node
from netplane.plan.settings import Settings

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Load:
    """A cluster to load into an empty kernel, and how often."""

    size: Size
    netplane: int
    baseline: int


@dataclass(frozen=True, slots=True)
class Amount:
    """How much to measure. `changes` are rounds of three changes; every `per_baseline`-th round the baseline too.

    `agent_seconds` is how long the agent runs at least: beyond `--at-most` it once compares everything meanwhile.
    """

    loads: tuple[Load, ...]
    big: Size
    changes: int
    resized: int
    per_baseline: int
    comparisons: int
    packet_rounds: int
    packet_samples: int
    agent_seconds: float


FULL = Amount(
    loads=(
        Load(Size(1000, 2), 5, 5),
        Load(Size(5000, 2), 5, 3),
        Load(Size(10_000, 2), 5, 1),
        Load(Size(20_000, 2), 5, 1),
        Load(Size(10_000, 10), 5, 0),  # the baseline once, when it is needed for changes and packets
    ),
    big=Size(10_000, 10),
    changes=80,
    resized=10,
    per_baseline=10,
    comparisons=5,
    packet_rounds=9,
    packet_samples=400,
    agent_seconds=33.0,
)
QUICK = Amount(
    loads=(Load(Size(1000, 2), 3, 3), Load(Size(5000, 2), 3, 1)),
    big=Size(1000, 10),
    changes=40,
    resized=5,
    per_baseline=10,
    comparisons=3,
    packet_rounds=5,
    packet_samples=200,
    agent_seconds=0.0,
)


@dataclass(frozen=True, slots=True)
class Stages:
    """Seconds of a cold load. `diff` includes reading the (empty) kernel."""

    plan: float
    compile: float
    diff: float
    kernel: float

    @property
    def total(self) -> float:
        """From the decoded cluster to the kernel."""
        return self.plan + self.compile + self.diff + self.kernel


@dataclass(slots=True)
class ColdLoads:
    """Cold loads of one size."""

    size: Size
    netplane: list[Stages] = field(default_factory=list)
    baseline: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Changes:
    """Seconds of single changes by kind, in this process and by the baseline.

    `undisturbed` and `disturbed` are comparisons of everything, after nobody or somebody else changed nf_tables.
    """

    netplane: dict[str, list[float]] = field(default_factory=dict)
    baseline: dict[str, list[float]] = field(default_factory=dict)
    undisturbed: list[float] = field(default_factory=list)
    disturbed: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Results:
    """Everything that was seen. `packets` has seconds per connection: by target, then by round."""

    machine: dict[str, str]
    big: Size
    cold: list[ColdLoads] = field(default_factory=list)
    changes: Changes = field(default_factory=Changes)
    agent: AgentRun = field(default_factory=AgentRun)
    packets: dict[str, list[list[float]]] = field(default_factory=dict)


LAST, ONLY, CONTROL, BASELINE_LAST, BASELINE_ONLY = (
    "netplane, the last of many",
    "netplane, the only one",
    "netplane, the only one, on a second node",
    "baseline, the last of many",
    "baseline, the only one",
)


def measure(amount: Amount, say: Say) -> Results:
    """Measure all of it; `say` is told what comes next."""
    results = Results(machine(), amount.big)
    for load in amount.loads:
        say(f"cold load {load.size}")
        results.cold.append(_cold_loads(load))
    say(f"agent process at {amount.big}")
    results.agent = run_agent(amount.big, amount.changes, amount.resized, amount.agent_seconds)
    with _nodes() as nodes:
        say(f"loading {amount.big} into both")
        netplane, baseline = Netplane(nodes[0].node), Baseline(nodes[1].node)
        with closing(netplane):
            netplane.load(clusters.snapshot(amount.big))
            seconds = baseline.load(amount.big)
            results.cold[-1].baseline += [seconds] if results.cold[-1].size == amount.big else []
            say("one change after the other")
            results.changes = _changes(amount, netplane, baseline)
            say("connections")
            results.packets = _packets(amount, nodes)
    return results


def machine() -> dict[str, str]:
    """What this ran on."""
    program = find("nft") or "nft"
    return {
        "kernel": platform.release(),
        "processors": str(os.cpu_count()),
        "python": platform.python_version(),
        "nft": run(program, "--version", mechanism="bench", doing="ask nft for its version").strip(),
        "load before": " ".join(f"{each:.2f}" for each in os.getloadavg()),
    }


# --- cold load ---


def _cold_loads(load: Load) -> ColdLoads:
    found = ColdLoads(load.size)
    for turn in range(max(load.netplane, load.baseline)):
        if turn < load.netplane:
            found.netplane.append(_in_new_process(netplane_cold, load.size))
        if turn < load.baseline:
            found.baseline.append(_in_new_process(baseline_cold, load.size))
    return found


def netplane_cold(size: Size) -> Stages:
    """Load a decoded cluster into the nf_tables of a new namespace, stage by stage, with the agent's own objects."""
    snapshot, backend = clusters.snapshot(size), backend_named(BACKEND)
    with ExitStack() as opened:
        namespace = opened.enter_context(Namespace())
        mechanism = namespace.run(NftablesMechanism)
        opened.callback(mechanism.close)
        opened.enter_context(collecting_later())
        planning, plan = timed(lambda: plan_node(snapshot, NODE, Settings()))
        compiling, compiled = timed(lambda: backend.compile(plan))
        comparing, pending = timed(lambda: namespace.run(lambda: mechanism.pending(compiled.program, reread=True)))
        making, _ = timed(lambda: namespace.run(pending.make))
        sweeping, _ = timed(lambda: namespace.run(pending.sweep))
        return Stages(planning, compiling, comparing, making + sweeping)


def baseline_cold(size: Size) -> float:
    """Seconds `nft` takes to load the baseline's ruleset into a new namespace."""
    with Namespace() as namespace:
        return Baseline(namespace).load(size)


def _in_new_process(work: Callable[[Size], Any], size: Size) -> Any:
    """Like the agent at its start: with an empty heap."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(work, size).result()


# --- the big node ---


@contextmanager
def _nodes() -> Iterator[list[Node]]:
    """Five wired nodes: netplane and the baseline with the big cluster, with one Service, and a control."""
    with ExitStack() as made:
        yield [made.enter_context(Node()) for _ in range(5)]


def _changes(amount: Amount, netplane: Netplane, baseline: Baseline) -> Changes:
    """The same changes for both; the baseline's last state of a Service is all that matters to it."""
    found = Changes()
    churn = Churn(amount.big, seed=2)
    for change in churn.neighbours():
        netplane.change(change)
        baseline.change(change)
    for number, change in enumerate([*churn.rounds(amount.changes), *churn.resized(amount.resized)]):
        _note(found.netplane, change, netplane.change(change))
        if number // 3 % amount.per_baseline == 0:
            _note(found.baseline, change, baseline.change(change))
    netplane.compare(disturbed=False)
    for _ in range(amount.comparisons):
        found.undisturbed.append(netplane.compare(disturbed=False))
        found.disturbed.append(netplane.compare(disturbed=True))
        netplane.compare(disturbed=False)
    return found


def _note(into: dict[str, list[float]], change: Change, seconds: float) -> None:
    into.setdefault(change.kind.value, []).append(seconds)


def _packets(amount: Amount, nodes: list[Node]) -> dict[str, list[list[float]]]:
    big, baseline_big, only, control, baseline_only = nodes
    one = Size(1, amount.big.endpoints)
    for node in (only, control):
        with closing(Netplane(node.node)) as netplane:
            netplane.load(clusters.snapshot(one))
    Baseline(baseline_only.node).load(one)
    last = amount.big.services - 1
    targets = {
        LAST: Target(big, last),
        ONLY: Target(only, 0),
        CONTROL: Target(control, 0),
        BASELINE_LAST: Target(baseline_big, last),
        BASELINE_ONLY: Target(baseline_only, 0),
    }
    rounds = [connect_times(targets, amount.packet_samples) for _ in range(amount.packet_rounds)]
    return {name: [each[name] for each in rounds] for name in targets}
