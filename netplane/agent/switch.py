"""What a change of backend does to connections: counted, before and after."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from netplane.kernel.conntrack import Connection, Status, Tuple
from netplane.model.address import Protocol

_TCP_ESTABLISHED = 3  # TCP_CONNTRACK_ESTABLISHED; greater numbers are the ways of closing

Key = tuple[int, int, Tuple]
Established = Mapping[Key, Tuple]
"""Translated connections by zone, protocol and original direction; where their answers come from."""


class _Fate(Enum):
    KEPT = "kept"
    BROKEN = "broken"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Connections:
    """Of the established connections that were translated before: how many are as they were, and how many not.

    `broken` were forgotten by the kernel or are translated differently; `ended` were closed by their own ends.
    """

    kept: int = 0
    broken: int = 0
    ended: int = 0


def established(connections: Iterable[Connection]) -> Established:
    """TCP and SCTP connections that are up and whose addresses are rewritten."""
    return {_key(each): each.reply for each in connections if _is_up(each) and _is_translated(each)}


def compare(before: Established, now: Iterable[Connection]) -> Connections:
    """What became of the connections that were there before."""
    found = {_key(each): each for each in now}
    fates = [_fate(reply, found.get(key)) for key, reply in before.items()]
    return Connections(*(fates.count(fate) for fate in _Fate))


def _key(each: Connection) -> Key:
    return each.zone, each.protocol, each.original


def _fate(reply: Tuple, now: Connection | None) -> _Fate:
    if now is None or now.reply != reply or not _is_translated(now):
        return _Fate.BROKEN
    return _Fate.KEPT if _is_up(now) else _Fate.ENDED


def _is_translated(each: Connection) -> bool:
    return bool(each.status & (Status.DESTINATION_TRANSLATED | Status.SOURCE_TRANSLATED))


def _is_up(each: Connection) -> bool:
    """SCTP is assured once it was established; the kernel keeps no entry of one that is shut down for long."""
    if each.protocol == Protocol.TCP.number:
        return each.tcp_state == _TCP_ESTABLISHED
    return each.protocol == Protocol.SCTP.number and bool(each.status & Status.ASSURED)
