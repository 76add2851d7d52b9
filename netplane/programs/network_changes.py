"""What leads from the Pod network that the kernel has to the one that is wanted.

The same comparison serves for what was read (`changes_from_found`) and for what was applied last (`changes_between`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar

from netplane.model.address import IPAddress, family_of
from netplane.model.table import changes
from netplane.programs.network import (
    MAIN_TABLE,
    Forwarding,
    Link,
    LinkAddress,
    Neighbours,
    NetworkProgram,
    Route,
    RouteKey,
    SourceRule,
    VxlanLink,
)

_SMALLEST_IPV6 = 1280
"""Bytes: on links of less the kernel has nothing of IPv6."""

Key = TypeVar("Key")
Value = TypeVar("Value")
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class FoundLink:
    """A link of ours as it is. `vxlan` is None for one of another kind, and for one that is too strange for words.

    `settled`: up, without addresses the kernel makes up, and it does not learn. `strange`: it has what we never give
    and nobody can take away: it must be made anew.
    """

    mtu: int
    vxlan: VxlanLink | None = None
    settled: bool = True
    strange: bool = False

    @property
    def is_vxlan(self) -> bool:
        """Whether this mechanism makes links of its kind, and removes them."""
        return self.vxlan is not None or self.strange


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something with our mark that no program can want. `message` is how the driver removes it."""

    words: str
    message: tuple[int, bytes]


@dataclass(frozen=True, slots=True)
class FoundNetwork:
    """What the kernel has of ours. `foreign`: links with a name of ours that we did not make.

    None in the place of a route or forwarding entry: it is there, but is none that we ever make. `sysctls` has those
    that were asked for and exist.
    """

    links: Mapping[str, FoundLink] = field(default_factory=dict)
    foreign: frozenset[str] = frozenset()
    addresses: frozenset[LinkAddress] = frozenset()
    neighbours: Neighbours = field(default_factory=dict)
    forwarding: Mapping[tuple[str, bytes], IPAddress | None] = field(default_factory=dict)
    routes: Mapping[RouteKey, Route | None] = field(default_factory=dict)
    rules: frozenset[SourceRule] = frozenset()
    sysctls: Mapping[str, int] = field(default_factory=dict)
    leftovers: tuple[Leftover, ...] = ()


class LinkWork(Enum):
    """What has to be done for a link. AGAIN: all that was on it goes with the old one."""

    NEW = "make"
    AGAIN = "make anew"
    CHANGE = "change"


@dataclass(frozen=True, slots=True)
class LinkChange:
    """A link to be made or changed, and what it shall be.

    `new_mac`: it changes its MAC; said only then, for to be told the one it has makes a link forget all neighbours.
    """

    work: LinkWork
    link: Link
    new_mac: bool = False


@dataclass(frozen=True, slots=True)
class NetworkChanges:
    """*make* and *sweep*. What `no_...` names is removed; of mappings, with what it was.

    `misfits` and `leftovers` are removed before anything is made, because they are where something else belongs.
    `foreign`: links that are wanted, and whose name somebody else's has.
    """

    links: Mapping[str, LinkChange] = field(default_factory=dict)
    foreign: tuple[str, ...] = ()
    addresses: tuple[LinkAddress, ...] = ()
    neighbours: Neighbours = field(default_factory=dict)
    forwarding: Forwarding = field(default_factory=dict)
    routes: Mapping[RouteKey, Route] = field(default_factory=dict)
    rules: tuple[SourceRule, ...] = ()
    sysctls: Mapping[str, int] = field(default_factory=dict)

    misfits: tuple[LinkAddress, ...] = ()
    leftovers: tuple[Leftover, ...] = ()

    no_links: tuple[str, ...] = ()
    no_addresses: tuple[LinkAddress, ...] = ()
    no_neighbours: Neighbours = field(default_factory=dict)
    no_forwarding: Mapping[tuple[str, bytes], IPAddress | None] = field(default_factory=dict)
    no_routes: Mapping[RouteKey, Route | None] = field(default_factory=dict)
    no_rules: tuple[SourceRule, ...] = ()

    def made(self) -> int:
        """How much is to be made or changed."""
        several = (self.links, self.addresses, self.neighbours, self.forwarding, self.routes, self.rules, self.sysctls)
        return sum(map(len, several))

    def swept(self) -> int:
        """How much is to be removed."""
        several = (self.no_links, self.no_addresses, self.no_neighbours, self.no_forwarding, self.no_routes)
        return sum(map(len, several)) + len(self.no_rules) + len(self.leftovers) + len(self.misfits)

    def __bool__(self) -> bool:
        return bool(self.made() or self.swept())


def changes_between(have: NetworkProgram, want: NetworkProgram) -> NetworkChanges:
    """What leads to `want` where the kernel has exactly `have`."""
    return changes_from_found(as_found(have), want)


def as_found(program: NetworkProgram) -> FoundNetwork:
    """What would be read where the kernel has exactly `program`."""
    links = {
        name: FoundLink(link.mtu, _effective(link) if isinstance(link, VxlanLink) else None)
        for name, link in program.links.items()
    }
    return FoundNetwork(
        links=links,
        addresses=program.addresses,
        neighbours=program.neighbours,
        forwarding=program.forwarding,
        routes=program.routes,
        rules=program.rules,
        sysctls=program.sysctls,
    )


