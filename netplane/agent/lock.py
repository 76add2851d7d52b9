"""One agent per node: the run directory with its lock, and a mark on the network namespace.

The lock ends with the process, however it ends, so nothing stale is ever in the way. Two agents with different run
directories, in different containers even, meet at a name that belongs to the network namespace: an abstract unix
socket. Anybody may take such a name, so it only counts if the kernel says that its holder is root, or us.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from netplane.closing import Closing
from netplane.errors import InputError, OwnershipError, RequirementError
from netplane.kernel import probe
from netplane.kernel.peer import peer
from netplane.kernel.private_folder import NotOurs, opened

PID_FILE, SOCKET = "agent.pid", "agent.sock"
NAMESPACE_MARK = b"\0netplane-agent"
_BACKLOG = 1024
_ATTEMPTS, _ATTEMPT_SECONDS = 10, 0.05


class RunDirectory(Closing):
    """The folder of an agent's pid file and socket.

    Raises InputError where there is none, or where others than us could put something into it: then nobody is let in.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with _naming(path):
                self._fd = opened(path)
        except NotOurs as error:
            if not probe.is_root():
                raise RequirementError(f"--run-dir {path}: {error}; run as root") from None
            raise InputError(f"--run-dir {path}: {error}") from None

    @classmethod
    def made(cls, path: Path) -> Self:
        """The folder, made with mode 0700 if it is missing."""
        with _naming(path), suppress(FileExistsError):
            path.mkdir(mode=0o700)
        return cls(path)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._fd)

    def lock(self) -> PidFile:
        """Take the pid file. Raises OwnershipError, naming the holder, if another agent has it."""
        while True:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            file = self.path / PID_FILE
            with _naming(file):
                fd = os.open(PID_FILE, flags, 0o600, dir_fd=self._fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(fd, 20).decode(errors="replace").strip() or "unknown"
                os.close(fd)
                raise OwnershipError(
                    f"an agent runs here already: pid {holder} holds {file}; end it first: kill {holder}"
                ) from None
            if self._is(fd):
                os.ftruncate(fd, 0)
                os.write(fd, f"{os.getpid()}\n".encode())
                return PidFile(self, fd)
            os.close(fd)  # its holder removed it and ended after we had opened it

    def listen(self, name: str = SOCKET) -> socket.socket:
        """A socket, 0600. Only for the holder of the lock: what is there is left over from one that was killed."""
        self.remove(name)
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        os.fchmod(made.fileno(), 0o600)  # before it has a name: there is no moment at which others could connect
        with _naming(self.path / name):
            made.bind(self._address(name))
        made.listen(_BACKLOG)
        return made

    def connect(self, seconds: float) -> socket.socket:
        """A connection to the agent that has this directory.

        Raises TimeoutError if it has no time for us for so long, another OSError if there is none.
        """
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        # Only a blocking socket waits for its turn; and it waits for no longer than this.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(seconds) + 1, 0))
        try:
            made.connect(self._address(SOCKET))
            made.settimeout(seconds)
        except BlockingIOError as error:
            made.close()
            raise TimeoutError from error
        except BaseException:
            made.close()
            raise
        return made

    def remove(self, name: str) -> None:
        """Remove a file of ours."""
        with _naming(self.path / name), suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._fd)

    def _address(self, name: str) -> str:
        """Short however long the path is (sun_path has 108 bytes), and never another folder that got its name."""
        return f"/proc/self/fd/{self._fd}/{name}"

    def _is(self, fd: int) -> bool:
        """Whether the pid file still is what `fd` opened."""
        try:
            found, opened = os.stat(PID_FILE, dir_fd=self._fd, follow_symlinks=False), os.fstat(fd)
        except FileNotFoundError:
            return False
        return (found.st_dev, found.st_ino) == (opened.st_dev, opened.st_ino)


class PidFile(Closing):
    """The lock of a run directory, held."""

    def __init__(self, place: RunDirectory, fd: int) -> None:
        self._place, self._fd = place, fd

    def close(self) -> None:
        """Remove the file and let go of the lock, in this order."""
        self._place.remove(PID_FILE)
        os.close(self._fd)


class NamespaceMark(Closing):
    """Says to others in this network namespace, whatever files they see, that an agent is at work.

    Raises OwnershipError if one is. `squatter` says who else, without any right to it, has the name; "" if nobody.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self.squatter = ""
        try:
            self._socket.bind(NAMESPACE_MARK)
            self._socket.listen(_BACKLOG)
        except OSError:
            pid, user = _holder(self._socket)
            if user in (0, os.geteuid()):
                self._socket.close()
                who = f"pid {pid}" if pid else "in another container"
                raise OwnershipError(
                    f"an agent runs in this network namespace already: {who}; end it before starting another"
                ) from None
            self.squatter = f"pid {pid} of user {user}" if pid else "somebody who is not root"

    def fileno(self) -> int:
        """Readable when somebody asked: see `answer`."""
        return self._socket.fileno()

    def answer(self) -> None:
        """Send away whoever asked, so that the next one can ask, too."""
        with suppress(OSError):
            while True:
                self._socket.accept()[0].close()

    def close(self) -> None:
        """Another agent may start."""
        self._socket.close()


def _holder(unbound: socket.socket) -> tuple[int, int]:
    """Who holds the mark; user -1 if that cannot be asked."""
    for _ in range(_ATTEMPTS):
        try:
            unbound.connect(NAMESPACE_MARK)
            return peer(unbound)
        except OSError:
            time.sleep(_ATTEMPT_SECONDS)  # it was bound a moment ago and does not listen yet
    return 0, -1


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Says of what the operating system refuses where it happened and what to do."""
    try:
        yield
    except PermissionError as error:
        raise RequirementError(f"{path}: {error.strerror}; run as root") from error
    except NotADirectoryError as error:
        raise InputError(f"--run-dir {path}: is not a directory (a symbolic link is not followed)") from error
    except OSError as error:
        raise InputError(f"--run-dir {path}: {error.strerror}") from error
