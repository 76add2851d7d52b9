"""One agent per node: the run directory, the pid file, the mark on the namespace. See netplane/agent/lock.py."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest
from node_of_agent import Agent, service

from netplane.agent.lock import NAMESPACE_MARK, PID_FILE, SOCKET, NamespaceMark, RunDirectory
from netplane.agent.pods import CNI_SOCKET
from netplane.errors import InputError, OwnershipError
from netplane.kernel.netns import Namespace

NOBODY = 65534


# --- the directory --------------------------------------------------------------------------------------------------


def test_it_is_made_for_root_only(tmp_path):
    before = os.umask(0)
    try:
        with RunDirectory.made(tmp_path / "run") as place, place.lock(), place.listen():
            assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700
            assert (tmp_path / "run" / PID_FILE).stat().st_mode & 0o777 == 0o600
            assert (tmp_path / "run" / SOCKET).stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


def test_one_that_is_there_is_used_as_it_is(tmp_path):
    (tmp_path / "run").mkdir(mode=0o755)
    with RunDirectory.made(tmp_path / "run"):
        assert (tmp_path / "run").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o702])
def test_one_that_others_may_write_to_is_refused(tmp_path, mode):
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(mode)
    with pytest.raises(InputError, match=f"run: others may write there .mode {mode:04o}.; chmod 0700 it"):
        RunDirectory.made(tmp_path / "run")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a folder away")
def test_one_of_somebody_else_is_refused(tmp_path):
    (tmp_path / "run").mkdir(mode=0o700)
    os.chown(tmp_path / "run", NOBODY, NOBODY)
    with pytest.raises(InputError, match=f"belongs to user {NOBODY}, not to us"):
        RunDirectory.made(tmp_path / "run")


@pytest.mark.parametrize("kind", ["link", "dangling link", "file", "below nothing"])
def test_what_is_no_directory_is_refused(tmp_path, kind):
    path = tmp_path / "run"
    match kind:
        case "link":
            (tmp_path / "there").mkdir(mode=0o700)
            path.symlink_to(tmp_path / "there")
        case "dangling link":
            path.symlink_to(tmp_path / "nowhere")
        case "file":
            path.write_text("")
        case _:
            path = tmp_path / "nowhere" / "run"
    with pytest.raises(InputError, match=f"--run-dir {path}: "):
        RunDirectory.made(path)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", [PID_FILE, SOCKET])
def test_a_link_in_it_leads_nowhere(tmp_path, name):
    """Only root could have put it there; still, nothing outside is written to."""
    outside = tmp_path / "outside"
    outside.write_text("precious")
    (tmp_path / "run").mkdir(mode=0o700)
    (tmp_path / "run" / name).symlink_to(outside)
    with RunDirectory.made(tmp_path / "run") as place:
        if name == SOCKET:
            place.listen().close()
        else:
            with pytest.raises(InputError):
                place.lock()
    assert outside.read_text() == "precious"


def test_a_path_longer_than_a_socket_address_works(tmp_path):
    deep = tmp_path.joinpath(*["a-long-name-of-a-folder"] * 8)
    deep.mkdir(parents=True)
    with RunDirectory.made(deep / "run") as place, place.listen() as made, place.connect(5) as connection:
        made.accept()[0].close()
        assert connection.recv(1) == b""


# --- the pid file ---------------------------------------------------------------------------------------------------


def test_the_second_is_refused_and_told_the_pid_of_the_first(tmp_path):
    with RunDirectory.made(tmp_path / "run") as first, RunDirectory.made(tmp_path / "run") as second, first.lock():
        with pytest.raises(OwnershipError, match=f"an agent runs here already: pid {os.getpid()} holds") as refused:
            second.lock()
        assert refused.value.exit_code == 5


def test_whoever_comes_after_gets_it_and_nothing_stays_behind(tmp_path):
    with RunDirectory.made(tmp_path / "run") as place:
        for _ in range(3):
            with place.lock():
                assert (tmp_path / "run" / PID_FILE).read_text() == f"{os.getpid()}\n"
            assert not (tmp_path / "run" / PID_FILE).exists()


def test_what_a_killed_one_left_is_no_obstacle(tmp_path):
    (tmp_path / "run").mkdir(mode=0o700)
    (tmp_path / "run" / PID_FILE).write_text("1\n")
    left = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with left:
        left.bind(str(tmp_path / "run" / SOCKET))
    with RunDirectory.made(tmp_path / "run") as place, place.lock(), place.listen(), place.connect(5):
        assert (tmp_path / "run" / PID_FILE).read_text() == f"{os.getpid()}\n"


def test_a_lock_on_a_file_that_was_removed_does_not_count(tmp_path):
    """Between opening the file and locking it its last holder may have removed it: then somebody may have a new one."""
    take = (
        "import sys; from pathlib import Path; from netplane.agent.lock import RunDirectory\n"
        "with RunDirectory.made(Path(sys.argv[1])) as place:\n"
        "    for _ in range(200):\n"
        "        try:\n"
        "            with place.lock(): Path(sys.argv[1], 'inside').mkdir(); Path(sys.argv[1], 'inside').rmdir()\n"
        "        except Exception as error:\n"
        "            if 'runs here already' not in str(error): raise\n"
    )
    racers = [
        subprocess.Popen((sys.executable, "-c", take, str(tmp_path / "run")), stderr=subprocess.PIPE) for _ in range(3)
    ]
    said = [racer.communicate(timeout=60)[1].decode() for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0, 0], said


# --- the namespace --------------------------------------------------------------------------------------------------


@pytest.mark.kernel
def test_two_marks_in_one_namespace_are_refused_and_in_two_are_not():
    with Namespace() as one, Namespace() as other, one.run(NamespaceMark), other.run(NamespaceMark) as second:
        with pytest.raises(OwnershipError, match=f"in this network namespace already: pid {os.getpid()}"):
            one.run(NamespaceMark)
        second.close()
        other.run(NamespaceMark).close()


@pytest.mark.kernel
def test_however_many_asked_before_the_next_is_refused_too():
    with Namespace() as namespace, namespace.run(NamespaceMark) as mark:
        for _ in range(300):
            with pytest.raises(OwnershipError):
                namespace.run(NamespaceMark)
            mark.answer()


@pytest.mark.kernel
@pytest.mark.parametrize("listens", [True, False])
def test_somebody_who_is_not_root_cannot_keep_an_agent_from_starting(listens):
    """Anybody may take an abstract name. The kernel says who did."""
    squat = (
        "import os, socket, sys\n"
        f"os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        "taken = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)\n"
        f"taken.bind({NAMESPACE_MARK!r})\n"
        f"{'taken.listen(1)' if listens else ''}\n"
        "print('taken', flush=True); sys.stdin.read()\n"
    )
    with Namespace() as namespace:
        squatter = namespace.run(
            lambda: subprocess.Popen(
                (sys.executable, "-c", squat), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        )
        with squatter:
            assert squatter.stdout.readline() == "taken\n"
            with namespace.run(NamespaceMark) as mark:
                assert (f"user {NOBODY}" in mark.squatter) if listens else mark.squatter
            squatter.stdin.close()


# --- the agent ------------------------------------------------------------------------------------------------------


@pytest.fixture
def web(node):
    node.write("web", service("web", 1, "10.244.1.5@n1"))
    return node


@pytest.mark.kernel
class TestAgent:
    @pytest.mark.parametrize("elsewhere", [False, True], ids=["same run directory", "another run directory"])
    def test_a_second_agent_refuses_at_once_and_changes_nothing(self, web, tmp_path, elsewhere):
        with web.agent() as first:
            first.next("ready")
            before = web.kernel.rules()
            options = ("--run-dir", str(tmp_path / "other")) if elsewhere else ()
            done = web.run_agent(*options)
            (line,) = done.stderr.splitlines()
            assert done.returncode == OwnershipError.exit_code == 5
            assert f"pid {first.process.pid}" in line
            assert web.kernel.rules() == before
            assert (web.run_dir / PID_FILE).read_text() == f"{first.process.pid}\n"

    def test_agents_of_two_nodes_do_not_know_each_other(self, web, tmp_path):
        with ExitStack() as stack:
            other = stack.enter_context(Namespace())
            for namespace, place in ((web.namespace, "one"), (other, "two")):
                agent = stack.enter_context(Agent(namespace, web.folder, tmp_path / place))
                agent.next("ready")

    def test_nothing_is_left_in_the_run_directory(self, web):
        with web.agent() as agent:
            agent.next("ready")
            assert {each.name for each in web.run_dir.iterdir()} == {PID_FILE, SOCKET, CNI_SOCKET}
            assert agent.end() == 0
        assert [*web.run_dir.iterdir()] == []

    def test_what_a_killed_agent_left_is_no_obstacle(self, web):
        for _ in range(2):
            with web.agent() as agent:
                agent.next("ready")
                assert agent.end(signal.SIGKILL) == -signal.SIGKILL
            assert {each.name for each in web.run_dir.iterdir()} == {PID_FILE, SOCKET, CNI_SOCKET}
        with web.agent() as agent:
            agent.next("ready")
            assert agent.end() == 0
        assert [*web.run_dir.iterdir()] == []

    def test_an_agent_that_cannot_start_leaves_nothing(self, web):
        assert web.run_agent("--node", "n7").returncode == 3
        assert [*web.run_dir.iterdir()] == []

    @pytest.mark.parametrize("made", ["writable", "link"])
    def test_a_run_directory_that_is_not_safe_ends_the_start(self, web, tmp_path, made):
        if made == "writable":
            web.run_dir.mkdir()
            web.run_dir.chmod(0o777)
        else:
            (tmp_path / "there").mkdir()
            web.run_dir.symlink_to(tmp_path / "there")
        done = web.run_agent()
        (line,) = done.stderr.splitlines()
        assert done.returncode == InputError.exit_code == 3
        assert f"--run-dir {web.run_dir}: " in line
        assert web.kernel.rules() == ""

    def test_a_squatter_is_a_warning(self, web):
        with web.namespace.run(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as taken:
            taken.bind(NAMESPACE_MARK)  # and never listens
            with web.agent() as agent:
                assert agent.next("cannot be sure to be the only agent here")["level"] == "WARNING"
                agent.next("ready")


def test_a_folder_that_others_may_not_look_into_asks_for_root(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    (tmp_path / "run").mkdir(mode=0o700)
    script = (
        "import os, sys; from pathlib import Path; from netplane.agent.lock import RunDirectory\n"
        "from netplane.errors import RequirementError\n"
        f"os.setuid({NOBODY})\n"
        "try: RunDirectory(Path(sys.argv[1]))\n"
        "except RequirementError as error: print(error)\n"
    )
    done = subprocess.run(
        (sys.executable, "-c", script, str(tmp_path / "run")), capture_output=True, text=True, check=False
    )
    assert "run as root" in done.stdout, done
