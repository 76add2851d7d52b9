"""Packets between the Pods of several pairs of nodes, by turns."""

from __future__ import annotations

import random
from collections.abc import Mapping

from bench.network_results import NetworkAmount, Packets
from bench.network_sides import Side


def exchanged(sides: Mapping[str, Side], amount: NetworkAmount) -> dict[str, Packets]:
    """What every side's packets did. In random order in each round: no side always comes after the same one."""
    found = {name: Packets() for name in sides}
    order, turns = random.Random(1), [*sides]
    for each in sides.values():  # what is made with the first packets is there afterwards
        each.pair.trips(amount.trips)
        each.pair.stream(amount.stream_seconds)
    for _ in range(amount.rounds):
        order.shuffle(turns)
        for name in turns:
            by_clock, by_work = sides[name].pair.stream(amount.stream_seconds)
            found[name].streams.append(by_clock)
            found[name].work.append(by_work)
        for name in turns:
            found[name].trips.append(sides[name].pair.trips(amount.trips))
    for name, each in sides.items():
        found[name].lost = each.pair.lost
    return found
