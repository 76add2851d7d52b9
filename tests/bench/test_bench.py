"""The benchmark measures what it says: the same cluster for both sides, rulesets that work, honest arithmetic."""

import json
import socket
import subprocess
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from bench import clusters, kube_proxy_iptables, kube_proxy_nft, report
from bench.agent import run_agent
from bench.baselines import IptablesBaseline, NftBaseline, baseline
from bench.clusters import SERVICE_PORT, Churn, Kind, Size, cluster_ip, endpoints
from bench.cni_results import AttachAmount
from bench.cni_sides import missing
from bench.cni_tables import attach_tables
from bench.cold import baseline_cold, cold_loads, netplane_cold
from bench.kills import killed
from bench.measure import measure
from bench.network_results import NetworkAmount
from bench.network_tables import network_tables
from bench.nodes import Netplane, Node
from bench.observe import Notifications
from bench.packets import Target, connect_times
from bench.results import (
    PARTS,
    Amount,
    ColdLoads,
    Flaps,
    Load,
)
from bench.tables import tables
from bench.ways import IPTABLES, LEGACY, NFTABLES, WAYS, private_lock
from netplane.kernel.netns import Namespace
from netplane.sources.manifests import load

SMALL = Size(5, 4)
TINY = Amount(
    loads=(Load(SMALL, 1, 0),),
    big=SMALL,
    changes=1,
    resized=1,
    change_seconds=60.0,
    per_baseline=1,
    comparisons=1,
    counts=(1, 3, 5),
    packet_rounds=2,
    packet_samples=10,
    agent_seconds=0.0,
    flap_seconds=0.3,
    kills=2,
    attach=AttachAmount(blocks=2, versions=1, serial=1, parallel=9, ports=1, many=3),
    network=NetworkAmount(rounds=1, stream_seconds=0.02, trips=5, peers=3, cold=1, changes=2, kept=10),
)

every_way = pytest.mark.parametrize("way", WAYS, ids=str)
every_baseline = pytest.mark.parametrize("way", [NFTABLES, IPTABLES, LEGACY], ids=str)


@pytest.fixture(autouse=True)
def own_lock():
    with private_lock():
        yield


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
        made = NftBaseline(namespace)
        assert made.load(SMALL) > 0
        for change in [*churn.neighbours(), *churn.rounds(5), *churn.resized(2)]:
            assert made.change(change) > 0
        listed = namespace.run(lambda: subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True))
    last = change.addresses
    shown = next(line for line in listed.stdout.splitlines() if f"{last[0]} . 8080" in line)
    assert listed.stdout.count("numgen random") == SMALL.services
    assert f"mod {len(last)} map" in shown
    assert all(f"{each} . 8080" in listed.stdout for each in last)


def test_the_chains_of_the_iptables_baseline_have_the_names_kube_proxy_gives_them():
    names = {("ns4/svc4:p80", "10.180.0.4:80"): ("4SW47YFZTEDKD3PK", "UKSFD7AGPMPPLUHC")}
    for (port, endpoint), (service, separate) in names.items():
        assert kube_proxy_iptables.hashed(f"{port}tcp") == service
        assert kube_proxy_iptables.hashed(f"{port}tcp{endpoint}") == separate


def test_the_iptables_baseline_is_a_linear_list_and_rules_for_every_endpoint():
    lines = kube_proxy_iptables.ruleset(SMALL).splitlines()
    first = kube_proxy_iptables.service_chain(0)
    assert sum(line.startswith("-A KUBE-SERVICES ") for line in lines) == SMALL.services + 1
    chances = [line.split("--probability ")[-1].split()[0] for line in lines if line.startswith(f"-A {first} ")]
    assert chances[1:4] == ["0.2500000000", "0.3333333333", "0.5000000000"]
    for each in endpoints(0, SMALL):
        own = kube_proxy_iptables.endpoint_chain(0, each)
        assert f"-A {own} -m comment --comment bench/svc-0:http -s {each} -j KUBE-MARK-MASQ" in lines
        assert any(line.startswith(f"-A {own} ") and f"--to-destination {each}:8080" in line for line in lines)


