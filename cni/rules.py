"""The nftables tables of the attachments, kept in the kernel: one netlink transaction for each that comes or goes.

Structure is written by `nft`, which costs a process, and only when an attachment needs something that no other has
needed before. Elements go through netlink. What the tables are is said by `rule_program.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from cni.attachment import Attachment, AttachmentId
from cni.failure import Code, Failure
from cni.rule_program import ADDRESS_PORTS, PORTS, TABLE, Needs, Shape, assembled, host_ports, merged, needs, structure
from netplane.closing import Closing
from netplane.errors import KernelError
from netplane.kernel.netns import Visit
from netplane.kernel.nftables import NftablesDriver
from netplane.kernel.transactions import OwnTransactions
from netplane.model.address import Family
from netplane.programs.nftables import Data, ElementChanges, NftablesChanges, NftablesProgram, Part, SetName
from netplane.programs.nftables_changes import as_found, changes_from_found
from netplane.programs.nftables_text import changes_lines

NAMED = 20
"""Differences that are named; the others are counted."""
_IPV6 = Path("/proc/sys/net/ipv6")

Elements = dict[SetName, dict[bytes, Data]]


@dataclass(frozen=True, slots=True)
class Differences:
    """What a reconcile had to mend: how much, and the first few as nft would do it. Empty if nothing differed."""

    count: int = 0
    named: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.count)

    def told(self) -> list[str]:
        """A line for each that is named, and one for the others."""
        others = self.count - len(self.named)
        return [*self.named, *([f"and {others} more differences of table {TABLE}"] if others > 0 else [])]


class Rules(Closing):
    """Our tables in the network namespace of the thread that creates this. Used by one thread at a time, any thread.

    Call `reconcile` with all attachments first: `add` can only see that two want one port if it knows both. Drivers of
    nftables that share `own` are not strangers to one another (`disturbed`).

    Raises OwnershipError if a table of our name is not ours, RequirementError without privilege or nft.
    """

    def __init__(self, own: OwnTransactions | None = None) -> None:
        self._driver = NftablesDriver(own, TABLE)
        self._netns_fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._families = (Family.IPV4, Family.IPV6) if _IPV6.exists() else (Family.IPV4,)
        self._known: dict[AttachmentId, tuple[Attachment, Needs]] = {}
        self._owners: dict[SetName, dict[bytes, AttachmentId]] = {}
        self._shapes: Mapping[Family, Shape] | None = None  # what the kernel's structure has room for; None: not known
        self._mark: int | None = None
        self._masquerade = True

    @property
    def masquerade(self) -> bool:
        """Whether Pods that ask for it are masqueraded here; not where the Pod network does that for all."""
        return self._masquerade

    @masquerade.setter
    def masquerade(self, wanted: bool) -> None:
        """What is there already follows with the next `reconcile`."""
        if wanted != self._masquerade:
            self._masquerade, self._mark = wanted, None
            self._known = {}  # what they need is another thing now

    def add(self, attachment: Attachment) -> None:
        """Make what `attachment` needs. All or nothing; adding it again changes nothing.

        Raises Failure if another has one of its host ports, KernelError if the kernel refuses also after what
        somebody else removed was made again.
        """
        need = self._needs_of(attachment)
        self._refuse_taken(attachment, need.part)
        old = self._known.get(attachment.id)
        gone = _without(old[1].part, need.part) if old is not None else {}
        if need.shapes or gone:
            shapes = self._shapes_with(need)
            try:
                self._make(self._changes(shapes, ElementChanges(remove=gone, add=need.part.elements)))
            except KernelError as refused:
                self._make_again(attachment, need, refused)
            except BaseException:
                self._mark = None
                raise
            else:
                self._shapes = shapes
        self._remember(attachment, need)

    def remove(self, attachment: Attachment) -> None:
        """Remove what `attachment` has. Removing it again changes nothing, and nothing of others is touched."""
        known = self._known.pop(attachment.id, None)
        part = known[1].part if known is not None else self._needs_of(attachment).part
        gone: Elements = {}
        for name, elements in part.elements.items():
            owners = self._owners.get(name, {})
            own = {key: data for key, data in elements.items() if owners.get(key, attachment.id) == attachment.id}
            for key in own:
                owners.pop(key, None)
            if own:
                gone[name] = own
        if gone:
            try:
                self._driver.sweep(NftablesChanges(sweep_elements=ElementChanges(remove=gone)))
            except BaseException:
                self._mark = None
                raise

    def reconcile(self, attachments: Iterable[Attachment]) -> Differences:
        """Read everything and make it what `attachments` need and nothing else; says what differed.

        Rules that only attachments of this process's past needed stay until the first `reconcile` of another.
        """
        known = {each.id: (each, self._needs(each)) for each in attachments}
        shapes = merged((self._shapes or {}, *(need.shapes for _, need in known.values())))
        self._mark = None
        mark = self._driver.mark()
        want = assembled({id_: need.part for id_, (_, need) in known.items()}, shapes)
        differences = self._apply(want)
        self._known, self._owners, self._shapes, self._mark = {}, {}, shapes, mark
        for attachment, need in known.values():
            self._remember(attachment, need)
        return differences

    def check(self, attachment: Attachment) -> None:
        """Raises Failure if something is not as `add` left it, in words of nft."""
        need = self._needs_of(attachment)
        shapes = need.shapes if self._shapes is None else merged((self._shapes, need.shapes))
        want = assembled({attachment.id: need.part}, {family: shapes[family] for family in need.shapes})
        changes = changes_from_found(self._driver.read(), want)
        missing = NftablesChanges(changes.make_structure, changes.make_elements, changes.make_hooks)
        if missing.made():
            lines = [line for line in islice(changes_lines(missing, want), NAMED) if not line.startswith("- ")]
            raise Failure(Code.DIFFERS, f"nftables: table {TABLE} is not as it was made", "; ".join(lines))

    def disturbed(self) -> bool:
        """Whether somebody else may have changed nftables here since the last `reconcile`. Cheap.

        True also if nothing was reconciled yet, and after a refusal.
        """
        return self._mark is None or self._driver.mark() != self._mark

    def sweep_all(self) -> Differences:
        """Remove our tables, if they are there; says what was removed."""
        self._known, self._owners, self._shapes, self._mark = {}, {}, None, None
        return self._apply(NftablesProgram(table=TABLE))

    def close(self) -> None:
        """Close the socket; rules stay."""
        self._driver.close()
        os.close(self._netns_fd)

    # --- what is known ----------------------------------------------------------------------------------------------

    def _needs(self, attachment: Attachment) -> Needs:
        """Taken from what is known where it is the same object."""
        known = self._known.get(attachment.id)
        return known[1] if known is not None and known[0] is attachment else self._needs_of(attachment)

    def _needs_of(self, attachment: Attachment) -> Needs:
        if attachment.masquerade and not self._masquerade:
            attachment = replace(attachment, masquerade=False)
        return needs(attachment, self._families)

    def _remember(self, attachment: Attachment, need: Needs) -> None:
        self._known[attachment.id] = (attachment, need)
        for name, elements in need.part.elements.items():
            self._owners.setdefault(name, {}).update(dict.fromkeys(elements, attachment.id))

    def _refuse_taken(self, attachment: Attachment, part: Part) -> None:
        """Raises Failure if one of its host ports is another's."""
        for name, elements in part.elements.items() if attachment.ports else ():
            owners = self._owners.get(name, {}) if name[1] in (PORTS, ADDRESS_PORTS) else {}
            if others := {owners[key] for key in elements if key in owners} - {attachment.id}:
                raise _taken(attachment, self._known[min(others)][0])

    # --- structure --------------------------------------------------------------------------------------------------

    def _shapes_with(self, need: Needs) -> Mapping[Family, Shape]:
        """What the structure must have room for; the same object if it has."""
        have = self._shapes if self._shapes is not None else self._found_shapes(need)
        if all(family in have and have[family] | shape == have[family] for family, shape in need.shapes.items()):
            return have
        return merged((have, need.shapes))

    def _found_shapes(self, need: Needs) -> Mapping[Family, Shape]:
        """What a first `add` without `reconcile` may take for known: nothing, or exactly what it needs."""
        found = self._driver.read()
        want = {family: structure(family, shape) for family, shape in need.shapes.items()}
        for family in found.keys() & want.keys():
            chains = {name: chain.digests for name, chain in found[family].chains.items()}
            if chains != {name: chain.digests() for name, chain in want[family].chains.items()}:
                said = "there are rules of attachments that this process does not know"
                raise KernelError(mechanism="nftables", doing=f"add to table {TABLE}", said=said)
        return {family: need.shapes[family] for family in found.keys() & want.keys()}

    def _changes(self, shapes: Mapping[Family, Shape], elements: ElementChanges) -> NftablesChanges:
        """What leads from the structure that is known to one of these shapes, and with these elements."""
        have = self._shapes or {}
        if shapes is have:
            return NftablesChanges(make_elements=elements)
        more = changes_from_found(as_found(assembled({}, have)), assembled({}, shapes))
        return NftablesChanges(more.make_structure, elements, more.make_hooks)

    def _make_again(self, attachment: Attachment, need: Needs, refused: KernelError) -> None:
        """The kernel is not as we know it: read it, and make all that is missing."""
        parts = {id_: known.part for id_, (_, known) in self._known.items()} | {attachment.id: need.part}
        shapes = merged((self._shapes or {}, need.shapes))
        self._mark = None
        want = assembled(parts, shapes)
        try:
            self._make(changes_from_found(self._driver.read(), want))
        except KernelError as again:
            raise again from refused
        self._shapes = shapes

    def _apply(self, want: NftablesProgram) -> Differences:
        changes = changes_from_found(self._driver.read(), want)
        count = changes.made() + changes.swept()
        differences = Differences(count, tuple(islice(changes_lines(changes, want), NAMED)) if count else ())
        self._make(changes)
        with Visit(self._netns_fd):
            self._driver.sweep(changes)
        return differences

    def _make(self, changes: NftablesChanges) -> None:
        """Whichever thread calls: sockets know their namespace, but nft works in that of the thread that starts it."""
        if changes.make_structure or changes.make_hooks:
            with Visit(self._netns_fd):
                self._driver.make(changes)
        else:
            self._driver.make(changes)


def _without(part: Part, other: Part) -> Elements:
    """The elements of `part` that `other` lacks or has with other data."""
    found: Elements = {}
    for name, elements in part.elements.items():
        kept = other.elements.get(name, {})
        gone = {key: data for key, data in elements.items() if key not in kept or kept[key] != data}
        if gone:
            found[name] = gone
    return found


def _taken(attachment: Attachment, other: Attachment) -> Failure:
    theirs = set(host_ports(other))
    wanted = ", ".join(str(each) for each in host_ports(attachment) if each in theirs)
    return Failure(Code.DUPLICATE, f"host {wanted} is taken", f"{attachment.id} wants what {_named(other)} has")


def _named(attachment: Attachment) -> str:
    return f"{attachment.id} (pod {attachment.pod})" if attachment.pod else str(attachment.id)
