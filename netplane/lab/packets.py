"""Packets no ordinary socket would send, and what they look like on each link they pass.

scapy writes and takes apart the bytes; it is imported here only, and only on use (it takes half a second). Bytes go
out through raw sockets, so the kernel's own routes and hooks apply, and come in through `capture.tap`.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address
from types import ModuleType
from typing import Any

from netplane.errors import KernelError
from netplane.kernel.netns import Namespace
from netplane.lab import sctp
from netplane.model.address import IPAddress, Protocol

_CAPTURE_SECONDS = 10.0
_SNAP = 262144
_IPV6 = 0x86DD


@dataclass(frozen=True, slots=True)
class Flow:
    """Addresses and ports of a packet to make."""

    source: IPAddress
    source_port: int
    destination: IPAddress
    port: int


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame as captured on one link. `wrong` names headers whose checksum does not fit."""

    raw: bytes
    macs: tuple[str, str]
    """From and to."""
    source: IPAddress
    destination: IPAddress
    protocol: int
    ports: tuple[int, int]
    """(0, 0) where there are none: ICMP, and all fragments but the first."""
    hops: int
    """TTL or hop limit."""
    fragment: bool
    wrong: tuple[str, ...]


def udp(flow: Flow, payload: bytes = b"?") -> bytes:
    """A UDP packet."""
    inet = _scapy()
    return bytes(_ip(flow) / inet.UDP(sport=flow.source_port, dport=flow.port) / payload)


def tcp(flow: Flow, flags: str, *, sequence: int = 1, acknowledge: int = 0) -> bytes:
    """A TCP segment with any flags ("S", "A", "PA", "R", ...) and numbers, so also one of no connection at all."""
    segment = _scapy().TCP(sport=flow.source_port, dport=flow.port, flags=flags, seq=sequence, ack=acknowledge)
    return bytes(_ip(flow) / segment)


def sctp_init(flow: Flow) -> bytes:
    """The first packet of an SCTP association."""
    return bytes(_ip(flow, Protocol.SCTP.number) / sctp.init(flow.source_port, flow.port, tag=flow.source_port))


def udp_in_fragments(flow: Flow, payload: bytes, size: int) -> list[bytes]:
    """A UDP packet cut into IP fragments of at most `size` bytes of payload each (a multiple of eight)."""
    inet, inet6 = _scapy(), _scapy6()
    datagram = inet.UDP(sport=flow.source_port, dport=flow.port) / payload
    if flow.source.version == 4:
        return [bytes(piece) for piece in inet.fragment(_ip(flow) / datagram, fragsize=size)]
    whole = _ip(flow) / inet6.IPv6ExtHdrFragment(id=flow.source_port) / datagram
    return [bytes(piece) for piece in inet6.fragment6(whole, size + 40 + 8 + 8)]


def ethernet(source: bytes, destination: bytes, packet: bytes) -> bytes:
    """An IP packet in an Ethernet frame."""
    kind = 0x0800 if packet[0] >> 4 == 4 else _IPV6
    return destination + source + kind.to_bytes(2, "big") + packet


def send(namespace: Namespace, packets: Sequence[bytes], *, may_be_refused: bool = False) -> None:
    """Send IP packets from a namespace, as its routes say. OSError if the kernel refuses to, unless it may."""
    for packet in packets:
        version = packet[0] >> 4
        to = packet[16:20] if version == 4 else packet[24:40]
        family = socket.AF_INET if version == 4 else socket.AF_INET6

        def work(packet: bytes = packet, family: int = family, to: str = str(ip_address(to))) -> None:
            with socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW) as made:
                made.sendto(packet, (to, 0))

        with suppress(OSError) if may_be_refused else nullcontext():
            namespace.run(work)


def wait_for(tap: socket.socket, wanted: Callable[[Frame], bool], number: int = 1) -> list[Frame]:
    """The first `number` IP frames on a tap that are `wanted`. KernelError if they do not come."""
    found: list[Frame] = []
    deadline = time.monotonic() + _CAPTURE_SECONDS
    while len(found) < number:
        frame = first_on(tap, wanted, max(0.0, deadline - time.monotonic()))
        if frame is None:
            said = f"{len(found)} of {number} frames within {_CAPTURE_SECONDS:g} s"
            raise KernelError(mechanism="lab", doing="capture", said=said)
        found.append(frame)
    return found


