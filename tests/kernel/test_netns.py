"""What namespaces promise: see netplane/kernel/netns.py."""

import ctypes
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from netplane.errors import KernelError, RequirementError
from netplane.kernel.netns import Namespace

pytestmark = pytest.mark.kernel

OWN = Path("/proc/thread-self/ns/net")


def here() -> int:
    """The inode of the calling thread's network namespace."""
    return OWN.stat().st_ino


@pytest.fixture
def pair() -> Iterator[tuple[Namespace, Namespace]]:
    with Namespace() as one, Namespace() as other:
        yield one, other


def uses_of(inode: int) -> int:
    """How many threads and open files of this process keep a network namespace."""
    paths = [*Path("/proc/self/task").glob("*/ns/net"), *Path("/proc/self/fd").iterdir()]
    return sum(path.exists() and path.stat().st_ino == inode for path in paths)


def test_anonymous_namespaces_differ_from_each_other_and_from_the_host(pair):
    one, other = pair
    assert len({one.run(here), other.run(here), here()}) == 3


def test_a_new_namespace_has_no_link_but_its_own_loopback(pair):
    assert pair[0].run(socket.if_nameindex) == [(1, "lo")]


def test_work_from_many_threads_runs_in_the_namespace_it_was_given_to(pair):
    expected = [namespace.run(here) for namespace in pair]
    seen: list[tuple[int, int]] = []

    def visit(which: int) -> None:
        for turn in range(100):
            choice = (which + turn) % 2
            seen.append((pair[choice].run(here), expected[choice]))

    threads = [threading.Thread(target=visit, args=(which,)) for which in range(6)]
    host = here()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 600
    assert all(found == wanted for found, wanted in seen)
    assert here() == host


def test_a_socket_stays_in_the_namespace_it_was_opened_in(pair):
    one, other = pair
    with one.run(socket.socket) as first, one.run(socket.socket) as second, other.run(socket.socket) as elsewhere:
        first.bind(("0.0.0.0", 0))
        port = first.getsockname()[1]
        elsewhere.bind(("0.0.0.0", port))
        with pytest.raises(OSError, match="in use"):
            second.bind(("0.0.0.0", port))


def test_a_child_process_lives_in_the_namespace_it_was_started_in(pair):
    words = ("stat", "--dereference", "--format=%i", "/proc/self/ns/net")
    shown = pair[0].run(lambda: subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert int(shown) == pair[0].run(here)


def test_an_exception_reaches_the_caller_and_the_namespace_goes_on(pair):
    with pytest.raises(ZeroDivisionError):
        pair[0].run(lambda: 1 // 0)
    assert pair[0].run(lambda: "on") == "on"


def test_close_lets_go_of_the_namespace():
    namespace = Namespace()
    inode = namespace.run(here)
    assert uses_of(inode) >= 2  # its thread and its descriptor
    namespace.close()
    deadline = time.monotonic() + 5
    while uses_of(inode) and time.monotonic() < deadline:
        os.sched_yield()  # a thread that was joined is in /proc for an instant longer
    assert uses_of(inode) == 0


def test_a_socket_opened_inside_outlives_the_namespace_object():
    with Namespace() as namespace:
        inside = namespace.run(socket.socket)
    with inside:
        inside.bind(("0.0.0.0", 0))
        assert inside.getsockname()[1] > 0


def test_a_namespace_can_be_joined_by_path(pair):
    with Namespace(pair[0].path) as joined:
        assert joined.run(here) == pair[0].run(here)


def test_other_processes_can_join_by_path(pair):
    words = ("nsenter", f"--net={pair[0].path}", "stat", "--dereference", "--format=%i", "/proc/self/ns/net")
    assert int(subprocess.run(words, capture_output=True, text=True, check=True).stdout) == pair[0].run(here)


def test_joining_a_path_that_does_not_exist_is_a_kernel_error(tmp_path):
    with pytest.raises(KernelError, match=r"netns: open .*/nowhere: No such file or directory"):
        Namespace(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_joining_a_file_that_is_no_namespace_is_a_kernel_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(KernelError, match=r"netns: join .*/file: Invalid argument"):
        Namespace(tmp_path / "file")


def test_without_privileges_a_namespace_is_a_missing_requirement(pair):
    libc = ctypes.CDLL(None, use_errno=True)

    def powerless() -> str:
        # capset(2) drops every capability of this one thread, and so of threads it starts; it is not used again.
        header, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        assert libc.capset(header, nothing) == 0
        with pytest.raises(RequirementError) as caught:
            Namespace()
        return str(caught.value)

    assert pair[0].run(powerless) == "network namespaces: not allowed to make a namespace; run as root"
