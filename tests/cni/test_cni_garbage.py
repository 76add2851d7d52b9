"""What is left when somebody dies at the wrong moment: every piece of it has somebody who takes it away."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cni_node import DUAL, Container, Node, network

from cni.failure import Failure
from cni.store import State, Store

pytestmark = pytest.mark.kernel

SECONDS = 20.0
both_modes = pytest.mark.parametrize("mode", ["bridge", "routed"])


@pytest.fixture
def node(tmp_path, monkeypatch) -> Iterator[Node]:
    monkeypatch.setattr("cni.keeper.SETTLE_SECONDS", 0.0)
    with Node(tmp_path) as made:
        yield made


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline


def kept(node: Node) -> bool:
    """Whether nothing is known any more, after another look."""
    node.keeper.look(whole=True)
    return not node.attachments.store.records


# --- containers that die without DEL ------------------------------------------------------------------------------


@both_modes
def test_the_queue_of_a_dead_container_goes_with_it(node, mode):
    limits = {"egressRate": 10**7, "egressBurst": 10**6, "ingressRate": 10**7, "ingressBurst": 10**6}
    with Container("web") as web:
        node.add(network(mode, runtimeConfig={"bandwidth": limits}), web)
        assert len(node.links()) == 2
    until(lambda: kept(node))
    assert node.links() == set()


def test_a_chained_attachment_ends_with_its_container(node, tmp_path):
    """Another plugin's link is nothing we know: the path of the namespace is."""
    ports = {"portMappings": [{"hostPort": 8080, "containerPort": 80}]}
    with Container("web") as web:
        result = node.add(network(), web)
        chained = network(name="chained", prevResult=result, runtimeConfig=ports)
        node.add(chained, web)
        node.done("DEL", network(), web)
        node.settle()
        node.keeper.look(whole=True)
        assert len(node.attachments.store.records) == 1
        assert "8080" in node.nft("list", "table", "ip", "netplane-pods")
    until(lambda: kept(node))
    assert "8080" not in node.nft("list", "table", "ip", "netplane-pods")


def test_a_chained_attachment_whose_path_was_never_seen_is_kept(node, web):
    """An agent in a container of its own does not see the runtime's mounts: that says nothing."""
    ports = {"portMappings": [{"hostPort": 8080, "containerPort": 80}]}
    result = node.add(network(), web)
    chained = network(name="chained", prevResult=result, runtimeConfig=ports)
    node.add(chained, web, variables={"CNI_NETNS": "/run/netns/of-another-mount-namespace"})
    for _ in range(3):
        node.keeper.look(whole=True)
    assert len(node.attachments.store.records) == 2


# --- an agent that dies -------------------------------------------------------------------------------------------


def test_a_chained_deletion_that_was_cut_short_is_finished(node, web):
    """The journal says DOOMED; there is no link whose end could be waited for."""
    ports = {"portMappings": [{"hostPort": 8080, "containerPort": 80}]}
    result = node.add(network(), web)
    chained = network(name="chained", prevResult=result, runtimeConfig=ports)
    node.add(chained, web)
    id_ = next(each for each in node.attachments.store.records if each.network == "chained")
    node.attachments.store.doom(id_)
    node.again()
    until(lambda: [each.network for each in list(node.attachments.store.records)] == ["pods"])
    assert node.add(chained, web) == result


def test_an_attachment_that_is_made_again_is_not_forgotten_with_the_one_before(node, web, monkeypatch):
    """Between the deletion of a link and the note of it, its attachment may have been released and made anew."""
    attachments = node.attachments
    node.add(network(), web)
    id_ = next(iter(attachments.store.records))
    made = threading.Event()

    def meanwhile(_: object) -> None:
        monkeypatch.setattr(attachments._reaping_flows, "forget", lambda _: None)
        attachments.release([id_])
        node.add(network(), web)
        made.set()

    monkeypatch.setattr(attachments._reaping_flows, "forget", meanwhile)
    node.done("DEL", network(), web)
    assert made.wait(SECONDS)
    with Container("shop") as shop:  # when its link is gone, the reaper is done with the one before
        node.add(network(), shop)
        node.done("DEL", network(), shop)
        node.settle()
    node.done("CHECK", network(prevResult=_as_result(node)), web)


