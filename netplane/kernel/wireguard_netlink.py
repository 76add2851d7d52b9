"""WireGuard's configuration as generic netlink, as the kernel takes it (linux/wireguard.h).

Pure but for `family`. A device is one request, or several where its peers do not fit into one; the kernel answers with
several messages, too, and a peer with many networks is in more than one of them.
"""

from __future__ import annotations

import errno
import socket
import struct
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from netplane.errors import KernelError
from netplane.kernel.netlink import (
    NetlinkSocket,
    Refused,
    Request,
    attribute,
    attributes,
    each_attribute,
    nested,
    text,
)
from netplane.kernel.wireguard_changes import (
    DeviceChange,
    DeviceFound,
    Endpoint,
    PeerChange,
    PeerFound,
    key_bytes,
    sorted_networks,
)
from netplane.kernel.wireguard_keys import KEY_BYTES
from netplane.model.address import IPNetwork

NAME = "wireguard"
"""Of the generic netlink family, and of the kind of link."""

_CONTROL, _GET_FAMILY, _FAMILY_ID, _FAMILY_NAME = 0x10, 3, 1, 2
_GET_DEVICE, _SET_DEVICE, _VERSION = 0, 1, 1
_NAME, _PRIVATE, _PUBLIC, _PORT, _MARK, _PEERS = 2, 3, 4, 6, 7, 8  # WGDEVICE_A_*
_KEY, _SECRET, _FLAGS, _ENDPOINT, _KEEPALIVE, _HANDSHAKE, _RECEIVED, _SENT, _ALLOWED = range(1, 10)  # WGPEER_A_*
_REMOVE, _REPLACE, _UPDATE_ONLY = 1, 2, 4  # WGPEER_F_*
_FAMILY, _ADDRESS, _LENGTH = 1, 2, 3  # WGALLOWEDIP_A_*

_HEADER = struct.Struct("=BBH")  # genlmsghdr
_U16, _U32, _U64, _TIME = struct.Struct("=H"), struct.Struct("=I"), struct.Struct("=Q"), struct.Struct("=qq")
_FOUR, _SIX = struct.Struct("=H2s4s8x"), struct.Struct("=H2s4x16s4x")  # sockaddr_in, sockaddr_in6
_MESSAGE_BYTES = 48 << 10
"""Of peers in one request: an attribute ends at 64 KiB."""
_NETWORKS_AT_ONCE = 1000
"""Of a peer in one piece: 28 bytes each, at most."""


def family(kernel: NetlinkSocket) -> int:
    """The number of WireGuard's family; 0 if this kernel has none. Asking loads the module where there is one."""
    request = Request(_CONTROL, _HEADER.pack(_GET_FAMILY, 1, 0) + text(_FAMILY_NAME, NAME))
    try:
        (payload,) = kernel.ask(request, "ask for the family wireguard")
    except Refused as refused:
        if refused.refusal.errno == errno.ENOENT:
            return 0
        raise
    return int(_U16.unpack(attributes(payload, _HEADER.size)[_FAMILY_ID])[0])


def get_request(number: int, link: str) -> Request:
    """Asks (as a dump) for a device. `number`: the family's."""
    return Request(number, _HEADER.pack(_GET_DEVICE, _VERSION, 0) + text(_NAME, link))


def set_requests(number: int, link: str, change: DeviceChange, private: bytes | None) -> list[Request]:
    """The requests for a change, to be sent in order. `private`: the key whose public half `change.key` is, if any."""
    own = b"".join(
        (
            attribute(_PRIVATE, private) if change.key and private else b"",
            attribute(_PORT, _U16.pack(change.port)) if change.port is not None else b"",
            attribute(_MARK, _U32.pack(change.mark)) if change.mark is not None else b"",
        )
    )
    head = _HEADER.pack(_SET_DEVICE, _VERSION, 0) + text(_NAME, link)
    requests = []
    for peers in _messages(piece for peer in change.peers for piece in _pieces(peer)):
        requests.append(Request(number, head + own + nested(_PEERS, *peers)))
        own = b""
    return requests or [Request(number, head + own)]


def device(payloads: Iterable[bytes], doing: str) -> DeviceFound:
    """What the answers to `get_request` show. Raises KernelError for what is no answer."""
    key, port, mark = "", 0, 0
    peers: dict[str, PeerFound] = {}
    try:
        for payload in payloads:
            for kind, value in each_attribute(payload, _HEADER.size):
                if kind == _PUBLIC:
                    key = b64encode(value).decode() if any(value) else ""
                elif kind == _PORT:
                    (port,) = _U16.unpack(value)
                elif kind == _MARK:
                    (mark,) = _U32.unpack(value)
                elif kind == _PEERS:
                    for _, peer in each_attribute(value):
                        _add(peers, _peer(peer))
    except (ValueError, KeyError, struct.error) as error:
        raise KernelError(mechanism="wireguard", doing=doing, said=f"an answer not understood: {error}") from error
    return DeviceFound(key, port, mark, peers)


