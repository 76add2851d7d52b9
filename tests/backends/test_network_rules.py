"""The tables `netplane-network`: nft takes them, the kernel shows them as they were wanted, and packets obey them.

Whoever says that a packet is dropped shows that it arrives without the rules.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from network_plans import WAYS, WIREGUARD_MTU, addresses, cluster, mac, peer, plan, ranges, without_sources
from network_two_nodes import (
    ELSEWHERE,
    LAST,
    OUTSIDE,
    PORT,
    UPLINK,
    Site,
    heard,
    mac_of,
    node_address,
    plans,
    pod,
    site,
    until,
)

from netplane.backends.network.compile import compile_network
from netplane.kernel import command
from netplane.kernel.host import Host, Mechanisms
from netplane.kernel.netns import Namespace
from netplane.kernel.nftables_mechanism import NftablesMechanism, of_network
from netplane.lab import packets
from netplane.lab.capture import tap
from netplane.lab.packets import Flow
from netplane.model.address import Family
from netplane.plan.network_plan import NetworkPlan, Way
from netplane.plan.network_settings import LoadBalancers, Mode, NetworkSettings, Wireguard
from netplane.programs.nftables import NftablesProgram
from netplane.programs.nftables_changes import Applied
from netplane.programs.nftables_text import program_script, whole_elements

every_family = pytest.mark.parametrize("family", Family, ids=str)
outside_families = pytest.mark.parametrize("outer", Family, ids=lambda each: f"over-{each}")
POOLS = LoadBalancers(tuple((ip_address(each), ip_address(each) + 9) for each in ("198.18.0.200", "fd00:198:18::200")))
SERVED = {Family.IPV4: "198.18.0.200", Family.IPV6: "fd00:198:18::200"}


@pytest.fixture(autouse=True, scope="module")
def _layers() -> None:
    """scapy finds IP in a frame only once it has written some."""
    packets.udp(Flow(ip_address("192.0.2.1"), 1, ip_address("192.0.2.2"), 2))


def rules(made: NetworkPlan) -> NftablesProgram:
    return compile_network(made).program.network_rules


def load(script: str, *options: str) -> None:
    command.run("nft", *options, "-f", "-", stdin=script, mechanism="test", doing="load")


def every_plan() -> Iterator[NetworkPlan]:
    for mode in Mode:
        yield cluster(mode)
        yield cluster(mode, 1)
        yield cluster(mode, families=(4,))
        yield cluster(mode, families=(6,))
        settings = NetworkSettings(mode, masquerade=False, clamp_mss=False, load_balancers=POOLS)
        yield plan(settings, [], load_balancer_addresses=tuple(map(ip_address, SERVED.values())))
        yield plan(NetworkSettings(mode), [peer(2, WAYS[mode], outside=6)], outside=6)
        yield plan(mode, [], ranges=(*ranges(1), ip_network("10.244.7.0/24")))
        yield without_sources(cluster(mode))


# --- text and elements -----------------------------------------------------------------------------------------------


@pytest.mark.kernel
def test_nft_takes_every_table():
    scripts = [program_script(rules(each)) for each in every_plan()]
    with Namespace() as namespace:
        for script in scripts:
            namespace.run(lambda script=script: load(script, "--check"))


@pytest.mark.kernel
def test_the_kernel_shows_what_was_wanted_and_any_table_follows_any_other():
    programs = [compile_network(each).program for each in every_plan()]
    with Namespace() as namespace:
        mechanisms = Mechanisms((lambda _, own: NftablesMechanism(own, of_network),), independent=False)
        with namespace.run(lambda: Host(mechanisms=mechanisms)) as host:
            for each in (*programs, *reversed(programs)):
                namespace.run(lambda each=each: host.apply(each, reread=False))
                assert not namespace.run(lambda each=each: host.apply(each, reread=True)).changed


@pytest.mark.parametrize("mode", Mode)
def test_a_node_more_is_elements_alone(mode):
    before = compile_network(cluster(mode, 20))
    applied = Applied.of(before.program.network_rules)
    after = compile_network(cluster(mode, 21), before).program.network_rules
    changes = applied.changes_to(after)
    assert (changes.make_structure, changes.make_hooks, changes.sweep_structure) == ("", "", "")
    assert changes.make_elements.count() + changes.sweep_elements.count() <= 11


def elements(made: NetworkPlan, name: str, family: Family = Family.IPV4) -> list[str]:
    return [str(ip_address(key)) for key in sorted(whole_elements(rules(made), family).get(name, {}))]


def prerouting(made: NetworkPlan, family: Family = Family.IPV4) -> str:
    chain = rules(made).structure[family].chains.get("prerouting")
    return "\n".join(chain.rules) if chain else ""


def test_nothing_of_the_cluster_comes_by_another_link_than_the_overlay():
    made = cluster(Mode.VXLAN)
    assert "ip saddr & 255.255.0.0 == 10.244.0.0 goto astray" in prerouting(made)
    assert "pods-" not in prerouting(made)
    assert elements(made, "pods-24") == ["10.244.2.0", "10.244.3.0"]
    assert elements(made, "nodes") == ["198.18.0.2", "198.18.0.3"]


def test_where_no_range_of_the_cluster_is_said_the_pods_of_peers_come_by_no_other_link():
    made = plan(NetworkSettings(Mode.WIREGUARD), [peer(2, Way.WIREGUARD), peer(9, Way.NONE)])
    assert (elements(made, "pods-24"), elements(made, "refused-24")) == (["10.244.2.0"], ["10.244.9.0"])
    for name in ("pods-24", "refused-24"):
        assert f"ip saddr & 255.255.255.0 @{name} goto astray" in prerouting(made)


def test_a_peer_in_plain_text_may_come_by_another_link():
    settings = NetworkSettings(Mode.WIREGUARD, wireguard=Wireguard(plaintext=True))
    made = plan(settings, [peer(2, Way.WIREGUARD), peer(9, Way.DIRECT)])
    assert (elements(made, "pods-24"), elements(made, "plain-24")) == (["10.244.2.0"], ["10.244.9.0"])
    assert elements(plan(Mode.CROSS_SUBNET, [peer(9, Way.DIRECT)]), "plain-24") == []


def test_a_range_with_nodes_in_it_confines_none_but_known_pods():
    settings = NetworkSettings(Mode.VXLAN, cluster_ranges=(ip_network("198.0.0.0/8"), ip_network("10.244.0.0/22")))
    made = prerouting(plan(settings, [peer(2, Way.VXLAN), peer(9, Way.VXLAN)]))
    assert "ip saddr & 255.255.252.0 == 10.244.0.0 goto astray" in made
    assert "@pods-24 goto astray" in made
    assert "198.0.0.0" not in made


def test_there_is_a_set_for_each_length_of_prefix():
    small = (ip_network("10.245.0.128/25"), ip_network("10.245.1.7/32"), ip_network("fd00:245::/48"))
    made = cluster(Mode.VXLAN)
    made = replace(made, peers={**made.peers, "n9": peer(9, Way.VXLAN, ranges=small)})
    assert [elements(made, f"pods-{length}") for length in (24, 25, 32)] == [
        ["10.244.2.0", "10.244.3.0"], ["10.245.0.128"], ["10.245.1.7"],
    ]  # fmt: skip
    assert elements(made, "pods-48", Family.IPV6) == ["fd00:245::"]


@pytest.mark.parametrize("mode", [Mode.HOST_GW, Mode.BGP])
def test_without_an_overlay_all_that_is_asked_of_a_packet_is_whether_it_has_a_source_of_ours(mode):
    made = cluster(NetworkSettings(mode, masquerade=False))
    assert prerouting(made) == 'ip saddr & 255.255.255.0 == 10.244.1.0 iifname "eth0" drop'
    assert [*rules(made).structure[Family.IPV4].chains] == ["prerouting"]
    assert rules(made).structure[Family.IPV4].sets == {}
    assert rules(replace(made, uplinks=())).structure[Family.IPV4].chains == {}


@pytest.mark.parametrize("mode", Mode)
def test_nothing_is_asked_of_the_routes_and_nothing_tracks_connections_if_nobody_is_masqueraded(mode):
    """But of VXLAN that no known node has sent."""
    for family, made in rules(cluster(NetworkSettings(mode, masquerade=False))).structure.items():
        for chain in made.chains.values():
            assert chain.hook is None or chain.hook.type != "nat"
            assert chain.name == "vxlan" or not any("fib" in rule for rule in chain.rules), family
            assert not any("ct " in rule for rule in chain.rules)


def test_links_are_uplinks_by_names_that_nft_has_words_for():
    made = prerouting(replace(cluster(Mode.HOST_GW), uplinks=('e"th', "eth*", "eth0", "br-1.5@x")))
    assert made.endswith('iifname { "eth0", "br-1.5@x" } drop')


def test_nothing_to_say_is_no_table():
    assert rules(NetworkPlan("n1", NetworkSettings(Mode.HOST_GW))).structure == {}
    assert rules(cluster(Mode.VXLAN, families=(4,))).structure.keys() == {Family.IPV4}


# --- under which address ---------------------------------------------------------------------------------------------

everywhere = pytest.mark.parametrize("bridge_netfilter", [True, False], ids=["br_netfilter", ""])


@pytest.mark.lab
@everywhere
@pytest.mark.parametrize("mode", [Mode.VXLAN, Mode.HOST_GW])
def test_pods_keep_their_address_towards_pods_and_nodes_and_lose_it_outside(mode, bridge_netfilter):
    with site(plans(mode), bridge_netfilter=bridge_netfilter) as made:
        for family in Family:
            own = pod(1, family)
            assert made.seen("p2", pod(2, family), family) == own
            assert made.seen("n2", node_address(2, family), family) == own
            assert made.seen("n1", node_address(1, family), family) == own
            assert made.seen("outside", OUTSIDE[family], family) == node_address(1, family)
            assert made.seen("outside", ELSEWHERE[family], family) == node_address(1, family)


@pytest.mark.lab
def test_a_host_that_is_strict_about_reverse_paths_is_content():
    with site(plans(Mode.VXLAN)) as made:
        for name in ("n1", "n2"):
            made.run(name, "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1")
        own = pod(1, Family.IPV4)
        assert made.seen("p2", pod(2, Family.IPV4), Family.IPV4) == own
        assert made.seen("n2", node_address(2, Family.IPV4), Family.IPV4) == own
        assert made.seen("p2", pod(2, Family.IPV4), Family.IPV4, "n1") == node_address(1, Family.IPV4)
        assert made.seen("n1", "", Family.IPV4, "p2", to=node_address(1, Family.IPV4)) == pod(2, Family.IPV4)


@pytest.mark.lab
def test_towards_what_the_settings_name_pods_keep_their_address():
    kept = tuple(ip_network(each) for each in ELSEWHERE.values())
    with site(plans(NetworkSettings(Mode.HOST_GW, no_masquerade=kept))) as made:
        for family in Family:
            assert made.seen("outside", ELSEWHERE[family], family) == pod(1, family)
            assert made.seen("outside", OUTSIDE[family], family) == node_address(1, family)


@pytest.mark.lab
def test_without_masquerade_pods_keep_their_address_everywhere():
    with site(plans(NetworkSettings(Mode.HOST_GW, masquerade=False))) as made:
        for family in Family:
            assert made.seen("outside", ELSEWHERE[family], family) == pod(1, family)


@pytest.mark.lab
@outside_families
@every_family
def test_a_node_speaks_to_far_pods_as_others_know_it(outer, family):
    own, gateway = node_address(1, family), pod(1, family, 1)
    with site(plans(Mode.VXLAN, outside=outer)) as made:
        assert made.seen("p2", pod(2, family), family, "n1") == own
        assert made.seen("p2", pod(2, family), family, "n1", own) == own
        assert made.seen("p2", pod(2, family), family, "n1", gateway) == gateway


@pytest.mark.lab
@every_family
def test_with_an_address_that_others_do_not_know_a_node_gets_the_inner_one(family):
    stranger = {Family.IPV4: "203.0.113.7", Family.IPV6: "fd00:203::7"}[family]
    inner = str(ranges(1, (family,))[0].network_address)
    with site(plans(Mode.VXLAN)) as made:
        made.run("n1", "ip", "address", "add", stranger, "dev", "lo", *["nodad"] * (family is Family.IPV6))
        assert made.seen("p2", pod(2, family), family, "n1", stranger) == inner
        made.apply(1, without_sources(plans(Mode.VXLAN)[0]))
        for own in ("", node_address(1, family)):
            assert made.seen("p2", pod(2, family), family, "n1", own) == inner


@pytest.mark.lab
@outside_families
@every_family
def test_a_server_at_all_addresses_answers_far_pods_from_the_one_that_was_asked(outer, family):
    """A client that has connected its socket takes no answer from another address."""
    own = node_address(1, family)
    with site(plans(Mode.VXLAN, outside=outer)) as made:
        assert made.seen("n1", "", family, "p2", to=own) == pod(2, family)
        made.apply(1, without_sources(plans(Mode.VXLAN, outside=outer)[0]))
        with pytest.raises(TimeoutError):
            made.seen("n1", "", family, "p2", to=own, seconds=0.5)


@pytest.mark.lab
def test_nobody_is_routed_into_an_overlay_with_an_address_of_the_node():
    """IPv6 alone takes packets with a source of its own from a link at all."""
    family, own = Family.IPV6, node_address(1, Family.IPV6)
    inner = str(ranges(1, (family,))[0].network_address)
    flow = Flow(ip_address(own), 5000, ip_address(pod(2, family)), PORT)
    with site(plans(Mode.VXLAN)) as made, made.socket("p2", family, at=("", PORT)) as server:
        made.run("outside", "ip", "route", "replace", str(ranges(2, (family,))[0]), "via", own)
        packets.send(made.spaces["outside"], [packets.udp(flow, b"forged")])
        said, (whom, *_) = server.recvfrom(64)
        assert (said, whom) == (b"forged", inner)


@pytest.mark.lab
def test_who_is_routed_through_a_node_into_an_overlay_gets_the_inner_address():
    with site(plans(Mode.VXLAN)) as made:
        for family in Family:
            far = str(ranges(2, (family,))[0])
            made.run("outside", "ip", "route", "replace", far, "via", node_address(1, family))
            inner = str(ranges(1, (family,))[0].network_address)
            assert made.seen("p2", pod(2, family), family, "outside") == inner


# --- VXLAN -----------------------------------------------------------------------------------------------------------


def frame(source: str, destination: str, payload: bytes, vni: int = 4097, to: int = 1) -> bytes:
    """What is in a VXLAN packet from n2's MAC to that of node `to`: a datagram from `source` to `destination`."""
    flow = Flow(ip_address(source), 5000, ip_address(destination), PORT)
    kind = b"\x08\x00" if flow.source.version == 4 else b"\x86\xdd"
    header = b"\x08\0\0\0" + (vni << 8).to_bytes(4)
    return header + mac(to) + mac(2) + kind + packets.udp(flow, payload)


