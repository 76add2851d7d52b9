"""New connections without end, while everything around them changes; each outcome must be one the plan allows.

Clients in a pod, in a pod that is itself an endpoint, on the node and outside connect to every address of some Services
as fast as told. A connection that a change overtakes may end as before or as after the change, and nothing else.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from netplane.closing import Closing

SECONDS = 20.0
_PROCESS = Path(__file__).with_name("storm_process.py")

Outcomes = frozenset[str]
"""`10.244.1.5:8080` for an endpoint that answers, `refused`, or `lost`."""


@dataclass(frozen=True, slots=True)
class StormServer:
    """Who answers in a namespace: on ports `greet` with its address and port, on `echo` then to whatever is said.

    With `everyone` it is every address that packets are brought to it for.
    """

    path: str
    greet: tuple[int, ...]
    echo: tuple[int, ...]
    everyone: bool = False


@dataclass(frozen=True, slots=True)
class StormClient:
    """Who connects: the path of a namespace, a source address of each family (`AF_INET`, ...), and a mark or 0."""

    path: str
    sources: Mapping[int, str]
    mark: int = 0


@dataclass(frozen=True, slots=True)
class StormTarget:
    """What the client with this index connects to; `lasting` for connections that stay and talk."""

    id: int
    client: int
    name: str
    address: tuple[str, int]
    lasting: bool


class Storm(Closing):
    """A process with all servers and all connections. It begins paused, and nothing but "refused" is allowed."""

    def __init__(self, servers: Iterable[StormServer], clients: Iterable[StormClient], rate: float) -> None:
        self._process = subprocess.Popen(
            (sys.executable, str(_PROCESS)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self._answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.wrong: list[str] = []
        """What went wrong so far, in words."""
        self._acks = 0
        self._reader = threading.Thread(target=self._read, name="storm", daemon=True)
        self._reader.start()
        self._tell(
            servers=[asdict(each) for each in servers],
            clients=[{"path": each.path, "sources": dict(each.sources), "mark": each.mark} for each in clients],
            rate=rate,
        )
        self._answer("ready")

    def add(self, targets: Iterable[StormTarget]) -> None:
        """Connect to these, too."""
        names = ("id", "client", "name", "address", "lasting")
        self._tell(targets=[{name: getattr(each, name) for name in names} for each in targets])

    def allow(self, outcomes: Mapping[int, Outcomes]) -> None:
        """From now on these outcomes are allowed, by target. In force when this returns."""
        self._ask(allow={number: sorted(each) for number, each in outcomes.items()})

    def last(self, count: int) -> None:
        """Open some more of the connections that last."""
        self._ask(lasting=count)

    def pause(self) -> None:
        """Open no new connections; those that last go on. Returns when no other is under way."""
        while self._ask(paused=True)["open"]:
            pass

    def resume(self) -> None:
        """Go on."""
        self._ask(paused=False)

    def stop(self) -> dict[str, Any]:
        """End it: how connections ended, how many endpoints served, the slowest handshake in seconds, and of those
        that last how many are left and how many broke.
        """
        self._tell(stop=True)
        return self._answer("ended")

    def close(self) -> None:
        """End the process, whatever it does."""
        if self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _ask(self, **what: object) -> dict[str, Any]:
        self._acks += 1
        self._tell(**what, ack=self._acks)
        return self._answer("ack")

    def _tell(self, **what: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")

    def _answer(self, name: str) -> dict[str, Any]:
        answer = self._answers.get(timeout=SECONDS)
        assert name in answer, answer
        return answer

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said: dict[str, Any] = json.loads(line)
            if "wrong" in said:
                self.wrong.append(said["wrong"])
            else:
                self._answers.put(said)
        self._answers.put({"gone": True})
