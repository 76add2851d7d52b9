"""The lock file of the legacy variant, and who holds it. Never takes it: iptables itself does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

SECONDS = 5
"""How long iptables waits for the lock (its option -w)."""


def lock_file() -> Path:
    """Where this iptables has its lock."""
    return Path(os.environ.get("XTABLES_LOCKFILE", "/run/xtables.lock"))


def held() -> str:
    """`/run/xtables.lock is held by 4711 (kube-proxy)`, as far as the kernel tells."""
    path = lock_file()
    holders = [f"{pid} ({_command(pid)})" for pid in _holders(path)]
    return f"{path} is held by {', '.join(holders) or 'a process that cannot be seen from here'}"


def _holders(path: Path) -> Iterator[int]:
    """Processes with a lock on a file, from lines like `1: FLOCK  ADVISORY  WRITE 4711 fe:01:131 0 EOF`."""
    try:
        file = path.stat()
        lines = Path("/proc/locks").read_text().splitlines()
    except FileNotFoundError:
        return
    place = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
    for line in lines:
        words = line.split()
        if place in words and "->" not in words:  # an arrow: it only waits
            pid = int(words[words.index(place) - 1])
            if pid > 0:
                yield pid


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "it has just ended"
