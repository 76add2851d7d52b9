"""The wiring of a lab whose pods are attached by the CNI plugin, and what its runtime asks for each of them. Pure.

Links and addresses of the host's end are the plugin's, under the names it gives them; routes between nodes, the
underlay and the outside stay the lab's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from typing import Any

from cni.attachment import AttachmentId, link_name
from cni.config import Mode, PortMapping
from cni.plan import NEXT_HOPS
from netplane.lab.topology import Attach, NodeHost, PodHost, Topology, Unsuitable, host_network
from netplane.model.address import IPAddress, IPNetwork, family_of
from netplane.model.pod import PodId

NETWORK = "pods"
IFNAME = "eth0"
_AROUND = {4: 24, 6: 64}
"""How large the network of a pod is whose address is in no pod range of its node, when it is on a bridge."""


@dataclass(frozen=True, slots=True)
class PluginOptions:
    """Options of the plugin's configuration that a case wants other than the lab has them, by their names there."""

    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def masquerade(self) -> bool:
        """Whether pods are masqueraded towards the outside."""
        return bool(self.options.get("ipMasq", True))

    @property
    def snat(self) -> bool:
        """Whether clients of host ports are masqueraded that a pod would answer past the node."""
        return bool(self.options.get("snat", True))


class NotForThePlugin(Unsuitable):
    """A case that needs pods the plugin does not make, and why."""


def container(pod: PodId) -> str:
    """The container's name in requests: a container's may have neither slashes nor colons."""
    return str(pod).replace("/", ".").replace(":", "-")


def attachment_of(pod: PodId) -> AttachmentId:
    """What the plugin calls the attachment of a pod."""
    return AttachmentId(NETWORK, container(pod), IFNAME)


def attached(wiring: Topology) -> Topology:
    """The same cluster with its pods attached by the plugin: its names of links, its gateways, its networks.

    Raises NotForThePlugin if the bridge of a node would need two addresses of one family.
    """
    pods = {id_: _pod(pod, wiring.nodes[pod.node], wiring.attach) for id_, pod in wiring.pods.items()}
    bridged = pods if wiring.attach is Attach.BRIDGE else {}
    nodes = {
        name: replace(node, gateways=tuple(_gateways(name, bridged)), next_hops=())
        for name, node in wiring.nodes.items()
    }
    for node in nodes.values():
        if len(node.gateways) > len({gateway.version for gateway in node.gateways}):
            here = ", ".join(map(str, node.gateways))
            raise NotForThePlugin(f"{node.name}: pods of several networks on one bridge, which has one gateway: {here}")
    return replace(wiring, nodes=nodes, pods=pods, plugin=True)


def cluster_networks(wiring: Topology) -> tuple[IPNetwork, ...]:
    """Where pods keep their address: everything that is part of the cluster."""
    found = [network for node in wiring.nodes.values() for network in node.ranges]
    found += (route.to for route in wiring.routes)
    found += (host_network(link) for node in wiring.nodes.values() for link in node.links)
    return tuple(dict.fromkeys(found))


def configuration(pod: PodHost, wiring: Topology, plugin: PluginOptions) -> dict[str, Any]:
    """What the plugin of a pod's node reads from standard input, but for the result of another command."""
    return {
        "cniVersion": "1.0.0",
        "name": NETWORK,
        "type": "netplane",
        "mode": wiring.attach.value,
        "clusterRanges": [str(network) for network in cluster_networks(wiring)],
        "ipam": _ipam(pod, wiring.nodes[pod.node]),
        "runtimeConfig": {"ips": [str(address) for address in pod.addresses], **_ports(pod)},
        **plugin.options,
    }


def arguments(pod: PodId) -> str:
    """CNI_ARGS as a kubelet's runtime has it."""
    return f"IgnoreUnknown=1;K8S_POD_NAMESPACE={pod.namespace};K8S_POD_NAME={pod.name.replace(':', '-')}"


def _pod(pod: PodHost, node: NodeHost, attach: Attach) -> PodHost:
    link = link_name(Mode(attach.value), attachment_of(pod.id))
    if attach is Attach.ROUTED:
        hops = tuple(NEXT_HOPS[family_of(address)] for address in pod.addresses)
        return replace(pod, link=link, gateways=hops)
    networks = tuple(_network(address, node) for address in pod.addresses)
    return replace(pod, link=link, prefixes=networks, gateways=tuple(network[1] for network in networks))


def _network(address: IPAddress, node: NodeHost) -> IPNetwork:
    """What the range of addresses is called that the address is taken from."""
    around = ip_network((address, _AROUND[address.version]), strict=False)
    return next((network for network in node.ranges if address in network), around)


def _gateways(node: str, pods: Mapping[PodId, PodHost]) -> Iterator[IPAddress]:
    """The addresses of the bridge, which is there as soon as a pod is."""
    yield from dict.fromkeys(gateway for pod in pods.values() if pod.node == node for gateway in pod.gateways)


def _ipam(pod: PodHost, node: NodeHost) -> dict[str, Any]:
    """The ranges of the Node object where these are the pod's, as usual; else ranges of its own."""
    networks = tuple(_network(address, node) for address in pod.addresses)
    if networks == node.ranges:
        return {"type": "netplane", "nodeRanges": True}
    return {"type": "netplane", "ranges": [[{"subnet": str(network)}] for network in networks]}


def _ports(pod: PodHost) -> dict[str, Any]:
    return {"portMappings": [_mapping(each) for each in pod.host_ports]} if pod.host_ports else {}


def _mapping(port: PortMapping) -> dict[str, Any]:
    """As containerd spells it: by the names of Go's fields."""
    return {
        "HostPort": port.host_port,
        "ContainerPort": port.container_port,
        "Protocol": str(port.protocol),
        "HostIP": str(port.host_address or ""),
    }
