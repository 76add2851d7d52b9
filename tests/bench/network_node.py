"""netplane's Pod network on a node, in this process: from Nodes to the kernel, with the objects that the agent has."""

from __future__ import annotations

from collections.abc import Mapping

from netplane.backends.network.compile import CompiledNetwork, compile_network
from netplane.closing import Closing
from netplane.errors import RequirementError
from netplane.kernel import underlay
from netplane.kernel.bird_mechanism import BirdMechanism
from netplane.kernel.host import Host, HostOptions, Making
from netplane.kernel.links import Links
from netplane.kernel.network_mechanism import NetworkMechanism
from netplane.kernel.nftables_mechanism import NftablesMechanism, of_network
from netplane.kernel.wireguard_keys import KeyStore
from netplane.kernel.wireguard_mechanism import KEYS, WireguardMechanism
from netplane.model.address import IPAddress
from netplane.model.node import Node
from netplane.plan.network import addresses_to_reach, plan_network
from netplane.plan.network_plan import HostFacts, Path
from netplane.plan.network_settings import Mode, NetworkSettings
from netplane.programs.program import Program

MECHANISMS: tuple[Making, ...] = (
    lambda _, own: NftablesMechanism(own, of_network),
    lambda options, _: WireguardMechanism(options.run_directory, options.state_directory),
    lambda _, __: NetworkMechanism(),
    lambda options, _: BirdMechanism(options.run_directory),
)


def keys(options: HostOptions) -> KeyStore:
    """The keys of a node."""
    return KeyStore(options.state_directory / KEYS)


class NodeNetwork(Closing):
    """The network of the namespace of the thread that makes it; used by that thread."""

    def __init__(self, node: str, settings: NetworkSettings, options: HostOptions) -> None:
        self._node, self._settings, self._options = node, settings, options
        self._host, self._links = Host(options, MECHANISMS), Links()
        self._facts = HostFacts()
        self._compiled: CompiledNetwork | None = None

    def reconcile(self, nodes: Mapping[str, Node]) -> None:
        """Make the kernel do what the Nodes mean; the first time everything is read. Addresses stay as they are.

        Raises RequirementError if the plan has a problem.
        """
        first = self._compiled is None
        if first:
            self._facts = facts_of(self._links, addresses_to_reach(nodes, self._node, self._settings), self._key())
        before = self._compiled
        plan = plan_network(nodes, self._node, self._settings, self._facts, previous=before.plan if before else None)
        for problem in plan.problems:
            raise RequirementError(str(problem))
        compiled = compile_network(plan, before)
        self._host.apply(compiled.program, reread=first)
        self._compiled = compiled

    def clean(self) -> None:
        """Remove it all, and end what runs besides us."""
        self._host.apply(Program(), reread=True)

    def close(self) -> None:
        """Close sockets; the kernel keeps what it has."""
        self._links.close()
        self._host.close()

    def _key(self) -> str:
        return keys(self._options).public() if self._settings.mode is Mode.WIREGUARD else ""


def facts_of(kernel: Links, addresses: tuple[IPAddress, ...], key: str = "") -> HostFacts:
    """What the kernel says about the ways to these addresses."""
    paths, networks = underlay.read(kernel, addresses)
    return HostFacts({to: Path(*path) for to, path in paths.items()}, networks, key)
