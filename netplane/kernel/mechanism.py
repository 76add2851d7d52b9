"""What the host asks of each kernel mechanism."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice
from typing import Protocol

from netplane.programs.program import Program

DRIFT_NAMED = 20
"""Differences that are named in a report of drift; the others are counted."""


@dataclass(frozen=True, slots=True)
class Drift:
    """What differed from what was last applied, because somebody else changed it. Empty if nothing did."""

    count: int = 0
    named: tuple[str, ...] = ()
    """The first few, as `Pending.lines` says them: what has to be done to repair them."""

    def __bool__(self) -> bool:
        return bool(self.count)

    @classmethod
    def of(cls, count: int, lines: Iterable[str]) -> Drift:
        """`count` differences, of which `lines` name the repair; no more of them are read than are kept."""
        return cls(count, tuple(islice(lines, DRIFT_NAMED)))


class Sweeping(Enum):
    """When the second half of what is pending may follow, where mechanisms do not wait for one another."""

    IF_MADE = "if the first half was done"
    ALWAYS = "also if some of the first half was refused: all else was made"
    IF_ALL_MADE = "if no mechanism failed: what goes may be all there is"


@dataclass(frozen=True, slots=True)
class Pending:
    """What one mechanism would do now: how much, how to do it, and how to say it."""

    mechanism: str
    made: int
    swept: int
    make: Callable[[], None]
    sweep: Callable[[], None]
    lines: Callable[[], list[str]]
    """For people: `+ add chain ...`, `- 10.96.0.10 . tcp . 80`, in the order they would be carried out."""
    drift: Drift = field(default_factory=Drift)
    sweeping: Sweeping = Sweeping.IF_MADE


class Mechanism(Protocol):
    """One kernel mechanism, seen from the host."""

    @property
    def name(self) -> str:
        """`nftables`: what its part of a program is called."""

    @property
    def told(self) -> bool:
        """Whether kernel/events.py hears of what others change here; if not, `disturbed` has to be asked."""

    def pending(self, want: Program, *, reread: bool, sweep: bool) -> Pending:
        """What leads from what the kernel has to `want`.

        With `reread` the kernel is asked; otherwise it is taken to have what was last applied, if that is known.
        Without `sweep` nothing will be removed: a mechanism that can do both at one stroke leaves the second out.
        """

    def disturbed(self) -> bool:
        """Whether somebody else may have changed what was last applied. Cheap: asked twice a second."""

    def mark(self) -> object:
        """Equal for as long as nobody else changed anything where this mechanism keeps its state. Cheap."""

    def forget(self) -> None:
        """The last apply failed half-way: what the kernel has is not known any more."""

    def close(self) -> None:
        """Close sockets. The kernel keeps what it has."""
