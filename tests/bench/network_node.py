"""netplane's Pod network on a node, in this process: the object that the agent has."""

from __future__ import annotations

from collections.abc import Mapping

from netplane.agent.network import Look, PodNetwork, Seen
from netplane.closing import Closing
from netplane.errors import RequirementError
from netplane.kernel import underlay
from netplane.kernel.host import HostOptions
from netplane.kernel.links import Links
from netplane.kernel.wireguard_keys import KEYS, KeyStore
from netplane.model.address import IPAddress
from netplane.model.node import Node
from netplane.model.snapshot import Snapshot
from netplane.plan.network_plan import HostFacts, Path
from netplane.plan.network_settings import NetworkSettings


def keys(options: HostOptions) -> KeyStore:
    """The keys of a node."""
    return KeyStore(options.state_directory / KEYS)


class NodeNetwork(Closing):
    """The network of the namespace of the thread that makes it; used by that thread."""

    def __init__(self, node: str, settings: NetworkSettings, options: HostOptions) -> None:
        self._node, self._options = node, options
        self._network = PodNetwork(node, settings, options)
        self._first = True

    def reconcile(self, nodes: Mapping[str, Node]) -> None:
        """Make the kernel do what the Nodes mean; the first time everything is read.

        Raises RequirementError if the plan has a problem.
        """
        look = Look.KERNEL if self._first else Look.CHANGES
        self._network.reconcile(Seen(Snapshot(nodes=nodes), None), look, sweep=True)
        self._first = False
        for problem in self._network.problems():
            raise RequirementError(str(problem))

    def clean(self) -> None:
        """Remove it all, and end what runs besides us."""
        with PodNetwork(self._node, None, self._options) as nothing:
            nothing.reconcile(Seen.nothing(), Look.KERNEL, sweep=True)

    def close(self) -> None:
        """Close sockets; the kernel keeps what it has."""
        self._network.close()


def facts_of(kernel: Links, addresses: tuple[IPAddress, ...]) -> HostFacts:
    """What the kernel says about the ways to these addresses."""
    found = underlay.look(kernel, addresses)
    paths = {to: Path(*path) for to, path in found.paths.items()}
    return HostFacts(paths, found.networks, addresses=found.addresses)
