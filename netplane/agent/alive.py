"""Which nodes answer: echo requests to each once a second, silent after three losses, back after two answers.

`Alive` counts and decides; it has no clock and no sockets. `AliveWatch` connects it with them: the agent's loop waits
for its descriptor and its `due`, and calls `tick`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from netplane.closing import Closing
from netplane.kernel.echo import Echo
from netplane.model.address import IPAddress


@dataclass(frozen=True, slots=True)
class AliveLimits:
    """`every`: seconds between requests to one node. So many losses, or answers, one after the other, decide."""

    every: float = 1.0
    losses: int = 3
    answers: int = 2


class Probe(NamedTuple):
    """A request to send."""

    address: IPAddress
    sequence: int


@dataclass(slots=True)
class _Peer:
    """`answered`: since the last request was sent. `row`: how many answers (or losses, negative) came in a row."""

    address: IPAddress
    asked: bool = False
    answered: bool = False
    row: int = 0
    silent: bool = False
    known: bool = False


class Alive:
    """What is known of the nodes that are watched.

    An agent that begins knows nothing and is not sure, until every node has answered or been silent, or could have
    been: whoever comes and goes all the time keeps it waiting no longer. From then on a node that comes is silent until
    it answers: nobody relies on it before, and nobody waits for it.
    """

    def __init__(self, limits: AliveLimits | None = None) -> None:
        self._limits = limits or AliveLimits()
        self._peers: dict[str, _Peer] = {}
        self._by_address: dict[IPAddress, list[_Peer]] = {}
        self._round = self._ticks = 0
        self._due: float | None = None
        self.sure = False
        """Whether enough is known to decide anything by it; once it is, it stays so."""
        self.silent: frozenset[str] = frozenset()
        """Nodes that do not answer, or have not yet."""

    def watch(self, peers: Mapping[str, IPAddress], now: float) -> bool:
        """Watch these nodes from now on, and no others. Whether `silent` or `sure` is another now.

        What is known of a node stays; one with a new address is a new one.
        """
        before = self._peers
        self._peers = {
            name: before[name] if name in before and before[name].address == address else _Peer(address)
            for name, address in peers.items()
        }
        self._by_address = {}
        for peer in self._peers.values():
            self._by_address.setdefault(peer.address, []).append(peer)
        if not self._peers:
            self._due = None
        elif self._due is None:
            self._due = now
        return self._look()

    def due(self) -> float | None:
        """The instant of the next `tick`; None if there is nobody to watch."""
        return self._due

    def heard(self, address: IPAddress) -> None:
        """A reply came from there. One that was late still shows that the node lives."""
        for peer in self._by_address.get(address, ()):
            peer.answered = True

    def tick(self, now: float) -> tuple[bool, list[Probe]]:
        """Whether `silent` or `sure` is another now, and what to send; nothing before it is due.

        A tick that comes late counts one loss, not as many as there should have been: nobody was asked meanwhile.
        """
        if self._due is None or now < self._due:
            return False, []
        late = now - self._due >= self._limits.every
        self._due = now + self._limits.every if late else self._due + self._limits.every
        self._round, self._ticks = (self._round + 1) & 0xFFFF, self._ticks + 1
        for peer in self._peers.values():
            if peer.asked:
                self._count(peer)
            peer.asked, peer.answered = True, False
        return self._look(), [Probe(address, self._round) for address in self._by_address]

    def _count(self, peer: _Peer) -> None:
        if peer.answered:
            peer.row = max(peer.row, 0) + 1
            if not (peer.known and peer.silent) or peer.row >= self._limits.answers:
                peer.silent, peer.known = False, True
        else:
            peer.row = min(peer.row, 0) - 1
            if peer.row <= -self._limits.losses:
                peer.silent = peer.known = True

    def _look(self) -> bool:
        was = self.sure, self.silent
        self.sure = self.sure or self._ticks > self._limits.losses or all(each.known for each in self._peers.values())
        self.silent = frozenset(
            name for name, each in self._peers.items() if each.silent or (self.sure and not each.known)
        )
        return was != (self.sure, self.silent)


class AliveWatch(Closing):
    """Asks and listens in the network namespace of the thread that makes it. Used inside one loop; never waits."""

    def __init__(self, limits: AliveLimits | None = None) -> None:
        self._alive = Alive(limits)
        self._echo = Echo()

    @property
    def silent(self) -> frozenset[str]:
        """Nodes that do not answer, or have not yet."""
        return self._alive.silent

    @property
    def sure(self) -> bool:
        """Whether enough is known to decide anything by it (`Alive.sure`)."""
        return self._alive.sure

    def fileno(self) -> int:
        """A descriptor that is readable when `tick` has something to hear."""
        return self._echo.fileno()

    def due(self) -> float | None:
        """When `tick` is to be called even if there is nothing to hear; None: never."""
        return self._alive.due()

    def watch(self, peers: Mapping[str, IPAddress], now: float) -> bool:
        """Watch these nodes, by an address of each, and no others. Whether `silent` or `sure` is another now."""
        return self._alive.watch(peers, now)

    def tick(self, now: float) -> bool:
        """Hear who answered; ask, if it is due. Whether `silent` or `sure` is another now. `now`: monotonic clock."""
        for answer in self._echo.read():  # first: an answer that lies here is not lost
            self._alive.heard(answer.address)
        changed, probes = self._alive.tick(now)
        for probe in probes:
            self._echo.send(probe.address, probe.sequence)
        return changed

    def close(self) -> None:
        """Close the sockets."""
        self._echo.close()
