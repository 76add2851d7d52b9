"""Agents that are killed at random moments, while their cluster changes and connections are made and last.

The connections are those of `tests/churn/storm_process.py`: a SYN that had to be sent again counts as lost.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench import clusters
from bench.agent import written
from bench.clusters import CLIENT, NODE, NODE_ADDRESS, SERVICE_PORT, Churn, Size, cluster_ip, endpoints
from bench.nodes import Node, host
from bench.process import Agent, hint
from bench.results import Kills
from bench.ways import Way
from netplane.backends.registry import backend_named
from netplane.closing import Closing
from netplane.plan.node import plan_node
from netplane.plan.settings import Settings
from netplane.sources.manifests import load

_STORM = Path(__file__).parents[1] / "churn" / "storm_process.py"
_SIZE = Size(100, 5)
_PORTS = (8080, 8200)
"""Of Services with even numbers, where the storm's servers greet and close, and with odd ones, where they go on."""
_LASTING, _PER_SECOND = 50, 150
_BEGUN = 50
"""New connections before the first agent is killed."""
_PAUSE_SECONDS = 0.02
"""Between two changes."""
_AFTER_READY_SECONDS = 0.3
_READY_SECONDS = 120.0
_ANSWER_SECONDS = 60.0
_INET = 2


def kills_in_new_processes(ways: tuple[Way, ...], count: int) -> dict[str, Kills]:
    """`killed` for all ways at the same time: each makes the others' moments less regular."""
    with ProcessPoolExecutor(len(ways), mp_context=get_context("spawn")) as processes:
        found = [processes.submit(killed, way, count) for way in ways]
        return {str(way): each.result() for way, each in zip(ways, found, strict=True)}


def killed(way: Way, count: int, seed: int = 1) -> Kills:
    """Kill `count` agents one after the other, then let one live and compare the kernel with the cluster."""
    with TemporaryDirectory(prefix="netplane-bench-") as place, Node() as node:
        node.listening.close()  # the storm has servers of its own
        folder = Path(place, "manifests")
        folder.mkdir()
        clusters.write_manifests(_SIZE, folder, _PORTS)
        hint(way, node.node)
        with _Storm(node) as storm:
            return _Killer(way, node, folder, storm, random.Random(f"{way} {seed}")).run(count)


class _Killer:
    """Changes a cluster, starts agents and kills them."""

    def __init__(self, way: Way, node: Node, folder: Path, storm: _Storm, chance: random.Random) -> None:
        self._way, self._node, self._folder, self._storm, self._random = way, node, folder, storm, chance
        self._changes = Churn(_SIZE, seed=chance.randrange(1 << 30)).rounds(1 << 30)
        self._found = Kills()
        self._took = 0.0
        """Seconds from start to ready, the last time one lived so long."""

    def run(self, count: int) -> Kills:
        """Kill so many."""
        started = time.monotonic()
        with self._agent() as first:
            first.must_be_ready(_READY_SECONDS)
            self._took = time.monotonic() - started
            self._storm.start()
            self._until(first, time.monotonic() + self._random.uniform(0, _AFTER_READY_SECONDS), ready=True)
            self._kill(first, ready=True)
        while self._found.kills < count:
            with self._agent() as agent:
                self._kill(agent, ready=self._live(agent))
        with self._agent() as last:
            last.must_be_ready(_READY_SECONDS)
        self._found.differences = self._node.node.run(self._differences)
        self._storm.end(self._found)
        return self._found

    def _agent(self) -> Agent:
        return Agent(self._way, self._node.node, self._folder, self._folder.parent)

    def _live(self, agent: Agent) -> bool:
        """Every other one until a moment of its start or a bit later, the others until soon after they are ready."""
        started = time.monotonic()
        if self._random.random() < 0.5:
            return self._until(agent, started + self._random.uniform(0, 1.2) * self._took, ready=False)
        if not self._until(agent, started + _READY_SECONDS, ready=False, stop_when_ready=True):
            raise RuntimeError(f"the agent did not become ready: {agent.last_words()}")
        self._took = time.monotonic() - started
        return self._until(agent, time.monotonic() + self._random.uniform(0, _AFTER_READY_SECONDS), ready=True)

    def _until(self, agent: Agent, moment: float, *, ready: bool, stop_when_ready: bool = False) -> bool:
        """Change the cluster until then; whether the agent is ready."""
        while (left := moment - time.monotonic()) > 0:
            self._change()
            pause = min(left, _PAUSE_SECONDS)
            if ready:
                time.sleep(pause)
            elif agent.ready(pause):
                ready = True
                if stop_when_ready:
                    break
            if agent.process.poll() is not None:
                raise RuntimeError(f"the agent ended by itself: {agent.last_words()}")
        return ready

    def _change(self) -> None:
        change = next(self._changes)
        port = _PORTS[change.index % 2]
        self._storm.allow(change.index, change.addresses)
        new = written(change, self._folder, port)
        new.rename(self._folder / new.name)
        self._found.changes += 1

    def _kill(self, agent: Agent, *, ready: bool) -> None:
        """Every other time alone, as by the kernel when memory runs out, so that what it started goes on."""
        working = agent.working_programs()
        agent.kill(programs=self._found.kills % 2 == 1)
        self._found.kills += 1
        self._found.starting += not ready
        self._found.working += bool(working)

    def _differences(self) -> int:
        plan = plan_node(load(self._folder).snapshot, NODE, Settings())
        with host(self._way) as here:
            pending = here.pending(backend_named(self._way.backend).compile(plan).program)
        return sum(each.made + each.swept for each in pending)


