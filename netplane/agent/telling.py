"""What the agent tells: the fields of its log lines, that it is ready, and the facts of its status."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from netplane.agent.flows import Cleaned, Pressure, table_pressure
from netplane.agent.reconcile import Round
from netplane.agent.status import Repair
from netplane.errors import KernelError, Problem, RequirementError, one_line

log = logging.getLogger("netplane.agent")

_LINES_LOGGED = 5


def now() -> datetime:
    """The wall clock, UTC."""
    return datetime.now(UTC)


def round_fields(done: Round) -> dict[str, object]:
    """`services=1 made=4 swept=2 seconds=0.0018`, and `udp=3` if stale flows were removed."""
    fields: dict[str, object] = {
        "services": done.services,
        "made": done.summary.made,
        "swept": done.summary.swept,
        "seconds": round(done.seconds, 4),
    }
    return fields | {name: count for name, count in flows_value(done.flows).items() if count}


def flows_value(done: Cleaned) -> dict[str, int]:
    """Stale flows that were removed, by protocol, and filters by which the kernel removed any number of UDP ones."""
    return {"udp": done.udp, "tcp": done.tcp, "erased": done.erased}


def repair_fields(repair: Repair) -> dict[str, object]:
    """Mechanism, count, who did it if the kernel said so, and the first few lines that repaired it."""
    lines = [one_line(line, 100) for line in repair.drift.named[:_LINES_LOGGED]]
    more = repair.drift.count - len(lines)
    return {
        "mechanism": repair.mechanism,
        "count": repair.drift.count,
        "by": repair.by or "unknown",
        "named": "; ".join(lines) + (f"; and {more} more" if more > 0 else ""),
    }


class ProblemLog:
    """Says each problem once when it appears and once when it is gone."""

    def __init__(self) -> None:
        self._problems: frozenset[Problem] = frozenset()

    @property
    def standing(self) -> tuple[Problem, ...]:
        """Those there are, sorted."""
        return tuple(sorted(self._problems))

    def report(self, problems: Iterable[Problem]) -> None:
        """These are all there are now."""
        found = frozenset(problems)
        for problem in sorted(found - self._problems):
            log.warning("problem", extra={"what": str(problem)})
        for problem in sorted(self._problems - found):
            log.info("problem solved", extra={"what": str(problem)})
        self._problems = found


def tell_ready(fd: int) -> None:
    """Write a byte to whoever started us and waits for it."""
    if fd < 0:
        return
    try:
        os.write(fd, b"1")
        os.close(fd)
    except OSError as error:  # whoever asked is not there any more, or gave a wrong number
        log.warning("cannot tell that it is ready", extra={"why": f"--ready-fd {fd}: {error.strerror}"})


def memory() -> int:
    """Bytes of memory this process has resident."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def pressure() -> Pressure | None:
    """How full the table of connections is; None where the kernel tracks nothing."""
    try:
        return table_pressure()
    except (RequirementError, KernelError):
        return None
