"""Host ports with real packets: from everywhere, both families, bridge and routed."""

from __future__ import annotations

import socket
from ipaddress import ip_address, ip_network

import pytest
from cni_packets import GATEWAY, NODE, OUTSIDE, POD_RANGE, SECONDS, Site, ask, client, server, site

from cni.config import Mode, PortMapping
from netplane.backends.nftables import NFTABLES
from netplane.kernel.host import Host
from netplane.lab import sctp, sockets
from netplane.model.address import Family, Protocol
from netplane.model.endpoint import EndpointSlice, SliceEndpoint, SlicePort
from netplane.model.node import Node
from netplane.model.service import Service, ServiceId, ServicePort, ServiceType
from netplane.model.snapshot import Snapshot
from netplane.plan.node import plan_node
from netplane.plan.settings import Settings

pytestmark = pytest.mark.kernel

TCP, UDP = Protocol.TCP, Protocol.UDP
HOST_PORT, PORT = 8080, 80
families = pytest.mark.parametrize("family", list(Family), ids=str)
protocols = pytest.mark.parametrize("protocol", [TCP, UDP], ids=str)


@pytest.fixture(scope="module", params=["bridge", "bridge without br_netfilter", "routed"])
def made(request):
    mode = Mode.ROUTED if request.param == "routed" else Mode.BRIDGE
    with site(mode, bridge_netfilter=request.param == "bridge") as each:
        target = each.pod(*(PortMapping(protocol, HOST_PORT, PORT) for protocol in (TCP, UDP)))
        each.pod()
        servers = {
            (family, protocol): server(target.namespace, family, protocol, PORT)
            for family in Family
            for protocol in (TCP, UDP)
        }
        yield each, servers
        for every in servers.values():
            every.close()


def heard(made, family, protocol, namespace, to):
    _, servers = made
    with client(namespace, family, protocol) as asking:
        return ask(asking, to, HOST_PORT, [servers[family, protocol]]).client


@families
@protocols
def test_from_outside_and_the_client_keeps_its_address(made, family, protocol):
    assert heard(made, family, protocol, made[0].outside, NODE[family]) == ip_address(OUTSIDE[family])


@families
@protocols
def test_from_the_node_itself_by_its_address(made, family, protocol):
    heard(made, family, protocol, made[0].node, NODE[family])


@protocols
def test_from_localhost(made, protocol):
    client = heard(made, Family.IPV4, protocol, made[0].node, "127.0.0.1")
    assert not client.is_loopback


def test_ipv6_localhost_is_refused_at_once(made):
    """Whoever tries `localhost` tries ::1 first, and must not wait for an answer that the kernel would drop."""
    with client(made[0].node, Family.IPV6, TCP) as asking, pytest.raises(ConnectionRefusedError):
        asking.connect(("::1", HOST_PORT))


@families
@protocols
def test_from_the_container_itself(made, family, protocol):
    target = made[0].pods[0]
    client = heard(made, family, protocol, target.namespace, NODE[family])
    assert client != ip_address(target.address(family))


@families
@protocols
def test_from_another_container_of_the_node(made, family, protocol):
    other = made[0].pods[1]
    client = heard(made, family, protocol, other.namespace, NODE[family])
    if made[0].mode is Mode.ROUTED:
        assert client == ip_address(other.address(family))
    else:
        assert client == ip_address(GATEWAY[family])


# --- one node for each test -------------------------------------------------------------------------------------------


@pytest.fixture(params=[Mode.BRIDGE, Mode.ROUTED], ids=lambda each: each.value)
def fresh(request):
    with site(request.param) as each:
        yield each


def reached(fresh: Site, family: Family, to: str, servers, protocol=TCP, port=HOST_PORT):
    with client(fresh.outside, family, protocol) as asking:
        return ask(asking, to, port, servers).server


@families
def test_a_port_of_one_address_comes_before_that_of_all(fresh, family):
    both = fresh.pod(PortMapping(TCP, HOST_PORT, PORT))
    one = fresh.pod(PortMapping(TCP, HOST_PORT, PORT, ip_address(NODE[family])))
    with server(both.namespace, family, TCP, PORT) as everywhere, server(one.namespace, family, TCP, PORT) as here:
        servers = [everywhere, here]
        assert reached(fresh, family, NODE[family], servers) is here
        gateway = GATEWAY[family] if fresh.mode is Mode.BRIDGE else None
        if gateway:
            assert reached(fresh, family, gateway, servers) is everywhere
        fresh.remove(one)
        assert reached(fresh, family, NODE[family], servers) is everywhere


