"""Addresses, networks and transport protocols."""

from __future__ import annotations

from enum import Enum, IntEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


class Family(IntEnum):
    """An IP version. The value is the version number, as in `IPAddress.version`."""

    IPV4 = 4
    IPV6 = 6

    def __str__(self) -> str:
        return f"IPv{self.value}"


class Protocol(Enum):
    """A transport protocol a Service port can name, in Kubernetes spelling."""

    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"

    @property
    def number(self) -> int:
        """The IANA protocol number in the IP header."""
        return _NUMBERS[self.value]

    def __str__(self) -> str:
        return self.value.lower()


_NUMBERS = {"TCP": 6, "UDP": 17, "SCTP": 132}


def family_of(address: IPAddress | IPNetwork) -> Family:
    """The IP version of an address or network."""
    return Family.IPV4 if address.version == 4 else Family.IPV6  # Family(...) takes four times as long


def host_port(address: IPAddress, port: int) -> str:
    """`10.0.1.5:80` or `[fd00::5]:80`, as Kubernetes and RFC 3986 write it."""
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
