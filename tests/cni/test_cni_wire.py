"""Frames, and the client in Python: whatever comes, it is a request, a reply or a BadFrame. See cni/wire.py."""

from __future__ import annotations

import os
import random
import socket
import struct
import subprocess
import sys
import threading

import pytest
from launching import CONFIG, SECONDS, Recorder, request

from cni.request import Reply, Request
from cni.wire import (
    ENVIRONMENT_BYTES,
    STDIN_BYTES,
    STDOUT_BYTES,
    BadFrame,
    call,
    reply_frame,
    request_frame,
    request_of,
    request_size,
)
from netplane.errors import KernelError, OwnershipError, RequirementError
from netplane.kernel.netns import Namespace

NOBODY = 65534


def head(magic: bytes = b"NPC1", errno: int = 0, environment: int = 0, stdin: int = 0) -> bytes:
    return struct.pack("=4s3I", magic, errno, environment, stdin)


# --- frames ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [
        Request({}, b""),
        Request({"CNI_COMMAND": "ADD", "CNI_ARGS": "a=b;c=d", "CNI_EMPTY": ""}, CONFIG, -1, 2),
        Request({"CNI_X": "ü\udcff\n"}, os.urandom(1000)),
        Request({}, b"\0" * STDIN_BYTES),
    ],
)
def test_a_request_comes_back_from_its_frame(asked):
    frame = request_frame(asked)
    assert request_of(frame) == asked
    assert request_size(frame[:16]) == len(frame)
    assert [request_size(frame[:size]) for size in range(16)] == [0] * 16


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        head()[:15],
        head(b"NPR1"),
        head(environment=ENVIRONMENT_BYTES + 1),
        head(stdin=STDIN_BYTES + 1),
        head(stdin=0xFFFFFFFF),
        head(stdin=2) + b"x",
        head(stdin=2) + b"xyz",
        head(environment=5) + b"CNI_A",
        head(environment=8) + b"CNI_A=1\n",
    ],
)
def test_what_is_no_request_is_refused(frame):
    with pytest.raises(BadFrame):
        request_of(frame)


def test_the_first_of_two_variables_counts_and_what_is_none_is_left_out():
    variables = b"CNI_A=1\0CNI_A=2\0CNI_B\0PATH=/bin\0\0=x\0CNI_C==\0"
    assert request_of(head(environment=len(variables)) + variables).environment == {"CNI_A": "1", "CNI_C": "="}


@pytest.mark.parametrize(
    "asked",
    [
        Request({"CNI_A": "1\0CNI_B=2"}, b""),
        Request({}, b"x" * (STDIN_BYTES + 1)),
        Request({"CNI_A": "x" * ENVIRONMENT_BYTES}, b""),
    ],
)
def test_what_has_no_frame_is_refused(asked):
    with pytest.raises(BadFrame):
        request_frame(asked)


@pytest.mark.parametrize("reply", [Reply(-1), Reply(256), Reply(0, b"x" * (STDOUT_BYTES + 1))])
def test_a_reply_that_cannot_be_told_is_refused(reply):
    with pytest.raises(BadFrame):
        reply_frame(reply)


@pytest.mark.parametrize("seed", range(20))
def test_changed_bytes_are_a_request_or_refused(seed):
    dice = random.Random(seed)
    frame = bytearray(request_frame(request(stdin=dice.randbytes(dice.randrange(100)))))
    for _ in range(200):
        changed = bytearray(frame)
        for _ in range(dice.randint(1, 4)):
            changed[dice.randrange(len(changed))] = dice.randrange(256)
        try:
            found = request_of(changed[: dice.choice((len(changed), dice.randrange(len(changed))))])
        except BadFrame:
            continue
        assert all(name.startswith("CNI_") for name in found.environment)
        assert request_of(request_frame(found)) == found


# --- the client -----------------------------------------------------------------------------------------------------