@families
def test_a_host_port_of_the_unspecified_address_is_one_of_all(fresh, family):
    unspecified = ip_address("0.0.0.0" if family is Family.IPV4 else "::")
    target = fresh.pod(PortMapping(TCP, HOST_PORT, PORT, unspecified))
    with server(target.namespace, family, TCP, PORT) as here:
        assert reached(fresh, family, NODE[family], [here]) is here


@families
def test_udp_keeps_working_after_a_second_container_takes_the_same_host_port(fresh, family):
    mapping = PortMapping(UDP, HOST_PORT, PORT)
    first, second = fresh.pod(mapping), fresh.wired(mapping)
    with (
        server(first.namespace, family, UDP, PORT) as before,
        server(second.namespace, family, UDP, PORT) as after,
        client(fresh.outside, family, UDP, (OUTSIDE[family], 40000)) as asking,
    ):
        servers = [before, after]
        assert ask(asking, NODE[family], HOST_PORT, servers).server is before
        fresh.remove(first)
        fresh.add(second)
        assert ask(asking, NODE[family], HOST_PORT, servers).server is after


@families
def test_udp_that_came_before_the_container_does_not_stay_where_it_went(fresh, family):
    """Sent to the node while nobody had the port: the kernel remembers that the node answers."""
    fresh.pod(PortMapping(TCP, 1, 1))  # without any rule the kernel tracks nothing
    target = fresh.wired(PortMapping(UDP, HOST_PORT, PORT))
    with (
        server(fresh.node, family, UDP, HOST_PORT) as early,
        server(target.namespace, family, UDP, PORT) as late,
        client(fresh.outside, family, UDP) as asking,
    ):
        assert ask(asking, NODE[family], HOST_PORT, [early, late]).server is early
        fresh.add(target)
        assert ask(asking, NODE[family], HOST_PORT, [early, late]).server is late


@families
def test_udp_does_not_go_on_to_a_container_that_lost_its_port(fresh, family):
    target = fresh.pod(PortMapping(UDP, HOST_PORT, PORT))
    with (
        server(target.namespace, family, UDP, PORT) as before,
        server(fresh.node, family, UDP, HOST_PORT) as after,
        client(fresh.outside, family, UDP) as asking,
    ):
        assert ask(asking, NODE[family], HOST_PORT, [before, after]).server is before
        fresh.remove(target)
        assert ask(asking, NODE[family], HOST_PORT, [before, after]).server is after


@families
def test_udp_that_passes_through_to_the_same_port_elsewhere_goes_on(fresh, family):
    """A container's own connection to that port of somebody outside keeps the port it was masqueraded to."""
    asker, target = fresh.pod(), fresh.wired(PortMapping(UDP, HOST_PORT, PORT))
    with (
        server(fresh.outside, family, UDP, HOST_PORT, OUTSIDE[family]) as there,
        client(asker.namespace, family, UDP) as asking,
    ):
        before = ask(asking, OUTSIDE[family], HOST_PORT, [there])
        fresh.add(target)
        assert ask(asking, OUTSIDE[family], HOST_PORT, [there]) == before


# --- SCTP: this kernel may have no sockets for it, and translates it all the same -----------------------------------


@families
@pytest.mark.parametrize("who", ["outside", "itself"])
def test_an_association_comes_through_a_host_port_and_its_answer_goes_back(fresh, family, who):
    target = fresh.pod(PortMapping(Protocol.SCTP, HOST_PORT, PORT))
    asker = fresh.outside if who == "outside" else target.namespace
    with sctp_socket(asker, family) as asking, sctp_socket(target.namespace, family) as serving:
        asking.sendto(sctp.init(40000, HOST_PORT, tag=7), (NODE[family], 0))
        asked, client = heard_sctp(serving, sctp.INIT)
        assert (asked.destination, asked.tag) == (PORT, 7)
        assert (client == OUTSIDE[family]) is (who == "outside")
        assert client != target.address(family)
        serving.sendto(sctp.init_ack(asked, b"it is me"), (client, 0))
        answer, whom = heard_sctp(asking, sctp.INIT_ACK)
    assert (whom, answer.source, answer.destination, answer.cookie) == (NODE[family], HOST_PORT, 40000, b"it is me")


def sctp_socket(namespace, family: Family) -> socket.socket:
    made = namespace.run(lambda: sockets.raw(family, Protocol.SCTP.number))
    made.settimeout(SECONDS)
    return made


