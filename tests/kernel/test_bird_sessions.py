"""What nodes and a rack router learn from one another, with real birds. See netplane/backends/network/bird.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, ip_network
from pathlib import Path

import pytest
from bird_lab import ROUTER, Member, Wire, addresses, plan, pod_ranges, reaches, router_text, session, until

from netplane.kernel import command

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(command.find("bird") is None, reason="bird is not installed"),
]
NODES = (1, 2, 3)
SHARED = (ip_network("192.0.2.7/32"), ip_network("2001:db8:1b::7/128"))
FOREIGN = ("0.0.0.0/0", "10.250.0.0/16", "10.0.0.0/8", "198.18.0.2/32", "::/0", "fd00::/16", "2001:db8:77::/48")
FAMILIES = [(4,), (6,), (4, 6)]


@pytest.fixture
def wire(tmp_path) -> Iterator[Wire]:
    with Wire(tmp_path) as made:
        yield made


def ranges(*numbers: int, families: tuple[int, ...] = (4, 6)) -> set[str]:
    return {str(each) for number in numbers for each in pod_ranges(number) if each.version in families}


def hops(number: int, families: tuple[int, ...] = (4, 6)) -> dict[str, set[str]]:
    """The kernel's routes to a node."""
    pairs = zip(pod_ranges(number), addresses(number), strict=True)
    return {str(network): {str(via)} for network, via in pairs if network.version in families}


def same(node: Member, wanted: dict[str, set[str]]) -> None:
    until(lambda: node.routes() == wanted, but=lambda: (node.routes(), wanted))


def others(number: int) -> list[int]:
    return [each for each in NODES if each != number]


def joined(*parts: dict[str, set[str]]) -> dict[str, set[str]]:
    return {key: value for part in parts for key, value in part.items()}


@pytest.mark.parametrize("families", FAMILIES, ids=str)
def test_in_a_mesh_every_node_has_a_route_to_every_other_and_none_to_its_own_pods(wire, families):
    nodes = [wire.join(number) for number in NODES]
    for node in nodes:
        peers = [session(node.number, other, family) for other in others(node.number) for family in families]
        node.speak(plan(node.number, peers))
    for node in nodes:
        same(node, joined(*(hops(other, families) for other in others(node.number))))
    for family in families:
        here, there = (pod_ranges(number)[family == 6][1] for number in (1, 3))
        assert reaches(nodes[0].socket(here), nodes[2].socket(there))


@pytest.mark.parametrize("families", FAMILIES, ids=str)
def test_a_reflector_passes_on_what_its_clients_say_with_all_that_say_the_same(wire, families):
    nodes = [wire.join(number) for number in NODES]
    shared = tuple(each for each in SHARED if each.version in families)
    clients = [session(1, other, family, client=True) for other in (2, 3) for family in families]
    nodes[0].speak(plan(1, clients, shared, cluster_id=IPv4Address("10.0.0.1")))
    observer = wire.join(4)
    for node in nodes[1:]:
        node.speak(plan(node.number, [session(node.number, 1, family) for family in families], shared))
    nodes[0].speak(
        plan(
            1,
            [*clients, *(session(1, 4, family, client=True) for family in families)],
            shared,
            cluster_id=IPv4Address("10.0.0.1"),
        )
    )
    observer.speak(plan(4, [session(4, 1, family) for family in families]))
    for node in nodes[1:]:
        same(node, joined(*(hops(other, families) for other in (*others(node.number), 4))))
    every = {
        str(each.network_address): {str(addresses(number)[each.version == 6]) for number in NODES} for each in shared
    }
    same(observer, joined(*(hops(other, families) for other in NODES), every))


@pytest.mark.parametrize("families", FAMILIES, ids=str)
def test_a_router_sees_what_nodes_announce_and_nodes_take_only_what_is_the_clusters(wire, families):
    """No mesh: what nodes know of each other they have from the router, in which their own system is on the path."""
    nodes, router = [wire.join(number) for number in NODES], wire.join(ROUTER)
    speakers = [(each, "") for node in nodes for each in addresses(node.number) if each.version in families]
    router.speak_by_hand(router_text(speakers, FOREIGN))
    shared = tuple(each for each in SHARED if each.version in families)
    for node in nodes:
        to_router = [session(node.number, ROUTER, family) for family in families]
        node.speak(plan(node.number, to_router, shared if node.number > 1 else ()))
    wanted = ranges(*NODES, families=families) | {str(each) for each in shared}
    until(lambda: set(router.heard()) == wanted, but=lambda: router.heard())
    both = {str(each.network_address): {str(addresses(n)[each.version == 6]) for n in (2, 3)} for each in shared}
    same(router, joined(*(hops(number, families) for number in NODES), both))
    # It has one way to the shared address for others: the kernel's is its own choice, and only the best is told.
    same_network = set(joined(hops(2, families), hops(3, families)))
    until(lambda: same_network <= set(nodes[0].routes()), but=lambda: nodes[0].routes())
    assert set(nodes[0].routes()) == same_network | {str(each.network_address) for each in shared}
    same(nodes[1], joined(hops(1, families), hops(3, families)))
    for node in nodes:
        assert not set(node.heard()) & set(FOREIGN)


