"""Services across nodes, in every mode: cases that say nothing of a network, and what they expect anyway."""

from __future__ import annotations

from pathlib import Path

import pytest

from netplane.backends.registry import BACKENDS
from netplane.lab.case_settings import network_of
from netplane.lab.cases import load_case
from netplane.lab.run import RunOptions, run_case

pytestmark = [pytest.mark.lab, pytest.mark.kernel]

ROOT = Path(__file__).parent.parent.parent
WAYS = [("vxlan", True), ("cross-subnet", True), ("wireguard", True), ("host-gw", False), ("bgp", False)]
OVERLAYS = WAYS[:3]
CASES = [
    "cluster-ip",
    "cluster-ip-hairpin",
    "external-ip-local",
    "host-network-endpoints",
    "icmp",
    "load-balancer-local",
    "masquerade-outside",
    "node-port-hairpin",
    "sctp",
]
PORTS_OF_NODES = ["node-port", "node-port-local", "host-port"]
ANY_ADDRESS = "node-port-all-addresses"
# A process of one node asks a port of another that leads to a Pod there, at an address that the Node object does not
# name. The answer takes the overlay (rule 98 looks at the Pod's address, which it still has), and the asking node knows
# nobody there of that address: docs/network.md, `pods-to-nodes`.


def wrong(folder, backend, way):
    mode, two_subnets = way
    case = load_case(folder, network=network_of(mode, two_subnets=two_subnets))
    packets = run_case(case, backend, RunOptions())
    assert packets
    return [f"{each.packet}: {each.seen}: {'; '.join(each.differences)}" for each in packets if not each.agrees]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way[0])
@pytest.mark.parametrize("name", CASES)
def test_a_case_holds_with_a_network(name, way):
    assert wrong(ROOT / "tests" / "cases" / name, "nftables", way) == []


@pytest.mark.parametrize("backend", sorted(BACKENDS))
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way[0])
def test_the_shop_holds_with_a_network(backend, way):
    assert wrong(ROOT / "examples" / "shop", backend, way) == []


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way[0])
@pytest.mark.parametrize("name", PORTS_OF_NODES)
def test_ports_of_another_node_lead_to_its_pods(name, way):
    assert wrong(ROOT / "tests" / "cases" / name, "nftables", way) == []


@pytest.mark.parametrize("way", WAYS[3:], ids=lambda way: way[0])
def test_ports_at_addresses_no_node_object_names_without_an_overlay(way):
    assert wrong(ROOT / "tests" / "cases" / ANY_ADDRESS, "nftables", way) == []


@pytest.mark.xfail(strict=True, reason="the answer takes the overlay and is dropped, see above")
@pytest.mark.parametrize("way", OVERLAYS, ids=lambda way: way[0])
def test_ports_at_addresses_no_node_object_names_with_an_overlay(way):
    assert wrong(ROOT / "tests" / "cases" / ANY_ADDRESS, "nftables", way) == []
