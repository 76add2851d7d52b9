"""The addresses of a network namespace (rtnetlink). Numbers are from linux/rtnetlink.h and linux/if_addr.h."""

from __future__ import annotations

import struct
from ipaddress import ip_address

from netplane.kernel import netlink
from netplane.kernel.netlink import NetlinkSocket, Request, attributes
from netplane.model.address import IPAddress

_GET_ADDRESS, _ADDRESS, _LOCAL = 22, 1, 2
_HEADER = struct.Struct("=BBBBI")


def local_addresses() -> frozenset[IPAddress]:
    """Every address of the calling thread's namespace, loopback too."""
    with NetlinkSocket(netlink.ROUTE, "addresses") as kernel:
        return addresses_of(kernel)


def addresses_of(kernel: NetlinkSocket) -> frozenset[IPAddress]:
    """Every address of the namespace of a socket of netlink.ROUTE."""
    payloads = kernel.dump(Request(_GET_ADDRESS, _HEADER.pack(0, 0, 0, 0, 0)), "list addresses")
    found = (attributes(payload, _HEADER.size) for payload in payloads)
    return frozenset(ip_address(each.get(_LOCAL) or each[_ADDRESS]) for each in found)
