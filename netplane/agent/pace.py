"""When the next round is due. Pure: the clock is an argument."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds. Rounds are at least `at_least` apart, and every `at_most` the whole kernel state is compared.

    After a failure the wait starts at `retry` and doubles up to `at_most`; a change ends the doubling, for it may be
    the correction.
    """

    at_least: float = 0.05
    at_most: float = 30.0
    retry: float = 0.5


class Pace:
    """Decides from what happened when to reconcile next, and whether to read the kernel whole."""

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._changed = True
        self._failures = 0
        self._last = now - limits.at_least
        self._last_whole = now - limits.at_most

    def changed(self) -> None:
        """The source has something new."""
        self._changed = True

    def done(self, now: float, *, whole: bool) -> None:
        """A round succeeded."""
        self._changed = False
        self._failures = 0
        self._last = now
        if whole:
            self._last_whole = now

    def failed(self, now: float) -> None:
        """A round failed: try again, whole, later and later."""
        self._changed = False
        self._failures += 1
        self._last = now

    def whole(self, now: float) -> bool:
        """Whether a round at `now` should compare everything with the kernel."""
        return self._failures > 0 or now >= self._last_whole + self._limits.at_most

    def due(self) -> float:
        """The instant of the next round."""
        if self._failures:
            doublings = 0 if self._changed else min(self._failures - 1, 16)
            wait: float = self._limits.retry * 2.0**doublings
            return self._last + min(wait, self._limits.at_most)
        soon = self._last + self._limits.at_least
        return soon if self._changed else max(soon, self._last_whole + self._limits.at_most)