def first_on(tap: socket.socket, wanted: Callable[[Frame], bool], seconds: float) -> Frame | None:
    """The first IP frame on a tap that is `wanted`, None if there is none within this time."""
    deadline = time.monotonic() + seconds
    while select.select([tap], [], [], max(0.0, deadline - time.monotonic()))[0]:
        frame = dissect(tap.recv(_SNAP))
        if frame is not None and wanted(frame):
            return frame
    return None


def dissect(raw: bytes) -> Frame | None:
    """A captured Ethernet frame, None if there is no IP packet in it."""
    ether = _ethernet().Ether(raw)
    inet, inet6 = _scapy(), _scapy6()
    packet = ether.getlayer(inet.IP) or ether.getlayer(inet6.IPv6)
    if packet is None:
        return None
    extension = packet.getlayer(inet6.IPv6ExtHdrFragment)
    fragment = extension is not None or bool(packet.version == 4 and (packet.flags.MF or packet.frag))
    first = not (extension.offset if extension else packet.version == 4 and packet.frag)
    transport = packet.getlayer(inet.TCP) or packet.getlayer(inet.UDP) or packet.getlayer(_sctp().SCTP)
    return Frame(
        raw=raw,
        macs=(ether.src, ether.dst),
        source=ip_address(packet.src),
        destination=ip_address(packet.dst),
        protocol=packet.proto if packet.version == 4 else (extension or packet).nh,
        ports=(transport.sport, transport.dport) if transport is not None and first else (0, 0),
        hops=packet.ttl if packet.version == 4 else packet.hlim,
        fragment=fragment,
        wrong=() if fragment else tuple(_wrong_checksums(packet)),
    )


def hop_problems(before: Frame, after: Frame, *, hops: int = 1) -> list[str]:
    """What a router did wrong between two links: everything must be as before but MACs, hops, checksums and ends."""
    problems = [f"{header} checksum is wrong" for header in after.wrong]
    if after.hops != before.hops - hops:
        problems.append(f"hop limit went from {before.hops} to {after.hops}")
    if set(before.macs) & set(after.macs):
        problems.append(f"MAC address of the other link: {before.macs} then {after.macs}")
    if after.protocol != before.protocol:
        problems.append(f"protocol {before.protocol} became {after.protocol}")
    return problems


def _ip(flow: Flow, protocol: int | None = None) -> Any:
    chosen = {} if protocol is None else {"proto" if flow.source.version == 4 else "nh": protocol}
    make = _scapy().IP if flow.source.version == 4 else _scapy6().IPv6
    return make(src=str(flow.source), dst=str(flow.destination), **chosen)


def _wrong_checksums(packet: Any) -> list[str]:
    """Headers whose checksum differs from what scapy computes for the same bytes."""
    fresh = packet.copy()
    for layer in _checked_layers(fresh):
        layer.chksum = None  # computed anew when it is built
    again = packet.__class__(bytes(fresh))
    pairs = zip(_checked_layers(packet), _checked_layers(again), strict=True)
    return [old.name for old, new in pairs if old.chksum != new.chksum]


def _checked_layers(packet: Any) -> list[Any]:
    """Layers with a checksum of their own (scapy's attributes would also find that of a layer further in)."""
    layers = (packet.getlayer(index) for index in range(len(packet.layers())))
    return [layer for layer in layers if "chksum" in layer.default_fields]


@cache
def _scapy() -> ModuleType:
    import scapy.layers.inet

    return scapy.layers.inet


@cache
def _scapy6() -> ModuleType:
    import scapy.layers.inet6

    return scapy.layers.inet6


@cache
def _sctp() -> ModuleType:
    import scapy.layers.sctp

    return scapy.layers.sctp


@cache
def _ethernet() -> ModuleType:
    import scapy.layers.l2

    return scapy.layers.l2
