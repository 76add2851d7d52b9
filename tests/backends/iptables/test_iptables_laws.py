"""What holds for every cluster and every series of changes: cost follows the change, and leaves no trace."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from builders import service, slices, snapshot, up
from generated.churn import changed, cluster
from generated.clusters import POD_RANGES, World

from netplane.backends.backend import Compiled
from netplane.backends.iptables import IPTABLES
from netplane.model.snapshot import Snapshot
from netplane.model.table import changes, derived
from netplane.plan.node import plan_node
from netplane.plan.settings import PodRange, Settings
from netplane.programs.program import Program


def compiled(snapshot: Snapshot, settings: Settings, since: Compiled | None = None) -> Compiled:
    plan = plan_node(snapshot, "n1", settings, since.plan if since else None)
    return IPTABLES.compile(plan, since)


def same(one: Program, other: Program) -> bool:
    """Also what is only memory."""
    return one == other and dict(one.iptables.sources) == dict(other.iptables.sources)


@pytest.mark.parametrize("seed", range(16))
def test_what_is_derived_step_by_step_is_what_is_derived_from_scratch(seed):
    world, now = World(seed), None
    for _ in range(30):
        world.change()
        now = compiled(world.snapshot, world.settings, now)
        fresh = compiled(world.snapshot, world.settings)
        assert same(now.program, fresh.program)
        assert IPTABLES.text(now.program) == IPTABLES.text(fresh.program)


@pytest.mark.parametrize("seed", range(8))
def test_small_changes_of_a_larger_cluster_leave_no_trace(seed):
    random, snapshot, now = Random(seed), cluster(seed), None
    settings = Settings(local=PodRange(POD_RANGES["n1"]))
    for _ in range(60):
        snapshot, said = changed(random, snapshot)
        now = compiled(snapshot, settings, now)
        assert same(now.program, compiled(snapshot, settings).program), said


@pytest.mark.parametrize("seed", range(8))
def test_the_order_in_which_objects_are_known_leaves_no_trace(seed):
    random, world = Random(seed), World(seed)
    services, slices = (sorted(each.items()) for each in (world.snapshot.services, world.snapshot.slices))
    random.shuffle(services)
    random.shuffle(slices)
    other = replace(
        world.snapshot,
        services=dict(services),
        slices={of: tuple(random.sample(each, len(each))) for of, each in slices},
    )
    texts = {IPTABLES.text(compiled(each, world.settings).program) for each in (world.snapshot, other)}
    assert len(texts) == 1


@pytest.mark.parametrize("seed", range(8))
def test_other_settings_and_other_nodes_leave_no_trace(seed):
    world = World(seed)
    before = compiled(world.snapshot, world.settings)
    for settings in (replace(world.settings, drop_invalid=not world.settings.drop_invalid), Settings(PodRange())):
        assert same(
            compiled(world.snapshot, settings, before).program,
            compiled(world.snapshot, settings).program,
        )
    plan = plan_node(world.snapshot, "n2", world.settings)
    assert same(IPTABLES.compile(plan, before).program, IPTABLES.compile(plan).program)


@pytest.mark.parametrize("seed", range(8))
def test_what_did_not_change_is_the_same_object(seed):
    world = World(seed)
    before = compiled(world.snapshot, world.settings)
    again = IPTABLES.compile(before.plan, before)
    for key, frame in before.program.iptables.frames.items():
        assert again.program.iptables.frames[key] is frame
        trees = zip(again.program.iptables.trees[key], before.program.iptables.trees[key], strict=True)
        assert all(one is other for one, other in trees)
    for of, part in before.program.iptables.parts.items():
        assert again.program.iptables.parts[of] is part


@pytest.mark.parametrize("seed", range(16))
def test_no_two_chains_of_a_table_have_one_name(seed):
    program = compiled(World(seed).snapshot, World(seed).settings).program.iptables
    for key, frame in program.frames.items():
        names = [name for tree in program.trees[key] for name, _ in tree.chains()]
        names += [name for part in program.parts.values() for name in part.chains().get(key, {})]
        names += frame.chains
        assert len(names) == len({*names})


def test_an_endpoint_more_changes_one_service_and_no_tree():
    many = [service(f"s{index}", ips=(f"10.96.0.{index + 1}",)) for index in range(60)]
    listed = [slices(each, up("10.244.1.5", "n1"), up("10.244.2.6", "n2")) for each in many]
    before = snapshot(*many, *listed)
    more = {many[7].id: tuple(slices(many[7], up("10.244.1.5", "n1"), up("10.244.1.7", "n1"), up("10.244.2.6", "n2")))}
    after = replace(before, slices=derived(before.slices, more))
    old = compiled(before, Settings())
    new = compiled(after, Settings(), old)
    assert new.program.iptables.trees == old.program.iptables.trees
    for key, trees in old.program.iptables.trees.items():
        assert all(one is other for one, other in zip(new.program.iptables.trees[key], trees, strict=True))
    assert changes(old.program.iptables.parts, new.program.iptables.parts) == ([many[7].id], [])
