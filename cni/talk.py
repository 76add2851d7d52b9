"""What a process is told and says, within limits: `Popen.communicate` keeps whatever comes."""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from contextlib import suppress

STDOUT_BYTES = 4 << 20
STDERR_BYTES = 1 << 16
"""So much of the end of it is kept; the rest is read and forgotten."""
_PIECE = 1 << 16


class TooMuch(Exception):
    """It said more than STDOUT_BYTES."""


def talk(process: subprocess.Popen[bytes], words: bytes, seconds: float) -> tuple[bytes, bytes]:
    """Standard output and error of a process with three pipes that is told `words`, when it has ended.

    Raises TooMuch, and TimeoutExpired after `seconds`; then it runs still. Pipes are closed when they are at their end.
    """
    pipes = [(process.stdin, selectors.EVENT_WRITE)]
    pipes += ((pipe, selectors.EVENT_READ) for pipe in (process.stdout, process.stderr))
    deadline = time.monotonic() + seconds
    rest, out, err = memoryview(words), bytearray(), bytearray()
    with selectors.DefaultSelector() as waiting:
        for pipe, event in pipes:
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
                waiting.register(pipe, event)
        while waiting.get_map():
            ready = waiting.select(max(0.0, deadline - time.monotonic()))
            if not ready and time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired(process.args, seconds)
            for key, _ in ready:
                if key.fileobj is process.stdin:
                    rest = _told(key.fd, rest)
                    going_on = bool(rest)
                else:
                    into = out if key.fileobj is process.stdout else err
                    going_on = _heard(key.fd, into)
                if not going_on:
                    waiting.unregister(key.fileobj)
                    key.fileobj.close()  # type: ignore[union-attr]
            if len(out) > STDOUT_BYTES:
                raise TooMuch
            del err[:-STDERR_BYTES]
    process.wait(max(0.0, deadline - time.monotonic()))
    return bytes(out), bytes(err)


def _told(fd: int, rest: memoryview) -> memoryview:
    """What it has not taken yet; nothing if it does not want to hear more."""
    with suppress(BlockingIOError):
        try:
            return rest[os.write(fd, rest[:_PIECE]) :] if rest else rest
        except BrokenPipeError:
            return rest[:0]
    return rest


def _heard(fd: int, into: bytearray) -> bool:
    """Whether there may be more."""
    with suppress(BlockingIOError):
        piece = os.read(fd, _PIECE)
        into += piece
        return bool(piece)
    return True
