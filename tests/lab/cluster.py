"""A small cluster to wire up: two nodes, a client and two web pods, dual stack."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_network

from netplane.kernel.command import run
from netplane.lab.namespaces import Lab
from netplane.lab.probe import FromNode, FromOutside, FromPod, Probe, Sender, usual_source
from netplane.lab.servers import Servers, open_doors
from netplane.lab.topology import Attach, Port, Topology, topology
from netplane.model.address import Family, IPAddress, Protocol, family_of
from netplane.model.node import Node
from netplane.model.pod import ContainerPort, Pod, PodId
from netplane.model.snapshot import Snapshot
from netplane.plan.oracle import Deliver, Delivery
from netplane.plan.plan import Endpoint

VIP = {Family.IPV4: "10.96.0.10", Family.IPV6: "fd00:10:96::a"}
EXTERNAL = {Family.IPV4: "203.0.113.9", Family.IPV6: "2001:db8:9::9"}
NODE = {Family.IPV4: "192.0.2.11", Family.IPV6: "2001:db8::11"}
LINK = {Family.IPV4: "198.18.0.11", Family.IPV6: "fd00:198:18::b"}
PODS = {
    "client": ("n1", "10.244.1.9", "fd00:10:244:1::9"),
    "web-1": ("n1", "10.244.1.5", "fd00:10:244:1::5"),
    "web-2": ("n2", "10.244.2.5", "fd00:10:244:2::5"),
}


def pod_id(name: str) -> PodId:
    return PodId("shop", name)


def snapshot() -> Snapshot:
    nodes = {
        f"n{i}": Node(
            f"n{i}",
            (ip_address(f"192.0.2.1{i}"), ip_address(f"2001:db8::1{i}")),
            (ip_network(f"10.244.{i}.0/24"), ip_network(f"fd00:10:244:{i}::/64")),
        )
        for i in (1, 2)
    }
    ports = tuple(ContainerPort("http", protocol, 8080) for protocol in Protocol)
    pods = {
        pod_id(name): Pod(pod_id(name), node, tuple(map(ip_address, addresses)), ports=ports, ready=True)
        for name, (node, *addresses) in PODS.items()
    }
    return Snapshot(nodes=nodes, pods=pods)


def wiring(attach: Attach) -> Topology:
    return topology(snapshot(), attach)


def pod_address(name: str, family: Family) -> IPAddress:
    return next(a for a in map(ip_address, PODS[name][1:]) if family_of(a) is family)


@contextmanager
def lab_with_servers(attach: Attach, *ports: Port) -> Iterator[Lab]:
    with Lab(wiring(attach)) as lab, Servers() as servers:
        open_doors(servers, lab, ports)
        yield lab


def probe(lab: Lab, sender: Sender, to: str, port: int = 80, protocol: Protocol | None = Protocol.UDP) -> Probe:
    destination = ip_address(to)
    return Probe(sender, usual_source(sender, family_of(destination), lab.topology), protocol, destination, port)


def load(lab: Lab, family: Family, **chains: str) -> None:
    """Install rules on n1, by hook: `prerouting="..."`; `{vip}` and the pods' names become addresses."""
    names = {name.replace("-", "_"): str(pod_address(name, family)) for name in PODS}
    at = {name: f"[{address}]" if family is Family.IPV6 else address for name, address in names.items()}
    names |= {f"to_{name}": f"{address}:8080" for name, address in at.items()}
    names |= {f"closed_{name}": f"{address}:9" for name, address in at.items()}
    ip = "ip" if family is Family.IPV4 else "ip6"
    bodies = "".join(
        f"chain {hook} {{ type {_type(hook)}; {rules.format(ip=ip, vip=VIP[family], node=NODE[family], **names)}\n}}\n"
        for hook, rules in chains.items()
    )
    text = f"table {ip} t {{\n{bodies}}}\n"
    lab.nodes["n1"].run(lambda: run("nft", "-f", "-", stdin=text, mechanism="test", doing="load rules"))


def _type(hook: str) -> str:
    return {
        "prerouting": "nat hook prerouting priority -100",
        "output": "nat hook output priority -100",
        "postrouting": "nat hook postrouting priority 100",
        "forward": "filter hook forward priority 0",
        "refuse_output": "filter hook output priority 0",
    }[hook]


def to(*targets: tuple[str, bool], family: Family, sticky: bool = False, port: int = 8080) -> Deliver:
    """The outcome "one of these pods", each masqueraded or not."""
    deliveries = tuple(
        Delivery(Endpoint(pod_address(name, family), port, PODS[name][0]), masqueraded) for name, masqueraded in targets
    )
    return Deliver(deliveries, sticky)


CLIENT = FromPod(pod_id("client"))
WEB_1 = FromPod(pod_id("web-1"))
NODE_1 = FromNode("n1")
OUTSIDE = FromOutside("n1")


def manifests() -> str:
    """The same cluster as YAML, with a Service `web` at the cluster IPs of `VIP`."""
    objects: list[dict[str, object]] = []
    for node in snapshot().nodes.values():
        objects.append(
            {
                "kind": "Node",
                "metadata": {"name": node.name},
                "spec": {"podCIDRs": [str(network) for network in node.pod_ranges]},
                "status": {"addresses": [{"type": "InternalIP", "address": str(each)} for each in node.addresses]},
            }
        )
    for pod in snapshot().pods.values():
        objects.append(
            {
                "kind": "Pod",
                "metadata": {"name": pod.id.name, "namespace": "shop", "labels": {"app": pod.id.name.split("-")[0]}},
                "spec": {"nodeName": pod.node, "containers": [{"name": "c"}]},
                "status": {
                    "phase": "Running",
                    "podIPs": [{"ip": str(each)} for each in pod.addresses],
                    "conditions": [{"type": "Ready", "status": "True"}],
                },
            }
        )
    ips = [VIP[Family.IPV4], VIP[Family.IPV6]]
    port = {"port": 80, "targetPort": 8080}
    spec = {"clusterIP": ips[0], "clusterIPs": ips, "selector": {"app": "web"}, "ports": [port]}
    objects.append({"kind": "Service", "metadata": {"name": "web", "namespace": "shop"}, "spec": spec})
    return "---\n".join(json.dumps({"apiVersion": "v1", **each}) + "\n" for each in objects)
