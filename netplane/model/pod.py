"""Pod and Namespace (core/v1), as far as the network sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from netplane.model.address import IPAddress, Protocol

Labels = frozenset[tuple[str, str]]


class PodId(NamedTuple):
    """Namespace and name of a Pod."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class ContainerPort:
    """A container port with a name, what a Service's `targetPort: http` resolves to, or with a port of the node.

    `host_port` 0: none. `host_address` None: every address of the node.
    """

    name: str
    protocol: Protocol
    port: int
    host_port: int = 0
    host_address: IPAddress | None = None


@dataclass(frozen=True, slots=True)
class Pod:
    """A Pod with its addresses. `terminating` is a set deletionTimestamp, `finished` a phase it never leaves."""

    id: PodId
    node: str = ""
    addresses: tuple[IPAddress, ...] = ()
    labels: Labels = frozenset()
    ports: tuple[ContainerPort, ...] = ()
    ready: bool = False
    terminating: bool = False
    finished: bool = False
    host_network: bool = False


@dataclass(frozen=True, slots=True)
class Namespace:
    """A Namespace and its labels."""

    name: str
    labels: Labels = frozenset()
