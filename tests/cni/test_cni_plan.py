"""From what was asked, given and found to the attachment, and from there to what the runtime is told."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from cni.attachment import NetnsId, PodAddress
from cni.config import Mode
from cni.decode import network_config
from cni.plan import Given, Place, chained, peers_of, plan, result_of
from cni.request import Command, Invocation
from cni.result import Interface, Result, ResultAddress, Route

PLACE = Place(NetnsId(1, 2, 3), 1450)
V4, V6 = "10.88.1.5/24", "fd00:88::5/64"
ADDRESSES = (
    PodAddress(ip_interface(V4), ip_address("10.88.1.1")),
    PodAddress(ip_interface(V6), ip_address("fd00:88::1")),
)
DEFAULTS = [("0.0.0.0/0", "10.88.1.1"), ("::/0", "fd00:88::1")]


def planned(given: Given | None = None, arguments: dict[str, str] | None = None, **options: Any) -> Any:
    invocation = Invocation(Command.ADD, "c1", "/run/netns/c1", "eth0", arguments or {})
    stdin = {"cniVersion": "1.0.0", "name": "pods", "type": "netplane"} | options
    config = network_config(json.dumps(stdin).encode(), invocation, ())
    return plan(config, invocation, Given(ADDRESSES) if given is None else given, PLACE)


def routes(attachment: Any) -> list[tuple[str, str]]:
    return [(str(each.to), str(each.via)) for each in attachment.routes]


def test_on_a_bridge_addresses_are_as_they_were_given():
    attachment = planned()
    assert (attachment.mode, attachment.addresses) == (Mode.BRIDGE, ADDRESSES)
    assert routes(attachment) == DEFAULTS


def test_a_routed_container_has_its_address_alone_and_the_next_hop_of_all():
    attachment = planned(mode="routed")
    assert [(str(each.address), str(each.gateway)) for each in attachment.addresses] == [
        ("10.88.1.5/32", "169.254.1.1"),
        ("fd00:88::5/128", "fe80::1"),
    ]
    assert routes(attachment) == [("0.0.0.0/0", "169.254.1.1"), ("::/0", "fe80::1")]
    assert attachment.host_mac == bytes.fromhex("eeeeeeeeeeee")


@pytest.mark.parametrize("mode", ["bridge", "routed"])
def test_macs_follow_from_the_first_address_or_are_as_asked(mode):
    assert planned(mode=mode).mac == bytes.fromhex("0a580a580105")
    asked = planned(mode=mode, runtimeConfig={"mac": "0a:58:01:02:03:04"})
    assert asked.mac == bytes.fromhex("0a5801020304")


def test_a_route_without_a_next_hop_goes_by_the_gateway_of_its_family():
    extra = Given(ADDRESSES, (Route(ip_network("10.0.0.0/8")), Route(ip_network("fd00::/8"))))
    assert routes(planned(extra)) == [("10.0.0.0/8", "10.88.1.1"), ("fd00::/8", "fd00:88::1"), *DEFAULTS]


def test_a_default_route_of_ipam_is_the_only_one_of_its_family():
    extra = Given(ADDRESSES, (Route(ip_network("0.0.0.0/0"), ip_address("10.88.1.9")),))
    assert routes(planned(extra)) == [("0.0.0.0/0", "10.88.1.9"), DEFAULTS[1]]


@pytest.mark.parametrize("options", [{"isGateway": False}, {"isDefaultGateway": False}])
def test_no_default_route_where_the_gateway_is_none(options):
    assert routes(planned(**options)) == []


def test_a_routed_containers_routes_all_go_by_the_next_hop():
    extra = Given(ADDRESSES, (Route(ip_network("10.0.0.0/8"), ip_address("10.88.1.9"), 1400, table=7),))
    first = planned(extra, mode="routed").routes[0]
    assert (str(first.via), first.mtu, first.table) == ("169.254.1.1", 1400, 7)


@pytest.mark.parametrize("mode", ["bridge", "routed"])
def test_the_pods_own_network_is_one_it_is_not_masqueraded_to(mode):
    attachment = planned(mode=mode, clusterRanges=["10.99.0.0/16"])
    assert list(map(str, attachment.masquerade_not_to)) == ["10.88.1.0/24", "10.99.0.0/16", "fd00:88::/64"]
    covered = planned(mode=mode, clusterRanges=["10.88.0.0/16"])
    assert list(map(str, covered.masquerade_not_to)) == ["10.88.0.0/16", "fd00:88::/64"]


def test_the_mtu_is_the_configurations_else_the_hosts():
    assert (planned().mtu, planned(mtu=1400).mtu) == (1450, 1400)


def test_the_pod_is_named_where_the_runtime_says_it():
    names = {"K8S_POD_NAMESPACE": "shop", "K8S_POD_NAME": "web-1"}
    assert (planned(arguments=names).pod, planned().pod) == ("shop/web-1", "")


# --- after another plugin ---------------------------------------------------------------------------------------------

BEFORE = Result(
    (Interface("eth0"), Interface("vethhost"), Interface("eth0", sandbox="/run/netns/c1")),
    (
        ResultAddress(ip_interface("10.88.1.1/24"), interface=0),
        ResultAddress(ip_interface("10.88.1.2/24"), interface=1),
        ResultAddress(ip_interface(V4), ip_address("10.88.1.1"), 2),
    ),
)


def test_of_a_previous_result_only_the_containers_own_addresses_count():
    assert chained(BEFORE, "eth0").addresses == (ADDRESSES[0],)
    assert chained(BEFORE, "net1").addresses == ()


def test_a_chained_attachment_makes_no_link():
    previous = {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "/x"}], "ips": []}
    attachment = planned(prevResult=previous)
    assert (attachment.mode, attachment.link, attachment.mac, attachment.mtu) == (Mode.CHAINED, "", b"", 0)
    assert (attachment.bridge, attachment.routes) == (None, ())


# --- what the runtime is told -----------------------------------------------------------------------------------------


def test_the_result_has_bridge_host_end_and_container_in_this_order():
    attachment = planned()
    result = result_of(attachment, bytes.fromhex("0a580a580101"))
    assert [(each.name, each.mac, each.sandbox) for each in result.interfaces] == [
        ("cni0", "0a:58:0a:58:01:01", ""),
        (attachment.link, "0a:59:0a:58:01:05", ""),
        ("eth0", "0a:58:0a:58:01:05", "/run/netns/c1"),
    ]
    assert {each.interface for each in result.addresses} == {2}


def test_a_routed_result_has_no_bridge():
    result = result_of(planned(mode="routed"))
    assert [each.name[:3] for each in result.interfaces] == ["npr", "eth"]
    assert {each.interface for each in result.addresses} == {1}


def test_peers_are_the_other_nodes_addresses():
    nodes = [ip_address(each) for each in ("192.0.2.12", "fd00::2", "192.0.2.11", "192.0.2.12")]
    assert list(map(str, peers_of(nodes, [ip_address("192.0.2.11")]))) == ["192.0.2.12", "fd00::2"]
