"""WireGuard between nodes, with real packets: by the kernel where it can, by wireguard-go."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import time
from base64 import b64encode
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import mount_namespaces
import pytest
from wireguard_nodes import PORT, Listening, until, wire

from netplane.errors import KernelError, OwnershipError
from netplane.kernel import wireguard, wireguard_go, wireguard_netlink
from netplane.kernel.netlink import GENERIC, NetlinkSocket
from netplane.kernel.wireguard_mechanism import LINK, Served
from netplane.programs.network import NetworkProgram, WireguardPeer
from netplane.programs.program import Program

pytestmark = pytest.mark.kernel

MARKER = b"netplane-marker-in-plain-words"


@pytest.fixture(params=[Served.KERNEL, Served.PROCESS], ids=lambda each: each.value)
def served(request):
    if request.param is Served.KERNEL:
        with NetlinkSocket(GENERIC, "wireguard") as generic:
            if not wireguard_netlink.family(generic):
                pytest.skip("this kernel has no WireGuard")
    else:
        mount_namespaces.needed()
        if lacks := wireguard_go.missing():
            pytest.skip(f"missing: {lacks}")
    return request.param


@pytest.fixture
def three(served, tmp_path):
    with wire(3, tmp_path, served) as (nodes, switch):
        yield nodes, switch


@pytest.fixture
def meshed(three):
    nodes, switch = three
    for node in nodes:
        node.apply(node.program(*(other for other in nodes if other is not node)))
    return nodes, switch


def others(node, nodes):
    return [other for other in nodes if other is not node]


@pytest.mark.parametrize("outer", [4, 6], ids=["outside IPv4", "outside IPv6"])
def test_packets_of_both_families_go_through_and_nothing_is_readable_outside(three, outer):
    nodes, switch = three
    one, two, _ = nodes
    for node in nodes:
        node.apply(node.program(*others(node, nodes), family=outer))
    with Listening(switch) as wire_:
        assert one.sends(two, MARKER)
        assert two.sends(one, MARKER, family=6)
        frames = wire_.all()
    assert [frame for frame in frames if MARKER in frame] == []
    assert len([frame for frame in frames if PORT.to_bytes(2) * 2 in frame]) >= 4


def test_a_datagram_outside_would_have_been_heard(three):
    (one, two, _), switch = three
    with Listening(switch) as wire_:
        one.namespace.run(lambda: _plain(two.outer()))
        until(lambda: [frame for frame in wire_.all() if MARKER in frame])


def _plain(to):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
        plain.sendto(MARKER, (to, 9))


def test_applying_again_changes_nothing(meshed):
    (one, two, three_), _ = meshed
    again = one.pending(one.program(two, three_))
    assert (again.made, again.swept, again.lines(), bool(again.drift)) == (0, 0, [], False)
    assert not one.namespace.run(one.mechanism.disturbed)


def test_wg_sees_what_was_made(meshed):
    (one, two, three_), _ = meshed
    lines = [line.split("\t") for line in one.wg("show", LINK, "dump").splitlines()]
    assert lines[0][1:3] == [one.keys.public(), str(PORT)]
    assert {(line[0], line[2], line[3]) for line in lines[1:]} == {
        (each.keys.public(), f"{each.outer()}:{PORT}", f"10.244.{each.number}.0/24,fd00:244:{each.number}::/64")
        for each in (two, three_)
    }


def test_peers_that_are_heard_from_are_known_to_be(meshed):
    (one, two, three_), _ = meshed
    assert one.sends(two, MARKER)
    seen = one.namespace.run(lambda: wireguard.peers_seen(one.folder / "run"))
    assert set(seen) == {two.keys.public(), three_.keys.public()}
    assert seen[two.keys.public()] is not None
    assert seen[three_.keys.public()] is None
    assert wireguard.peers_seen(one.folder / "run") == {}, "another namespace"


def test_a_peer_may_only_send_what_it_is_allowed_to(meshed):
    (one, two, three_), _ = meshed
    assert one.sends(two, MARKER)
    one.apply(one.program(two, three_, n2={"allowed": (ip_network("10.244.99.0/24"),)}))
    before = time.monotonic()
    with pytest.raises(AssertionError):
        until(lambda: one.namespace.run(lambda: _receives(one, two)), 0.5)
    assert time.monotonic() - before >= 0.5


def _receives(one, two):
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here,
        two.namespace.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as there,
    ):
        here.bind((one.inner(), 0))
        here.settimeout(0.1)
        there.bind((two.inner(), 0))
        there.sendto(MARKER, here.getsockname())
        try:
            return here.recv(100)
        except TimeoutError:
            return b""


def handshakes(node):
    found = node.namespace.run(lambda: node.mechanism._read(LINK)).device
    return {key: (peer.handshake, peer.received) for key, peer in found.peers.items()}


def test_a_change_of_one_peer_leaves_the_sessions_of_others(meshed):
    (one, two, three_), _ = meshed
    assert one.sends(two, MARKER)
    assert one.sends(three_, MARKER)
    before = handshakes(one)
    changed = one.program(two, three_, n3={"keepalive": 25, "allowed": (ip_network("10.244.3.0/24"),)})
    done = one.apply(changed)
    assert done.made == 1
    assert handshakes(one)[two.keys.public()] == before[two.keys.public()]
    one.apply(one.program(two))
    assert set(handshakes(one)) == {two.keys.public()}
    assert handshakes(one)[two.keys.public()] == before[two.keys.public()]
    assert one.sends(two, MARKER)


def test_a_change_without_reading_again_is_the_difference_to_what_was_applied(meshed):
    (one, two, three_), _ = meshed
    done = one.apply(one.program(two, n2={"port": 1}), reread=False)
    assert (done.made, done.swept) == (1, 1)
    assert done.lines() == [
        f"+ peer {LINK} {two.keys.public()}: endpoint {two.outer()}:1",
        f"- peer {LINK} {three_.keys.public()}",
    ]
    again = one.pending(one.program(two, n2={"port": 1}))
    assert (again.made, again.swept) == (0, 0)


def test_a_new_key_is_taken_when_it_is_announced_and_sessions_come_back(meshed):
    nodes, _ = meshed
    one, two, three_ = nodes
    assert one.sends(two, MARKER)
    old, new = one.keys.public(), one.keys.rotate()
    assert one.keys.adopt(old) == old
    assert one.apply(one.program(two, three_)).made == 0
    assert one.keys.adopt(new) == new
    for node in nodes:
        node.apply(node.program(*others(node, nodes)))
    assert one.sends(two, MARKER)
    assert set(handshakes(two)) == {new, three_.keys.public()}


def test_what_somebody_else_sets_is_found_and_repaired(meshed):
    (one, two, three_), _ = meshed
    want = one.program(two, three_)
    mark = one.namespace.run(one.mechanism.mark)
    stranger = two.keys.rotate()
    one.wg("set", LINK, "peer", stranger, "allowed-ips", "10.244.77.0/24")
    one.wg("set", LINK, "peer", two.keys.public(), "remove")
    one.wg("set", LINK, "listen-port", "5555")
    until(lambda: one.namespace.run(one.mechanism.disturbed))
    assert until(lambda: one.namespace.run(one.mechanism.mark) != mark)
    mark = one.namespace.run(one.mechanism.mark)
    done = one.apply(want)
    assert done.drift.count == 3
    assert not one.namespace.run(one.mechanism.disturbed)
    assert one.namespace.run(one.mechanism.mark) == mark, "our repair is nobody else's change"
    assert set(handshakes(one)) == {two.keys.public(), three_.keys.public()}
    assert one.sends(two, MARKER)


def test_a_link_that_is_down_or_of_another_size_is_repaired(meshed):
    (one, two, three_), _ = meshed
    one.ip("link", "set", LINK, "down")
    assert one.namespace.run(one.mechanism.disturbed)
    one.ip("link", "set", LINK, "mtu", "1300")
    done = one.apply(one.program(two, three_))
    assert f"+ link {LINK}: up, mtu 1420" in done.lines()
    assert "mtu 1420" in one.ip("link", "show", LINK)
    assert not one.namespace.run(one.mechanism.disturbed)


def test_a_link_that_was_deleted_is_made_again(meshed):
    (one, two, three_), _ = meshed
    one.ip("link", "delete", LINK)
    until(lambda: one.namespace.run(one.mechanism.disturbed))
    done = one.apply(one.program(two, three_))
    assert done.drift
    assert one.sends(two, MARKER)


def test_an_agent_without_memory_finds_all_as_it_was(meshed):
    (one, two, three_), _ = meshed
    assert one.sends(two, MARKER)
    before, pid = handshakes(one), one.pid()
    one.restart()
    done = one.apply(one.program(two, three_))
    assert (done.made, done.swept, bool(done.drift)) == (0, 0, False)
    assert (handshakes(one), one.pid()) == (before, pid)


def test_a_peer_that_roams_is_followed_while_it_is_heard(meshed):
    (one, two, three_), _ = meshed
    assert one.sends(two, MARKER)
    two.ip("link", "delete", LINK)
    two.ip("addr", "del", f"{two.outer()}/24", "dev", "eth0")
    two.ip("addr", "add", "192.0.2.99/24", "dev", "eth0")
    two.apply(two.program(one))
    assert two.sends(one, MARKER)
    until(lambda: "192.0.2.99" in one.wg("show", LINK, "endpoints"))
    again = one.pending(one.program(two, three_))
    assert (again.made, again.swept) == (0, 0)
    moved = one.program(two, three_, n2={"endpoint": ip_address("192.0.2.98")})
    assert one.pending(moved).made == 1, "the Node object says something new"


def test_an_endpoint_that_never_answered_is_put_back(meshed):
    (one, two, three_), _ = meshed
    one.wg("set", LINK, "peer", two.keys.public(), "endpoint", "192.0.2.77:1")
    until(lambda: one.namespace.run(one.mechanism.disturbed))
    assert one.apply(one.program(two, three_)).drift.count == 1
    assert one.sends(two, MARKER)


def test_nothing_is_left_of_what_is_not_wanted(meshed, tmp_path):
    nodes, _ = meshed
    one = nodes[0]
    pid = one.pid()
    one.restart()
    done = one.apply(Program())
    assert done.swept == 1
    assert one.links() == ["eth0", "lo"]
    assert one.pid() == 0
    assert not pid or not _alive(pid)
    assert [path for path in (one.folder / "run").rglob("*") if not path.is_dir()] == []
    assert str(one.folder) not in Path("/proc/self/mountinfo").read_text()
    again = one.pending(Program())
    assert (again.made, again.swept, one.mechanism.told) == (0, 0, True)


def test_a_foreign_link_of_our_name_is_left_alone(three):
    (one, two, _), _ = three
    one.ip("link", "add", LINK, "type", "veth", "peer", "name", "x")
    with pytest.raises(OwnershipError, match=f"link {LINK} is not ours but of kind veth"):
        one.pending(one.program(two))
    assert one.pending(Program()).swept == 0


def many(node, peers, networks):
    """So many peers that nobody has, with so many networks each."""
    number = itertools.count(10 << 24)
    every = {
        (key := b64encode(index.to_bytes(32)).decode()): WireguardPeer(
            key, ip_address("192.0.2.2"), PORT, tuple(ip_network((next(number), 32)) for _ in range(networks))
        )
        for index in range(1, peers + 1)
    }
    network = node.program().network
    return Program(network=replace(network, peers={LINK: every}))


@pytest.mark.parametrize(("peers", "networks"), [(1000, 1), (2, 3000)])
def test_what_does_not_fit_into_one_message_is_had_all_the_same(three, peers, networks):
    one = three[0][0]
    want = many(one, peers, networks)
    assert one.apply(want).made == peers + 3
    assert one.pending(want).lines() == []
    assert one.apply(many(one, peers // 2, networks)).swept == peers // 2
    assert one.pending(many(one, peers // 2, networks)).lines() == []


def test_a_port_that_somebody_else_has_is_said_until_it_is_free(three):
    (one, two, _), _ = three
    want = one.program(two)
    with one.namespace.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as taken:
        taken.bind(("", PORT))
        with pytest.raises(KernelError, match="Address already in use"):
            one.apply(want)
        one.mechanism.forget()
        with pytest.raises(KernelError, match="Address already in use"):
            one.apply(want)
        one.mechanism.forget()
    two.apply(two.program(one))
    one.apply(want)
    assert one.sends(two, MARKER)


def test_without_the_right_private_key_no_link_gets_it(three):
    (one, two, _), _ = three
    link = replace(one.program(two).network.links[LINK], key=two.keys.public())
    with pytest.raises(KernelError, match="was it replaced by hand") as refused:
        one.apply(Program(network=NetworkProgram(links={LINK: link})))
    assert b64encode(one.keys.private()).decode() not in str(refused.value)


# --- wireguard-go only ------------------------------------------------------------------------------------------------


@pytest.fixture
def processes(served):
    if served is not Served.PROCESS:
        pytest.skip("the kernel has no process")


def test_a_process_that_was_killed_is_found_and_started_again(processes, meshed):
    (one, two, three_), _ = meshed
    os.kill(one.pid(), signal.SIGKILL)
    until(lambda: one.namespace.run(one.mechanism.disturbed))
    assert one.apply(one.program(two, three_)).drift
    assert one.sends(two, MARKER)


def test_a_process_has_nothing_of_who_started_it(processes, meshed):
    def started_by_one_that_blocks_signals():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
        try:
            pending = one.mechanism.pending(one.program(two), reread=True, sweep=True)
            pending.make()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    (one, two, _), _ = meshed
    one.ip("link", "delete", LINK)
    one.namespace.run(started_by_one_that_blocks_signals)
    process = Path(f"/proc/{one.pid()}")
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
    assert int(status["SigBlk"], 16) & (1 << signal.SIGTERM - 1 | 1 << signal.SIGHUP - 1) == 0
    assert (os.getsid(one.pid()), (process / "cwd").readlink()) == (one.pid(), Path("/"))
    files = {str(each.readlink()) for each in (process / "fd").iterdir() if each.is_symlink()}
    assert {each for each in files if each.startswith("/")} == {
        "/dev/null",
        "/dev/net/tun",
        str(one.folder / "run" / "wireguard-go" / f"{LINK}.log"),
    }


def test_a_process_that_hangs_is_replaced(processes, meshed):
    (one, two, three_), _ = meshed
    pid = one.pid()
    os.kill(pid, signal.SIGSTOP)
    until(lambda: all("\nState:\tT" in each.read_text() for each in Path(f"/proc/{pid}/task").glob("*/status")))
    assert one.apply(one.program(two, three_)).drift
    assert not _alive(pid)
    assert one.sends(two, MARKER)


def test_a_process_of_a_namespace_that_is_gone_is_ended(processes, meshed):
    """As when a container of the agent is made anew: same folders, another network namespace."""
    (one, two, three_), _ = meshed
    pid = one.pid()
    two.folder, one.folder = one.folder, two.folder
    two.apply(Program())
    two.restart()
    two.keys, one.keys = one.keys, two.keys
    two.apply(two.program(three_))
    until(lambda: not _alive(pid))
    two.folder, one.folder = one.folder, two.folder


def test_a_missing_socket_is_a_process_that_ends(processes, meshed):
    (one, two, three_), _ = meshed
    next((one.folder / "run").rglob("*.sock")).unlink()
    until(lambda: one.namespace.run(one.mechanism.disturbed))
    one.apply(one.program(two, three_))
    assert one.sends(two, MARKER)


def _alive(pid):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
