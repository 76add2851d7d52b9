"""What systemd is told, if it started us and asked: sd_notify(3)."""

from __future__ import annotations

import logging
import os
import socket
import time

from netplane.errors import one_line

log = logging.getLogger("netplane.agent")


class Systemd:
    """The socket of `NOTIFY_SOCKET`, or nobody. A systemd that does not listen is a warning, once."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        self.watchdog_seconds = _watchdog_seconds()
        """How often it wants to hear that we are alive: at least this often. 0: never."""

    def ready(self) -> None:
        """The start, or a reload, is done."""
        self._tell("READY=1")

    def reloading(self) -> None:
        """SIGHUP was received."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The end is near."""
        self._tell("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._tell(f"STATUS={one_line(text)}")

    def alive(self) -> None:
        """Keep the watchdog quiet."""
        self._tell("WATCHDOG=1")

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
                notify.setblocking(False)
                notify.sendto("\n".join(lines).encode(), address)
        except BlockingIOError:
            return  # it has much to read; the next line says as much
        except (OSError, ValueError) as error:
            # The kernel is up to date whoever knows it; systemd itself decides what silence means.
            log.warning("cannot tell systemd", extra={"why": f"NOTIFY_SOCKET={self._address}: {error}"})
            self._address = ""


def _watchdog_seconds() -> float:
    """WATCHDOG_USEC, unless it is meant for another process; 0 without a sensible one."""
    wanted, process = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not wanted.isdecimal() or (process and process != str(os.getpid())):
        return 0.0
    return int(wanted[:18]) / 1e6
