"""Just enough SCTP to ask and to answer: INIT and INIT ACK packets as bytes (RFC 9260).

Kernels without SCTP sockets still route, track and translate SCTP, so both ends speak it over raw sockets. An INIT
ACK carries a cookie that means nothing to the other end: there the answer travels.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

INIT, INIT_ACK = 1, 2

_COMMON = struct.Struct("!HHII")  # ports, verification tag, checksum
_CHUNK = struct.Struct("!BBH")
_INIT = struct.Struct("!IIHHI")  # initiate tag, window, streams out, streams in, first sequence number
_COOKIE = 7
_WINDOW, _STREAMS = 65536, 1


class Packet(NamedTuple):
    """One SCTP packet with one INIT or INIT ACK chunk. `tag` is the sender's initiate tag."""

    source: int
    destination: int
    chunk: int
    tag: int
    cookie: bytes = b""


def init(source: int, destination: int, tag: int) -> bytes:
    """The first packet of an association."""
    return _encode(Packet(source, destination, INIT, tag), 0)


def init_ack(asked: Packet, cookie: bytes) -> bytes:
    """The answer to `asked`, carrying `cookie`."""
    return _encode(Packet(asked.destination, asked.source, INIT_ACK, asked.tag ^ 0xFFFF, cookie), asked.tag)


def decode(data: bytes) -> Packet | None:
    """The packet in `data` (from the SCTP header on), None if it is no INIT or INIT ACK, or its checksum is wrong."""
    if len(data) < _COMMON.size + _CHUNK.size + _INIT.size:
        return None
    source, destination, _, checksum = _COMMON.unpack_from(data)
    chunk, _, _ = _CHUNK.unpack_from(data, _COMMON.size)
    if chunk not in (INIT, INIT_ACK) or checksum != _checksum(data):
        return None
    start = _COMMON.size + _CHUNK.size
    tag, *_ = _INIT.unpack_from(data, start)
    return Packet(source, destination, chunk, tag, _cookie(data[start + _INIT.size :]))


def _encode(packet: Packet, verification: int) -> bytes:
    parameter = struct.pack("!HH", _COOKIE, 4 + len(packet.cookie)) + packet.cookie if packet.cookie else b""
    body = _INIT.pack(packet.tag, _WINDOW, _STREAMS, _STREAMS, packet.tag) + parameter
    chunk = _CHUNK.pack(packet.chunk, 0, _CHUNK.size + len(body)) + body + b"\0" * (-len(body) % 4)
    blank = _COMMON.pack(packet.source, packet.destination, verification, 0) + chunk
    return blank[:8] + struct.pack("!I", _checksum(blank)) + blank[12:]


def _cookie(parameters: bytes) -> bytes:
    if len(parameters) < 4:
        return b""
    kind, size = struct.unpack_from("!HH", parameters)
    return parameters[4:size] if kind == _COOKIE else b""


def _checksum(data: bytes) -> int:
    """CRC32c over the packet with a checksum of zero, in the byte order of the header (RFC 9260, appendix A)."""
    crc = 0xFFFFFFFF
    for byte in data[:8] + b"\0\0\0\0" + data[12:]:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    return int.from_bytes((crc ^ 0xFFFFFFFF).to_bytes(4, "little"), "big")


def _table_entry(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_TABLE = tuple(map(_table_entry, range(256)))
