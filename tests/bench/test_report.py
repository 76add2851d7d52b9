"""What is shown of a run: medians, ratios, targets. Arithmetic on invented samples."""

from dataclasses import replace

import pytest

from bench import report
from bench.clusters import Size
from bench.results import (
    BASELINE,
    CONTROL,
    NETPLANE,
    AgentRun,
    Changes,
    ColdLoads,
    Flaps,
    Kills,
    Results,
    Stages,
    target,
)
from bench.tables import tables
from bench.ways import IPTABLES, LEGACY, NFTABLES

BIG = Size(10_000, 10)


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


@pytest.mark.parametrize(
    ("of", "to", "expected"), [(6.0, 120.0, "< 0.05 x"), (6.1, 120.0, "< 0.06 x"), (0.5, 120.0, "< 0.0042 x")]
)
def test_a_ratio_to_what_was_stopped_is_a_bound_and_never_too_small(of, to, expected):
    assert report.below(of, to) == expected


def sample_cold():
    small, large = Size(10_000, 2), Size(20_000, 2)
    fast, slow = Stages(0.4, 0.3, 0.2, 0.1), Stages(9.0, 9.0, 9.0, 9.0)
    nft, ipt, old = map(str, (NFTABLES, IPTABLES, LEGACY))
    return [
        ColdLoads(nft, small, [fast, slow, fast], [12.0]),
        ColdLoads(ipt, small, [fast], [], stopped=120.0),
        ColdLoads(old, small, [fast], [0.8]),
        ColdLoads(nft, large, [Stages(0.8, 0.6, 0.4, 0.2)], [48.0]),
        ColdLoads(ipt, large, [Stages(1.0, 1.0, 1.0, 3.0)], [], stopped=120.0),
        ColdLoads(old, large, [Stages(0.8, 0.6, 0.4, 0.2)], [1.7]),
        ColdLoads(nft, BIG, [Stages(1.0, 1.0, 1.0, 1.0)], []),
    ]


def sample_results():
    one = {"replaced": [0.001], "removed": [0.003], "added": [0.002], "new count": [0.03], "old count": [0.01]}
    changes = Changes(one, {"replaced": [0.1], "removed": [0.2], "added": [0.3]}, [0.1], [0.7])
    agent = AgentRun(5.0, 150.0, 151.0, 180.0, {kind: [each[0] * 2] for kind, each in one.items()})
    agent.flaps = Flaps(changes=1000, seconds=10.0, lag=0.2, itself=1.5, programs=3.5, rounds=40)
    packets = {}
    for way, slow in ((NFTABLES, 1), (IPTABLES, 7)):
        packets |= {
            target(way, NETPLANE, 1): [[30e-6] * 3, [32e-6] * 3],
            target(way, NETPLANE, 10_000): [[30e-6, 31e-6, 99e-6], [30e-6] * 3],
            target(way, CONTROL, 1): [[30e-6] * 3, [32e-6] * 3],
            target(way, BASELINE, 1): [[30e-6] * 3, [30e-6] * 3],
            target(way, BASELINE, 10_000): [[30e-6 * slow] * 3, [30e-6 * slow] * 3],
        }
    kills = {str(IPTABLES): Kills(kills=100, starting=40, working=30, changes=9, served=500, established=50)}
    both = {str(way): agent for way in (NFTABLES, IPTABLES)}
    same = {str(way): changes for way in (NFTABLES, IPTABLES)}
    return Results({"kernel": "6.x"}, BIG, sample_cold(), same, both, packets, kills)


def table_of(title, results):
    return next(each for each in tables(results) if each.title.startswith(title))


def rows_of(title, results, way=""):
    table = table_of(title, results)
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    return {row[table.columns[0]]: row for row in rows if not way or row["backend"] == str(way)}


def test_a_cold_load_is_the_median_of_its_runs_next_to_the_baseline_and_the_target():
    rows = rows_of("Cold load", sample_results(), NFTABLES)
    assert rows["10k x 2"]["all in"] == "1.00 s"
    assert rows["10k x 2"]["netplane / baseline"] == "0.083 x"
    assert rows["20k x 2"]["target"] == "all in <= 3.00 s: reached; kernel <= 1.00 s: reached"
    assert rows["10k x 10"]["baseline"] == rows["10k x 10"]["target"] == ""


