"""Cold loads: a whole cluster into a new namespace, netplane and the baseline by turns."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from typing import Any

from bench import clusters
from bench.baselines import LIMIT_SECONDS, baseline
from bench.clusters import NODE, Size
from bench.nodes import host
from bench.results import ColdLoads, Load, Stages
from bench.timing import collecting_later, timed
from bench.ways import Way
from netplane.backends.registry import backend_named
from netplane.kernel.mechanism import Pending
from netplane.kernel.netns import Namespace
from netplane.plan.node import plan_node
from netplane.plan.settings import Settings


def cold_loads(load: Load, ways: tuple[Way, ...], before: list[ColdLoads]) -> list[ColdLoads]:
    """All ways by turns. A baseline that was stopped once, in `before`, is not tried with more Services again."""
    found = [ColdLoads(str(way), load.size, stopped=_stopped(way, before)) for way in ways]
    for turn in range(max(load.netplane, load.baseline)):
        for way, here in zip(ways, found, strict=True):
            if turn < load.netplane:
                here.netplane.append(in_new_process(netplane_cold, way, load.size))
            if turn < load.baseline and not here.stopped:
                seconds = in_new_process(baseline_cold, way, load.size)
                here.baseline += [] if seconds is None else [seconds]
                here.stopped = LIMIT_SECONDS if seconds is None else 0.0
    return found


def _stopped(way: Way, before: list[ColdLoads]) -> float:
    return max((each.stopped for each in before if each.way == str(way)), default=0.0)


def netplane_cold(way: Way, size: Size) -> Stages:
    """Load a decoded cluster into a new namespace, stage by stage, with the agent's own objects."""
    snapshot, backend = clusters.snapshot(size), backend_named(way.backend)
    with ExitStack() as opened:
        namespace = opened.enter_context(Namespace())
        here = opened.enter_context(namespace.run(lambda: host(way)))
        opened.enter_context(collecting_later())
        planning, plan = timed(lambda: plan_node(snapshot, NODE, Settings()))
        compiling, compiled = timed(lambda: backend.compile(plan))
        comparing, pending = timed(lambda: namespace.run(lambda: here.pending(compiled.program)))
        making, _ = timed(lambda: namespace.run(lambda: _carry_out(pending)))
        return Stages(planning, compiling, comparing, making)


def _carry_out(pending: list[Pending]) -> None:
    for each in pending:
        each.make()
    for each in reversed(pending):
        each.sweep()


def baseline_cold(way: Way, size: Size) -> float | None:
    """Seconds the baseline takes in a new namespace; None if it was stopped."""
    with Namespace() as namespace:
        return baseline(way, namespace).load(size)


def in_new_process(work: Callable[..., Any], *given: Any) -> Any:
    """Like the agent at its start: with an empty heap."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(work, *given).result()