def test_a_call_is_answered(place):
    handler = Recorder(answer=lambda asked: Reply(7, asked.stdin))
    with place.serving(handler):
        assert call(place.socket, request("CHECK"), SECONDS) == Reply(7, CONFIG)
        assert call(place.socket, Request({}, b"x" * STDIN_BYTES), SECONDS) == Reply(7, b"x" * STDIN_BYTES)
    assert handler.requests[0].environment == request("CHECK").environment


@pytest.mark.kernel
def test_the_descriptor_of_a_call_arrives_and_stays_open(place):
    found = []
    handler = Recorder(answer=lambda asked: (found.append(os.fstat(asked.netns_fd).st_ino), Reply(0))[1])
    with Namespace() as namespace, place.serving(handler):
        assert call(place.socket, Request({}, b"", namespace.fd), SECONDS) == Reply(0)
        assert found == [os.fstat(namespace.fd).st_ino]


def test_a_path_longer_than_a_socket_address_works(place):
    deep = place.folder.joinpath(*["a-long-name-of-a-folder"] * 8)
    deep.mkdir(parents=True)
    with place.serving(Recorder()):
        (deep / "cni.sock").symlink_to(place.socket)
        assert call(deep / "cni.sock", request(), SECONDS) == Reply(0, b"done\n")


def test_nobody_there_is_said(place):
    with pytest.raises(KernelError, match=r"no agent listens there .* netplane agent run"):
        call(place.socket, request(), SECONDS)
    with pytest.raises(KernelError, match="no agent listens there"):
        call(place.folder / "nowhere" / "cni.sock", request(), SECONDS)
    place.listen().close()
    with pytest.raises(KernelError, match="no agent listens there"):
        call(place.socket, request(), SECONDS)


@pytest.mark.parametrize("answer", [b"", b"NPR1", struct.pack("=4s2I", b"NPR1", 0, 9) + b"too few"])
def test_an_agent_that_ends_is_said(place, answer):
    with place.answering(lambda one: (one.recv(1), one.sendall(answer))), pytest.raises(KernelError, match="the agent"):
        call(place.socket, request(), SECONDS)


@pytest.mark.parametrize("answer", [(b"HTTP", 0, 0), (b"NPR1", 256, 0), (b"NPR1", 0, STDOUT_BYTES + 1)])
def test_what_is_no_reply_is_said(place, answer):
    def say(one: socket.socket) -> None:
        one.recv(1 << 16)
        one.sendall(struct.pack("=4s2I", *answer))

    with place.answering(say), pytest.raises(KernelError, match="this is no reply"):
        call(place.socket, request(), SECONDS)


def test_an_agent_that_has_no_time_is_waited_for_no_longer_than_asked(place):
    enough = threading.Event()
    with place.answering(lambda _: enough.wait(SECONDS)):
        with pytest.raises(KernelError, match=r"did not answer for 0\.05 s"):
            call(place.socket, request(), 0.05)
        enough.set()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_a_socket_of_somebody_else_is_not_asked(place):
    place.folder.chmod(0o777)
    script = (
        "import os, socket, sys\n"
        f"os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        "made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM); made.bind(sys.argv[1]); made.listen()\n"
        "print('listening', flush=True); sys.stdin.read()\n"
    )
    command = (sys.executable, "-c", script, str(place.socket))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as impostor:
        assert impostor.stdout.readline() == b"listening\n"
        with pytest.raises(OwnershipError):
            call(place.socket, request(), SECONDS)
        impostor.stdin.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_without_the_right_to_ask_it_says_so(place):
    with place.serving(Recorder()):
        place.socket.chmod(0o600)
        place.folder.chmod(0o755)
        script = (
            "import os, sys; from pathlib import Path; from cni.wire import call; from cni.request import Request\n"
            f"os.setuid({NOBODY})\n"
            "try: call(Path(sys.argv[1]), Request({}, b''), 5)\n"
            f"except {RequirementError.__name__} as error: print(error)\n"
        )
        command = (sys.executable, "-c", f"from netplane.errors import RequirementError\n{script}", str(place.socket))
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert "run as root" in done.stdout, done
