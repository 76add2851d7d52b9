"""When the next round is due. Pure: the clock is an argument."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

HEAR_SECONDS = 0.02
"""From the first sign of a change in the kernel until it is looked at: a change rarely comes alone."""
REPAIR_SECONDS = 1.0
"""Rounds that only repair what somebody else changed are at least so far apart: two who fight do not eat the node."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds. Rounds are at least `at_least` apart, and every `at_most` the whole kernel state is compared.

    After a failure the wait starts at `retry` and doubles up to `at_most`; a change ends the doubling, for it may be
    the correction.
    """

    at_least: float = 0.05
    at_most: float = 30.0
    retry: float = 0.5


class Reach(IntEnum):
    """What a round looks at; each includes those before it."""

    CHANGES = 0
    """What the source said it changed, against what was applied last."""
    KERNEL = 1
    """All that the kernel has."""
    EVERYTHING = 2
    """The whole source, too: not every change of it can be seen."""


class Pace:
    """Decides from what happened when to reconcile next, and how far to look.

    Between `start` of a round and its `done` or `failed` things go on happening; they are the next round's business.
    """

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._changed = True
        self._disturbed = self._damaged = False
        self._failures = 0
        self._last = now - limits.at_least
        self._last_whole = now - limits.at_most
        self._last_repair = now - REPAIR_SECONDS

    def changed(self) -> None:
        """The source has something new."""
        self._changed = True

    def disturbed(self, *, sure: bool) -> None:
        """Somebody else changed something of ours in the kernel, or (not `sure`) something that may be ours.

        Where something of ours is surely damaged, changes wait for the repair: they would only fail.
        """
        self._disturbed = True
        self._damaged = self._damaged or sure

    @property
    def repairing(self) -> bool:
        """Whether a round that repairs is to come: what else is disturbed until then makes no difference."""
        return self._disturbed

    def start(self, now: float) -> Reach:
        """A round begins. How far it has to look."""
        self._changed = False
        repair = self._disturbed and now >= self._last_repair + REPAIR_SECONDS
        everything = bool(self._failures) or now >= self._last_whole + self._limits.at_most
        if self._disturbed and (repair or everything):
            self._disturbed = self._damaged = False
            self._last_repair = now
        return Reach.EVERYTHING if everything else Reach.KERNEL if repair else Reach.CHANGES

    def done(self, now: float, reach: Reach) -> None:
        """The round succeeded."""
        self._failures = 0
        self._last = now
        if reach is Reach.EVERYTHING:
            self._last_whole = now

    def failed(self, now: float) -> None:
        """The round failed: try again, whole, later and later."""
        self._failures += 1
        self._last = now

    def due(self) -> float:
        """The instant of the next round."""
        if self._failures:
            doublings = 0 if self._changed or self._disturbed else min(self._failures - 1, 16)
            wait: float = self._limits.retry * 2.0**doublings
            return self._last + min(wait, self._limits.at_most)
        wanted = self._last_whole + self._limits.at_most
        if self._disturbed:
            wanted = min(wanted, self._last_repair + REPAIR_SECONDS)
        soon = self._last + self._limits.at_least
        return soon if self._changed and not self._damaged else max(soon, wanted)
