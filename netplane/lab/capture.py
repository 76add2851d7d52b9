"""Record what passes the links of a lab into pcap files (`--pcap DIR`)."""

from __future__ import annotations

import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from netplane.errors import InputError
from netplane.kernel.netns import Namespace
from netplane.lab.namespaces import Lab

ALL_FRAMES = 0x0003
_SO_RCVBUFFORCE, _BUFFER = 33, 8 << 20
_SNAP = 262144
_TURN_SECONDS = 0.05
_ETHERNET = struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, _SNAP, 1)


def tap(namespace: Namespace, link: str = "") -> socket.socket:
    """A socket that sees every frame of a link (of all links if none is named) in a namespace, both ways."""

    def work() -> socket.socket:
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        made = socket.socket(socket.AF_PACKET, kind, socket.htons(ALL_FRAMES))
        made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        if link:
            made.bind((link, ALL_FRAMES))
        return made

    return namespace.run(work)


@contextmanager
def recording(lab: Lab, folder: Path) -> Iterator[None]:
    """Write `NAME.pcap` for every namespace of the lab into `folder` while the context lasts."""
    with ExitStack() as opened, selectors.DefaultSelector() as selector:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, namespace in lab.namespaces().items():
                file = opened.enter_context((folder / f"{name.replace('/', '.')}.pcap").open("wb"))
                file.write(_ETHERNET)
                made = opened.enter_context(tap(namespace))
                selector.register(made, selectors.EVENT_READ, partial(_drain, made, file))
        except OSError as error:
            raise InputError(f"--pcap {folder}: cannot be written: {error.strerror}") from error
        stop = threading.Event()
        thread = threading.Thread(target=_record, args=(selector, stop), name="lab-pcap", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _record(selector: selectors.BaseSelector, stop: threading.Event) -> None:
    while True:
        last = stop.is_set()
        for key, _ in selector.select(0 if last else _TURN_SECONDS):
            key.data()
        if last:
            return


def _drain(made: socket.socket, file: BinaryIO) -> None:
    while True:
        try:
            frame = made.recv(_SNAP)
        except BlockingIOError:
            return
        seconds, rest = divmod(time.time_ns(), 1_000_000_000)
        file.write(struct.pack("=IIII", seconds, rest // 1000, len(frame), len(frame)) + frame)