def forge(made: Site, sender: str, outer: Family, source: str, payload: bytes, vni: int = 4097, to: str = "") -> None:
    """Send a VXLAN packet to n1, or to many, for p1."""
    destination = pod(1, Family(ip_address(source).version))
    with made.socket(sender, outer) as sending:
        sending.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sending.sendto(frame(source, destination, payload, vni), (to or node_address(1, outer), 4789))


@pytest.mark.lab
@outside_families
@every_family
def test_vxlan_is_taken_from_known_nodes_alone(outer, family):
    with site(plans(Mode.VXLAN, outside=outer)) as made, made.socket("p1", family, at=("", PORT)) as server:
        forge(made, "outside", outer, pod(2, family), b"forged")
        forge(made, "p1", outer, pod(2, family), b"from a pod")
        forge(made, "n1", outer, pod(2, family), b"from ourselves")
        forge(made, "n2", outer, pod(2, family), LAST)
        assert heard(server) == []
        made.unguarded(1)
        forge(made, "outside", outer, pod(2, family), b"forged")
        assert server.recv(2048) == b"forged"


@pytest.mark.lab
@pytest.mark.parametrize("everybody", ["198.18.0.255", "255.255.255.255", f"ff02::1%{UPLINK}"])
def test_vxlan_sent_to_everybody_is_not_taken(everybody):
    outer = Family.IPV6 if ":" in everybody else Family.IPV4
    with site(plans(Mode.VXLAN, outside=outer)) as made, made.socket("p1", Family.IPV4, at=("", PORT)) as server:
        made.run("outside", "ip", "route", "add", "255.255.255.255", "dev", UPLINK)
        forge(made, "outside", outer, pod(2, Family.IPV4), b"forged", to=everybody)
        forge(made, "n2", outer, pod(2, Family.IPV4), LAST)
        assert heard(server) == []
        made.unguarded(1)
        forge(made, "outside", outer, pod(2, Family.IPV4), b"forged", to=everybody)
        assert server.recv(2048) == b"forged"


