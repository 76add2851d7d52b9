"""Long random walks on the real kernel, with accidents: after every whole comparison it has what the program wants."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from random import Random
from typing import Any

import pytest
from generated.churn import changed, cluster
from generated.clusters import World
from generated.simulator import plain, wanted

from netplane.backends.nftables import NFTABLES
from netplane.errors import KernelError
from netplane.kernel.command import run
from netplane.kernel.host import Host
from netplane.kernel.netns import Namespace
from netplane.kernel.nftables import NftablesDriver
from netplane.model.address import Family
from netplane.plan.node import plan_node
from netplane.programs.nftables import NFT_FAMILY, ElementChanges, FoundTable, NftablesChanges, NftablesProgram
from netplane.programs.nftables_changes import changes_from_found
from netplane.programs.program import Program

pytestmark = pytest.mark.kernel

SEEDS = range(4)
_NOBODY = {Family.IPV4: ip_address("10.66.0.1").packed, Family.IPV6: ip_address("fd00:66::1").packed}
_FAMILY = {word: family for family, word in NFT_FAMILY.items()}

OTHER = """
table inet other {
    set seen { type ipv4_addr; flags dynamic, timeout; timeout 1h; }
    map to { type ipv4_addr . inet_service : verdict; elements = { 10.96.0.1 . 80 : jump mine }; }
    chain mine { counter packets 0 bytes 0 accept comment "not yours"; }
    chain input { type filter hook input priority filter; policy accept; ip daddr . tcp dport vmap @to; }
}
"""


@dataclass
class Walk:
    """A namespace, whoever works in it, and the program it should have."""

    run: Callable[[Callable[[], Any]], Any]
    driver: NftablesDriver
    hosts: list[Host]
    random: Random
    program: Program = field(default_factory=Program)

    def nft(self, *words: str, script: str = "") -> str:
        return self.run(lambda: run("nft", *words, stdin=script, mechanism="nftables", doing="test"))

    def apply(self, *, by: int = 0, reread: bool) -> None:
        self.run(lambda: self.hosts[by].apply(self.program, reread=reread))

    def check(self, said: str) -> None:
        assert plain(self.run(self.driver.read)) == wanted(self.program.nftables), said

    def pending(self) -> NftablesChanges:
        return changes_from_found(self.run(self.driver.read), self.program.nftables)


@pytest.fixture
def walk(seed) -> Iterator[Walk]:
    with (
        Namespace() as namespace,
        namespace.run(Host) as one,
        namespace.run(Host) as two,
        namespace.run(NftablesDriver) as driver,
    ):
        yield Walk(namespace.run, driver, [one, two], Random(seed))


def programs(seed: int, count: int) -> Iterator[tuple[Program, str]]:
    """Programs of a cluster that changes a little, each compiled from the one before, and what changed."""
    random, snapshot, settings = Random(seed), cluster(seed), World(seed).settings
    plan, compiled = None, None
    for _ in range(count):
        snapshot, said = changed(random, snapshot)
        plan = plan_node(snapshot, "n1", settings, plan)
        compiled = NFTABLES.compile(plan, compiled)
        yield compiled.program, said


def scratch(seed: int, count: int) -> Iterator[NftablesProgram]:
    """The same programs, each compiled alone."""
    random, snapshot, settings = Random(seed), cluster(seed), World(seed).settings
    for _ in range(count):
        snapshot, _ = changed(random, snapshot)
        yield NFTABLES.compile(plan_node(snapshot, "n1", settings)).program.nftables


@pytest.mark.parametrize("seed", SEEDS)
def test_sixty_small_changes_by_memory_and_the_table_of_others_is_as_before(seed, walk):
    walk.nft("-f", "-", script=OTHER)
    before = walk.nft("list", "table", "inet", "other")
    for (walk.program, said), fresh in zip(programs(seed, 60), scratch(seed, 60), strict=True):
        walk.apply(reread=False)
        assert plain(walk.run(walk.driver.read)) == wanted(fresh), said
    # What nft prints of it, nft takes back.
    walk.nft("--check", "-f", "-", script="flush ruleset\n" + walk.nft("list", "ruleset"))
    assert walk.nft("list", "table", "inet", "other") == before
    walk.program = Program()
    walk.apply(reread=False)
    assert walk.run(walk.driver.read) == {}
    assert walk.nft("list", "ruleset") == before


# --- accidents --------------------------------------------------------------------------------------------------------


def _stopped_after_structure(walk: Walk) -> None:
    changes = walk.pending()
    walk.run(lambda: walk.driver.make(NftablesChanges(make_structure=changes.make_structure)))


def _stopped_before_sweep(walk: Walk) -> None:
    changes = walk.pending()
    walk.run(lambda: walk.driver.make(changes))


def _stopped_in_sweep(walk: Walk) -> None:
    changes = walk.pending()
    walk.run(lambda: walk.driver.make(changes))
    walk.run(lambda: walk.driver.sweep(NftablesChanges(sweep_elements=changes.sweep_elements)))


def _everything_twice(walk: Walk) -> None:
    """The second sweep of structure is refused, as it is gone, and so changes nothing."""
    changes = walk.pending()
    walk.run(lambda: (walk.driver.make(changes), walk.driver.make(changes), walk.driver.sweep(changes)))
    with suppress(KernelError) if changes.sweep_structure else nullcontext():
        walk.run(lambda: walk.driver.sweep(changes))
    walk.check("made and swept twice")


def _another_host_was_here(walk: Walk) -> None:
    walk.apply(by=1, reread=True)


def _a_chain_was_emptied(walk: Walk) -> None:
    for family, table in _one_table(walk):
        walk.nft("flush", "chain", family, "netplane", walk.random.choice(sorted(table.chains)))


def _a_rule_was_added(walk: Walk) -> None:
    for family, table in _one_table(walk):
        walk.nft("insert", "rule", family, "netplane", walk.random.choice(sorted(table.chains)), "counter")


def _a_chain_lost_its_rules_to_others(walk: Walk) -> None:
    for family, table in _one_table(walk):
        chain = walk.random.choice(sorted(table.chains))
        walk.nft(f"flush chain {family} netplane {chain}; add rule {family} netplane {chain} accept")


def _an_element_was_deleted(walk: Walk) -> None:
    for family, table in _one_table(walk):
        elements = [
            (name, key, data) for name, own in sorted(table.elements.items()) for key, data in sorted(own.items())
        ]
        if elements:
            name, key, data = walk.random.choice(elements)
            gone = ElementChanges(remove={(_FAMILY[family], name): {key: data}})
            walk.run(lambda gone=gone: walk.driver.sweep(NftablesChanges(sweep_elements=gone)))


def _an_element_was_added(walk: Walk) -> None:
    for family, _ in _one_table(walk):
        address = "10.66.0.1" if family == "ip" else "fd00:66::1"
        walk.nft(f"add element {family} netplane cluster-ips {{ {address} }}")


def _a_chain_and_a_set_were_added(walk: Walk) -> None:
    for family, _ in _one_table(walk):
        at, some = f"{family} netplane", "10.0.0.0/8" if family == "ip" else "fd00::/8"
        kind = "ipv4_addr" if family == "ip" else "ipv6_addr"
        walk.nft(
            f"add chain {at} theirs; add set {at} theirs {{ type {kind}; flags interval; }};"
            f"add element {at} theirs {{ {some} }}; add rule {at} theirs {family} saddr @theirs drop;"
            f"insert rule {at} refuse jump theirs"
        )


def _the_table_was_flushed(walk: Walk) -> None:
    for family, _ in _one_table(walk):
        walk.nft("flush", "table", family, "netplane")


def _the_table_was_deleted(walk: Walk) -> None:
    for family, _ in _one_table(walk):
        walk.nft("delete", "table", family, "netplane")


def _everything_was_deleted(walk: Walk) -> None:
    walk.nft("flush", "ruleset")


ACCIDENTS = (
    _stopped_after_structure,
    _stopped_before_sweep,
    _stopped_in_sweep,
    _everything_twice,
    _another_host_was_here,
    _a_chain_was_emptied,
    _a_rule_was_added,
    _a_chain_lost_its_rules_to_others,
    _an_element_was_deleted,
    _an_element_was_added,
    _a_chain_and_a_set_were_added,
    _the_table_was_flushed,
    _the_table_was_deleted,
    _everything_was_deleted,
)


def _one_table(walk: Walk) -> list[tuple[str, FoundTable]]:
    """One of our tables in the kernel, if there is any."""
    tables = [(NFT_FAMILY[family], table) for family, table in sorted(walk.run(walk.driver.read).items())]
    return [walk.random.choice(tables)] if tables else []


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_happened_the_next_whole_comparison_repairs_it(seed, walk):
    """Two hosts by turns, one of them often by memory that is not true any more."""
    for number, (walk.program, said) in enumerate(programs(seed + 100, 40)):
        accident = ACCIDENTS[number % len(ACCIDENTS)]
        accident(walk)
        by = walk.random.randrange(2)
        if walk.random.random() < 0.5:
            with suppress(KernelError):  # memory may be so wrong that the kernel refuses
                walk.apply(by=by, reread=False)
        walk.apply(by=by, reread=True)
        walk.check(f"step {number}: {said}, after {accident.__name__}")
        same = walk.run(lambda by=by: walk.hosts[by].pending(walk.program))
        assert [(each.made, each.swept) for each in same] == [(0, 0)] * len(same)


@pytest.mark.parametrize("seed", [0])
@pytest.mark.parametrize("accident", ACCIDENTS)
def test_an_accident_is_noticed_without_memory_and_repaired_at_once(accident, seed, walk):
    """The same host, whose memory says that nothing is to do."""
    *_, (walk.program, _) = programs(3, 30)
    walk.apply(reread=False)
    accident(walk)
    walk.apply(reread=True)
    walk.check(accident.__name__)


@pytest.mark.parametrize("seed", SEEDS)
def test_who_does_our_work_and_something_else_in_one_transaction_is_noticed(seed, walk):
    """Ours then changes nothing and has no number in the kernel: counted, it would make up for theirs."""
    *_, (want, _) = programs(seed, 10)
    service, part, name = next(
        (service, part, name)
        for service, part in sorted(want.nftables.parts.items())
        for name in part.elements
        if name[1] == "cluster-ips"
    )
    less = replace(part, elements={each: own for each, own in part.elements.items() if each != name})
    parts = {**want.nftables.parts, service: less}
    walk.program = Program(nftables=replace(want.nftables, parts=parts))
    walk.apply(reread=True)
    theirs = {name: {**part.elements[name], _NOBODY[name[0]]: None}}
    walk.run(lambda: walk.driver.make(NftablesChanges(make_elements=ElementChanges(add=theirs))))
    walk.program = want
    walk.apply(reread=False)
    walk.apply(reread=True)
    walk.check("the address of nobody is still there")
