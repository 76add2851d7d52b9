"""Which peers of this node's WireGuard link are heard from: for people, whoever serves the link."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from netplane.kernel.links import Links
from netplane.kernel.wireguard_device import KernelDevice, ProcessDevice
from netplane.kernel.wireguard_mechanism import LINK


def peers_seen(run_directory: Path, link: str = LINK) -> Mapping[str, float | None]:
    """By public key, the seconds since the last handshake, None if there was none; empty if there is no such link here.

    A peer with traffic has one every two minutes; after three without, it does not hear us or we do not hear it. Raises
    KernelError if whoever serves the link gives no answer.
    """
    with Links() as links, KernelDevice(links) as kernel, ProcessDevice(run_directory) as process:
        device = kernel.read(link) or (process.read(link) if process.here(link) else None)
    now = time.time()
    peers = device.peers.values() if device else ()
    return {peer.key: max(now - peer.handshake, 0.0) if peer.handshake else None for peer in peers}
