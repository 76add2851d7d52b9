"""The host: every mechanism of a program, read and applied in one order.

Order between mechanisms is `SERVICES` and `NETWORK` and nowhere else: referents come before references, so making runs
forward and sweeping backward. The two do not depend on one another: each is a host of its own. Cleaning up is applying
the empty program, and changing the backend of a live node is applying another one: everything new is made before
anything old is swept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from netplane.closing import Closing
from netplane.errors import NetplaneError
from netplane.kernel.bird_mechanism import BirdMechanism
from netplane.kernel.iptables_mechanism import IptablesMechanism
from netplane.kernel.iptables_variants import AUTO
from netplane.kernel.mechanism import Drift, Mechanism, Pending, Sweeping
from netplane.kernel.network_mechanism import NetworkMechanism
from netplane.kernel.nftables_mechanism import NftablesMechanism, of_network
from netplane.kernel.transactions import OwnTransactions
from netplane.kernel.wireguard_mechanism import WireguardMechanism
from netplane.programs.program import Program


@dataclass(frozen=True, slots=True)
class Summary:
    """How much an apply made and swept, counted in lines and elements, and what somebody else had changed before.

    `drift` is by mechanism, and only has those with any.
    """

    made: int
    swept: int
    drift: dict[str, Drift] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        """Whether the kernel is not as it was before."""
        return bool(self.made or self.swept)

    def __add__(self, other: Summary) -> Summary:
        """What two hosts did."""
        return Summary(self.made + other.made, self.swept + other.swept, self.drift | other.drift)


RUN_DIRECTORY, STATE_DIRECTORY = Path("/run/netplane"), Path("/var/lib/netplane")


@dataclass(frozen=True, slots=True)
class HostOptions:
    """What cannot be found out about a host, or shall not be. `iptables_variant` is one of its module's WISHES."""

    iptables_variant: str = AUTO
    run_directory: Path = RUN_DIRECTORY
    """Where what runs besides us is found again: root's, until the next start of the machine."""
    state_directory: Path = STATE_DIRECTORY
    """Where keys are: root's, for ever."""


Making = Callable[[HostOptions, OwnTransactions], Mechanism]


@dataclass(frozen=True, slots=True)
class Mechanisms:
    """In order. `independent`: one that fails does not keep the others from their work, but see `Sweeping`."""

    making: tuple[Making, ...]
    independent: bool


_SERVICES: tuple[Making, ...] = (
    lambda options, own: IptablesMechanism(options.iptables_variant, own),
    lambda _, own: NftablesMechanism(own),
)
_NETWORK: tuple[Making, ...] = (
    lambda _, own: NftablesMechanism(own, of_network),  # nobody unknown is heard from the first packet on
    lambda options, _: WireguardMechanism(options.run_directory, options.state_directory),  # makes the link
    lambda *_: NetworkMechanism(),  # that this gives addresses and routes
    lambda options, _: BirdMechanism(options.run_directory),  # what it learns is on other links
)
SERVICES = Mechanisms(_SERVICES, independent=False)
"""Half of a backend serves nobody."""
NETWORK = Mechanisms(_NETWORK, independent=True)
"""Without a bird the other nodes' VXLAN is still there."""


class Host(Closing):
    """The network namespace of the thread that creates it. Used by one thread at a time.

    Hosts that share `own` are not strangers to one another.
    """

    def __init__(
        self,
        options: HostOptions | None = None,
        mechanisms: Mechanisms = SERVICES,
        own: OwnTransactions | None = None,
    ) -> None:
        own = own or OwnTransactions()
        self._independent = mechanisms.independent
        with ExitStack() as made:
            self._mechanisms: list[Mechanism] = []
            for mechanism in mechanisms.making:
                self._mechanisms.append(mechanism(options or HostOptions(), own))
                made.callback(self._mechanisms[-1].close)
            made.pop_all()

    def pending(self, want: Program) -> list[Pending]:
        """What `apply` would do, found by reading the kernel; nothing is changed."""
        try:
            return [mechanism.pending(want, reread=True, sweep=True) for mechanism in self._mechanisms]
        finally:
            self._forget()

    def apply(self, want: Program, *, reread: bool, sweep: bool = True) -> Summary:
        """Make the kernel have `want` and, with `sweep`, nothing of ours beyond it.

        Raises KernelError, OwnershipError or RequirementError, the first there was; the next apply then reads the
        kernel first. Applying again after any failure converges.
        """
        failed: list[NetplaneError] = []
        try:
            made = self._made(want, failed, reread=reread, sweep=sweep)
            swept = [each for each, whole in made if sweep and _may_sweep(each, whole=whole, failed=bool(failed))]
            for each in reversed(swept):
                with self._trying(failed):
                    each.sweep()
            if failed:
                raise failed[0]
        except BaseException:
            self._forget()
            raise
        if not sweep:
            self._forget()  # what stays beyond `want` is only known to the kernel
        return Summary(
            made=sum(each.made for each, _ in made),
            swept=sum(each.swept for each in swept),
            drift={each.mechanism: each.drift for each, _ in made if each.drift},
        )

    def _made(
        self, want: Program, failed: list[NetplaneError], *, reread: bool, sweep: bool
    ) -> list[tuple[Pending, bool]]:
        """Read all, then make all that can be made. Each that could be read, and whether it was made whole."""
        pending: list[Pending] = []
        for mechanism in self._mechanisms:
            with self._trying(failed):
                pending.append(mechanism.pending(want, reread=reread, sweep=sweep))
        made: list[tuple[Pending, bool]] = []
        for each in pending:
            before = len(failed)
            with self._trying(failed):
                each.make()
            made.append((each, len(failed) == before))
        return made

    @contextmanager
    def _trying(self, failed: list[NetplaneError]) -> Iterator[None]:
        """Where mechanisms do not wait for one another, what fails is kept for later."""
        try:
            yield
        except NetplaneError as error:
            if not self._independent:
                raise
            failed.append(error)

    def disturbed(self) -> bool:
        """Whether somebody else may have changed what kernel/events.py does not hear of. Cheap; a full apply tells."""
        return any(mechanism.disturbed() for mechanism in self._mechanisms if not mechanism.told)

    def mark(self) -> tuple[object, ...]:
        """Equal for as long as nobody else changed anything where we keep our state. Cheap."""
        return tuple(mechanism.mark() for mechanism in self._mechanisms)

    @property
    def told(self) -> bool:
        """Whether kernel/events.py hears of all that others change; if not, `disturbed` has to be asked."""
        return all(mechanism.told for mechanism in self._mechanisms)

    def close(self) -> None:
        """Close sockets. The kernel keeps what it has: the data path does not need us."""
        for mechanism in self._mechanisms:
            mechanism.close()

    def _forget(self) -> None:
        for mechanism in self._mechanisms:
            mechanism.forget()


def _may_sweep(pending: Pending, *, whole: bool, failed: bool) -> bool:
    match pending.sweeping:
        case Sweeping.IF_MADE:
            return whole
        case Sweeping.ALWAYS:
            return True
        case Sweeping.IF_ALL_MADE:
            return not failed
