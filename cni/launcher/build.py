"""Compiles the launcher: `python -m cni.launcher.build`, and as part of the wheel (hatch_build.py).

Needs a C compiler and its linker for x86_64 or aarch64, no headers of libc and no libraries. `CC` names another one.
Standard library only: it runs where nothing is installed yet.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("launcher.c")
LAUNCHER = Path(__file__).with_name("netplane")
"""What is compiled, and where it is put: beside it, so that the package finds it wherever it is."""

_LANGUAGE = ("-std=c11", "-ffreestanding", "-Wall", "-Wextra")  # a test adds -Werror: no user's compiler need agree
# No libc, no loader, no tables for debuggers and exceptions. A loop that copies must not become a call of itself.
_SMALL = (
    *("-static", "-nostdlib", "-no-pie", "-fno-pie", "-Os", "-s", "-fno-stack-protector"),
    *("-fno-asynchronous-unwind-tables", "-fno-tree-loop-distribute-patterns"),
    # The kernel maps two pieces and no more.
    "-Wl,--build-id=none,-z,noexecstack,-z,norelro,-z,noseparate-code",
)


class CannotCompile(Exception):
    """There is no C compiler, or it refused; says what to do."""


def build(target: Path = LAUNCHER, source: Path = SOURCE) -> Path:
    """Compile `source` into `target`, which is replaced when the new one is whole. Raises CannotCompile."""
    compiler = shlex.split(os.environ.get("CC") or "cc")
    with tempfile.TemporaryDirectory(prefix=".build-", dir=target.parent) as folder:
        made = Path(folder) / target.name
        command = (*compiler, *_LANGUAGE, *_SMALL, "-o", str(made), str(source))
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise CannotCompile(f"no C compiler: {compiler[0]}: {error.strerror}; install gcc, or set CC") from error
        if done.returncode != 0:
            raise CannotCompile(f"the C compiler refused {source}: {shlex.join(command)}\n{done.stderr}")
        made.chmod(0o755)
        made.replace(target)
    return target


if __name__ == "__main__":
    try:
        build()
    except CannotCompile as error:
        sys.exit(f"launcher: {error}")
