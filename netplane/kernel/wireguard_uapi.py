"""WireGuard's configuration as text, as wireguard-go takes it on a unix socket (wireguard.com/xplatform).

    set=1                                get=1
    private_key=<64 hexadecimal digits>
    listen_port=51820                    private_key=...
    public_key=...                       listen_port=51820
    endpoint=10.0.0.2:51820              public_key=...
    allowed_ip=10.244.2.0/24             ...
                                         errno=0
    errno=0

Pure. The order of peers is the speaker's; what a peer has comes after its `public_key`.
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Iterator
from functools import lru_cache
from ipaddress import ip_address, ip_network

from netplane.errors import KernelError
from netplane.kernel.wireguard_changes import (
    DeviceChange,
    DeviceFound,
    Endpoint,
    PeerChange,
    PeerFound,
    key_bytes,
    sorted_networks,
)
from netplane.kernel.wireguard_keys import KEY_BYTES, public_of
from netplane.model.address import IPNetwork, host_port

GET = "get=1\n\n"
_NO_KEY = "0" * 2 * KEY_BYTES


def set_text(change: DeviceChange, private: bytes | None) -> str:
    """The request for a change. `private`: the key whose public half `change.key` is, if it has one."""
    return "".join(f"{line}\n" for line in ("set=1", *_device_lines(change, private), ""))


def check(answer: str, doing: str) -> None:
    """Raises KernelError if an answer says that something went wrong, or says nothing."""
    last = answer.rstrip("\n").rpartition("\n")[2]
    word, _, number = last.partition("=")
    if word != "errno" or not _is_number(number):
        raise _not_understood(doing, last or "nothing")
    if int(number):
        raise KernelError(mechanism="wireguard", doing=doing, said=f"{os.strerror(abs(int(number)))} (errno {number})")


def device(answer: str, doing: str) -> DeviceFound:
    """What an answer to GET shows. Raises KernelError if it is none. Words that are not known are passed over."""
    check(answer, doing)
    fields: dict[str, str] = {}
    peers: dict[str, PeerFound] = {}
    own, *others = f"\n{answer}".split("\npublic_key=")
    for line in own.split("\n"):
        word, _, value = line.partition("=")
        fields[word] = value
    try:
        for text in others:
            peer = _peer(text)
            peers[peer.key] = peer
        private = bytes.fromhex(fields.get("private_key", _NO_KEY))
        key = public_of(private) if any(private) and len(private) == KEY_BYTES else ""
        return DeviceFound(key, int(fields.get("listen_port", 0)), int(fields.get("fwmark", 0)), peers)
    except ValueError:  # its words may hold the private key
        raise _not_understood(doing, "a value that is none") from None


def _device_lines(change: DeviceChange, private: bytes | None) -> Iterator[str]:
    if change.key and private:
        yield f"private_key={private.hex()}"
    if change.port is not None:
        yield f"listen_port={change.port}"
    if change.mark is not None:
        yield f"fwmark={change.mark}"
    for peer in change.peers:
        yield from _peer_lines(peer)


def _peer_lines(peer: PeerChange) -> Iterator[str]:
    yield f"public_key={key_bytes(peer.key).hex()}"
    if peer.remove:
        yield "remove=true"
        return
    if not peer.new:
        yield "update_only=true"
    if peer.open:
        yield f"preshared_key={_NO_KEY}"
    if peer.endpoint:
        yield f"endpoint={host_port(*peer.endpoint)}"
    if peer.keepalive is not None:
        yield f"persistent_keepalive_interval={peer.keepalive}"
    if peer.replace:
        yield "replace_allowed_ips=true"
    for network in peer.allowed:
        yield f"allowed_ip={network}"


def _peer(text: str) -> PeerFound:
    """A peer, from its key on. Raises ValueError."""
    key, *lines = text.split("\n")
    found: dict[str, str] = {}
    allowed = []
    for line in lines:
        word, _, value = line.partition("=")
        if word == "allowed_ip":
            allowed.append(_network(value))
        else:
            found[word] = value
    number = {word: int(found.get(word) or 0) for word in _NUMBERS}
    return PeerFound(
        key=_base64(key),
        endpoint=_endpoint(found["endpoint"]) if "endpoint" in found else None,
        allowed=sorted_networks(tuple(allowed)),
        keepalive=number["persistent_keepalive_interval"],
        handshake=number["last_handshake_time_sec"] + number["last_handshake_time_nsec"] / 1e9,
        received=number["rx_bytes"],
        sent=number["tx_bytes"],
        secret=found.get("preshared_key", _NO_KEY) != _NO_KEY,
    )


_NUMBERS = (
    "persistent_keepalive_interval",
    "last_handshake_time_sec",
    "last_handshake_time_nsec",
    "rx_bytes",
    "tx_bytes",
)


# The same few hundred come twice a second: reading each of them anew would be most of the work.
@lru_cache(maxsize=1 << 13)
def _network(text: str) -> IPNetwork:
    return ip_network(text)


@lru_cache(maxsize=1 << 12)
def _base64(text: str) -> str:
    key = bytes.fromhex(text)
    if len(key) != KEY_BYTES:
        raise ValueError("no key")
    return b64encode(key).decode()


@lru_cache(maxsize=1 << 12)
def _endpoint(text: str) -> Endpoint:
    """Of `10.0.0.2:51820`, `[fd00::2]:51820`, `[fe80::2%eth0]:51820`."""
    host, _, port = text.rpartition(":")
    return ip_address(host.removeprefix("[").removesuffix("]")), int(port)


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isascii() and text.removeprefix("-").isdigit()


def _not_understood(doing: str, what: str) -> KernelError:
    return KernelError(mechanism="wireguard", doing=doing, said=f"an answer that is not understood: {what:.80}")
