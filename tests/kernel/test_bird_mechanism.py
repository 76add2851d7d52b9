"""How bird is started, found again, told of changes, mended and ended. See netplane/kernel/bird_mechanism.py."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest
from bird_lab import (
    OTHER_WAY,
    ROUTER,
    Member,
    Wire,
    addresses,
    plan,
    pod_ranges,
    reaches,
    router_text,
    session,
    until,
)

from netplane.backends.network.bird import bird_text
from netplane.errors import InputError, KernelError, RequirementError
from netplane.kernel import bird_process, command
from netplane.plan.network_plan import BgpPlan
from netplane.programs.bird import METRIC
from netplane.programs.network import NetworkProgram
from netplane.programs.program import Program

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(command.find("bird") is None, reason="bird is not installed"),
]
ALONE = bird_text(plan(1, []))
MORE = bird_text(plan(1, [], [ip_network("192.0.2.7/32")]))


@pytest.fixture
def wire(tmp_path) -> Iterator[Wire]:
    with Wire(tmp_path) as made:
        yield made


@pytest.fixture
def node(wire) -> Member:
    return wire.join(1)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def killed(member: Member) -> None:
    """Its bird is, and has ended."""
    pid = member.pid()
    os.kill(pid, signal.SIGKILL)
    until(lambda: not runs(pid))


def plan_of(number: int, *numbers: int) -> BgpPlan:
    return plan(number, [session(number, other, family) for other in numbers for family in (4, 6)])


def pair(wire: Wire) -> tuple[Member, Member]:
    """Two nodes that know each other's ranges."""
    one, two = wire.join(1), wire.join(2)
    one.speak(plan_of(1, 2))
    two.speak(plan_of(2, 1))
    until(lambda: len(one.routes()) == len(two.routes()) == 2)
    return one, two


# --- started and found ------------------------------------------------------------------------------------------------


def test_bird_is_nobodys_child_in_a_session_of_its_own_and_its_files_are_roots_alone(node):
    node.apply(node.mechanism(), ALONE)
    fields = Path(f"/proc/{node.pid()}/stat").read_text().rsplit(")", 1)[1].split()
    assert int(fields[1]) != os.getpid()
    assert int(fields[3]) == node.pid()
    assert node.folder.stat().st_mode & 0o777 == 0o700
    assert (node.folder / "bird.conf").stat().st_mode & 0o777 == 0o600
    assert sorted(each.name for each in node.folder.iterdir()) == ["applied", "bird.conf", "bird.ctl", "bird.pid"]


def test_a_path_longer_than_a_socket_takes_is_no_hindrance(wire, tmp_path):
    node = wire.join(1)
    node.run = tmp_path / ("x" * 120)
    node.apply(node.mechanism(), ALONE)
    assert node.ask("show status")[-1] == "Daemon is up and running"


def test_a_process_without_memory_finds_it_and_changes_nothing(node):
    node.apply(node.mechanism(), ALONE)
    pid = node.pid()
    again = node.mechanism()
    found = node.apply(again, ALONE)
    assert (found.made, found.swept, found.lines(), node.pid()) == (0, 0, [], pid)
    assert not again.disturbed()


def test_what_would_be_done_is_said_and_not_done(node):
    mechanism = node.mechanism()
    want = Program(network=NetworkProgram(bird=ALONE))
    pending = node.namespace.run(lambda: mechanism.pending(want, reread=True, sweep=True))
    assert "+ protocol static np_announced4" in pending.lines()
    assert pending.lines()[-1] == "+ start bird"
    assert pending.made == len(pending.lines())
    assert not node.folder.exists()


def test_a_bird_in_another_namespace_is_not_ours_though_its_folder_is(wire):
    node, other = wire.join(1), wire.join(2)
    node.apply(node.mechanism(), ALONE)
    find = bird_process.find
    assert other.namespace.run(lambda: find(node.folder, everywhere=True)) is None
    assert node.namespace.run(lambda: find(other.folder, everywhere=True)) is None


@pytest.mark.parametrize("lost", ["bird.pid", "bird.ctl", "applied", "bird.conf", "*"])
def test_whatever_is_lost_of_its_files_there_is_one_bird_with_the_right_configuration(node, lost):
    node.apply(node.mechanism(), ALONE)
    first = node.pid()
    for each in list(node.folder.glob(lost)):
        each.unlink()
    if lost == "*":
        node.folder.rmdir()
    node.apply(node.mechanism(), MORE)
    assert "192.0.2.7/32" in " ".join(node.ask("show route"))
    assert runs(first) == (node.pid() == first)
    assert node.apply(node.mechanism(), MORE).made == 0


