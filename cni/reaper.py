"""Deletes doomed links, many at a time: the kernel takes 16 ms for one link and half a millisecond for one of many."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection
from typing import Protocol

from netplane.closing import Closing
from netplane.errors import NetplaneError

log = logging.getLogger("netplane.cni")

GATHER_SECONDS = 0.02
"""How long it waits for more after the first: containers often end together."""
RETRY_SECONDS = 1.0


class Deleting(Protocol):
    """What deletes links: `Wiring`."""

    def detach(self, links: Collection[str]) -> None:
        """Delete these links, now."""


class Burial(Protocol):
    """Whose links they are: `NodeAttachments`. Asked and told by the reaper's thread, without any lock."""

    def still_doomed(self, links: Collection[str]) -> Collection[str]:
        """Which of these are to be deleted still. One that was may have been made again meanwhile, by the same name."""

    def deleted(self, links: Collection[str]) -> None:
        """They are gone."""


class Reaper(Closing):
    """A thread that deletes what it is given, and says so."""

    def __init__(self, wiring: Deleting, burial: Burial) -> None:
        self._wiring, self._burial = wiring, burial
        self._wake = threading.Condition()
        self._links: set[str] = set()
        self._hurry = self._stop = self._refused = False
        self._thread = threading.Thread(target=self._run, name="cni-reaper", daemon=True)
        self._thread.start()

    def bury(self, links: Collection[str], *, hurry: bool = False) -> None:
        """Have links deleted soon; `hurry`: somebody waits for it."""
        with self._wake:
            self._links |= set(links)
            self._hurry = self._hurry or hurry
            self._wake.notify()

    def close(self) -> None:
        """Delete what is left and end. What the kernel refuses stays in the journal for the next start."""
        with self._wake:
            self._stop = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        while (gathered := self._gathered()) is not None:
            try:
                links = self._burial.still_doomed(gathered)
                if links:
                    self._wiring.detach(links)
                    self._burial.deleted(links)
                self._refused = False
            except NetplaneError as error:
                log.error("cannot delete links; tried again", extra={"links": len(gathered), "why": str(error)})
                self._again(gathered)
            except Exception:  # without this thread no address would ever come free again
                log.exception("deleting links failed; tried again")
                self._again(gathered)

    def _gathered(self) -> frozenset[str] | None:
        """What is to be deleted now; None at the end. Never empty."""
        with self._wake:
            self._wake.wait_for(lambda: self._links or self._stop)
            if not self._links or (self._stop and self._refused):
                return None
            self._wake.wait_for(lambda: self._hurry or self._stop, RETRY_SECONDS if self._refused else GATHER_SECONDS)
            links, self._links, self._hurry = frozenset(self._links), set(), False
            return links

    def _again(self, links: Collection[str]) -> None:
        with self._wake:
            self._links |= set(links)
            self._refused = True
