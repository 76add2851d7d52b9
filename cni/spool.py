"""DELs that nobody could take, on disk: the launcher writes them while no agent runs, the agent does them when it can.

    /var/lib/netplane/cni/spool/01763700000123456789-4711-5f3a9c0be1d2f384.del
                                nanoseconds since 1970, pid, random

A file is the frame of a request (`wire.py`) as it would have been sent, without its descriptor: a DEL needs none. It
is written under a name that begins with a dot, synced and renamed, so what has its name is whole. Names come from a
clock and not from the request. The folder is root's alone; nothing that is not a plain file of ours is opened for long.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cni.request import Request
from cni.wire import ENVIRONMENT_BYTES, STDIN_BYTES, BadFrame, request_frame, request_of
from netplane.errors import InputError, OwnershipError, RequirementError

log = logging.getLogger("netplane.cni")

_NAME = re.compile(r"(\d{20})-\d{1,10}-[0-9a-f]{16}\.del", re.ASCII)
_MOST_BYTES = ENVIRONMENT_BYTES + STDIN_BYTES + 4096
_UNFINISHED_SECONDS = 60.0
_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_RDONLY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def take(directory: Path) -> Iterator[tuple[str, Request]]:
    """What waits in the folder, oldest first; nothing if there is no folder. `done` removes one.

    What cannot be a request is removed, with a line in the log, and so is what a killed launcher left half-written.
    Raises OwnershipError if others may write to the folder.
    """
    try:
        folder = _opened(directory)
    except FileNotFoundError:
        return
    try:
        for name in sorted(os.listdir(folder)):  # noqa: PTH208 - the folder that was looked at
            if name.startswith("."):
                _remove_unfinished(folder, name)
            elif (request := _request(folder, name)) is not None:
                yield name, request
    finally:
        os.close(folder)


def done(directory: Path, name: str) -> None:
    """Remove what `take` gave. It being gone already is fine."""
    with _naming(directory), suppress(FileNotFoundError):
        folder = _opened(directory)
        try:
            os.unlink(name, dir_fd=folder)
        finally:
            os.close(folder)


def put(directory: Path, request: Request) -> str:
    """Keep a request, as the launcher does, and return the name of its file. The folder is made if it is missing.

    It is on disk when this returns. Raises OwnershipError if others may write to the folder, InputError if the
    operating system refuses.
    """
    frame = request_frame(request)
    name = f"{time.time_ns():020}-{os.getpid()}-{secrets.token_hex(8)}.del"
    with _naming(directory):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = _opened(directory)
        try:
            _write(folder, name, frame)
        finally:
            os.close(folder)
    return name


def spooled_at(name: str) -> float:
    """When the request of a file was made, in seconds since 1970. Raises InputError if it is not such a name."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise InputError(f"{name}: not the name of a spooled request")
    return int(found[1]) / 1e9


def _write(folder: int, name: str, frame: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(f".{name}", flags, 0o600, dir_fd=folder)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(frame)
            file.flush()
            os.fsync(fd)
        os.rename(f".{name}", name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        os.unlink(f".{name}", dir_fd=folder)
        raise
    os.fsync(folder)


def _opened(directory: Path) -> int:
    with _naming(directory):
        folder = os.open(directory, _FOLDER)
    found = os.fstat(folder)
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        os.close(folder)
        raise OwnershipError(f"{directory}: others than us may write there; chown and chmod 0700 it")
    return folder


def _request(folder: int, name: str) -> Request | None:
    try:
        return request_of(_content(folder, name))
    except FileNotFoundError:
        return None
    except (BadFrame, OSError) as error:
        why = str(error) if isinstance(error, BadFrame) else error.strerror
        log.warning("something in the spool is no request: removed", extra={"file": name, "why": why})
        with suppress(OSError):  # a folder, say: it stays, and is told of again
            os.unlink(name, dir_fd=folder)
        return None


def _content(folder: int, name: str) -> bytes:
    if _NAME.fullmatch(name) is None:
        raise BadFrame("not the name of a spooled request")
    fd = os.open(name, _FILE, dir_fd=folder)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise BadFrame("not a file of ours")
        return os.read(fd, _MOST_BYTES)
    finally:
        os.close(fd)


def _remove_unfinished(folder: int, name: str) -> None:
    """Remove a file whose writer was killed; a young one may still be written."""
    with suppress(OSError):
        age = time.time() - os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime
        if not 0 <= age < _UNFINISHED_SECONDS:
            os.unlink(name, dir_fd=folder)


@contextmanager
def _naming(directory: Path) -> Iterator[None]:
    """Says of what the operating system refuses where it happened; that it is not there is left to the caller."""
    try:
        yield
    except FileNotFoundError:
        raise
    except PermissionError as error:
        raise RequirementError(f"{directory}: {error.strerror}; run as root") from error
    except OSError as error:
        raise InputError(f"{directory}: {error.strerror}") from error
