"""The benchmark measures what it says: the same cluster for both sides, rulesets that work, honest arithmetic."""

import json
import socket
import subprocess
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from bench import clusters, kube_proxy_nft, report
from bench.agent import AgentRun, run_agent
from bench.clusters import SERVICE_PORT, Churn, Kind, Size, cluster_ip, endpoints
from bench.measure import (
    BASELINE_LAST,
    BASELINE_ONLY,
    CONTROL,
    LAST,
    ONLY,
    Amount,
    Changes,
    ColdLoads,
    Load,
    Results,
    Stages,
    baseline_cold,
    measure,
    netplane_cold,
)
from bench.nodes import Baseline, Netplane, Node
from bench.observe import Notifications
from bench.packets import Target, connect_times
from netplane.kernel.netns import Namespace
from netplane.sources.manifests import load

SMALL = Size(5, 4)


# --- clusters ---


def test_manifests_decode_to_the_snapshot_that_is_called_decoded_already(tmp_path):
    clusters.write_manifests(SMALL, tmp_path)
    loaded = load(tmp_path)
    assert loaded.problems == ()
    assert loaded.snapshot == clusters.snapshot(SMALL)


def test_no_two_services_share_an_endpoint():
    size = Size(300, 7)
    listed = [address for index in range(size.services) for address in endpoints(index, size)]
    assert len(set(listed)) == 300 * 7
    assert all(address in clusters.POD_RANGE for address in listed)


def test_one_endpoint_in_fifty_is_on_our_node():
    size = Size(100, 10)
    here = [address for index in range(100) for address in endpoints(index, size) if clusters.node_of(address) == "n1"]
    assert len(here) == 20


def test_every_change_says_exactly_what_came_and_went():
    churn, now = Churn(SMALL), {index: endpoints(index, SMALL) for index in range(SMALL.services)}
    for change in [*churn.neighbours(), *churn.rounds(20), *churn.resized(5)]:
        assert set(change.addresses) - set(now[change.index]) == set(change.came)
        assert set(now[change.index]) - set(change.addresses) == set(change.went)
        assert len(change.addresses) == len(set(change.addresses)) > 0
        now[change.index] = change.addresses


def test_a_new_address_never_was_before():
    churn = Churn(SMALL)
    came = [address for change in [*churn.neighbours(), *churn.rounds(50)] for address in change.came]
    assert len(came) == len(set(came))
    assert not {each for index in range(SMALL.services) for each in endpoints(index, SMALL)} & set(came)


def test_in_measured_rounds_every_count_is_one_that_some_service_keeps():
    churn = Churn(SMALL)
    kept = {len(change.addresses) for change in churn.neighbours()} | {SMALL.endpoints}
    changes = list(churn.rounds(20))
    assert {len(change.addresses) for change in changes} < kept
    assert [change.kind for change in changes[:3]] == [Kind.REPLACED, Kind.REMOVED, Kind.ADDED]


def test_resizing_goes_to_a_count_no_service_has_and_back():
    churn = Churn(SMALL)
    kept = {len(change.addresses) for change in churn.neighbours()} | {SMALL.endpoints}
    there, back = churn.resized(1)
    assert len(there.addresses) not in kept
    assert len(back.addresses) == SMALL.endpoints


def test_the_same_seed_gives_the_same_changes():
    assert list(Churn(SMALL, seed=3).rounds(9)) == list(Churn(SMALL, seed=3).rounds(9))


# --- the baseline ---


def test_the_baseline_has_a_chain_with_a_map_of_its_own_for_every_service():
    script = kube_proxy_nft.ruleset(SMALL)
    for index in range(SMALL.services):
        chain = kube_proxy_nft.chain_name(index)
        rules = [line for line in script.splitlines() if line.startswith(f"add rule ip kube-proxy {chain} ")]
        assert len(rules) == 1
        assert f"numgen random mod {SMALL.endpoints} map {{ 0 : {endpoints(index, SMALL)[0]} . 8080" in rules[0]


@pytest.mark.kernel
def test_the_kernel_takes_the_baseline_and_what_follows_a_change():
    churn = Churn(SMALL)
    with Namespace() as namespace:
        baseline = Baseline(namespace)
        assert baseline.load(SMALL) > 0
        for change in [*churn.neighbours(), *churn.rounds(5), *churn.resized(2)]:
            assert baseline.change(change) > 0
        listed = namespace.run(lambda: subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True))
    last = change.addresses
    shown = next(line for line in listed.stdout.splitlines() if f"{last[0]} . 8080" in line)
    assert listed.stdout.count("numgen random") == SMALL.services
    assert f"mod {len(last)} map" in shown
    assert all(f"{each} . 8080" in listed.stdout for each in last)


# --- nodes ---


