"""Run `netplane` in this process, for speed, or as a process of its own."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from netplane.cli import cli, main
from netplane.kernel.netns import Namespace

ROOT = Path(__file__).parent.parent.parent
SHOP = str(ROOT / "examples" / "shop")
ON_N1 = ("--from", SHOP, "--node", "n1")


@dataclass(frozen=True)
class Done:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line of an error. Nothing else was printed."""
        assert self.out == ""
        (line,) = self.err.splitlines()
        assert line.startswith("netplane: ")
        return line.removeprefix("netplane: ")


def netplane(*words: str, namespace: Namespace | None = None) -> Done:
    """The command line, in a namespace: a new one unless given. Never in that of the tests, which is the host's."""
    if namespace is None:
        with Namespace() as scratch:
            return scratch.run(lambda: _netplane(words))
    return namespace.run(lambda: _netplane(words))


def process(*words: str, before: tuple[str, ...] = (), namespace: Namespace | None = None) -> Done:
    """The same as a process of its own; `before` is a command that becomes it. It is killed after 20 s."""
    if namespace is None:
        with Namespace() as scratch:
            return process(*words, before=before, namespace=scratch)
    whole = (*before, sys.executable, "-m", "netplane", *words)
    done = namespace.run(lambda: subprocess.run(whole, capture_output=True, text=True, check=False, timeout=20))
    return Done(done.returncode, done.stdout, done.stderr)


def _netplane(words: tuple[str, ...]) -> Done:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([*words])
        except SystemExit as ended:
            return Done(int(ended.code or 0), out.getvalue(), err.getvalue())


def commands() -> Iterator[tuple[str, click.Command]]:
    """`backend render` and the like, with what click knows of each."""
    root = click.Context(cli)
    for noun in cli.list_commands(root):
        group = cli.get_command(root, noun)
        assert isinstance(group, click.Group)
        for verb, command in sorted(group.commands.items()):
            yield f"{noun} {verb}", command
