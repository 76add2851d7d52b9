"""Looks after what is attached: nothing stays of containers that are gone, and what others change is mended.

A runtime may die, forget DEL, and never ask for GC. So the journal is compared with the kernel: at the start, whenever
the kernel tells of a change, and now and then. An attachment lives for as long as its host link does, for the kernel
removes both ends of a cable with either namespace; one whose namespace still is where the runtime had it is mended.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cni import spool
from cni.attachment import Attachment, AttachmentId
from cni.failure import Failure
from cni.plugin import Plugin
from cni.request import Reply, Request
from cni.sandbox import Sandbox
from cni.store import Record, State
from netplane.closing import Closing
from netplane.errors import NetplaneError

log = logging.getLogger("netplane.cni")

TICK_SECONDS = 0.5
WHOLE_SECONDS = 30.0
"""How often everything is compared, whatever the kernel told."""
_TICK_NS = 20_000_000
SETTLE_SECONDS = 5.0
"""How long a link has to be gone before its container is taken for dead: its DEL may be on its way."""


@dataclass(slots=True)
class Kept:
    """What was found and done, for status and log."""

    mended: list[str] = field(default_factory=list)
    dead: list[AttachmentId] = field(default_factory=list)


class Keeper(Closing):
    """`start` what an earlier process left, then `run` in a thread until it is closed."""

    def __init__(self, plugin: Plugin, spool_directory: Path) -> None:
        self._plugin, self._node = plugin, plugin.node
        self._spool = spool_directory
        self._spool_stamp = 0
        self._lost: dict[AttachmentId, float] = {}
        self._next_whole = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        plugin.before_add = self.do_spooled
        self.problems: dict[str, str] = {}

    def start(self) -> None:
        """Finish what was begun: before the first request is served."""
        self._bury_the_past()
        self.do_spooled()
        self.look(whole=True)

    def run(self) -> None:
        """Go on in a thread."""
        self._thread = threading.Thread(target=self._run, name="cni-keeper", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; nothing is undone."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def do_spooled(self) -> None:
        """Do what the launcher wrote down while no agent was there to do it, oldest first."""
        stamp = _stamp(self._spool)
        if stamp == self._spool_stamp:
            return
        with self._node.lock:
            # What comes within the same tick of the kernel's clock leaves the same stamp: such a one is not kept.
            self._spool_stamp = stamp if time.time_ns() - stamp > _TICK_NS else -1
            for name, request in spool.take(self._spool):
                self._spooled(request)
                spool.done(self._spool, name)

    def look(self, *, whole: bool) -> Kept:
        """Compare the journal with the kernel, entirely or where the kernel told of changes, and mend it."""
        kept = Kept()
        with self._node.lock:
            told = self._node.events.read()
            if told.routes_changed:
                self._node.forget_mtu()
            if whole or told.concerns_us or self._lost:
                self._look_at_links(kept)
            if whole or self._node.rules.disturbed():
                changed = self._node.rules.reconcile(self._node.attached())
                kept.mended += changed.told()
        for id_ in kept.dead:
            self._bury_dead(id_)
        for each in kept.mended:
            log.warning("mended", extra={"what": each})
        return kept

    # --- in its thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.wait(TICK_SECONDS):
            now = time.monotonic()
            whole = now >= self._next_whole
            if whole:
                self._next_whole = now + WHOLE_SECONDS
            self._try("spool", self.do_spooled)
            self._try("look", partial(self.look, whole=whole))
            if whole:
                self._try("begun", self._bury_the_past)

    def _try(self, what: str, work: Callable[[], object]) -> None:
        """Do it; say once what is wrong, and once when it works again."""
        try:
            work()
        except NetplaneError as error:
            if self.problems.get(what) != str(error):
                log.error("cannot look after attachments", extra={"at": what, "why": str(error)})
            self.problems[what] = str(error)
        except Exception as error:
            if self.problems.get(what) != repr(error):
                log.exception("looking after attachments failed")
            self.problems[what] = repr(error)
        else:
            if self.problems.pop(what, None) is not None:
                log.info("attachments are looked after again", extra={"at": what})

    def _spooled(self, request: Request) -> None:
        self._plugin.quick(request)
        reply: Reply = self._plugin.handle(request)
        said = {"container": request.environment.get("CNI_CONTAINERID", "")[:80], "code": reply.code}
        log.info("done, as asked while no agent was here", extra=said)

    # --- the past ---------------------------------------------------------------------------------------------------

    def _bury_the_past(self) -> None:
        """Attachments of another boot, those nobody was ever told of, and deletions that were not finished."""
        node = self._node
        with node.lock:
            records = list(node.store.records.values())
            of_another_boot = [each for each in records if each.boot != node.store.boot_id]
            node.release([each.attachment.id for each in of_another_boot])
            present = [each for each in records if each.boot == node.store.boot_id]
            for each in present:
                if each.state is State.ADDING:
                    node.detach(each.attachment.id)
            node.bury(each for each in present if each.state is State.DOOMED)
        if of_another_boot:
            log.info("released what an earlier boot left", extra={"attachments": len(of_another_boot)})
        for each in of_another_boot:
            self._give_back(each.attachment)

    # --- links ------------------------------------------------------------------------------------------------------

    def _look_at_links(self, kept: Kept) -> None:
        node, now = self._node, time.monotonic()
        present = node.wiring.present()
        attached = node.attached()
        lost = {each.id: each for each in attached if each.link and each.link not in present}
        for id_ in [each for each in self._lost if each not in lost]:
            del self._lost[id_]
        for id_, attachment in lost.items():
            since = self._lost.setdefault(id_, now)
            if self._mended(attachment):
                kept.mended.append(f"{id_}: its link was gone")
                del self._lost[id_]
            elif now - since >= SETTLE_SECONDS:
                kept.dead.append(id_)
                del self._lost[id_]
        kept.mended += node.wiring.repair([each for each in attached if each.id not in lost])

    def _mended(self, attachment: Attachment) -> bool:
        """Attach again a container whose namespace still is where it was; False if it is not."""
        try:
            fd = os.open(attachment.netns, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return False
        try:
            with Sandbox(fd) as found:
                if found.id != attachment.netns_id or not found.id.cookie:
                    return False
                self._node.wiring.attach(attachment, fd, found.kernel)
        except NetplaneError as error:
            log.warning("cannot mend", extra={"attachment": str(attachment.id), "why": str(error)})
            return False
        finally:
            os.close(fd)
        return True

    def _bury_dead(self, id_: AttachmentId) -> None:
        """The container is gone, and nobody asked for DEL."""
        record = self._node.store.records.get(id_)
        if record is None or record.state is not State.ATTACHED:
            return
        self._node.release([id_])
        self._give_back(record.attachment)
        log.info("released a dead attachment", extra={"attachment": str(id_), "addresses": _addresses(record)})

    def _give_back(self, attachment: Attachment) -> None:
        try:
            self._plugin.give_back_elsewhere(attachment)
        except Failure as failure:
            log.warning("IPAM plugin keeps an address", extra={"attachment": str(attachment.id), "why": str(failure)})


def _stamp(directory: Path) -> int:
    """Changes whenever something is put into a folder; 0 if there is none."""
    try:
        return directory.stat().st_mtime_ns
    except OSError:
        return 0


def _addresses(record: Record) -> str:
    return ", ".join(str(each.address.ip) for each in record.attachment.addresses)
