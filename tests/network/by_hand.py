"""A Pod network made by hand, with `ip`, `bridge` and `nft`: it shows that the proofs can be passed, and with a fault
in it, that they can fail. What netplane makes is proved by the same proofs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ground import Ground

from netplane.kernel.command import run
from netplane.lab.namespaces import ROUTER_TABLE, Lab
from netplane.lab.networked import PodNetworkOptions, keeps_source
from netplane.lab.proof import Outer, promise
from netplane.lab.topology import NodeHost, Topology
from netplane.model.address import Family, IPAddress, IPNetwork, family_of
from netplane.plan.network_plan import VXLAN_LINKS
from netplane.plan.network_settings import Mode


@contextmanager
def make(lab: Lab, ground: Ground) -> Iterator[None]:
    """Make it on every node. In a network of BGP the outside is told the Pods' ranges, as BGP would tell it."""
    options = ground.options()
    for node in lab.topology.nodes.values():
        text = "\n".join(ByHand(lab.topology, options, node).commands())
        lab.nodes[node.name].run(lambda text=text: run("sh", "-ec", text, mechanism="test", doing="make a network"))
        rules = ByHand(lab.topology, options, node).rules()
        lab.nodes[node.name].run(
            lambda rules=rules: run("nft", "-f", "-", stdin=rules, mechanism="test", doing="load rules")
        )
    if options.settings.mode is Mode.BGP:
        told = "\n".join(
            f"ip route replace {network} via {node.link(family_of(network))} table {ROUTER_TABLE}"
            for node in lab.topology.nodes.values()
            for network in node.ranges
        )
        lab.outside.run(lambda: run("sh", "-ec", told, mechanism="test", doing="tell the router"))
    yield


def mac_of(name: str) -> str:
    first, *rest = hashlib.sha256(name.encode()).digest()[:6]
    return ":".join(f"{byte:02x}" for byte in (first & 0xFC | 2, *rest))


@dataclass(frozen=True)
class ByHand:
    """What one node needs."""

    topology: Topology
    options: PodNetworkOptions
    here: NodeHost

    def commands(self) -> Iterator[str]:
        for network in self.here.ranges:
            yield f"ip route replace blackhole {network} metric 9898"
        for network in self.options.settings.cluster_ranges:
            yield f"ip route replace unreachable {network} metric 9899"
        overlays = {each.outer for each in map(self.promise, self.peers()) if each.around is Outer.VXLAN}
        for family in overlays:
            yield from self.device(family)
        for network in self.here.ranges if overlays else ():
            yield f"ip {_dash(network)} rule add from {network} lookup 98 priority 98"
        for peer in self.peers():
            yield from self.over_vxlan(peer) if self.promise(peer).around is Outer.VXLAN else self.directly(peer)

    def peers(self) -> list[NodeHost]:
        return [node for node in self.topology.nodes.values() if node is not self.here]

    def promise(self, peer: NodeHost):
        return promise(self.options, self.here, peer, self.topology.underlay_mtu or 1500)

    def device(self, outer: Family) -> Iterator[str]:
        vxlan = self.options.settings.vxlan
        link = VXLAN_LINKS[outer.value]
        mtu = (self.topology.underlay_mtu or 1500) - (50 if outer is Family.IPV4 else 70)
        checksum = "" if outer is Family.IPV6 or vxlan.checksum else "noudpcsum"
        yield (
            f"ip link add {link} address {mac_of(self.here.name)} mtu {mtu} type vxlan id {vxlan.id} "
            f"local {self.here.source(outer)} dstport {vxlan.port} nolearning {checksum}"
        )
        yield f"ip link set {link} addrgenmode none"
        for inner in self.here.inner:
            yield f"ip {_dash(inner)} address add {inner} dev {link}"
        yield f"ip link set {link} up"

    def over_vxlan(self, peer: NodeHost) -> Iterator[str]:
        outer = self.promise(peer).outer
        assert outer is not None
        link, mac = VXLAN_LINKS[outer.value], mac_of(peer.name)
        yield f"bridge fdb replace {mac} dev {link} dst {peer.source(outer)} self permanent"
        for inner in peer.inner:
            yield f"ip neigh replace {inner} lladdr {mac} dev {link} nud permanent"
            for network in (each for each in peer.ranges if each.version == inner.version):
                yield f"ip route replace {network} via {inner} dev {link} onlink metric 98"
            for own in (each for each in peer.addresses if each.version == inner.version):
                yield f"ip {_dash(own)} route replace {own} via {inner} dev {link} onlink table 98"

    def directly(self, peer: NodeHost) -> Iterator[str]:
        together = peer.subnet == self.here.subnet
        for network in peer.ranges:
            family = family_of(network)
            # Where BGP leads to another subnet, the router is the next hop: it was told.
            via = f"via {peer.source(family)} dev eth0 onlink" if together else f"via {self.router(family)}"
            yield f"ip route replace {network} {via} metric 98"

    def router(self, family: Family) -> IPAddress:
        subnets = {each.number: each for each in self.topology.subnets()}
        return next(each for each in subnets[self.here.subnet].router if family_of(each) is family)

    def rules(self) -> str:
        port = self.options.settings.vxlan.port
        return (
            "table inet netplane-network {\n"
            + "".join(
                f"chain {name} {{ {body}\n}}\n"
                for name, body in {
                    "raw": f"""type filter hook prerouting priority raw
                    {self.only_peers(port)}
                    iifname "np-vxlan*" fib saddr . iif oif 0 drop""",
                    "post": "\n".join(("type nat hook postrouting priority 101", *self.masquerade())),
                    "forward": """type filter hook forward priority 0
                    oifname "np-vxlan*" tcp flags & syn == syn tcp option maxseg size set rt mtu""",
                }.items()
            )
            + "}\n"
        )

    def masquerade(self) -> Iterator[str]:
        kept = keeps_source(self.topology, self.options.settings)
        for word, version in (("ip", 4), ("ip6", 6)):
            own = [
                str(each)
                for each in sorted(self.here.local() - set(self.here.inner), key=str)
                if each.version == version
            ]
            yield f'oifname "np-vxlan*" {word} saddr {{ {", ".join(own)} }} masquerade'
            for network in (each for each in self.here.ranges if each.version == version):
                others = ", ".join(str(each) for each in _outermost([each for each in kept if each.version == version]))
                yield f"{word} saddr {network} {word} daddr != {{ {others} }} masquerade"

    def peer_addresses(self) -> list[IPAddress]:
        return [each for peer in self.peers() for each in peer.addresses]

    def only_peers(self, port: int) -> str:
        """Drops VXLAN of everybody else."""
        rules = ""
        for word, version, nobody in (("ip", 4, "127.0.0.1"), ("ip6", 6, "::1")):
            known = ", ".join(str(each) for each in self.peer_addresses() if each.version == version) or nobody
            rules += f"fib daddr type local udp dport {port} {word} saddr != {{ {known} }} drop\n"
        return rules


def _dash(which: IPAddress | IPNetwork) -> str:
    return f"-{which.version}"


def _outermost(networks):
    return [each for each in networks if not any(each != other and each.subnet_of(other) for other in networks)]