def test_two_nodes_that_announce_one_address_share_its_flows(wire):
    nodes = [wire.join(number) for number in NODES]
    for node in nodes:
        peers = [session(node.number, other, family) for other in others(node.number) for family in (4, 6)]
        node.speak(plan(node.number, peers, SHARED if node.number > 1 else ()))
    address = str(SHARED[0].network_address)
    for each in SHARED:
        until(lambda to=str(each[0]): len(nodes[0].routes().get(to, ())) == 2, but=lambda: nodes[0].routes())
        taken = {
            nodes[0].shell("ip", "route", "get", str(each[0]), "ipproto", "udp", "dport", "9", "sport", str(port))
            for port in range(1000, 1064)
        }
        ways = {str(addresses(n)[each.version == 6]) for n in (2, 3)}
        assert {way for way in ways if any(f"via {way} " in said for said in taken)} == ways
    nodes[1].speak(plan(2, [session(2, other, family) for other in (1, 3) for family in (4, 6)]))
    until(lambda: nodes[0].routes().get(address) == {str(addresses(3)[0])}, but=lambda: nodes[0].routes())


def test_nobody_is_believed_about_our_own_pods(wire):
    node, router = wire.join(1), wire.join(ROUTER)
    router.speak_by_hand(
        router_text([(addresses(1)[0], "")], ["10.244.1.0/24", "10.244.1.128/25", "10.244.1.5/32", "10.244.8.0/24"])
    )
    node.speak(plan(1, [session(1, ROUTER)]))
    same(node, {"10.244.8.0/24": {str(addresses(ROUTER)[0])}})
    assert set(node.heard()) == {"10.244.8.0/24"}


@pytest.mark.parametrize("password", ["secret", "#;{}'\\ $(id)"])
def test_a_session_with_the_password_of_the_other_side_comes_up(wire, tmp_path, password):
    node, router = wire.join(1), wire.join(ROUTER)
    router.speak_by_hand(router_text([(each, password) for each in addresses(1)]))
    node.speak(plan(1, [session(1, ROUTER, each, password_file=secret(tmp_path, password)) for each in (4, 6)]))
    until(lambda: node.up() and set(router.heard()) == ranges(1), but=lambda: node.sessions())


def test_with_another_password_there_is_no_session_until_it_is_set_right(wire, tmp_path):
    node, router = wire.join(1), wire.join(ROUTER)
    router.speak_by_hand(router_text([(addresses(1)[0], "right")]))
    wanted = plan(1, [session(1, ROUTER, password_file=secret(tmp_path, "wrong"))])
    mechanism = node.speak(wanted)
    # Unsigned and wrongly signed segments are dropped by the kernel, which counts them (LINUX_MIB_TCPMD5FAILURE).
    until(lambda: dropped(router) + dropped(node), but=lambda: node.sessions())
    assert not node.up()
    assert router.heard() == {}
    secret(tmp_path, "right")
    text = (node.folder / "bird.conf").read_text()
    assert node.apply(mechanism, text).made == 1
    until(lambda: set(router.heard()) == ranges(1, families=(4,)), but=lambda: node.sessions())


def test_a_router_that_is_not_on_the_wire_is_spoken_with_over_others(wire):
    """Node 1 knows the way to the far router's address by a route of its kernel, which bird learns."""
    node, middle, router = wire.join(1), wire.join(2), wire.join(ROUTER)
    far = IPv4Address("203.0.113.9")
    router.shell("ip", "address", "add", f"{far}/32", "dev", "lo")
    node.shell("ip", "route", "add", f"{far}/32", "via", str(addresses(2)[0]))
    middle.shell("ip", "route", "add", f"{far}/32", "via", str(addresses(ROUTER)[0]))
    text = router_text([(addresses(1)[0], "")], ["10.244.8.0/24"])
    local = f"local {addresses(ROUTER)[0]} as"
    router.speak_by_hand(text.replace(local, f"local {far} as").replace("  direct;", "  multihop;"))
    node.speak(plan(1, [replace(session(1, ROUTER), remote=far, multihop=True)]))
    until(lambda: set(router.heard()) == ranges(1, families=(4,)), but=lambda: node.sessions())
    same(node, {"10.244.8.0/24": {str(addresses(2)[0])}})


def secret(folder: Path, password: str) -> str:
    path = folder / "password"
    path.touch(mode=0o600)
    path.write_text(f"{password}\n")
    return str(path)


def dropped(member: Member) -> int:
    said = member.shell("nstat", "-asz", "TcpExtTCPMD5Failure", "TcpExtTCPMD5Unexpected", "TcpExtTCPMD5NotFound")
    return sum(int(line.split()[1]) for line in said.splitlines() if not line.startswith("#"))
