"""No agent: launcher and `python -m cni` do the work, for real, and leave to an agent what one would expect to find."""

from __future__ import annotations

import fcntl
import os
import random
import subprocess
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from cni_node import Container, ip
from pod_agent import SECONDS, PodAgent

from cni import known_network, store
from cni.known_network import NodeNetwork
from netplane.kernel import command

pytestmark = pytest.mark.kernel

DUAL = {"ranges": [[{"subnet": "10.88.1.0/24"}], [{"subnet": "fd00:88:1::/64"}]]}
PORTS = {"portMappings": [{"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""}]}


def network(**more: Any) -> dict[str, Any]:
    return {"cniVersion": "1.0.0", "name": "pods", "type": "netplane", "ipam": DUAL} | more


class Fallback(PodAgent):
    """The launcher in the node's namespace, as a runtime starts it; there may be an agent, too."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, fallback=True)

    def spawn(self, *words: Any, **more: Any) -> subprocess.Popen[bytes]:
        return self.namespace.run(lambda: super(Fallback, self).spawn(*words, **more))

    def done(self, verb: str, config: Mapping[str, Any], container: Container | str) -> Any:
        """The answer to a request that must succeed."""
        name, path = (container, "") if isinstance(container, str) else (container.name, container.namespace.path)
        code, said = self.ask(verb, config, name, path)
        assert code == 0, said
        return said

    def records(self) -> list[store.Record]:
        return store.read(self.state_dir / "cni")

    def rules(self) -> str:
        listed = ("nft", "list", "ruleset")
        return self.namespace.run(lambda: command.run(*listed, mechanism="nftables", doing="test"))

    def links(self) -> list[str]:
        found = [each["ifname"] for each in ip(self.namespace, "link", "show")]
        return [each for each in found if each.startswith(("npb", "npr", "npi"))]


@pytest.fixture
def node(tmp_path) -> Iterator[Fallback]:
    with Fallback(tmp_path) as made:
        yield made


@pytest.mark.parametrize("mode", ["bridge", "routed"])
def test_a_life_without_an_agent(node, web, mode):
    config = network(mode=mode, runtimeConfig=PORTS)
    result = node.done("ADD", config, web)
    assert web.addresses() == {each["address"] for each in result["ips"]}
    assert "8080" in node.rules()
    node.done("CHECK", config | {"prevResult": result}, web)
    node.done("DEL", config, "web")
    assert (node.links(), web.links(), node.records()) == ([], {"lo"}, [])
    assert "8080" not in node.rules()
    node.done("DEL", config, "web")


def test_the_second_knows_of_the_first(node, web, shop):
    """A port that is taken, addresses that are, and rules that stay."""
    config = network(runtimeConfig=PORTS)
    first = node.done("ADD", config, web)
    code, said = node.ask("ADD", config, "shop", shop.namespace.path)
    assert (code, said["code"]) == (1, 101)
    second = node.done("ADD", network(), shop)
    assert not {each["address"] for each in first["ips"]} & {each["address"] for each in second["ips"]}
    node.done("CHECK", config | {"prevResult": first}, web)


def test_two_at_once_wait_for_each_other(node, web, shop):
    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(lambda each: node.done("ADD", network(), each), (web, shop)))
    assert len({address["address"] for each in said for address in each["ips"]}) == 4


def test_an_agent_that_starts_takes_over(node, web, shop):
    config = network(runtimeConfig=PORTS)
    result = node.done("ADD", config, web)
    node.start()
    assert node.status()["attachments"] == 1
    node.done("CHECK", config | {"prevResult": result}, web)
    node.done("ADD", network(), shop)
    node.kill()
    node.done("DEL", config, web)
    assert [each.attachment.id.container for each in node.records()] == ["shop"]


def test_a_dead_container_is_found_by_the_next_request(node, web):
    """Nobody looks now and then: who comes looks."""
    with Container("dead") as dead:
        node.done("ADD", network(runtimeConfig=PORTS), dead)
    deadline = time.monotonic() + SECONDS
    while node.links():  # the kernel takes its time
        assert time.monotonic() < deadline
    node.done("ADD", network(runtimeConfig=PORTS), web)
    assert [each.attachment.id.container for each in node.records()] == ["web"]


def test_a_del_that_finds_the_store_taken_is_kept_for_later(node, web, monkeypatch):
    """DEL never fails: somebody who has the store for long does it when he can."""
    node.done("ADD", network(), web)
    lock = os.open(node.state_dir / "cni" / "lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        node.done("DEL", network(), web)
        assert len(list(node.spool.glob("*.del"))) == 1
    finally:
        os.close(lock)
    node.done("ADD", network(), web)  # the DEL before it was done first
    assert not list(node.spool.glob("*.del"))


def test_the_ranges_an_agent_wrote_down_are_used(node, web):
    config = network(ipam={"nodeRanges": True})
    code, said = node.ask("ADD", config, "web", web.namespace.path)
    assert (code, said["code"]) == (1, 11)
    node.start()
    written = node.state_dir / "cni" / known_network.NAME
    deadline = time.monotonic() + SECONDS
    while not written.exists():
        assert time.monotonic() < deadline
    node.kill()
    result = node.done("ADD", config, web)
    assert {each["address"].rpartition("/")[2] for each in result["ips"]} == {"24", "64"}


def test_what_the_network_was_is_read_back(tmp_path):
    folder = tmp_path / "cni"
    folder.mkdir(mode=0o700)
    network = NodeNetwork((ip_network("10.1.0.0/24"), ip_network("fd00::/64")), (ip_address("192.0.2.1"),))
    assert known_network.known(folder) == NodeNetwork()
    known_network.keep(folder, network)
    known_network.keep(folder, network)
    assert known_network.known(folder) == network
    assert [each.name for each in folder.iterdir()] == [known_network.NAME]


@pytest.mark.parametrize("content", ["", "{", "[]", "7", '{"ranges": 7}', '{"ranges": ["x"], "peers": []}', "[" * 9999])
def test_a_network_that_nobody_wrote_is_none(tmp_path, content):
    folder = tmp_path / "cni"
    folder.mkdir(mode=0o700)
    (folder / known_network.NAME).write_text(content)
    assert known_network.known(folder) == NodeNetwork()


def test_a_link_for_a_network_is_not_followed(tmp_path):
    folder = tmp_path / "cni"
    folder.mkdir(mode=0o700)
    (tmp_path / "elsewhere").write_text('{"ranges": ["10.1.0.0/24"], "peers": []}')
    (folder / known_network.NAME).symlink_to(tmp_path / "elsewhere")
    assert known_network.known(folder) == NodeNetwork()


def test_status_and_gc_without_an_agent(node, web):
    config = network(cniVersion="1.1.0")
    node.done("STATUS", config, "")
    node.done("ADD", config, web)
    node.done("GC", config | {"cni.dev/valid-attachments": []}, "")
    assert (node.records(), web.links()) == ([], {"lo"})


def test_a_store_that_cannot_be_used_is_an_error_of_the_specification(node, web):
    (node.state_dir / "cni").parent.mkdir(parents=True, exist_ok=True)
    (node.state_dir / "cni").write_text("a file")
    code, said = node.ask("ADD", network(), "web", web.namespace.path)
    assert (code, said["code"]) == (1, 5)


def test_killed_at_any_moment_it_leaves_nothing_that_the_next_does_not_take_away(node):
    chance = random.Random(4)
    config = network(runtimeConfig=PORTS | {"bandwidth": {"egressRate": 10**7, "egressBurst": 10**6}})
    for number in range(30):
        with Container(f"c{number}") as container:
            process = node.spawn("ADD", config, container.name, container.namespace.path)
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.1 + chance.random() * 0.15)
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
            if number % 3:
                node.done("DEL", config, container.name)
                assert (node.links(), node.records()) == ([], [])
    node.done("DEL", config, "c0")
    node.done("STATUS", network(cniVersion="1.1.0"), "")
    assert (node.links(), node.records()) == ([], [])
    assert "8080" not in node.rules()
