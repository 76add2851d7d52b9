"""What bird's control socket says, word for word, however it is cut. See netplane/kernel/bird.py."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from netplane.errors import KernelError
from netplane.kernel.bird import (
    SOCKET,
    Answer,
    BirdControl,
    Session,
    Unreachable,
    read_sessions,
    sessions,
    without_port,
)

GREETING = b"0001 BIRD 2.0.12 ready.\n"
SESSIONS = b"""\
2002-Name       Proto      Table      State  Since         Info
1002-np_device  Device     ---        up     2026-11-21 20:16:55.971  \n\
1006-
1002-node_n2    BGP        ---        up     2026-11-21 20:16:56.844  Established   \n\
1006-  BGP state:          Established
     Neighbor address: 10.9.0.2
     Neighbor AS:      64512
     Local AS:         64512
   Channel ipv4
     State:          UP
     Routes:         12 imported, 3 exported, 11 preferred
     Route change stats:     received   rejected   filtered    ignored   accepted
       Import updates:              1          0          0          0          1
1002-router_1   BGP        ---        start  2026-11-21 20:16:55.971  Active        Socket: Connection refused
1006-  BGP state:          Active
     Neighbor address: 2001:db8::78
     Neighbor AS:      4200000000
     Last error:       Socket: Connection refused
   Channel ipv6
     State:          DOWN
1002-node_n3    BGP        ---        down   2026-11-21 20:16:57.001  Error: No listening socket
1006-  BGP state:          Down
     Neighbor address: 10.9.0.3
     Neighbor AS:      64512
     Last error:       Error: No listening socket
 \n\
0000 \n"""
TOLD = (
    Session("node_n2", "10.9.0.2", 64512, "Established", "2026-11-21 20:16:56.844", 12, 3),
    Session("node_n3", "10.9.0.3", 64512, "Down", "2026-11-21 20:16:57.001", error="Error: No listening socket"),
    Session(
        "router_1", "2001:db8::78", 4200000000, "Active", "2026-11-21 20:16:55.971", error="Socket: Connection refused"
    ),
)


@contextmanager
def bird_that_says(folder: Path, *answers: bytes, cut: int = 1 << 16) -> Iterator[list[bytes]]:
    """Somebody at the control socket who greets, then answers each command, a few bytes at a time; what it heard."""
    heard: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / SOCKET))
        listening.listen()

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                for at, answer in enumerate((GREETING, *answers)):
                    if at:
                        heard.append(connection.recv(1000))
                    for start in range(0, len(answer), cut):
                        connection.sendall(answer[start : start + cut])

        thread = threading.Thread(target=serve)
        thread.start()
        yield heard
        thread.join()


@pytest.mark.parametrize("cut", [1, 7, 1 << 16])
def test_sessions_are_read_however_the_answer_is_cut(tmp_path, cut):
    with bird_that_says(tmp_path, SESSIONS, cut=cut) as heard:
        assert sessions(tmp_path) == TOLD
    assert heard == [b"show protocols all\n"]


def test_who_found_the_port_taken_is_told_from_who_is_switched_off(tmp_path):
    off = b"1002-node_n4    BGP        ---        down   2026-11-21 20:16:57.001  \n0000 \n"
    heads = b"".join(line + b"\n" for line in SESSIONS.split(b"\n") if line[:5] in (b"2002-", b"1002-"))
    with bird_that_says(tmp_path, heads + off):
        assert without_port(tmp_path) == ("node_n3",)


def test_the_number_of_a_line_without_one_is_that_of_the_line_above(tmp_path):
    said = b"1000-BIRD 2.0.12\n1011-Router ID is 1.1.1.1\n Hostname is n\n0013 Up\n"
    with bird_that_says(tmp_path, said), BirdControl(tmp_path) as control:
        found = control.ask("show status")
    assert found == [
        Answer(1000, "BIRD 2.0.12"),
        Answer(1011, "Router ID is 1.1.1.1"),
        Answer(1011, "Hostname is n"),
        Answer(13, "Up"),
    ]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"0002-Reading configuration from bird.conf\n8002 bird.conf:1:9 syntax error\n", "bird.conf:1:9 syntax error"),
        (b"9001 syntax error\n", "syntax error"),
        (b"0002-Reading configuration from bird.conf\n0006 Reconfiguration ignored, shutting down\n", "shutting down"),
        (b"1000-half a", "hung up"),
        (b"", "hung up"),
        (b"x" * 70000, "no end of a line"),
    ],
)
def test_an_error_says_what_was_asked_and_what_came_back(tmp_path, answer, said):
    with (
        bird_that_says(tmp_path, answer),
        BirdControl(tmp_path) as control,
        pytest.raises(KernelError, match=f"configure: .*{said}"),
    ):
        control.ask("configure")


def test_where_nobody_listens_that_is_said(tmp_path):
    with pytest.raises(Unreachable, match="No such file"):
        BirdControl(tmp_path)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / SOCKET))
    with pytest.raises(Unreachable, match="refused"):
        BirdControl(tmp_path)


def test_words_nobody_knows_are_no_session():
    assert read_sessions([Answer(1002, ""), Answer(1002, "x"), Answer(1006, "BGP state: Up"), Answer(9, "")]) == ()
    assert read_sessions([Answer(1002, "node_n2 BGP")]) == (Session("node_n2", "", 0, "", " "),)