def test_where_bird_is_missing_the_package_is_named(node, monkeypatch):
    monkeypatch.setattr(command, "_PATH", "/nowhere")
    with pytest.raises(RequirementError, match="apt install bird2"):
        node.apply(node.mechanism(), ALONE)


def test_a_folder_that_others_may_write_to_is_not_used(node):
    node.folder.mkdir(parents=True)
    node.folder.chmod(0o777)
    with pytest.raises(RequirementError, match="others may write there"):
        node.apply(node.mechanism(), ALONE)


# --- told of changes --------------------------------------------------------------------------------------------------


def test_another_session_and_another_address_leave_the_first_session_as_it_is(wire):
    one, two = pair(wire)
    before = one.sessions()["node_2_4"]
    mechanism = one.mechanism()
    three = wire.join(3)
    three.speak(plan_of(3, 1))
    more = replace(plan_of(1, 2, 3), announced=(*pod_ranges(1), ip_network("192.0.2.7/32")))
    one.apply(mechanism, bird_text(more), reread=False)
    until(lambda: len(one.routes()) == 4 and "192.0.2.7" in two.routes(), but=lambda: (one.routes(), two.routes()))
    one.apply(mechanism, bird_text(plan_of(1, 2)), reread=False)
    until(lambda: len(one.routes()) == 2 and "192.0.2.7" not in two.routes(), but=lambda: (one.routes(), two.routes()))
    assert one.sessions()["node_2_4"] == before


def test_a_configuration_bird_refuses_is_told_in_its_words_and_the_old_one_stays(node):
    mechanism = node.mechanism()
    node.apply(mechanism, ALONE)
    with pytest.raises(KernelError, match=r"bird.conf:\d+:\d+ syntax error"):
        node.apply(mechanism, ALONE + "nonsense;\n")
    mechanism.forget()
    assert (node.folder / "bird.conf").read_text() == ALONE
    assert not (node.folder / "next").exists()
    assert node.apply(mechanism, ALONE).made == 0
    os.kill(node.pid(), signal.SIGKILL)
    until(mechanism.disturbed)
    with pytest.raises(KernelError, match="syntax error"):
        node.apply(mechanism, ALONE + "nonsense;\n")
    mechanism.forget()
    assert node.apply(mechanism, ALONE).lines() == ["+ start bird"]


def test_a_file_that_somebody_changed_is_written_again(node):
    mechanism = node.mechanism()
    node.apply(mechanism, ALONE)
    (node.folder / "bird.conf").write_text("")
    assert node.apply(mechanism, ALONE).made
    assert (node.folder / "bird.conf").read_text() == ALONE


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        ('a"b', 0o600, "a quotation mark"),
        ("good", 0o644, "others can read or write it"),
        (None, 0, "No such file"),
    ],
)
def test_a_password_that_cannot_be_used_names_its_file_and_what_runs_runs_on(node, tmp_path, content, mode, why):
    mechanism = node.mechanism()
    node.apply(mechanism, ALONE)
    path = tmp_path / "password"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    with pytest.raises(InputError, match=why) as caught:
        node.apply(mechanism, bird_text(plan(1, [session(1, 2, password_file=str(path))])))
    assert str(path) in str(caught.value)
    assert (node.folder / "bird.conf").read_text() == ALONE
    assert not mechanism.disturbed()


def test_passwords_are_in_one_file_that_only_root_reads_and_go_when_nobody_needs_them(node, tmp_path):
    path = tmp_path / "password"
    path.touch(mode=0o600)
    path.write_text("unheard-of")
    mechanism = node.mechanism()
    node.apply(mechanism, bird_text(plan(1, [session(1, 2, password_file=str(path))])))
    holders = [each for each in node.folder.rglob("*") if each.is_file() and "unheard-of" in each.read_text()]
    assert holders == [node.folder / "passwords.conf"]
    assert holders[0].stat().st_mode & 0o777 == 0o600
    node.apply(mechanism, ALONE)
    assert not holders[0].exists()


# --- mended -----------------------------------------------------------------------------------------------------------


