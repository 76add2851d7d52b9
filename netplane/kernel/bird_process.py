"""The bird of this network namespace: found without memory, started so that it outlives us, ended.

It is started in its folder with names of files relative to it: a process of our user, with those words, in that folder
and in this namespace is ours. Where the folder was taken away from under it, its path in /proc still tells.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from netplane.closing import Closing
from netplane.errors import KernelError, RequirementError
from netplane.kernel import command
from netplane.kernel.bird import MECHANISM, SOCKET, BirdControl

CONFIGURATION, PID_FILE = "bird.conf", "bird.pid"

_WORDS = ("-c", CONFIGURATION, "-s", SOCKET, "-P", PID_FILE)
_RECOVER = "-R"
_END_SECONDS = 5.0
_DELETED = " (deleted)"


class BirdProcess(Closing):
    """A running bird. No other process is meant by it, however long it is kept."""

    def __init__(self, pid: int) -> None:
        """Raises ProcessLookupError if there is no such process."""
        self.pid = pid
        self._fd = os.pidfd_open(pid)

    @property
    def alive(self) -> bool:
        """Whether it runs. Takes a microsecond."""
        return not self._ended(0)

    def end(self, folder: Path, *, graceful: bool) -> None:
        """End it; its routes stay in the kernel.

        `graceful`: those it speaks with keep what it announced for a while, as if it were about to come back.
        """
        try:
            with BirdControl(folder) as control:
                control.ask("graceful restart" if graceful else "down")
        except KernelError:
            self._signal(signal.SIGTERM)  # the same as "down"
        if not self._ended(_END_SECONDS):
            self.kill()

    def kill(self) -> None:
        """End it at once: as gracefully as when the node loses power. Raises KernelError if it stays."""
        self._signal(signal.SIGKILL)
        if not self._ended(_END_SECONDS):
            raise KernelError(mechanism=MECHANISM, doing=f"end pid {self.pid}", said="it does not end")

    def close(self) -> None:
        """Let go of it. It runs on."""
        os.close(self._fd)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fd, number)

    def _ended(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))


def program() -> str:
    """Where bird is. Raises RequirementError if it is missing."""
    if found := command.find("bird"):
        return found
    raise RequirementError("the program 'bird' is missing; install it (Debian: apt install bird2)")


def check(folder: Path) -> None:
    """Raises KernelError with bird's words if the configuration in `folder` is none."""
    words = (program(), "-p", "-c", CONFIGURATION)
    _run(words, folder, "check the configuration")


def start(folder: Path, *, recover: bool) -> BirdProcess:
    """A bird in the network namespace of the calling thread, child of nobody, that answers.

    `recover`: it takes over the routes one before it left in the kernel, and touches none until those it speaks with
    have told theirs. Raises KernelError with bird's words if it does not run.
    """
    _run((program(), *_WORDS, *([_RECOVER] if recover else [])), folder, "start")
    BirdControl(folder).close()  # its pid file is written before it answers
    started = find(folder, everywhere=False)
    if started is None:
        raise KernelError(mechanism=MECHANISM, doing="start", said="it ended at once")
    return started


def find(folder: Path, *, everywhere: bool) -> BirdProcess | None:
    """The bird of this folder and of the calling thread's network namespace, if it runs.

    `everywhere`: look at every process, in case the pid file is gone.
    """
    resolved = os.path.realpath(folder)
    here = Path("/proc/thread-self/ns/net").stat()
    for pid in _candidates(folder, everywhere=everywhere):
        with suppress(OSError):
            found = BirdProcess(pid)  # first: what is asked below is asked of this one
            if _is_ours(pid, resolved, here) and found.alive:
                return found
            found.close()
    return None


def _candidates(folder: Path, *, everywhere: bool) -> Iterator[int]:
    with suppress(OSError, ValueError):
        yield int((folder / PID_FILE).read_text())
    if everywhere:
        yield from (int(each.name) for each in Path("/proc").iterdir() if each.name.isdecimal())


def _is_ours(pid: int, folder: str, namespace: os.stat_result) -> bool:
    """Both processes live, so that numbers of namespaces (which are used again) are compared well."""
    place = Path(f"/proc/{pid}")
    try:
        words = (place / "cmdline").read_bytes().decode(errors="replace").split("\0")
        if tuple(words[1 : len(_WORDS) + 1]) != _WORDS or place.stat().st_uid != os.geteuid():
            return False
        there = (place / "ns" / "net").stat()
        cwd = str((place / "cwd").readlink()).removesuffix(_DELETED)
    except OSError:
        return False  # it ended meanwhile
    return (there.st_dev, there.st_ino) == (namespace.st_dev, namespace.st_ino) and cwd == folder


def _run(words: tuple[str, ...], folder: Path, doing: str) -> None:
    done = subprocess.run(
        words,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={"LC_ALL": "C.UTF-8"},
        start_new_session=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.decode(errors="backslashreplace") or f"exit code {done.returncode}"
        raise KernelError(mechanism=MECHANISM, doing=doing, said=said)