@pytest.mark.lab
@outside_families
def test_vxlan_of_another_network_on_the_same_port_is_not_ours_to_drop(outer):
    with site(plans(Mode.VXLAN, outside=outer)) as made:
        at = ("local", node_address(1, outer), "dstport", "4789", "nolearning")
        made.run("n1", "ip", "link", "add", "theirs", "address", "02:00:00:00:00:01", "type", "vxlan", "id", "7", *at)
        made.run("n1", "ip", "link", "set", "theirs", "up")
        with tap(made.spaces["n1"], "theirs") as theirs:
            forge(made, "outside", outer, pod(2, Family.IPV4), b"theirs", vni=7)
            found = packets.wait_for(theirs, lambda each: each.destination == ip_address(pod(1, Family.IPV4)))
        assert found[0].raw.endswith(b"theirs")


@pytest.mark.lab
@every_family
def test_a_source_that_is_not_behind_the_overlay_does_not_come_out_of_it(family):
    stranger = pod(7, family)  # of no node: an unreachable route
    forged = (OUTSIDE[family], pod(1, family, 77), pod(1, family, 1), node_address(1, family), stranger)
    outer = Family.IPV4
    with site(plans(Mode.VXLAN)) as made, made.socket("p1", family, at=("", PORT)) as server:
        for source in forged:
            forge(made, "n2", outer, source, source.encode())
        forge(made, "n2", outer, node_address(2, family), b"its own address")
        assert server.recv(2048) == b"its own address"
        made.unguarded(1)
        forge(made, "n2", outer, OUTSIDE[family], b"forged")
        assert server.recv(2048) == b"forged"