def test_beyond_a_thousand_endpoints_rules_of_endpoints_have_no_comments():
    lines = kube_proxy_iptables.ruleset(Size(101, 10)).splitlines()
    assert not [line for line in lines if line.startswith("-A KUBE-SEP-") and "comment" in line]
    assert all("comment" in line for line in lines if line.startswith("-A KUBE-SERVICES "))


def test_a_partial_sync_writes_every_top_level_chain_and_one_service():
    change = next(Churn(SMALL).rounds(1))
    script = kube_proxy_iptables.change(
        SMALL, change.index, change.addresses, change.went, kube_proxy_iptables.dispatch(SMALL)
    )
    lines = script.splitlines()
    assert [line for line in lines if line.startswith(":KUBE-SVC-")] == [
        f":{kube_proxy_iptables.service_chain(change.index)} - [0:0]"
    ]
    assert sum(line.startswith("-A KUBE-SERVICES ") for line in lines) == SMALL.services + 1
    assert f"-X {kube_proxy_iptables.endpoint_chain(change.index, change.went[0])}" in lines


def saved(way, namespace):
    program = f"iptables-{'legacy' if way == LEGACY else 'nft'}-save"
    done = namespace.run(lambda: subprocess.run([program], capture_output=True, text=True, check=True))
    return sorted(line for line in done.stdout.splitlines() if line.startswith("-A"))


@pytest.mark.kernel
@pytest.mark.parametrize("way", [IPTABLES, LEGACY], ids=str)
def test_what_is_prepared_in_pieces_is_what_is_loaded_at_once(way):
    size = Size(600, 2)  # more than two pieces, and a large cluster
    with Namespace() as one, Namespace() as other:
        IptablesBaseline(one, way.variant).load(size)
        IptablesBaseline(other, way.variant).prepare(size)
        assert saved(way, one) == saved(way, other)


@pytest.mark.kernel
@pytest.mark.parametrize("way", [IPTABLES, LEGACY], ids=str)
def test_the_kernel_takes_the_iptables_baseline_and_what_follows_a_change(way):
    churn = Churn(SMALL)
    with Namespace() as namespace:
        made = IptablesBaseline(namespace, way.variant)
        assert made.load(SMALL) > 0
        for change in [*churn.neighbours(), *churn.rounds(5), *churn.resized(2)]:
            assert made.change(change) > 0
        rules = "\n".join(saved(way, namespace))
    assert all(f"--to-destination {each}:8080" in rules for each in change.addresses)
    assert rules.count("-j DNAT") == SMALL.services * SMALL.endpoints


@pytest.mark.kernel
def test_a_baseline_that_takes_too_long_is_stopped_and_not_tried_with_more(monkeypatch):
    before = [ColdLoads(str(NFTABLES), SMALL, stopped=120.0)]
    found = cold_loads(Load(SMALL, 0, 1), (NFTABLES,), before)
    assert found[0].baseline == []
    assert found[0].stopped == 120.0
    monkeypatch.setattr("bench.baselines.LIMIT_SECONDS", 0.0001)
    with Namespace() as namespace:
        assert IptablesBaseline(namespace, "nf_tables").load(SMALL) is None


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


@pytest.mark.lab
@every_way
def test_a_pod_reaches_the_endpoints_of_the_last_service_and_after_a_change_only_the_new_ones(way):
    with Node() as node, Netplane(way, node.node) as made:
        made.load(clusters.snapshot(SMALL))
        only_the_new_ones(node, made)


@pytest.mark.lab
@every_baseline
def test_the_baseline_leads_to_the_endpoints_and_after_a_change_only_to_the_new_ones(way):
    with Node() as node:
        made = baseline(way, node.node)
        made.prepare(SMALL)
        only_the_new_ones(node, made)


def only_the_new_ones(node, made):
    last = SMALL.services - 1
    assert reached(node, last) <= set(endpoints(last, SMALL))
    change = next(each for each in Churn(SMALL).resized(50) if each.index == last)
    made.change(change)
    assert reached(node, last) == set(change.addresses)


