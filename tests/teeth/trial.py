"""Runs parts of the suite, with a fault or without: each in a pytest process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from teeth import plant
from teeth.fault import EVERY, ROOT, Fault

from netplane.backends.registry import BACKENDS

SECONDS = 300.0
"""A run that takes longer is ended, and caught nothing."""


@dataclass(frozen=True, slots=True)
class Trial:
    """How the run with one fault ended. `caught_by` is the first test that failed because of it, "" if none did."""

    fault: str
    planted_in: str
    caught_by: str = ""
    trouble: str = ""
    """Why this is no proof, "" if it is one."""
    seconds: float = 0.0


def trials(faults: Mapping[str, Fault], workers: int) -> Iterator[Trial]:
    """Try the faults, some at a time; results in their order."""
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(attempt, faults, faults.values())


def attempt(name: str, fault: Fault) -> Trial:
    """Run what must catch the fault until something does."""
    started = time.monotonic()
    where = str(fault.path.relative_to(ROOT))
    try:
        where = f"{where}:{fault.line}"
    except (OSError, ValueError) as error:
        return Trial(name, where, trouble=f"cannot be planted: {error}")
    with tempfile.TemporaryDirectory(prefix="teeth-") as folder:
        evidence = Path(folder) / "planted"
        said = _pytest(Path(folder), suspects(fault), {**plant.environment(fault), plant.EVIDENCE: str(evidence)})
        seconds = time.monotonic() - started
        if not evidence.exists():
            return Trial(name, where, trouble=f"the tests never load that code: {said}", seconds=seconds)
    if said.get("how") == "said so":
        return Trial(name, where, str(said["test"]), seconds=seconds)
    why = f"{said['test']} ended otherwise: {said['how']}" if "test" in said else f"no test failed: {said}"
    return Trial(name, where, trouble=why, seconds=seconds)


def suspects(fault: Fault) -> tuple[str, ...]:
    """The words for pytest, with every backend where it says so."""
    return tuple(dict.fromkeys(each.replace(EVERY, name) for name in sorted(BACKENDS) for each in fault.suspects))


def failing_without_fault(tests: Iterable[str], workers: int) -> list[str]:
    """Which of the tests that caught something fail anyway, and so prove nothing."""
    found = sorted(set(tests))
    shares = [share for number in range(workers) if (share := found[number::workers])]

    def run(share: list[str]) -> list[str]:
        failed: list[str] = []
        with tempfile.TemporaryDirectory(prefix="teeth-") as folder:
            said = _pytest(Path(folder), (*share, "--maxfail=1"), {})
        if said.get("exit") != 0:
            failed.append(f"{said.get('test', share)}: {said}")
        return failed

    with ThreadPoolExecutor(workers) as pool:
        return [each for failed in pool.map(run, shares) for each in failed]


def _pytest(folder: Path, words: Iterable[str], environment: dict[str, str]) -> dict[str, object]:
    """Run tests until the first fails; what the plugin `verdict` wrote about it."""
    verdict = folder / "verdict.json"
    tests = ROOT / "tests"
    path = os.pathsep.join((str(tests / "teeth" / "site"), str(tests), os.environ.get("PYTHONPATH", "")))
    inherited = {name: value for name, value in os.environ.items() if name != plant.VARIABLE}
    own = {"PYTHONPATH": path, "NETPLANE_VERDICT": str(verdict), "PYTHONDONTWRITEBYTECODE": "1"}
    options = (
        "-x",
        "-q",
        "-p",
        "teeth.verdict",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        f"--basetemp={folder}/tmp",
    )
    try:
        done = subprocess.run(
            (sys.executable, "-m", "pytest", *options, *words),
            cwd=ROOT,
            env={**inherited, **own, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return {"exit": -1, "why": f"not done after {SECONDS:g} s"}
    if not verdict.exists():
        return {"exit": done.returncode, "why": (done.stdout + done.stderr)[-400:]}
    said: dict[str, object] = json.loads(verdict.read_text())
    return said
