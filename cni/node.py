"""The attachments of a node: who has which address, which links and rules there are, and the journal that knows it all.

One lock guards everything. The order of attaching is: address, journal, links, rules, journal. So whatever is killed
in between, the journal knows at least as much as the kernel has. Detaching goes the other way and is done when the
traffic has stopped; links are deleted later, in groups (`reaper.py`), and only then does the address come free. One
that another plugin gave is owed to it from then on, and the attachment known until that plugin has taken it back.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cni.attachment import LINK_PREFIXES, Attachment, AttachmentId, NetnsId, link_name
from cni.config import Mode
from cni.failure import Code, Failure
from cni.flows import Flows
from cni.ipam import Ipam
from cni.link_repair import Seen, look
from cni.reaper import Reaper
from cni.rules import Rules
from cni.sandbox import Sandbox, own_netns
from cni.store import Record, State, Store
from cni.wiring import Wiring
from netplane.closing import Closing
from netplane.errors import NetplaneError
from netplane.kernel.links import Links
from netplane.model.address import IPAddress

log = logging.getLogger("netplane.cni")

PENDING_SECONDS = 30.0
"""How long an ADD waits for the deletion of what was there before."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class NodeAttachments(Closing):
    """In the network namespace of the thread that creates it; used from any thread.

    Raises StoreBusy if another process has the directory for longer than `wait` seconds.
    """

    def __init__(self, directory: Path, wait: float = 0.0) -> None:
        self.lock = threading.RLock()
        self._gone = threading.Condition(self.lock)
        self.store = Store(directory, BOOT_ID.read_text().strip(), wait)
        try:
            self.wiring, self.rules, self.flows = Wiring(), Rules(), Flows()
            self.events = self.wiring.events  # from now on
            self.ipam = Ipam()
            self._reaping, self._reaping_flows, self._looking = Wiring(), Flows(), Links()
        except BaseException:
            self.store.close()
            raise
        self._mtu: tuple[tuple[IPAddress, ...], int] | None = None
        self.own_netns = own_netns()
        self._reaper = Reaper(self._reaping, self)
        self._doomed: dict[AttachmentId, Attachment] = {}  # their links are not gone yet
        self._owed: dict[AttachmentId, Attachment] = {}  # gone, but another plugin was not told yet that it is free
        self._giving: set[AttachmentId] = set()  # of these, those that a thread tells it of just now
        self._asked_for: set[AttachmentId] = set()  # begun: another plugin is asked for addresses
        self._making: set[AttachmentId] = set()  # begun, and not finished yet
        self._settling: set[AttachmentId] = set()  # of these, those whose links and rules are there
        self._standing: dict[tuple[str, bytes], Attachment] = {}  # by bridge, "" for routes, and address
        for record in self.store.records.values():
            self._stand(record.attachment)
            if record.state is State.DOOMED:
                self._doomed[record.attachment.id] = record.attachment
            if gives_addresses(record.attachment):
                self.ipam.occupy(record.attachment.id.network, addresses_of(record.attachment))
            if record.state is State.DOOMED:
                self._hold(record.attachment)
        for (network, index), address in self.store.last.items():
            self.ipam.continue_after(network, index, address)

    def attach(self, id_: AttachmentId, sandbox: Sandbox, make: Callable[[], Attachment]) -> Attachment:
        """Attach what `make` decides, which is asked with the lock held and takes addresses from `ipam`.

        All or nothing. Raises Failure or another NetplaneError.
        """
        with self.lock:
            if id_ not in self._asked_for:
                self._make_room(id_, sandbox.id)
            attachment = make()
            try:
                self._refuse_second(attachment)
                self.store.amend(attachment) if id_ in self._asked_for else self.store.begin(attachment)
            except BaseException:
                self._free(attachment)
                raise
            self._stand(attachment)
            self._making.add(id_)
        try:
            self._make(attachment, sandbox)
        except BaseException:
            with self.lock:
                record = self.store.records.get(id_)
                if record is not None and record.state is State.ADDING:
                    self._undo(attachment)
                elif attachment.link:
                    self.wiring.detach([attachment.link])  # its end was asked for, and came, before its links
            raise
        finally:
            with self.lock:
                self._making.discard(id_)
                self._settling.discard(id_)
        return attachment

    def _make(self, attachment: Attachment, sandbox: Sandbox) -> None:
        """What the journal says. Links without the lock: the kernel takes most of the time, and others go on."""
        self.wiring.attach(attachment, sandbox.fd, sandbox.kernel)
        with self.lock:
            self._still_wanted(attachment)
            self.rules.add(attachment)
            self.flows.attached(attachment)
            if not (attachment.link and attachment.duplicate_address_detection):
                self.store.finish(attachment.id)
                return
            self._settling.add(attachment.id)
        self.wiring.settle(attachment, sandbox.fd)  # seconds
        with self.lock:
            self._still_wanted(attachment)
            self.store.finish(attachment.id)

    def _still_wanted(self, attachment: Attachment) -> None:
        """Raises Failure if somebody asked for its end meanwhile."""
        record = self.store.records.get(attachment.id)
        if record is None or record.state is not State.ADDING:
            raise Failure(Code.TRY_AGAIN_LATER, "it was removed while it was made")

    @contextmanager
    def asking_for(self, attachment: Attachment) -> Iterator[None]:
        """While another plugin is asked for the addresses of an attachment: it is journaled before. Then `attach` it.

        What is not attached in the end is doomed.
        """
        with self.lock:
            self._make_room(attachment.id, attachment.netns_id)
            self.store.begin(attachment)
            self._asked_for.add(attachment.id)
        try:
            yield
        finally:
            with self.lock:
                self._asked_for.discard(attachment.id)
                if (record := self.store.records.get(attachment.id)) and record.state is State.ADDING:
                    self._undo(record.attachment)

    @contextmanager
    def giving_back(self, id_: AttachmentId) -> Iterator[Attachment | None]:
        """While another plugin is told that the addresses of a doomed attachment are free: by one thread at a time.

        None if nothing is owed; it is owed still if an exception comes out of it. Raises Failure after PENDING_SECONDS.
        """
        with self.lock:
            if not self._gone.wait_for(lambda: id_ not in self._giving, PENDING_SECONDS):
                raise Failure(Code.TRY_AGAIN_LATER, "the IPAM plugin is still busy with what was there before")
            attachment = self._owed.get(id_)
            if attachment is not None:
                self._giving.add(id_)
        try:
            yield attachment
            if attachment is not None:
                with self.lock:
                    del self._owed[id_]
                    self.store.forget(id_)
        finally:
            with self.lock:
                if attachment is not None:
                    self._giving.discard(id_)
                self._gone.notify_all()

    def detach(self, id_: AttachmentId) -> Attachment | None:
        """Stop the traffic of an attachment and have its links deleted soon; None if there is none.

        Its address rests from when its links are gone. Doing it again is harmless.
        """
        with self.lock:
            record = self.store.records.get(id_)
            if record is None:
                return None
            if record.state is not State.DOOMED:
                self._doom(record.attachment)
            return record.attachment

    def wait_gone(self, ids: Iterable[AttachmentId]) -> None:
        """Until these, which are doomed, are gone. Raises Failure after PENDING_SECONDS."""
        with self.lock:
            self._wait(set(ids))

    def release(self, ids: Collection[AttachmentId]) -> None:
        """End attachments of which the kernel has nothing any more: those of another boot."""
        with self.lock:
            for id_ in ids:
                record = self.store.records.get(id_)
                if record is not None:
                    self.store.doom(id_)
                    self._end(record.attachment)
            self._gone.notify_all()

    def attached(self) -> list[Attachment]:
        """What should be there now."""
        return [
            each.attachment
            for id_, each in self.store.records.items()
            if each.state is State.ATTACHED or id_ in self._settling
        ]

    def stands(self, attachment: Attachment) -> bool:
        """Whether it is attached, just this one and no other of its name. With the lock held."""
        record = self.store.records.get(attachment.id)
        return record is not None and record.attachment is attachment and record.state is not State.DOOMED

    def seen(self, attachments: Iterable[Attachment]) -> Seen:
        """What the kernel has of these. Takes its time, and no lock: for one thread."""
        return look(self._looking, routed=any(each.link and each.bridge is None for each in attachments))

    def abandoned(self) -> list[AttachmentId]:
        """Begun, and nobody goes on with it: the agent was killed."""
        busy = self._asked_for | self._making
        return [id_ for id_, each in self.store.records.items() if each.state is State.ADDING and id_ not in busy]

    def owed(self) -> list[AttachmentId]:
        """Whose addresses another plugin has to take back."""
        return list(self._owed)

    def close(self) -> None:
        """Delete what is doomed, then let go. Links, rules and addresses stay."""
        self._reaper.close()
        for each in (
            self._reaping,
            self._reaping_flows,
            self._looking,
            self.flows,
            self.rules,
            self.wiring,
            self.store,
        ):
            each.close()

    @property
    def pending(self) -> bool:
        """Whether links are doomed and not deleted yet: an ADD may have to wait for one."""
        return bool(self._doomed)

    def mtu(self, peers: tuple[IPAddress, ...]) -> int:
        """What fits on the way to the other nodes. Asked of the kernel again after `forget_mtu`."""
        if self._mtu is None or self._mtu[0] != peers:
            self._mtu = (peers, self.wiring.path_mtu(peers))
        return self._mtu[1]

    def forget_mtu(self) -> None:
        """Routes or links have changed."""
        self._mtu = None

    def remove_stray(self, id_: AttachmentId) -> None:
        """Delete a link whose name says that it was of this attachment, which nobody remembers."""
        with self.lock:
            links = [link for mode in LINK_PREFIXES if self.wiring.exists(link := link_name(mode, id_))]
            if links and id_ not in self.store.records:
                self.wiring.detach(links)

    def bury(self, records: Iterable[Record]) -> None:
        """Have the links of doomed attachments deleted: those an earlier process did not come to."""
        links = {_link(each.attachment) for each in records}
        if links:
            self._reaper.bury(links)

    def _doom(self, attachment: Attachment) -> None:
        self.store.doom(attachment.id)
        self._doomed[attachment.id] = attachment
        self._hold(attachment)
        try:
            self.rules.remove(attachment)
            self.flows.detached(attachment)
            if attachment.link:
                self.wiring.doom([attachment.link])
        finally:
            self._reaper.bury([_link(attachment)])

    def _make_room(self, id_: AttachmentId, netns: NetnsId) -> None:
        """Wait for the end of what has this name or stands in this namespace; refuse what lives."""
        record = self.store.records.get(id_)
        if record is not None and record.state is State.ADDING:
            self.detach(id_)  # nobody was ever told of it
        elif record is not None and record.state is State.ATTACHED:
            said = f"container {id_.container} has {id_.ifname} in network {id_.network} already"
            raise Failure(Code.DUPLICATE, said, "a runtime asks for DEL before it asks for ADD again")
        in_the_way = {each for each, doomed in self._doomed.items() if _in_the_way(doomed, id_, netns)}
        if in_the_way:
            self._wait(in_the_way)

    def _wait(self, ids: set[AttachmentId]) -> None:
        there = [_link(self._doomed[each]) for each in ids if each in self._doomed]
        if not there:
            return
        self._reaper.bury(there, hurry=True)
        if not self._gone.wait_for(lambda: not ids & self._doomed.keys(), PENDING_SECONDS):
            raise Failure(Code.TRY_AGAIN_LATER, f"the links before were not gone after {PENDING_SECONDS:g} s")

    def still_doomed(self, links: Collection[str]) -> list[str]:
        """Which of these links belong to doomed attachments (asked by the reaper)."""
        with self.lock:
            return sorted({_link(each) for each in self._doomed.values()} & set(links))

    def deleted(self, links: Collection[str]) -> None:
        """Links of doomed attachments are gone, and so are these (told by the reaper)."""
        with self.lock:
            gone = [each for each in self._doomed.values() if _link(each) in links]
        try:
            self._reaping_flows.forget([address for each in gone for address in addresses_of(each)])
        except NetplaneError as error:  # no reason to keep the addresses
            log.warning("connections of containers that are gone are not forgotten", extra={"why": str(error)})
        with self.lock:
            for attachment in gone:
                if self._doomed.get(attachment.id) is attachment:
                    self._end(attachment)
            self._gone.notify_all()

    def _undo(self, attachment: Attachment) -> None:
        """Take back what an attach began; what cannot be taken back now is left to the reaper."""
        try:
            self._doom(attachment)
        except NetplaneError as error:
            log.error("cannot undo an attachment", extra={"attachment": str(attachment.id), "why": str(error)})

    def _end(self, attachment: Attachment) -> None:
        """Nothing of it is left in the kernel."""
        self._doomed.pop(attachment.id, None)
        for place in _places(attachment):
            if self._standing.get(place, attachment).id == attachment.id:
                self._standing.pop(place, None)
        if attachment.delegate:
            self._owed[attachment.id] = attachment
        else:
            self.store.forget(attachment.id)
            self._free(attachment)

    def _stand(self, attachment: Attachment) -> None:
        self._standing.update(dict.fromkeys(_places(attachment), attachment))

    def _refuse_second(self, attachment: Attachment) -> None:
        """Two networks may have one range, but packets to one address can go to one container only."""
        for place in _places(attachment):
            other = self._standing.get(place)
            if other is not None and other.id != attachment.id:
                address = next(each.address.ip for each in attachment.addresses if each.address.packed == place[1])
                said = f"{address} is taken: {other.id} has it" + (f" on {place[0]}" if place[0] else "")
                raise Failure(Code.DUPLICATE, said, "networks that share a bridge, or are routed, must not overlap")

    def _hold(self, attachment: Attachment) -> None:
        """Its addresses come free soon: STATUS need not call a range exhausted for them."""
        if gives_addresses(attachment):
            self.ipam.hold(attachment.id.network, addresses_of(attachment))

    def _free(self, attachment: Attachment) -> None:
        if gives_addresses(attachment):
            now = time.monotonic()
            self.ipam.give_back(attachment.id.network, addresses_of(attachment), now)


def gives_addresses(attachment: Attachment) -> bool:
    """Whether its addresses are ours to give."""
    return attachment.mode is not Mode.CHAINED and not attachment.delegate


def addresses_of(attachment: Attachment) -> tuple[IPAddress, ...]:
    """Its addresses without their networks."""
    return tuple(each.address.ip for each in attachment.addresses)


def _places(attachment: Attachment) -> list[tuple[str, bytes]]:
    """Where nobody else may stand. Of what another plugin attached, that one knows."""
    if not attachment.link:
        return []
    where = attachment.bridge.name if attachment.bridge is not None else ""
    return [(where, each.address.packed) for each in attachment.addresses]


def _link(attachment: Attachment) -> str:
    """What the reaper deletes; of one that another plugin made, the name that leads to its queue."""
    return attachment.link or link_name(Mode.BRIDGE, attachment.id)


def _in_the_way(doomed: Attachment, id_: AttachmentId, netns: NetnsId) -> bool:
    return doomed.id == id_ or (doomed.netns_id == netns and doomed.id.ifname == id_.ifname)
