"""What a check says."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """How bad it is. WARNING: Pods work, but not all of the time or not as fast. ERROR: Pods fail."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was seen: what, why it matters, and the exact command (or edit) that mends it."""

    level: Level
    what: str
    why: str = ""
    mend: str = ""


def ok(what: str) -> Finding:
    """All is well, and this was looked at."""
    return Finding(Level.OK, what)


def warning(what: str, why: str, mend: str) -> Finding:
    """Pods may suffer."""
    return Finding(Level.WARNING, what, why, mend)


def error(what: str, why: str, mend: str) -> Finding:
    """Pods fail."""
    return Finding(Level.ERROR, what, why, mend)
