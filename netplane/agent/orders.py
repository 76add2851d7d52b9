"""Orders to switch the backend: given by whoever asks at the socket, carried out by the loop, one after another."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from netplane.agent.switch import Connections
from netplane.backends.backend import Backend
from netplane.errors import KernelError, NetplaneError


class Order:
    """To serve with backend `to`. Whoever gave it may be gone before it is carried out."""

    def __init__(self, to: Backend) -> None:
        self.to = to
        self.outcome: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    def done(self, was: Backend, *, changed: bool, connections: Connections | None = None) -> None:
        """It was carried out, or there was nothing to do."""
        value = {"from": was.name, "to": self.to.name, "changed": changed}
        if not self.outcome.done():
            self.outcome.set_result(value | {"connections": connections_value(connections)})

    def refused(self, error: NetplaneError) -> None:
        """It was not."""
        if not self.outcome.done():
            self.outcome.set_exception(error)
            self.outcome.exception()  # nobody may be waiting to retrieve it


class Orders:
    """Those that wait. Used inside one event loop."""

    def __init__(self) -> None:
        self._waiting: deque[Order] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def give(self, to: Backend) -> asyncio.Future[dict[str, Any]]:
        """Put an order behind the others. Its answer, or NetplaneError if it was refused."""
        order = Order(to)
        self._waiting.append(order)
        return order.outcome

    def next(self) -> Order:
        """The first that waits."""
        return self._waiting.popleft()

    def close(self) -> None:
        """Refuse all that wait."""
        while self._waiting:
            error = KernelError(mechanism="agent", doing=f"switch to {self._waiting[0].to.name}", said="it ends")
            self.next().refused(error)


def connections_value(found: Connections | None) -> dict[str, int] | None:
    """For JSON and for the log; None if the kernel did not list them."""
    return {"kept": found.kept, "broken": found.broken, "ended": found.ended} if found else None
