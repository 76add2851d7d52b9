"""The process of a storm: servers in pods, new connections without end, and some that last. See `storm.py`.

Speaks JSON lines: what to do comes on standard input, what went wrong is said on standard output at once. One thread,
one epoll: sockets belong to the namespace they were opened in, so they can all be served here.

A connection is lost if its SYN had to be sent again, which the kernel itself counts (TCP_INFO), or if it is not there
after 0.9 s: the first retransmission is due after 1 s.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import select
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

CLONE_NEWNET = 0x40000000
LOST_AFTER = 0.9
SILENT_AFTER = 5.0
"""Seconds in which a server that took a connection must have said who it is, and one that lasts must have answered."""
TICK = 0.01
MOST_AT_ONCE = 600
PING_EVERY = 0.2
_TCP_ESTABLISHED = 1
_TCPI_TOTAL_RETRANS = 100  # offset in struct tcp_info: linux/tcp.h
_RESET_ON_CLOSE = b"\1\0\0\0\0\0\0\0"  # struct linger: on, 0 s
_LOWEST_PORT, _HIGHEST_PORT = 20000, 65000
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class Target:
    """Where a client connects to. `history` are the outcomes allowed so far, the last one now."""

    id: int
    client: int
    name: str
    address: tuple[str, int]
    lasting: bool
    history: list[frozenset[str]] = field(default_factory=lambda: [frozenset({"refused"})])

    @property
    def family(self) -> int:
        return socket.AF_INET6 if ":" in self.address[0] else socket.AF_INET

    def allowed_since(self, since: int) -> frozenset[str]:
        return frozenset().union(*self.history[since:])


@dataclass(slots=True)
class Client:
    """Who connects: a namespace, its source addresses by family, and the mark that makes it go via a node."""

    path: str
    sources: dict[int, str]
    mark: int
    fd: int = -1
    next_port: int = _LOWEST_PORT


@dataclass(slots=True)
class Try:
    """One connection. `since` is the index into the target's history at its start."""

    made: socket.socket
    target: Target
    started: float
    since: int
    connected: bool = False
    greeted: str = ""
    asked: int = 0
    answered: float = 0.0