def _as_result(node: Node) -> dict:
    attachment = next(iter(node.attachments.store.records.values())).attachment
    ips = [{"address": str(each.address), "interface": 0} for each in attachment.addresses]
    return {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": attachment.netns}], "ips": ips}


def test_the_reaper_survives_what_nobody_foresaw(node, web, monkeypatch):
    attachments, refused = node.attachments, []

    def broken(_: object) -> None:
        if not refused:
            refused.append(1)
            raise RuntimeError("not foreseen")

    monkeypatch.setattr(attachments._reaping_flows, "forget", broken)
    node.add(network(), web)
    node.done("DEL", network(), web)
    until(lambda: not attachments.store.records)
    assert refused
    assert web.links() == {"lo"}


@pytest.mark.parametrize("part", ["rules", "flows"])
def test_a_del_that_the_kernel_refuses_in_part_still_deletes_the_link(node, web, monkeypatch, part):
    node.add(network(), web)

    def refuse(_: object) -> None:
        raise Failure(5, "the kernel is out of sorts")

    with monkeypatch.context() as patched:
        patched.setattr(getattr(node.attachments, part), "remove" if part == "rules" else "detached", refuse)
        node.ask("DEL", network(), web)
    until(lambda: not node.attachments.store.records)
    assert web.links() == {"lo"}


# --- addresses of other plugins -----------------------------------------------------------------------------------

GIVES = """#!/bin/sh
folder={folder}
cat > /dev/null
case $CNI_COMMAND in
  ADD) [ -e $folder/$CNI_CONTAINERID ] && {{ echo '{{"code": 7, "msg": "given already"}}'; exit 1; }}
       echo $CNI_NETNS > $folder/$CNI_CONTAINERID
       [ -e $folder/wait ] && cat $folder/wait
       echo '{{"cniVersion": "1.0.0", "ips": [{{"address": "10.88.1.9/24", "gateway": "10.88.1.1"}}]}}' ;;
  DEL) [ -e $folder/broken ] && {{ echo '{{"code": 11, "msg": "not now"}}'; exit 1; }}
       rm -f $folder/$CNI_CONTAINERID ;;
esac
"""


class Giver:
    """An IPAM plugin whose memory is a folder with a file for each container."""

    def __init__(self, directory: Path) -> None:
        self.folder = directory / "given"
        self.folder.mkdir()
        self.path = directory / "bin"
        self.path.mkdir()
        (self.path / "giver").write_text(GIVES.format(folder=self.folder))
        (self.path / "giver").chmod(0o755)
        self.variables = {"CNI_PATH": str(self.path)}
        self.config = network(ipam={"type": "giver"})

    @property
    def given(self) -> set[str]:
        return {each.name for each in self.folder.iterdir()} - {"broken", "wait"}


@pytest.fixture
def giver(tmp_path) -> Giver:
    return Giver(tmp_path)


def left(node: Node) -> bool:
    """Whether somebody still has to do something, after another round of the keeper."""
    node.keeper.look(whole=True)
    node.keeper.give_back(again=True)
    return bool(node.attachments.store.records)


@pytest.mark.parametrize("state", [State.ADDING, State.DOOMED])
def test_what_another_plugin_gave_is_given_back_after_a_crash(node, web, giver, state):
    node.add(giver.config, web, variables=giver.variables)
    record = next(iter(node.attachments.store.records.values()))
    node.attachments.close()
    with Store(node.directory / "cni", record.boot) as store:
        if state is State.DOOMED:
            store.doom(record.attachment.id)
        else:
            store.forget(record.attachment.id)
            store.begin(record.attachment)
    node._open()
    until(lambda: not left(node))
    assert giver.given == set()
    assert web.links() == {"lo"}


def test_an_agent_killed_while_the_other_plugin_gives_knows_of_it(node, web, giver, monkeypatch):
    """Whatever was asked for is journaled before it is asked for."""
    seen = []

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        seen.extend(node.attachments.store.records.values())
        raise Killed

    monkeypatch.setattr("cni.delegate.run", killed)
    with pytest.raises(Killed):
        node.ask("ADD", giver.config, web, variables=giver.variables)
    monkeypatch.undo()
    assert [(each.state, each.attachment.delegate) for each in seen] == [(State.ADDING, "giver")]
    (giver.folder / "web").write_text("as if it had been given")
    node.attachments.close()
    with Store(node.directory / "cni", seen[0].boot) as store:
        if not store.records:
            store.begin(seen[0].attachment)
    node._open()
    until(lambda: not left(node))
    assert giver.given == set()


def test_a_plugin_that_does_not_take_back_is_asked_again(node, web, giver):
    node.add(giver.config, web, variables=giver.variables)
    (giver.folder / "broken").touch()
    assert node.refused("DEL", giver.config, web, variables=giver.variables)["code"] == 11
    assert web.links() == {"lo"}
    node.again()
    assert left(node)
    assert giver.given == {"web"}
    (giver.folder / "broken").unlink()
    until(lambda: not left(node))
    assert giver.given == set()


def test_an_add_comes_after_what_was_not_given_back(node, web, giver):
    node.add(giver.config, web, variables=giver.variables)
    (giver.folder / "broken").touch()
    node.refused("DEL", giver.config, web, variables=giver.variables)
    assert node.refused("ADD", giver.config, web, variables=giver.variables)["code"] == 11
    (giver.folder / "broken").unlink()
    node.add(giver.config, web, variables=giver.variables)
    assert giver.given == {"web"}
    node.done("DEL", giver.config, web, variables=giver.variables)
    assert giver.given == set()


def test_others_do_not_wait_for_what_was_not_given_back(node, web, giver):
    node.add(giver.config, web, variables=giver.variables)
    (giver.folder / "broken").touch()
    node.refused("DEL", giver.config, web, variables=giver.variables)
    assert not node.attachments.pending


def test_an_add_that_fails_gives_back(node, web, giver):
    web.ip("link", "add", "eth0", "type", "veth", "peer", "name", "other")
    assert "eth0" in node.refused("ADD", giver.config, web, variables=giver.variables)["msg"]
    until(lambda: not left(node))
    assert giver.given == set()


def test_a_dead_container_gives_back(node, giver):
    with Container("web") as web:
        node.add(giver.config, web, variables=giver.variables)
    until(lambda: not left(node))
    assert giver.given == set()


def test_gc_gives_back_for_many_in_one_go(node, giver, monkeypatch):
    """The kernel waits once for all links that go together: GC lets them."""
    groups = []
    detach = node.attachments._reaping.detach
    monkeypatch.setattr(node.attachments._reaping, "detach", lambda links: (groups.append(len(links)), detach(links)))
    containers = [Container(f"c{number}") for number in range(8)]
    config = network(version="1.1.0", ipam={"ranges": DUAL})
    try:
        for each in containers:
            node.add(config, each)
        node.done("GC", config | {"cni.dev/valid-attachments": []}, "")
        assert not node.attachments.store.records
        assert node.links() == set()
        assert len(groups) < len(containers)
    finally:
        for each in containers:
            each.close()


def test_the_state_on_disk_says_what_is_known(node, web):
    node.add(network(), web)
    assert json.dumps([list(each) for each in node.attachments.store.records]) == '[["pods", "web", "eth0"]]'
    assert (node.directory / "cni" / "journal").stat().st_mode & 0o077 == 0