@pytest.mark.lab
@outside_families
def test_vxlan_is_not_tracked(outer):
    with site(plans(Mode.VXLAN, outside=outer)) as made:
        made.seen("p2", pod(2, Family.IPV4), Family.IPV4)
        tracked = [made.run(name, "conntrack", "-L", "-f", f"ipv{int(outer)}") for name in ("n1", "n2")]
        assert not any("dport=4789" in each for each in tracked)
        for number in (1, 2):
            made.nft(number, f"flush chain {'ip' if outer == 4 else 'ip6'} NETWORK output")
        made.seen("p2", pod(2, Family.IPV4), Family.IPV4)
        assert "dport=4789" in made.run("n1", "conntrack", "-L", "-f", f"ipv{int(outer)}")


# --- forged on the wire ----------------------------------------------------------------------------------------------


def wire(made: Site, family: Family, source: str, payload: bytes) -> None:
    """Send a bare datagram from outside to p1, by way of n1."""
    flow = Flow(ip_address(source), 5000, ip_address(pod(1, family)), PORT)
    packets.send(made.spaces["outside"], [packets.udp(flow, payload)])


@pytest.mark.lab
@every_family
@pytest.mark.parametrize("mode", [Mode.VXLAN, Mode.HOST_GW])
def test_nobody_on_the_wire_speaks_as_a_pod_of_ours(mode, family):
    with site(plans(mode)) as made, made.socket("p1", family, at=("", PORT)) as server:
        for last in (1, 77):
            wire(made, family, pod(1, family, last), b"forged")
        wire(made, family, OUTSIDE[family], LAST)
        assert heard(server) == []
        made.unguarded(1)
        wire(made, family, pod(1, family, 77), b"forged")
        assert server.recv(2048) == b"forged"


