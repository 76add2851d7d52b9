"""The verbs on a real kernel: what a container has after ADD, and what is left after DEL. Nothing."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_interface
from pathlib import Path

import pytest
from cni_node import DUAL, RANGES, Container, Node, network

from cni.known_network import NodeNetwork
from netplane.model.address import IPNetwork

pytestmark = pytest.mark.kernel

VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
both_modes = pytest.mark.parametrize("mode", ["bridge", "routed"])


def addresses(result: dict) -> set[str]:
    return {each["address"] for each in result["ips"]}


@both_modes
@pytest.mark.parametrize("version", VERSIONS)
def test_add_gives_what_it_says_and_del_takes_it_away(node, web, mode, version):
    result = node.add(network(mode, version), web)
    assert result["cniVersion"] == version
    assert web.addresses() == addresses(result)
    inside = next(each for each in result["interfaces"] if each.get("sandbox"))
    link = web.ip("link", "show", "dev", "eth0")[0]
    assert (inside["name"], inside["mac"], link["operstate"]) == ("eth0", link["address"], "UP")
    assert {each["name"] for each in result["interfaces"]} - {"eth0", "cni0"} == node.links()
    for family in (4, 6):
        assert [each["gateway"] for each in web.routes(family) if each["dst"] == "default"]
    node.done("DEL", network(mode, version), web)
    node.settle()
    assert node.links() == set()
    assert web.links() == {"lo"}
    assert node.attachments.store.records == {}


@both_modes
def test_check_is_content_with_what_add_left(node, web, mode):
    config = network(mode)
    result = node.add(config, web)
    node.done("CHECK", config | {"prevResult": result}, web)


@both_modes
@pytest.mark.parametrize("damage", [("addr", "flush", "dev", "eth0", "scope", "global"), ("link", "del", "eth0")])
def test_check_says_what_is_missing(node, web, mode, damage):
    config = network(mode)
    result = node.add(config, web)
    web.ip(*damage)
    error = node.refused("CHECK", config | {"prevResult": result}, web)
    assert "eth0" in error["msg"] or "10.88.1." in error["msg"]


def test_check_of_what_was_never_added_fails(node, web):
    error = node.refused("CHECK", network(prevResult={"cniVersion": "1.0.0"}), web)
    assert error["code"] == 3


@both_modes
def test_del_twice_and_of_what_never_was_is_fine(node, web, mode):
    node.done("DEL", network(mode), web)
    node.add(network(mode), web)
    node.done("DEL", network(mode), web)
    node.done("DEL", network(mode), web)
    node.settle()
    node.done("DEL", network(mode), "web")


@both_modes
def test_del_needs_no_namespace_and_no_prev_result(node, web, mode):
    config = network(mode, runtimeConfig={"portMappings": [{"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp"}]})
    node.add(config, web)
    assert "8080" in node.nft("list", "table", "ip", "netplane-pods")
    node.done("DEL", config, "web")
    node.settle()
    assert node.links() == set()
    assert "8080" not in node.nft("list", "table", "ip", "netplane-pods")


@both_modes
def test_add_twice_is_refused_and_the_first_stays(node, web, mode):
    result = node.add(network(mode), web)
    error = node.refused("ADD", network(mode), web)
    assert error["code"] == 101
    assert web.addresses() == addresses(result)


@both_modes
def test_an_interface_that_is_there_is_an_error_and_nothing_stays(node, web, mode):
    web.ip("link", "add", "eth0", "type", "veth", "peer", "name", "other")
    error = node.refused("ADD", network(mode), web)
    assert "eth0" in error["msg"]
    node.settle()
    assert node.links() == set()
    assert node.attachments.store.records == {}
    assert web.links() == {"lo", "eth0", "other"}


@both_modes
def test_a_container_may_have_two_interfaces(node, web, mode):
    first = node.add(network(mode), web)
    second = node.add(network(mode, isDefaultGateway=False), web, ifname="net1")
    assert not addresses(first) & addresses(second)
    assert web.addresses("net1") == addresses(second)
    node.done("DEL", network(mode), web)
    node.settle()
    assert web.links() == {"lo", "net1"}


@both_modes
def test_an_add_waits_for_the_end_of_what_was_there(node, web, mode):
    for _ in range(3):
        node.add(network(mode), web)
        node.done("DEL", network(mode), web)
    result = node.add(network(mode), web)
    assert web.addresses() == addresses(result)
    assert len(node.links()) == 1


def test_a_synchronous_del_returns_when_the_link_is_gone(node, web):
    config = network(synchronousDelete=True)
    node.add(config, web)
    node.done("DEL", config, web)
    assert web.links() == {"lo"}


def test_an_address_rests_before_it_is_given_again(node, web, shop):
    config = network(ipam={"ranges": [[{"subnet": "10.88.1.0/29"}]]}, synchronousDelete=True)
    first = node.add(config, web)
    node.done("DEL", config, web)
    assert addresses(node.add(config, shop)) != addresses(first)


def test_an_exhausted_range_is_said_and_seen_in_status(node, web, shop):
    config = network(version="1.1.0", ipam={"ranges": [[{"subnet": "10.88.1.0/30"}]]})
    node.done("STATUS", config, "")
    node.add(config, web)
    assert node.refused("ADD", config, shop)["code"] == 100
    assert node.refused("STATUS", config)["code"] == 50
    node.done("DEL", config, web)
    node.settle()
    node.done("STATUS", config, "")


def test_addresses_come_from_the_node_object(tmp_path, web):
    ranges: tuple[IPNetwork, ...] = tuple(ip_interface(each).network for each in RANGES.values())
    config = network(ipam={"nodeRanges": True})
    with Node(tmp_path) as node:
        assert node.refused("ADD", config, web)["code"] == 11
        node.cluster = NodeNetwork(ranges)
        got = {ip_interface(each) for each in addresses(node.add(config, web))}
        assert {each.network for each in got} == set(ranges)


def test_gc_removes_what_is_not_listed(node, web, shop):
    config = network(version="1.1.0")
    node.add(config, web)
    node.add(config, shop)
    valid = [{"containerID": "shop", "ifname": "eth0"}]
    node.done("GC", config | {"cni.dev/valid-attachments": valid}, "")
    assert web.links() == {"lo"}
    assert shop.links() == {"lo", "eth0"}
    node.done("GC", config | {"cni.dev/valid-attachments": []}, "")
    assert node.links() == set()


@both_modes
def test_a_requested_address_and_mac_are_given(node, web, mode):
    wanted = {"ips": ["10.88.1.77/24"], "mac": "02:11:22:33:44:55"}
    result = node.add(network(mode, runtimeConfig=wanted), web)
    assert any(each.startswith("10.88.1.77/") for each in addresses(result))
    assert web.ip("link", "show", "dev", "eth0")[0]["address"] == "02:11:22:33:44:55"


def test_loopback_is_set_up(node, web):
    config = {"cniVersion": "0.3.1", "name": "cni-loopback", "type": "loopback"}
    result = node.add(config, web, ifname="lo")
    assert web.ip("link", "show", "dev", "lo")[0]["flags"].count("UP") == 1
    assert addresses(result) == {"127.0.0.1/8", "::1/128"}
    node.done("DEL", config, web, ifname="lo")


def test_a_chained_plugin_passes_the_result_on(node, web):
    config = network()
    result = node.add(config, web)
    ports = {"portMappings": [{"hostPort": 8080, "containerPort": 80}]}
    chained = network(name="chained", prevResult=result, runtimeConfig=ports)
    assert node.add(chained, web) == result
    assert "8080" in node.nft("list", "table", "ip", "netplane-pods")
    node.done("CHECK", chained, web)
    node.done("DEL", chained, web)
    assert "8080" not in node.nft("list", "table", "ip", "netplane-pods")
    assert web.links() == {"lo", "eth0"}


def test_the_hosts_own_namespace_is_refused(node):
    with Container("host") as host:
        host.namespace.close()
        host.namespace = node.namespace
        assert node.refused("ADD", network(), host)["code"] == 8
        host.namespace = type(node.namespace)()


def test_what_is_no_namespace_is_refused(node, tmp_path):
    (tmp_path / "file").touch()
    with Container("web") as web:
        fd = os.open(tmp_path / "file", os.O_RDONLY)
        try:
            error = node.refused("ADD", network(), "web", variables={"CNI_NETNS": str(tmp_path / "file")})
        finally:
            os.close(fd)
        assert error["code"] == 8
        assert web.links() == {"lo"}


@both_modes
def test_parallel_adds_give_each_its_own(node, mode):
    containers = [Container(f"c{number}") for number in range(64)]
    try:
        with ThreadPoolExecutor(16) as pool:
            results = list(pool.map(lambda each: node.add(network(mode), each), containers))
        assert len(set().union(*map(addresses, results))) == 128
        assert len(node.links()) == 64
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda each: node.done("DEL", network(mode), each), containers))
        node.settle()
        assert node.links() == set()
    finally:
        for each in containers:
            each.close()


# --- restarts and garbage -----------------------------------------------------------------------------------------


@both_modes
def test_a_restart_knows_what_is_attached(node, web, shop, mode):
    first = node.add(network(mode), web)
    node.again()
    assert web.addresses() == addresses(first)
    assert not addresses(node.add(network(mode), shop)) & addresses(first)
    node.done("DEL", network(mode), "web")
    node.settle()
    assert web.links() == {"lo"}


def test_after_a_reboot_every_address_is_free(node, web, monkeypatch, tmp_path):
    config = network(ipam={"ranges": [[{"subnet": "10.88.1.0/30"}]]})
    node.add(config, web)
    another = tmp_path / "boot"
    another.write_text("another\n")
    monkeypatch.setattr("cni.node.BOOT_ID", another)
    with Container("new") as new:
        node.again()
        node.add(config, new)


@both_modes
def test_a_container_that_is_gone_is_noticed(node, mode, monkeypatch):
    monkeypatch.setattr("cni.keeper.SETTLE_SECONDS", 0.0)
    with Container("web") as web:
        node.add(network(mode), web)
    wait_for(lambda: node.links() == set())
    kept = node.keeper.look(whole=True)
    assert [each.container for each in kept.dead] == ["web"]
    node.settle()
    assert node.attachments.store.records == {}


def wait_for(holds) -> None:
    """A namespace is taken down by the kernel, some time after its last user is gone."""
    import time

    deadline = time.monotonic() + 15
    while not holds():
        assert time.monotonic() < deadline


@both_modes
def test_a_link_that_somebody_deleted_is_made_again(node, web, mode):
    result = node.add(network(mode), web)
    web.ip("link", "del", "eth0")
    node.keeper.look(whole=False)
    assert web.addresses() == addresses(result)


@pytest.mark.parametrize(
    "damage",
    [
        ("link", "set", "cni0", "down"),
        ("addr", "flush", "dev", "cni0"),
        ("link", "set", "cni0", "address", "02:00:00:00:00:01"),
    ],
)
def test_damage_to_the_bridge_is_mended(node, web, damage):
    config = network()
    result = node.add(config, web)
    node.ip(*damage)
    assert node.keeper.look(whole=False).mended
    node.done("CHECK", config | {"prevResult": result}, web)


def test_damage_to_the_rules_is_mended(node, web):
    config = network(runtimeConfig={"portMappings": [{"hostPort": 8080, "containerPort": 80}]})
    node.add(config, web)
    node.nft("flush", "ruleset")
    assert node.keeper.look(whole=False).mended
    assert "8080" in node.nft("list", "table", "ip", "netplane-pods")


def test_the_answer_to_nonsense_is_an_error_of_the_specification(node, web):
    error = node.refused("ADD", {"cniVersion": "1.0.0"}, web)
    assert error["code"] == 7
    assert json.dumps(error)


def test_dual_ranges_are_what_the_tests_think():
    assert [each[0]["subnet"] for each in DUAL] == [*RANGES.values()]
    assert Path("/proc/sys/kernel/random/boot_id").exists()
