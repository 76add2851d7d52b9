"""What the kernel tells about our links and about the way to other nodes, for the keeper."""

from __future__ import annotations

import sys
from typing import NamedTuple

from netplane.closing import Closing
from netplane.kernel import link_events, link_orders, routes
from netplane.kernel.link_events import (
    DELETE_LINK,
    DELETE_ROUTE,
    NEW_LINK,
    NEW_ROUTE,
    Is,
    LinkEvents,
    Rule,
    kind,
)
from netplane.kernel.link_orders import LINK, UP
from netplane.kernel.link_read import decode_name
from netplane.kernel.netlink import attributes

PREFIXES = ("npb", "npr", "npi")
"""What the names of our links begin with."""

_FAMILY, _FLAGS, _FIRST_ATTRIBUTE, _NAME = 16, 24, 34, 36  # of ifinfomsg and IFLA_IFNAME, which comes first
_ROUTE_PROTOCOL, _ROUTE_TYPE = 21, 23
_AF_BRIDGE, _IFLA_IFNAME, _UNICAST, _BY_KERNEL = 7, 3, 1, 2
_ROUTE_SIZE, _ROUTE_OUT = 12, 4  # struct rtmsg, RTA_OIF


def _named(prefix: str) -> tuple[Is, ...]:
    letters = (Is(_NAME + at, 1, ord(letter)) for at, letter in enumerate(prefix))
    return (Is(_FIRST_ATTRIBUTE, 2, _IFLA_IFNAME), *letters)


_RULES: list[Rule] = [
    ((kind(DELETE_LINK),), True),  # of AF_BRIDGE too: a port left its bridge
    ((kind(NEW_LINK), Is(_FAMILY, 1, _AF_BRIDGE)), False),
    # Ours are told of several times when they are made. What others change and is told here is: down.
    *(((kind(NEW_LINK), Is(_FLAGS, 4, UP, bit=True), *_named(prefix)), False) for prefix in PREFIXES),
    ((kind(NEW_LINK),), True),
    ((kind(link_events.DELETE_ADDRESS),), True),
    ((kind(DELETE_ROUTE), Is(_ROUTE_PROTOCOL, 1, routes.PROTOCOL)), True),
    ((kind(NEW_ROUTE), Is(_ROUTE_PROTOCOL, 1, routes.PROTOCOL)), False),
    ((kind(NEW_ROUTE), Is(_ROUTE_PROTOCOL, 1, _BY_KERNEL)), False),
    ((kind(DELETE_ROUTE), Is(_ROUTE_PROTOCOL, 1, _BY_KERNEL)), False),
    ((kind(NEW_ROUTE), Is(_ROUTE_TYPE, 1, _UNICAST)), True),
    ((kind(DELETE_ROUTE), Is(_ROUTE_TYPE, 1, _UNICAST)), True),
]


class Told(NamedTuple):
    """`concerns_us`: something of ours may not be as it was. `gone`: our links that are no more, by name, who ever
    deleted them; what goes with a link is no concern of its own. `routes_changed`: the way to other nodes may be
    another, or narrower.
    """

    concerns_us: bool = False
    routes_changed: bool = False
    gone: frozenset[str] = frozenset()


class News(Closing):
    """Listens in the network namespace of the thread that makes it."""

    def __init__(self) -> None:
        groups = (*link_events.LINKS, *link_events.ADDRESSES, *link_events.ROUTES)
        self._events = LinkEvents(groups, _RULES)

    def fileno(self) -> int:
        """A descriptor that is readable when `read` may have something to say."""
        return self._events.fileno()

    def read(self) -> Told:
        """What was told since the last time; never waits."""
        concerns_us = routes_changed = False
        gone: dict[int, str] = {}
        without: dict[int, bool] = {}  # links that lost something, and whether that may have been a way to other nodes
        for message in self._events.read():
            if message is None:
                concerns_us = routes_changed = True
            elif message.kind == DELETE_LINK:
                family, _, _, index, _, _ = LINK.unpack_from(message.payload)
                name = decode_name(message.payload)
                if not name.startswith(PREFIXES):
                    concerns_us = True
                elif family:  # a port left its bridge
                    without.setdefault(index, False)
                else:
                    gone[index] = name
            elif message.kind == NEW_LINK:
                if decode_name(message.payload).startswith(PREFIXES):  # down: perhaps on its way out
                    without.setdefault(LINK.unpack_from(message.payload)[3], False)
                else:
                    concerns_us = routes_changed = True
            elif message.kind in (NEW_ROUTE, DELETE_ROUTE):
                if message.payload[_ROUTE_PROTOCOL - _FAMILY] != routes.PROTOCOL:
                    routes_changed = True
                else:
                    out = attributes(message.payload, _ROUTE_SIZE).get(_ROUTE_OUT, b"")
                    without.setdefault(int.from_bytes(out, sys.byteorder), False)
            else:
                without[link_orders.ADDRESS.unpack_from(message.payload)[-1]] = True
        lost = without.keys() - gone.keys()
        routes_changed = routes_changed or any(without[index] for index in lost)
        return Told(concerns_us or bool(lost), routes_changed, frozenset(gone.values()))

    def close(self) -> None:
        """Close the socket."""
        self._events.close()
