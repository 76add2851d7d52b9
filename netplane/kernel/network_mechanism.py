"""The links, addresses, neighbours, routes and rules of the Pod network as a mechanism of the host.

What a program says of WireGuard peers and of bird is others' business; the link np-wg is made by others, and gets
its MTU, addresses and routes here.
"""

from __future__ import annotations

from dataclasses import replace

from netplane.kernel.announce import announce
from netplane.kernel.mechanism import Drift, Pending, Sweeping
from netplane.kernel.network_driver import Announce, NetworkDriver
from netplane.programs.network import NetworkProgram
from netplane.programs.network_changes import FoundNetwork, NetworkChanges, changes_between, changes_from_found
from netplane.programs.network_lines import changes_lines
from netplane.programs.program import Program


class NetworkMechanism:
    """What is ours in the network namespace of the thread that creates it.

    Whoever uses it listens to kernel/network_events.py: that hears of all that others change, at any time, so there is
    nothing to ask here.
    """

    name = "network"
    told = True

    def __init__(self, tell: Announce = announce) -> None:
        """`tell` is called for each announced address that a link gets."""
        self._driver = NetworkDriver(tell)
        self._applied: NetworkProgram | None = None

    def pending(self, want: Program, *, reread: bool, sweep: bool) -> Pending:
        """See `Mechanism.pending`."""
        program, applied = want.network, self._applied
        drift = Drift()
        changes = changes_between(applied, program) if applied is not None and not reread else None
        if changes is None or _may_be_others(changes):
            found = self._driver.read(program)
            changes = changes_from_found(found, program)
            drift = _drift(found, applied, None if applied != program else changes)
        self._applied = program
        work = _Work(self._driver, program, changes, sweep=sweep)
        return Pending(
            mechanism=self.name,
            made=changes.made(),
            swept=changes.swept(),
            make=work.make,
            sweep=work.sweep,
            lines=lambda: [*changes_lines(changes)],
            drift=drift,
            sweeping=Sweeping.ALWAYS,
        )

    def disturbed(self) -> bool:
        """See `Mechanism.disturbed`: never asked, for all is told."""
        return False

    def mark(self) -> int:
        """See `Mechanism.mark`: what happens while nobody reads the events waits in them."""
        return 0

    def forget(self) -> None:
        """See `Mechanism.forget`."""
        self._applied = None

    def close(self) -> None:
        """See `Mechanism.close`."""
        self._driver.close()


class _Work:
    """The two halves of what is pending. Both see the same changes, also where these had to be found out again."""

    def __init__(self, driver: NetworkDriver, want: NetworkProgram, changes: NetworkChanges, *, sweep: bool) -> None:
        self._driver, self._want, self._sweep = driver, want, sweep
        self._changes = changes
        self._whole = False

    def make(self) -> None:
        """See `Pending.make`.

        What is known is not enough where a link was made anew since the reading (np-wg by its own mechanism, just
        before), or where something makes room first: with the last IPv4 address of a link go all routes over it.
        """
        changes = self._changes if self._sweep else replace(self._changes, leftovers=())
        failures = self._driver.clear(changes)
        links = [name for name in self._want.links if name not in (*changes.links, *changes.foreign)]
        if changes.misfits or changes.leftovers or self._driver.moved(links):
            self._changes = changes_from_found(self._driver.read(self._want), self._want)
        self._driver.make(self._changes, failures)
        self._whole = True

    def sweep(self) -> None:
        """See `Pending.sweep`. Links stay where not all was made: what was refused may still be on one of them."""
        self._driver.sweep(self._changes if self._whole else replace(self._changes, no_links=()))


def _may_be_others(changes: NetworkChanges) -> bool:
    """Whether an address would be taken that may be somebody else's: it was there already when we wanted it."""
    return any(each.announced for each in (*changes.no_addresses, *changes.misfits))


def _drift(found: FoundNetwork, applied: NetworkProgram | None, repair: NetworkChanges | None) -> Drift:
    if applied is None:
        return Drift()
    repair = changes_from_found(found, applied) if repair is None else repair
    return Drift.of(repair.made() + repair.swept(), changes_lines(repair))
