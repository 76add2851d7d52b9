"""Times netplane and the baselines in one run, in turns, and returns what was seen. Asserts nothing, rounds nothing."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack

from bench import clusters
from bench.agent import run_agent
from bench.baselines import Baseline, baseline
from bench.clusters import Change, Churn, Size
from bench.cni import run_attach
from bench.cold import cold_loads
from bench.kills import kills_in_new_processes
from bench.network import run_network
from bench.nodes import Netplane, Node
from bench.packets import Target, connect_times
from bench.results import BASELINE, CONTROL, NETPLANE, PARTS, Amount, Changes, Results, target
from bench.ways import WAYS, Way, private_lock
from netplane.kernel.command import find, run

Say = Callable[[str], None]


def measure(amount: Amount, say: Say, parts: Iterable[str] = PARTS, ways: tuple[Way, ...] = WAYS) -> Results:
    """Measure these parts, all `ways` next to each other; `say` is told what comes next."""
    results, wanted = Results(machine(), amount.big), frozenset(parts)
    with private_lock():
        if "cold" in wanted:
            for load in amount.loads:
                say(f"cold load {load.size}")
                results.cold += cold_loads(load, ways, results.cold)
        if "agent" in wanted:
            for way in ways:
                say(f"agent process at {amount.big}: {way}")
                results.agents[str(way)] = run_agent(way, amount)
        if wanted & {"change", "packets"}:
            with ExitStack() as stack:
                _Nodes(amount, ways, results, say, stack).measure(wanted)
        if "kills" in wanted:
            say(f"{amount.kills} agents killed")
            results.kills = kills_in_new_processes(ways, amount.kills)
        if "cni" in wanted:
            results.attach = run_attach(amount.attach, say)
        if "network" in wanted:
            results.network = run_network(amount.network, say)
    return results


def machine() -> dict[str, str]:
    """What this ran on."""
    nft, iptables = find("nft") or "nft", find("iptables") or "iptables"
    return {
        "kernel": platform.release(),
        "processors": str(os.cpu_count()),
        "python": platform.python_version(),
        "nft": run(nft, "--version", mechanism="bench", doing="ask nft for its version").split()[1],
        "iptables": run(iptables, "--version", mechanism="bench", doing="ask iptables for its version").split()[1],
        "load before": " ".join(f"{each:.2f}" for each in os.getloadavg()),
    }


class _Nodes:
    """Wired nodes with the big cluster, one with netplane and one with the baseline for each way, and smaller ones."""

    def __init__(self, amount: Amount, ways: tuple[Way, ...], results: Results, say: Say, stack: ExitStack) -> None:
        self._amount, self._ways, self._results, self._say, self._stack = amount, ways, results, say, stack
        self._netplane: dict[Way, Netplane] = {}
        self._baseline: dict[Way, Baseline] = {}
        self._targets: dict[str, Target] = {}

    def measure(self, wanted: frozenset[str]) -> None:
        for way in self._ways:
            self._say(f"loading {self._amount.big}: {way}")
            self._load(way)
        if "change" in wanted:
            self._say("one change after the other")
            self._results.changes = {str(way): Changes() for way in self._ways}
            self._change()
            self._compare()
        if "packets" in wanted:
            for way in self._ways:
                self._say(f"smaller clusters: {way}")
                self._load_smaller(way)
            self._say("connections")
            amount = self._amount
            rounds = [connect_times(self._targets, amount.packet_samples) for _ in range(amount.packet_rounds)]
            self._results.packets = {name: [each[name] for each in rounds] for name in self._targets}

    def _load(self, way: Way) -> None:
        big = self._amount.big
        here = self._node(way, NETPLANE, big.services)
        self._netplane[way] = self._stack.enter_context(Netplane(way, here.node))
        self._netplane[way].load(clusters.snapshot(big))
        there = self._node(way, BASELINE, big.services)
        self._baseline[way] = baseline(way, there.node)
        seconds = self._baseline[way].prepare(big)
        for each in self._results.cold:
            if (each.way, each.size) == (str(way), big) and not each.stopped and seconds is not None:
                each.baseline.append(seconds)

    def _load_smaller(self, way: Way) -> None:
        smaller = [(NETPLANE, count) for count in self._amount.counts if count != self._amount.big.services]
        for who, count in (*smaller, (CONTROL, self._amount.counts[0])):
            with Netplane(way, self._node(way, who, count).node) as netplane:
                netplane.load(clusters.snapshot(Size(count, self._amount.big.endpoints)))
        for _, count in smaller:
            baseline(way, self._node(way, BASELINE, count).node).prepare(Size(count, self._amount.big.endpoints))

    def _node(self, way: Way, who: str, count: int) -> Node:
        made = self._stack.enter_context(Node())
        self._targets[target(way, who, count)] = Target(made, count - 1)
        return made

    def _change(self) -> None:
        """The same changes for all, by turns, each way for as long as it has time.

        The baseline's last state of a Service is all that matters to it, so it need not be told of every change.
        """
        churn = Churn(self._amount.big, seed=2)
        for change in churn.neighbours():
            for way in self._ways:
                self._netplane[way].change(change)
                self._baseline[way].change(change)
        left = dict.fromkeys(self._ways, self._amount.change_seconds)
        for number in range(max(self._amount.changes, self._amount.resized)):
            changes = [
                *churn.rounds(1 if number < self._amount.changes else 0),
                *churn.resized(1 if number < self._amount.resized else 0),
            ]
            for way in [each for each in self._ways if left[each] > 0]:
                compared = number % self._amount.per_baseline == 0
                left[way] -= sum(self._one(way, change, compared=compared) for change in changes)

    def _one(self, way: Way, change: Change, *, compared: bool) -> float:
        found, seconds = self._results.changes[str(way)], self._netplane[way].change(change)
        found.netplane.setdefault(change.kind.value, []).append(seconds)
        if compared:
            found.baseline.setdefault(change.kind.value, []).append(self._baseline[way].change(change))
        return seconds

    def _compare(self) -> None:
        """Once at least, and again while there is time."""
        for way in self._ways:
            found, netplane = self._results.changes[str(way)], self._netplane[way]
            ends = time.monotonic() + self._amount.change_seconds
            while not found.disturbed or (time.monotonic() < ends and len(found.disturbed) < self._amount.comparisons):
                netplane.compare(disturbed=False)  # what is found to be disturbed is read again
                found.undisturbed.append(netplane.compare(disturbed=False))
                found.disturbed.append(netplane.compare(disturbed=True))