def test_while_bird_is_away_and_when_it_comes_back_packets_flow_and_no_route_is_touched(wire):
    one, two = pair(wire)
    routes = one.routes(), two.routes()
    mechanism = one.mechanism()
    text = (one.folder / "bird.conf").read_text()
    one.apply(mechanism, text)
    ends = [
        (here.socket(a), there.socket(b))
        for here, there in ((one, two), (two, one))
        for a, b in zip(_first(here), _first(there), strict=True)
    ]
    with _deletions(one) as heard_one, _deletions(two) as heard_two:
        os.kill(one.pid(), signal.SIGKILL)
        until(mechanism.disturbed)
        until(lambda: two.sessions()["node_1_4"].state != "Established")
        assert all(reaches(*each) for each in ends)
        mended = one.apply(mechanism, text, reread=False)
        assert mended.drift.named == ("+ start bird",)
        until(lambda: one.up() and two.up(), but=lambda: (one.sessions(), two.sessions()))
        until(
            lambda: not any("recovery" in line for line in one.ask("show status")), but=lambda: one.ask("show status")
        )
        until(lambda: set(one.heard()) == set(routes[0]))
        assert all(reaches(*each) for each in ends)
        assert (one.routes(), two.routes()) == routes
        assert (heard_one(), heard_two()) == ([], [])
    assert not mechanism.disturbed()


def test_a_bird_that_ended_is_noticed_by_a_process_without_memory_too(node):
    node.apply(node.mechanism(), ALONE)
    killed(node)
    assert node.apply(node.mechanism(), ALONE).lines() == ["+ start bird"]
    assert node.ask("show status")[-1] == "Daemon is up and running"


def test_a_bird_whose_socket_is_gone_is_started_again(node):
    mechanism = node.mechanism()
    node.apply(mechanism, ALONE)
    pid = node.pid()
    (node.folder / "bird.ctl").unlink()
    assert node.apply(mechanism, ALONE).lines() == ["+ start bird"]
    assert not runs(pid)
    assert node.ask("show status")[-1] == "Daemon is up and running"


def test_a_session_that_found_its_port_taken_comes_up_when_it_is_free_again(wire):
    one, two = wire.join(1), wire.join(2)
    taken = one.namespace.run(lambda: socket.create_server(("", 179)))
    with taken:
        mechanism = one.speak(plan(1, [session(1, 2)]))
        until(lambda: one.sessions()["node_2_4"].error == "Error: No listening socket")
    two.speak(plan(2, [session(2, 1)]))
    text = (one.folder / "bird.conf").read_text()
    assert one.apply(mechanism, text).lines() == ["+ enable node_2_4"]
    until(one.up, but=lambda: one.sessions())


def test_a_bird_that_somebody_ends_leaves_its_routes(wire):
    one, _ = pair(wire)
    routes, pid = one.routes(), one.pid()
    os.kill(pid, signal.SIGTERM)
    until(lambda: not runs(pid))
    assert one.routes() == routes


def test_nobody_is_listened_to_on_other_addresses_than_those_of_sessions(node):
    node.apply(node.mechanism(), bird_text(plan_of(1, 2)))
    listening = [line.split()[3] for line in node.shell("ss", "-Hltn").splitlines()]
    assert sorted(listening) == sorted(["198.18.0.1:179", "[2001:db8::1]:179"])


def test_a_route_that_somebody_deleted_comes_back(wire):
    one, _ = pair(wire)
    routes = one.routes()
    one.shell("ip", "route", "flush", "proto", "bird")
    until(lambda: one.routes() == routes, but=lambda: one.routes())


# --- ended ------------------------------------------------------------------------------------------------------------


def test_cleaning_up_ends_bird_removes_its_routes_and_files_and_tells_the_others_at_once(wire):
    one, two = pair(wire)
    pid = one.pid()
    foreign = ["10.99.0.0/24", "via", str(addresses(2)[0]), "proto", "bird", "metric"]
    one.shell("ip", "route", "add", *foreign, "32")
    one.shell(
        "ip", "route", "add", "10.99.1.0/24", "via", str(addresses(2)[0]), "proto", "static", "metric", str(METRIC)
    )
    swept = one.apply(one.mechanism(), "")
    assert (swept.lines()[0], swept.swept) == ("- end bird", 4)
    assert not runs(pid)
    assert set(one.routes()) == {"10.99.0.0/24"}
    assert set(one.routes("static")) == {"10.99.1.0/24"}
    assert not one.folder.exists()
    until(lambda: not two.routes(), but=lambda: two.routes())
    assert two.sessions()["node_1_4"].error == "Received: Administrative shutdown"
    assert one.apply(one.mechanism(), "").swept == 0


