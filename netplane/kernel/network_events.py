"""What others do to the Pod network, and to the ways to other nodes, as the kernel tells it.

Our own changes are told as well, and are harmless to hear: told is the state after a change, and one that is as wanted
is no news. So this listens all the time, also while an apply runs; only read it when no apply runs, for in the middle
of one things are not yet as wanted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

from netplane.closing import Closing
from netplane.kernel import link_events, network_links, network_neighbours, network_routes
from netplane.kernel.link_events import (
    DELETE_ADDRESS,
    DELETE_LINK,
    DELETE_ROUTE,
    NEW_ADDRESS,
    NEW_LINK,
    NEW_ROUTE,
    Is,
    LinkEvents,
    Rule,
    kind,
)
from netplane.kernel.link_orders import LINK, UP
from netplane.kernel.links import Links
from netplane.kernel.netlink import Message
from netplane.kernel.network_neighbours import BRIDGE, DELETE_NEIGHBOUR, NEIGHBOUR, NEW_NEIGHBOUR
from netplane.kernel.network_routes import DELETE_RULE, NEW_RULE
from netplane.model.address import IPAddress
from netplane.programs.network import (
    LINKS,
    PROTOCOL,
    LinkAddress,
    NetworkProgram,
    RouteKind,
    VxlanLink,
)
from netplane.programs.network_lines import address_words, forwarding_words, neighbour_words, route_words, rule_words

_GROUPS = (*link_events.LINKS, *link_events.ADDRESSES, *link_events.ROUTES, 3, 8, 19)
"""And neighbours (RTNLGRP_NEIGH), rules of IPv4 and of IPv6."""
_BUFFER = 32 << 20
"""An apply for 500 nodes tells of 3500 things, of a thousand bytes each, before anybody reads."""

_FIRST = 16  # behind the header of netlink
_NAME_HEADER, _NAME = _FIRST + 18, _FIRST + 20
_PROTOCOL_OF_ROUTE, _FLAGS_OF_ROUTE, _SCOPE, _INDEX = _FIRST + 5, _FIRST + 8, _FIRST + 3, _FIRST + 4
_CACHED, _LINK_SCOPE, _TO_CONTAINERS, _BY_KERNEL, _NAME_KIND = 0x200, 253, 97, 2, 3
_EVERYTHING = 0xFFFFFFFF
"""What a link that was just made says has changed."""

_OF_CONTAINERS = ("npb", "npr", "npi", "veth", "cali", "lxc", "tap")
"""What names of links of containers begin with: the CNI plugin's, and others'."""


_OF_ONE_LINK = (NEW_NEIGHBOUR, DELETE_NEIGHBOUR, NEW_ADDRESS, DELETE_ADDRESS)


class Heard(NamedTuple):
    """`contradiction`: in words, something that is not as wanted; "" if nothing was heard of such. `underlay`: the
    ways to other nodes may be others now."""

    contradiction: str = ""
    underlay: bool = False


class NetworkEvents(Closing):
    """Listens in the network namespace of the thread that makes it. Make it before the first apply."""

    def __init__(self) -> None:
        with Links() as kernel:
            # Listen first: a link that appears meanwhile is told of.
            self._events = LinkEvents(_GROUPS, _rules(()), _BUFFER)
            links = kernel.read().items()
            self._names = {link.index: name for name, link in links if not name.startswith(_OF_CONTAINERS)}
        self._ours: frozenset[int] = frozenset()
        self._listen()

    def fileno(self) -> int:
        """A descriptor that is readable when `read` may have something to say."""
        return self._events.fileno()

    def read(self, want: NetworkProgram) -> Heard:
        """What was heard since the last time, seen by what is wanted now. Never waits.

        If something was lost, both may be so: then everything has to be read.
        """
        news = _News(want, self._names)
        waiting = True
        while waiting:  # an apply may have told more than is read at a time
            waiting = False
            for message in self._events.read():
                waiting = True
                news.take(message)
        self._listen()
        return news.heard()

    def close(self) -> None:
        """Close the socket."""
        self._events.close()

    def _listen(self) -> None:
        """Neighbours are told by the number of their link: of others than ours there are many, and they never rest."""
        ours = frozenset(number for number, name in self._names.items() if name in LINKS)
        if ours != self._ours:
            self._ours = ours
            self._events.filter(_rules(ours))


def _rules(ours: Iterable[int]) -> list[Rule]:
    """What the kernel lets pass. `ours`: the numbers of our links."""
    rules: list[Rule] = []
    for number in ours:
        of_link = Is(_INDEX, 4, number)
        rules += (
            ((kind(each), of_link), True) for each in (NEW_NEIGHBOUR, DELETE_NEIGHBOUR, NEW_ADDRESS, DELETE_ADDRESS)
        )
    for each in (NEW_LINK, DELETE_LINK):
        rules.append(((kind(each), Is(_FIRST, 1, BRIDGE)), False))  # a port joins its bridge, or leaves it
        rules += (((kind(each), *_named(prefix)), False) for prefix in _OF_CONTAINERS)
        rules.append(((kind(each),), True))
    for each in (NEW_ADDRESS, DELETE_ADDRESS):
        rules += (((kind(each), Is(_SCOPE, 1, _LINK_SCOPE)), False), ((kind(each),), True))
    for each in (NEW_ROUTE, DELETE_ROUTE):
        rules += (((kind(each), Is(_PROTOCOL_OF_ROUTE, 1, by)), False) for by in (_TO_CONTAINERS, _BY_KERNEL))
        rules += (((kind(each), Is(_FLAGS_OF_ROUTE, 4, _CACHED, bit=True)), False), ((kind(each),), True))
    return rules + [((kind(each),), True) for each in (NEW_RULE, DELETE_RULE)]


def _named(prefix: str) -> tuple[Is, ...]:
    letters = (Is(_NAME + at, 1, ord(letter)) for at, letter in enumerate(prefix))
    return (Is(_NAME_HEADER, 2, _NAME_KIND), *letters)


@dataclass
class _News:
    """Messages, one after the other. Of one thing the last message counts; but what a link lost by going down, or with
    an address, is lost even when it is up again: the kernel does not tell which IPv4 routes went with it."""

    want: NetworkProgram
    names: dict[int, str]
    underlay: bool = False
    too_much: str = ""
    lost: dict[str, str] = field(default_factory=dict)
    """Links that lost something, and how."""
    last: dict[object, str] = field(default_factory=dict)
    """Of each thing, what contradicts the program; "" if nothing does."""

    @cached_property
    def used(self) -> frozenset[str]:
        """Links that something is wanted on."""
        of_routes = (route.link for route in self.want.routes.values())
        of_addresses = (each.link for each in self.want.addresses)
        return frozenset((*self.want.links, *of_routes, *of_addresses)) - {""}

    @cached_property
    def sources(self) -> frozenset[IPAddress]:
        """Addresses of the host that routes want as source."""
        return frozenset(route.source for route in self.want.routes.values() if route.source)

    def heard(self) -> Heard:
        """What came out."""
        contradictions = (self.too_much, *self.lost.values(), *self.last.values())
        return Heard(next(filter(None, contradictions), ""), self.underlay)

    def take(self, message: Message | None) -> None:
        """One more message; None: some were lost."""
        if message is None:
            self.too_much, self.underlay = "too much changed at once", True
            return
        number, _, _, payload = message
        match number:
            case link_events.NEW_LINK | link_events.DELETE_LINK:
                self._link(number == DELETE_LINK, payload)
            case link_events.NEW_ROUTE | link_events.DELETE_ROUTE:
                self._route(number == DELETE_ROUTE, payload)
            case link_events.NEW_ADDRESS | link_events.DELETE_ADDRESS:
                self._address(number == DELETE_ADDRESS, payload)
            case network_neighbours.NEW_NEIGHBOUR | network_neighbours.DELETE_NEIGHBOUR:
                self._neighbour(number == DELETE_NEIGHBOUR, payload)
            case network_routes.NEW_RULE | network_routes.DELETE_RULE:
                self._rule(number == DELETE_RULE, payload)

    def _link(self, gone: bool, payload: bytes) -> None:
        _, _, _, number, flags, changed = LINK.unpack_from(payload)
        name = network_links.number_and_name(payload)[1]
        before = self.names.pop(number, name)
        if not gone:
            self.names[number] = name
        self.underlay = self.underlay or name not in LINKS
        if before in self.used and name != before:
            self.lost[before] = f"link {before} was renamed to {name}"
        if name not in self.used:
            self.last["link", name] = f"there is a link {name}" if name in LINKS and not gone else ""
        elif gone:
            self.lost[name] = f"link {name} was removed"
        elif changed == _EVERYTHING and isinstance(self.want.links.get(name), VxlanLink):
            self.lost.pop(name, None)  # made anew; by others than us it would not have our group
            self.last = {key: words for key, words in self.last.items() if not isinstance(key, tuple) or key[0] != name}
        elif changed & UP and not flags & UP:
            self.lost.setdefault(name, f"link {name} went down")
        elif changed & UP and name not in LINKS:  # ours are set up by ourselves
            self.lost.setdefault(name, f"link {name} came up")
        if not gone and name in self.want.links:
            self.last["link", name] = self._differs(name, payload)

    def _differs(self, name: str, payload: bytes) -> str:
        found, link = network_links.decode(payload), self.want.links[name]
        if found is None:
            return f"link {name} is not ours"
        same: object = found.mtu == link.mtu and found.settled
        if same and isinstance(link, VxlanLink):
            have = found.vxlan
            same = have and (have.mac, have.id, have.port, have.local) == (link.mac, link.id, link.port, link.local)
        return "" if same else f"link {name} was changed"

    def _route(self, gone: bool, payload: bytes) -> None:
        fact = network_routes.decode(payload)
        wanted = self.want.routes.get(fact.key)
        if fact.protocol != PROTOCOL:
            self.underlay = self.underlay or fact.protocol != _BY_KERNEL
            if wanted and not gone:
                self.last[fact.key] = f"{route_words(fact.key, wanted)} was replaced"
            return
        route = fact.route
        if route and route.kind is RouteKind.UNICAST:
            route = replace(route, link=self.names.get(fact.number, ""))
        if wanted is None:
            self.last[fact.key] = "" if gone else f"{route_words(fact.key, route)} was added"
        elif route == wanted:
            self.last[fact.key] = f"{route_words(fact.key, wanted)} was removed" if gone else ""
        elif not gone:
            self.last[fact.key] = f"{route_words(fact.key, wanted)} was replaced"

    def _address(self, gone: bool, payload: bytes) -> None:
        fact = network_neighbours.decode_address(payload)
        link = self.names.get(fact.link, "")
        if not link:  # of a container
            return
        given = LinkAddress(link, fact.address, fact.announced)
        place = link, fact.address
        if given in self.want.addresses:
            self.last[place] = f"{address_words(given)} was removed" if gone else ""
        elif LinkAddress(link, fact.address, not fact.announced) in self.want.addresses:
            self.last[place] = f"{address_words(given)} was changed"
        elif link in LINKS or fact.marked:
            self.last[place] = "" if gone else f"{address_words(given)} was added"
        else:
            self.underlay = True
            words = f"{address_words(given)} was removed"
            if gone and link in self.used:  # with the last one of IPv4 go all routes over the link, untold
                self.lost.setdefault(link, words)
            if gone and fact.address in self.sources:  # IPv6 routes are without it now, untold
                self.lost.setdefault(str(fact.address), words)

    def _neighbour(self, gone: bool, payload: bytes) -> None:
        family, _, _, number, *_ = NEIGHBOUR.unpack_from(payload)
        link = self.names.get(number, "")
        if link not in self.want.links:
            return
        if family == BRIDGE:
            mac, to = network_neighbours.decode_forwarding(payload)
            node = self.want.forwarding.get((link, mac))
            right = node is None if gone else node is not None and node == to  # seen by the program
            self.last[link, mac] = "" if right else f"{forwarding_words(link, mac, node)} was changed"
            return
        address, has = network_neighbours.decode_neighbour(payload)
        wanted = self.want.neighbours.get((link, address), b"")
        right = wanted == (b"" if gone else has)
        words = neighbour_words(link, address, wanted or has)
        self.last[link, address, 0] = "" if right else f"{words} was {'changed' if wanted else 'added'}"

    def _rule(self, gone: bool, payload: bytes) -> None:
        rule, protocol = network_routes.decode_rule(payload)
        if protocol != PROTOCOL:
            self.underlay = True
        elif rule is None:
            self.last[payload] = "" if gone else "a rule of unusual shape was added"
        elif (rule in self.want.rules) == gone:
            self.last[rule] = f"{rule_words(rule)} was {'removed' if gone else 'added'}"
        else:
            self.last[rule] = ""
