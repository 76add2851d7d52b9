"""What a WireGuard device has and what it should have, as values; the difference between the two, peer by peer.

Pure. A peer that is as it should be is in no change, so its session lives on; of the others only what differs is said.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from netplane.model.address import IPAddress, IPNetwork, host_port
from netplane.programs.network import WireguardLink, WireguardPeer

SESSION_SECONDS = 180
"""No session is older (REJECT_AFTER_TIME of the protocol): a peer without a handshake for so long is not heard."""

Endpoint = tuple[IPAddress, int]


@dataclass(frozen=True, slots=True)
class PeerFound:
    """A peer as the device shows it. `allowed` is sorted by family, address and length.

    `handshake`: seconds of Unix time, 0 if there was none. `endpoint` is None where the device knows none. `secret`:
    whether somebody gave it a preshared key, which we never do.
    """

    key: str
    endpoint: Endpoint | None
    allowed: tuple[IPNetwork, ...]
    keepalive: int = 0
    handshake: float = 0
    received: int = 0
    sent: int = 0
    secret: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """A device as it should be: the link, and its peers by public key."""

    link: WireguardLink
    peers: Mapping[str, WireguardPeer]

    def beyond(self, other: Wanted) -> Wanted:
        """Without the peers that `other` has just so: what is left differs, or is new."""
        known = other.peers
        peers = {key: peer for key, peer in self.peers.items() if (same := known.get(key)) is not peer and same != peer}
        return Wanted(self.link, peers)


@dataclass(frozen=True, slots=True)
class DeviceFound:
    """A device as it shows itself. `key`: the public half of its own, "" if it has none. Peers by public key."""

    key: str
    port: int
    mark: int = 0
    peers: Mapping[str, PeerFound] = field(default_factory=dict)

    @classmethod
    def of(cls, want: Wanted) -> DeviceFound:
        """The device that has exactly what is wanted, and never heard from anybody."""
        found = {
            key: PeerFound(key, (peer.endpoint, peer.port), sorted_networks(peer.allowed), peer.keepalive)
            for key, peer in want.peers.items()
        }
        return cls(want.link.key, want.link.port, 0, found)


@dataclass(frozen=True, slots=True)
class PeerChange:
    """What to change about a peer; None and the empty tuple leave a thing as it is.

    `replace`: `allowed` takes the place of what the peer has, else it is added. `open`: without a preshared key.
    """

    key: str
    new: bool = False
    remove: bool = False
    endpoint: Endpoint | None = None
    allowed: tuple[IPNetwork, ...] = ()
    replace: bool = False
    keepalive: int | None = None
    open: bool = False


@dataclass(frozen=True, slots=True)
class DeviceChange:
    """What to change about a device. `key` is the public half of the key it needs, which whoever applies it has."""

    key: str = ""
    port: int | None = None
    mark: int | None = None
    peers: tuple[PeerChange, ...] = ()

    @property
    def itself(self) -> bool:
        """Whether anything but peers changes."""
        return bool(self.key) or self.port is not None or self.mark is not None

    def __bool__(self) -> bool:
        return self.itself or bool(self.peers)


@dataclass(frozen=True, slots=True)
class Changes:
    """In two halves: what is new or differs, and peers that are not wanted."""

    make: DeviceChange
    sweep: DeviceChange


def difference(found: DeviceFound, want: Wanted, heard_since: float, before: Wanted | None = None) -> Changes:
    """What leads from `found` to `want`. `before` is what was wanted until now, if that is known.

    WireGuard sends to where a peer was last heard from. While it is heard (after `heard_since`, seconds of Unix time)
    that is left alone, for it works; an endpoint that is not the wanted one and does not answer is put back, and one
    that was wanted elsewhere until now is moved at once.
    """
    link, peers = want.link, want.peers
    old = before.peers if before else {}
    made = (_peer(found.peers.get(key), peer, heard_since, old.get(key)) for key, peer in peers.items())
    make = DeviceChange(
        key="" if found.key == link.key else link.key,
        port=None if found.port == link.port else link.port,
        mark=None if found.mark == 0 else 0,
        peers=tuple(change for change in made if change is not None),
    )
    gone = tuple(PeerChange(key, remove=True) for key in found.peers if key not in peers)
    return Changes(make, DeviceChange(peers=gone))


def lines_of(change: DeviceChange, link: str) -> Iterator[str]:
    """For people, one line for each thing that is changed."""
    if change.itself:
        words = [f"key {change.key}"] if change.key else []
        words += [f"port {change.port}"] if change.port is not None else []
        words += ["no mark"] if change.mark is not None else []
        yield f"+ wireguard {link}: {', '.join(words)}"
    for peer in change.peers:
        yield f"- peer {link} {peer.key}" if peer.remove else f"+ peer {link} {peer.key}: {_words(peer)}"


def key_bytes(key: str) -> bytes:
    """The 32 bytes of a public key. Raises ValueError if it is none."""
    found = b64decode(key, validate=True)
    if len(found) != 32:
        raise ValueError(f"a WireGuard key has 32 bytes, not {len(found)}")
    return found


def sorted_networks(networks: tuple[IPNetwork, ...]) -> tuple[IPNetwork, ...]:
    """In the order of `PeerFound.allowed`, each once."""
    if len(networks) < 2:
        return networks
    return tuple(sorted(set(networks), key=lambda each: (each.version, each.network_address.packed, each.prefixlen)))


def _peer(
    found: PeerFound | None, want: WireguardPeer, heard_since: float, before: WireguardPeer | None
) -> PeerChange | None:
    endpoint, allowed = (want.endpoint, want.port), sorted_networks(want.allowed)
    if found is None:
        return PeerChange(want.key, True, endpoint=endpoint, allowed=allowed, replace=True, keepalive=want.keepalive)
    heard = found.endpoint is not None and found.handshake >= heard_since
    renumbered = before is not None and (before.endpoint, before.port) != endpoint
    moved = found.endpoint != endpoint and (renumbered or not heard)
    if not moved and found.allowed == allowed and found.keepalive == want.keepalive and not found.secret:
        return None
    lost = not set(found.allowed) <= set(allowed)
    return PeerChange(
        want.key,
        endpoint=endpoint if moved else None,
        allowed=allowed if lost else tuple(each for each in allowed if each not in found.allowed),
        replace=lost,
        keepalive=None if found.keepalive == want.keepalive else want.keepalive,
        open=found.secret,
    )


def _words(peer: PeerChange) -> str:
    words = [f"endpoint {host_port(*peer.endpoint)}"] if peer.endpoint else []
    if peer.allowed or peer.replace:
        words.append(
            ("allowed " if peer.replace else "also allowed ") + (" ".join(map(str, peer.allowed)) or "nothing")
        )
    words += [f"keepalive {peer.keepalive}"] if peer.keepalive is not None else []
    words += ["no preshared key"] if peer.open else []
    return ", ".join(words)
