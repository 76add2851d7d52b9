"""Host ports with real packets: from everywhere, both families, bridge and routed."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from cni_packets import FAR, GATEWAY, LOCALHOST, NODE, OUTSIDE, Site, ask, client, server, site

from cni.config import Mode, PortMapping
from netplane.model.address import Family, Protocol

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


@families
@protocols
def test_from_localhost(made, family, protocol, request):
    if family is Family.IPV6 and "bridge-" in request.node.name:
        pytest.skip("br_netfilter translates answers before IPv6 refuses ::1 from the wire")
    client = heard(made, family, protocol, made[0].node, LOCALHOST[family])
    assert not client.is_loopback


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
