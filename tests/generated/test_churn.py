"""The laws over long series of small changes, and between programs that have nothing to do with one another."""

from __future__ import annotations

import re
from dataclasses import replace
from random import Random

import pytest
from generated.churn import CHANGES, changed, cluster
from generated.clusters import World
from generated.simulator import Simulator, plain, wanted

from netplane.backends.nftables import NFTABLES
from netplane.model.snapshot import Snapshot
from netplane.plan.node import plan_node
from netplane.programs.nftables import ElementChanges, Elements, NftablesChanges, NftablesProgram
from netplane.programs.nftables_changes import Applied, as_found, changes_from_found
from netplane.programs.nftables_text import whole_structure

SEEDS = range(8)
STEPS = 100


@pytest.mark.parametrize("seed", SEEDS)
def test_hundreds_of_small_changes_end_where_one_would(seed):
    """Plan, program and the kernel's state, each derived from the one before."""
    random, snapshot, settings = Random(seed), cluster(seed), World(seed).settings
    plan, compiled, kernel, applied = None, None, Simulator(), Applied.of(NftablesProgram())
    for _ in range(STEPS):
        snapshot, said = changed(random, snapshot)
        plan = plan_node(snapshot, "n1", settings, plan)
        compiled = NFTABLES.compile(plan, compiled)
        kernel.apply(applied.changes_to(compiled.program.nftables))
        fresh = NFTABLES.compile(plan_node(snapshot, "n1", settings))
        assert plan == fresh.plan, said
        assert compiled.program == fresh.program, said
        assert plain(kernel.found()) == wanted(fresh.program.nftables), said
    kernel.apply(applied.changes_to(NftablesProgram()))
    assert kernel.found() == {}


def _program(seed: int, node: str) -> NftablesProgram:
    world = World(seed)
    return NFTABLES.compile(plan_node(world.snapshot, node, world.settings)).program.nftables


@pytest.mark.parametrize("seed", SEEDS)
def test_from_any_program_to_any_other(seed):
    """Another node, other settings, another cluster: chains and hooks change with everything else."""
    kernel, applied = Simulator(), Applied.of(NftablesProgram())
    for step in range(20):
        want = NftablesProgram() if step % 7 == 6 else _program(seed * 100 + step, f"n{1 + step % 2}")
        kernel.apply(applied.changes_to(want))
        assert plain(kernel.found()) == wanted(want)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_plan_remembered_from_elsewhere_leaves_no_trace(seed):
    """The last argument saves work and never changes a result, whatever it is."""
    worlds = [World(seed * 100 + each) for each in range(4)]
    plan, compiled = None, None
    for step in range(16):
        world, node = worlds[step % 4], f"n{1 + step % 3}"
        settings = replace(world.settings, local=worlds[0].settings.local) if step % 2 else world.settings
        plan = plan_node(world.snapshot, node, settings, plan)
        compiled = NFTABLES.compile(plan, compiled)
        fresh = NFTABLES.compile(plan_node(world.snapshot, node, settings))
        assert plan == fresh.plan
        assert compiled.program == fresh.program
        assert compiled.program.nftables.uses == fresh.program.nftables.uses


def _keys(elements: Elements) -> set[tuple[object, bytes]]:
    return {(name, key) for name, own in elements.items() for key in own}


_ROOM = object()
"""Of a range that makes room for another."""


def _well_formed(changes: NftablesChanges, have: NftablesProgram, want: NftablesProgram) -> None:
    """What the fields of `NftablesChanges` promise of the elements in them."""
    make, sweep = changes.make_elements, changes.sweep_elements
    before, after = ({family: table.elements for family, table in as_found(each).items()} for each in (have, want))
    for name, elements in make.remove.items():
        for key, data in elements.items():
            assert before[name[0]][name[1]][key] == data
            assert make.add[name].get(key, _ROOM) != data
    for name, elements in make.add.items():
        for key, data in elements.items():
            assert after[name[0]][name[1]][key] == data
    assert not sweep.add
    assert not _keys(sweep.remove) & _keys(make.add)
    assert not any(key in after.get(name[0], {}).get(name[1], {}) for name, own in sweep.remove.items() for key in own)
    assert all(own for side in (make.remove, make.add, sweep.remove) for own in side.values())


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_replaced_is_made_and_what_is_swept_is_not_wanted(seed):
    random, snapshot, settings = Random(seed), cluster(seed), World(seed).settings
    have = NftablesProgram()
    for _ in range(40):
        snapshot, _ = changed(random, snapshot)
        want = NFTABLES.compile(plan_node(snapshot, "n1", settings)).program.nftables
        for changes in (Applied.of(have).changes_to(want), changes_from_found(as_found(have), want)):
            _well_formed(changes, have, want)
        have = want
    assert ElementChanges().count() == NftablesChanges().made() == NftablesChanges().swept() == 0


