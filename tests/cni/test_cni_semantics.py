"""What the specification and its runtimes make of unusual requests: two networks, no addresses, other ranges."""

from __future__ import annotations

import pytest
from cni_node import RANGES, Container, network

pytestmark = pytest.mark.kernel

both_modes = pytest.mark.parametrize("mode", ["bridge", "routed"])
FOUR = {"ranges": [[{"subnet": RANGES[4]}]]}
SIX = {"ranges": [[{"subnet": RANGES[6]}]]}


def addresses(result: dict) -> set[str]:
    return {each["address"] for each in result["ips"]}


@both_modes
def test_a_second_network_cannot_have_the_first_ones_interface(node, web, mode):
    first = node.add(network(mode), web)
    other = network(mode, name="others", bridge="cni1", ipam={"ranges": [[{"subnet": "10.99.0.0/24"}]]})
    error = node.refused("ADD", other, web)
    assert (error["code"], "eth0" in error["msg"]) == (101, True)
    node.done("DEL", other, web)
    node.settle()
    node.done("CHECK", network(mode, prevResult=first), web)
    assert [each.network for each in node.attachments.store.records] == ["pods"]


@both_modes
def test_one_address_is_not_given_to_two_networks(node, web, shop, mode):
    """The second would take the first one's packets, and the keeper would give them back and forth."""
    first = node.add(network(mode), web)
    error = node.refused("ADD", network(mode, name="others"), shop)
    assert error["code"] == 101
    assert "pods/web/eth0" in error["msg"]
    second = node.add(network(mode, name="others"), shop)  # the next address is free
    assert not addresses(first) & addresses(second)
    node.done("CHECK", network(mode, prevResult=first), web)
    node.done("DEL", network(mode), web)
    node.settle()
    one = first["ips"][0]["address"].split("/")[0]
    with Container("third") as third:
        wanted = network(mode, name="others", ipam=FOUR, runtimeConfig={"ips": [one]})
        assert {each.split("/")[0] for each in addresses(node.add(wanted, third))} == {one}


def test_bridges_that_do_not_touch_may_have_the_same_range(node, web, shop):
    inside = {"isGateway": False, "ipMasq": False}
    first = node.add(network(bridge="left", **inside), web)
    assert addresses(node.add(network(name="others", bridge="right", **inside), shop)) == addresses(first)


@both_modes
def test_a_range_may_change_while_containers_live(node, web, shop, mode):
    first = node.add(network(mode, ipam=FOUR), web)
    changed = network(mode, ipam={"ranges": [[{"subnet": "10.99.0.0/24"}]]}, forceAddress=True)
    second = node.add(changed, shop)
    assert addresses(second) != addresses(first)
    node.done("DEL", changed, web)
    node.done("DEL", changed, shop)
    node.settle()
    assert node.attachments.store.records == {}
    assert node.links() == set()


@both_modes
@pytest.mark.parametrize("ipam", [None, {}, {"type": ""}])
def test_no_ipam_is_the_node_objects(node, web, mode, ipam):
    error = node.refused("ADD", network(mode, ipam=ipam), web)
    assert (error["code"], "pod range" in error["msg"]) == (11, True)


@both_modes
def test_ipv6_alone(node, web, mode):
    config = network(mode, ipam=SIX)
    result = node.add(config, web)
    assert web.addresses() == addresses(result)
    assert web.routes(4) == []
    assert [each["dst"] for each in web.routes(6) if each.get("gateway")] == ["default"]
    node.done("CHECK", config | {"prevResult": result}, web)
    node.done("DEL", config, web)


@both_modes
@pytest.mark.parametrize("subnet", ["10.0.0.0/31", "10.0.0.1/32", "fd00::/127", "fd00::1/128"])
def test_a_network_of_too_few_is_refused_and_status_says_so(node, web, mode, subnet):
    config = network(mode, "1.1.0", ipam={"ranges": [[{"subnet": subnet}]]})
    assert "too small" in node.refused("ADD", config, web)["msg"]
    assert node.refused("STATUS", config)["code"] in (7, 50)
    node.done("DEL", config, web)


@both_modes
@pytest.mark.parametrize("version", ["", "0.1.0", "0.2.0"])
def test_the_oldest_versions(node, web, mode, version):
    result = node.add(network(mode, version), web)
    assert {result["ip4"]["ip"], result["ip6"]["ip"]} == web.addresses()
    assert "ips" not in result
    assert node.refused("CHECK", network(mode, version), web)["code"] == 1
    node.done("DEL", network(mode, version), web)


def test_the_hosts_namespace_can_be_meant(node):
    with Container("host") as host:
        own, host.namespace = host.namespace, node.namespace
        try:
            said = {"CNI_NETNS_OVERRIDE": "TRUE"}
            node.add(network(isGateway=False), host, variables=said)
            node.done("DEL", network(), host, variables=said)
            node.settle()
        finally:
            host.namespace = own


@pytest.mark.parametrize("verb", ["GC", "STATUS"])
@pytest.mark.parametrize("version", ["0.4.0", "1.0.0"])
def test_verbs_have_versions(node, verb, version):
    assert node.refused(verb, network(version=version))["code"] == 1


def test_status_says_that_the_disk_refuses(node, web, monkeypatch):
    config = network(version="1.1.0")
    node.done("STATUS", config, "")
    monkeypatch.setattr(node.attachments.store, "owed", lambda: 3)
    assert node.refused("STATUS", config)["code"] == 50


@both_modes
def test_check_wants_what_a_plugin_behind_us_made_of_it(node, web, mode):
    """`tuning` sets a MAC and says so in the result, which is what CHECK gets."""
    result = node.add(network(mode), web)
    web.ip("link", "set", "eth0", "address", "02:00:00:00:00:77")
    assert node.refused("CHECK", network(mode, prevResult=result), web)["code"] == 102
    inside = next(each for each in result["interfaces"] if each.get("sandbox"))
    inside["mac"] = "02:00:00:00:00:77"
    web.ip("addr", "add", "10.77.0.1/32", "dev", "eth0")
    node.done("CHECK", network(mode, prevResult=result), web)
    inside["mac"] = "nonsense"
    assert node.refused("CHECK", network(mode, prevResult=result), web)["code"] == 102


def test_a_name_longer_than_an_alias_is_no_hindrance(node, web):
    said = {"CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE={'n' * 63};K8S_POD_NAME={'p' * 253}"}
    node.add(network(), web, variables=said)
    web.name = "c" * 3000
    node.add(network(), web, ifname="net1")
    node.done("DEL", network(), web, ifname="net1")


def test_a_chained_plugin_without_ipam_does_not_make_a_node_not_ready(node):
    """STATUS does not say who is chained, and such a one has no addresses to give."""
    node.done("STATUS", {"cniVersion": "1.1.0", "name": "pods", "type": "netplane"}, "")
    assert node.refused("STATUS", network(version="1.1.0", ipam={"nodeRanges": True}))["code"] == 50
