"""A folder that only we write to, used through a descriptor: no symbolic link in it is ever followed."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from cni.failure import Code, Failure
from netplane.closing import Closing

_POLL_SECONDS = 0.01


class Directory(Closing):
    """An open folder. Raises Failure where it is not ours, or where others than us could put something into it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise Failure(Code.IO_FAILURE, f"cannot open the folder {path}", error.strerror or "") from error
        found = os.fstat(self._fd)
        if found.st_uid != os.geteuid():
            self._refuse(f"belongs to user {found.st_uid}, not to us (user {os.geteuid()})")
        if found.st_mode & 0o022:
            self._refuse(f"others may write there (mode {stat.S_IMODE(found.st_mode):04o}); chmod 0700 it")

    @classmethod
    def made(cls, path: Path) -> Self:
        """The folder, made with mode 0700 if it is missing; folders above it with 0755."""
        try:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            with suppress(FileExistsError):
                path.mkdir(mode=0o700)
        except OSError as error:
            raise Failure(Code.IO_FAILURE, f"cannot make the folder {path}", error.strerror or "") from error
        return cls(path)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._fd)

    def names(self) -> list[str]:
        """What is in it, sorted."""
        return sorted(os.listdir(self._fd))  # noqa: PTH208  a path would be looked up again

    def open(self, name: str, flags: int) -> int:
        """A descriptor of one of its files, made with mode 0600 if `flags` say so. Raises OSError."""
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600, dir_fd=self._fd)

    def rename(self, old: str, new: str) -> None:
        """`new` is what was `old`; after a power failure, too, once `sync` has returned. Raises OSError."""
        os.rename(old, new, src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def sync(self) -> None:
        """What was made, renamed and removed survives a power failure. Raises OSError."""
        os.fsync(self._fd)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there. Raises OSError."""
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._fd)

    def _refuse(self, why: str) -> None:
        self.close()
        raise Failure(Code.IO_FAILURE, f"the folder {self.path} {why}")


def flock(fd: int, wait: float) -> bool:
    """Take the lock of an open file; False if somebody else still has it after `wait` seconds."""
    end = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(_POLL_SECONDS)
        else:
            return True


def read_all(fd: int, limit: int) -> bytes:
    """The whole of a regular file, `limit` + 1 bytes at most. Raises OSError; b"" of what is no regular file."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        return b""
    found = bytearray()
    while len(found) <= limit and (some := os.read(fd, min(1 << 20, limit + 1 - len(found)))):
        found += some
    return bytes(found)
