"""The real agent in a namespace of its own, on a folder of manifests: start-up, memory, and change by change."""

from __future__ import annotations

import os
import random
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import clusters
from bench.clusters import NODE, Change, Churn, Size
from bench.nodes import BACKEND
from bench.observe import Notifications
from netplane.kernel.netns import Namespace

_READY_SECONDS, _CHANGE_SECONDS, _END_SECONDS = 120.0, 30.0, 30.0
_PAUSE = (0.06, 0.1)
"""Seconds between two changes. The agent's rounds are 0.05 apart, which is not what is measured here."""


@dataclass(slots=True)
class AgentRun:
    """What one run of the agent showed. Memory in MiB; `changes` are seconds from rename to kernel, by kind."""

    start_seconds: float = 0.0
    """From exec to ready: reading and decoding the manifests, the first round, and setting memory aside."""
    started_mib: float = 0.0
    ended_mib: float = 0.0
    peak_mib: float = 0.0
    changes: dict[str, list[float]] = field(default_factory=dict)


def run_agent(size: Size, rounds: int, resized: int, seconds: float = 0.0) -> AgentRun:
    """Start the agent on a cluster, change `2 * resized + 3 * rounds` endpoints by renaming files into place.

    Go on with rounds until it has run for `seconds`.
    """
    found = AgentRun()
    with TemporaryDirectory(prefix="netplane-bench-") as place, Namespace() as namespace:
        folder = Path(place, "manifests")
        folder.mkdir()
        clusters.write_manifests(size, folder)
        started = time.perf_counter()
        with _agent(namespace, folder, Path(place)) as process:
            found.start_seconds = time.perf_counter() - started
            found.started_mib = _memory(process.pid, "VmRSS")
            with Notifications(namespace) as seen:
                churn = Churn(size)
                for change in churn.neighbours():
                    _one(change, folder, seen)
                ends = time.monotonic() + seconds
                for change in chain(churn.resized(resized), churn.rounds(rounds), _until(ends, churn)):
                    found.changes.setdefault(change.kind.value, []).append(_one(change, folder, seen))
            found.ended_mib, found.peak_mib = _memory(process.pid, "VmRSS"), _memory(process.pid, "VmHWM")
    return found


def _until(ends: float, churn: Churn) -> Iterator[Change]:
    while time.monotonic() < ends:
        yield from churn.rounds(1)


def _one(change: Change, folder: Path, seen: Notifications) -> float:
    """Rename a new version of a manifest into place; seconds until the kernel has it."""
    time.sleep(random.uniform(*_PAUSE))
    name = clusters.file_of(change.index)
    new = folder.parent / name  # on the same file system, but not watched: the agent sleeps until the rename
    new.write_text(clusters.manifest(change.index, change.addresses))
    seen.drain()
    started = time.perf_counter_ns()
    new.rename(folder / name)
    return (seen.wait(change.came, change.went, _CHANGE_SECONDS) - started) / 1e9


@contextmanager
def _agent(namespace: Namespace, folder: Path, place: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The agent, ready. Raises RuntimeError with what it said if it does not become so."""
    ready, tell = os.pipe()
    log = place / "log"
    words = (sys.executable, "-m", "netplane", "agent", "run", "--from", str(folder), "--node", NODE)
    options = ("--run-dir", str(place / "run"), "--backend", BACKEND, "--log", "json", "--ready-fd", str(tell))
    try:
        with log.open("wb") as said:
            process = namespace.run(lambda: subprocess.Popen((*words, *options), stderr=said, pass_fds=(tell,)))
        os.close(tell)
        try:
            waiting = select.select([ready], [], [], _READY_SECONDS)[0]
            if not waiting or not os.read(ready, 1):
                raise RuntimeError(f"the agent did not become ready: {log.read_text()[-2000:]}")
            yield process
        finally:
            process.terminate()
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    finally:
        os.close(ready)


def _memory(pid: int, what: str) -> float:
    """VmRSS or VmHWM of a process, in MiB."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) / 1024