def changes_from_found(found: FoundNetwork, want: NetworkProgram) -> NetworkChanges:
    """What leads from what was read to `want`."""
    links = dict(_link_changes(found, want))
    found = _without_lost(found, links) if found.links and links else found
    neighbours, no_neighbours = _difference(found.neighbours, want.neighbours)
    forwarding, no_forwarding = _difference(found.forwarding, want.forwarding)
    routes, no_routes = _difference(found.routes, want.routes)
    addresses, no_addresses = want.addresses - found.addresses, found.addresses - want.addresses
    places = {(each.link, each.address) for each in addresses} if no_addresses else set()
    misfits = {each for each in no_addresses if (each.link, each.address) in places}
    return NetworkChanges(
        links=links,
        foreign=tuple(sorted(found.foreign & want.links.keys())),
        addresses=_sorted(addresses),
        neighbours=neighbours,
        forwarding=forwarding,
        # The kernel asks the main table whether a next hop is on a link: it goes first.
        routes=dict(sorted(routes.items(), key=_main_table_first)),
        rules=_sorted_rules(want.rules - found.rules),
        sysctls={name: value for name, value in want.sysctls.items() if found.sysctls.get(name) != value},
        misfits=_sorted(misfits),
        leftovers=found.leftovers,
        # np-wg is removed by who makes it.
        no_links=tuple(sorted(name for name, link in found.links.items() if link.is_vxlan and name not in want.links)),
        no_addresses=_sorted(no_addresses - misfits),
        no_neighbours=no_neighbours,
        no_forwarding=no_forwarding,
        no_routes=no_routes,
        no_rules=_sorted_rules(found.rules - want.rules),
    )


def _link_changes(found: FoundNetwork, want: NetworkProgram) -> Iterator[tuple[str, LinkChange]]:
    for name, link in want.links.items():
        have = found.links.get(name)
        if name not in found.foreign and (work := _link_work(have, link)):
            yield name, LinkChange(work, link, new_mac=_mac_changes(have, link))


def _link_work(have: FoundLink | None, link: Link) -> LinkWork | None:
    if not isinstance(link, VxlanLink):
        same = have and have.settled and have.mtu == link.mtu
        return None if same else LinkWork.CHANGE
    if have is None:
        return LinkWork.NEW
    want = _effective(link)
    without_ipv6 = have.mtu < _SMALLEST_IPV6 <= link.mtu  # it would make up an address as soon as it is larger again
    if have.vxlan is None or without_ipv6 or _unchangeable(have.vxlan) != _unchangeable(want):
        return LinkWork.AGAIN
    return None if have.settled and have.vxlan == want else LinkWork.CHANGE


def _effective(link: VxlanLink) -> VxlanLink:
    """Over IPv6 the checksum is always there (RFC 8200, section 8.1)."""
    if link.checksum or link.local.version == 4:
        return link
    return VxlanLink(link.name, link.mac, link.mtu, link.id, link.port, link.local, checksum=True)


def _unchangeable(link: VxlanLink) -> tuple[object, ...]:
    return link.id, link.port, link.checksum, family_of(link.local)


def _without_lost(found: FoundNetwork, changes: Mapping[str, LinkChange]) -> FoundNetwork:
    """What is left of `found` when the links are changed.

    With a link goes all that is on it. With its MAC go its neighbours, permanent ones too; and where its MTU changes
    the kernel changes that of IPv6 routes over it.
    """
    again = {name for name, change in changes.items() if change.work is LinkWork.AGAIN}
    renamed = again | {name for name, change in changes.items() if change.new_mac}
    resized = {name for name, change in changes.items() if _mtu_changes(found.links.get(name), change.link)}
    if not (again or renamed or resized):
        return found

    def resizes(key: RouteKey, route: Route | None) -> bool:
        return route is not None and bool(route.mtu) and key.to.version == 6 and route.link in resized

    return FoundNetwork(
        links=found.links,
        foreign=found.foreign,
        addresses=frozenset(each for each in found.addresses if each.link not in again),
        neighbours={key: mac for key, mac in found.neighbours.items() if key[0] not in renamed},
        forwarding={key: to for key, to in found.forwarding.items() if key[0] not in again},
        routes={
            key: None if resizes(key, route) else route
            for key, route in found.routes.items()
            if route is None or route.link not in again
        },
        rules=found.rules,
        sysctls={name: value for name, value in found.sysctls.items() if again.isdisjoint(name.split("/"))},
        leftovers=found.leftovers,
    )


def _mac_changes(have: FoundLink | None, link: Link) -> bool:
    return isinstance(link, VxlanLink) and bool(have and have.vxlan and have.vxlan.mac != link.mac)


def _mtu_changes(have: FoundLink | None, link: Link) -> bool:
    return bool(have and have.mtu != link.mtu)


def _difference(have: Mapping[Key, Found], want: Mapping[Key, Value]) -> tuple[dict[Key, Value], dict[Key, Found]]:
    """What to put and what to remove. Of two tables only what one changed in the other is looked at: one peer of
    hundreds changes at a time.
    """
    old: Mapping[Key, object] = have
    changed, gone = changes(old, want)
    put = {key: want[key] for key in changed if key not in have or have[key] != want[key]}
    return put, {key: have[key] for key in gone}


def _main_table_first(item: tuple[RouteKey, Route]) -> bool:
    return item[0].table != MAIN_TABLE


def _sorted(addresses: frozenset[LinkAddress] | set[LinkAddress]) -> tuple[LinkAddress, ...]:
    return tuple(sorted(addresses, key=lambda each: (each.link, each.address.version, each.address, each.announced)))


def _sorted_rules(rules: frozenset[SourceRule]) -> tuple[SourceRule, ...]:
    return tuple(sorted(rules, key=lambda each: (each.priority, each.source.version, each.source, each.table)))