@pytest.mark.lab
@every_family
def test_nobody_on_the_wire_speaks_as_a_pod_behind_the_overlay(family):
    with site(plans(Mode.VXLAN)) as made, made.socket("p1", family, at=("", PORT)) as server:
        wire(made, family, pod(2, family), b"forged")
        wire(made, family, pod(7, family), b"of nobody")
        wire(made, family, OUTSIDE[family], LAST)
        assert heard(server) == []
        made.unguarded(1)
        wire(made, family, pod(2, family), b"forged")
        assert server.recv(2048) == b"forged"


@pytest.mark.lab
@every_family
def test_between_pods_and_a_far_node_nothing_but_vxlan_is_on_the_wire(family):
    with site(plans(Mode.VXLAN)) as made, tap(made.spaces["wire"]) as seen:
        made.seen("n2", node_address(2, family), family)
        made.seen("outside", OUTSIDE[family], family, "n1")
        frames = []

        def over(each: packets.Frame) -> bool:
            frames.append(each)
            return OUTSIDE[family] in (str(each.source), str(each.destination))

        packets.wait_for(seen, over)
        assert any(each.ports[1] == 4789 for each in frames)
        assert not any(pod(1, family) in (str(each.source), str(each.destination)) for each in frames)


# --- size ------------------------------------------------------------------------------------------------------------


