"""The result of ADD as a value: what every version of the specification can say, and no more."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv6Interface
from typing import Self

from netplane.model.address import IPAddress, IPNetwork

IPInterface = IPv4Interface | IPv6Interface


@dataclass(frozen=True, slots=True)
class Interface:
    """A link that was made or is passed on. `sandbox` is the container's namespace, "" on the host."""

    name: str
    mac: str = ""
    sandbox: str = ""
    mtu: int = 0
    socket_path: str = ""
    pci_id: str = ""


@dataclass(frozen=True, slots=True)
class ResultAddress:
    """An address. `interface` is an index into the result's interfaces, None if it does not say."""

    address: IPInterface
    gateway: IPAddress | None = None
    interface: int | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """A route inside the container. None and 0 mean: the kernel's default."""

    to: IPNetwork
    via: IPAddress | None = None
    mtu: int = 0
    advertised_mss: int = 0
    priority: int | None = None
    table: int | None = None
    scope: int | None = None


@dataclass(frozen=True, slots=True)
class Dns:
    """What the runtime writes into resolv.conf."""

    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """The whole result of an ADD, or a prevResult."""

    interfaces: tuple[Interface, ...] = ()
    addresses: tuple[ResultAddress, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: Dns = field(default_factory=Dns)

    @classmethod
    def loopback(cls, sandbox: str) -> Self:
        """What is said of `lo`."""
        addresses = (
            ResultAddress(IPv4Interface("127.0.0.1/8"), None, 0),
            ResultAddress(IPv6Interface("::1/128"), None, 0),
        )
        return cls((Interface("lo", "00:00:00:00:00:00", sandbox),), addresses)