def test_where_another_way_takes_over_the_others_keep_the_routes_to_us_meanwhile(wire):
    one, two = pair(wire)
    routes = two.routes()
    one.apply(one.mechanism(), "", rest=OTHER_WAY)
    assert one.routes() == {}
    until(lambda: two.sessions()["node_1_4"].state != "Established")
    assert two.routes() == routes


def test_routes_of_a_bird_that_ended_are_removed_without_it(wire):
    one, _ = pair(wire)
    killed(one)
    mechanism = one.mechanism()
    assert mechanism.told
    assert one.apply(mechanism, "").swept == 3
    assert one.routes() == {}


def test_a_bird_that_does_not_listen_any_more_is_ended_all_the_same(node):
    node.apply(node.mechanism(), ALONE)
    pid = node.pid()
    (node.folder / "bird.ctl").unlink()
    node.apply(node.mechanism(), "")
    assert not runs(pid)
    assert not node.folder.exists()


def test_another_bird_in_the_namespace_keeps_its_routes_and_we_ours(wire, tmp_path):
    """As Debian's bird.service would be there: its own folder, another metric."""
    one, two = pair(wire)
    stranger = Member(1, one.namespace, tmp_path / "stranger")
    stranger.speak_by_hand(
        "router id 1.1.1.1;\nprotocol device { }\n"
        "protocol kernel { scan time 1; ipv4 { export all; import none; }; }\n"
        f"protocol static {{ ipv4; route 10.77.0.0/24 via {addresses(2)[0]}; }}\n"
    )
    pid = stranger.pid()
    try:
        both = {**two.routes(), **one.routes()}.keys() & one.routes().keys() | {"10.77.0.0/24"}
        until(lambda: set(one.routes()) == both, but=lambda: one.routes())
        one.apply(one.mechanism(), "")
        assert runs(pid)
        assert set(one.routes()) == {"10.77.0.0/24"}
    finally:
        os.kill(pid, signal.SIGKILL)


def test_with_a_router_that_restarts_the_kernels_routes_stay(wire):
    node, router = wire.join(1), wire.join(ROUTER)
    text = router_text([(each, "") for each in addresses(1)], ["10.244.8.0/24"])
    router.speak_by_hand(text)
    node.speak(plan_of(1, ROUTER))
    until(lambda: node.routes(), but=lambda: node.sessions())
    routes = node.routes()
    with _deletions(node) as heard:
        killed(router)
        until(lambda: node.sessions()["router_100_4"].state != "Established")
        router.speak_by_hand(text, recover=True)
        until(node.up, but=lambda: node.sessions())
        until(lambda: set(node.heard()) == set(routes))
        assert heard() == []
    assert node.routes() == routes


def _first(member: Member) -> list[object]:
    return [each[1] for each in pod_ranges(member.number)]


@contextmanager
def _deletions(member: Member) -> Iterator[Callable[[], list[str]]]:
    """What `ip monitor` says was deleted of bird's routes until it is asked."""
    monitor = member.namespace.run(
        lambda: subprocess.Popen(["ip", "monitor", "route"], stdout=subprocess.PIPE, text=True)
    )
    assert monitor.stdout
    until(lambda: _listens(monitor.pid))

    def heard() -> list[str]:
        """A route of our own making is the last thing it tells."""
        member.shell("ip", "route", "add", "blackhole", "10.66.0.0/24")
        found: list[str] = []
        for line in monitor.stdout:
            if "10.66.0.0/24" in line:
                break
            if "proto bird" in line and line.startswith("Deleted"):
                found.append(line)
        member.shell("ip", "route", "del", "blackhole", "10.66.0.0/24")
        return found

    try:
        yield heard
    finally:
        monitor.kill()
        monitor.wait()
        monitor.stdout.close()


def _listens(pid: int) -> bool:
    lines = Path(f"/proc/{pid}/net/netlink").read_text().splitlines()[1:]
    return any(int(words[2]) == pid and int(words[3], 16) for words in (line.split() for line in lines))