def segments(made: Site, family: Family) -> tuple[int, int]:
    """The largest segments that p1 and p2 send each other over one connection of p1's."""
    with made.socket("p2", family, socket.SOCK_STREAM, ("", PORT)) as server:
        server.listen()
        with made.socket("p1", family, socket.SOCK_STREAM) as client:
            client.connect((pod(2, family), PORT))
            accepted, _ = server.accept()
            with accepted:
                return tuple(each.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) for each in (client, accepted))  # type: ignore[return-value]


@pytest.mark.lab
@every_family
def test_segments_fit_into_the_overlay_though_pods_do_not_know_of_it(family):
    header = {Family.IPV4: 20, Family.IPV6: 40}[family] + 32  # with timestamps
    with site(plans(Mode.VXLAN)) as made:
        assert segments(made, family) == (1450 - header, 1450 - header)
        for number, each in enumerate(plans(NetworkSettings(Mode.VXLAN, clamp_mss=False)), 1):
            made.apply(number, each)
        assert segments(made, family) == (1500 - header, 1500 - header)


@pytest.mark.lab
def test_segments_fit_to_a_peer_that_takes_less():
    small = [
        replace(each, peers={name: replace(other, mtu=1300) for name, other in each.peers.items()})
        for each in plans(Mode.VXLAN)
    ]
    with site(small) as made:
        assert segments(made, Family.IPV4) == (1300 - 52, 1300 - 52)


# --- WireGuard: np-wg is a cable here, for in plain text is what goes by another link ---------------------------------


