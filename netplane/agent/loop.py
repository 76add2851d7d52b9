"""The daemon: waits for changes of the source, signals and the clock, and reconciles.

SIGTERM and SIGINT end the process and leave the data path as it is: established and new connections go on
without it. SIGHUP reads the whole source again.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from netplane.agent.health import HealthServers
from netplane.agent.pace import Limits, Pace
from netplane.agent.reconcile import Reconciler, Round
from netplane.backends.backend import Backend
from netplane.errors import NetplaneError, Problem
from netplane.kernel.host import Host
from netplane.plan.settings import Settings
from netplane.sources.manifests import Loaded, ManifestDirectory
from netplane.sources.watch import Watcher

log = logging.getLogger("netplane.agent")


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """How to run. `ready_fd` is written one byte after the first successful round, -1 for none."""

    node: str
    source: Path
    backend: Backend
    settings: Settings
    limits: Limits = field(default_factory=Limits)
    ready_fd: int = -1


def run_agent(options: AgentOptions) -> None:
    """Run until a signal ends it. Raises NetplaneError if the very first round cannot work."""
    # What is made until the first round is done stays. Collections would visit it again and again for nothing, and
    # cost a third of the time (scripts/bench).
    gc.disable()
    try:
        with Host() as host, Watcher(options.source) as watcher:  # watch before reading: no change may fall between
            asyncio.run(_Agent(options, host, watcher).run())
    finally:
        gc.enable()


class _Agent:
    def __init__(self, options: AgentOptions, host: Host, watcher: Watcher) -> None:
        self._options = options
        self._watcher = watcher
        self._source = ManifestDirectory(options.source)
        self._loaded: Loaded = self._source.refresh(None)
        self._reconciler = Reconciler(options.node, options.settings, options.backend, host)
        self._problems: frozenset[Problem] = frozenset()
        self._failure = ""
        self._health = HealthServers()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._stop = False
        self._pace = Pace(self._options.limits, loop.time())
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, number)
        loop.add_signal_handler(signal.SIGHUP, self._refresh, None)
        loop.add_reader(self._watcher.fileno(), self._source_changed)
        first = self._round(loop.time(), first=True)
        await self._answer_health()
        gc.collect()
        gc.freeze()
        gc.enable()
        log.info("ready", extra=_fields(first) | {"node": self._options.node, "backend": self._options.backend.name})
        _tell_ready(self._options.ready_fd)
        while not self._stop:
            await self._wait(loop)
            if not self._stop and loop.time() >= self._pace.due():
                self._round(loop.time(), first=False)
                await self._answer_health()
        self._health.close()

    async def _answer_health(self) -> None:
        self._health.healthy = not self._failure
        if plan := self._reconciler.plan:
            await self._health.update(self._reconciler.health_checks(), plan.node, plan.settings)

    async def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        self._wake.clear()
        delay = self._pace.due() - loop.time()
        if delay > 0:
            try:
                await asyncio.wait_for(self._wake.wait(), delay)
            except TimeoutError:
                return

    def _end(self, number: signal.Signals) -> None:
        log.info("ending; the data path stays as it is", extra={"signal": number.name})
        self._stop = True
        self._wake.set()

    def _source_changed(self) -> None:
        try:
            changed = self._watcher.changed()
        except NetplaneError as error:
            log.error("cannot watch the source; it is read every round", extra={"why": str(error)})
            changed = None
        if changed is None or changed:
            self._refresh(changed)

    def _refresh(self, changed: Iterable[Path] | None) -> None:
        self._loaded = self._source.refresh(changed)
        self._pace.changed()
        self._wake.set()

    def _round(self, now: float, *, first: bool) -> Round | None:
        whole = self._pace.whole(now)
        if whole and not first:
            self._loaded = self._source.refresh(None)  # inotify cannot see everything
        try:
            done = self._reconciler.reconcile(self._loaded.snapshot, whole=whole, sweep=self._loaded.complete)
        except NetplaneError as error:
            if first:
                raise
            self._pace.failed(asyncio.get_running_loop().time())
            if str(error) != self._failure:
                log.error("cannot reconcile; the last good state stays and is tried again", extra={"why": str(error)})
            self._failure = str(error)
            return None
        self._pace.done(asyncio.get_running_loop().time(), whole=whole)
        if self._failure:
            log.info("recovered", extra={"from": self._failure})
            self._failure = ""
        if done.summary.changed and not first:
            log.info("reconciled", extra=_fields(done))
        self._report_problems()
        return done

    def _report_problems(self) -> None:
        """Each problem once when it appears and once when it is gone."""
        problems = frozenset((*self._loaded.problems, *self._reconciler.problems()))
        for problem in sorted(problems - self._problems):
            log.warning("problem", extra={"what": str(problem)})
        for problem in sorted(self._problems - problems):
            log.info("problem solved", extra={"what": str(problem)})
        self._problems = problems


def _fields(done: Round | None) -> dict[str, object]:
    if done is None:
        return {}
    return {
        "services": done.services,
        "made": done.summary.made,
        "swept": done.summary.swept,
        "seconds": round(done.seconds, 4),
    }


def _tell_ready(fd: int) -> None:
    """Write a byte to whoever started us, and tell systemd (sd_notify(3)) if it asked."""
    if fd >= 0:
        try:
            os.write(fd, b"1")
            os.close(fd)
        except OSError as error:  # whoever asked is not there any more, or gave a wrong number
            log.warning("cannot tell that it is ready", extra={"why": f"--ready-fd {fd}: {error.strerror}"})
    if address := os.environ.get("NOTIFY_SOCKET"):
        try:
            _notify("\0" + address[1:] if address.startswith("@") else address)
        except (OSError, ValueError) as error:
            # The kernel is up to date whoever knows it; systemd itself decides what silence means.
            log.warning("cannot tell systemd that it is ready", extra={"why": f"NOTIFY_SOCKET={address}: {error}"})


def _notify(address: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
        notify.sendto(b"READY=1", address)
