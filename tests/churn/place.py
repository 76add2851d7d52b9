"""Where churn happens: two nodes, pods with servers, who connects, and what others do on the node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from random import Random

from churn.background import NODE
from churn.fronts import SERVERS, address
from generated.clusters import NODE_IPS, POD_RANGES

from netplane.kernel import command
from netplane.lab.topology import Attach, Topology, first, topology
from netplane.model.address import Family, IPAddress
from netplane.model.node import Node
from netplane.model.pod import Pod, PodId
from netplane.model.snapshot import Snapshot
from netplane.plan.plan import Origin

CLIENT, BOTH = PodId("fire", "client"), PodId("fire", "b")
"""A pod that only connects, and one that is an endpoint, too."""
_CLIENT_LAST = 9


@dataclass(frozen=True, slots=True)
class Shooter:
    """Who connects: origin and source addresses as the oracle must be told."""

    name: str
    origin: Origin
    sources: Mapping[Family, IPAddress]


def settings(random: Random) -> tuple[list[str], Attach]:
    """Options of the agent, and how pods are attached, which they depend on."""
    attach = random.choice(tuple(Attach))
    by_link = "bridge=cni0" if attach is Attach.BRIDGE else "interface-prefix=np"
    options = [f"local={random.choice(('pod-range', by_link))}", f"node-ports={random.choice(('primary', 'all'))}"]
    if random.random() < 0.5:
        options.append("service-ranges=10.96.0.0/16,fd00:96::/64")
    return options, attach


def wiring(attach: Attach) -> Topology:
    nodes = {name: Node(name, NODE_IPS[name], POD_RANGES[name]) for name in ("n1", "n2")}
    pods = [
        Pod(PodId("fire", name), node, tuple(address(name, family) for family in Family))
        for name, (node, _) in SERVERS.items()
    ]
    here = (ip_address(f"10.244.1.{_CLIENT_LAST}"), ip_address(f"fd00:244:1::{_CLIENT_LAST}"))
    pods.append(Pod(CLIENT, NODE, here))
    return topology(Snapshot(nodes=nodes, pods={pod.id: pod for pod in pods}), attach)


def shooters(lab: Topology) -> list[Shooter]:
    node = lab.nodes[NODE]

    def by_family(addresses: tuple[IPAddress, ...]) -> dict[Family, IPAddress]:
        return {family: first(family, addresses) for family in Family}

    return [
        Shooter("pod", Origin.POD, by_family(lab.pods[CLIENT].addresses)),
        Shooter("server", Origin.POD, by_family(lab.pods[BOTH].addresses)),
        Shooter("node", Origin.NODE, {family: node.source(family) for family in Family}),
        Shooter("outside", Origin.OUTSIDE, by_family(tuple(each for each in node.clients))),
    ]


def somebody_else() -> None:
    """Who else translates on the node: connections that are translated need one for as long as they live."""
    for family in ("ip", "ip6"):
        chain = "type nat hook postrouting priority 110; oifname nothing masquerade;"
        table = f"table {family} other {{ chain post {{ {chain} }}; }}"
        command.run("nft", "-f", "-", stdin=table, mechanism="nftables", doing="make a foreign table")


def flush(random: Random, backend: str) -> None:
    """Remove some or all of what a backend has in the namespace of the calling thread."""
    words = random.choice(FLUSHES[backend])
    family = random.choice(("", "6"))
    command.run(*(each.replace("FAMILY", family) for each in words), mechanism="test", doing="flush")


FLUSHES: dict[str, tuple[tuple[str, ...], ...]] = {
    "nftables": (
        ("nft", "delete table ipFAMILY netplane"),
        ("nft", "flush table ipFAMILY netplane"),
        ("nft", "flush chain ipFAMILY netplane decide-pod"),
        ("nft", "flush map ipFAMILY netplane slots"),
        ("nft", "flush chain ip netplane prerouting; flush chain ip6 netplane output"),
    ),
    "iptables": (
        ("ipFAMILYtables", "-w", "-t", "nat", "-F"),
        ("ipFAMILYtables", "-w", "-t", "nat", "-F", "KUBE-SERVICES"),
        ("ipFAMILYtables", "-w", "-t", "nat", "-F", "KUBE-POSTROUTING"),
        ("ipFAMILYtables", "-w", "-t", "filter", "-F"),
    ),
}
"""What somebody may do to the rules of a backend; FAMILY is nothing for IPv4, 6 for IPv6."""