def _messages(pieces: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Pieces, as many at a time as fit into one request."""
    message: list[bytes] = []
    size = 0
    for piece in pieces:
        if message and size + len(piece) > _MESSAGE_BYTES:
            yield message
            message, size = [], 0
        message.append(piece)
        size += len(piece)
    if message:
        yield message


def _pieces(peer: PeerChange) -> Iterator[bytes]:
    """A peer, as attributes that are no longer than a request may be: the first with all but some of its networks."""
    flags = _REMOVE if peer.remove else (_REPLACE if peer.replace else 0) | (0 if peer.new else _UPDATE_ONLY)
    key = attribute(_KEY, key_bytes(peer.key))
    first = b"".join(
        (
            key,
            attribute(_FLAGS, _U32.pack(flags)) if flags else b"",
            attribute(_SECRET, bytes(KEY_BYTES)) if peer.open else b"",
            attribute(_ENDPOINT, _socket_address(peer.endpoint)) if peer.endpoint else b"",
            attribute(_KEEPALIVE, _U16.pack(peer.keepalive)) if peer.keepalive is not None else b"",
        )
    )
    yield nested(0, first, _networks(peer.allowed[:_NETWORKS_AT_ONCE]))
    for start in range(_NETWORKS_AT_ONCE, len(peer.allowed), _NETWORKS_AT_ONCE):
        more = _networks(peer.allowed[start : start + _NETWORKS_AT_ONCE])
        yield nested(0, key, attribute(_FLAGS, _U32.pack(_UPDATE_ONLY)), more)


def _networks(networks: Sequence[IPNetwork]) -> bytes:
    return nested(_ALLOWED, *map(_network_attribute, networks)) if networks else b""


def _network_attribute(network: IPNetwork) -> bytes:
    kind = socket.AF_INET if network.version == 4 else socket.AF_INET6
    return nested(
        0,
        attribute(_FAMILY, _U16.pack(kind)),
        attribute(_ADDRESS, network.network_address.packed),
        attribute(_LENGTH, bytes((network.prefixlen,))),
    )


def _socket_address(endpoint: Endpoint) -> bytes:
    address, port = endpoint
    if address.version == 4:
        return _FOUR.pack(socket.AF_INET, port.to_bytes(2), address.packed)
    return _SIX.pack(socket.AF_INET6, port.to_bytes(2), address.packed)


def _peer(payload: bytes) -> PeerFound:
    """Raises ValueError, KeyError or struct.error for what is no peer."""
    found = attributes(payload)
    seconds, nanoseconds = _TIME.unpack(found[_HANDSHAKE]) if _HANDSHAKE in found else (0, 0)
    allowed = tuple(_network(value) for _, value in each_attribute(found.get(_ALLOWED, b"")))
    return PeerFound(
        key=_base64(found[_KEY]),
        endpoint=_endpoint(found[_ENDPOINT]) if _ENDPOINT in found else None,
        allowed=sorted_networks(allowed),
        keepalive=_U16.unpack(found[_KEEPALIVE])[0] if _KEEPALIVE in found else 0,
        handshake=seconds + nanoseconds / 1e9,
        received=_U64.unpack(found[_RECEIVED])[0] if _RECEIVED in found else 0,
        sent=_U64.unpack(found[_SENT])[0] if _SENT in found else 0,
        secret=any(found.get(_SECRET, b"")),
    )


def _add(peers: dict[str, PeerFound], peer: PeerFound) -> None:
    """A peer that comes again brings nothing but more of its networks."""
    known = peers.get(peer.key)
    peers[peer.key] = replace(known, allowed=sorted_networks(known.allowed + peer.allowed)) if known else peer


@lru_cache(maxsize=1 << 12)
def _base64(key: bytes) -> str:
    return b64encode(key).decode()


@lru_cache(maxsize=1 << 12)
def _endpoint(value: bytes) -> Endpoint:
    if _U16.unpack_from(value)[0] == socket.AF_INET:
        _, port, address = _FOUR.unpack(value)
        return IPv4Address(address), int.from_bytes(port)
    _, port, address = _SIX.unpack(value)
    return IPv6Address(address), int.from_bytes(port)


# The same few hundred come twice a second: reading each of them anew would be most of the work.
@lru_cache(maxsize=1 << 13)
def _network(value: bytes) -> IPNetwork:
    found = attributes(value)
    length = found[_LENGTH][0]
    if _U16.unpack(found[_FAMILY])[0] == socket.AF_INET:
        return IPv4Network((found[_ADDRESS], length))
    return IPv6Network((found[_ADDRESS], length))
