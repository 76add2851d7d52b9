"""The same laws on the real kernel: after every batch it has what a compile from scratch wants, and nothing of others
is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
from generated.simulator import plain, wanted
from generated.test_laws import scratch, steps

from netplane.errors import OwnershipError
from netplane.kernel.command import run
from netplane.kernel.host import Host, Summary
from netplane.kernel.mechanism import Pending
from netplane.kernel.netns import Namespace
from netplane.kernel.nftables import NftablesDriver
from netplane.programs.nftables import ElementChanges, NftablesChanges, NftablesProgram
from netplane.programs.nftables_changes import changes_from_found
from netplane.programs.program import Program

pytestmark = pytest.mark.kernel

SEEDS = range(6)

OTHERS = """
table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; ip saddr 10.0.0.1 accept; }; }
table ip kube-proxy { map service-ips { type ipv4_addr : verdict; elements = { 10.96.0.1 : drop }; }; }
table inet netplane { comment "made by netplane"; chain theirs { accept; }; }
table netdev netplane { comment "made by netplane"; chain theirs { accept; }; }
"""


@dataclass(frozen=True)
class Node:
    """A namespace with a host and a driver in it."""

    run: Callable[[Callable[[], Any]], Any]
    host: Host
    driver: NftablesDriver

    def apply(self, program: Program, *, reread: bool = False) -> Summary:
        return self.run(lambda: self.host.apply(program, reread=reread))

    def pending(self, program: Program) -> Pending:
        """Of nftables; the other mechanisms have nothing to do."""
        listed = self.run(lambda: self.host.pending(program))
        assert not any(each.made or each.swept for each in listed if each.mechanism != "nftables")
        return next(each for each in listed if each.mechanism == "nftables")

    def found(self) -> Any:
        return plain(self.run(self.driver.read))

    def nft(self, *words: str, script: str = "") -> str:
        return self.run(lambda: run("nft", *words, stdin=script, mechanism="nftables", doing="test"))


@pytest.fixture
def node() -> Iterator[Node]:
    with Namespace() as namespace, namespace.run(Host) as host, namespace.run(NftablesDriver) as driver:
        yield Node(namespace.run, host, driver)


@pytest.mark.parametrize("seed", SEEDS)
def test_after_every_batch_the_kernel_has_what_a_compile_from_scratch_wants(seed, node):
    for world, compiled in steps(seed, 12):
        node.apply(compiled.program)
        assert node.found() == wanted(scratch(world).program.nftables)


@pytest.mark.parametrize("seed", SEEDS)
def test_applying_again_changes_nothing_whether_by_memory_or_by_reading(seed, node):
    for _, compiled in steps(seed, 3):
        node.apply(compiled.program)
        before = node.nft("list", "ruleset")
        assert not node.apply(compiled.program).changed
        assert not node.apply(compiled.program, reread=True).changed
        assert node.nft("list", "ruleset") == before


@pytest.mark.parametrize("seed", SEEDS)
def test_an_apply_that_was_interrupted_anywhere_can_be_repeated(seed, node):
    random = Random(seed)
    for _, compiled in steps(seed, 10):
        want = compiled.program.nftables
        changes = changes_from_found(node.run(node.driver.read), want)
        half = ElementChanges(remove=changes.make_elements.remove, add=changes.make_elements.add)
        partial = random.choice(
            (
                NftablesChanges(make_structure=changes.make_structure),
                NftablesChanges(changes.make_structure, half),
                NftablesChanges(changes.make_structure, half, changes.make_hooks, changes.sweep_elements),
            )
        )
        node.run(lambda partial=partial: (node.driver.make(partial), node.driver.sweep(partial)))
        node.apply(compiled.program, reread=True)
        assert node.found() == wanted(want)


@pytest.mark.parametrize("seed", SEEDS)
def test_making_twice_is_making_once(seed, node):
    for _, compiled in steps(seed, 4):
        want = compiled.program.nftables
        changes = changes_from_found(node.run(node.driver.read), want)
        node.run(lambda changes=changes: (node.driver.make(changes), node.driver.make(changes)))
        node.run(lambda changes=changes: node.driver.sweep(changes))
        assert node.found() == wanted(want)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_text_of_a_program_loads_into_an_empty_kernel_as_the_program(seed, node):
    from netplane.backends.nftables import NFTABLES

    *_, (_, compiled) = steps(seed, 5)
    node.nft("-f", "-", script=NFTABLES.text(compiled.program))
    assert node.found() == wanted(compiled.program.nftables)
    assert not node.apply(compiled.program, reread=True).changed


@pytest.mark.parametrize("seed", SEEDS)
def test_tables_of_others_are_as_before_after_apply_and_clean(seed, node):
    node.nft("-f", "-", script=OTHERS)
    before = node.nft("list", "ruleset")
    for _, compiled in steps(seed, 3):
        node.apply(compiled.program)
    assert node.nft("list", "ruleset") != before
    assert node.apply(Program(), reread=True).changed
    assert node.nft("list", "ruleset") == before


@pytest.mark.parametrize("comment", ["", 'comment "somebody else";', 'comment "made by netplane 2";'])
@pytest.mark.parametrize("family", ["ip", "ip6"])
def test_a_foreign_table_of_our_name_is_refused_and_nothing_is_touched(node, family, comment):
    node.nft("-f", "-", script=f"table {family} netplane {{ {comment} chain theirs {{ drop; }}; }}")
    before = node.nft("list", "ruleset")
    *_, (_, compiled) = steps(0, 3)
    for program in (compiled.program, Program()):
        for reread in (True, False):
            with pytest.raises(OwnershipError, match=f"table {family} netplane is not ours"):
                node.apply(program, reread=reread)
            assert node.nft("list", "ruleset") == before


def test_drift_is_repaired_by_the_next_full_comparison(node):
    *_, (_, compiled) = steps(3, 8)
    node.apply(compiled.program)
    node.nft("flush", "table", "ip", "netplane")
    assert not node.apply(compiled.program).changed  # by memory nothing is missing
    assert node.apply(compiled.program, reread=True).changed
    assert node.found() == wanted(compiled.program.nftables)


def test_a_table_that_was_deleted_under_us_comes_back(node):
    *_, (_, compiled) = steps(3, 8)
    node.apply(compiled.program)
    node.nft("delete", "table", "ip6", "netplane")
    node.apply(compiled.program, reread=True)
    assert node.found() == wanted(compiled.program.nftables)


def test_pending_shows_what_apply_would_do_and_does_nothing(node):
    *_, (_, compiled) = steps(3, 8)
    pending = node.pending(compiled.program)
    assert node.found() == {}
    lines = pending.lines()
    assert len(lines) == pending.made > 50
    assert all(line.startswith("+ ") for line in lines)
    done = node.apply(compiled.program)
    assert (done.made, done.swept) == (pending.made, pending.swept)
    again = node.pending(compiled.program)
    assert (again.made, again.swept, again.lines()) == (0, 0, [])
    away = node.pending(Program())
    assert away.lines() == [f"- delete table {each} netplane" for each in ("ip", "ip6")]


def test_without_sweep_nothing_is_removed_and_the_next_sweep_removes_it(node):
    ways = [compiled.program for _, compiled in steps(5, 12)]
    first, last = ways[0], ways[-1]
    node.apply(first)
    before = node.found()
    node.run(lambda: node.host.apply(last, reread=False, sweep=False))
    between = node.found()
    for family, (chains, sets, elements) in before.items():
        assert set(chains) <= set(between[family][0])
        assert set(sets) <= set(between[family][1])
        assert all(set(each) <= set(between[family][2][name]) for name, each in elements.items())
    node.apply(last)
    assert node.found() == wanted(last.nftables)


def test_memory_is_thrown_away_after_a_failure(node):
    *_, (_, compiled) = steps(4, 8)
    node.apply(compiled.program)
    node.nft("delete", "table", "ip", "netplane")
    node.nft("add", "table", "ip", "netplane")  # somebody else's now
    *_, (_, other) = steps(6, 8)
    with pytest.raises(OwnershipError):
        node.apply(other.program)
    node.nft("delete", "table", "ip", "netplane")
    node.apply(other.program)
    assert node.found() == wanted(other.program.nftables)
    assert NftablesProgram() != other.program.nftables
