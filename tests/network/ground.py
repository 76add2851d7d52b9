"""Three nodes in two subnets with Pods on all, and a Pod network: what the proofs are tried on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network

from netplane.lab import router
from netplane.lab.namespaces import Lab
from netplane.lab.networked import PodNetworkOptions, networked
from netplane.lab.proof import Proving
from netplane.lab.proof_packets import TCP_PORT
from netplane.lab.servers import Servers, open_doors
from netplane.lab.topology import Attach, Topology, subnet, topology
from netplane.model.address import Family, Protocol
from netplane.model.node import Node
from netplane.model.pod import ContainerPort, Pod, PodId
from netplane.model.snapshot import Snapshot
from netplane.plan.network_settings import Bgp, BgpPeer, Mode, NetworkSettings

UNDERLAY_MTU = 1400
"""Less than the 1500 of Pods' links: so nodes have to say what is too large, in every mode."""
BOTH = (Family.IPV4, Family.IPV6)
NO_MASQUERADE = (ip_network("203.0.112.0/24"), ip_network("2001:db8:112::/64"))

Make = Callable[[Lab, "Ground"], AbstractContextManager[object]]
"""Makes the network of a ground in a lab of it, for as long as the context lasts."""


@dataclass(frozen=True)
class Ground:
    """What a lab is like. `outer`: the families nodes have addresses of; Pods have both."""

    mode: Mode
    outer: tuple[Family, ...] = BOTH

    def __str__(self) -> str:
        return self.mode.value if self.outer == BOTH else f"{self.mode.value}-over-{'-'.join(map(str, self.outer))}"

    def options(self) -> PodNetworkOptions:
        settings = NetworkSettings(
            self.mode,
            cluster_ranges=(ip_network("10.244.0.0/16"), ip_network("fd00:10:244::/48")),
            no_masquerade=NO_MASQUERADE,
        )
        if self.mode is Mode.BGP:  # the router between must hear of Pods
            settings = replace(settings, bgp=Bgp(peers=self.peers()))
        # Directly is only possible where no router is between.
        return PodNetworkOptions(settings, self.mode.value, {} if self.mode is Mode.HOST_GW else {"n3": "b"})

    def peers(self) -> tuple[BgpPeer, ...]:
        families = tuple(family.value for family in self.outer)
        return tuple(each for number in (0, 1) for each in router.peers(subnet(number), families))

    def snapshot(self) -> Snapshot:
        nodes, pods = {}, {}
        for i in (1, 2, 3):
            addresses = (ip_address(f"192.0.2.1{i}"), ip_address(f"2001:db8::1{i}"))
            own = tuple(each for each in addresses if Family(each.version) in self.outer)
            ranges = (ip_network(f"10.244.{i}.0/24"), ip_network(f"fd00:10:244:{i}::/64"))
            nodes[f"n{i}"] = Node(f"n{i}", own, ranges, labels=frozenset({("subnet", "1" if i == 3 else "0")}))
            for letter, last in (("a", 5), ("b", 6)) if i == 1 else (("a", 5),):
                pod = PodId("shop", f"{letter}{i}")
                ports = (ContainerPort("http", Protocol.TCP, TCP_PORT),)
                at = (ip_address(f"10.244.{i}.{last}"), ip_address(f"fd00:10:244:{i}::{last}"))
                pods[pod] = Pod(pod, f"n{i}", at, ports=ports, ready=True)
        return Snapshot(nodes=nodes, pods=pods)

    def wiring(self) -> Topology:
        return networked(topology(self.snapshot(), Attach.BRIDGE), self.options(), underlay_mtu=UNDERLAY_MTU)


@contextmanager
def bare(ground: Ground) -> Iterator[Lab]:
    """A lab with servers, and no network yet."""
    with Lab(ground.wiring()) as lab, Servers(lasting=True) as servers:
        open_doors(servers, lab, [(Protocol.TCP, TCP_PORT)])
        yield lab


@contextmanager
def proving(ground: Ground, make: Make) -> Iterator[Proving]:
    """A lab with its network up."""
    with bare(ground) as lab, make(lab, ground):
        yield Proving(lab, ground.options())
