"""The real agent in a node of a lab, with a folder of its own for its socket, and questions to it."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from netplane.kernel.netns import Namespace

READY_SECONDS = 60.0


class Agent:
    """One agent, serving when the constructor returns; killed at the end, for the data path does not need it."""

    def __init__(self, node: Namespace, source: Path, backend: str, place: Path) -> None:
        self._node, self._place = node, place
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed by close()
        ready, told = os.pipe()
        words = (
            "run",
            "--node",
            "n1",
            "--from",
            str(source),
            "--backend",
            backend,
            "--ready-fd",
            str(told),
            "--no-cni",
        )
        self._process = node.run(
            lambda: subprocess.Popen(
                self._words(*words), stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, pass_fds=(told,)
            )
        )
        os.close(told)
        try:
            serves = select.select([ready], [], [], READY_SECONDS)[0] and os.read(ready, 1)
            assert serves, self.log()
        except BaseException:
            self.close()
            raise
        finally:
            os.close(ready)

    def ask(self, *words: str) -> dict[str, Any]:
        """What `netplane agent WORDS --output json` answers."""
        done = self._node.run(
            lambda: subprocess.run(self._words(*words, "--output", "json"), capture_output=True, text=True, check=False)
        )
        assert done.returncode == 0, f"{done.stdout}{done.stderr}{self.log()}"
        return json.loads(done.stdout)

    def runs_for(self, seconds: float) -> None:
        """Return after so long; it must not have ended by itself."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
            raise AssertionError(self.log())

    def log(self) -> str:
        """All it said."""
        self._log.seek(0)
        return self._log.read()

    def close(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()
        self._log.close()

    def _words(self, verb: str, *words: str) -> tuple[str, ...]:
        return (sys.executable, "-m", "netplane", "agent", verb, *words, "--run-dir", str(self._place))


@contextmanager
def agent(node: Namespace, source: Path, backend: str) -> Iterator[Agent]:
    """An agent on n1, for as long as the context lasts."""
    made = Agent(node, source, backend, source.parent / "run")
    try:
        yield made
    finally:
        made.close()
