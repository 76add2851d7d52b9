"""The daemon: waits for changes of the source and of the kernel, signals, questions and the clock, and reconciles.

SIGTERM and SIGINT end the process and leave the data path as it is: established and new connections go on
without it. SIGHUP reads the whole source again. What takes long is done by `work.py` in a thread of its own.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from netplane import __version__
from netplane.agent.control import ControlServer
from netplane.agent.health import HealthServers
from netplane.agent.means import Means, means_of
from netplane.agent.orders import Order, Orders, connections_value
from netplane.agent.pace import HEAR_SECONDS, Pace, Reach
from netplane.agent.reconcile import Round
from netplane.agent.status import Facts, History
from netplane.agent.systemd import Systemd
from netplane.agent.telling import (
    ProblemLog,
    memory,
    now,
    pressure,
    repair_fields,
    round_fields,
    tell_ready,
)
from netplane.agent.work import AgentOptions, NetworkNotMade, NotSwitched, Switched
from netplane.backends.backend import Backend
from netplane.backends.registry import backend_named
from netplane.errors import InputError, NetplaneError

Said = TypeVar("Said")

log = logging.getLogger("netplane.agent")

POLL_SECONDS = 0.5
"""How often mechanisms are asked whose changes nobody tells."""
STUCK_SECONDS = 300.0
"""After so long at one piece of work systemd's watchdog hears nothing more."""


