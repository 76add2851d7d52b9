"""What is on the cables between nodes: every frame to and from each node, and what is inside of an overlay's packets.

Bytes of VXLAN are RFC 7348's: UDP, then flags, three bytes, the VNI in three bytes, one more, and an Ethernet frame.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address

from netplane.closing import Closing
from netplane.errors import KernelError
from netplane.lab.capture import tap
from netplane.lab.namespaces import Lab
from netplane.lab.packets import Frame, dissect
from netplane.model.address import IPAddress, Protocol
from netplane.model.pod import PodId

SEEN_SECONDS = 10.0
_SNAP = 262144
_ETHERNET, _UDP = 14, struct.Struct("!HHHH")
_VXLAN = struct.Struct("!B3xI")
_VNI_IS_VALID = 0x08


@dataclass(frozen=True, slots=True)
class Seen:
    """A frame on the cable of a node."""

    node: str
    raw: bytes

    def frame(self) -> Frame | None:
        """Its outermost IP packet."""
        return dissect(self.raw)


@dataclass(frozen=True, slots=True)
class VxlanFrame:
    """A VXLAN packet taken apart. `checksum`: of the outer UDP header, 0 for none."""

    source: IPAddress
    destination: IPAddress
    ports: tuple[int, int]
    checksum: int
    flags: int
    id: int
    inner: bytes


class Wires(Closing):
    """The cables of all nodes of a lab, or of one Pod under the name "", listened to from now on."""

    def __init__(self, lab: Lab, pod: PodId | None = None) -> None:
        with ExitStack() as made:
            if pod is None:
                names = ((name, f"to-{index}") for index, name in enumerate(lab.nodes))
                self._taps = {name: made.enter_context(tap(lab.outside, link)) for name, link in names}
            else:
                self._taps = {"": made.enter_context(tap(lab.pods[pod], "eth0"))}
            self._made = made.pop_all()
        self._seen: list[Seen] = []

    def until(self, wanted: Callable[[Seen], bool], what: str) -> list[Seen]:
        """Everything seen so far, as soon as a frame is `wanted`. KernelError if none comes."""
        deadline = time.monotonic() + SEEN_SECONDS
        checked = 0
        while True:
            self._drain()
            fresh, checked = self._seen[checked:], len(self._seen)
            if any(map(wanted, fresh)):
                return list(self._seen)
            if not select.select([*self._taps.values()], [], [], max(0.0, deadline - time.monotonic()))[0]:
                said = f"not on any cable within {SEEN_SECONDS:g} s"
                raise KernelError(mechanism="lab", doing=f"wait for {what}", said=said)

    def so_far(self) -> list[Seen]:
        """Everything seen so far."""
        self._drain()
        return list(self._seen)

    def close(self) -> None:
        """Stop listening."""
        self._made.close()

    def _drain(self) -> None:
        for node, each in self._taps.items():
            self._seen.extend(Seen(node, raw) for raw in _frames(each))


def _frames(made: socket.socket) -> Iterator[bytes]:
    while True:
        try:
            yield made.recv(_SNAP)
        except BlockingIOError:
            return


def with_marker(seen: Iterable[Seen], marker: bytes) -> list[Seen]:
    """The frames in which a run of bytes can be read."""
    return [each for each in seen if marker in each.raw]


def vxlan(raw: bytes, port: int) -> VxlanFrame | None:
    """A VXLAN packet to this port in an Ethernet frame, None if there is none."""
    start = _udp_start(raw)
    if start is None or len(raw) < start + 16:
        return None
    from_, to, _, checksum = _UDP.unpack_from(raw, start)
    if to != port:
        return None
    flags, rest = _VXLAN.unpack_from(raw, start + 8)
    spans = ((26, 30), (30, 34)) if raw[_ETHERNET] >> 4 == 4 else ((22, 38), (38, 54))
    source, destination = (ip_address(raw[first:last]) for first, last in spans)
    return VxlanFrame(source, destination, (from_, to), checksum, flags, rest >> 8, raw[start + 16 :])


def vxlan_packet(number: int, inner: bytes) -> bytes:
    """The payload of a UDP packet that carries this Ethernet frame."""
    return _VXLAN.pack(_VNI_IS_VALID, number << 8) + inner


def _udp_start(raw: bytes) -> int | None:
    """Where the UDP header of an Ethernet frame is."""
    kind = raw[12:14]
    if kind == b"\x08\x00" and raw[23] == Protocol.UDP.number:
        return _ETHERNET + (raw[_ETHERNET] & 0xF) * 4
    if kind == b"\x86\xdd" and raw[20] == Protocol.UDP.number:
        return _ETHERNET + 40
    return None
