"""Small clusters in few words: `plan_of(node(), service(), *slices("web", up("10.244.1.5", "n1")))`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address, ip_network
from typing import Any

from netplane.model.address import Family, IPAddress, IPNetwork, Protocol, family_of, host_port
from netplane.model.endpoint import EndpointSlice, EndpointState, SliceEndpoint, SlicePort
from netplane.model.node import Node
from netplane.model.service import Ingress, Scope, Service, ServiceId, ServicePort, ServiceType
from netplane.model.snapshot import Snapshot
from netplane.plan.node import plan_node
from netplane.plan.oracle import Decision, Deliver, Oracle, Packet
from netplane.plan.plan import Frontend, FrontendKind, FrontendRow, Origin, Plan, ThisNode
from netplane.plan.settings import Settings

TCP, UDP, SCTP = Protocol.TCP, Protocol.UDP, Protocol.SCTP
IPV4, IPV6 = Family.IPV4, Family.IPV6
POD, NODE, OUTSIDE = Origin.POD, Origin.NODE, Origin.OUTSIDE
CLUSTER, LOCAL = Scope.CLUSTER, Scope.LOCAL

ADDRESS = {
    FrontendKind.CLUSTER_IP: {IPV4: "10.96.0.10", IPV6: "fd00:96::10"},
    FrontendKind.EXTERNAL_IP: {IPV4: "198.51.100.7", IPV6: "2001:db8:51::7"},
    FrontendKind.LOAD_BALANCER: {IPV4: "203.0.113.5", IPV6: "2001:db8:113::5"},
}
NODE_ADDRESS = {IPV4: "192.0.2.1", IPV6: "2001:db8::1"}
NODE_PORT = 30080
SOURCE = {
    POD: {IPV4: "10.244.1.99", IPV6: "fd00:244:1::99"},
    NODE: NODE_ADDRESS,
    OUTSIDE: {IPV4: "192.0.2.200", IPV6: "2001:db8::200"},
}
HERE = {IPV4: "10.244.1.5", IPV6: "fd00:244:1::5"}
FAR = {IPV4: "10.244.2.6", IPV6: "fd00:244:2::6"}


def node(name: str = "n1", **changes: Any) -> Node:
    """Node n1 is 192.0.2.1 and has the pods 10.244.1.0/24, n2 is 192.0.2.2 ...; both families."""
    number = name.removeprefix("n")
    made = Node(
        name,
        addresses=addresses(f"192.0.2.{number}", f"2001:db8::{number}"),
        pod_ranges=networks(f"10.244.{number}.0/24", f"fd00:244:{number}::/64"),
    )
    return replace(made, **changes)


def addresses(*texts: str) -> tuple[IPAddress, ...]:
    return tuple(map(ip_address, texts))


def networks(*texts: str) -> tuple[IPNetwork, ...]:
    return tuple(map(ip_network, texts))


def port(number: int = 80, protocol: Protocol = TCP, name: str = "", node_port: int = 0) -> ServicePort:
    return ServicePort(name, protocol, number, 8080, node_port)


def service(name: str = "web", **changes: Any) -> Service:
    """shop/web on the cluster IPs of `ADDRESS` with port 80; say what else it is by field. `ip` sets cluster IPs."""
    own = ADDRESS[FrontendKind.CLUSTER_IP]
    ips = changes.pop("ips", tuple(own.values()))
    made = Service(ServiceId(changes.pop("namespace", "shop"), name), ports=(port(),), cluster_ips=addresses(*ips))
    if "external_ips" in changes:
        changes["external_ips"] = addresses(*changes["external_ips"])
    if "ranges" in changes:
        changes["source_ranges"] = networks(*changes.pop("ranges"))
    if "ingress" in changes:
        changes["ingress"] = tuple(
            each if isinstance(each, Ingress) else Ingress(ip_address(each)) for each in changes["ingress"]
        )
        changes.setdefault("type", ServiceType.LOAD_BALANCER)
    if "seconds" in changes:
        changes["affinity"] = timedelta(seconds=changes.pop("seconds"))
    return replace(made, **changes)


def exposed(name: str = "web", **changes: Any) -> Service:
    """A Service with every kind of frontend, in both families."""
    changes.setdefault("ports", (port(node_port=NODE_PORT),))
    return service(
        name,
        external_ips=tuple(ADDRESS[FrontendKind.EXTERNAL_IP].values()),
        ingress=tuple(ADDRESS[FrontendKind.LOAD_BALANCER].values()),
        **changes,
    )


def up(address: str, on: str = "", *, zones: str = "", nodes: str = "", **changes: Any) -> SliceEndpoint:
    """A ready endpoint; hints are names with blanks between."""
    made = SliceEndpoint(
        ip_address(address), node=on, zone_hints=frozenset(zones.split()), node_hints=frozenset(nodes.split())
    )
    return replace(made, **changes)


def draining(address: str, on: str = "", **changes: Any) -> SliceEndpoint:
    return up(address, on, state=EndpointState.DRAINING, **changes)


def down(address: str, on: str = "", **changes: Any) -> SliceEndpoint:
    return up(address, on, state=EndpointState.DOWN, **changes)


def slices(of: Service | str, *endpoints: SliceEndpoint, name: str = "", target: int = 8080) -> list[EndpointSlice]:
    """The endpoints in one slice per family, for every port of the Service (or one unnamed TCP port)."""
    its = of.id if isinstance(of, Service) else ServiceId("shop", of)
    listed = of.ports if isinstance(of, Service) else (port(),)
    ports = tuple(dict.fromkeys(SlicePort(each.name, each.protocol, target) for each in listed))
    found = [
        EndpointSlice(
            its.namespace,
            f"{its.name}-{name}{family.value}",
            its,
            family,
            ports,
            tuple(each for each in endpoints if family_of(each.address) is family),
        )
        for family in Family
    ]
    return [each for each in found if each.endpoints]


def _flat(objects: Iterable[Any]) -> Iterator[Any]:
    for each in objects:
        yield from _flat(each) if isinstance(each, list) else [each]


def snapshot(*objects: Any) -> Snapshot:
    """Everything at once, also from lists, slices in the order given; n1 is there unless some Node is given."""
    flat = list(_flat(objects))
    by_service: dict[ServiceId, tuple[EndpointSlice, ...]] = {}
    for each in flat:
        if isinstance(each, EndpointSlice):
            by_service[each.service] = (*by_service.get(each.service, ()), each)
    nodes = [each for each in flat if isinstance(each, Node)] or [node()]
    return Snapshot(
        services={each.id: each for each in flat if isinstance(each, Service)},
        slices=by_service,
        nodes={each.name: each for each in nodes},
    )


def settings(**changes: Any) -> Settings:
    return replace(Settings(), **changes)


def plan_of(*objects: Any, on: str = "n1", **changes: Any) -> Plan:
    """The plan of node n1 (or `on`); fields of Settings by name."""
    return plan_node(snapshot(*objects), on, settings(**changes))


def frontend(kind: FrontendKind, family: Family, protocol: Protocol = TCP, number: int = 80) -> Frontend:
    """Where `exposed()` is reached by that kind of address."""
    if kind is FrontendKind.NODE_PORT:
        return Frontend(ThisNode.IPV4 if family is IPV4 else ThisNode.IPV6, protocol, NODE_PORT)
    return Frontend(ip_address(ADDRESS[kind][family]), protocol, number)


def at(text: str, number: int = 80, protocol: Protocol = TCP) -> Frontend:
    return Frontend(ip_address(text), protocol, number)


def row(plan: Plan, wanted: Frontend) -> FrontendRow:
    """The one row of that frontend."""
    (found,) = [each for each in plan.rows() if each.frontend == wanted]
    return found


def frontends(plan: Plan) -> set[str]:
    return {str(each.frontend) for each in plan.rows()}


def target(kind: FrontendKind, family: Family) -> tuple[str, int]:
    """Address and port to send to for that frontend of `exposed()`."""
    return (NODE_ADDRESS[family], NODE_PORT) if kind is FrontendKind.NODE_PORT else (ADDRESS[kind][family], 80)


def packet(
    origin: Origin, to: str, number: int = 80, protocol: Protocol | None = TCP, *, source: str | None = None
) -> Packet:
    """The first packet of a connection; its source is one typical of the origin."""
    target = ip_address(to)
    return Packet(origin, ip_address(source or SOURCE[origin][family_of(target)]), target, protocol, number)


def ask(plan: Plan, of: Packet, *local: str) -> Decision:
    return Oracle(plan, addresses(*local)).decide(of)


def text_of(address: str, number: int = 8080) -> str:
    return host_port(ip_address(address), number)


def delivered(decision: Decision) -> set[tuple[str, bool]]:
    """`{("10.244.1.5:8080", True)}`: endpoints and whether they see an address of the node."""
    assert isinstance(decision.outcome, Deliver), decision
    return {(str(each.endpoint), each.masqueraded) for each in decision.outcome.to}
