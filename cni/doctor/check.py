"""A check and what came of it, whatever it looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from cni.doctor.finding import Finding, warning
from netplane.errors import one_line

Seen = TypeVar("Seen")


@dataclass(frozen=True, slots=True)
class Check(Generic[Seen]):
    """One question about the host, asked of a view of it."""

    name: str
    look: Callable[[Seen], Iterable[Finding]]


class Examined(NamedTuple):
    """What a check found."""

    check: str
    finding: Finding


def examined(checks: Iterable[Check[Seen]], view: Seen) -> list[Examined]:
    """What all of them found, in their order. Never raises what a check raises."""
    return [Examined(check.name, finding) for check in checks for finding in _looked(check, view)]


def _looked(check: Check[Seen], view: Seen) -> list[Finding]:
    try:
        return [*check.look(view)]
    except Exception as failure:  # a host that is broken in a way nobody thought of is what this is for
        said = one_line(f"could not be looked at: {failure or type(failure).__name__}")
        return [warning(said, "this check says nothing about the host", "read the line above; then ask again")]
