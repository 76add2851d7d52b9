"""Reads and applies the rtnetlink half of the Pod network: links, addresses, neighbours, forwarding, routes, rules.

What others have is neither read nor touched, and costs little: the kernel filters where it can. All that can be made
is made, whatever else is refused.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from netplane.closing import Closing
from netplane.errors import KernelError, NetplaneError, OwnershipError, RequirementError
from netplane.kernel import link_orders, network_links, network_neighbours, network_routes, sysctls
from netplane.kernel.links import Links, NotDone, Order
from netplane.kernel.netlink import Request
from netplane.model.address import IPAddress
from netplane.programs.network import (
    LINKS,
    METRIC,
    LinkAddress,
    NetworkProgram,
    Route,
    RouteKey,
    RouteKind,
    SourceRule,
    VxlanLink,
)
from netplane.programs.network_changes import (
    FoundLink,
    FoundNetwork,
    Leftover,
    LinkChange,
    NetworkChanges,
)
from netplane.programs.network_lines import address_words, link_words, route_words

Announce = Callable[[str, IPAddress], None]
"""Tell the neighbours on a link that an address is here."""

_HELPER_METRIC = METRIC - 1
_GONE = frozenset({errno.ESRCH, errno.ENODEV, errno.ENOENT, errno.EADDRNOTAVAIL, errno.ENXIO})


class Failure(NamedTuple):
    """Something that could not be made or removed."""

    doing: str
    said: str


class NetworkDriver(Closing):
    """Of the network namespace of the thread that makes it; used by one thread at a time.

    `announce` is called for every announced address that a link gets.
    """

    def __init__(self, announce: Announce) -> None:
        self._kernel = Links(strict=True)
        self._announce = announce
        self._numbers: dict[str, int] = {}

    def close(self) -> None:
        """Close the socket. The kernel keeps what it has."""
        self._kernel.close()

    # --- reading ----------------------------------------------------------------------------------------------------

    def read(self, want: NetworkProgram) -> FoundNetwork:
        """What the kernel has of ours; of kernel parameters those that `want` names."""
        links, foreign = self._read_links({*LINKS, *want.links})
        numbers = self._numbers
        vxlan = [name for name, link in links.items() if link.is_vxlan]
        neighbours = {
            (name, to): mac
            for name in vxlan
            for to, mac in network_neighbours.read_neighbours(self._kernel, numbers[name]).items()
        }
        forwarding = {
            (name, mac): to
            for name in vxlan
            for mac, to in network_neighbours.read_forwarding(self._kernel, numbers[name]).items()
        }
        leftovers: list[Leftover] = []
        names = _Names(self._kernel, numbers)
        return FoundNetwork(
            links=links,
            foreign=foreign,
            addresses=self._read_addresses(names, frozenset(numbers[name] for name in links), leftovers),
            neighbours=neighbours,
            forwarding=forwarding,
            routes=self._read_routes(names, leftovers),
            rules=self._read_rules(leftovers),
            sysctls=_read_sysctls(want.sysctls),
            leftovers=tuple(leftovers),
        )

    def moved(self, names: Iterable[str]) -> bool:
        """Whether one of these links is not the one any more that it was when it was last read."""
        before = {name: self._numbers.get(name, 0) for name in names}
        return self._find(before) != {name: number for name, number in before.items() if number}

    def _read_links(self, names: Collection[str]) -> tuple[dict[str, FoundLink], frozenset[str]]:
        links: dict[str, FoundLink] = {}
        foreign: set[str] = set()
        self._numbers = {}
        ordered = sorted(names)
        answers = self._kernel.ask_all([network_links.question(name) for name in ordered], "look for links")
        for name, answer in zip(ordered, answers, strict=True):
            number, called = network_links.number_and_name(answer) if answer else (0, "")
            if not answer or called != name:  # an alternative name of another link
                continue
            if link := network_links.decode(answer):
                links[name], self._numbers[name] = link, number
            else:
                foreign.add(name)
        return links, frozenset(foreign)

    def _read_addresses(self, names: _Names, ours: frozenset[int], leftovers: list[Leftover]) -> frozenset[LinkAddress]:
        found = network_neighbours.read_addresses(self._kernel, ours)
        names.learn({fact.link for fact, _ in found})
        addresses = set()
        for fact, payload in found:
            each = LinkAddress(names.get(fact.link), fact.address, fact.announced)
            if fact.usual:
                addresses.add(each)
            else:
                leftovers.append(Leftover(address_words(each), (network_neighbours.DELETE_ADDRESS, payload)))
        return frozenset(addresses)

    def _read_routes(self, names: _Names, leftovers: list[Leftover]) -> dict[RouteKey, Route | None]:
        found = network_routes.read(self._kernel)
        names.learn({fact.number for fact, _ in found if fact.route})
        routes: dict[RouteKey, Route | None] = {}
        for fact, payload, first in network_routes.first_of_each(found):
            route = fact.route
            if route and route.kind is RouteKind.UNICAST:
                route = replace(route, link=names.get(fact.number))
            if first:
                routes[fact.key] = route
            else:
                leftovers.append(Leftover(route_words(fact.key, route), (network_routes.DELETE_ROUTE, payload)))
        return routes

    def _read_rules(self, leftovers: list[Leftover]) -> frozenset[SourceRule]:
        rules: set[SourceRule] = set()
        for rule, payload in network_routes.read_rules(self._kernel):
            if rule and rule not in rules:
                rules.add(rule)
            else:
                leftovers.append(Leftover("rule of unusual shape", (network_routes.DELETE_RULE, payload)))
        return frozenset(rules)

    # --- making -----------------------------------------------------------------------------------------------------

    def clear(self, changes: NetworkChanges) -> list[Failure]:
        """Remove what is where something else belongs; what could not be removed."""
        orders = [*map(_of_leftover, changes.leftovers)]
        orders += self._of_addresses(changes.misfits, self._find({each.link for each in changes.misfits}))
        return self._removed(orders)

    def make(self, changes: NetworkChanges, failures: Iterable[Failure] = ()) -> None:
        """Everything new. Raises KernelError with the first thing refused and the number of others, after all else
        was made; `failures` are those there were before. OwnershipError if a link that is wanted is not ours.
        """
        failures = [*failures]
        failures += self._links(changes.links)
        failures += _write_sysctls(changes.sysctls)
        numbers = self._find({*_used(changes), *changes.links})
        self._numbers |= {name: numbers[name] for name in changes.links if name in numbers}
        failures += self._addresses(changes, numbers)
        failures += self._entries(changes, numbers)
        failures += self._routes(changes.routes, numbers)
        failures += self._refused(self._attempt([network_routes.put_rule(rule) for rule in changes.rules]))
        if changes.foreign:
            raise OwnershipError(
                f"network: there is a link {changes.foreign[0]} that netplane did not make (its group is not 98, or it "
                f"is of another kind); remove or rename it"
            )
        _raise(failures)

    def sweep(self, changes: NetworkChanges) -> None:
        """Everything that is not wanted; what is gone already is fine. Raises KernelError, after all else was tried."""
        gone = [key[0] for entries in (changes.no_neighbours, changes.no_forwarding) for key in entries]
        numbers = self._find({*changes.no_links, *gone, *(each.link for each in changes.no_addresses)})
        orders = [network_routes.remove_rule(rule) for rule in changes.no_rules]
        orders += [network_routes.remove(key) for key in changes.no_routes]
        for (link, mac), _ in changes.no_forwarding.items():
            if number := numbers.get(link):
                orders.append(network_neighbours.remove_forwarding(number, mac))
        for link, to in changes.no_neighbours:
            if number := numbers.get(link):
                orders.append(network_neighbours.remove_neighbour(number, to))
        orders += self._of_addresses(changes.no_addresses, numbers)
        orders += [link_orders.delete(numbers[name]) for name in changes.no_links if name in numbers]
        _raise(self._removed(orders))

    def _links(self, changes: Mapping[str, LinkChange]) -> list[Failure]:
        numbers = self._find(changes)
        failures: list[Failure] = []
        orders: list[Order] = []
        for name, change in changes.items():
            if isinstance(change.link, VxlanLink) or name in numbers:
                orders += network_links.orders(change, numbers.get(name, 0))
            else:
                failures.append(_missing(link_words(change.link), name))
        without = {name for name in changes if not sysctls.exists(f"net/ipv6/conf/{name}")}
        ignored = {id(order) for name in without for order in orders if order.doing == network_links.doing_quiet(name)}
        return failures + self._refused(each for each in self._attempt(orders) if id(each.order) not in ignored)

    def _addresses(self, changes: NetworkChanges, numbers: Mapping[str, int]) -> list[Failure]:
        failures: list[Failure] = []
        orders: list[Order] = []
        given: list[LinkAddress] = []
        for each in changes.addresses:
            if number := numbers.get(each.link):
                orders.append(network_neighbours.add_address(number, each.address, announced=each.announced))
                given.append(each)
            else:
                failures.append(_missing(address_words(each), each.link))
        refused = self._attempt(orders)
        failures += self._refused(each for each in refused if each.errno != errno.EEXIST)
        not_given = {id(each.order) for each in refused}
        for each, order in zip(given, orders, strict=True):
            if each.announced and id(order) not in not_given:
                try:
                    self._announce(each.link, each.address)
                except KernelError as error:
                    failures.append(Failure(error.doing, error.said))
        return failures

    def _entries(self, changes: NetworkChanges, numbers: Mapping[str, int]) -> list[Failure]:
        failures: list[Failure] = []
        orders: list[Order] = []
        for (link, to), mac in changes.neighbours.items():
            if number := numbers.get(link):
                orders.append(network_neighbours.put_neighbour(number, to, mac))
            else:
                failures.append(_missing(f"neighbour {to}", link))
        for (link, mac), to in changes.forwarding.items():
            if number := numbers.get(link):
                orders.append(network_neighbours.put_forwarding(number, mac, to))
            else:
                failures.append(_missing(f"forwarding {mac.hex(':')}", link))
        return failures + self._refused(self._attempt(orders))

    def _routes(self, routes: Mapping[RouteKey, Route], numbers: Mapping[str, int]) -> list[Failure]:
        failures: list[Failure] = []
        orders: list[Order] = []
        helped: dict[int, tuple[IPAddress, int]] = {}
        for key, route in routes.items():
            number = numbers.get(route.link, 0)
            if not number and route.kind is RouteKind.UNICAST:
                failures.append(_missing(route_words(key, route), route.link))
                continue
            order = network_routes.put(key, route, number)
            orders.append(order)
            if route.via and route.via.version == 6:
                helped[id(order)] = route.via, number
        again: list[Order] = []
        for each in self._attempt(orders):
            if each.errno == errno.EINVAL and (where := helped.get(id(each.order))):
                come, go = network_routes.to_next_hop(*where, _HELPER_METRIC)
                again += (come, each.order, go)
            else:
                failures.append(_failure(each))
        return failures + self._refused(self._attempt(again))

    # --- asking -----------------------------------------------------------------------------------------------------

    def _find(self, names: Iterable[str]) -> dict[str, int]:
        """The numbers of links, those that have a name of ours only if they are ours."""
        ordered = sorted({*names} - {""})
        answers = self._kernel.ask_all([network_links.question(name) for name in ordered], "look for links")
        found = {}
        for name, answer in zip(ordered, answers, strict=True):
            if answer and (name not in LINKS or network_links.decode(answer)):
                number, called = network_links.number_and_name(answer)
                if called == name or name not in LINKS:
                    found[name] = number
        return found

    def _of_addresses(self, given: Iterable[LinkAddress], numbers: Mapping[str, int]) -> list[Order]:
        pairs = ((numbers.get(each.link), each.address) for each in given)
        return [network_neighbours.remove_address(number, address) for number, address in pairs if number]

    def _attempt(self, orders: Sequence[Order]) -> list[NotDone]:
        return self._kernel.attempt(orders) if orders else []

    def _removed(self, orders: Sequence[Order]) -> list[Failure]:
        return self._refused(each for each in self._attempt(orders) if each.errno not in _GONE)

    def _refused(self, refused: Iterable[NotDone]) -> list[Failure]:
        return [_failure(each) for each in refused]


class _Names:
    """Names of links by number: those of ours are known, others are asked for when they are met."""

    def __init__(self, kernel: Links, numbers: Mapping[str, int]) -> None:
        self._kernel = kernel
        self._names = {number: name for name, number in numbers.items()}

    def learn(self, numbers: Collection[int]) -> None:
        """Ask for those of these that are not known yet."""
        unknown = sorted(number for number in numbers if number and number not in self._names)
        answers = self._kernel.ask_all([network_links.question(number) for number in unknown], "look for links")
        self._names |= dict(network_links.number_and_name(answer) for answer in answers if answer)

    def get(self, number: int) -> str:
        """The name; `link7` if it has gone meanwhile."""
        return self._names.get(number, f"link{number}")


def _used(changes: NetworkChanges) -> set[str]:
    entries = (key[0] for several in (changes.neighbours, changes.forwarding) for key in several)
    return {*entries, *(each.link for each in changes.addresses), *(route.link for route in changes.routes.values())}


def _of_leftover(each: Leftover) -> Order:
    return Order(f"remove {each.words}", Request(*each.message))


def _missing(words: str, link: str) -> Failure:
    return Failure(
        f"put {words}", f"there is no link {link}" if link not in LINKS else f"there is no link {link} of ours"
    )


def _failure(refused: NotDone) -> Failure:
    return Failure(refused.order.doing, refused.said)


def _raise(failures: Sequence[Failure]) -> None:
    if failures:
        (doing, said), *others = failures
        more = f" (and {len(others)} more could not be done)" if others else ""
        raise KernelError(mechanism="network", doing=doing, said=said + more)


def _path(name: str) -> str:
    """Like sysctl(8): what has no slash is separated by dots."""
    return name if "/" in name else name.replace(".", "/")


def _read_sysctls(names: Iterable[str]) -> dict[str, int]:
    found = {}
    for name in names:
        with suppress(NetplaneError, ValueError):  # what is not there, or no number, is not as wanted
            found[name] = int(sysctls.read(_path(name)))
    return found


def _write_sysctls(values: Mapping[str, int]) -> list[Failure]:
    failures = []
    for name, value in values.items():
        try:
            sysctls.write({_path(name): value})
        except RequirementError as error:
            failures.append(Failure(f"set {name} = {value}", str(error)))
        except KernelError as error:
            failures.append(Failure(error.doing, error.said))
    return failures
