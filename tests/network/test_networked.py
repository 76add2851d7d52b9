"""The wiring of a lab with a Pod network, as a value; and what a case may say of it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from ground import Ground

from netplane.errors import InputError
from netplane.lab.case_settings import network_of, read_settings
from netplane.lab.networked import NotForTheNetwork, keeps_source, networked
from netplane.lab.proof import Outer, promise
from netplane.lab.topology import Attach, topology
from netplane.model.address import Family
from netplane.plan.network_settings import Mode

VXLAN = Ground(Mode.VXLAN)


def plain(ground=VXLAN):
    return topology(ground.snapshot(), Attach.BRIDGE)


def test_nobody_is_given_a_route_to_pods():
    ranges = [network for node in VXLAN.wiring().nodes.values() for network in node.ranges]
    assert all(
        not each.to.overlaps(network)
        for each in VXLAN.wiring().routes
        for network in ranges
        if each.to.version == network.version
    )


def test_nodes_are_on_the_links_of_their_subnets():
    nodes = VXLAN.wiring().nodes
    assert [node.subnet for node in nodes.values()] == [0, 0, 1]
    assert nodes["n3"].link(Family.IPV4) == ip_address("198.18.11.13")
    assert [each.bridge for each in VXLAN.wiring().subnets()] == ["underlay", "underlay1"]


def test_addresses_on_an_overlay_are_the_nodes_own():
    assert ip_address("10.244.3.0") in VXLAN.wiring().nodes["n3"].local()
    assert ip_address("10.244.3.0") not in Ground(Mode.HOST_GW).wiring().nodes["n3"].local()


def test_pods_keep_their_address_towards_pods_nodes_and_what_the_settings_name():
    kept = keeps_source(VXLAN.wiring(), VXLAN.options().settings)
    assert {ip_network("10.244.2.0/24"), ip_network("192.0.2.13/32"), ip_network("203.0.112.0/24")} <= set(kept)


@pytest.mark.parametrize(
    ("ground", "to", "promised"),
    [
        (VXLAN, "n2", (1350, 2, Outer.VXLAN)),
        (Ground(Mode.VXLAN, (Family.IPV6,)), "n3", (1330, 2, Outer.VXLAN)),
        (Ground(Mode.WIREGUARD), "n2", (1340, 2, Outer.WIREGUARD)),
        (Ground(Mode.CROSS_SUBNET), "n2", (1400, 2, Outer.NOTHING)),
        (Ground(Mode.CROSS_SUBNET), "n3", (1350, 2, Outer.VXLAN)),
        (Ground(Mode.BGP), "n3", (1400, 3, Outer.NOTHING)),
    ],
    ids=str,
)
def test_what_is_promised(ground, to, promised):
    nodes = ground.wiring().nodes
    found = promise(ground.options(), nodes["n1"], nodes[to], 1400)
    assert (found.mtu, found.hops, found.around) == promised


def test_a_pod_outside_the_ranges_of_its_node_is_not_for_a_network():
    pods = dict(VXLAN.snapshot().pods)
    first = next(iter(pods))
    pods[first] = replace(pods[first], addresses=(ip_address("10.99.0.1"),))
    wiring = topology(replace(VXLAN.snapshot(), pods=pods), Attach.BRIDGE)
    with pytest.raises(NotForTheNetwork, match=r"10\.99\.0\.1 is in no Pod range of Node n1"):
        networked(wiring, VXLAN.options())


@pytest.mark.parametrize("mode", ["host-gw", "bgp"])
def test_a_router_that_hears_of_no_pods_cannot_be_between(mode):
    with pytest.raises(NotForTheNetwork, match=f"mode {mode}: the router"):
        networked(plain(), network_of(mode, two_subnets=True)(["n1", "n2", "n3"]))


def test_a_subnet_of_a_node_that_there_is_not():
    with pytest.raises(InputError, match="no Node 'n9'"):
        networked(plain(), replace(VXLAN.options(), subnets={"n9": "b"}))


def test_a_case_says_its_network(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("network: {mode: vxlan, vxlan: {port: 8472}}\nsubnets: {n3: b}\nmasquerade-all: true\n")
    settings = read_settings(path)
    assert settings.network.settings.vxlan.port == 8472
    assert settings.network.subnets == {"n3": "b"}
    assert settings.options == ("--masquerade-all",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("network: carrier-pigeon", "carrier-pigeon"),
        ("subnets: {n3: b}", "only a `network` reaches"),
        ("network: vxlan\nsubnets: [n3]", "write `node: name`"),
        ("network: {mode: vxlan, vxlan: {colour: blue}}", "colour"),
    ],
)
def test_what_means_nothing_is_refused(tmp_path, text, said):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        read_settings(path)
