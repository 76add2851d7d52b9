"""The host: every mechanism of a program, read and applied in one order.

Order between mechanisms is `Host.MECHANISMS` and nowhere else: referents come before references, so making runs
forward and sweeping backward. Cleaning up is applying the empty program.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from netplane.closing import Closing
from netplane.kernel.nftables import NftablesDriver
from netplane.programs.nftables_changes import Applied, changes_from_found
from netplane.programs.nftables_text import changes_lines
from netplane.programs.program import Program


@dataclass(frozen=True, slots=True)
class Pending:
    """What one mechanism would do now: how much, how to do it, and how to say it."""

    mechanism: str
    made: int
    swept: int
    make: Callable[[], None]
    sweep: Callable[[], None]
    lines: Callable[[], list[str]]
    """For people: `+ add chain ...`, `- 10.96.0.10 . tcp . 80`, in the order they would be carried out."""


@dataclass(frozen=True, slots=True)
class Summary:
    """How much an apply made and swept, counted in lines and elements."""

    made: int
    swept: int

    @property
    def changed(self) -> bool:
        """Whether the kernel is not as it was before."""
        return bool(self.made or self.swept)


class Mechanism(Protocol):
    """One kernel mechanism, seen from the host."""

    def pending(self, want: Program, *, reread: bool) -> Pending:
        """What leads from what the kernel has to `want`.

        With `reread` the kernel is asked; otherwise it is taken to have what was last applied, if that is known.
        """

    def forget(self) -> None:
        """The last apply failed half-way: what the kernel has is not known any more."""

    def close(self) -> None:
        """Close sockets. The kernel keeps what it has."""


class NftablesMechanism:
    """nftables as a mechanism of the host."""

    def __init__(self) -> None:
        self._driver = NftablesDriver()
        self._applied: Applied | None = None
        self._mark = 0

    def pending(self, want: Program, *, reread: bool) -> Pending:
        """See `Mechanism.pending`. Where nobody else changed nftables since, there is nothing to read again."""
        if self._applied is None or (reread and self._driver.mark() != self._mark):
            self._mark = self._driver.mark()
            changes = changes_from_found(self._driver.read(), want.nftables)
            self._applied = Applied.of(want.nftables)
        else:
            changes = self._applied.changes_to(want.nftables)
        return Pending(
            mechanism="nftables",
            made=changes.made(),
            swept=changes.swept(),
            make=lambda: self._driver.make(changes),
            sweep=lambda: self._driver.sweep(changes),
            lines=lambda: changes_lines(changes, want.nftables),
        )

    def forget(self) -> None:
        """See `Mechanism.forget`."""
        self._applied = None

    def close(self) -> None:
        """See `Mechanism.close`."""
        self._driver.close()


class Host(Closing):
    """The network namespace of the thread that creates it. Used by one thread at a time."""

    MECHANISMS: ClassVar[tuple[Callable[[], Mechanism], ...]] = (NftablesMechanism,)

    def __init__(self) -> None:
        self._mechanisms: list[Mechanism] = [mechanism() for mechanism in self.MECHANISMS]

    def pending(self, want: Program) -> list[Pending]:
        """What `apply` would do, found by reading the kernel; nothing is changed."""
        try:
            return [mechanism.pending(want, reread=True) for mechanism in self._mechanisms]
        finally:
            self._forget()

    def apply(self, want: Program, *, reread: bool, sweep: bool = True) -> Summary:
        """Make the kernel have `want` and, with `sweep`, nothing of ours beyond it.

        Raises KernelError or OwnershipError; the next apply then reads the kernel first. Applying again after
        any failure converges.
        """
        try:
            pending = [mechanism.pending(want, reread=reread) for mechanism in self._mechanisms]
            for each in pending:
                each.make()
            for each in reversed(pending if sweep else []):
                each.sweep()
        except BaseException:
            self._forget()
            raise
        if not sweep:
            self._forget()  # what stays beyond `want` is only known to the kernel
        return Summary(sum(each.made for each in pending), sum(each.swept for each in pending if sweep))

    def close(self) -> None:
        """Close sockets. The kernel keeps what it has: the data path does not need us."""
        for mechanism in self._mechanisms:
            mechanism.close()

    def _forget(self) -> None:
        for mechanism in self._mechanisms:
            mechanism.forget()
