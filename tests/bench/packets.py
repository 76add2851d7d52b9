"""How long a connection takes to be established: from `connect` until the answer to the SYN is there."""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import Mapping
from typing import NamedTuple

from bench.clusters import SERVICE_PORT, cluster_ip
from bench.nodes import BACKLOG, Node

_BATCH = 50
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Target(NamedTuple):
    """A Service, by its number, on a node."""

    node: Node
    index: int


def connect_times(targets: Mapping[str, Target], samples: int) -> dict[str, list[float]]:
    """Seconds per connection, `samples` for each target, in turns and in random order within each turn.

    Connections are reset at once: nothing of one is left when the next begins.
    """
    order = random.Random(1)
    names = [*targets]
    times: dict[str, list[float]] = {name: [] for name in names}
    assert _BATCH * 2 <= BACKLOG
    while len(times[names[0]]) < samples + _BATCH:
        sockets = {name: target.node.pod.run(_sockets) for name, target in targets.items()}
        for turn in range(_BATCH):
            order.shuffle(names)
            for name in names:
                address = (str(cluster_ip(targets[name].index)), SERVICE_PORT)
                times[name].append(_connect(sockets[name][turn], address))
        for name, target in targets.items():
            _finish(sockets[name], target.node.listening)
    return {name: each[_BATCH:] for name, each in times.items()}  # without the first batch: neighbours, caches


def _sockets() -> list[socket.socket]:
    made = []
    for _ in range(_BATCH):
        one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        one.settimeout(None)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        made.append(one)
    return made


def _connect(one: socket.socket, address: tuple[str, int]) -> float:
    started = time.perf_counter_ns()
    one.connect(address)
    return (time.perf_counter_ns() - started) / 1e9


def _finish(connected: list[socket.socket], listening: socket.socket) -> None:
    for one in connected:
        one.close()
    try:
        while True:
            listening.accept()[0].close()
    except BlockingIOError:
        return
