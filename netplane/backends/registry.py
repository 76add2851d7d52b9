"""The backends there are, by name."""

from __future__ import annotations

from netplane.backends.backend import Backend
from netplane.backends.iptables import IPTABLES
from netplane.backends.nftables import NFTABLES
from netplane.errors import InputError

BACKENDS: dict[str, Backend] = {backend.name: backend for backend in (NFTABLES, IPTABLES)}


def backend_named(name: str) -> Backend:
    """The backend of that name. Raises InputError naming those there are."""
    try:
        return BACKENDS[name]
    except KeyError:
        raise InputError(f"--backend {name!r}: there is {', '.join(BACKENDS)}") from None
