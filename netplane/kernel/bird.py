"""bird's control socket: what it is asked, and what it says of its sessions.

A command is a line. The answer is lines, each with a number of four digits and `-` (more follows) or a space (the
last one), or with a space instead of the number (same number as above). From 8000 on they are errors.

    1002-node_n2     BGP        ---        up     2026-11-21 20:16:56.844  Established
    1006-  BGP state:          Established
         Neighbor address: 10.9.0.2
    0000
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from netplane.closing import Closing
from netplane.errors import KernelError

SOCKET = "bird.ctl"
MECHANISM = "bird"

_ANSWER_SECONDS = 5.0
_NUMBERED = re.compile(r"(\d{4})([- ])(.*)", re.DOTALL)
_FIRST_ERROR = 8000
_PROTOCOL, _SHUTTING_DOWN = 1002, 6
_ROUTES = re.compile(r"\s*Routes:\s+(\d+) imported,(?: \d+ filtered,)? (\d+) exported")
_NO_PORT = "Error: No listening socket"
_LONGEST_LINE = 1 << 16


@dataclass(frozen=True, slots=True)
class Answer:
    """A line of an answer, with its number and without."""

    code: int
    text: str


@dataclass(frozen=True, slots=True)
class Session:
    """A session with another speaker of BGP, as bird tells.

    `state` in the words of RFC 4271: Established, Active, Connect, OpenSent, OpenConfirm, Idle; Down if it is switched
    off. `since`: of that, in local time, `2026-11-21 20:16:56.844`. `received` and `sent` are numbers of routes.
    `error`: the last there was, "" if none.
    """

    name: str
    neighbour: str
    asn: int
    state: str
    since: str
    received: int = 0
    sent: int = 0
    error: str = ""


class Unreachable(KernelError):
    """Nobody listens at the control socket, or there is none."""


class BirdControl(Closing):
    """A connection to the bird whose control socket is in `folder`. Raises KernelError where none answers, and in five
    seconds; Unreachable where none can."""

    def __init__(self, folder: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._unread = b""
        self._deadline = time.monotonic() + _ANSWER_SECONDS
        try:
            self._connect(folder)
            self._answer("connect")
        except OSError as error:
            self.close()
            nobody = isinstance(error, FileNotFoundError | ConnectionRefusedError)
            kind = Unreachable if nobody else KernelError
            raise kind(mechanism=MECHANISM, doing=f"connect to {folder / SOCKET}", said=_words(error)) from error
        except BaseException:
            self.close()
            raise

    def ask(self, command: str) -> list[Answer]:
        """What bird says to it. Raises KernelError if that is an error, or takes more than five seconds."""
        self._deadline = time.monotonic() + _ANSWER_SECONDS
        try:
            self._socket.settimeout(_ANSWER_SECONDS)
            self._socket.sendall(f"{command}\n".encode())
            return self._answer(command)
        except OSError as error:
            raise KernelError(mechanism=MECHANISM, doing=command, said=_words(error)) from error

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _connect(self, folder: Path) -> None:
        fd = os.open(folder, os.O_DIRECTORY | os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._socket.settimeout(_ANSWER_SECONDS)
            self._socket.connect(f"/proc/self/fd/{fd}/{SOCKET}")  # sun_path has 108 bytes, the path may have more
        finally:
            os.close(fd)

    def _answer(self, command: str) -> list[Answer]:
        answers = list(_numbered(self._lines()))
        for each in answers:
            if each.code >= _FIRST_ERROR or each.code == _SHUTTING_DOWN:
                raise KernelError(mechanism=MECHANISM, doing=command, said=each.text)
        return answers

    def _lines(self) -> Iterator[str]:
        while True:
            while b"\n" not in self._unread:
                if len(self._unread) > _LONGEST_LINE:
                    raise OSError("no end of a line")
                self._socket.settimeout(max(0.001, self._deadline - time.monotonic()))
                if not (more := self._socket.recv(1 << 16)):
                    raise OSError("hung up")
                self._unread += more
            line, _, self._unread = self._unread.partition(b"\n")
            yield line.decode(errors="backslashreplace")


def sessions(folder: Path) -> tuple[Session, ...]:
    """The sessions of the bird in `folder`, by name. Raises KernelError where none answers."""
    with BirdControl(folder) as control:
        return read_sessions(control.ask("show protocols all"))


def without_port(folder: Path) -> tuple[str, ...]:
    """Sessions that bird gave up for ever when somebody else had port 179. Raises KernelError where none answers."""
    with BirdControl(folder) as control:
        heads = (each.text for each in control.ask("show protocols") if each.text.endswith(_NO_PORT))
        return tuple(head.split()[0] for head in heads)


def enable(folder: Path, names: Iterable[str]) -> None:
    """Have it try again. Raises KernelError where none answers."""
    with BirdControl(folder) as control:
        for name in names:
            control.ask(f"enable {name}")


def read_sessions(answers: Iterable[Answer]) -> tuple[Session, ...]:
    """The sessions in an answer to `show protocols all`."""
    blocks: list[tuple[str, list[str]]] = []
    for each in answers:
        if each.code == _PROTOCOL:
            blocks.append((each.text, []))
        elif blocks:
            blocks[-1][1].append(each.text)
    found = (_session(head, details) for head, details in blocks if head.split()[1:2] == ["BGP"])
    return tuple(sorted(found, key=lambda each: each.name))


def _session(head: str, details: list[str]) -> Session:
    name, _, _, _, day, clock, *_ = [*head.split(), "", "", "", "", ""]
    told = dict(_told(details))
    counted = next((match for line in details if (match := _ROUTES.match(line))), None)
    received, sent = (int(counted[1]), int(counted[2])) if counted else (0, 0)
    return Session(
        name,
        told.get("Neighbor address", ""),
        int(told.get("Neighbor AS", "0")),
        told.get("BGP state", ""),
        f"{day} {clock}",
        received,
        sent,
        told.get("Last error", ""),
    )


def _told(details: list[str]) -> Iterator[tuple[str, str]]:
    for line in details:
        word, colon, value = line.strip().partition(":")
        if colon:
            yield word, value.strip()


def _words(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


def _numbered(lines: Iterator[str]) -> Iterator[Answer]:
    """The lines of one answer."""
    code = 0
    for line in lines:
        if match := _NUMBERED.fullmatch(line):
            code = int(match[1])
            yield Answer(code, match[3])
            if match[2] == " ":
                return
        else:
            yield Answer(code, line[1:])