def heard_sctp(made: socket.socket, chunk: int) -> tuple[sctp.Packet, str]:
    """The next packet of this kind, its checksum right, and its sender: raw sockets hear everything."""
    while True:
        data, sender = made.recvfrom(1 << 16)
        packet = sctp.decode(sockets.without_header(data) if made.family == socket.AF_INET else data)
        if packet is not None and packet.chunk == chunk:
            return packet, sender[0]


@families
def test_a_container_reaches_itself_also_without_snat(fresh, family):
    target = fresh.pod(PortMapping(TCP, HOST_PORT, PORT), snat=False)
    with server(target.namespace, family, TCP, PORT) as here, client(target.namespace, family, TCP) as asking:
        assert ask(asking, NODE[family], HOST_PORT, [here]).client != ip_address(target.address(family))


@families
def test_a_removed_port_is_free(fresh, family):
    target = fresh.pod(PortMapping(TCP, HOST_PORT, PORT))
    fresh.remove(target)
    with server(target.namespace, family, TCP, PORT) as there, server(fresh.node, family, TCP, HOST_PORT) as own:
        assert reached(fresh, family, NODE[family], [there, own]) is own


@families
def test_a_node_port_of_the_services_works_beside_it_and_wins(fresh, family):
    target = fresh.pod(PortMapping(TCP, HOST_PORT, PORT), PortMapping(TCP, 30080, PORT))
    behind = fresh.pod()
    apply_service(fresh, behind, node_port=30080)
    with server(target.namespace, family, TCP, PORT) as host, server(behind.namespace, family, TCP, PORT) as node:
        servers = [host, node]
        assert reached(fresh, family, NODE[family], servers) is host
        assert reached(fresh, family, NODE[family], servers, port=30080) is node
        for namespace in (target.namespace, behind.namespace, fresh.node):
            with client(namespace, family, TCP) as asking:
                assert ask(asking, NODE[family], HOST_PORT, servers).server is host
            with client(namespace, family, TCP) as asking:
                assert ask(asking, NODE[family], 30080, servers).server is node
            with client(namespace, family, TCP) as asking:
                assert ask(asking, CLUSTER_IP[family], PORT, servers).server is node


@families
def test_a_cluster_ip_of_a_container_with_a_host_port_shows_who_calls(fresh, family):
    """Only clients of the host port are masqueraded, not those of a Service on the same port of the same container."""
    target, other = fresh.pod(PortMapping(TCP, PORT, PORT)), fresh.pod()
    apply_service(fresh, target)
    with server(target.namespace, family, TCP, PORT) as here, client(other.namespace, family, TCP) as asking:
        assert ask(asking, CLUSTER_IP[family], PORT, [here]).client == ip_address(other.address(family))


CLUSTER_IP = {Family.IPV4: "10.96.0.10", Family.IPV6: "fd00:96::10"}


def apply_service(fresh: Site, pod, node_port: int = 0) -> None:
    """A Service of both families with one endpoint, by the nftables backend."""
    service = Service(
        ServiceId("shop", "web"),
        type=ServiceType.NODE_PORT if node_port else ServiceType.CLUSTER_IP,
        ports=(ServicePort("", TCP, PORT, PORT, node_port),),
        cluster_ips=tuple(map(ip_address, CLUSTER_IP.values())),
    )
    slices = tuple(
        EndpointSlice(
            "shop",
            f"web-{family}",
            service.id,
            family,
            (SlicePort("", TCP, PORT),),
            (SliceEndpoint(ip_address(pod.address(family)), node="n1"),),
        )
        for family in Family
    )
    here = Node(
        "n1", addresses=tuple(map(ip_address, NODE.values())), pod_ranges=tuple(map(ip_network, POD_RANGE.values()))
    )
    snapshot = Snapshot({service.id: service}, {service.id: slices}, {"n1": here})
    program = NFTABLES.compile(plan_node(snapshot, "n1", Settings())).program

    def within() -> None:
        with Host() as host:
            host.apply(program, reread=True)

    fresh.node.run(within)


@families
def test_other_families_of_one_node_are_not_mixed(fresh, family):
    """A port of one family's address is nothing to the other family."""
    other = Family.IPV6 if family is Family.IPV4 else Family.IPV4
    target = fresh.pod(PortMapping(TCP, HOST_PORT, PORT, ip_address(NODE[other])))
    with server(target.namespace, family, TCP, PORT) as there, server(fresh.node, family, TCP, HOST_PORT) as own:
        assert reached(fresh, family, NODE[family], [there, own]) is own