def reached(node, index, times=40):
    """Endpoints that connections from the Pod to a Service arrive at."""
    connect_times({"": Target(node, index)}, 1)
    found = set()
    for _ in range(times):
        with node.pod.run(connect_to(index)):
            accepted = node.listening.accept()[0]
            found.add(IPv4Address(accepted.getsockname()[0]))
            accepted.close()
    return found


def connect_to(index):
    return lambda: socket.create_connection((str(cluster_ip(index)), SERVICE_PORT), timeout=5)


def loaded_netplane(node):
    made = Netplane(node.node)
    made.load(clusters.snapshot(SMALL))
    return made


def loaded_baseline(node):
    made = Baseline(node.node)
    made.load(SMALL)
    return made


@pytest.mark.lab
@pytest.mark.parametrize("load_it", [loaded_netplane, loaded_baseline])
def test_a_pod_reaches_the_endpoints_of_the_last_service_and_after_a_change_only_the_new_ones(load_it):
    last = SMALL.services - 1
    with Node() as node:
        made = load_it(node)
        try:
            assert reached(node, last) <= set(endpoints(last, SMALL))
            change = next(each for each in Churn(SMALL).resized(50) if each.index == last)
            made.change(change)
            assert reached(node, last) == set(change.addresses)
        finally:
            if isinstance(made, Netplane):
                made.close()


@pytest.mark.lab
def test_connection_times_come_for_every_target_in_the_number_asked_for():
    with Node() as node:
        loaded_baseline(node)
        times = connect_times({"first": Target(node, 0), "last": Target(node, SMALL.services - 1)}, 60)
    assert {name: len(each) for name, each in times.items()} == {"first": 100, "last": 100}
    assert all(0 < each < 5 for samples in times.values() for each in samples)


@pytest.mark.kernel
def test_notifications_show_when_endpoints_come_and_go():
    first, second = Churn(SMALL).neighbours()
    with Namespace() as namespace:
        netplane = Netplane(namespace)
        try:
            netplane.load(clusters.snapshot(SMALL))
            with Notifications(namespace) as seen:
                netplane.change(first)
                netplane.change(second)
                assert seen.wait(second.came, first.went, 5) > 0
                seen.drain()
                with pytest.raises(TimeoutError):
                    seen.wait(second.came, (), 0.05)
        finally:
            netplane.close()


@pytest.mark.kernel
def test_comparing_everything_finds_what_a_change_left_as_it_should_be():
    with Namespace() as namespace:
        netplane = Netplane(namespace)
        try:
            netplane.load(clusters.snapshot(SMALL))
            for change in Churn(SMALL).rounds(3):
                netplane.change(change)
            with Notifications(namespace) as seen:
                assert netplane.compare(disturbed=True) > 0
                with pytest.raises(TimeoutError):
                    seen.wait(change.came, (), 0.05)
        finally:
            netplane.close()


@pytest.mark.kernel
def test_cold_loads_time_every_stage():
    stages = netplane_cold(SMALL)
    assert min(stages.plan, stages.compile, stages.diff, stages.kernel) > 0
    assert stages.total == pytest.approx(stages.plan + stages.compile + stages.diff + stages.kernel)
    assert baseline_cold(SMALL) > 0


@pytest.mark.lab
def test_the_agent_is_measured_change_by_change_and_ends():
    found = run_agent(SMALL, rounds=2, resized=1)
    counts = {kind: len(samples) for kind, samples in found.changes.items()}
    assert counts == {"replaced": 2, "removed": 2, "added": 2, "new count": 1, "old count": 1}
    assert 0 < found.started_mib <= found.peak_mib
    assert found.start_seconds > 0


@pytest.mark.lab
def test_the_agent_is_changed_for_as_long_as_was_asked():
    found = run_agent(SMALL, rounds=0, resized=0, seconds=0.5)
    assert len(found.changes["replaced"]) == len(found.changes["added"]) > 0


@pytest.mark.lab
def test_a_whole_run_makes_every_table():
    amount = Amount(
        (Load(SMALL, 1, 0),), SMALL, 1, 1, 1, comparisons=1, packet_rounds=2, packet_samples=10, agent_seconds=0
    )
    said = []
    results = measure(amount, said.append)
    assert said[0] == "cold load 5 x 4"
    assert len(results.cold[0].baseline) == 1  # loading the big node counts
    text = report.text(results)
    assert all(f"**{table.title}**" in text for table in report.tables(results))
    assert json.loads(report.as_json(results))["samples"]["cold"][0]["netplane"]


# --- arithmetic ---


@pytest.mark.parametrize(
    ("samples", "percent", "expected"),
    [
        ([5.0], 50, 5.0),
        ([3.0, 1.0, 2.0, 4.0], 50, 2.0),
        ([float(each) for each in range(1, 101)], 99, 99.0),
        ([float(each) for each in range(1, 201)], 99, 198.0),
        ([1.0, 2.0], 99, 2.0),
    ],
)
def test_a_percentile_is_a_sample_that_so_many_are_not_above(samples, percent, expected):
    assert report.percentile(samples, percent) == expected


