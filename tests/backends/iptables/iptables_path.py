"""The way of a packet through a node, as iptables sees it:

from a link:    nat PREROUTING -> (local address? filter INPUT : filter FORWARD -> nat POSTROUTING)
from a process: nat OUTPUT -> filter OUTPUT -> nat POSTROUTING (-> filter INPUT, if it stays)

Only packets that begin a connection see nat.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

from generated.asked import Outcomes, Sent
from iptables_rules import ONE, Around, Seen, Table, UnknownRule, Ways, walk


def outcomes(tables: dict[str, Table], seen: Seen, around: Around) -> Outcomes:
    """What may happen to a packet, and how likely each is."""
    found: Outcomes = defaultdict(Fraction)
    for share, last, verdict in ways(tables, seen, around):
        if verdict != "ACCEPT":
            found[verdict.lower()] += share
        elif last.sent or last.masqueraded:
            found[Sent(str(last.destination), last.port, last.masqueraded)] += share
        else:
            found["untouched"] += share
    return dict(found)


def ways(tables: dict[str, Table], seen: Seen, around: Around) -> Ways:
    """Every way of a packet through the node: probability, how it leaves, and ACCEPT, DROP, REJECT or RESET."""
    stages = list(_stages(seen))
    yield from _through(tables, stages, seen, around)


def _stages(seen: Seen) -> Iterator[str]:
    new = seen.state == "NEW"
    if new:
        yield "nat PREROUTING" if seen.iif else "nat OUTPUT"
    yield "filter INPUT or FORWARD" if seen.iif else "filter OUTPUT"
    if new:
        yield "nat POSTROUTING"
    if not seen.iif:
        yield "filter INPUT"


def _through(tables: dict[str, Table], stages: list[str], seen: Seen, around: Around) -> Ways:
    if not stages:
        yield ONE, seen, "ACCEPT"
        return
    table, _, hook = stages[0].partition(" ")
    arrives = around.is_local(seen.destination)
    rest = stages[1:]
    if hook == "INPUT or FORWARD":
        hook = "INPUT" if arrives else "FORWARD"
        rest = [] if arrives else rest
    if stages[0] == "filter INPUT":
        if not arrives:
            yield ONE, seen, "ACCEPT"
            return
        seen = replace(seen, iif="lo")
    for share, last, verdict in walk(tables[table], hook, around, seen):
        if verdict in ("DROP", "REJECT", "RESET"):
            if table == "nat":
                raise UnknownRule(f"{verdict} in nat")
            yield share, last, verdict
        else:
            if table == "nat" and hook == "POSTROUTING" and last.mark:
                raise UnknownRule(f"it leaves with mark {last.mark:#x}")
            yield from ((share * each, *end) for each, *end in _through(tables, rest, last, around))
