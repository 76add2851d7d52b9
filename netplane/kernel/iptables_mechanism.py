"""iptables as a mechanism of the host."""

from __future__ import annotations

from netplane.kernel.iptables import IptablesDriver
from netplane.kernel.iptables_variants import AUTO, Variant
from netplane.kernel.mechanism import Drift, Pending
from netplane.kernel.transactions import OwnTransactions
from netplane.programs.iptables import IptablesProgram, TableKey
from netplane.programs.iptables_changes import Applied, IptablesChanges, changes_from_found, changes_lines
from netplane.programs.iptables_text import Found
from netplane.programs.program import Program


class IptablesMechanism:
    """Our chains of iptables in the network namespace of the thread that creates it."""

    name = "iptables"

    def __init__(self, wish: str = AUTO, own: OwnTransactions | None = None) -> None:
        self._driver = IptablesDriver(wish, own)
        self._applied: Applied | None = None
        self._program = IptablesProgram()
        self._mark = 0

    @property
    def variant(self) -> Variant | None:
        """The variant in use, as of the last reading; None where there is nothing to use one for."""
        return self._driver.variant

    @property
    def told(self) -> bool:
        """See `Mechanism.told`. The kernel tells nobody of changes in the legacy variant."""
        return self._driver.variant is not Variant.LEGACY

    def pending(self, want: Program, *, reread: bool, sweep: bool) -> Pending:
        """See `Mechanism.pending`. While anything stays wanted, what goes does so at the same stroke.

        A chain of the dispatch has rules of all Services, so that writing it sweeps those that are not wanted:
        without `sweep` they are read, and written again.
        """
        drift = Drift()
        changes = self._applied.changes_to(want.iptables) if self._applied else None
        if changes is None or not sweep or (reread and self._stale()):
            found = self._driver.read(want.iptables.frames, take_over=want.serves, shared=not sweep)
            self._mark = self._driver.read_mark
            same = sweep and changes is not None and not (changes.made() or changes.swept())
            changes = self._kept(changes_from_found(found, want.iptables, joined=not sweep), found)
            drift = self._drift(found, changes if same else None)
            self._applied = Applied.of(want.iptables, found)
        self._program = want.iptables
        whole = changes if sweep else changes.without_sweep()
        at_once = bool(want.iptables.frames)
        return Pending(
            mechanism=self.name,
            made=whole.made(),
            swept=whole.swept(),
            make=lambda: self._driver.apply(whole) if at_once else None,
            sweep=lambda: None if at_once else self._driver.apply(whole),
            lines=lambda: [*changes_lines(whole)],
            drift=drift,
        )

    def disturbed(self) -> bool:
        """See `Mechanism.disturbed`. Where nothing is wanted nothing can be missing."""
        return bool(self._program.frames) and self._driver.mark() != self._mark

    def mark(self) -> int:
        """See `Mechanism.mark`."""
        return self._driver.mark()

    def forget(self) -> None:
        """See `Mechanism.forget`."""
        self._applied = None

    def close(self) -> None:
        """See `Mechanism.close`."""
        self._driver.close()

    def _stale(self) -> bool:
        """Whether the kernel has to be read again: the legacy variant cannot tell, and looking at nothing is cheap."""
        return self._driver.variant is not Variant.NF_TABLES or not self._program.frames or self.disturbed()

    def _kept(self, changes: IptablesChanges, found: Found) -> IptablesChanges:
        """The changes without removing chains that others refer to, nor those that these lead to."""
        kept: dict[TableKey, dict[str, str]] = {}
        for key, table in found.items():
            needed = [name for name in changes.tables[key].drop if name in table.references]
            if needed:
                by = table.references[needed[0]]
                reached = self._driver.reachable(key, needed)
                kept[key] = {name: table.references.get(name, by) for name in sorted(reached)}
        return changes.keeping(kept) if kept else changes

    def _drift(self, found: Found, repair: IptablesChanges | None) -> Drift:
        """What somebody else did to what we applied; nothing where we do not know what we applied.

        `repair` is what leads back to that, where it is known already.
        """
        if self._applied is None:
            return Drift()
        if repair is None:
            repair = self._kept(changes_from_found(found, self._program), found)
        return Drift.of(repair.made() + repair.swept(), changes_lines(repair))
