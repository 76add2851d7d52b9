"""The Pod network is measured as it says: packets through every side, the same peers for both, honest arithmetic."""

import pytest

from bench import report
from bench.network_netplane import OWN
from bench.network_packets import exchanged
from bench.network_peers import batch_cold, changes, memory, netplane_cold, node_of, nodes_of
from bench.network_results import (
    BGP,
    HAND_MADE,
    HAND_MADE_MASQUERADE,
    HOST_GW,
    HOST_GW_BARE,
    PLAIN,
    PLAIN_AGAIN,
    PLAIN_MASQUERADE,
    SIDES,
    VXLAN,
    VXLAN_BARE,
    VXLAN_DIRECT,
    WIREGUARD,
    NetworkAmount,
    NetworkRun,
    Packets,
    PeerRun,
    Stages,
)
from bench.network_sides import OTHERS, side
from bench.network_tables import network_tables
from netplane.kernel.command import find
from netplane.plan.network_settings import Mode

LITTLE = NetworkAmount(rounds=2, stream_seconds=0.01, trips=3, peers=4, cold=1, changes=2, kept=10)
SAME = ([4.0, 5.0, 4.0], [10, 12, 10])
"""Streams and round trips of three rounds."""
NEEDS = {BGP: "bird", WIREGUARD: "wireguard-go"}


def test_every_side_has_somebody_who_makes_it():
    assert set(SIDES) == OTHERS.keys() | OWN.keys()


@pytest.mark.lab
@pytest.mark.parametrize("name", SIDES)
def test_packets_go_from_pod_to_pod(name, tmp_path):
    if name in NEEDS and not find(NEEDS[name]):
        pytest.skip(f"{NEEDS[name]} is not installed")
    with side(*(OTHERS | OWN)[name], tmp_path) as made:
        found = exchanged({name: made}, LITTLE)[name]
    assert len(found.streams) == len(found.work) == len(found.trips) == 2
    assert all(each > 0 for each in (*found.streams, *found.work, *found.trips))


# --- many peers ---


def test_no_peer_ever_has_the_range_of_another():
    ranges = [node_of(number, turn).pod_ranges[0] for number in range(501) for turn in (0, 1, 63)]
    assert len(set(ranges)) == len(ranges)
    assert node_of(3, 1) != node_of(3, 2)


@pytest.mark.kernel
@pytest.mark.parametrize("mode", [Mode.VXLAN, Mode.HOST_GW], ids=lambda mode: mode.value)
def test_peers_are_learnt_and_changed_by_both(mode):
    stages = netplane_cold(mode, 5)
    assert stages.total == stages.facts + stages.plan + stages.compile + stages.kernel > 0
    assert batch_cold(mode, 5) > 0
    ours, theirs = changes(mode, 5, 3)
    assert len(ours) == len(theirs) == 3
    assert len(memory(mode, 5, 20)) == 10
    assert len(nodes_of(5)) == 6


# --- the tables ---


def packets(streams, trips):
    return Packets([each * 1e9 for each in streams], [each * 1e9 for each in streams], [each / 1e6 for each in trips])


def run(host_gw, vxlan):
    made = NetworkRun(500, 1000, missing={WIREGUARD: "not installed: wireguard-go"})
    for name in (PLAIN, PLAIN_AGAIN, PLAIN_MASQUERADE, HAND_MADE, HAND_MADE_MASQUERADE):
        made.packets[name] = packets(*SAME)
    made.packets[HOST_GW], made.packets[VXLAN] = packets(*host_gw), packets(*vxlan)
    made.peer_runs = [
        PeerRun("vxlan", [Stages(0.1, 0.2, 0.3, 0.2)] * 3, [0.4] * 3, [0.004] * 9 + [0.1], [0.008], [30.0, 30.5])
    ]
    return made


def rows(made, title):
    table = next(each for each in network_tables(made) if each.title.startswith(title))
    return {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}


def test_a_side_is_compared_round_by_round_with_the_same_by_hand():
    slow = ([2.0, 2.5, 2.0], [20, 24, 20])
    streams = rows(run(SAME, slow), "Pod to Pod across two nodes: throughput")
    assert streams[HOST_GW]["target"] == ">= 0.99 x: reached"
    assert streams[VXLAN]["/ the same by hand"] == "0.500 x"
    assert streams[VXLAN]["target"] == ">= 0.97 x: missed"
    assert streams[PLAIN_AGAIN]["target"] == "(this is the noise)"
    trips = rows(run(SAME, slow), "Pod to Pod across two nodes: latency")
    assert trips[HOST_GW]["target"] == "<= 1.01 x: reached"
    assert trips[VXLAN]["/ the same by hand"] == "2.000 x"
    assert trips[VXLAN]["target"] == "<= 1.03 x: missed"


def test_every_side_of_ours_is_held_against_what_does_as_much():
    made = run(SAME, SAME)
    made.packets[PLAIN_MASQUERADE] = made.packets[HAND_MADE_MASQUERADE] = packets([1.0, 1.0, 1.0], [40, 40, 40])
    made.packets |= {name: packets(*SAME) for name in (HOST_GW_BARE, VXLAN_BARE, VXLAN_DIRECT)}
    trips = rows(made, "Pod to Pod across two nodes: latency")
    bare, tracked = (HOST_GW_BARE, VXLAN_BARE), (HOST_GW, VXLAN, VXLAN_DIRECT)
    assert {trips[name]["/ the same by hand"] for name in bare} == {"1.000 x"}
    assert {trips[name]["/ the same by hand"] for name in tracked} == {"0.250 x"}


def test_what_could_not_be_measured_says_why():
    made = rows(run(SAME, SAME), "Pod to Pod across two nodes: throughput")
    assert made[WIREGUARD]["TCP, one stream"] == "not installed: wireguard-go"


def test_many_peers_have_targets_for_all_at_once_and_for_one():
    (row,) = rows(run(SAME, SAME), "500 peers").values()
    assert row["netplane / batch"] == "2.00 x"
    assert row["one changed p50 / p99"] == "4.0 ms / 0.10 s"
    assert row["target"] == "all in <= 1.00 s: reached; one changed p50 <= 10.0 ms: reached"


def test_memory_that_grows_is_called_missed():
    made = run(SAME, SAME)
    assert rows(made, "Memory")["vxlan, 500 peers"]["target"] == "<= 1.0 MiB: reached"
    made.peer_runs[0].memory[-1] = 35.0
    assert rows(made, "Memory")["vxlan, 500 peers"]["target"] == "<= 1.0 MiB: missed"


def test_tables_can_be_shown():
    made = network_tables(run(SAME, SAME))
    assert all(report.rendered(table).startswith(f"**{table.title}**") for table in made)
