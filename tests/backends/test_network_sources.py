"""Who may be who: Pods that forge a source are stopped on their own node; Pods that reach nodes beside the overlay."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from network_plans import CLUSTER, cluster, ranges
from network_two_nodes import LAST, OUTSIDE, PORT, UPLINK, Site, heard, node_address, plans, pod, site

from netplane.backends.network.compile import compile_network
from netplane.lab import packets
from netplane.lab.capture import tap
from netplane.lab.packets import Flow
from netplane.model.address import Family
from netplane.plan.network_settings import Mode, NetworkSettings, PodsToNodes

every_family = pytest.mark.parametrize("family", Family, ids=str)
DIRECT = NetworkSettings(Mode.VXLAN, cluster_ranges=CLUSTER, pods_to_nodes=PodsToNodes.DIRECT)
BARE = NetworkSettings(Mode.VXLAN, masquerade=False, pods_to_nodes=PodsToNodes.DIRECT)


@pytest.fixture
def direct() -> Iterator[Site]:
    with site(plans(DIRECT)) as made:
        yield made


def send(made: Site, sender: str, source: str, to: str, payload: bytes) -> None:
    """Whatever source, as it is."""
    packets.send(made.spaces[sender], [packets.udp(Flow(ip_address(source), 5000, ip_address(to), PORT), payload)])


@pytest.mark.lab
@every_family
@pytest.mark.parametrize("mode", [Mode.VXLAN, Mode.CROSS_SUBNET])
@pytest.mark.parametrize("bridge_netfilter", [True, False], ids=["br_netfilter", ""])
def test_a_pod_does_not_speak_as_a_pod_of_another_node(family, mode, bridge_netfilter):
    made_plans = plans(NetworkSettings(mode, masquerade=False))
    with (
        site(made_plans, bridge_netfilter=bridge_netfilter) as made,
        made.socket("outside", family, at=("", PORT)) as server,
    ):
        send(made, "p1", pod(2, family, 77), OUTSIDE[family], b"forged")
        send(made, "p1", pod(1, family), OUTSIDE[family], LAST)
        assert heard(server) == []
        made.unguarded(1)
        send(made, "p1", pod(2, family, 77), OUTSIDE[family], b"forged")
        assert server.recv(64) == b"forged"


# --- beside the overlay ----------------------------------------------------------------------------------------------


@pytest.mark.lab
@every_family
def test_beside_the_overlay_everybody_keeps_the_address_others_expect(direct, family):
    own = pod(1, family)
    assert direct.seen("p2", pod(2, family), family) == own
    assert direct.seen("n2", node_address(2, family), family) == own
    assert direct.seen("n1", node_address(1, family), family) == own
    inner = str(ranges(1, (family,))[0].network_address)
    assert direct.seen("p2", pod(2, family), family, "n1") == inner
    assert direct.seen("n1", "", family, "p2", to=node_address(1, family)) == pod(2, family)


@pytest.mark.lab
@every_family
def test_beside_the_overlay_nobody_needs_to_be_masqueraded(family):
    with site(plans(BARE)) as made:
        assert made.seen("p2", pod(2, family), family) == pod(1, family)
        assert made.seen("n2", node_address(2, family), family) == pod(1, family)
        assert made.seen("p2", pod(2, family), family, "n1") == node_address(1, family)
        assert "chain postrouting" not in made.run("n1", "nft", "list", "ruleset")


@pytest.mark.lab
def test_beside_the_overlay_there_is_no_policy_rule_and_a_request_is_as_it_is(direct):
    family = Family.IPV4
    for words in (("rule",), ("-6", "rule"), ("route", "show", "table", "all")):
        shown = direct.run("n1", "ip", *words)
        assert "lookup 98" not in shown
        assert "table 98" not in shown
    with tap(direct.spaces["wire"]) as seen:
        direct.seen("n2", node_address(2, family), family)
        frames: list[packets.Frame] = []

        def answered(each: packets.Frame) -> bool:
            frames.append(each)
            return each.ports[1:] == (4789,) and str(each.source) == node_address(2, family)

        packets.wait_for(seen, answered)
    assert {str(each.destination) for each in frames if str(each.source) == pod(1, family)} == {node_address(2, family)}
    assert pod(1, family) not in {str(each.destination) for each in frames}


def test_the_kernel_asks_as_little_of_sources_as_it_may():
    """Whether an answer of a node may come by another link than that to the node."""
    asked = [
        {name.rpartition("/")[2]: value for name, value in made.items() if "/ipv4/conf/np-vxlan4" in name}
        for made in (compile_network(cluster(settings)).program.network.sysctls for settings in (Mode.VXLAN, DIRECT))
    ]
    assert asked == [{"rp_filter": 0, "accept_local": 1}, {"rp_filter": 2, "accept_local": 0}]


@pytest.mark.lab
def test_a_host_that_is_strict_elsewhere_takes_answers_that_come_by_the_overlay(direct):
    for name in ("n1", "n2"):
        direct.run(name, "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1", f"net.ipv4.conf.{UPLINK}.rp_filter=2")
    to, family = node_address(2, Family.IPV4), Family.IPV4
    assert direct.seen("n2", to, family) == pod(1, family)
    direct.run("n1", "sysctl", "-qw", "net.ipv4.conf.np-vxlan4.rp_filter=0")
    with pytest.raises(TimeoutError):
        direct.seen("n2", to, family, seconds=0.5)


@pytest.mark.lab
@every_family
def test_beside_the_overlay_the_wire_speaks_as_a_pod_to_nodes_alone(direct, family):
    own, sender = node_address(1, family), "outside"
    with (
        direct.socket("p1", family, at=("", PORT)) as at_pod,
        direct.socket("n1", family, at=(own, PORT)) as at_node,
    ):
        for source in (pod(2, family), pod(7, family), pod(1, family, 77)):
            send(direct, sender, source, pod(1, family), b"forged")
        send(direct, sender, OUTSIDE[family], pod(1, family), LAST)
        assert heard(at_pod) == []
        send(direct, sender, pod(1, family, 77), own, b"as one of ours")
        send(direct, "p1", pod(2, family, 77), own, b"forged by a pod of ours")
        send(direct, sender, pod(2, family), own, b"as one of another node")
        assert at_node.recv(64) == b"as one of another node"
