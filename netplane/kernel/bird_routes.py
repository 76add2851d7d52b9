"""The routes a bird of ours left in the kernel: those of bird's protocol number with the metric that only ours uses."""

from __future__ import annotations

import socket
import struct

from netplane.errors import KernelError
from netplane.kernel import routes
from netplane.kernel.links import Links, Order
from netplane.kernel.netlink import Request, attribute
from netplane.model.address import IPNetwork
from netplane.programs.bird import METRIC, PROTOCOL

_DELETE_ROUTE = 25
_TO, _PRIORITY = 1, 6
_ANY_SCOPE = 255  # RT_SCOPE_NOWHERE
_GONE = 3  # ESRCH
_ROUTE = struct.Struct("=BBBBBBBBI")


def left(kernel: Links) -> tuple[IPNetwork, ...]:
    """Where they lead to, sorted."""
    found = {
        each.to for each in routes.read(kernel, PROTOCOL) if each.priority == METRIC and each.table == routes.MAIN_TABLE
    }
    return tuple(sorted(found, key=lambda each: (each.version, each.network_address.packed, each.prefixlen)))


def remove(kernel: Links, networks: tuple[IPNetwork, ...]) -> None:
    """Remove them, with all their next hops; those that are gone already do not matter. Raises KernelError."""
    refused = kernel.attempt([_removal(each) for each in networks]) if networks else []
    for each in refused:
        if each.errno != _GONE:
            raise KernelError(mechanism="bird", doing=each.order.doing, said=each.said)


def _removal(to: IPNetwork) -> Order:
    family = socket.AF_INET if to.version == 4 else socket.AF_INET6
    header = _ROUTE.pack(family, to.prefixlen, 0, 0, routes.MAIN_TABLE, PROTOCOL, _ANY_SCOPE, 0, 0)
    payload = header + attribute(_TO, to.network_address.packed) + attribute(_PRIORITY, struct.pack("=I", METRIC))
    return Order(f"remove bird's route to {to}", Request(_DELETE_ROUTE, payload))
