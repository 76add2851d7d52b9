"""What the cluster last said of this node, on disk: for whoever works without an agent.

/var/lib/netplane/cni/network.json   {"ranges": ["10.88.1.0/24"], "peers": ["192.0.2.12"], "mtu": 1450,
                                      "masquerades": true}
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path

from cni.directory import Directory, read_all
from cni.failure import Code, Failure
from netplane.model.address import IPAddress, IPNetwork

log = logging.getLogger("netplane.cni")

NAME, NEW = "network.json", "network.json.new"
_LARGEST = 1 << 20


@dataclass(frozen=True, slots=True)
class NodeNetwork:
    """What the cluster says of this node: its pod ranges, and the addresses of the other nodes.

    `mtu`: bytes of the largest packet a Pod may send to any other, 0 if that is to be found on the way to the peers.
    """

    ranges: tuple[IPNetwork, ...] = ()
    peers: tuple[IPAddress, ...] = ()
    mtu: int = 0
    masquerades: bool = False
    """Pods that leave the cluster are masqueraded by the Pod network, whatever `ipMasq` says."""


def keep(folder: Path, network: NodeNetwork) -> None:
    """Write it, at once: readers see this or what was there before. Raises Failure."""
    value = {
        "ranges": list(map(str, network.ranges)),
        "peers": list(map(str, network.peers)),
        "mtu": network.mtu,
        "masquerades": network.masquerades,
    }
    with Directory(folder) as directory:
        try:
            directory.remove(NEW)
            fd = directory.open(NEW, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            with os.fdopen(fd, "wb") as file:
                file.write(json.dumps(value).encode())
                file.flush()
                os.fsync(fd)
            directory.rename(NEW, NAME)
        except OSError as error:
            with suppress(OSError):
                directory.remove(NEW)
            raise Failure(Code.IO_FAILURE, f"cannot write {folder / NAME}", error.strerror or "") from error


def known(folder: Path) -> NodeNetwork:
    """What was kept; nothing if nothing was, or if it is not what `keep` writes. Raises Failure as `Directory` does."""
    with Directory(folder) as directory:
        try:
            fd = directory.open(NAME, os.O_RDONLY)
            try:
                value = json.loads(read_all(fd, _LARGEST))
            finally:
                os.close(fd)
            ranges, peers = tuple(map(ip_network, value["ranges"])), tuple(map(ip_address, value["peers"]))
            mtu, masquerades = int(value.get("mtu", 0)), bool(value.get("masquerades"))  # an older one wrote neither
        except FileNotFoundError:
            return NodeNetwork()
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            log.warning("not understood", extra={"file": str(folder / NAME), "why": repr(error)[:200]})
            return NodeNetwork()
    return NodeNetwork(ranges, peers, mtu, masquerades)
