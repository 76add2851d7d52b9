"""netplane's Pod network on every node of a lab, planned, compiled and applied in this process.

What runs besides the kernel (bird, wireguard-go) and the keys are in a folder of their own for each node. When the
context ends the empty program is applied: nothing runs on, and nothing of the network may be left on a node.
"""

from __future__ import annotations

import select
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from netplane.backends.network.compile import CompiledNetwork, compile_network
from netplane.closing import Closing
from netplane.errors import KernelError
from netplane.kernel import underlay
from netplane.kernel.host import NETWORK, Host, HostOptions, Summary
from netplane.kernel.links import Links
from netplane.kernel.netns import Namespace
from netplane.kernel.wireguard_keys import KeyStore
from netplane.lab import sockets
from netplane.lab.namespaces import Lab
from netplane.lab.networked import PodNetworkOptions, inner_addresses
from netplane.lab.router import routing, wait_for_routes
from netplane.lab.topology import CONTROL
from netplane.model.address import IPAddress, family_of
from netplane.model.node import Node
from netplane.plan.network import addresses_to_reach, plan_network
from netplane.plan.network_plan import PUBLIC_KEY_ANNOTATION, HostFacts, NetworkPlan
from netplane.plan.network_plan import Path as Way
from netplane.plan.network_settings import Mode, NetworkSettings

HANDSHAKE_SECONDS = 30.0
_AGAIN_SECONDS = 0.5


class NetworkHere(Closing):
    """The Pod network of one node. Closing it leaves what is in the kernel, as an agent that ends does."""

    def __init__(self, namespace: Namespace, node: str, folder: Path) -> None:
        self.node, self._namespace = node, namespace
        self._keys = KeyStore(folder / "state" / "wireguard")
        options = HostOptions(run_directory=folder / "run", state_directory=folder / "state")
        with ExitStack() as made:
            self._host = made.enter_context(namespace.run(lambda: Host(options, NETWORK)))
            self._links = made.enter_context(namespace.run(Links))
            self._made = made.pop_all()
        self._plan: NetworkPlan | None = None
        self._compiled: CompiledNetwork | None = None

    def public_key(self) -> str:
        """This node's key for WireGuard; made if there is none."""
        return self._namespace.run(self._keys.public)

    def plan(self, nodes: Mapping[str, Node], settings: NetworkSettings) -> NetworkPlan:
        """What should be, as the node's links and routes are now."""
        return self._namespace.run(lambda: self._planned(nodes, settings))

    def apply(self, nodes: Mapping[str, Node], settings: NetworkSettings) -> Summary:
        """Make it so. Raises KernelError with what the plan finds wrong: in a lab, nothing may be."""
        return self._namespace.run(lambda: self._applied(nodes, settings))

    def clean(self) -> None:
        """Remove all of it."""
        if self._compiled is not None:
            empty = type(self._compiled.program)()
            self._namespace.run(lambda: self._host.apply(empty, reread=True))

    def close(self) -> None:
        """Let go of the node."""
        self._made.close()

    def _planned(self, nodes: Mapping[str, Node], settings: NetworkSettings) -> NetworkPlan:
        found = underlay.look(self._links, addresses_to_reach(nodes, self.node, settings))
        key = self._keys.public() if settings.mode is Mode.WIREGUARD else ""
        ways = {address: Way(*path) for address, path in found.paths.items()}
        facts = HostFacts(ways, found.networks, key, addresses=found.addresses)
        return plan_network(nodes, self.node, settings, facts, previous=self._plan)

    def _applied(self, nodes: Mapping[str, Node], settings: NetworkSettings) -> Summary:
        self._plan = self._planned(nodes, settings)
        if self._plan.problems:
            said = "; ".join(f"{each.where}: {each.why}" for each in self._plan.problems)
            raise KernelError(mechanism="lab", doing=f"plan the network of {self.node}", said=said)
        self._compiled = compile_network(self._plan, self._compiled)
        return self._host.apply(self._compiled.program, reread=True)


@dataclass(frozen=True, slots=True)
class NetworksHere:
    """The Pod network of a lab, up."""

    lab: Lab
    hosts: Mapping[str, NetworkHere]
    nodes: Mapping[str, Node]

    def apply(self, settings: NetworkSettings) -> Mapping[str, Summary]:
        """Make every node have this network, whatever it has now; returns when Pods reach each other by it."""
        nodes = with_keys(self.nodes, self.hosts) if settings.mode is Mode.WIREGUARD else self.nodes
        summaries = {name: host.apply(nodes, settings) for name, host in self.hosts.items()}
        wait_until_up(self.lab, settings)
        return summaries


@contextmanager
def network_here(lab: Lab, nodes: Mapping[str, Node], options: PodNetworkOptions) -> Iterator[NetworksHere]:
    """The network of `options` on every node of a lab, while the context lasts; ready when it begins."""
    with ExitStack() as made:
        folder = Path(made.enter_context(tempfile.TemporaryDirectory(prefix="netplane-lab-")))
        made.enter_context(routing(lab, options.settings))
        hosts: dict[str, NetworkHere] = {}
        for name, namespace in lab.nodes.items():
            hosts[name] = made.enter_context(NetworkHere(namespace, name, folder / name))
            made.callback(hosts[name].clean)
        network = NetworksHere(lab, hosts, nodes)
        network.apply(options.settings)
        yield network


def wait_until_up(lab: Lab, settings: NetworkSettings) -> None:
    """Return when Pods reach each other by a network that was applied on every node: BGP and WireGuard need a moment.

    Raises KernelError if that takes too long.
    """
    wait_for_routes(lab, settings)
    if settings.mode is Mode.WIREGUARD:
        wait_for_handshakes(lab)


def wait_for_handshakes(lab: Lab) -> None:
    """Return when every two nodes have heard from each other over the overlay. KernelError if that takes too long.

    One of the two speaks first: where both begin in the same moment, WireGuard loses both handshakes and tries again
    after five seconds (REKEY_TIMEOUT), and wireguard-go may then believe for fifteen that all is well.
    """
    nodes = list(lab.topology.nodes.values())
    for number, here in enumerate(nodes):
        for there in nodes[number + 1 :]:
            inner = inner_addresses(there.ranges)[0]
            made = lab.nodes[here.name].run(lambda to=inner: _connected(to))  # type: ignore[misc]
            with made:
                if not _hears(made):
                    said = f"none within {HANDSHAKE_SECONDS:g} s"
                    doing = f"wait for a handshake of {here.name} with {there.name}"
                    raise KernelError(mechanism="lab", doing=doing, said=said)


def _connected(to: IPAddress) -> socket.socket:
    made = sockets.datagram(family_of(to))
    made.connect((str(to), CONTROL[1]))
    return made


def _hears(made: socket.socket) -> bool:
    """Whether an answer comes, or the news that nobody listens there."""
    deadline = time.monotonic() + HANDSHAKE_SECONDS
    while time.monotonic() < deadline:
        with suppress(ConnectionRefusedError):
            made.send(b"?")
            if not select.select([made], [], [], _AGAIN_SECONDS)[0]:
                continue
            made.recv(65536)
        return True
    return False


def with_keys(nodes: Mapping[str, Node], hosts: Mapping[str, NetworkHere]) -> dict[str, Node]:
    """The nodes with the annotations their agents would have."""
    keys = {name: host.public_key() for name, host in hosts.items()}
    return {
        name: replace(node, annotations=(*node.annotations, (PUBLIC_KEY_ANNOTATION, keys[name])))
        for name, node in nodes.items()
    }
