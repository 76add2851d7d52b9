"""Keys and data of set elements as the kernel keeps them."""

import struct
from ipaddress import ip_address


def address(value: str) -> bytes:
    return ip_address(value).packed


def port(value: int) -> bytes:
    return struct.pack(">H2x", value)


def protocol(value: int) -> bytes:
    return bytes((value, 0, 0, 0))


def slot(value: int) -> bytes:
    return struct.pack("=I", value)
