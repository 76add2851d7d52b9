"""Network namespaces without names: a thread lives in each, and work is sent to it.

A namespace belongs to a *thread*, not to a process, and libraries that switch the calling thread back and forth
end up in the wrong one when threads mix. So every namespace here has one thread that enters it once, stays for
life and runs what it is given. Sockets opened there keep belonging to the namespace and may be used anywhere;
child processes started there live in it. The namespace disappears with its last user: nothing to clean up.
"""

from __future__ import annotations

import ctypes
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from netplane.closing import Closing
from netplane.errors import KernelError, RequirementError

Result = TypeVar("Result")
Job = tuple[Callable[[], Any], "Future[Any]"]

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_quick = ctypes.PyDLL(None, use_errno=True)
"""For calls of microseconds: letting other threads run meanwhile would cost more than the call."""


class Stranded(BaseException):
    """The calling thread could not return to its own namespace. No Exception, so that nobody goes on by mistake:
    whoever catches it must end the thread."""


class Visit:
    """A `with` statement whose body runs in the namespace `fd` is open on, on the calling thread.

    Only for work that cannot wait or start threads. Raises KernelError if it
    cannot enter, Stranded if it cannot return.
    """

    __slots__ = ("_fd", "_own")

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> None:
        self._own = _own_fd()
        if _quick.setns(self._fd, CLONE_NEWNET) != 0:
            os.close(self._own)
            _refused("join a namespace", ctypes.get_errno())

    def __exit__(self, *_: object) -> None:
        back = _quick.setns(self._own, CLONE_NEWNET) == 0
        os.close(self._own)
        if not back:
            raise Stranded(f"setns to the own namespace: {os.strerror(ctypes.get_errno())}")


class Namespace(Closing):
    """One network namespace, new and anonymous, or joined.

    `Namespace()` makes a new one; `Namespace(Path("/proc/7/ns/net"))` joins an existing one. Raises
    RequirementError without the privilege to do so, KernelError for any other refusal.
    """

    def __init__(self, join: Path | None = None) -> None:
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="netns", daemon=True)
        self._thread.start()
        try:
            self.run(lambda: _unshare() if join is None else _join(join))
            self.fd = self.run(_own_fd)
        except BaseException:
            self._jobs.put(None)
            raise

    @property
    def path(self) -> Path:
        """A path other processes can join this namespace by, for as long as this process holds it."""
        return Path(f"/proc/{os.getpid()}/fd/{self.fd}")

    def run(self, work: Callable[[], Result]) -> Result:
        """Call `work` inside the namespace and return what it returns or raises."""
        future: Future[Result] = Future()
        self._jobs.put((work, future))
        return future.result()

    def close(self) -> None:
        """Let go of the namespace. What was opened or started inside lives on until it ends by itself."""
        self._jobs.put(None)
        self._thread.join()
        os.close(self.fd)

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            work, future = job
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)
            del work, future, job  # or the last job's objects would live until the next one


def _own_fd() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _unshare() -> None:
    if _libc.unshare(CLONE_NEWNET) != 0:
        _refused("make a namespace", ctypes.get_errno())


def _join(path: Path) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError(mechanism="netns", doing=f"open {path}", said=str(error.strerror)) from error
    try:
        if _libc.setns(fd, CLONE_NEWNET) != 0:
            _refused(f"join {path}", ctypes.get_errno())
    finally:
        os.close(fd)


def _refused(doing: str, errno: int) -> None:
    if errno == 1:  # EPERM
        raise RequirementError(f"network namespaces: not allowed to {doing}; run as root")
    raise KernelError(mechanism="netns", doing=doing, said=os.strerror(errno))
