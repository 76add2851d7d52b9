"""Settings of a plan: the choices of the cluster's operator that change meaning."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from netplane.errors import InputError
from netplane.model.address import Family, IPNetwork, family_of

# IFNAMSIZ is 16 with the final NUL; a slash or white space is refused by the kernel (dev_valid_name).
_LINK_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,15}\Z")


@dataclass(frozen=True, slots=True)
class PodRange:
    """A packet comes from a Pod if its source is in one of the networks; none given: the Node's own pod ranges."""

    networks: tuple[IPNetwork, ...] = ()

    def covers(self, family: Family) -> bool:
        """Whether Pods of this family can be told from the rest."""
        return any(family_of(network) is family for network in self.networks)


@dataclass(frozen=True, slots=True)
class Bridge:
    """A packet comes from a Pod if it arrives over this bridge."""

    name: str

    def __post_init__(self) -> None:
        _check_link_name("local detection by bridge", self.name)


@dataclass(frozen=True, slots=True)
class InterfacePrefix:
    """A packet comes from a Pod if it arrives over a link whose name starts so."""

    prefix: str

    def __post_init__(self) -> None:
        _check_link_name("local detection by interface prefix", self.prefix)


LocalDetection = PodRange | Bridge | InterfacePrefix


class NodePortScope(Enum):
    """Node-port addresses that are not a list of networks."""

    PRIMARY = "primary"
    """The node's primary address of each family (kube-proxy's default for nftables)."""
    ALL = "all"
    """Every local address except loopback."""


NodePortAddresses = NodePortScope | tuple[IPNetwork, ...]
"""A tuple means: local addresses inside one of these networks, also ones that are added later; never loopback."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How this cluster wants its Services. `service_ranges` are the cluster's Service CIDRs, where known."""

    local: LocalDetection = PodRange()
    masquerade_all: bool = False
    node_ports: NodePortAddresses = NodePortScope.PRIMARY
    service_ranges: tuple[IPNetwork, ...] = ()
    drop_invalid: bool = True
    """Drop packets from Service endpoints that conntrack calls INVALID (docs/decisions/0006)."""
    proxy_name: str = ""
    """Serve only Services whose service-proxy-name label has this value; "" serves those without the label."""


def _check_link_name(option: str, name: str) -> None:
    if not _LINK_NAME.match(name):
        raise InputError(f"{option}: {name!r} is not an interface name; use 1 to 15 letters, digits or one of _.@-")
