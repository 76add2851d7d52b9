"""Looks after what is attached: nothing stays of containers that are gone, and what others change is mended.

A runtime may die, forget DEL, and never ask for GC. So the journal is compared with the kernel: at the start, whenever
the kernel tells of a change, and now and then. An attachment lives for as long as its host link does, for the kernel
removes both ends of a cable with either namespace; one whose namespace still is where the runtime had it is mended.
Where another plugin made the interface, the namespace's path is what can be missed.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cni import known_network, spool
from cni.attachment import Attachment, AttachmentId
from cni.known_network import NodeNetwork
from cni.link_program import links_of
from cni.plugin import Plugin
from cni.request import Reply, Request
from cni.sandbox import Sandbox, leads_to
from cni.store import State
from netplane.closing import Closing
from netplane.errors import NetplaneError

log = logging.getLogger("netplane.cni")

TICK_SECONDS = 0.5
_AT_ONCE = 50
"""So many links are compared while others wait."""
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

    def __init__(self, plugin: Plugin, spool_directory: Path, settle: float | None = None) -> None:
        """`settle`: seconds until a container without a link is taken for dead, if not SETTLE_SECONDS."""
        self._plugin, self._node = plugin, plugin.node
        self._settle = settle
        self._spool = spool_directory
        self._spool_stamp = 0
        self._spooling = threading.Lock()
        self._refused: set[AttachmentId] = set()
        self._giver: threading.Thread | None = None
        self._written = NodeNetwork()
        self._lost: dict[AttachmentId, float] = {}
        self._next_whole = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        plugin.before_add = partial(self._try, "spool", self.do_spooled)
        plugin.behind = self._behind
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
        """End the threads; nothing is undone."""
        self._stop.set()
        for each in (self._thread, self._giver):
            if each is not None:
                each.join()

    def do_spooled(self) -> None:
        """Do what the launcher wrote down while no agent was there to do it, oldest first."""
        if not self._behind():
            return
        with self._spooling:  # not the node's lock: another plugin may have to be asked
            stamp, now = _stamp(self._spool), time.time_ns()
            if stamp == self._spool_stamp:
                return
            for name, request in spool.take(self._spool):
                self._spooled(name, request)
                spool.done(self._spool, name)
            # What comes within the same tick of the kernel's clock leaves the same stamp: such a one is not kept.
            self._spool_stamp = stamp if now - stamp > _TICK_NS else -1

    def look(self, *, whole: bool) -> Kept:
        """Compare the journal with the kernel, entirely or where the kernel told of changes, and mend it."""
        kept = Kept()
        with self._node.lock:
            told = self._node.events.read()
            if told.routes_changed:
                self._node.forget_mtu()
            attached = self._node.attached()
        missed = told.gone and any(name in told.gone for each in attached for name in links_of(each))
        if whole or told.concerns_us or missed or self._lost:
            self._look_at_links(attached, kept)
        with self._node.lock:
            self._node.rules.masquerade = not self._plugin.network().masquerades
            if whole or self._node.rules.disturbed():
                changed = self._node.rules.reconcile(self._node.attached())
                kept.mended += changed.told()
        for each in kept.mended:
            log.warning("mended", extra={"what": each})
        return kept

    def give_back(self, *, again: bool) -> None:
        """Tell other plugins which of their addresses are free; `again`: those that did not want to hear it, too."""
        for id_ in self._node.owed():
            if self._stop.is_set() or (id_ in self._refused and not again):
                continue
            try:
                self._plugin.give_back(id_)
                self._refused.discard(id_)
            except NetplaneError as error:
                if id_ not in self._refused:
                    log.warning("IPAM plugin keeps an address", extra={"attachment": str(id_), "why": str(error)})
                self._refused.add(id_)

    def write_network(self) -> None:
        """Write down what the cluster says of this node, for a time without an agent. Nothing is not worth it."""
        network = self._plugin.network()
        if network not in (self._written, NodeNetwork()):
            known_network.keep(self._node.store.path, network)
            self._written = network

    # --- in its thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.wait(TICK_SECONDS):
            now = time.monotonic()
            whole = now >= self._next_whole
            if whole:
                self._next_whole = now + WHOLE_SECONDS
            self._try("spool", self.do_spooled)
            self._try("look", partial(self.look, whole=whole))
            self._try("network", self.write_network)
            if whole:
                self._try("begun", self._bury_the_past)
            if self._node.owed() and (self._giver is None or not self._giver.is_alive()):
                # In a thread of its own: another plugin may take a minute, and everything else goes on.
                work = partial(self._try, "give back", partial(self.give_back, again=whole))
                self._giver = threading.Thread(target=work, name="cni-giver", daemon=True)
                self._giver.start()

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

    def _behind(self) -> bool:
        return _stamp(self._spool) != self._spool_stamp

    def _spooled(self, name: str, request: Request) -> None:
        self._plugin.quick(request)
        reply: Reply = self._plugin.handle(request)
        waited = round(max(time.time() - spool.spooled_at(name), 0.0), 1)
        said = {"container": request.environment.get("CNI_CONTAINERID", "")[:80], "code": reply.code, "waited": waited}
        log.info("done, as asked while no agent was here", extra=said)

    # --- the past ---------------------------------------------------------------------------------------------------

    def _bury_the_past(self) -> None:
        """Attachments of another boot, those nobody was ever told of, and deletions that were not finished."""
        node = self._node
        with node.lock:
            records = list(node.store.records.values())
            owed = set(node.owed())
            of_another_boot = [each for each in records if each.boot != node.store.boot_id]
            of_another_boot = [each for each in of_another_boot if each.attachment.id not in owed]
            node.release([each.attachment.id for each in of_another_boot])
            for id_ in node.abandoned():
                node.detach(id_)
            present = [each for each in records if each.boot == node.store.boot_id]
            node.bury(each for each in present if each.state is State.DOOMED)
        if of_another_boot:
            log.info("released what an earlier boot left", extra={"attachments": len(of_another_boot)})

    # --- links ------------------------------------------------------------------------------------------------------

    def _look_at_links(self, attached: Sequence[Attachment], kept: Kept) -> None:
        """Of a thousand it takes a tenth of a second, so the lock is held for a piece at a time."""
        node, now = self._node, time.monotonic()
        seen = node.seen(attached)
        lost = {each.id: each for each in attached if not _alive(each, seen.links)}
        for id_ in [each for each in self._lost if each not in lost]:
            del self._lost[id_]
        for id_, attachment in lost.items():
            since = self._lost.setdefault(id_, now)
            if self._mended(attachment):
                kept.mended.append(f"{id_}: its link was gone")
                del self._lost[id_]
            elif now - since >= (SETTLE_SECONDS if self._settle is None else self._settle):
                del self._lost[id_]
                if self._buried(attachment):
                    kept.dead.append(id_)
        rest = [each for each in attached if each.id not in lost]
        with node.lock:
            kept.mended += node.wiring.repair_shared([each for each in rest if node.stands(each)])
        for start in range(0, len(rest), _AT_ONCE):
            with node.lock:
                some = [each for each in rest[start : start + _AT_ONCE] if node.stands(each)]
                kept.mended += node.wiring.repair_links(some, seen)

    def _mended(self, attachment: Attachment) -> bool:
        """Attach again a container whose namespace still is where it was; False if it is not, or nobody wants it."""
        with self._node.lock:
            return self._node.stands(attachment) and self._attached_again(attachment)

    def _attached_again(self, attachment: Attachment) -> bool:
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

    def _buried(self, attachment: Attachment) -> bool:
        """The container is gone, and nobody asked for DEL; False if somebody did meanwhile."""
        with self._node.lock:
            if not self._node.stands(attachment):
                return False
            self._node.detach(attachment.id)
        said = {"attachment": str(attachment.id), "addresses": _addresses(attachment)}
        log.info("released a dead attachment", extra=said)
        return True


def _stamp(directory: Path) -> int:
    """Changes whenever something is put into a folder; 0 if there is none."""
    try:
        return directory.stat().st_mtime_ns
    except OSError:
        return 0


def _alive(attachment: Attachment, present: Container[str]) -> bool:
    """As far as can be told: what was never seen cannot be missed."""
    if attachment.link:
        return attachment.link in present
    return not attachment.netns_seen or leads_to(attachment.netns, attachment.netns_id)


def _addresses(attachment: Attachment) -> str:
    return ", ".join(str(each.address.ip) for each in attachment.addresses)
