"""Who is served, in which order, and what no client can do. Real sockets, real launchers. See cni/server.py."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import threading
from array import array
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from launching import CONFIG, SECONDS, Recorder, request, until

from cni.request import Reply, Request
from cni.server import CniServer, Limits
from cni.wire import STDIN_BYTES, call, request_frame

NOBODY = 65534
NULL = Path(os.devnull)


class Gate(Recorder):
    """Begins what it is asked and finishes it when it is let. Knows what goes on at the same time."""

    def __init__(self, quickly: bool = False) -> None:
        super().__init__(quickly, self._pass)
        self.open = threading.Semaphore(0)
        self.now: list[str] = []
        self.together: set[tuple[str, ...]] = set()

    def _pass(self, asked: Request) -> Reply:
        self.now.append(asked.environment["CNI_CONTAINERID"])
        self.together.add(tuple(sorted(self.now)))
        assert self.open.acquire(timeout=SECONDS)
        self.now.remove(asked.environment["CNI_CONTAINERID"])
        return Reply(0, asked.stdin)


@contextmanager
def connected(place):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
        made.connect(str(place.socket))
        made.settimeout(SECONDS)
        yield made


def sent(connection: socket.socket, asked: Request) -> None:
    connection.sendall(request_frame(asked))


def rest(connection: socket.socket) -> bytes:
    """All that comes until the other end is closed."""
    read = bytearray()
    with suppress(ConnectionResetError):
        while more := connection.recv(1 << 16):
            read += more
    return bytes(read)


def descriptors(server: CniServer | None = None) -> int:
    """How many this process has open, once the server has let go of its clients."""
    until(lambda: server is None or not server._clients)
    return len(list(Path("/proc/self/fd").iterdir()))


# --- order ----------------------------------------------------------------------------------------------------------


def test_the_quick_are_done_in_the_thread_and_the_slow_elsewhere(place):
    for quickly in (True, False):
        handler = Recorder(quickly)
        with place.serving(handler):
            for _ in range(3):
                assert call(place.socket, request(), SECONDS) == Reply(0, b"done\n")
        assert all((name == "cni") == quickly for name in handler.threads)


def test_one_containers_requests_are_done_one_after_the_other_in_order(place):
    gate = Gate()
    with place.serving(gate), ThreadPoolExecutor(8) as pool:
        asked = []
        for number in range(8):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.connect(str(place.socket))
            sent(connection, request(("ADD", "DEL", "CHECK")[number % 3], b"%d" % number))
            asked.append(pool.submit(rest, connection))
            asked[-1].add_done_callback(lambda _, made=connection: made.close())
        for number in range(8):
            until(lambda number=number: len(gate.requests) == number + 1)
            gate.open.release()
        answers = [each.result(SECONDS) for each in asked]
    assert gate.together == {("c1",)}
    assert [each.stdin for each in gate.requests] == [b"%d" % number for number in range(8)]
    assert [each[12:] for each in answers] == [b"%d" % number for number in range(8)]


def test_containers_do_not_wait_for_each_other(place):
    gate = Gate()
    with place.serving(gate), ThreadPoolExecutor(8) as pool:
        names = [f"c{number}" for number in range(8)]
        done = [pool.submit(call, place.socket, request(CONTAINERID=name), SECONDS) for name in names]
        until(lambda: sorted(gate.now) == names)
        gate.open.release(8)
        assert [each.result().code for each in done] == [0] * 8


def test_a_quick_one_waits_for_the_slow_one_of_its_container_only(place):
    gate = Gate()
    gate.quick = lambda asked: asked.environment["CNI_COMMAND"] == "DEL"
    gate.answer = lambda asked: Reply(0) if gate.quick(asked) else gate._pass(asked)
    with place.serving(gate) as server, ThreadPoolExecutor(1) as pool:
        slow = pool.submit(call, place.socket, request("ADD"), SECONDS)
        until(lambda: gate.now == ["c1"])
        with connected(place) as behind:
            sent(behind, request("DEL"))
            until(lambda: len(server._clients) == 2)
            assert call(place.socket, request("DEL", CONTAINERID="c2"), SECONDS).code == 0
            assert [each.environment["CNI_CONTAINERID"] for each in gate.requests] == ["c1", "c2"]
            gate.open.release()
            assert slow.result().code == 0
            assert len(rest(behind)) == 12


def test_what_is_about_no_container_waits_for_none(place):
    gate = Gate()
    with place.serving(gate), ThreadPoolExecutor(4) as pool:
        done = [pool.submit(call, place.socket, request("STATUS", CONTAINERID=""), SECONDS) for _ in range(4)]
        until(lambda: gate.now == [""] * 4)
        gate.open.release(4)
        assert [each.result().code for each in done] == [0] * 4


@pytest.mark.parametrize("quickly", [True, False])
def test_sixty_four_launchers_at_once(place, quickly):
    handler = Recorder(quickly, answer=lambda asked: Reply(0, asked.environment["CNI_CONTAINERID"].encode()))
    names = [f"c{number % 48}" for number in range(64)]
    with place.serving(handler), ThreadPoolExecutor(64) as pool:
        assert list(pool.map(lambda name: place.run("ADD", CONTAINERID=name).stdout.decode(), names)) == names
    assert len(handler.requests) == 64


# --- clients that are not as they should be -------------------------------------------------------------------------


def test_a_client_killed_at_any_byte_is_not_served_and_leaves_nothing(place):
    handler = Recorder()
    frame = request_frame(request())
    with place.serving(handler) as server:
        call(place.socket, request("STATUS"), SECONDS)
        before = descriptors(server)
        for size in range(len(frame)):
            with connected(place) as made, NULL.open("rb") as file:
                if size:
                    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [file.fileno()]))
                    made.sendmsg([frame[:size]], [rights])
        assert call(place.socket, request("STATUS"), SECONDS).code == 0
        assert descriptors(server) == before
    assert {each.environment["CNI_COMMAND"] for each in handler.requests} == {"STATUS"}


def test_launchers_killed_at_any_time_leave_nothing(place):
    dice = random.Random(4)
    with place.serving(Recorder(quickly=False)) as server:
        call(place.socket, request("STATUS"), SECONDS)
        before = descriptors(server)
        for _ in range(60):
            process = place.start("ADD", NETNS="/proc/self/ns/net")
            os.write(process.stdin.fileno(), CONFIG[: dice.randint(0, len(CONFIG))])
            if dice.random() < 0.7:
                process.stdin.close()
            for _ in range(dice.randint(0, 300)):
                os.sched_yield()
            process.kill()
            with process:
                process.wait(SECONDS)
        assert place.run("ADD").stdout == b"done\n"
        assert descriptors(server) == before


@pytest.mark.parametrize("verb", ["ADD", "CHECK", "STATUS", "DEL"])
def test_what_nobody_waits_for_is_not_begun_but_a_del(place, verb):
    gate = Gate()
    with place.serving(gate), ThreadPoolExecutor(1) as pool:
        first = pool.submit(call, place.socket, request("ADD"), SECONDS)
        until(lambda: gate.now)
        with connected(place) as made:
            sent(made, request(verb, b"gone"))
            sent_and_read = len(gate.requests) == 1
        last = pool.submit(call, place.socket, request("ADD", b"last"), SECONDS)
        gate.open.release(3)
        assert first.result().code == last.result().code == 0
    assert sent_and_read
    done = [each.stdin for each in gate.requests]
    assert done == ([CONFIG, b"gone", b"last"] if verb == "DEL" else [CONFIG, b"last"])


def test_what_was_begun_is_finished_even_if_nobody_waits(place):
    gate = Gate()
    with place.serving(gate):
        with connected(place) as made:
            sent(made, request("ADD"))
            until(lambda: gate.now)
        gate.open.release()
        until(lambda: not gate.now)
        gate.open.release()
        assert call(place.socket, request("ADD"), SECONDS).code == 0


def test_a_slow_client_holds_nobody_up_and_is_sent_away(place):
    with place.serving(Recorder(), Limits(seconds=0.2)), connected(place) as slow, connected(place) as silent:
        slow.sendall(request_frame(request())[:20])
        assert call(place.socket, request(), SECONDS).code == 0
        assert rest(slow) == rest(silent) == b""
        assert call(place.socket, request(), SECONDS).code == 0


def test_a_client_that_does_not_take_its_answer_holds_nobody_up_and_is_sent_away(place):
    large = Recorder(answer=lambda asked: Reply(0, b"x" * (STDIN_BYTES if asked.stdin == b"large" else 1)))
    with place.serving(large, Limits(seconds=0.2)) as server, connected(place) as lazy:
        sent(lazy, request(stdin=b"large"))
        until(lambda: large.requests)
        assert call(place.socket, request(CONTAINERID="c2"), SECONDS) == Reply(0, b"x")
        until(lambda: not server._clients)
        assert len(rest(lazy)) < STDIN_BYTES


def test_a_client_that_takes_its_answer_slowly_gets_all_of_it(place):
    large = Recorder(answer=lambda _: Reply(0, bytes(range(256)) * (STDIN_BYTES // 256)))
    with place.serving(large), connected(place) as lazy:
        sent(lazy, request())
        assert rest(lazy)[12:] == bytes(range(256)) * (STDIN_BYTES // 256)


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"NPC1" + b"\xff" * 12,
        request_frame(request()) + b"more",
        b"NPC1" + bytes(4) + b"\x04\0\0\0" + bytes(4) + b"CNI_",
    ],
)
def test_what_is_no_request_is_told_so(place, said):
    handler = Recorder()
    with place.serving(handler), connected(place) as made:
        made.sendall(said)
        told = json.loads(rest(made)[12:])
    assert told["code"] == 5
    assert handler.requests == []


@pytest.mark.parametrize("seed", range(5))
def test_whatever_comes_the_next_is_served(place, seed):
    dice = random.Random(seed)
    frame = request_frame(request())
    with place.serving(Recorder()):
        for _ in range(100):
            said = bytearray(frame[: dice.randint(0, len(frame))] + dice.randbytes(dice.randint(0, 30)))
            for _ in range(dice.randint(0, 3)):
                if said:
                    said[dice.randrange(len(said))] = dice.randrange(256)
            with connected(place) as made, suppress(BrokenPipeError):
                made.sendall(said)
        assert call(place.socket, request(), SECONDS).code == 0


# --- descriptors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 4, 5, 100])
def test_of_several_descriptors_the_first_is_the_namespace_and_none_stays_open(place, count):
    found = []
    handler = Recorder(answer=lambda asked: (found.append(_inode(asked.netns_fd)), Reply(0))[1])
    with place.serving(handler) as server, NULL.open("rb") as first, Path(__file__).open("rb") as other:
        call(place.socket, request(), SECONDS)
        before = descriptors(server)
        with connected(place) as made:
            many = array("i", [first.fileno(), *[other.fileno()] * count][:count])
            made.sendmsg([request_frame(request())], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, many)] if count else [])
            rest(made)
        assert descriptors(server) == before
        assert found[1] == (os.fstat(first.fileno()).st_ino if count else None)


def _inode(fd: int) -> int | None:
    return os.fstat(fd).st_ino if fd >= 0 else None


def test_descriptors_that_come_one_by_one_do_not_pile_up(place):
    frame = request_frame(request())
    with place.serving(Recorder()), connected(place) as made, NULL.open("rb") as file:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [file.fileno()] * 4))
        before = descriptors()
        for at in range(len(frame) - 1):
            made.sendmsg([frame[at : at + 1]], [rights])
        assert descriptors() <= before + 10
        made.sendall(frame[-1:])
        assert rest(made).endswith(b"done\n")


def test_without_room_for_more_descriptors_it_waits_and_goes_on(place):
    """In a process of its own, whose limit is lowered."""
    script = (
        "import os, resource, socket, sys, threading\n"
        "from cni.request import Reply\n"
        "from cni.server import CniServer\n"
        "class Handler:\n"
        "    def quick(self, request): return True\n"
        "    def handle(self, request): return Reply(0, b'%d %d' % (request.netns_fd, request.netns_errno))\n"
        "listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)\n"
        "listening.bind(sys.argv[1]); listening.listen(64)\n"
        "with CniServer(listening, Handler()) as server:\n"
        "    server.start()\n"
        "    highest = max(map(int, os.listdir('/proc/self/fd')))\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 4, highest + 4))\n"
        "    print('serving', flush=True); sys.stdin.read()\n"
        "    assert server.serving\n"
    )
    command = (sys.executable, "-c", script, str(place.socket))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
        assert server.stdout.readline() == b"serving\n"
        idle = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(20)]
        for each in idle:
            each.connect(str(place.socket))
        with NULL.open("rb") as file, ThreadPoolExecutor(1) as pool:
            asked = pool.submit(call, place.socket, Request({"CNI_COMMAND": "ADD"}, b"", file.fileno()), SECONDS)
            for each in idle:
                each.close()
            assert asked.result().code == 0
        server.stdin.close()
        assert server.wait(SECONDS) == 0, server.stderr.read()


# --- who is refused -------------------------------------------------------------------------------------------------


def test_too_many_at_once_are_told_to_come_later(place):
    with place.serving(Recorder(), Limits(clients=3)), connected(place), connected(place), connected(place):
        told = call(place.socket, request(), SECONDS)
        done = place.run("ADD")
    assert (told.code, json.loads(told.stdout)["code"]) == (1, 11)
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, 11)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_somebody_who_is_not_root_is_not_served(place, caplog):
    handler = Recorder()
    place.folder.chmod(0o755)
    script = (
        "import os, socket, sys\n"
        f"os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        "made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM); made.connect(sys.argv[1])\n"
        "print(made.recv(1), flush=True)\n"
    )
    with place.serving(handler):
        place.socket.chmod(0o666)
        command = (sys.executable, "-c", script, str(place.socket))
        assert subprocess.check_output(command, timeout=SECONDS) == b"b''\n"
        assert call(place.socket, request(), SECONDS).code == 0
    assert len(handler.requests) == 1
    assert [each.user for each in caplog.records if each.levelname == "WARNING"] == [NOBODY]


# --- mistakes of ours -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quickly", [True, False])
@pytest.mark.parametrize("mistake", ["raises", "too large", "no exit code", "no answer to whether it is quick"])
def test_a_mistake_is_told_without_its_trace(place, caplog, quickly, mistake):
    def fail(asked: Request) -> Reply:
        match mistake:
            case "too large":
                return Reply(0, b"x" * (STDIN_BYTES + 1))
            case "no exit code":
                return Reply(-1)
        raise ValueError("a secret")

    handler = Recorder(quickly, fail)
    if mistake.startswith("no answer"):
        handler.quick = fail
    with place.serving(handler):
        for _ in range(2):
            done = place.run("ADD", CONTAINERID="c9")
            told = json.loads(done.stdout)
            assert (done.returncode, told["code"], told["cniVersion"]) == (1, 999, "1.0.0")
            assert b"secret" not in done.stdout
    assert len(caplog.records) == 2
    assert {each.container for each in caplog.records} == {"c9"}
    assert all(":" in each.where for each in caplog.records)


# --- the end --------------------------------------------------------------------------------------------------------


def test_at_the_end_what_was_begun_is_answered_and_the_others_see_no_agent(place):
    gate = Gate()
    server = place.serving(gate, Limits(workers=1))
    with ThreadPoolExecutor(4) as pool, connected_later(place) as late, server as serving:
        begun = pool.submit(call, place.socket, request("ADD"), SECONDS)
        until(lambda: gate.now)
        queued = late(request("DEL"))
        for_a_worker = late(request("ADD", CONTAINERID="c2"))
        unfinished = late(None)
        until(lambda: len(serving._clients) == 4)
        ended = pool.submit(serving.close)
        assert rest(queued) == rest(unfinished) == b""
        assert not ended.done()
        with pytest.raises(ConnectionRefusedError), connected(place):
            pass
        gate.open.release()
        ended.result(SECONDS)
        assert begun.result() == Reply(0, CONFIG)
        assert rest(for_a_worker) == b""
        serving.close = lambda: None
    assert len(gate.requests) == 1


@contextmanager
def connected_later(place):
    made: list[socket.socket] = []

    def connect(asked: Request | None) -> socket.socket:
        one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        made.append(one)
        one.settimeout(SECONDS)
        one.connect(str(place.socket))
        one.sendall(request_frame(asked) if asked else b"NP")
        return one

    yield connect
    for each in made:
        each.close()


def test_the_end_of_a_server_that_never_began_or_did_nothing_leaves_nothing(place):
    before = descriptors()
    for start in (False, True):
        with place.listen() as listening, CniServer(listening, Recorder()) as server:
            if start:
                server.start()
            assert server.serving == start
        place.socket.unlink()
    assert descriptors() == before
    assert "cni" not in {each.name for each in threading.enumerate()}
