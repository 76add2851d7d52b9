"""Proofs about TCP: much of it arrives, and it goes on while something is broken and healed, or changed."""

from __future__ import annotations

import hashlib
import os
import select
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from netplane.closing import Closing
from netplane.errors import KernelError
from netplane.lab import sockets
from netplane.lab.proof import Proving, address
from netplane.lab.topology import PodHost
from netplane.model.address import Family

TRANSFER_BYTES = 2 << 20
TRANSFER_SECONDS = 20.0
STREAM_SECONDS = 20.0
_CHUNK = 1 << 16
_WORD = b"are you there?"


def much_arrives(proving: Proving, family: Family) -> list[str]:
    """Two megabytes over one TCP connection between Pods of every two nodes arrive as they were sent."""
    content = os.urandom(TRANSFER_BYTES)
    problems = []
    for here, there in proving.pairs():
        with _listening(proving, there, family) as ear:
            got = _transfer(proving, here, (str(address(there, family)), ear.getsockname()[1]), ear, content)
        if got != hashlib.sha256(content).hexdigest():
            problems.append(f"{here.node} -> {there.node}: {got}")
    return problems


@contextmanager
def _listening(proving: Proving, pod: PodHost, family: Family) -> Iterator[socket.socket]:
    with proving.lab.pods[pod.id].run(lambda: sockets.stream(family)) as made:
        made.setblocking(True)
        made.settimeout(TRANSFER_SECONDS)
        made.bind((str(address(pod, family)), 0))
        made.listen(1)
        yield made


def _transfer(proving: Proving, here: PodHost, to: tuple[str, int], ear: socket.socket, content: bytes) -> str:
    """The digest of what came, or what failed."""
    family = Family.IPV6 if ":" in to[0] else Family.IPV4
    with ExitStack() as opened:
        client = opened.enter_context(proving.lab.pods[here.id].run(lambda: sockets.stream(family)))
        client.setblocking(True)
        client.settimeout(TRANSFER_SECONDS)
        try:
            client.connect(to)
            server = opened.enter_context(ear.accept()[0])
            server.settimeout(TRANSFER_SECONDS)
            thread = threading.Thread(target=_say_all, args=(client, content), daemon=True)
            thread.start()
            digest, left = hashlib.sha256(), len(content)
            while left and (piece := server.recv(_CHUNK)):
                digest.update(piece)
                left -= len(piece)
            thread.join()
        except OSError as error:
            return error.strerror or str(error)
        return digest.hexdigest() if not left else f"{left} bytes of {len(content)} did not come"


def _say_all(client: socket.socket, content: bytes) -> None:
    try:
        client.sendall(content)
    except OSError:
        client.close()  # the other side will see what is missing


class Streams(Closing):
    """TCP connections between Pods of every two nodes, open until this is closed: whoever answers repeats the words.

    The servers of the lab must be lasting ones (`servers.Servers(lasting=True)`). Raises KernelError if a connection
    cannot be made.
    """

    def __init__(self, proving: Proving, families: Sequence[Family], port: int) -> None:
        self._open: dict[str, socket.socket] = {}
        with ExitStack() as made:
            for family in families:
                for here, there in proving.pairs():
                    client = made.enter_context(proving.lab.pods[here.id].run(lambda f=family: sockets.stream(f)))  # type: ignore[misc]
                    client.setblocking(True)
                    client.settimeout(STREAM_SECONDS)
                    try:
                        client.connect((str(address(there, family)), port))
                        client.recv(_CHUNK)  # the server's answer
                    except OSError as error:
                        who = f"{here.node} -> {there.node}, {family}"
                        raise KernelError(mechanism="lab", doing=f"connect {who}", said=str(error)) from error
                    self._open[f"{here.node} -> {there.node}, {family}"] = client
            self._made = made.pop_all()

    def __len__(self) -> int:
        return len(self._open)

    def broken(self) -> list[str]:
        """The connections on which a word does not come back within `STREAM_SECONDS`."""
        lost, waiting = [], {}
        for who, client in self._open.items():
            try:
                client.send(_WORD)
                waiting[client] = (who, b"")
            except OSError as error:
                lost.append(f"{who}: {error.strerror}")
        deadline = time.monotonic() + STREAM_SECONDS
        while waiting and (left := deadline - time.monotonic()) > 0:
            for client in select.select([*waiting], [], [], left)[0]:
                who, heard = waiting[client]
                heard += _hear(client)
                if heard.endswith(_WORD):
                    del waiting[client]
                elif not heard:
                    del waiting[client]
                    lost.append(f"{who}: ended")
                else:
                    waiting[client] = (who, heard)
        return lost + [f"{who}: silent for {STREAM_SECONDS:g} s" for who, _ in waiting.values()]

    def close(self) -> None:
        """End all of them."""
        self._made.close()


def _hear(client: socket.socket) -> bytes:
    try:
        return client.recv(_CHUNK)
    except OSError:
        return b""
