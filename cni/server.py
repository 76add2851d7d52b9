"""The agent's side of the launcher's socket: a thread that takes requests, has them done, and answers.

    accept -> read -> one container's requests in order -+-> quick: in this thread, at once
                                                         +-> slow:  in one of a few others
                                                         '-> reply -> close

Nothing a client does or fails to do holds up the others: requests and answers have a deadline, only root and our own
user are listened to, and what nobody waits for any more is not begun. What was begun is finished.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import select
import socket
import threading
import time
from array import array
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import Enum, auto
from pathlib import Path
from typing import Protocol

from cni.decode import version_of
from cni.failure import Code, Failure
from cni.request import Reply, Request
from cni.wire import BadFrame, reply_frame, request_of, request_size
from netplane.closing import Closing
from netplane.kernel.peer import peer

log = logging.getLogger("netplane.cni")

_BUFFER = 1 << 16
_DESCRIPTORS = 4  # as many are looked at, in order to close all but one; the kernel closes what is beyond
_ANCILLARY = socket.CMSG_SPACE(_DESCRIPTORS * array("i").itemsize)
_RECEIVE = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
_DEAF_SECONDS, _HELPERS = 0.1, 2
_OUT_OF = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Handler(Protocol):
    """Who does what is asked. Called from several threads at once, but never twice for one container."""

    def quick(self, request: Request) -> bool:
        """Whether `handle` takes about a millisecond: then it is called in the thread all others wait for."""
        ...

    def handle(self, request: Request) -> Reply:
        """Do it. The request's descriptor is closed afterwards."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients may use: how many at once, threads for the slow ones, and seconds to ask and to take the answer."""

    clients: int = 400
    workers: int = 16
    seconds: float = 10.0


class _Stage(Enum):
    READING = auto()
    QUEUED = auto()
    """Behind another request of its container."""
    AT_WORK = auto()
    """In this thread, or given to a worker, from which it comes back."""
    ANSWERING = auto()


class _Client:
    """One connection, from accept to close, and what came over it."""

    __slots__ = ("connection", "deadline", "descriptors", "lost", "reply", "request", "stage", "unread", "unsent")

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.stage = _Stage.READING
        self.deadline = 0.0
        self.unread = bytearray()
        self.unsent = b""
        self.descriptors: list[int] = []
        self.lost = False
        """A descriptor was sent and could not be received."""
        self.request = Request({}, b"")
        self.reply: Reply | None = None

    @property
    def container(self) -> str:
        """Whose requests are done one after the other; "" if this one is about no container."""
        return self.request.environment.get("CNI_CONTAINERID", "")

    def receive(self, buffer: memoryview) -> bool:
        """Read what there is; whether it is the whole request. Raises BadFrame, EOFError, OSError."""
        size, ancillary, flags, _ = self.connection.recvmsg_into([buffer], _ANCILLARY, _RECEIVE)
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                sent = array("i")
                sent.frombytes(content[: len(content) - len(content) % sent.itemsize])
                self.descriptors += sent
                self._close_descriptors(keep=1)
        self.lost = self.lost or bool(flags & socket.MSG_CTRUNC)
        if not size:
            raise EOFError
        self.unread += buffer[:size]
        whole = request_size(self.unread)
        if not whole or len(self.unread) < whole:
            return False
        self._decode()
        return True

    def _decode(self) -> None:
        request = request_of(self.unread, self.descriptors[0] if self.descriptors else -1)
        if self.lost and request.netns_fd < 0:
            request = replace(request, netns_errno=errno.EMFILE)
        self.request, self.unread = request, bytearray()

    def gone(self) -> bool:
        """Whether the client closed its end; one that waits for its answer does not."""
        try:
            return not self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        self._close_descriptors(keep=0)
        self.connection.close()

    def _close_descriptors(self, keep: int) -> None:
        while len(self.descriptors) > keep:
            os.close(self.descriptors.pop())


