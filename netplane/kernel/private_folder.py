"""A folder that only we write to, and files in it that only we read: used through a descriptor, no link is followed."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from netplane.closing import Closing
from netplane.errors import RequirementError

_LIMIT = 1 << 16


class NotOurs(Exception):
    """A folder that others could change; says how."""


def opened(path: Path) -> int:
    """A descriptor of a folder that only we write to. Raises NotOurs where others could, OSError where none is."""
    fd = os.open(path, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_RDONLY | os.O_CLOEXEC)
    found = os.fstat(fd)
    why = ""
    if found.st_uid != os.geteuid():
        why = f"belongs to user {found.st_uid}, not to us (user {os.geteuid()})"
    elif found.st_mode & 0o022:
        why = f"others may write there (mode {stat.S_IMODE(found.st_mode):04o}); chmod 0700 it"
    if why:
        os.close(fd)
        raise NotOurs(why)
    return fd


class PrivateFolder(Closing):
    """An open folder. Raises RequirementError where there is none, or where others than us could change it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with _naming(path):
                self.fd = opened(path)
        except NotOurs as error:
            raise RequirementError(f"{path}: {error}") from None

    @classmethod
    def made(cls, path: Path) -> Self:
        """The folder, made with mode 0700 if it is missing; folders above it with 0755."""
        with _naming(path), suppress(FileExistsError):
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            path.mkdir(mode=0o700)
        return cls(path)

    def close(self) -> None:
        """Let go of it."""
        os.close(self.fd)

    def read(self, name: str) -> bytes | None:
        """A secret of ours; None if there is none. Raises RequirementError if others could have read or written it."""
        with _naming(self.path / name):
            try:
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.fd)
            except FileNotFoundError:
                return None
        with os.fdopen(fd, "rb") as file:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise RequirementError(f"{self.path / name}: is no file; remove it")
            if found.st_uid != os.geteuid() or found.st_mode & 0o077:
                words = f"user {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o}"
                raise RequirementError(
                    f"{self.path / name}: others could read or write it ({words}), so it is no secret; remove it, or "
                    f"chown and chmod 0600 it if you know that nobody did"
                )
            return file.read(_LIMIT)

    def write_new(self, name: str, content: bytes) -> bool:
        """Make a file (0600) with this content, whole and on disk when this returns; False if there is one already."""
        draft = f".{name}.{secrets.token_hex(8)}"
        with _naming(self.path / name):
            fd = os.open(
                draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self.fd
            )
            try:
                with os.fdopen(fd, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(fd)
                os.link(draft, name, src_dir_fd=self.fd, dst_dir_fd=self.fd)
            except FileExistsError:
                return False
            finally:
                os.unlink(draft, dir_fd=self.fd)
            os.fsync(self.fd)
        return True

    def rename(self, old: str, new: str) -> None:
        """`new` is what was `old`, after a power failure too."""
        with _naming(self.path / old):
            os.rename(old, new, src_dir_fd=self.fd, dst_dir_fd=self.fd)
            os.fsync(self.fd)

    def remove(self, name: str) -> None:
        """Remove a file or an empty folder, if it is there."""
        with _naming(self.path / name), suppress(FileNotFoundError):
            try:
                os.unlink(name, dir_fd=self.fd)
            except IsADirectoryError:
                os.rmdir(name, dir_fd=self.fd)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Says of what the operating system refuses where it happened."""
    try:
        yield
    except NotADirectoryError as error:
        raise RequirementError(f"{path}: is no folder (a symbolic link is not followed)") from error
    except OSError as error:
        remedy = "; run as root" if isinstance(error, PermissionError) else ""
        raise RequirementError(f"{path}: {error.strerror}{remedy}") from error
