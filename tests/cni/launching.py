"""A place with a launcher in it, and what it needs to find: a socket, a spool, a server that answers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cni.install import LauncherSettings, patched
from cni.request import Reply, Request
from cni.server import CniServer, Limits
from netplane.closing import Closing

SECONDS = 20.0
CONFIG = b'{"cniVersion": "1.0.0", "name": "pods", "type": "netplane"}'


class Place(Closing):
    """A folder with a short name: a socket's address has 108 bytes."""

    def __init__(self, launcher: Path) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="np-")
        self.folder = Path(self._folder.name)
        self.socket, self.spool = self.folder / "cni.sock", self.folder / "lib" / "cni" / "spool"
        self.binary = self.folder / "netplane"
        self._launcher = launcher
        self.install()

    def install(self, python: Path | None = None, **settings: Path) -> None:
        wanted = LauncherSettings(settings.get("socket", self.socket), settings.get("spool", self.spool), python)
        made = self.folder / "new"
        made.write_bytes(patched(self._launcher.read_bytes(), wanted))
        made.chmod(0o755)
        made.replace(self.binary)

    def close(self) -> None:
        self._folder.cleanup()

    def start(self, command: str | None, stdin: int = subprocess.PIPE, **variables: str | bytes) -> subprocess.Popen:
        return subprocess.Popen(
            (self.binary,),
            env={} if command is None else environment(command, **variables),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(
        self, command: str | None, stdin: bytes = CONFIG, **variables: str | bytes
    ) -> subprocess.CompletedProcess[bytes]:
        with self.start(command, **variables) as process:
            try:
                out, err = process.communicate(stdin, timeout=SECONDS)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def listen(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        made.bind(str(self.socket))
        made.listen(1024)
        return made

    @contextmanager
    def serving(self, handler: object, limits: Limits | None = None) -> Iterator[CniServer]:
        with CniServer(self.listen(), handler, limits) as server:
            server.start()
            yield server
        self.socket.unlink()

    @contextmanager
    def answering(self, answer: Callable[[socket.socket], None]) -> Iterator[None]:
        """Something else than our server: `answer` gets one connection, which is closed afterwards."""

        def once() -> None:
            with listening.accept()[0] as connection:
                answer(connection)

        with self.listen() as listening:
            thread = threading.Thread(target=once)
            thread.start()
            yield
            thread.join()
        self.socket.unlink()


def environment(command: str, **variables: str | bytes) -> dict[str, str | bytes]:
    """What a runtime sets, and whatever `variables` say: CNI_ is put before their names."""
    usual = {"CONTAINERID": "c1", "IFNAME": "eth0", "NETNS": "", "PATH": "/opt/cni/bin"}
    return {f"CNI_{name}": value for name, value in (usual | {"COMMAND": command} | variables).items()}


def request(command: str = "ADD", stdin: bytes = CONFIG, **variables: str) -> Request:
    return Request({name: str(value) for name, value in environment(command, **variables).items()}, stdin)


def error(done: subprocess.CompletedProcess[bytes]) -> dict[str, object]:
    """The error a launcher told, which it must have told in the right way."""
    assert done.returncode == 1, done
    assert done.stderr == b""
    told = json.loads(done.stdout)
    assert {"cniVersion", "code", "msg"} <= told.keys()
    return told


@dataclass
class Recorder:
    """Answers with what it was asked, and remembers it. `quickly`: in the server's thread."""

    quickly: bool = True
    answer: Callable[[Request], Reply] = lambda _: Reply(0, b"done\n")
    requests: list[Request] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)

    def quick(self, _: Request) -> bool:
        return self.quickly

    def handle(self, request: Request) -> Reply:
        self.requests.append(request)
        self.threads.add(threading.current_thread().name)
        return self.answer(request)


def until(condition: Callable[[], object]) -> None:
    """Wait for it; fail if it does not come."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, condition
        os.sched_yield()
