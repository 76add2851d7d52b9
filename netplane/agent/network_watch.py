"""Hears what happens to the Pod network, and remembers how far the next round has to look."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from netplane.agent.alive import AliveWatch
from netplane.agent.network import Answers, Look, PodNetwork
from netplane.agent.pace import HEAR_SECONDS, REPAIR_SECONDS
from netplane.closing import Closing
from netplane.kernel.network_events import NetworkEvents


class NetworkWatch(Closing):
    """Listens in the network namespace of the thread that makes it, if there is a network to watch."""

    def __init__(self, network: PodNetwork) -> None:
        self._network = network
        self._events = NetworkEvents() if network.settings is not None else None
        self._alive = AliveWatch() if network.elects else None
        self._ticking: asyncio.TimerHandle | None = None
        self._look = Look.KERNEL  # the first round compares everything
        self._repaired = 0.0
        self._repair: asyncio.TimerHandle | None = None
        self._deaf = False

    def listen(self, loop: asyncio.AbstractEventLoop, changed: Callable[[], None]) -> None:
        """Call `changed` when a round has to look at the network again."""
        self._loop, self._changed = loop, changed
        if self._events is not None:
            loop.add_reader(self._events.fileno(), self._told, self._events)
        if self._alive is not None:
            loop.add_reader(self._alive.fileno(), self._tick, self._alive)

    @property
    def told(self) -> bool:
        """Whether it hears of all that others change; if not, `poll` has to be called now and then."""
        return self._network.told

    def poll(self) -> None:
        """Look at what nobody tells us of. Cheap."""
        if self._network.disturbed():
            self._ask_for(Look.KERNEL)

    @property
    def answers(self) -> Answers:
        """Which nodes answer, as far as is known."""
        return Answers(self._alive.silent, sure=self._alive.sure) if self._alive is not None else Answers()

    def take(self) -> Look:
        """How far the round that begins now has to look."""
        look, self._look = self._look, Look.CHANGES
        return look

    @contextmanager
    def deaf(self) -> Iterator[None]:
        """Hear nothing meanwhile; what was told is read afterwards and compared with what is wanted then."""
        self._deaf = True
        try:
            yield
        finally:
            self.hear()

    def hear(self) -> None:
        """A round is over: hear again, also of links that it made."""
        self._deaf = False
        if self._events is not None:
            self._hear(self._events)
        if self._alive is not None and self._network.plan is not None:  # before, nobody knows whom to ask
            if self._alive.watch(self._network.peers(), self._loop.time()):
                self._ask_for(Look.CHANGES)
            self._tick(self._alive)

    def close(self) -> None:
        """Hear nothing more."""
        for each in (self._events, self._alive):
            if each is not None:
                each.close()

    def _told(self, events: NetworkEvents) -> None:
        self._loop.remove_reader(events.fileno())
        self._loop.call_later(HEAR_SECONDS, self._hear, events)

    def _hear(self, events: NetworkEvents) -> None:
        if self._deaf:
            self._loop.call_later(HEAR_SECONDS, self._hear, events)
            return
        self._loop.add_reader(events.fileno(), self._told, events)
        heard = events.read(self._network.program.network)
        if heard.contradiction:
            if self._repair is None:  # two who fight over a route do not eat the node
                wait = max(self._repaired + REPAIR_SECONDS - self._loop.time(), 0.0)
                self._repair = self._loop.call_later(wait, self._repair_now)
        elif heard.underlay:
            self._ask_for(Look.PATHS)

    def _tick(self, alive: AliveWatch) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
        if alive.tick(self._loop.time()):
            self._ask_for(Look.CHANGES)
        due = alive.due()
        self._ticking = None if due is None else self._loop.call_at(due, self._tick, alive)

    def _repair_now(self) -> None:
        self._repair, self._repaired = None, self._loop.time()
        self._ask_for(Look.KERNEL)

    def _ask_for(self, look: Look) -> None:
        self._look = max(self._look, look)
        self._changed()
