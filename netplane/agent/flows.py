"""Established flows follow the plan: conntrack entries that it makes stale are deleted (docs/decisions/0016).

What is stale is decided in `plan/stale.py`. Here is when to look and how: the cost follows the change, and nothing
that happens here fails a round.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from netplane.errors import NetplaneError
from netplane.kernel import sysctls
from netplane.kernel.addresses import local_addresses
from netplane.kernel.conntrack import Connection, Conntrack, Pattern
from netplane.model.address import Protocol
from netplane.model.service import REMOVED_ENDPOINTS_ANNOTATION
from netplane.plan.plan import Plan
from netplane.plan.stale import Flow, Server, StaleFlows, Suspects

log = logging.getLogger("netplane.agent")

Tell = Callable[[str], None]

ENTRIES_PER_LOOK = 2500
"""Each look, however little it finds, goes through the kernel's whole table; that takes as long as reading so many."""

FULL = 0.95
"""The kernel makes room one connection at a time, so a full table is seldom seen at its very limit."""

_PROTOCOLS = {each.number: each for each in Protocol}


class Way(Enum):
    """How stale entries are found and removed, from the cheapest to what every kernel can."""

    ERASE = "erase"
    """The kernel deletes by a filter (6.12, IPv4 only); it does not say how many."""
    CHOOSE = "choose"
    """The kernel shows what matches a filter (5.8), and what is stale of it is deleted one by one."""
    DUMP = "dump"
    """Everything is read, and what is stale is deleted one by one."""


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What was removed: entries counted by protocol, and filters by which the kernel erased any number of UDP ones.

    `way` is the dearest that was needed, None if there was nothing to look for.
    """

    udp: int = 0
    tcp: int = 0
    erased: int = 0
    way: Way | None = None


class Flows:
    """Keeps the entries of the calling thread's namespace in step with the plan. Used by one thread at a time.

    `tell` hears of each trouble once, until it is over. `best` is the first way to try; what the kernel lacks is
    found out by trying. `look` is what a look costs, in entries read.
    """

    def __init__(self, tell: Tell | None = None, best: Way = Way.ERASE, look: int = ENTRIES_PER_LOOK) -> None:
        self._tell = tell or _log
        self._best, self._look = best, look
        self._clean: Plan | None = None
        self.troubles: dict[str, str] = {}
        """What is wrong now, in one line each, by what it is about."""

    def follow(self, plan: Plan) -> Cleaned:
        """Remove what is stale now that the kernel has `plan`. Without a memory all of the table is read.

        Never raises NetplaneError: a failure is told, and the next call reads everything.
        """
        before, self._clean = self._clean, None
        try:
            done = self._remove(before, plan)
        except NetplaneError as error:
            self._trouble("flows", f"stale flows are not removed, and clients of removed endpoints may hang: {error}")
            return Cleaned()
        self.troubles.pop("flows", None)
        self._clean = plan
        if done.way and (done.udp or done.tcp or done.erased):
            found = {"udp": done.udp, "tcp": done.tcp, "erased": done.erased, "way": done.way.value}
            log.info("removed stale flows", extra=found)
        return done

    def forget(self) -> None:
        """The kernel may have had other rules than those of the last plan: read everything next time."""
        self._clean = None

    def look_at_table(self) -> None:
        """Tell if the table of connections is full. Reads two small files."""
        try:
            self.watch(table_pressure())
        except NetplaneError:
            return  # nothing is tracked on this kernel

    def watch(self, pressure: Pressure) -> None:
        """Tell, once, if a table like that is full."""
        if not pressure.full:
            self.troubles.pop("table", None)
        elif "table" not in self.troubles:
            self._trouble("table", str(pressure))

    def _remove(self, before: Plan | None, plan: Plan) -> Cleaned:
        if before is plan:
            return Cleaned()
        local = local_addresses()
        stale = StaleFlows(plan, local)
        suspects = stale.since(StaleFlows(before, local)) if before else None
        suspects = self._cheapest(stale.everywhere() if suspects is None else suspects)
        suspects = [each for each in suspects if each.protocol is not Protocol.TCP or self._resets_work()]
        if not suspects:
            return Cleaned()
        with Conntrack() as table:
            return self._search(table, deque(suspects), stale)

    def _cheapest(self, suspects: list[Suspects]) -> list[Suspects]:
        wider = _widened(suspects)
        spared = (len(suspects) - len(wider)) * self._look
        return wider if spared and spared > table_pressure().count else suspects

    def _search(self, table: Conntrack, suspects: deque[Suspects], stale: StaleFlows) -> Cleaned:
        removed: Counter[Protocol] = Counter()
        erased = 0
        ways = {Way.ERASE}
        while suspects:
            if self._best is Way.DUMP:
                suspects = deque(_widened(suspects))
            one = suspects.popleft()
            if self._erased(table, one):
                erased += 1
                continue
            ways.add(Way.DUMP if one.port is None else Way.CHOOSE)
            found = list(table.choose(_pattern(one), lambda connection: stale.is_stale(_flow(connection))))
            removed[one.protocol] += table.delete(found)
            if not table.filters:
                self._best = Way.DUMP
        way = max(ways, key=list(Way).index)
        return Cleaned(removed[Protocol.UDP], removed[Protocol.TCP], erased, way)

    def _erased(self, table: Conntrack, some: Suspects) -> bool:
        """Whether the kernel did it all. Not for TCP: how many connections end is worth counting."""
        if self._best is not Way.ERASE or some.protocol is not Protocol.UDP or not some.all_stale:
            return False
        done = table.erase(_pattern(some))
        if not table.erases:
            self._best = Way.CHOOSE
        return done

    def _resets_work(self) -> bool:
        """Whether a packet in the middle of an unknown connection is decided at all."""
        try:
            works = sysctls.read("net/netfilter/nf_conntrack_tcp_loose") != "0"
        except NetplaneError:
            return True
        if works:
            self.troubles.pop("resets", None)
        else:
            self._trouble("resets", _NO_RESETS)
        return works

    def _trouble(self, about: str, said: str) -> None:
        if self.troubles.get(about) != said:
            self._tell(said)
        self.troubles[about] = said


_NO_RESETS = (
    f"TCP connections to removed endpoints are kept in spite of {REMOVED_ENDPOINTS_ANNOTATION}: without their entry"
    " the clients would hang, as net.netfilter.nf_conntrack_tcp_loose is 0; set it to 1"
)


@dataclass(frozen=True, slots=True)
class Pressure:
    """How many connections the namespace tracks, and how many it may."""

    count: int
    limit: int

    @property
    def full(self) -> bool:
        """Whether new connections are being dropped, or about to be."""
        return self.limit > 0 and self.count >= FULL * self.limit

    def __str__(self) -> str:
        return (
            f"conntrack: {self.count} of at most {self.limit} connections are tracked; when it is full new ones are"
            " dropped; see net.netfilter.nf_conntrack_count and raise net.netfilter.nf_conntrack_max"
        )


def table_pressure() -> Pressure:
    """Of the calling thread's namespace. Raises RequirementError where the kernel tracks nothing."""
    count, limit = (int(sysctls.read(f"net/netfilter/nf_conntrack_{name}")) for name in ("count", "max"))
    return Pressure(count, limit)


def _widened(suspects: Iterable[Suspects]) -> list[Suspects]:
    """All of each protocol and family there is among them."""
    return list(dict.fromkeys(Suspects(each.protocol, each.family) for each in suspects))


def _pattern(of: Suspects) -> Pattern:
    return Pattern(of.protocol.number, of.family, of.destination, of.port, of.server)


def _flow(connection: Connection) -> Flow:
    original, reply = connection.original, connection.reply
    server = Server(reply.source, reply.source_port)
    return Flow(_PROTOCOLS[connection.protocol], original.destination, original.destination_port, server)


def _log(said: str) -> None:
    log.warning("established flows", extra={"why": said})