def test_a_baseline_that_was_stopped_is_a_bound_and_counts_for_the_target():
    row = rows_of("Cold load", sample_results(), IPTABLES)["20k x 2"]
    assert (row["baseline"], row["netplane / baseline"]) == ("> 120 s", "< 0.05 x")
    assert row["target"] == "all in <= 15.00 s: reached; <= 0.7 x: reached"


def test_a_missed_target_is_called_missed():
    results = sample_results()
    assert rows_of("Cold load", results, LEGACY)["20k x 2"]["target"].endswith("<= 0.7 x: missed")
    results.cold[3].netplane = [Stages(0.8, 0.6, 0.5, 1.2)]
    assert rows_of("Cold load", results, NFTABLES)["20k x 2"]["target"].endswith("kernel <= 1.00 s: missed")
    assert rows_of("More Services", results, NFTABLES)["10k x 2 -> 20k x 2"]["target"] == "<= 2.2 x: missed"


def test_doubling_is_compared_only_where_the_endpoints_are_as_many():
    rows = rows_of("More Services", sample_results(), NFTABLES)
    assert list(rows) == ["10k x 2 -> 20k x 2"]
    assert rows["10k x 2 -> 20k x 2"] | {"netplane": "2.00 x", "baseline": "4.0 x"} == rows["10k x 2 -> 20k x 2"]
    assert rows_of("More Services", sample_results(), IPTABLES)["10k x 2 -> 20k x 2"]["baseline"] == ""


def test_one_change_is_the_three_kinds_together_and_not_a_new_count():
    rows = rows_of("One change, nftables", sample_results())
    every = rows["any of these three (3 and 3 times)"]
    assert every["in process p50 / p99"] == "2.0 ms / 3.0 ms"
    assert every["end to end p50 / p99 / max"] == "4.0 ms / 6.0 ms / 6.0 ms"
    assert every["netplane / baseline p50"] == "0.010 x"
    assert every["target"] == "end to end p50 <= 5.0 ms: reached; end to end p99 <= 20.0 ms: reached"
    assert rows["to a count no other has (1 and 1 times)"]["baseline p50 / p99"] == ""


def test_each_way_has_targets_of_its_own():
    rows = rows_of("One change, iptables (nf_tables)", sample_results())
    every = rows["any of these three (3 and 3 times)"]
    assert every["target"] == "in process p50 <= 0.30 s: reached; end to end p50 <= 0.30 s: reached"


def test_the_most_memory_of_any_agent_is_what_its_target_is_about():
    results = sample_results()
    results.agents[str(IPTABLES)] = replace(results.agents[str(IPTABLES)], peak_mib=251.0)
    assert rows_of("The agent", results)["most memory ever (VmHWM)"]["target"] == "<= 250 MiB: missed"


def test_processor_time_is_that_of_the_agent_and_of_what_it_starts():
    row = rows_of("100 endpoint changes", sample_results())[str(IPTABLES)]
    assert (row["of one processor"], row["changes in a round"]) == ("50 %", "25.0")


def test_connections_are_compared_round_by_round():
    table = table_of("First packet", sample_results())
    rows = {row[:2]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    mine, theirs = rows[str(NFTABLES), NETPLANE], rows[str(IPTABLES), BASELINE]
    assert mine["last of 10000 / only one"] == "0.985 x"  # 31/30 and 30/32
    assert mine["in single rounds"] == "0.938 to 1.033"
    assert theirs["last of 10000 / only one"] == "7.000 x"
    assert rows[str(IPTABLES), NETPLANE]["target"] == "<= 1.3 x: reached"
    assert rows[str(NFTABLES), CONTROL]["target"] == "(this is the noise)"


def test_one_failed_connection_misses_the_target():
    results = sample_results()
    assert rows_of("kill -9", results)[str(IPTABLES)]["target"].endswith(": reached")
    results.kills[str(IPTABLES)].failed = 1
    assert rows_of("kill -9", results)[str(IPTABLES)]["target"].endswith(": missed")


def test_what_was_not_measured_has_no_table():
    assert tables(Results({}, BIG)) == []
    only = Results({}, BIG, agents=sample_results().agents)
    every = rows_of("One change, nftables", only)["any of these three (0 and 3 times)"]
    assert every["in process p50 / p99"] == every["baseline p50 / p99"] == ""


def test_tables_are_aligned_markdown():
    table = report.Table("T", ("a", "bb"), (("ccc", "d"),))
    assert report.rendered(table) == "**T**\n\n| a   | bb |\n|-----|----|\n| ccc | d  |"
