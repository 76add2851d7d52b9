"""What the rules of the CNI plugin and of the Pod network do to packets on a node: host ports, and masquerade towards
the outside. Pure.

Said again by the lab, so that neither is compared with itself. A host port is looked at after the Services: on
every address of the node, loopback too, it leads to the pod's port. The pod sees its client, unless its answer would
not come back through the node: a client at a loopback address, in the same network of the bridge, or the pod itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from cni.config import PortMapping
from netplane.lab.probe import FromPod, Probe
from netplane.lab.topology import Attach, NodeHost, PodHost, Topology
from netplane.model.address import IPAddress, IPNetwork
from netplane.plan.oracle import Decision, Deliver, Delivery, Outcome, Untouched
from netplane.plan.plan import Endpoint


@dataclass(frozen=True, slots=True)
class PodNetwork:
    """These rules on all nodes of a lab. `keeps`: one list of networks for each who masquerades: pods keep their
    address where all of them say so. Host ports are the plugin's.
    """

    topology: Topology
    keeps: Sequence[Sequence[IPNetwork]]
    snat: bool = True
    host_ports: bool = True

    def host_port(self, node: NodeHost, probe: Probe) -> Decision | None:
        """Where a host port of `node` leads a packet that is addressed to it; None if there is none.

        `::1` does not work: the kernel takes no answer to it from another link (IPv6 has no route_localnet).
        """
        if not self.host_ports or (probe.destination.version == 6 and probe.destination.is_loopback):
            return None
        for pod, mapping in sorted(self._mappings(node, probe), key=lambda each: _everywhere(each[1])):
            address = next(each for each in pod.addresses if each.version == probe.destination.version)
            endpoint = Endpoint(address, mapping.container_port, node=node.name, pod=pod.id.name)
            to = Delivery(endpoint, self._answers_past(pod, address, probe.source))
            return Decision(Deliver((to,)), None, f"hostPort {mapping.host_port} of Pod {pod.id}")
        return None

    def leaving(self, node: NodeHost, probe: Probe, decision: Decision) -> Decision:
        """A decision, with masquerade where the packet of a pod leaves its node for somewhere outside the cluster."""
        outcome = decision.outcome
        if not self.keeps or not isinstance(probe.sender, FromPod) or probe.protocol is None:
            return decision
        if isinstance(outcome, Untouched):
            if not self._leaves(node, probe.destination):
                return decision
            outcome = Deliver((Delivery(Endpoint(probe.destination, probe.port), True),))
            return replace(decision, outcome=outcome, reason=f"{decision.reason}; it leaves the cluster")
        return replace(decision, outcome=self._masqueraded(node, outcome))

    def _masqueraded(self, node: NodeHost, outcome: Outcome) -> Outcome:
        if not isinstance(outcome, Deliver):
            return outcome
        masqueraded = (to.masqueraded or self._leaves(node, to.endpoint.address) for to in outcome.to)
        return replace(outcome, to=tuple(map(Delivery, (to.endpoint for to in outcome.to), masqueraded)))

    def _leaves(self, node: NodeHost, to: IPAddress) -> bool:
        return not node.owns(to) and not all(any(to in network for network in kept) for kept in self.keeps)

    def _mappings(self, node: NodeHost, probe: Probe) -> Iterator[tuple[PodHost, PortMapping]]:
        for pod in self.topology.pods_of(node.name):
            for mapping in pod.host_ports:
                if (mapping.protocol, mapping.host_port) == (probe.protocol, probe.port) and _at(mapping, pod, probe):
                    yield pod, mapping

    def _answers_past(self, pod: PodHost, address: IPAddress, client: IPAddress) -> bool:
        if client == address:
            return True
        bridged = self.topology.attach is Attach.BRIDGE and any(client in network for network in pod.prefixes)
        return self.snat and (client.is_loopback or bridged)


def _at(mapping: PortMapping, pod: PodHost, probe: Probe) -> bool:
    """Whether a mapping is for this destination: every address of a family, or just one."""
    host, version = mapping.host_address, probe.destination.version
    if all(address.version != version for address in pod.addresses) or (host and host.version != version):
        return False
    return _everywhere(mapping) or host == probe.destination


def _everywhere(mapping: PortMapping) -> bool:
    """Whether it is for every address; one that is for a certain address comes first."""
    return mapping.host_address is None or mapping.host_address.is_unspecified