class CniServer(Closing):
    """Serves a listening socket, which it closes, in a thread called "cni"."""

    def __init__(self, listening: socket.socket, handler: Handler, limits: Limits | None = None) -> None:
        self._listening, self._handler, self._limits = listening, handler, limits or Limits()
        self._listening.setblocking(False)
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._listening, select.EPOLLIN)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._workers = ThreadPoolExecutor(self._limits.workers, thread_name_prefix="cni-slow")
        self._helpers = ThreadPoolExecutor(_HELPERS, thread_name_prefix="cni-quick")
        self._thread = threading.Thread(target=self._run, name="cni", daemon=True)
        self._clients: set[_Client] = set()
        self._waiting: dict[int, _Client] = {}  # for their sockets: by descriptor, the earliest deadline first
        self._lines: dict[str, deque[_Client]] = {}  # by container: who waits for the one at work
        self._done: deque[_Client] = deque()  # by workers
        self._buffer = memoryview(bytearray(_BUFFER))
        self._closing = False
        self._deaf_until = 0.0

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    @property
    def serving(self) -> bool:
        """Whether the thread lives."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Take no more requests, finish those that were begun, and answer them.

        Clients whose request was not begun see the connection end, as if no agent was there.
        """
        self._closing = True
        if self._thread.is_alive():
            os.eventfd_write(self._wake, 1)
            self._thread.join()
        for each in (self._workers, self._helpers):
            each.shutdown()
        self._listening.close()
        self._epoll.close()
        os.close(self._wake)

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._closing:
                self._round()
            self._stop_listening()
            self._lines.clear()
            for client in [each for each in self._clients if each.stage in (_Stage.READING, _Stage.QUEUED)]:
                self._drop(client)
            while self._clients:
                self._round()
        finally:
            self._stop_listening()  # nobody may wait for a thread that is no more

    def _stop_listening(self) -> None:
        self._closing = True
        self._listening.close()  # epoll forgets it, too

    def _round(self) -> None:
        for fd, _ in self._epoll.poll(self._patience()):
            client = self._waiting.get(fd)
            if fd == self._wake:
                self._collect()
            elif client is not None:
                self._receive(client) if client.stage is _Stage.READING else self._send(client)
            elif fd == self._listening.fileno():
                self._accept()
        self._drop_late()

    def _accept(self) -> None:
        try:
            connection, _ = self._listening.accept()
        except OSError as error:
            if error.errno in _OUT_OF:  # it would be readable again at once: let somebody end first
                log.warning("cannot accept a request", extra={"why": error.strerror})
                self._listen(0)
                self._deaf_until = time.monotonic() + _DEAF_SECONDS
            return
        client = _Client(connection)
        self._clients.add(client)
        if (user := peer(connection)[1]) not in (0, os.geteuid()):
            log.warning("somebody who may not asked for a network", extra={"user": user})
            self._drop(client)
        elif len(self._clients) > self._limits.clients:
            self._answer(client, _failed(client, Code.TRY_AGAIN_LATER, "the agent has too much to do"))
        else:
            self._receive(client)

    def _receive(self, client: _Client) -> None:
        try:
            if client.receive(self._buffer):
                self._stop_waiting(client)
                self._arrived(client)
            else:
                self._wait(client, select.EPOLLIN)
        except BlockingIOError:
            self._wait(client, select.EPOLLIN)
        except BadFrame as error:
            self._answer(client, _failed(client, Code.IO_FAILURE, str(error)))
        except (EOFError, OSError):  # whoever asked has ended, or was killed
            self._drop(client)

    def _arrived(self, client: _Client) -> None:
        client.stage = _Stage.QUEUED
        if client.container in self._lines:
            self._lines[client.container].append(client)
            return
        if client.container:
            self._lines[client.container] = deque()
        self._begin(client)

    def _begin(self, first: _Client) -> None:
        """Have a request done, and those behind it in its line up to one that is slow."""
        client: _Client | None = first
        while client is not None:
            client.stage = _Stage.AT_WORK
            if not self._quick(client):
                self._workers.submit(self._work, client)
                return
            if len(self._clients) > 1:  # one in the kernel, one in Python: more would only wait for one another
                self._helpers.submit(self._work, client)
                return
            self._do(client)
            client = self._finished(client)

    def _work(self, client: _Client) -> None:
        """In a worker."""
        try:
            if not self._closing:
                self._do(client)
        finally:
            self._done.append(client)
            os.eventfd_write(self._wake, 1)

    def _do(self, client: _Client) -> None:
        """A DEL is done even if nobody waits: whoever asked wants it gone."""
        if client.request.environment.get("CNI_COMMAND") != "DEL" and client.gone():
            return
        try:
            client.reply = self._handler.handle(client.request)
        except Exception as error:
            client.reply = _broken(client, error)

    def _quick(self, client: _Client) -> bool:
        try:
            return self._handler.quick(client.request)
        except Exception:
            return False  # it will fail in the same way when it is done, and is told of there

    def _finished(self, client: _Client) -> _Client | None:
        """Answer, and say who is next in the line."""
        if client.reply is None:
            self._drop(client)
        else:
            self._answer(client, client.reply)
        line = self._lines.get(client.container)
        if line:
            return line.popleft()
        self._lines.pop(client.container, None)
        return None

    def _collect(self) -> None:
        os.eventfd_read(self._wake)
        while self._done:
            following = self._finished(self._done.popleft())
            if following is not None:
                self._begin(following)

    # --- the sockets --------------------------------------------------------------------------------------------------

    def _answer(self, client: _Client, reply: Reply) -> None:
        try:
            client.unsent = reply_frame(reply)
        except BadFrame as error:
            client.unsent = reply_frame(_broken(client, error))
        self._stop_waiting(client)
        client.stage = _Stage.ANSWERING
        self._send(client)

    def _send(self, client: _Client) -> None:
        try:
            sent = client.connection.send(client.unsent, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            client.unsent = client.unsent[sent:]
        except BlockingIOError:
            pass
        except OSError:
            client.unsent = b""  # nobody is there any more
        if client.unsent:
            self._wait(client, select.EPOLLOUT)
        else:
            self._drop(client)

    def _wait(self, client: _Client, event: int) -> None:
        fd = client.connection.fileno()
        if fd not in self._waiting:
            client.deadline = time.monotonic() + self._limits.seconds
            self._waiting[fd] = client
            try:
                self._epoll.register(fd, event)
            except OSError as error:
                log.warning("cannot wait for a client", extra={"why": error.strerror})
                del self._waiting[fd]
                self._drop(client)

    def _stop_waiting(self, client: _Client) -> None:
        if self._waiting.pop(client.connection.fileno(), None) is not None:
            self._epoll.unregister(client.connection)

    def _drop(self, client: _Client) -> None:
        self._stop_waiting(client)
        self._clients.discard(client)
        client.close()

    def _patience(self) -> float:
        """Seconds until something has to be done even if nothing happens; -1: never."""
        times = [next(iter(self._waiting.values())).deadline] if self._waiting else []
        if self._deaf_until:
            times.append(self._deaf_until)
        return max(0.0, min(times) - time.monotonic()) if times else -1

    def _drop_late(self) -> None:
        if not self._waiting and not self._deaf_until:
            return
        now = time.monotonic()
        for client in list(self._waiting.values()):
            if client.deadline > now:
                break
            self._drop(client)
        if self._deaf_until and now >= self._deaf_until:
            self._deaf_until = 0.0
            self._listen(select.EPOLLIN)

    def _listen(self, event: int) -> None:
        if not self._closing:
            self._epoll.modify(self._listening, event)


def _broken(client: _Client, error: Exception) -> Reply:
    """What is told of a mistake of ours: to the client that there is one, to the log which."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace is not None else ""
    command = client.request.environment.get("CNI_COMMAND", "")
    log.error(
        "a request failed by a mistake of netplane",
        extra={"command": command, "container": client.container, "why": repr(error), "where": where},
    )
    return _failed(client, Code.INTERNAL, "netplane made a mistake; the agent's log says more")


def _failed(client: _Client, code: Code, said: str) -> Reply:
    value = Failure(code, said).value(version_of(client.request.stdin))
    return Reply(1, json.dumps(value).encode() + b"\n")