@pytest.mark.lab
def test_connection_times_come_for_every_target_in_the_number_asked_for():
    with Node() as node:
        NftBaseline(node.node).load(SMALL)
        times = connect_times({"first": Target(node, 0), "last": Target(node, SMALL.services - 1)}, 60)
    assert {name: len(each) for name, each in times.items()} == {"first": 100, "last": 100}
    assert all(0 < each < 5 for samples in times.values() for each in samples)


@pytest.mark.kernel
@pytest.mark.parametrize("way", [each for each in WAYS if each != LEGACY], ids=str)
def test_notifications_show_when_endpoints_come_and_go(way):
    first, second = Churn(SMALL).neighbours()
    with Namespace() as namespace, Netplane(way, namespace) as netplane:
        netplane.load(clusters.snapshot(SMALL))
        with Notifications(way, namespace) as seen:
            netplane.change(first)
            netplane.change(second)
            assert seen.wait(first, 5) > 0
            assert seen.wait(second, 5) > 0
            seen.drain()
            with pytest.raises(TimeoutError):
                seen.wait(second, 0.05)


@pytest.mark.kernel
@every_way
def test_comparing_everything_finds_what_a_change_left_as_it_should_be(way):
    with Namespace() as namespace, Netplane(way, namespace) as netplane:
        netplane.load(clusters.snapshot(SMALL))
        for change in Churn(SMALL).rounds(3):
            netplane.change(change)
        assert netplane.compare(disturbed=False) > 0
        assert netplane.compare(disturbed=True) > 0


@pytest.mark.kernel
@every_way
def test_cold_loads_time_every_stage(way):
    stages = netplane_cold(way, SMALL)
    assert min(stages.plan, stages.compile, stages.diff, stages.kernel) > 0
    assert stages.total == pytest.approx(stages.plan + stages.compile + stages.diff + stages.kernel)
    assert baseline_cold(way, SMALL) > 0


@pytest.mark.lab
@every_way
def test_the_agent_is_measured_change_by_change_and_while_endpoints_never_rest(way):
    found = run_agent(way, replace(TINY, changes=2))
    counts = {kind: len(samples) for kind, samples in found.changes.items()}
    assert counts == {"replaced": 2, "removed": 2, "added": 2, "new count": 1, "old count": 1}
    assert 0 < found.started_mib <= found.peak_mib
    assert found.start_seconds > 0
    assert found.flaps.changes == 30
    assert 0 < found.flaps.rounds <= 30
    assert found.flaps.itself > 0


@pytest.mark.lab
def test_the_agent_is_changed_for_as_long_as_was_asked():
    found = run_agent(NFTABLES, replace(TINY, flap_seconds=0.0, agent_seconds=1.5))
    assert len(found.changes["replaced"]) == len(found.changes["added"]) > 1
    assert found.flaps == Flaps()


@pytest.mark.lab
@every_way
def test_agents_are_killed_and_connections_notice_nothing(way):
    found = killed(way, 3)
    assert found.kills == 3
    assert found.changes > 0
    assert found.served > 0
    assert (found.failed, found.broken, found.differences) == (0, 0, 0), found.wrong


@pytest.mark.lab
def test_a_whole_run_makes_every_table_and_a_part_only_its_own():
    said = []
    results = measure(TINY, said.append, [part for part in PARTS if part != "cni" or not missing()])
    assert said[0] == "cold load 5 x 4"
    assert len(results.cold[0].baseline) == 1  # loading the big node counts
    made = tables(results)
    assert len(made) == 5 + len(WAYS)  # all but the growth: there is one size
    assert all(f"**{table.title}**" in report.text(results, made) for table in made)
    assert results.network is not None
    assert len(network_tables(results.network)) == 4
    if results.attach:
        made += attach_tables(results.attach)
        assert made[-1].rows[-2][0] == "agent with 3 containers"
    assert json.loads(report.as_json(results, made))["samples"]["cold"][0]["netplane"]
    assert [table.title[:9] for table in tables(measure(TINY, said.append, ("cold",)))] == ["Cold load"]