def with_cable(made: Site, settings: NetworkSettings) -> None:
    """The rules of WireGuard, and routes to the other node's Pods over a cable called np-wg."""
    far, mac = made.spaces["n2"].path, "02:00:00:00:00:0"
    end = ("np-wg", "address", f"{mac}2", "netns", str(far))
    made.run("n1", "ip", "link", "add", "np-wg", "address", f"{mac}1", "type", "veth", "peer", "name", *end)
    for number, other in ((1, 2), (2, 1)):
        name = f"n{number}"
        made.run(name, "ip", "link", "set", "np-wg", "mtu", str(WIREGUARD_MTU), "up")
        script = program_script(rules(plans(settings)[number - 1]))
        made.spaces[name].run(lambda script=script: load(script))
        for family in Family:
            inner, length = ranges(number, (family,))[0].network_address, {4: "32", 6: "128"}[family]
            there = ranges(other, (family,))[0]
            nodad = ("nodad",) if family == 6 else ()
            made.run(name, "ip", "address", "add", f"{inner}/{length}", "dev", "np-wg", *nodad)
            hop = str(there.network_address)
            made.run(name, "ip", "route", "replace", hop, "dev", "np-wg")
            # Nobody asks for neighbours in a tunnel, and what is asked has a source that comes out of none.
            made.run(name, "ip", "neighbour", "replace", hop, "lladdr", f"{mac}{other}", "dev", "np-wg")
            made.run(name, "ip", "route", "replace", str(there), "via", hop, "dev", "np-wg", "onlink")


def astray(made: Site, number: int, family: Family) -> None:
    """Somebody sends a node's packets for the other's Pods over the wire."""
    other = 3 - number
    hop = node_address(other, family)
    made.run(f"n{number}", "ip", "route", "replace", str(ranges(other, (family,))[0]), "via", hop, "dev", UPLINK)


def tell(made: Site, source: str, family: Family, to: str, payload: bytes) -> None:
    with made.socket(source, family) as sending:
        sending.sendto(payload, (to, PORT))


@pytest.mark.lab
@every_family
def test_nothing_for_a_peers_pods_leaves_in_plain_text_wherever_routes_lead(family):
    with site() as made:
        with_cable(made, NetworkSettings(Mode.WIREGUARD))
        assert made.seen("p2", pod(2, family), family) == pod(1, family)
        astray(made, 1, family)
        with tap(made.spaces["wire"]) as seen, made.socket("outside", family, at=("", PORT)) as server:
            tell(made, "p1", family, pod(2, family), b"secret")
            with pytest.raises(PermissionError):
                tell(made, "n1", family, pod(2, family), b"secret")
            for sender in ("p1", "n1"):
                tell(made, sender, family, OUTSIDE[family], LAST)
                assert heard(server) == []
            frames: list[packets.Frame] = []
            packets.wait_for(seen, lambda each: frames.append(each) or each.raw.endswith(LAST), 2)
            assert not any(each.raw.endswith(b"secret") for each in frames)
            made.unguarded(1)
            tell(made, "p1", family, pod(2, family), b"secret")
            packets.wait_for(seen, lambda each: each.raw.endswith(b"secret"))


@pytest.mark.lab
@every_family
def test_nothing_of_a_peers_pods_is_taken_in_plain_text(family):
    with site() as made:
        with_cable(made, NetworkSettings(Mode.WIREGUARD))
        with made.socket("p1", family, at=("", PORT)) as server:
            wire(made, family, pod(2, family), b"forged")
            wire(made, family, OUTSIDE[family], LAST)
            assert heard(server) == []
            made.unguarded(1)
            wire(made, family, pod(2, family), b"forged")
            assert server.recv(2048) == b"forged"


@pytest.mark.lab
@every_family
def test_a_peer_without_a_key_is_spoken_to_in_plain_text_where_that_is_asked_for(family):
    settings = NetworkSettings(Mode.WIREGUARD, wireguard=Wireguard(plaintext=True))
    with site() as made:
        for own, other in ((1, 2), (2, 1)):
            made.apply(own, plan(settings, [peer(other, Way.DIRECT)], own=own, overlays=()))
        assert made.seen("p2", pod(2, family), family) == pod(1, family)


# --- addresses of load balancers -------------------------------------------------------------------------------------


def served(*more: str) -> NetworkPlan:
    """Of n1, with the addresses of SERVED and `more`."""
    settings = NetworkSettings(Mode.HOST_GW, load_balancers=POOLS)
    taken = tuple(map(ip_address, (*SERVED.values(), *more)))
    return plan(settings, [peer(2, Way.DIRECT)], load_balancer_addresses=taken)


