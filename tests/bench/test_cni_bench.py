"""Attaching containers is measured as a runtime does it, and said as it was."""

import json
import os
from pathlib import Path

import pytest

from bench import report
from bench.cni_exec import Block, Ran, Runner, Stage
from bench.cni_results import AT_ONCE, Attached, AttachRun, case
from bench.cni_sides import PLAIN, PORTS, Pods, Reference, links, missing, wait_for_links
from bench.cni_tables import attach_tables
from bench.ways import private_lock
from netplane.kernel.netns import Namespace

CAT, FALSE, ENV = Path("/bin/cat"), Path("/bin/false"), Path("/usr/bin/env")
has_reference = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture
def runner(tmp_path):
    with Namespace() as namespace:
        yield Runner(tmp_path, namespace)


# --- the program that runs plugins ---


def test_a_chained_plugin_reads_what_the_one_before_wrote(runner):
    stages = [
        Stage(CAT, {}, {"a": 1}),
        Stage(CAT, {}, {"b": [2]}, chained=True),
        Stage(CAT, {}, {"c": 3}, chained=True),
    ]
    (ran,) = runner.run([stages]).ran
    assert json.loads(ran.output) == {"c": 3, "prevResult": {"b": [2], "prevResult": {"a": 1}}}


def test_the_next_plugin_of_a_removal_reads_its_own_configuration_only(runner):
    (ran,) = runner.run([[Stage(CAT, {}, {"a": 1}), Stage(CAT, {}, {"b": 2})]]).ran
    assert json.loads(ran.output) == {"b": 2}


def test_every_operation_has_its_own_environment_and_nothing_of_ours_but_the_path(runner):
    block = runner.run([[Stage(ENV, {"CNI_COMMAND": str(number)}, {})] for number in range(40)], workers=8)
    assert [each.output.decode().splitlines()[0] for each in block.ran] == [f"CNI_COMMAND={n}" for n in range(40)]
    assert "HOME=" not in block.ran[0].output.decode()
    assert max(each.seconds for each in block.ran) <= block.seconds <= sum(each.seconds for each in block.ran)


def test_a_refusal_ends_the_measurement_with_what_the_plugin_said(runner):
    with pytest.raises(RuntimeError, match="exited with 1"):
        runner.run([[Stage(FALSE, {}, {}), Stage(CAT, {}, {"never": "started"}, chained=True)]])


def test_processor_time_and_size_are_those_of_what_was_started(runner):
    script = {"CNI_COMMAND": "x"}
    (cheap,) = runner.run([[Stage(CAT, script, {})]]).ran
    assert 0 <= cheap.cpu < cheap.seconds * (os.cpu_count() or 1)
    assert 0.1 < cheap.mib < 6  # what it would have to be more than to be a Python


# --- the reference plugins ---


@pytest.mark.lab
@has_reference
@pytest.mark.parametrize("way", [PLAIN, PORTS], ids=lambda way: way.name)
def test_the_reference_plugins_attach_and_leave_nothing_but_the_bridge(tmp_path, way):
    with private_lock(), Reference(tmp_path) as reference, Pods() as pods:
        made = pods.make(3)
        before = links(reference)
        added = reference.runner.run([reference.add(way, pod) for pod in made], workers=3).ran
        results = [json.loads(each.output) for each in added]
        assert len({each["ips"][0]["address"] for each in results}) == 3
        assert links(reference) == before + 1 + 3
        operations = [reference.delete(way, pod, each.output) for pod, each in zip(made, added, strict=True)]
        reference.runner.run(operations, workers=3)
        wait_for_links(reference, before + 1)
        left = sorted(each.name for each in (tmp_path / "networks" / "pods").iterdir())
        assert left == ["last_reserved_ip.0", "lock"]


# --- the tables ---


def block(*milliseconds, cpu=0.001, mib=1.0, seconds=1.0):
    return Block(seconds, tuple(Ran(each / 1e3, cpu, mib, 0, b"") for each in milliseconds))


def attached(*milliseconds, seconds=1.0, mib=1.0):
    made = Attached()
    made.add.note(block(*milliseconds, seconds=seconds, mib=mib), 0.0)
    made.delete.note(block(*milliseconds), 0.002)
    made.gone.append(0.02)
    return made


def run_of(netplane, reference):
    ways = (case(PLAIN.name, 1), case(PLAIN.name, AT_ONCE), case(PORTS.name, 1))
    return AttachRun(dict.fromkeys(ways, (netplane, reference)), ([0.0001], [0.002]), 0.1, 6040, 2**21, 1000, 30, 90)


def rows(run):
    return {row[0]: row[1:] for table in attach_tables(run) for row in table.rows}


def test_targets_are_said_to_be_reached_or_missed():
    fast, slow = attached(1, 1, 1, seconds=0.1), attached(10, 10, 10, seconds=1.0)
    made = rows(run_of(fast, slow))
    assert made["ADD: bridge, one at a time"][2:] == ("0.10 x", "0.10 x to 0.10 x", "0.10 x", "<= 0.15 x: reached")
    assert made["ADD, throughput: bridge, 8 at once"][-1] == ">= 6 x: reached"
    assert made["DEL acknowledged: bridge, 8 at once"][-1] == "<= 0.1 x: reached"
    assert made["executable"][-1] == "<= 100 KiB: reached"
    assert made["agent with 1000 containers"][-1] == "<= 120.0 MiB: reached"
    slow_made = rows(run_of(slow, fast))
    assert slow_made["ADD: bridge, one at a time"][-1] == "<= 0.15 x: missed"
    assert slow_made["ADD, throughput: bridge, 8 at once"][-1] == ">= 6 x: missed"


def test_a_python_among_what_is_started_would_be_seen():
    made = rows(run_of(attached(1, mib=9.0), attached(10)))
    assert made["largest process started"] == ("9.0 MiB", "1.0 MiB", "no Python (< 6.0 MiB): missed")


def test_what_serves_counts_as_processor_time():
    found = attached(1, 1)
    assert found.delete.cpu == [pytest.approx(0.001 + 0.002 / 2)]


def test_memory_of_fewer_containers_is_not_held_against_the_target():
    run = run_of(attached(1), attached(10))
    run.many = 200
    assert rows(run)["agent with 200 containers"] == ("90.0 MiB", "", "")


def test_tables_can_be_shown():
    made = attach_tables(run_of(attached(1), attached(10)))
    assert all(report.rendered(table).startswith(f"**{table.title}**") for table in made)