class _Storm(Closing):
    """Connections from the Pod and from the node to all Services: new ones without end, and some that last."""

    def __init__(self, node: Node) -> None:
        self._process = subprocess.Popen(
            (sys.executable, str(_STORM)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self._said: list[dict[str, Any]] = []
        self._silent = False
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, name="storm", daemon=True)
        self._reader.start()
        self._allowed: dict[int, dict[str, None]] = {}
        clients = [
            {"path": str(namespace.path), "sources": {_INET: str(address)}, "mark": 0}
            for namespace, address in ((node.pod, CLIENT), (node.node, NODE_ADDRESS))
        ]
        servers = [{"path": str(node.far.path), "greet": _PORTS[:1], "echo": _PORTS[1:], "everyone": False}]
        self._tell(servers=servers, clients=clients, rate=_PER_SECOND)
        self._wait(lambda said: "ready" in said)

    def start(self) -> None:
        """Begin, and return when connections have been made for a while."""
        numbers = range(_SIZE.services)
        targets = [
            {
                "id": self._target(client, index),
                "client": client,
                "name": f"{'node' if client else 'pod'} -> svc-{index}",
                "address": (str(cluster_ip(index)), SERVICE_PORT),
                "lasting": bool(index % 2),
            }
            for index in numbers
            for client in (0, 1)
        ]
        self._tell(targets=targets)
        for index in numbers:
            self.allow(index, endpoints(index, _SIZE))
        self._tell(lasting=_LASTING, paused=False)
        end = time.monotonic() + _ANSWER_SECONDS
        while self._ask()["ended"] < _BEGUN and time.monotonic() < end:
            time.sleep(_PAUSE_SECONDS)

    def allow(self, index: int, addresses: clusters.Addresses) -> None:
        """From here on connections to a Service may end there, too: an agent may be late, but makes nothing up."""
        allowed = self._allowed.setdefault(index, {})
        allowed |= dict.fromkeys(f"{each}:{_PORTS[index % 2]}" for each in addresses)
        self._tell(allow={self._target(client, index): [*allowed] for client in (0, 1)})

    def end(self, found: Kills) -> None:
        """Stop, and tell what became of the connections."""
        self._ask()
        self._tell(stop=True)
        last = self._wait(lambda said: "slowest" in said)
        wrong = [str(said["wrong"]) for said in self._said if "wrong" in said]
        found.served, found.established = last["ended"].get("served", 0), _LASTING
        found.broken = sum("an established connection" in each for each in wrong)
        found.failed, found.wrong = len(wrong) - found.broken, wrong[:20]

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()

    @staticmethod
    def _target(client: int, index: int) -> int:
        return index * 2 + client

    def _ask(self) -> dict[str, Any]:
        number = len(self._said) + 1  # more than any that was answered
        self._tell(ack=number)
        return self._wait(lambda said: said.get("ack") == number)

    def _tell(self, **what: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")

    def _wait(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        with self._news:
            self._news.wait_for(lambda: self._silent or any(map(wanted, self._said)), _ANSWER_SECONDS)
            found = next(filter(wanted, self._said), None)
        if found is None:
            raise RuntimeError(f"the storm said {self._said[-3:]}")
        return found

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self._said.append(json.loads(line))
                self._news.notify_all()
        with self._news:
            self._silent = True
            self._news.notify_all()