@pytest.mark.parametrize(
    ("of", "to", "expected"), [(50.0, 2.0, "25 x"), (10.0, 2.0, "5.0 x"), (2.1, 2.0, "1.05 x"), (1.0, 2.0, "0.50 x")]
)
def test_ratios_keep_the_digits_that_matter(of, to, expected):
    assert report.ratio(of, to) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(2.314, "2.31 s"), (0.1, "0.10 s"), (0.0042, "4.2 ms"), (0.0000312, "31.2 us")]
)
def test_seconds_are_shown_in_a_unit_one_can_read(value, expected):
    assert report.seconds(value) == expected


def sample_results():
    big = Size(10_000, 10)
    small, large = (Size(10_000, 2), Size(20_000, 2))
    cold = [
        ColdLoads(small, [Stages(0.4, 0.3, 0.2, 0.1), Stages(9.0, 9.0, 9.0, 9.0), Stages(0.4, 0.3, 0.2, 0.1)], [12.0]),
        ColdLoads(large, [Stages(0.8, 0.6, 0.4, 0.2)], [48.0]),
        ColdLoads(big, [Stages(1.0, 1.0, 1.0, 1.0)], []),
    ]
    one = {"replaced": [0.001], "removed": [0.003], "added": [0.002], "new count": [0.03], "old count": [0.01]}
    changes = Changes(one, {"replaced": [0.1], "removed": [0.2], "added": [0.3]}, [0.1], [0.7])
    agent = AgentRun(5.0, 150.0, 151.0, 180.0, {kind: [each[0] * 2] for kind, each in one.items()})
    packets = {name: [[30e-6, 31e-6, 99e-6], [30e-6] * 3] for name in (LAST, CONTROL, BASELINE_LAST, BASELINE_ONLY)}
    return Results({"kernel": "6.x"}, big, cold, changes, agent, packets | {ONLY: [[30e-6] * 3, [32e-6] * 3]})


def rows_of(title, results):
    table = next(each for each in report.tables(results) if each.title.startswith(title))
    return {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}


def test_a_cold_load_is_the_median_of_its_runs_next_to_the_baseline_and_the_target():
    rows = rows_of("Cold load", sample_results())
    assert rows["10k x 2"]["all in"] == "1.00 s"
    assert rows["10k x 2"]["ratio"] == "12.0 x"
    assert rows["20k x 2"]["target"] == "all in <= 3.00 s: reached; kernel <= 1.00 s: reached"
    assert rows["10k x 10"]["baseline"] == rows["10k x 10"]["target"] == ""


def test_a_missed_target_is_called_missed():
    results = sample_results()
    results.cold[1].netplane = [Stages(0.8, 0.6, 0.5, 1.2)]
    assert rows_of("Cold load", results)["20k x 2"]["target"].endswith("kernel <= 1.00 s: missed")
    assert rows_of("More Services", results)["10k x 2 -> 20k x 2"]["target"] == "<= 2.2 x: missed"


def test_doubling_is_compared_only_where_the_endpoints_are_as_many():
    rows = rows_of("More Services", sample_results())
    assert list(rows) == ["10k x 2 -> 20k x 2"]
    assert rows["10k x 2 -> 20k x 2"] | {"netplane": "2.00 x", "baseline": "4.0 x"} == rows["10k x 2 -> 20k x 2"]


def test_one_change_is_the_three_kinds_together_and_not_a_new_count():
    rows = rows_of("One change", sample_results())
    every = rows["any of these three (3 and 3 times)"]
    assert every["in process p50 / p99"] == "2.0 ms / 3.0 ms"
    assert every["end to end p50 / p99 / max"] == "4.0 ms / 6.0 ms / 6.0 ms"
    assert every["ratio p50"] == "100 x"
    assert every["target"] == "end to end p50 <= 5.0 ms: reached, p99 <= 20.0 ms: reached"
    assert rows["to a count no other has (1 and 1 times)"]["baseline p50 / p99"] == ""


def test_the_agents_most_memory_is_what_its_target_is_about():
    results = sample_results()
    results.agent = replace(results.agent, peak_mib=251.0)
    assert rows_of("The agent", results)["most memory ever (VmHWM)"]["target"] == "<= 250 MiB: missed"


def test_connections_are_compared_round_by_round():
    rows = rows_of("First packet", sample_results())
    assert rows[CONTROL]["ratio"] == "0.985 x"  # 31/30 and 30/32
    assert rows[CONTROL]["in single rounds"] == "0.938 to 1.033"


def test_tables_are_aligned_markdown():
    table = report.Table("T", ("a", "bb"), (("ccc", "d"),))
    assert report.rendered(table) == "**T**\n\n| a   | bb |\n|-----|----|\n| ccc | d  |"
