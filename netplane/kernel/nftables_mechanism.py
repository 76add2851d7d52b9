"""nftables as a mechanism of the host."""

from __future__ import annotations

from collections.abc import Callable

from netplane.kernel.mechanism import Drift, Pending
from netplane.kernel.nftables import NftablesDriver
from netplane.kernel.transactions import OwnTransactions
from netplane.model.address import Family
from netplane.programs.nftables import KUBE_PROXY_TABLE, NFT_FAMILY, Found, NftablesChanges, NftablesProgram
from netplane.programs.nftables_changes import Applied, changes_from_found
from netplane.programs.nftables_text import changes_lines
from netplane.programs.program import Program


def of_services(program: Program) -> NftablesProgram:
    """The tables of the Services."""
    return program.nftables


def of_network(program: Program) -> NftablesProgram:
    """The tables of the Pod network."""
    return program.network_rules


class NftablesMechanism:
    """Our nftables tables of one name in the network namespace of the thread that creates it.

    `part` says which tables of a program these are. Only those of the Services take over from kube-proxy.
    """

    told = True

    def __init__(
        self, own: OwnTransactions | None = None, part: Callable[[Program], NftablesProgram] = of_services
    ) -> None:
        self._part, self._program = part, part(Program())
        self.name = "nftables" if part is of_services else self._program.table
        self._driver = NftablesDriver(own, self._program.table)
        self._applied: Applied | None = None
        self._mark = 0

    def pending(self, want: Program, *, reread: bool, sweep: bool) -> Pending:  # noqa: ARG002  not at one stroke
        """See `Mechanism.pending`. Where nobody else changed nftables since, there is nothing to read again."""
        program = self._part(want)
        drift = Drift()
        leftovers: tuple[Family, ...] = ()
        changes = self._applied.changes_to(program) if self._applied else None
        if changes is None or (reread and self.disturbed()):
            self._mark = self._driver.mark()
            found = self._driver.read()
            leftovers = self._driver.kube_proxy() if want.serves and self._part is of_services else ()
            same = changes is not None and not (changes.made() or changes.swept())
            changes = changes_from_found(found, program)
            drift = self._drift(found, changes if same else None)
            self._applied = Applied.of(program)
        self._program = program
        return Pending(
            mechanism=self.name,
            made=changes.made(),
            swept=changes.swept() + len(leftovers),
            make=lambda: self._driver.make(changes),
            sweep=lambda: self._sweep(changes, leftovers),
            lines=lambda: [*changes_lines(changes, program), *_leftover_lines(leftovers)],
            drift=drift,
        )

    def _sweep(self, changes: NftablesChanges, leftovers: tuple[Family, ...]) -> None:
        self._driver.sweep(changes)
        self._driver.sweep_kube_proxy(leftovers)

    def disturbed(self) -> bool:
        """See `Mechanism.disturbed`. True also after any change of a table that is not ours."""
        return self._driver.mark() != self._mark

    def mark(self) -> int:
        """See `Mechanism.mark`."""
        return self._driver.mark()

    def forget(self) -> None:
        """See `Mechanism.forget`."""
        self._applied = None

    def close(self) -> None:
        """See `Mechanism.close`."""
        self._driver.close()

    def _drift(self, found: Found, repair: NftablesChanges | None) -> Drift:
        """What somebody else did to what we applied; nothing where we do not know what we applied.

        `repair` is what leads back to that, where it is known already.
        """
        if self._applied is None:
            return Drift()
        if repair is None:
            repair = changes_from_found(found, self._program)
        return Drift.of(repair.made() + repair.swept(), changes_lines(repair, self._program))


def _leftover_lines(families: tuple[Family, ...]) -> list[str]:
    return [f"- delete table {NFT_FAMILY[family]} {KUBE_PROXY_TABLE} (kube-proxy's own)" for family in families]
