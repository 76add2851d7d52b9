"""What holds for changes between any two Pod networks: on random programs, from seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network
from random import Random
from typing import Any

import pytest

from netplane.model.table import Table, derived
from netplane.programs.network import (
    BACKSTOP_METRIC,
    TABLE,
    LinkAddress,
    NetworkProgram,
    Route,
    RouteKey,
    RouteKind,
    VxlanLink,
)
from netplane.programs.network_changes import LinkWork, as_found, changes_between, changes_from_found

SEEDS = range(40)
MAPPINGS = ("neighbours", "forwarding", "routes")
LINKS = ("np-vxlan4", "np-vxlan6")


def any_program(chance: Random) -> NetworkProgram:
    """A few of the same peers, links and addresses, each in one of a few shapes."""
    pick, numbers = chance.choice, range(2, 12)
    links = {
        name: VxlanLink(name, pick((b"\x0a\0\0\0\0\1", b"\x0a\0\0\0\0\2")), pick((1200, 1450)), pick((7, 8)), 4789,
                        ip_address(pick(("198.18.0.1", "fd00::1"))), checksum=False)
        for name in LINKS if chance.random() < 0.8
    }  # fmt: skip
    routes: dict[RouteKey, Route] = {}
    for number in numbers:
        for to in (f"10.244.{number}.0/24", f"fd00:244:{number}::/64"):
            key = RouteKey(ip_network(to), pick((254, TABLE)), pick((98, 98, BACKSTOP_METRIC)))
            via, link = ip_address(to.split("/")[0]), pick((*LINKS, "eth0"))
            source = pick((None, ip_address("198.18.0.1" if key.to.version == 4 else "fd00::1")))
            way = Route(link=link, via=via, mtu=pick((0, 1300)), source=source)
            routes |= {key: pick((way, way, Route(RouteKind.UNREACHABLE)))} if chance.random() < 0.7 else {}
    macs = {number: pick((b"\x0a\0\0\0\0", b"\x0a\0\0\0\1")) + bytes((number,)) for number in numbers}
    some = [number for number in numbers if chance.random() < 0.7]
    return NetworkProgram(
        links=links,
        addresses=frozenset(LinkAddress(pick(LINKS), ip_address("10.244.1.0")) for _ in range(2)),
        neighbours={(pick(LINKS), ip_address(f"10.244.{number}.0")): macs[number] for number in some},
        forwarding={(pick(LINKS), macs[number]): ip_address("198.18.0.0") + number for number in some},
        routes=routes,
    )


def programs(seed: int) -> Iterator[tuple[NetworkProgram, NetworkProgram]]:
    """Pairs that differ in much, in little, and in nothing but that the objects are others."""
    chance = Random(seed)
    for _ in range(10):
        one, other = any_program(chance), any_program(chance)
        kept = {name: getattr(one, name) for name in ("links", "addresses", *MAPPINGS) if chance.random() < 0.5}
        yield one, replace(other, **kept)
        yield one, replace(one, routes={key: replace(route) for key, route in one.routes.items()})


def in_tables(have: NetworkProgram, want: NetworkProgram) -> tuple[NetworkProgram, NetworkProgram]:
    """The same, as the compiler makes them: the second is derived from the first."""
    tables = {name: Table(getattr(have, name)) for name in MAPPINGS}
    fresh: dict[str, Any] = {name: _derived(tables[name], getattr(want, name)) for name in MAPPINGS}
    return replace(have, **tables), replace(want, **fresh)


def _derived(table: Table[Any, Any], want: Mapping[Any, Any]) -> Table[Any, Any]:
    put = {key: value for key, value in want.items() if key not in table or table[key] is not value}
    return derived(table, put, [key for key in table if key not in want])


@pytest.mark.parametrize("seed", SEEDS)
def test_tables_say_the_same_as_other_mappings(seed):
    for have, want in programs(seed):
        made = changes_between(have, want)
        tables = in_tables(have, want)
        assert changes_between(*tables) == made
        assert changes_between(tables[0], want) == made
        assert changes_between(have, tables[1]) == made
        assert changes_from_found(as_found(have), want) == made


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_wanted_is_what_is_left_or_made(seed):
    """Of every mapping: what was there, without what goes and what a link loses, and with what is made."""
    for have, want in programs(seed):
        made = changes_between(*in_tables(have, want))
        again = {name for name, change in made.links.items() if change.work is LinkWork.AGAIN}
        renamed = again | {name for name, change in made.links.items() if change.new_mac}
        for name in MAPPINGS:
            lost = renamed if name == "neighbours" else again
            had, put, gone = getattr(have, name), getattr(made, name), getattr(made, f"no_{name}")
            assert not put.keys() & gone.keys()
            left = {key: value for key, value in had.items() if key not in gone and _link(key, value) not in lost}
            assert left | put == getattr(want, name)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_main_table_comes_first(seed):
    for have, want in programs(seed):
        tables = [key.table for key in changes_between(*in_tables(have, want)).routes]
        assert tables == sorted(tables, reverse=True)


def test_of_two_tables_only_what_one_changed_in_the_other_is_looked_at():
    looked: list[str] = []

    class Watched(RouteKey):
        def __hash__(self) -> int:
            looked.append(str(self.to))
            return super().__hash__()

    keys = [Watched(ip_network(f"10.{number // 250}.{number % 250}.0/24")) for number in range(2000)]
    had = Table({key: Route(via=key.to.network_address) for key in keys})
    want = had.derive({keys[7]: Route(via=keys[7].to.network_address, mtu=1300)}, [keys[9]])
    before, after = NetworkProgram(routes=had), NetworkProgram(routes=want)
    looked.clear()
    made = changes_between(before, after)
    assert (made.routes.keys(), made.no_routes.keys()) == ({keys[7]}, {keys[9]})
    assert len(set(looked)) < 40  # two shards of a thousand


def _link(key: Any, value: Any) -> str:
    return value.link if isinstance(value, Route) else key[0]
