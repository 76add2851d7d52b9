"""What holds for every cluster and every series of changes: see docs/decisions/0010 and docs/architecture.md."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TypeVar

import pytest
from generated.clusters import World
from generated.simulator import Simulator, plain, wanted

from netplane.backends.backend import Compiled
from netplane.backends.nftables import NFTABLES
from netplane.model.snapshot import Snapshot
from netplane.plan.node import plan_node
from netplane.plan.plan import Plan
from netplane.plan.settings import Settings
from netplane.plan.text import plan_text
from netplane.programs.nftables import NftablesChanges, NftablesProgram
from netplane.programs.nftables_changes import Applied, as_found, changes_from_found

SEEDS = range(16)
STEPS = 40

Key = TypeVar("Key")
Value = TypeVar("Value")


def plan(snapshot: Snapshot, settings: Settings, previous: Plan | None = None) -> Plan:
    return plan_node(snapshot, "n1", settings, previous)


def steps(seed: int, count: int = STEPS) -> Iterator[tuple[World, Compiled]]:
    """A world and what was derived for it step by step, each from the one before."""
    world, compiled = World(seed), None
    for _ in range(count):
        world.change()
        made = plan(world.snapshot, world.settings, compiled.plan if compiled else None)
        compiled = NFTABLES.compile(made, compiled)
        yield world, compiled


def scratch(world: World) -> Compiled:
    return NFTABLES.compile(plan(world.snapshot, world.settings))


def shuffled(snapshot: Snapshot, random: Random) -> Snapshot:
    """The same cluster, as plain mappings in another order, slices in another order too."""

    def mixed(mapping: Mapping[Key, Value]) -> dict[Key, Value]:
        items = sorted(mapping.items(), key=str)
        random.shuffle(items)
        return dict(items)

    slices = {key: tuple(random.sample(each, len(each))) for key, each in mixed(snapshot.slices).items()}
    return replace(snapshot, services=mixed(snapshot.services), slices=slices, nodes=mixed(snapshot.nodes))


# --- plan and program -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_derived_step_by_step_is_what_is_derived_from_scratch(seed):
    for world, compiled in steps(seed):
        fresh = scratch(world)
        assert compiled.plan == fresh.plan
        assert dict(compiled.plan.claims) == dict(fresh.plan.claims)
        assert compiled.program == fresh.program
        assert compiled.program.nftables.uses == fresh.program.nftables.uses


@pytest.mark.parametrize("seed", SEEDS)
def test_the_way_between_two_snapshots_leaves_no_trace(seed):
    """Far apart, there and back, and by another way."""
    ways = list(steps(seed, 12))
    first, last = ways[0][1], ways[-1][1]
    there = plan(last.plan.snapshot, ways[0][0].settings, first.plan)
    assert there == last.plan
    assert NFTABLES.compile(there, first).program == last.program
    back = plan(first.plan.snapshot, ways[0][0].settings, there)
    assert back == first.plan
    assert NFTABLES.compile(back, last).program == first.program


@pytest.mark.parametrize("seed", SEEDS)
def test_the_order_of_objects_leaves_no_trace(seed):
    random = Random(seed)
    for world, compiled in steps(seed, 8):
        other = NFTABLES.compile(plan(shuffled(world.snapshot, random), world.settings))
        assert plan_text(other.plan) == plan_text(compiled.plan)
        assert NFTABLES.text(other.program) == NFTABLES.text(compiled.program)


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_planned_again_if_nothing_changed(seed):
    for world, compiled in steps(seed, 4):
        again = plan(world.snapshot, world.settings, compiled.plan)
        assert all(again.services[each] is entry for each, entry in compiled.plan.services.items())
        program = NFTABLES.compile(again, compiled).program
        assert Applied.of(compiled.program.nftables).changes_to(program.nftables) == NftablesChanges()


def test_the_seed_of_pythons_hashes_leaves_no_trace():
    """Sets and dictionaries are walked in another order in another process."""
    script = (
        "import hashlib; from generated.test_laws import steps; from netplane.backends.nftables import NFTABLES;"
        "from netplane.plan.text import plan_text\n"
        "for seed in range(6):\n"
        "  for _, each in steps(seed, 10):\n"
        "    text = plan_text(each.plan) + NFTABLES.text(each.program)\n"
        "    print(hashlib.sha256(text.encode()).hexdigest())\n"
    )
    path = os.pathsep.join((str(Path(__file__).parent.parent), *sys.path))
    said = {
        subprocess.run(
            (sys.executable, "-c", script),
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    (lines,) = said
    assert len(set(lines.split())) > 30


# --- changes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_both_ways_to_the_changes_lead_to_the_program_and_end_there(seed):
    by_memory, by_reading = Simulator(), Simulator()
    applied = Applied.of(NftablesProgram())
    for _, compiled in steps(seed):
        want = compiled.program.nftables
        by_memory.apply(applied.changes_to(want))
        by_reading.apply(changes_from_found(by_reading.found(), want))
        assert plain(by_memory.found()) == plain(by_reading.found()) == wanted(want)
        assert changes_from_found(by_reading.found(), want) == NftablesChanges()
        assert applied.changes_to(want) == NftablesChanges()


@pytest.mark.parametrize("seed", SEEDS)
def test_both_ways_to_the_changes_say_the_same(seed):
    have = NftablesProgram()
    for _, compiled in steps(seed, 20):
        want = compiled.program.nftables
        remembered, read = Applied.of(have).changes_to(want), changes_from_found(as_found(have), want)
        assert remembered.make_elements == read.make_elements
        assert remembered.sweep_elements == read.sweep_elements
        assert sorted(remembered.make_structure.splitlines()) == sorted(read.make_structure.splitlines())
        assert sorted(remembered.make_hooks.splitlines()) == sorted(read.make_hooks.splitlines())
        assert sorted(remembered.sweep_structure.splitlines()) == sorted(read.sweep_structure.splitlines())
        have = want


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_made_without_being_swept_is_swept_later(seed):
    simulator, random = Simulator(), Random(seed)
    for _, compiled in steps(seed):
        want = compiled.program.nftables
        changes = changes_from_found(simulator.found(), want)
        match random.randrange(4):
            case 0:
                simulator.script(changes.make_structure)
            case 1:
                simulator.make(changes)
            case 2:
                simulator.make(changes)
                simulator.change(changes.sweep_elements)
            case _:
                simulator.apply(changes)
                assert plain(simulator.found()) == wanted(want)
    simulator.apply(changes_from_found(simulator.found(), want))
    assert plain(simulator.found()) == wanted(want)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_new_table_sees_no_packet_before_its_elements_are_there(seed):
    """Half a table would drop, as unallocated or unknown, what another backend serves until it is whole."""
    for _, compiled in steps(seed, 3):
        want = compiled.program.nftables
        changes = changes_from_found({}, want)
        hooks = sum(chain.hook is not None for each in want.structure.values() for chain in each.chains.values())
        assert changes.make_structure.count(" hook ") == 0
        assert changes.make_hooks.count(" hook ") == hooks > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_the_empty_program_removes_everything(seed):
    simulator = Simulator()
    for _, compiled in steps(seed, 3):
        simulator.apply(changes_from_found(simulator.found(), compiled.program.nftables))
    simulator.apply(changes_from_found(simulator.found(), NftablesProgram()))
    assert simulator.found() == {}


@pytest.mark.parametrize("seed", SEEDS)
def test_the_text_of_a_program_is_what_the_changes_from_nothing_lead_to(seed):
    for _, compiled in steps(seed, 4):
        simulator = Simulator()
        lines = NFTABLES.text(compiled.program).splitlines(keepends=True)
        simulator.script("".join(line for line in lines if not line.startswith("add element")))
        structure = plain(simulator.found())
        full = wanted(compiled.program.nftables)
        assert {family: each[:2] for family, each in structure.items()} == {
            family: each[:2] for family, each in full.items()
        }
        count = sum(len(elements) for _, _, sets in full.values() for elements in sets.values())
        assert sum(line.startswith("add element") for line in lines) == count
