"""examples/shop is what the documentation says it is."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_network
from pathlib import Path

import pytest

from netplane.model.address import Protocol
from netplane.model.service import Scope, ServiceId, ServiceType
from netplane.model.snapshot import Snapshot
from netplane.sources.manifests import load

SHOP = Path(__file__).parents[2] / "examples" / "shop"
SERVICE_RANGES = [ip_network("10.96.0.0/16"), ip_network("fd00:10:96::/112")]


@pytest.fixture(scope="module")
def shop() -> Snapshot:
    """The cluster, which has no problems."""
    loaded = load(SHOP)
    assert not loaded.problems
    return loaded.snapshot


def states(shop: Snapshot, name: str, namespace: str = "shop") -> dict[str, int]:
    slices = shop.slices.get(ServiceId(namespace, name), ())
    return dict(Counter(endpoint.state.value for one in slices for endpoint in one.endpoints))


def test_every_pod_lives_in_the_range_of_its_node_and_every_service_in_the_service_ranges(shop):
    assert sorted(shop.nodes) == ["n1", "n2"]
    for pod in shop.pods.values():
        assert len(pod.addresses) == 2
        for address in pod.addresses:
            assert any(address in each for each in shop.nodes[pod.node].pod_ranges)
        assert all(port.port >= 1024 for port in pod.ports)
    for service in shop.services.values():
        assert all(any(address in each for each in SERVICE_RANGES) for address in service.cluster_ips)
        assert len(service.cluster_ips) == (0 if service.id.name == "db" else 2)


def test_the_backend_has_three_ready_pods_over_both_nodes_one_that_is_down_and_one_that_drains(shop):
    assert states(shop, "backend") == {"ready": 6, "down": 2, "draining": 2}
    ready = {
        endpoint.node
        for one in shop.slices[ServiceId("shop", "backend")]
        for endpoint in one.endpoints
        if endpoint.state.value == "ready"
    }
    assert ready == {"n1", "n2"}


def test_each_service_shows_its_one_thing(shop):
    services = {id.name: service for id, service in shop.services.items()}
    frontend, dns, gateway = services["frontend"], services["dns"], services["gateway"]
    assert frontend.type is ServiceType.LOAD_BALANCER
    assert str(frontend.ingress[0].address) == "203.0.113.5"
    assert frontend.ports[0].node_port
    assert str(services["backend"].cluster_ips[0]) == "10.96.0.10"
    assert (services["backend"].ports[0].port, services["backend"].ports[0].target) == (80, 8080)
    assert services["db"].cluster_ips == ()
    assert [(port.protocol, port.port) for port in dns.ports] == [(Protocol.UDP, 53), (Protocol.TCP, 53)]
    assert len(services["partners"].source_ranges) == 2
    assert services["cart"].affinity is not None
    assert len(services["payments"].external_ips) == 2
    assert gateway.external is Scope.LOCAL
    assert gateway.health_check_node_port


def test_endpoints_come_from_pods_from_slices_and_from_the_old_kind(shop):
    assert [one.name for one in shop.slices[ServiceId("shop", "cart")]] == ["cart-v4", "cart-v6"]
    assert states(shop, "payments") == {"ready": 2}
    assert states(shop, "frontend") == states(shop, "partners") == {"ready": 4}
    assert states(shop, "dns", "kube-system") == {"ready": 4}
    assert states(shop, "reports") == {}