def hold_reloads() -> None:
    """Let SIGHUP wait until somebody can understand it: unhandled it would end the process."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})


def run_agent(options: AgentOptions) -> None:
    """Run until a signal ends it.

    Raises NetplaneError if the very first round cannot work, OwnershipError if another agent is at work here.
    """
    # What is made until the first round is done stays. Collections would visit it again and again for nothing, and
    # cost a third of the time (scripts/bench).
    gc.disable()
    try:
        with means_of(options) as means:
            asyncio.run(_Agent(options, means).run())
    finally:
        gc.enable()


class _Agent:
    def __init__(self, options: AgentOptions, means: Means) -> None:
        self._options = options
        self._host, self._events, self._watcher, self._mark, questions, self._work, self._pods, self._network = means
        self._thread = ThreadPoolExecutor(1, "rounds")
        self._history = History(now())
        self._problems = ProblemLog()
        self._health = HealthServers()
        self._systemd = Systemd()
        self._control = ControlServer(questions, self._answer)
        self._unread: frozenset[Path] | None = None  # what of the source changed; None: everything may have
        self._culprit = ""
        self._polling: asyncio.TimerHandle | None = None
        self._busy = self._reloading = self._stop = self._told_ready = False
        self._orders = Orders()

    async def run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._pace = Pace(self._options.limits, self._loop.time())
        self._listen()
        await self._control.start()
        try:
            await self._start()
            while not self._stop:
                await self._wait()
                if self._stop:
                    break
                if self._orders:
                    await self._carry_out(self._orders.next())
                elif self._loop.time() >= self._pace.due():
                    await self._round()
        finally:
            self._systemd.stopping()
            self._orders.close()
            self._control.close()
            self._health.close()
            self._thread.shutdown()

    def _listen(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._end, number)
        self._loop.add_signal_handler(signal.SIGHUP, self._reload)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        self._loop.add_reader(self._watcher.fileno(), self._source_changed)
        self._loop.add_reader(self._events.fileno(), self._kernel_told)
        self._loop.add_reader(self._mark.fileno(), self._mark.answer)
        self._network.listen(self._loop, self._look_soon)
        if self._mark.squatter:
            log.warning("cannot be sure to be the only agent here", extra={"name taken by": self._mark.squatter})
        if self._systemd.watchdog_seconds:
            self._alive()

    async def _start(self) -> None:
        await self._round()
        gc.collect()
        gc.freeze()
        gc.enable()

    def _ready(self, first: Round) -> None:
        """Services are served; said once."""
        if self._told_ready or self._stop:
            return
        self._told_ready = True
        log.info("ready", extra=round_fields(first) | {"node": self._options.node, "backend": self._work.backend.name})
        tell_ready(self._options.ready_fd)
        self._systemd.ready()
        self._say_how_it_is()

    # --- what happens meanwhile -------------------------------------------------------------------------------------

    async def _wait(self) -> None:
        self._wake.clear()
        delay = self._pace.due() - self._loop.time()
        if delay > 0 and not self._orders and not self._stop:
            try:
                await asyncio.wait_for(self._wake.wait(), delay)
            except TimeoutError:
                return

    def _end(self, number: signal.Signals) -> None:
        log.info("ending; the data path stays as it is", extra={"signal": number.name})
        self._stop = True
        self._wake.set()

    def _reload(self) -> None:
        self._systemd.reloading()
        self._reloading = True
        self._read_again(None)

    def _source_changed(self) -> None:
        try:
            changed = self._watcher.changed()
        except NetplaneError as error:
            log.error("cannot watch the source; it is read every round", extra={"why": str(error)})
            changed = None
        if changed is None or changed:
            self._read_again(changed)

    def _read_again(self, changed: frozenset[Path] | None) -> None:
        self._unread = None if changed is None or self._unread is None else self._unread | changed
        self._look_soon()

    def _look_soon(self) -> None:
        self._pace.changed()
        self._wake.set()

    def _kernel_told(self) -> None:
        # A change rarely comes alone, and those of the CNI plugin, one for each container, are not worth waking up for.
        self._loop.remove_reader(self._events.fileno())
        self._loop.call_later(HEAR_SECONDS, self._hear)

    def _hear(self) -> None:
        self._loop.add_reader(self._events.fileno(), self._kernel_told)
        if by := self._events.read(self._work.reconciler.program):
            self._disturbed(by)

    def _disturbed(self, by: str = "") -> None:
        """Somebody, `by` if we know, changed what is ours. Until it is repaired nothing else matters."""
        self._events.leave()
        self._culprit = self._culprit or by
        self._pace.disturbed(sure=bool(by))
        self._wake.set()

    def _poll_later(self) -> None:
        if self._polling is None and not (self._host.told and self._network.told):
            self._polling = self._loop.call_later(POLL_SECONDS, self._poll)

    def _poll(self) -> None:
        self._polling = None
        self._poll_later()
        if self._busy:
            return
        if not self._pace.repairing and self._host_says(self._host.disturbed):
            self._disturbed()
        self._network.poll()

    def _alive(self) -> None:
        self._loop.call_later(self._systemd.watchdog_seconds / 2, self._alive)
        if self._history.busy_seconds(now()) < STUCK_SECONDS:
            self._systemd.alive()

    # --- rounds -----------------------------------------------------------------------------------------------------

    async def _round(self) -> None:
        """One round. Raises if it fails before Services were ever served."""
        served: Round | None = None
        reloading, self._reloading = self._reloading, False
        with self._deaf():
            reach = self._pace.start(self._loop.time())
            changed, self._unread = self._unread, frozenset()
            self._history.begin(now(), "round")
            look, answers = self._network.take(), self._network.answers
            try:
                served = await self._loop.run_in_executor(self._thread, self._work.round, changed, reach, look, answers)
            except NetplaneError as error:
                if isinstance(error, NetworkNotMade):
                    served = error.done  # who waits for us to be ready may be who makes this node's Node
                elif not self._told_ready:
                    raise
                self._failed(error)
            else:
                self._done(served, reach)
        if reloading:
            self._systemd.ready()
        await self._answer_health()
        if served is not None:
            self._ready(served)

    @contextmanager
    def _deaf(self) -> Iterator[None]:
        """Hear nothing of what the kernel tells, for it is our own doing, but miss nothing that others do meanwhile."""
        mark = self._host_says(self._host.mark)
        self._events.leave()
        if by := self._events.drain(self._work.reconciler.program):
            self._disturbed(by)
        self._busy = True
        try:
            with self._network.deaf():
                yield
        finally:
            self._busy = False
        self._poll_later()
        if self._pace.repairing:
            return
        self._events.join()
        if self._host_says(self._host.mark) != mark:
            self._disturbed()

    def _done(self, done: Round, reach: Reach) -> None:
        failure, started = self._history.failure, self._history.started
        repairs = self._history.done(now(), done, whole=reach is not Reach.CHANGES, by=self._culprit)
        self._pace.done(self._loop.time(), reach)
        if reach is not Reach.CHANGES:
            self._culprit = ""
        for repair in repairs:
            log.warning("drift repaired", extra=repair_fields(repair))
        if failure:
            log.info("recovered", extra={"from": failure})
        if done.summary.changed and started:
            log.info("reconciled", extra=round_fields(done))
        self._problems.report(self._work.problems())
        if failure:
            self._say_how_it_is()

    def _failed(self, error: NetplaneError) -> None:
        before, why = self._history.failure, str(error)
        self._history.failed(now(), why)
        self._pace.failed(self._loop.time())
        self._unread = None
        if why != before:
            log.error("cannot reconcile; the last good state stays and is tried again", extra={"why": why})
            self._say_how_it_is()

    def _host_says(self, what: Callable[[], Said]) -> Said | None:
        """What a cheap question gets; None if the kernel does not answer, for the next round will say why."""
        try:
            return what()
        except NetplaneError:
            return None

    async def _answer_health(self) -> None:
        self._health.healthy = not self._history.failure
        if plan := self._work.reconciler.plan:
            await self._health.update(self._work.reconciler.health_checks(), plan.node, plan.settings)

    def _say_how_it_is(self) -> None:
        how = f"failing: {self._history.failure}" if self._history.failure else "the kernel is up to date"
        self._systemd.status(f"{self._work.backend.name}: {how}")

    # --- questions and orders ---------------------------------------------------------------------------------------

    async def _answer(self, question: dict[str, Any]) -> dict[str, Any]:
        match question:
            case {"ask": "status"}:
                return self._status()
            case {"ask": "backend", "backend": str(name)}:
                outcome = self._orders.give(backend_named(name))
                self._wake.set()
                return await outcome
        raise InputError("the agent does not understand the question; is it of another version?")

    async def _carry_out(self, order: Order) -> None:
        """Switch the backend, and say what came of it."""
        was = self._work.backend
        if order.to is was:
            order.done(was, changed=False)
            return
        with self._deaf():
            self._history.begin(now(), f"switch to {order.to.name}")
            try:
                done = await self._loop.run_in_executor(self._thread, self._work.switch, order.to)
            except NotSwitched as error:
                self._not_switched(error)
                order.refused(error)
            else:
                self._switched(was, done)
                order.done(was, changed=True, connections=done.connections)
        await self._answer_health()

    def _switched(self, was: Backend, done: Switched) -> None:
        to, found = self._work.backend.name, done.connections
        self._history.switched(now(), was.name, to, connections_value(found))
        lasting = f"--backend {to} makes it last; a restart goes back to {self._options.backend.name}"
        configured = to == self._options.backend.name
        fields = round_fields(done.round) | {"from": was.name, "to": to} | (connections_value(found) or {})
        log.info("backend switched", extra=fields if configured else fields | {"note": lasting})
        self._done(done.round, Reach.KERNEL)
        self._say_how_it_is()

    def _not_switched(self, error: NotSwitched) -> None:
        log.error("backend not switched", extra={"why": str(error)})
        if error.restored:
            self._history.refused()
        else:
            self._failed(error)

    def _status(self) -> dict[str, Any]:
        plan, at = self._work.reconciler.plan, now()
        facts = Facts(
            pid=os.getpid(),
            version=__version__,
            node=self._options.node,
            configured=self._options.backend.name,
            running=self._work.backend.name,
            source=str(self._options.source),
            complete=self._work.loaded.complete,
            services=len(plan.services) if plan else 0,
            frontends=self._work.reconciler.frontends,
            problems=self._problems.standing,
            due=at + timedelta(seconds=max(self._pace.due() - self._loop.time(), 0.0)),
            memory=memory(),
            pressure=pressure(),
            troubles=tuple(self._work.reconciler.flows.troubles.values()),
            cni=self._pods.value() if self._pods else None,
            network=self._work.pod_network.value(),
        )
        return self._history.value(at, facts)