class Storm:
    """All of it."""

    def __init__(self, servers: list[dict[str, Any]], clients: list[dict[str, Any]], rate: float) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._clients = [
            Client(each["path"], {int(f): a for f, a in each["sources"].items()}, each["mark"]) for each in clients
        ]
        for client in self._clients:
            client.fd = os.open(client.path, os.O_RDONLY)
        self._listening = [made for each in servers for made in _listen(each)]
        for made, echo in self._listening:
            self._watch(made.fileno(), select.EPOLLIN, lambda _, made=made, echo=echo: self._accept(made, echo=echo))
        self._targets: dict[int, Target] = {}
        self._lasting_targets: list[Target] = []
        self._round: deque[Target] = deque()
        self._open: dict[int, Try] = {}
        self._lasting: dict[int, Try] = {}
        self._rate, self._budget, self._paused, self._done = rate, 0.0, True, False
        self._ended: Counter[str] = Counter()
        self._servers: set[str] = set()
        self._breaks = 0
        self._slowest = 0.0
        self._input = b""
        os.set_blocking(0, False)
        self._watch(0, select.EPOLLIN, self._commands)

    def run(self) -> None:
        """Until told to stop."""
        _say(ready=True)
        before = time.monotonic()
        next_look = before
        while not self._done:
            for fd, events in self._epoll.poll(TICK, 4096):
                if handler := self._handlers.get(fd):
                    handler(events)
            now = time.monotonic()
            if not self._paused:
                self._budget = min(self._budget + (now - before) * self._rate, self._rate / 10)
                self._start(now)
            before = now
            if now >= next_look:
                next_look = now + 0.05
                self._look(time.monotonic())
        _say(
            ended=dict(self._ended),
            servers=len(self._servers),
            slowest=round(self._slowest, 4),
            lasting=len(self._lasting),
            broken=self._breaks,
        )

    # --- what the test says ---

    def _commands(self, _: int) -> None:
        while True:
            try:
                data = os.read(0, 1 << 20)
            except BlockingIOError:
                break
            if not data:
                self._done = True
                return
            self._input += data
        *lines, self._input = self._input.split(b"\n")
        for line in lines:
            self._obey(json.loads(line))

    def _obey(self, said: dict[str, Any]) -> None:
        for each in said.get("targets", ()):
            target = Target(each["id"], each["client"], each["name"], tuple(each["address"]), each["lasting"])
            self._targets[target.id] = target
            (self._lasting_targets if target.lasting else self._round).append(target)
        for number, outcomes in said.get("allow", {}).items():
            self._targets[int(number)].history.append(frozenset(outcomes))
        if "lasting" in said:
            for _ in range(said["lasting"]):
                self._lasting_targets.append(target := self._lasting_targets.pop(0))
                self._connect(target, time.monotonic())
        if "paused" in said:
            self._paused = said["paused"]
        if said.get("stop"):
            self._done = True
        if "ack" in said:
            _say(ack=said["ack"], open=len(self._open), lasting=len(self._lasting), ended=self._ended.total())

    # --- new connections ---

    def _start(self, now: float) -> None:
        count = min(int(self._budget), MOST_AT_ONCE - len(self._open), len(self._round))
        self._budget -= max(count, 0)
        chosen: dict[int, list[Target]] = {}
        for _ in range(count):
            self._round.rotate(-1)
            chosen.setdefault(self._round[0].client, []).append(self._round[0])
        for targets in chosen.values():
            for target in targets:
                self._connect(target, now)

    def _connect(self, target: Target, now: float) -> None:
        client = self._clients[target.client]
        _enter(client.fd)
        made = socket.socket(target.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        if client.mark:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, client.mark)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        this = Try(made, target, now, len(target.history) - 1)
        try:
            _bind(made, client)
            failed = made.connect_ex(target.address)
        except OSError as error:
            failed = error.errno or errno.EIO
        if failed not in (0, errno.EINPROGRESS):
            made.close()
            self._end(this, _word(failed))
            return
        (self._lasting if target.lasting else self._open)[made.fileno()] = this
        self._watch(made.fileno(), select.EPOLLOUT, lambda events: self._moved(this, events))

    def _moved(self, this: Try, events: int) -> None:
        made = this.made
        if not this.connected:
            failed = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if failed:
                self._close(this, _word(failed))
                return
            this.connected = True
            if _sent_again(made):
                self._close(this, "lost")
                return
            self._slowest = max(self._slowest, time.monotonic() - this.started)
            self._epoll.modify(made.fileno(), select.EPOLLIN)
            if not events & select.EPOLLIN:
                return
        try:
            data = made.recv(200)
        except BlockingIOError:
            return
        except OSError as error:
            self._close(this, _word(error.errno or 0))
            return
        self._heard(this, data)

    def _heard(self, this: Try, data: bytes) -> None:
        if not data:
            self._close(this, "ended")
        elif not this.target.lasting:
            self._close(this, data.decode())
        elif not this.greeted:
            this.greeted, this.answered = data.decode(), time.monotonic()
            self._judge(this, this.greeted)
        else:
            this.asked, this.answered = 0, time.monotonic()

    # --- outcomes ---

    def _close(self, this: Try, outcome: str) -> None:
        fd = this.made.fileno()
        self._forget(fd)
        this.made.close()
        (self._lasting if this.target.lasting else self._open).pop(fd, None)
        self._end(this, outcome)

    def _end(self, this: Try, outcome: str) -> None:
        if this.greeted:
            self._broken(this, outcome)
        else:
            self._judge(this, outcome)

    def _judge(self, this: Try, outcome: str) -> None:
        kind = "served" if ":" in outcome else outcome
        self._ended[kind] += 1
        if kind == "served":
            self._servers.add(outcome)
        if outcome not in (allowed := this.target.allowed_since(this.since)):
            took = time.monotonic() - this.started
            _say(wrong=f"{this.target.name}: {outcome} after {took:.3f} s; allowed: {', '.join(sorted(allowed))}")

    def _broken(self, this: Try, outcome: str) -> None:
        self._breaks += 1
        age = time.monotonic() - this.started
        _say(wrong=f"{this.target.name}: an established connection to {this.greeted} {outcome} after {age:.1f} s")

    def _look(self, now: float) -> None:
        """What should have happened by now; and a word on every connection that lasts."""
        for this in [each for each in self._open.values() if now - each.started > LOST_AFTER]:
            if this.connected:
                if now - this.started > SILENT_AFTER:
                    self._close(this, "silent")
            elif not _established(this.made):
                self._close(this, "lost")
        for this in list(self._lasting.values()):
            if not this.greeted:
                if now - this.started > (SILENT_AFTER if this.connected else LOST_AFTER):
                    self._close(this, "silent" if this.connected or _established(this.made) else "lost")
            elif this.asked and now - this.answered > SILENT_AFTER:
                self._close(this, "silent")
            elif not this.asked and now - this.answered > PING_EVERY:
                this.asked = 1
                try:
                    this.made.send(b"?")
                except OSError as error:
                    self._close(this, _word(error.errno or 0))

    # --- servers ---

    def _accept(self, listening: socket.socket, *, echo: bool) -> None:
        with suppress(BlockingIOError, ConnectionAbortedError):
            while True:
                made, _ = listening.accept()
                address, port, *_ = made.getsockname()
                with suppress(OSError):
                    made.send(f"[{address}]:{port}".encode() if ":" in address else f"{address}:{port}".encode())
                if not echo:
                    made.close()
                    continue
                made.setblocking(False)
                self._watch(made.fileno(), select.EPOLLIN, lambda _, made=made: self._echo(made))

    def _echo(self, made: socket.socket) -> None:
        try:
            if data := made.recv(200):
                made.send(data)
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._forget(made.fileno())
        made.close()

    # --- epoll ---

    def _watch(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        self._handlers[fd] = handler
        self._epoll.register(fd, events)

    def _forget(self, fd: int) -> None:
        self._handlers.pop(fd, None)
        self._epoll.unregister(fd)


def _listen(server: dict[str, Any]) -> Iterator[tuple[socket.socket, bool]]:
    """Doors that say who they are and close, and such that answer for as long as they are asked (True)."""
    fd = os.open(server["path"], os.O_RDONLY)
    _enter(fd)
    os.close(fd)
    for family, transparent in ((socket.AF_INET, (socket.SOL_IP, 19)), (socket.AF_INET6, (socket.IPPROTO_IPV6, 75))):
        for port in (*server["greet"], *server["echo"]):
            made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if server["everyone"]:
                made.setsockopt(*transparent, 1)
            made.bind(("", port))
            made.listen(4096)
            yield made, port in server["echo"]


def _bind(made: socket.socket, client: Client) -> None:
    """Ports by turns: one that was used is not used again before connection tracking has forgotten it."""
    while True:
        client.next_port = client.next_port + 1 if client.next_port < _HIGHEST_PORT else _LOWEST_PORT
        try:
            made.bind((client.sources[made.family], client.next_port))
            return
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise


def _enter(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _sent_again(made: socket.socket) -> bool:
    info = made.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
    return int.from_bytes(info[_TCPI_TOTAL_RETRANS : _TCPI_TOTAL_RETRANS + 4], sys.byteorder) > 0


def _established(made: socket.socket) -> bool:
    return made.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_ESTABLISHED


def _word(number: int) -> str:
    return {errno.ECONNREFUSED: "refused", errno.ECONNRESET: "reset", errno.ETIMEDOUT: "lost"}.get(
        number, errno.errorcode.get(number, str(number))
    )


def _say(**what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    start = json.loads(sys.stdin.buffer.raw.readline())  # unbuffered: the rest is read by epoll
    Storm(start["servers"], start["clients"], start["rate"]).run()
