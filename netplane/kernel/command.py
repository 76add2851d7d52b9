"""Run the few programs that netplane does not replace (`nft`)."""

from __future__ import annotations

import os
import shutil
import subprocess

from netplane.errors import KernelError, RequirementError

# Root's PATH in a service unit or a pod may lack the sbin folders.
_PATH = os.pathsep.join(("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin"))


def find(program: str) -> str | None:
    """Where `program` is, in the folders that `run` looks in; None if it is missing."""
    return shutil.which(program, path=_PATH)


def run(*words: str, stdin: str = "", mechanism: str, doing: str) -> str:
    """The standard output of `words`, run in the calling thread's network namespace.

    Raises RequirementError if the program is missing, KernelError with its standard error if it fails.
    """
    program = find(words[0])
    if program is None:
        raise RequirementError(f"the program {words[0]!r} is missing; install it (Debian: {_package(words[0])})")
    # No surrogates or NULs reach here: all text is rendered by us from checked values.
    done = subprocess.run(
        (program, *words[1:]), input=stdin, capture_output=True, text=True, env={"LC_ALL": "C.UTF-8"}, check=False
    )
    if done.returncode != 0:
        raise KernelError(mechanism=mechanism, doing=doing, said=done.stderr or f"exit code {done.returncode}")
    return done.stdout


def _package(program: str) -> str:
    return {"nft": "apt install nftables"}.get(program, f"the package that has {program}")
