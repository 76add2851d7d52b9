"""The real agent on a folder of manifests: start-up, memory, change by change, and while endpoints never rest."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import clusters
from bench.clusters import TARGET_PORT, Change, Churn
from bench.kube_proxy_iptables import endpoint_chain
from bench.observe import Observer, observer
from bench.process import Agent, hint
from bench.results import AgentRun, Amount, Flaps
from bench.ways import LEGACY, Way
from netplane.kernel import command
from netplane.kernel.netns import Namespace

READY_SECONDS = 300.0
_CHANGE_SECONDS = 240.0
_PAUSE = (0.06, 0.1)
"""Seconds between two changes. The agent's rounds are 0.05 apart, which is not what is measured here."""
FLAPS_PER_SECOND = 100
_SETTLED_SECONDS = 0.5


def run_agent(way: Way, amount: Amount) -> AgentRun:
    """Start the agent on the big cluster, change endpoints one by one, then FLAPS_PER_SECOND of them."""
    found = AgentRun()
    with TemporaryDirectory(prefix="netplane-bench-") as place, Namespace() as namespace:
        folder = Path(place, "manifests")
        folder.mkdir()
        clusters.write_manifests(amount.big, folder)
        hint(way, namespace)
        started = time.perf_counter()
        with Agent(way, namespace, folder, Path(place)) as agent:
            agent.must_be_ready(READY_SECONDS)
            found.start_seconds = time.perf_counter() - started
            found.started_mib = agent.memory("VmRSS")
            churn = Churn(amount.big)
            try:
                with observer(way, namespace, agent) as seen:
                    _one_by_one(amount, folder, churn, seen, found)
                if amount.flap_seconds:
                    found.flaps = _flap(way, amount, namespace, folder, agent, churn)
            except TimeoutError as error:
                raise RuntimeError(f"{way}: {error}; the agent's last words: {agent.last_words()}") from error
            found.ended_mib, found.peak_mib = agent.memory("VmRSS"), agent.memory("VmHWM")
    return found


def _one_by_one(amount: Amount, folder: Path, churn: Churn, seen: Observer, found: AgentRun) -> None:
    """At least one of each kind, all of them if there is time, and more if there is too much."""
    for change in churn.neighbours():
        _one(change, folder, seen)
    began = time.monotonic()
    enough = began + max(amount.change_seconds, amount.agent_seconds)
    for change in chain(_before(enough, amount, churn), _until(began + amount.agent_seconds, churn)):
        found.changes.setdefault(change.kind.value, []).append(_one(change, folder, seen))


def _before(ends: float, amount: Amount, churn: Churn) -> Iterator[Change]:
    for number in range(max(amount.changes, amount.resized)):
        if number and time.monotonic() >= ends:
            return
        yield from churn.rounds(1 if number < amount.changes else 0)
        yield from churn.resized(1 if number < amount.resized else 0)


def _until(ends: float, churn: Churn) -> Iterator[Change]:
    while time.monotonic() < ends:
        yield from churn.rounds(1)


def _one(change: Change, folder: Path, seen: Observer) -> float:
    """Rename a new version of a manifest into place; seconds until the kernel has it."""
    time.sleep(random.uniform(*_PAUSE))
    new = written(change, folder)
    seen.drain()
    started = time.perf_counter_ns()
    new.rename(folder / new.name)
    return (seen.wait(change, _CHANGE_SECONDS) - started) / 1e9


def written(change: Change, folder: Path, target_port: int = TARGET_PORT) -> Path:
    """The new version, on the same file system, but not watched: the agent sleeps until it is renamed."""
    new = folder.parent / clusters.file_of(change.index)
    new.write_text(clusters.manifest(change.index, change.addresses, target_port))
    return new


# --- endpoints that never rest ---


def _flap(way: Way, amount: Amount, namespace: Namespace, folder: Path, agent: Agent, churn: Churn) -> Flaps:
    """FLAPS_PER_SECOND endpoints change, evenly, however far the agent gets. The last one is an endpoint added."""
    *changes, last = churn.rounds(max(round(amount.flap_seconds * FLAPS_PER_SECOND / 3), 1))
    before, rounds, found = agent.used(), agent.rounds, Flaps(changes=len(changes) + 1)
    began = time.monotonic()
    for number, change in enumerate(changes):
        new = written(change, folder)
        time.sleep(max(began + number / FLAPS_PER_SECOND - time.monotonic(), 0))
        new.rename(folder / new.name)
    new = written(last, folder)
    with observer(way, namespace, agent) as seen:
        seen.drain()
        renamed = time.monotonic()
        new.rename(folder / new.name)
        seen.wait(last, _CHANGE_SECONDS)
        while way == LEGACY and not _legacy_has(last, namespace):
            seen.wait(last, _CHANGE_SECONDS)  # what it had done was the round before
        ended = time.monotonic()
    found.lag, found.seconds = ended - renamed, ended - began
    time.sleep(_SETTLED_SECONDS)  # until its programs have ended, and it has said so
    used = agent.used().since(before)
    found.itself, found.programs, found.rounds = used.itself, used.programs, agent.rounds - rounds
    return found


def _legacy_has(change: Change, namespace: Namespace) -> bool:
    """Whether the endpoints that came have chains."""
    words = ("iptables-legacy-save", "-t", "nat")
    saved = namespace.run(lambda: command.run(*words, mechanism="bench", doing="look for an endpoint"))
    return all(f":{endpoint_chain(change.index, each)} " in saved for each in change.came)