def announcing(made: Site) -> None:
    """n1 has the addresses, as it would if it announced them, and outside knows."""
    uplink = mac_of(made.spaces["n1"], UPLINK).hex(":")
    for family, each in SERVED.items():
        more = ("/32",) if family == 4 else ("/128", "nodad", "preferred_lft", "0")
        made.run("n1", "ip", "address", "add", each + more[0], "dev", UPLINK, *more[1:])
        made.run("outside", "ip", "neighbour", "replace", each, "lladdr", uplink, "dev", UPLINK)
    # The kernel makes an IPv6 address its own a little later (addrconf_dad_work), `nodad` or not.
    words = ("ip", "-6", "route", "show", "table", "local", SERVED[Family.IPV6])
    until(lambda: bool(made.run("n1", *words)))


@pytest.mark.lab
@every_family
def test_what_no_service_takes_is_not_for_the_node(family):
    with site([served()]) as made, made.socket("n1", family, at=("", PORT)) as server:
        announcing(made)
        for sender in ("outside", "p1", "n1"):
            tell(made, sender, family, SERVED[family], b"for nobody")
            tell(made, sender, family, node_address(1, family), LAST)
            assert heard(server) == []
        made.unguarded(1)
        tell(made, "outside", family, SERVED[family], b"for nobody")
        assert server.recv(2048) == b"for nobody"


@pytest.mark.lab
@every_family
def test_what_a_service_takes_gets_there_and_neighbours_are_answered(family):
    ip, to = ("ip", pod(1, family)) if family == 4 else ("ip6", f"[{pod(1, family)}]")
    hook = "{ type nat hook prerouting priority -100; }"
    with site([served()]) as made:
        announcing(made)
        made.nft(1, f"add table {ip} services; add chain {ip} services taken {hook}")
        made.nft(1, f"add rule {ip} services taken {ip} daddr {SERVED[family]} udp dport 80 dnat to {to}:{PORT}")
        with made.socket("p1", family, at=("", PORT)) as server, made.socket("outside", family) as client:
            client.connect((SERVED[family], 80))
            client.send(b"ask")
            said, whom = server.recvfrom(64)
            server.sendto(said, whom)
            assert client.recv(64) == b"ask"
        at = (SERVED[family], "dev", UPLINK)
        made.run("outside", "ip", "neighbour", "change", *at, "nud", "probe")  # asked at its own address
        until(lambda: "REACHABLE" in made.run("outside", "ip", "neighbour", "show", *at))


@pytest.mark.lab
@every_family
def test_answers_to_such_an_address_arrive(family):
    with site([served()]) as made:
        announcing(made)
        assert made.seen("outside", OUTSIDE[family], family, "n1", SERVED[family]) == SERVED[family]


@pytest.mark.lab
@every_family
def test_what_no_service_takes_does_not_go_round_in_circles(family):
    to = {Family.IPV4: "203.0.113.200", Family.IPV6: "fd00:203::200"}[family]  # by n1's default route: outside
    with site([served(to)]) as made, tap(made.spaces["outside"], UPLINK) as seen:
        made.run("outside", "ip", "route", "replace", to, "via", node_address(1, family))
        tell(made, "outside", family, to, b"circle")
        tell(made, "outside", family, pod(1, family), LAST)
        frames: list[packets.Frame] = []
        packets.wait_for(seen, lambda each: frames.append(each) or each.raw.endswith(LAST))
        udp = [each for each in frames if each.protocol == socket.IPPROTO_UDP]  # n1 tells of a shorter way, too
        assert [each.hops for each in udp if each.raw.endswith(b"circle")] == [64]
        made.unguarded(1)
        tell(made, "outside", family, to, b"circle")
        packets.wait_for(seen, lambda each: each.hops == 63 and each.raw.endswith(b"circle"))


def test_rules_are_short_words_of_the_plan():
    text = program_script(rules(cluster(Mode.VXLAN, 500)))
    assert sum(line.startswith("add rule") for line in text.splitlines()) < 40
    assert len(re.findall(r"vxlan-peers \{ [0-9.]+ \}", text)) == 499
    assert str(addresses(500)[0]) in text
