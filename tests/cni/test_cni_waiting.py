"""Nobody waits for somebody else's slow thing: what may take long is done elsewhere, and without the lock."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from pathlib import Path

import pytest
from cni_node import DUAL, Container, network

from cni import spool
from cni.request import Request

pytestmark = pytest.mark.kernel

SECONDS = 20.0


def request(verb: str, config: dict, container: str = "web") -> Request:
    environment = {"CNI_COMMAND": verb, "CNI_PATH": "/usr/lib/cni", "CNI_CONTAINERID": container}
    return Request(environment | {"CNI_IFNAME": "eth0", "CNI_NETNS": "/x"}, json.dumps(config).encode())


# --- duplicate address detection ----------------------------------------------------------------------------------


def test_others_are_served_while_addresses_are_checked(node, web, shop, monkeypatch):
    """The kernel takes a second or two: for that long nobody else may wait."""
    waiting, go_on = threading.Event(), threading.Event()
    settle = node.attachments.wiring.settle

    def held(*what: object) -> None:
        waiting.set()
        assert go_on.wait(SECONDS)
        settle(*what)

    monkeypatch.setattr(node.attachments.wiring, "settle", held)
    answers = []
    slow = threading.Thread(target=lambda: answers.append(node.ask("ADD", network(enabledad=True), web)))
    slow.start()
    try:
        assert waiting.wait(SECONDS)
        node.add(network(), shop)
        assert not node.keeper.look(whole=True).mended  # what is half made is as it should be
        node.keeper._bury_the_past()
    finally:
        go_on.set()
        slow.join()
    assert [each.code for each in answers] == [0]
    node.done("CHECK", network(enabledad=True, prevResult=json.loads(answers[0].stdout)), web)
    node.done("DEL", network(), web)


def test_a_duplicate_is_refused_and_leaves_nothing(node, web, shop):
    node.add(network(), web)
    web.ip("addr", "add", "fd00:88:1::77/64", "dev", "eth0", "nodad")
    error = node.refused("ADD", network(enabledad=True, runtimeConfig={"ips": ["fd00:88:1::77"]}), shop)
    assert (error["code"], "somebody else has" in error["msg"]) == (101, True)
    node.settle()
    assert shop.links() == {"lo"}
    assert len(node.attachments.store.records) == 1


def test_what_takes_long_is_not_done_in_the_thread_all_wait_for(node, tmp_path):
    imported = {"ranges": DUAL, "importFrom": str(tmp_path / "host-local")}
    slow = (
        ("ADD", network(enabledad=True)),
        ("ADD", network(ipam={"type": "other"})),
        ("ADD", network(ipam=imported)),
        ("DEL", network(ipam=imported)),
        ("DEL", network(ipam={"type": "other"})),
        ("DEL", network(synchronousDelete=True)),
        ("STATUS", network(version="1.1.0", ipam={"type": "other"})),
        ("GC", network(version="1.1.0", **{"cni.dev/valid-attachments": []})),
    )
    assert [verb for verb, config in slow if node.plugin.quick(request(verb, config))] == []
    quick = (("ADD", network()), ("DEL", network()), ("STATUS", network(version="1.1.0")), ("ADD", {}))
    assert [verb for verb, config in quick if not node.plugin.quick(request(verb, config))] == []


def test_an_add_behind_the_spool_is_not_quick(node):
    spool.put(node.directory / "cni" / "spool", request("DEL", network(), "gone"))
    assert not node.plugin.quick(request("ADD", network()))


# --- files and other plugins --------------------------------------------------------------------------------------


def test_a_pipe_for_a_resolv_conf_is_refused_at_once_and_takes_no_address(node, web, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long").write_text("#" * 100_000)
    one = [[{"subnet": "10.88.1.0/24", "rangeStart": "10.88.1.5", "rangeEnd": "10.88.1.5"}]]
    for name in ("pipe", "long", "absent", "."):
        config = network(ipam={"ranges": one, "resolvConf": str(tmp_path / name)})
        assert node.refused("ADD", config, web)["code"] == 7
    assert node.add(network(ipam={"ranges": one}), web)["ips"][0]["address"] == "10.88.1.5/24"


def test_a_spooled_del_that_waits_for_another_plugin_holds_no_lock(node, web, shop, tmp_path):
    (tmp_path / "bin").mkdir()
    os.mkfifo(tmp_path / "go")
    script = f"#!/bin/sh\ncat > /dev/null\n[ $CNI_COMMAND = DEL ] && read word < {tmp_path}/go\nexit 0\n"
    (tmp_path / "bin" / "slow").write_text(script)
    (tmp_path / "bin" / "slow").chmod(0o755)
    asked = request("DEL", network(ipam={"type": "slow"}))
    asked = Request({**asked.environment, "CNI_PATH": str(tmp_path / "bin")}, asked.stdin)
    spool.put(node.directory / "cni" / "spool", asked)
    worker = threading.Thread(target=node.keeper.do_spooled)
    worker.start()
    pipe = os.open(tmp_path / "go", os.O_WRONLY)  # returns when the plugin reads
    try:
        done = threading.Event()
        other = threading.Thread(target=lambda: (node.done("STATUS", network(version="1.1.0"), ""), done.set()))
        other.start()
        assert done.wait(SECONDS)
        other.join()
    finally:
        os.write(pipe, b"go\n")
        os.close(pipe)
        worker.join()
    assert not list((node.directory / "cni" / "spool").glob("*.del"))


def test_a_spool_that_others_may_write_to_stops_no_container(node, web):
    folder = node.directory / "cni" / "spool"
    folder.mkdir()
    folder.chmod(0o777)
    node.add(network(), web)
    assert "spool" in node.keeper.problems


def test_host_locals_lock_is_not_waited_for_with_ours(node, web, tmp_path):
    """Whoever holds it holds up one container, not all."""
    folder = tmp_path / "host-local"
    folder.mkdir()
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    config = network(ipam={"ranges": DUAL, "importFrom": str(folder)})
    answers = []
    slow = threading.Thread(target=lambda: answers.append(node.ask("ADD", config, web)))
    slow.start()
    try:
        with Container("shop") as shop:
            node.add(network(name="others", bridge="cni1", ipam={"ranges": [[{"subnet": "10.99.0.0/24"}]]}), shop)
            assert slow.is_alive()
    finally:
        os.close(lock)
        slow.join()
    assert [each.code for each in answers] == [0]


# --- what clients leave behind ------------------------------------------------------------------------------------


def test_what_was_prepared_for_clients_that_are_gone_is_bounded(node):
    for number in range(3000):
        node.plugin.quick(request("ADD", network(), f"c{number}"))
    assert len(node.plugin._prepared) <= 1001


def test_containers_that_come_and_go_leave_no_descriptors_threads_and_memory(node):
    """NETPLANE_CNI_CYCLES: another number; 5000 are as good."""
    config = network(runtimeConfig={"portMappings": [{"hostPort": 8080, "containerPort": 80}]})
    with Container("web") as web:
        counts = []
        for number in range(int(os.environ.get("NETPLANE_CNI_CYCLES", "150"))):
            node.add(config, web)
            node.done("DEL", config, web)
            if number % 50 == 20:
                node.settle()
                counts.append((len(list(Path("/proc/self/fd").iterdir())), threading.active_count(), resident()))
    assert len({each[:2] for each in counts}) == 1, counts
    assert counts[-1][2] - counts[0][2] < 16 << 20, counts


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- the keeper ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["bridge", "routed"])
def test_deletions_of_our_own_are_nothing_to_look_at(node, web, shop, mode, monkeypatch):
    """With a thousand containers a look takes a tenth of a second, and every second some container ends."""
    for each in (web, shop):
        node.add(network(mode), each)
    node.keeper.look(whole=True)
    looks = []
    monkeypatch.setattr(node.attachments, "seen", lambda _: looks.append(1))
    node.done("DEL", network(mode), web)
    node.settle()
    node.keeper.look(whole=False)
    assert not looks


@pytest.mark.parametrize("mode", ["bridge", "routed"])
def test_the_lock_is_free_while_the_kernel_is_read(node, web, shop, mode, monkeypatch):
    """Whoever comes meanwhile is served, and what he did is not taken for damage."""
    node.add(network(mode), web)
    seen = node.attachments.seen

    def meanwhile(attached: object) -> object:
        found = seen(attached)
        done = threading.Thread(target=change)
        done.start()
        done.join(SECONDS)
        assert not done.is_alive()
        return found

    def change() -> None:
        node.done("DEL", network(mode), web)
        node.add(network(mode), shop)
        node.add(network(mode), web)

    monkeypatch.setattr(node.attachments, "seen", meanwhile)
    kept = node.keeper.look(whole=True)
    assert (kept.mended, kept.dead) == ([], [])
    assert len(node.links()) == 2


def test_what_came_back_is_not_buried_for_what_was_gone(node, web, monkeypatch):
    """Between looking and burying, DEL and another ADD of the same container."""
    monkeypatch.setattr("cni.keeper.SETTLE_SECONDS", 0.0)
    with Container("old") as old:
        node.add(network(), old)
    node.ip("link", "delete", *node.links()) if node.links() else None
    stands = node.attachments.stands
    calls = []

    def meanwhile(attachment: object) -> bool:
        if not calls:
            calls.append(1)
            node.done("DEL", network(), "old")
            node.settle()
            web.name = "old"
            node.add(network(), web)
        return stands(attachment)

    monkeypatch.setattr(node.attachments, "stands", meanwhile)
    kept = node.keeper.look(whole=True)
    assert calls
    assert kept.dead == []
    assert web.links() == {"lo", "eth0"}


def test_of_two_gateways_the_newer_networks_stays(node, web, shop):
    """A network whose range was changed while its containers live, with forceAddress: no tug of war."""
    old = network(ipam={"ranges": [[{"subnet": "10.88.1.0/24"}]]}, forceAddress=True)
    new = network(ipam={"ranges": [[{"subnet": "10.88.2.0/24"}]]}, forceAddress=True)
    node.add(old, web)
    node.add(new, shop)
    node.keeper.look(whole=True)
    for _ in range(2):
        assert node.keeper.look(whole=True).mended == []
    (bridge,) = node.ip("-4", "addr", "show", "dev", "cni0")
    assert [each["local"] for each in bridge["addr_info"]] == ["10.88.2.1"]
