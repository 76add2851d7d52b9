"""What is measured next to each other: each backend, and iptables in both variants."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from netplane.backends.registry import BACKENDS


@dataclass(frozen=True, slots=True)
class Way:
    """A backend and, for iptables, one of its variants."""

    backend: str
    variant: str = ""

    def __str__(self) -> str:
        return f"{self.backend} ({self.variant})" if self.variant else self.backend


NFTABLES = Way("nftables")
IPTABLES = Way("iptables", "nf_tables")
LEGACY = Way("iptables", "legacy")
WAYS = tuple(each for each in (NFTABLES, IPTABLES, LEGACY) if each.backend in BACKENDS)
"""Those that netplane has."""


@contextmanager
def private_lock() -> Iterator[None]:
    """Let no iptables that is started meanwhile wait for, or hold up, the host's own: a lock file for us alone.

    Namespaces share /run/xtables.lock, although they share no rules.
    """
    before = os.environ.get("XTABLES_LOCKFILE")
    with tempfile.NamedTemporaryFile(prefix="netplane-bench-lock-") as lock:
        os.environ["XTABLES_LOCKFILE"] = lock.name
        try:
            yield
        finally:
            if before is None:
                del os.environ["XTABLES_LOCKFILE"]
            else:
                os.environ["XTABLES_LOCKFILE"] = before
