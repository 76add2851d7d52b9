"""What must not happen between the verbs: too early, too late, to another container, or to another network."""

from __future__ import annotations

import json
import os

import pytest
from cni_node import Container, Node, network

from cni import spool
from cni.keeper import SETTLE_SECONDS
from cni.request import Request
from cni.store import State

pytestmark = pytest.mark.kernel

ONE = {"ranges": [[{"subnet": "10.88.1.0/24", "rangeStart": "10.88.1.5", "rangeEnd": "10.88.1.5"}]], "quarantine": 0}


def known(node: Node) -> set[tuple[str, str]]:
    return {(id_.network, id_.container) for id_ in node.attachments.store.records}


# --- GC, CHECK, DEL ---------------------------------------------------------------------------------------------------


def test_gc_is_about_one_network(node, web, shop):
    node.add(network(version="1.1.0"), web)
    elsewhere = {"bridge": "cni1", "ipam": {"ranges": [[{"subnet": "10.99.0.0/24"}]]}}
    node.add(network(version="1.1.0", name="others", **elsewhere), shop)
    node.done("GC", network(version="1.1.0", **{"cni.dev/valid-attachments": []}), "")
    assert known(node) == {("others", "shop")}


def test_gc_without_a_list_removes_nothing(node, web):
    node.add(network(version="1.1.0"), web)
    assert node.refused("GC", network(version="1.1.0"))["code"] == 7
    assert known(node) == {("pods", "web")}


def test_check_wants_every_address_in_what_the_runtime_was_told(node, web):
    result = node.add(network(), web)
    result["ips"].pop()
    error = node.refused("CHECK", network(prevResult=result), web)
    assert (error["code"], error["msg"][:10]) == (102, "prevResult")


def test_del_does_not_mind_an_option_that_was_mistyped_since(node, web):
    node.add(network(), web)
    node.done("DEL", network(mtu="large", mode=7, ipam=[]), "web")
    node.settle()
    assert web.links() == {"lo"}


def test_a_synchronous_del_is_answered_when_the_link_is_gone(node, web):
    config = network(synchronousDelete=True)
    node.add(config, web)
    node.done("DEL", config, web)
    assert (known(node), node.links()) == (set(), set())


def test_an_address_comes_free_when_the_link_is_gone_and_not_before(node, web, shop):
    config = network(ipam=ONE)
    node.add(config, web)
    with node.attachments.lock:  # nobody can be told meanwhile that the link is gone
        node.done("DEL", config, web)
        assert node.refused("ADD", config, shop)["code"] == 100
    node.settle()
    assert node.add(config, shop)["ips"][0]["address"] == "10.88.1.5/24"


# --- an agent that was killed -----------------------------------------------------------------------------------------


def test_what_a_killed_add_left_is_taken_away_by_the_next_agent(node, web):
    node.add(network(), web)
    attachments = node.attachments
    record = next(iter(attachments.store.records.values()))
    attachments.store.forget(record.attachment.id)
    attachments.store.begin(record.attachment)  # as far as a killed agent had come
    node.again()
    node.settle()
    assert (known(node), node.links(), web.links()) == (set(), set(), {"lo"})


def test_after_a_restart_no_address_is_given_twice(node, web, shop):
    node.add(network(ipam=ONE), web)
    node.again()
    assert node.refused("ADD", network(ipam=ONE), shop)["code"] == 100


def test_spooled_deletions_come_before_the_next_add(node, web):
    node.add(network(), web)
    variables = {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "web", "CNI_IFNAME": "eth0", "CNI_PATH": "/usr/lib/cni"}
    spool.put(node.directory / "cni" / "spool", Request(variables, json.dumps(network()).encode()))
    node.add(network(), web)  # without it: the container has an eth0 already
    assert known(node) == {("pods", "web")}


# --- who is dead ------------------------------------------------------------------------------------------------------


def test_a_container_is_not_dead_as_soon_as_its_link_is_gone(node):
    """Its DEL may be on its way: a runtime removes the namespace first."""
    with Container("web") as web:
        node.add(network(), web)
        node.ip("link", "del", *node.links())
    assert node.keeper.look(whole=True).dead == []
    assert SETTLE_SECONDS >= 1
    assert [each.state for each in node.attachments.store.records.values()] == [State.ATTACHED]


def test_another_container_at_the_same_path_is_not_mended_into(node, tmp_path):
    path = tmp_path / "netns"
    with Container("web") as web, Container("other") as other:
        path.symlink_to(web.namespace.path)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        environment = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "web", "CNI_IFNAME": "eth0"}
        environment |= {"CNI_NETNS": str(path), "CNI_PATH": "/usr/lib/cni"}
        assert node.plugin.handle(Request(environment, json.dumps(network()).encode(), fd)).code == 0
        os.close(fd)
        path.unlink()
        path.symlink_to(other.namespace.path)
        web.ip("link", "del", "eth0")
        assert node.keeper.look(whole=True).mended == []
        assert (web.links(), other.links()) == ({"lo"}, {"lo"})
