"""Plugins are run by a small program in C (`cni_exec.c`), compiled here: Python would measure itself."""

from __future__ import annotations

import json
import os
import struct
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netplane.kernel.netns import Namespace

_SOURCE = Path(__file__).with_suffix(".c")
_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Stage:
    """One plugin of a chain: it reads `config`; with the result of the stage before it as prevResult, if `chained`."""

    path: Path
    environment: Mapping[str, str]
    config: Mapping[str, Any]
    chained: bool = False


@dataclass(frozen=True, slots=True)
class Ran:
    """What one operation took. `cpu` counts what it started and waited for; `mib` is the largest of these."""

    seconds: float
    cpu: float
    mib: float
    code: int
    output: bytes


@dataclass(frozen=True, slots=True)
class Block:
    """Operations that ran one after the other, or several at once. `seconds` is the time for all."""

    seconds: float
    ran: tuple[Ran, ...]


class Runner:
    """The compiled program. Its operations run in `namespace`."""

    def __init__(self, folder: Path, namespace: Namespace) -> None:
        self._program, self._namespace = folder / "cni_exec", namespace
        words = ("gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", self._program, _SOURCE)
        subprocess.run(words, check=True)

    def run(self, operations: Sequence[Sequence[Stage]], workers: int = 1) -> Block:
        """Do them all, `workers` at a time. Raises RuntimeError with what a plugin said if it refuses."""
        sent = struct.pack("<II", workers, len(operations)) + b"".join(map(_operation, operations))
        done = self._namespace.run(
            lambda: subprocess.run(self._program, input=sent, stdout=subprocess.PIPE, check=True, timeout=_SECONDS)
        )
        return _block(done.stdout, len(operations))


def _operation(stages: Sequence[Stage]) -> bytes:
    made = [struct.pack("<I", len(stages))]
    for stage in stages:
        words = [f"{name}={value}" for name, value in (*stage.environment.items(), *_inherited())]
        config = json.dumps(stage.config)
        head, tail = (config[:-1] + ', "prevResult": ', "}") if stage.chained else (config, "")
        made += [_string(str(stage.path)), struct.pack("<I", len(words)), *map(_string, words)]
        made += [_string(head), _string(tail)]
    return b"".join(made)


def _inherited() -> list[tuple[str, str]]:
    return [(name, os.environ[name]) for name in ("PATH", "XTABLES_LOCKFILE") if name in os.environ]


def _string(text: str) -> bytes:
    return struct.pack("<I", len(text.encode())) + text.encode()


def _block(output: bytes, count: int) -> Block:
    (total,) = struct.unpack_from("<Q", output)
    ran, at = [], 8
    for _ in range(count):
        ns, us, kib, code, size = struct.unpack_from("<QQQII", output, at)
        at += 32 + size
        ran.append(Ran(ns / 1e9, us / 1e6, kib / 1024, code, output[at - size : at]))
    for each in ran:
        if each.code:
            raise RuntimeError(f"a plugin exited with {each.code}: {each.output.decode(errors='replace')[:500]}")
    return Block(total / 1e9, tuple(ran))
