"""The way of a packet through a node, as far as the layout uses it:

from a link:    prerouting -> (local address? input : forward -> postrouting)
from a process: output -> postrouting
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction

from generated.asked import Outcomes, Sent
from interpreter import ONE, Branches, Fragment, Seen, Table, UnknownRule, is_local

from netplane.model.address import IPAddress

RESET = "reject with tcp reset"


def _walk(table: Table, chain: str, packet: Seen) -> Iterator[tuple[Fraction, Seen, str]]:
    """(probability, packet, "accept" | "drop" | "reject"), over all ways through a chain."""
    yield from _rules(table, chain, 0, packet)


def _rules(table: Table, chain: str, index: int, packet: Seen) -> Iterator[tuple[Fraction, Seen, str]]:
    rules = table.chains[chain]
    if index == len(rules):  # only gotos are used: the end of a chain is the end of the way, policy accept
        yield ONE, packet, "accept"
        return
    for share, seen, verdict in _fragments_of(table, rules[index][1], packet):
        if seen is None:
            ways = _rules(table, chain, index + 1, packet)
        elif verdict.startswith("goto "):
            ways = _rules(table, verdict.removeprefix("goto "), 0, seen)
        elif verdict in ("drop", "reject", RESET, "accept"):
            ways = iter([(ONE, seen, verdict)])
        elif verdict:
            raise UnknownRule(f"verdict {verdict}")
        else:
            ways = _rules(table, chain, index + 1, seen)
        yield from ways if share is ONE else ((share * each, after, said) for each, after, said in ways)


def _fragments_of(table: Table, fragments: list[Fragment], packet: Seen) -> Branches:
    if not fragments:
        yield ONE, packet, ""
        return
    for share, seen, verdict in fragments[0](table, packet):
        if seen is None or verdict:
            yield share, seen, verdict
        else:
            more = _fragments_of(table, fragments[1:], seen)
            yield from more if share is ONE else ((share * each, *rest) for each, *rest in more)


def outcomes(
    table: Table, packet: Seen, local: frozenset[IPAddress], clients: Mapping[str, set[str]] | None = None
) -> Outcomes:
    """What may happen to the first packet of a connection, and how likely each is.

    `local` are the node's addresses, `clients` what the sets of clients hold.
    """
    found: Outcomes = defaultdict(Fraction)
    for share, last, verdict in ways(table, packet, local, clients):
        if verdict != "accept":
            found[verdict] += share
        elif last.translated or last.masqueraded:
            found[Sent(str(last.destination), last.port, last.masqueraded)] += share
        else:
            found["untouched"] += share
    return dict(found)


def ways(
    table: Table, packet: Seen, local: frozenset[IPAddress], clients: Mapping[str, set[str]] | None = None
) -> Iterator[tuple[Fraction, Seen, str]]:
    """Every way of a packet through the node: probability, how it leaves, and "accept", "drop" or "reject"."""
    table = replace(table, local=local, clients=clients or {})
    for share, seen, verdict in _walk(table, _base(table, "nat", "prerouting" if packet.iif else "output"), packet):
        if verdict != "accept":
            yield share, seen, verdict
        else:
            yield from ((share * each, last, said) for each, last, said in _way_out(table, seen))


def _way_out(table: Table, packet: Seen) -> Iterator[tuple[Fraction, Seen, str]]:
    if not packet.iif:
        yield from _walk(table, _base(table, "nat", "postrouting"), packet)
        return
    arrives = is_local(table, packet.destination)
    for share, seen, verdict in _walk(table, _base(table, "filter", "input" if arrives else "forward"), packet):
        if verdict != "accept" or arrives:
            yield share, seen, verdict
        else:
            yield from (
                (share * each, last, said)
                for each, last, said in _walk(table, _base(table, "nat", "postrouting"), seen)
            )


def _base(table: Table, kind: str, hook: str) -> str:
    return table.hooks[f"{kind} {hook}"]
