"""What is attached, kept on disk: one process has it at a time, and finds it again after whatever ended the last one.

    begin -> ADDING --finish--> ATTACHED --doom--> DOOMED --forget--> (nothing)

Each step is a record of the journal. A killed process loses none of them. After a power failure the last ones may be
missing, but then the boot is another one and every attachment is dead anyway; only where another plugin keeps something
on its own disk (`Attachment.delegate`) is `begin` written through to ours.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cni import attachment_json, journal
from cni.attachment import Attachment, AttachmentId
from cni.config import Mode
from cni.directory import Directory, flock
from cni.failure import Code, Failure
from cni.journal import Contents, Journal
from netplane.closing import Closing
from netplane.errors import OwnershipError, Problem
from netplane.model.address import IPAddress

LOCK = "lock"
SPARE_BYTES, SPARE_FACTOR = 1 << 20, 3
"""The journal is written anew when it is larger than both: so many bytes, so many times what it would then be."""


class StoreBusy(OwnershipError):
    """Another process has the store."""


class State(Enum):
    """How far an attachment is. ADDING: nobody was told of it yet; DOOMED: it is being removed."""

    ADDING = "adding"
    ATTACHED = "attached"
    DOOMED = "doomed"


@dataclass(frozen=True, slots=True)
class Record:
    """An attachment as the journal has it. `since`: when it was begun (seconds of Unix time); `boot`: in which boot."""

    attachment: Attachment
    state: State
    boot: str
    since: float


Last = tuple[str, int]
"""A network, and the index of one of its range sets."""


@dataclass(slots=True)
class _Memory:
    """What the records of a journal amount to."""

    records: dict[AttachmentId, Record]
    last: dict[Last, IPAddress]
    problems: list[Problem]

    def replay(self, contents: Contents, where: str) -> None:
        self.problems += contents.problems
        for number, step in enumerate(contents.records, 1):
            try:
                self._do(step)
            except (ValueError, TypeError, KeyError) as error:
                self.problems.append(Problem(where, f"record {number}", f"not understood: {error!r:.200}"))

    def _do(self, step: Mapping[str, Any]) -> None:
        doing = step["do"]
        if doing == "begin":
            attachment = attachment_json.decode(step["attachment"])
            state = State(step.get("state", State.ADDING.value))
            self.put(Record(attachment, state, str(step["boot"]), float(step["at"])))
        elif doing == "last":
            network, index, address = step["last"]
            self.last[str(network), int(index)] = ip_address(address)
        elif doing == "forget":
            self.records.pop(AttachmentId(*step["id"]), None)
        elif doing in _AFTER:
            id_ = AttachmentId(*step["id"])
            if id_ not in self.records:
                raise ValueError(f"{doing} of {id_}, which was not begun")
            self.records[id_] = replace(self.records[id_], state=_AFTER[doing])
        else:
            raise ValueError(f"{doing!r:.40} is nothing this version does")

    def put(self, record: Record) -> None:
        attachment = record.attachment
        self.records[attachment.id] = record
        if not attachment.delegate and attachment.mode is not Mode.CHAINED:
            for index, each in enumerate(attachment.addresses):
                self.last[attachment.id.network, index] = each.address.ip


_AFTER = {"finish": State.ATTACHED, "doom": State.DOOMED}


class Store(Closing):
    """The attachments of this host. Not for several threads at once.

    Raises StoreBusy if another process has it for longer than `wait` seconds, Failure if the folder cannot be used or
    is not ours alone. What could not be read is in `problems`; it does not keep the rest from being used.
    """

    def __init__(self, directory: Path, boot_id: str, wait: float = 0.0) -> None:
        self.boot_id = boot_id
        self.path = directory
        self._directory = Directory.made(directory)
        self._lock = -1
        try:
            self._lock = _locked(self._directory, wait)
            contents = journal.read(self._directory)
            self._memory = _Memory({}, {}, [])
            self._memory.replay(contents, str(directory / journal.NAME))
            self._journal = Journal(self._directory)
        except BaseException:
            self._let_go()
            raise
        self._owed: list[dict[str, object]] = []
        self._enough = 0
        self.problems = tuple(self._memory.problems)
        self.records: Mapping[AttachmentId, Record] = MappingProxyType(self._memory.records)
        """All that are not forgotten, of other boots, too."""
        self.last: Mapping[Last, IPAddress] = MappingProxyType(self._memory.last)
        """The address of ours that was given last, by network and index of the range set."""

    def begin(self, attachment: Attachment) -> None:
        """Say what is going to be made, before it is made.

        Raises Failure: DUPLICATE if there is such an attachment, TRY_AGAIN_LATER if the disk is full, IO_FAILURE.
        """
        if found := self.records.get(attachment.id):
            raise Failure(Code.DUPLICATE, *_duplicate(found))
        self._pay()
        record = Record(attachment, State.ADDING, self.boot_id, round(time.time(), 3))
        self._journal.append(_begin(record), durable=bool(attachment.delegate))
        self._memory.put(record)

    def amend(self, attachment: Attachment) -> None:
        """Say more of what was begun and is not finished: after a crash, what was said first is enough to undo it.

        Raises KeyError if it was not begun, and Failure like `begin`.
        """
        record = replace(self.records[attachment.id], attachment=attachment)
        self._pay()
        self._journal.append(_begin(record))
        self._memory.put(record)

    def finish(self, id_: AttachmentId) -> None:
        """It is made. Raises KeyError if it was not begun, and Failure like `begin`."""
        record = self.records[id_]
        self._pay()
        self._journal.append({"do": "finish", "id": id_})
        self._memory.records[id_] = replace(record, state=State.ATTACHED)

    def doom(self, id_: AttachmentId) -> None:
        """It is going to be removed. Never fails: what a full disk refuses is written later. Unknown ones are fine."""
        if (record := self.records.get(id_)) and record.state is not State.DOOMED:
            self._memory.records[id_] = replace(record, state=State.DOOMED)
            self._owe({"do": "doom", "id": id_})

    def forget(self, id_: AttachmentId) -> None:
        """It is removed. Never fails, like `doom`."""
        if self._memory.records.pop(id_, None):
            self._owe({"do": "forget", "id": id_})
            self._tidy()

    def owed(self) -> int:
        """How many steps the disk refused and nobody could write yet; it is tried again now."""
        self._try_to_pay()
        return len(self._owed)

    def compact(self) -> None:
        """Write the journal anew, as short as can be. Raises Failure; then it is as it was."""
        self._journal.compact(self._steps())
        self._owed.clear()

    def close(self) -> None:
        """Let another process have it."""
        self._try_to_pay()
        self._journal.close()
        self._let_go()

    def _pay(self) -> None:
        """Write what is owed: the order of steps is kept. Raises Failure."""
        while self._owed:
            self._journal.append(self._owed[0])
            del self._owed[0]

    def _try_to_pay(self) -> None:
        try:
            self._pay()
        except Failure:
            return  # told by `owed`, and by the next `begin`

    def _owe(self, step: dict[str, object]) -> None:
        self._owed.append(step)
        self._try_to_pay()

    def _tidy(self) -> None:
        """Compact if that is worth it. How short it would be is known only afterwards, hence `_enough`."""
        if self._journal.size < max(SPARE_BYTES, self._enough):
            return
        try:
            self.compact()
        except Failure:
            self._enough = self._journal.size * 2  # a full disk: the old one is as good
        else:
            self._enough = self._journal.size * SPARE_FACTOR

    def _steps(self) -> Iterator[dict[str, object]]:
        """What says all that is known. First the attachments: whoever has an address did not get it last."""
        yield from map(_begin, self.records.values())
        for (network, index), address in self.last.items():
            yield {"do": "last", "last": [network, index, str(address)]}

    def _let_go(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
        self._directory.close()


def read(directory: Path) -> list[Record]:
    """The records of a store that somebody else may have, sorted; none if there is no store. Needs no lock.

    Raises Failure if it cannot be read. Steps that are not understood are passed over: `Store.problems` tells of them.
    """
    try:
        opened = Directory(directory)
    except Failure as failure:
        if isinstance(failure.__cause__, FileNotFoundError):
            return []
        raise
    with opened:
        contents = journal.read(opened)
    memory = _Memory({}, {}, [])
    memory.replay(contents, str(directory))
    return [memory.records[id_] for id_ in sorted(memory.records)]


def _begin(record: Record) -> dict[str, object]:
    step: dict[str, object] = {"do": "begin", "boot": record.boot, "at": record.since}
    if record.state is not State.ADDING:
        step["state"] = record.state.value
    return step | {"attachment": attachment_json.encode(record.attachment)}


def _duplicate(found: Record) -> tuple[str, str]:
    id_, addresses = found.attachment.id, [str(each.address.ip) for each in found.attachment.addresses]
    what = ", ".join(addresses) or f"{id_.ifname} of network {id_.network}"
    return (
        f"{what} has been allocated to {id_.container}, duplicate allocation is not allowed",
        f"{id_} is {found.state.value}; a runtime asks for DEL before it asks for ADD again",
    )


def _locked(directory: Directory, wait: float) -> int:
    where = directory.path / LOCK
    try:
        fd = directory.open(LOCK, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise Failure(Code.IO_FAILURE, f"cannot open {where}", error.strerror or "") from error
    if not flock(fd, wait):
        holder = os.pread(fd, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        raise StoreBusy(f"pid {holder} holds {where}: an agent, or another request without one; end it, or wait")
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except OSError:
        return fd  # a full disk: it is held all the same, only nobody reads by whom
    return fd
