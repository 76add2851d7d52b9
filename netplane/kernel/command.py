"""Run the few programs that netplane does not replace (`nft`, `iptables-save`, `iptables-restore`)."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import IO

from netplane.errors import KernelError, RequirementError

# Root's PATH in a service unit or a pod may lack the sbin folders.
_PATH = os.pathsep.join(("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin"))

# All that is passed on of our environment: where iptables has its lock and its extensions.
_PASSED_ON = ("XTABLES_LOCKFILE", "XTABLES_LIBDIR")


def find(program: str) -> str | None:
    """Where `program` is, in the folders that `run` looks in; None if it is missing."""
    return shutil.which(program, path=_PATH)


def run(*words: str, stdin: str = "", mechanism: str, doing: str) -> str:
    """The standard output of `words`, run in the calling thread's network namespace.

    Raises RequirementError if the program is missing, KernelError with its standard error if it fails.
    """
    # No surrogates or NULs reach here: all text is rendered by us from checked values.
    done = subprocess.run(_found(words), input=stdin, capture_output=True, text=True, env=_environment(), check=False)
    if done.returncode != 0:
        raise _failure(mechanism, doing, done.stderr, done.returncode)
    return done.stdout


def feed(*words: str, stdin: int, mechanism: str, doing: str) -> None:
    """Like `run`, for much input and no output: `stdin` is the descriptor of a file, read from its beginning."""
    os.lseek(stdin, 0, os.SEEK_SET)
    with tempfile.TemporaryFile() as said:
        done = subprocess.run(
            _found(words), stdin=stdin, stdout=subprocess.DEVNULL, stderr=said, env=_environment(), check=False
        )
        if done.returncode != 0:
            raise _failure(mechanism, doing, _text(said), done.returncode)


@contextmanager
def lines(*words: str, mechanism: str, doing: str) -> Generator[Iterable[str], None, None]:
    """Like `run`, for much output: its lines as they come. Whether it failed is known at the end of the block."""
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(
            _found(words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            env=_environment(),
            encoding="utf-8",
            errors="backslashreplace",
        ) as process,
    ):
        try:
            assert process.stdout is not None  # noqa: S101  it is a pipe
            yield process.stdout
        except BaseException:
            process.kill()
            raise
        if code := process.wait():
            raise _failure(mechanism, doing, _text(said), code)


def _found(words: tuple[str, ...]) -> tuple[str, ...]:
    program = find(words[0])
    if program is None:
        raise RequirementError(f"the program {words[0]!r} is missing; install it (Debian: {_package(words[0])})")
    return (program, *words[1:])


def _environment() -> dict[str, str]:
    return {"LC_ALL": "C.UTF-8"} | {name: os.environ[name] for name in _PASSED_ON if name in os.environ}


def _failure(mechanism: str, doing: str, said: str, code: int) -> KernelError:
    ended = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    return KernelError(mechanism=mechanism, doing=doing, said=said or ended)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="backslashreplace")


def _package(program: str) -> str:
    if program.startswith(("iptables", "ip6tables")):
        return "apt install iptables"
    return {"nft": "apt install nftables"}.get(program, f"the package that has {program}")
