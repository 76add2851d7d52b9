"""The real agent as a process of its own: started, watched and ended."""

from __future__ import annotations

import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bench.baselines import send
from bench.clusters import NODE
from bench.ways import IPTABLES, LEGACY, Way
from netplane.closing import Closing
from netplane.kernel.netns import Namespace

_END_SECONDS = 30.0
_TICKS = os.sysconf("SC_CLK_TCK")
_HINT = {IPTABLES: "iptables-nft", LEGACY: "iptables-legacy"}


def hint(way: Way, namespace: Namespace) -> None:
    """Leave the sign of a kubelet that uses this variant of iptables: the agent then uses it, too."""
    if program := _HINT.get(way):
        send(namespace, "", program, "-t", "mangle", "-N", "KUBE-IPTABLES-HINT")


@dataclass(frozen=True, slots=True)
class Used:
    """Seconds of processor time so far: of the agent itself, and of the programs it started that have ended."""

    itself: float
    programs: float

    def since(self, before: Used) -> Used:
        """What was used in between."""
        return Used(self.itself - before.itself, self.programs - before.programs)


class Agent(Closing):
    """An agent in a namespace, on a folder of manifests, in a process group of its own. `place` is for its files."""

    def __init__(self, way: Way, namespace: Namespace, folder: Path, place: Path) -> None:
        self._ready, tell = os.pipe()
        words = (sys.executable, "-m", "netplane", "agent", "run", "--from", str(folder), "--node", NODE)
        options = ("--backend", way.backend, "--run-dir", str(place / "run"), "--log", "json", "--ready-fd", str(tell))
        options += ("--state-dir", str(place / "state"))
        try:
            self.process = namespace.run(
                lambda: subprocess.Popen(
                    (*words, *options), stderr=subprocess.PIPE, pass_fds=(tell,), start_new_session=True
                )
            )
        finally:
            os.close(tell)
        self.rounds = 0
        """How many rounds have changed something since it was ready."""
        self._ended: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._last: deque[str] = deque(maxlen=20)
        self._reader = threading.Thread(target=self._read, name="agent's stderr", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def ready(self, seconds: float) -> bool:
        """Whether the kernel is up to date within so long. To be asked until it says so, not again."""
        return bool(select.select([self._ready], [], [], seconds)[0]) and os.read(self._ready, 1) == b"1"

    def must_be_ready(self, seconds: float) -> None:
        """Wait for it. Raises RuntimeError with what it said if it does not become so."""
        if not self.ready(seconds):
            raise RuntimeError(f"the agent did not become ready: {self.last_words()}")

    def last_words(self) -> str:
        """The last lines it said."""
        return "".join(self._last)[-2000:]

    def forget_rounds(self) -> None:
        """Let `next_round` be one that ends from here on."""
        with suppress(queue.Empty):
            while True:
                self._ended.get_nowait()

    def next_round(self, seconds: float) -> int:
        """`perf_counter_ns` when it said that a round changed something. Raises TimeoutError, at once if it ended."""
        try:
            when = self._ended.get(timeout=seconds)
        except queue.Empty:
            when = None
        if when is None:
            raise TimeoutError(f"no round in {seconds:g} s")
        return when

    def memory(self, what: str) -> float:
        """VmRSS or VmHWM, in MiB."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(what)).split()[1]) / 1024

    def used(self) -> Used:
        """Processor time so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        user, system, childrens_user, childrens_system = (int(each) / _TICKS for each in fields[11:15])
        return Used(user + system, childrens_user + childrens_system)

    def processor_seconds(self) -> float:
        """Of its threads that live, in nanoseconds' steps."""
        threads = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((each / "schedstat").read_text().split()[0]) for each in threads) / 1e9

    def working_programs(self) -> int:
        """How many processes it has started that have not ended: `nft`, `iptables-restore`."""
        children = Path(f"/proc/{self.pid}/task").glob("*/children")
        return sum(len(each.read_text().split()) for each in children)

    def kill(self, *, programs: bool) -> None:
        """SIGKILL, at once; with `programs`, to those it has started as well, as a service manager does."""
        if programs:
            os.killpg(self.pid, signal.SIGKILL)
        else:
            self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End it, if it still runs."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill(programs=True)
        self._reader.join(_END_SECONDS)
        assert self.process.stderr is not None
        self.process.stderr.close()
        os.close(self._ready)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            now = time.perf_counter_ns()
            self._last.append(line.decode(errors="replace"))
            if line.startswith(b"{") and json.loads(line)["message"] == "reconciled":
                self.rounds += 1
                self._ended.put(now)
        self._ended.put(None)