def _reached(program: NftablesProgram) -> dict[tuple[str, str], set[str]]:
    """Where each chain that elements may lead to sends packets in the end: as `to` and `goto endpoint-...` say."""
    found: dict[tuple[str, str], set[str]] = {}
    for family in program.structure:
        for name, chain in whole_structure(program, family).chains.items():
            if name.startswith(("sticky-", "pick-", "node-port-pick-", "masq-")):
                goals = [re.search(r"(goto \S+|dnat .*|drop)$", rule) for rule in chain.rules]
                found[str(family), name] = {goal[0] for goal in goals if goal}
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_the_name_of_a_chain_never_means_anything_else(seed):
    """Structure comes before elements: until they come, elements of before lead into chains of after."""
    random, snapshot, settings = Random(seed), cluster(seed), World(seed).settings
    known: dict[tuple[str, str], set[str]] = {}
    for _ in range(150):
        snapshot, said = changed(random, snapshot)
        reached = _reached(NFTABLES.compile(plan_node(snapshot, "n1", settings)).program.nftables)
        assert {name: known[name] for name in known.keys() & reached.keys()} == {
            name: reached[name] for name in known.keys() & reached.keys()
        }, said
        known |= reached


# --- the generator ----------------------------------------------------------------------------------------------------


def test_the_same_seed_makes_the_same_cluster_and_changes():
    def series() -> list[tuple[Snapshot, str]]:
        random, snapshot = Random(7), cluster(7)
        made = []
        for _ in range(30):
            snapshot, said = changed(random, snapshot)
            made.append((snapshot, said))
        return made

    assert series() == series()
    assert cluster(7) != cluster(8)


def test_every_kind_of_change_is_made():
    random, snapshot, kinds = Random(1), cluster(1), set()
    for _ in range(400):
        snapshot, said = changed(random, snapshot)
        kinds.add(said.partition(":")[0])
    assert kinds == CHANGES.keys()


def test_the_changes_hold_every_kind_of_difference():
    """Else the laws above would be about nothing."""
    made, swept, replaced, sticky, structures = 0, 0, 0, 0, set()
    for seed in SEEDS:
        random, snapshot, settings = Random(seed), cluster(seed), World(seed).settings
        compiled = NFTABLES.compile(plan_node(snapshot, "n1", settings))
        applied = Applied.of(compiled.program.nftables)
        for _ in range(60):
            snapshot, _ = changed(random, snapshot)
            compiled = NFTABLES.compile(plan_node(snapshot, "n1", settings, compiled.plan), compiled)
            changes = applied.changes_to(compiled.program.nftables)
            made += changes.make_elements.count()
            replaced += len(_keys(changes.make_elements.remove))
            swept += changes.sweep_elements.count()
            scripts = changes.make_structure + changes.make_hooks + changes.sweep_structure
            structures |= {tuple(line.split()[:2]) for line in scripts.splitlines()}
            sticky += "clients-" in changes.make_structure
    assert min(made, swept, replaced) > 400
    assert sticky > 20
    objects = {("add", "set"), ("add", "chain"), ("add", "rule"), ("flush", "chain"), ("add", "table")}
    assert structures >= objects | {("delete", "chain"), ("delete", "set"), ("delete", "table")}


@pytest.mark.parametrize("seed", SEEDS)
def test_what_a_change_does_not_touch_stays_the_same_object(seed):
    random, before = Random(seed), cluster(seed)
    for _ in range(50):
        after, said = changed(random, before)
        parts = [(before.services, after.services), (before.slices, after.slices), (before.nodes, after.nodes)]
        touched = sum(old.get(key) is not new.get(key) for old, new in parts for key in {*old, *new})
        assert touched <= 2, said  # a new Service brings its slices
        before = after
