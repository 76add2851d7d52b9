"""Connections outlive the agent, its restarts and the changes that do not concern them."""

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from netplane.kernel import command
from netplane.kernel.host import Host
from netplane.lab.cases import load_case
from netplane.lab.namespaces import Lab
from netplane.model.pod import PodId
from netplane.programs.program import Program

pytestmark = [pytest.mark.lab, pytest.mark.kernel]

CASES = Path(__file__).parent.parent / "cases"
DEADLINE = 20.0
CLUSTER_IP = ("10.96.0.10", 80)
CLUSTER_IP6 = ("fd00:10:96::10", 80)


class Echoes:
    """TCP servers in pods that send each line back with their name in front, for as long as the client talks."""

    def __init__(self, lab, pods):
        self._listeners = []
        for pod in pods:
            listener = lab.pods[PodId("shop", pod)].run(_listen)
            self._listeners.append(listener)
            threading.Thread(target=_accept, args=(listener, pod), daemon=True).start()

    def close(self):
        for listener in self._listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()


def _listen():
    listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(("::", 8080))
    listener.listen(64)
    return listener


def _accept(listener, name):
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_answer, args=(client, name), daemon=True).start()


def _answer(client, name):
    with client:
        try:
            while line := client.recv(100):
                client.sendall(f"{name} ".encode() + line)
        except OSError:
            return


def ask(connection, word):
    """What the server at the other end says to `word`; fails if it does not answer."""
    connection.sendall(word.encode())
    return connection.recv(100).decode()


def server_of(connection):
    return ask(connection, "who").split()[0]


def connect(namespace, to):
    connection = namespace.run(lambda: socket.create_connection(to, timeout=DEADLINE))
    connection.settimeout(DEADLINE)
    return connection


@contextmanager
def agent(lab, node, source):
    """The real agent in the node's namespace; killed without mercy at the end if it still runs."""
    ready, told = os.pipe()
    place = str(source.parent / f"run-{node}")
    words = (
        sys.executable,
        "-m",
        "netplane",
        "agent",
        "run",
        "--node",
        node,
        "--from",
        str(source),
        "--run-dir",
        place,
        "--no-cni",
    )
    process = lab.nodes[node].run(
        lambda: subprocess.Popen(
            (*words, "--ready-fd", str(told)), pass_fds=(told,), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    )
    os.close(told)
    try:
        assert select.select([ready], [], [], DEADLINE)[0]
        assert os.read(ready, 1) == b"1"
        yield process
    finally:
        os.close(ready)
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.fixture
def source(tmp_path):
    return Path(shutil.copytree(CASES / "node-port", tmp_path / "case"))


@pytest.fixture
def lab(source):
    with Lab(load_case(source).topology) as up, closing(Echoes(up, ["web-1", "web-2"])):
        yield up


def everybody(lab, stack):
    """Connections of every origin, both families, masqueraded and not."""
    pod, node = lab.pods[PodId("shop", "client")], lab.nodes["n1"]
    targets = [
        (pod, CLUSTER_IP),
        (pod, CLUSTER_IP6),
        (node, CLUSTER_IP),
        (node, CLUSTER_IP6),
        (lab.outside, ("192.0.2.11", 30080)),
        (lab.outside, ("2001:db8:2::11", 30080)),
    ]
    return [stack.enter_context(connect(namespace, to)) for namespace, to in targets for _ in range(3)]


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL], ids=["asked to end", "killed"])
def test_an_agent_that_ends_and_comes_back_disturbs_no_connection(lab, source, end):
    with ExitStack() as stack:
        with agent(lab, "n1", source) as process:
            old = everybody(lab, stack)
            servers = [server_of(each) for each in old]
            process.send_signal(end)
            process.wait(DEADLINE)
        new = everybody(lab, stack)  # nobody is there, and the data path works
        assert [server_of(each) for each in old] == servers
        between = [server_of(each) for each in new]
        with agent(lab, "n1", source):
            assert [server_of(each) for each in (*old, *new)] == [*servers, *between]
            assert {server_of(each) for each in everybody(lab, stack)} == {"web-1", "web-2"}


def test_a_connection_to_an_endpoint_that_leaves_goes_on_and_new_ones_go_elsewhere(lab, source):  # row 22
    client = lab.pods[PodId("shop", "client")]
    with ExitStack() as stack, agent(lab, "n1", source):
        old = everybody(lab, stack)
        servers = [server_of(each) for each in old]
        assert set(servers) == {"web-1", "web-2"}
        manifest = source / "cluster.yaml"
        text = manifest.read_text()
        edited = source / "cluster.yaml.new"
        edited.write_text(
            text.replace("name: web-2, namespace: shop, labels: {app: web}", "name: web-2, namespace: shop")
        )
        assert edited.read_text() != text
        edited.rename(manifest)
        wait_until(lambda: all_new_go_to(client, "web-1"))
        assert [server_of(each) for each in old] == servers


def test_cleaning_up_leaves_connections_alone_where_somebody_else_uses_nat(lab, source):
    """The kernel translates for as long as any nat chain exists; with the last one established translations end."""

    def clean():
        with Host() as host:
            host.apply(Program(), reread=True)

    def of_somebody_else():
        for family in ("ip", "ip6"):
            chain = "type nat hook postrouting priority 100; oifname nothing masquerade;"
            table = f"table {family} other {{ chain post {{ {chain} }}; }}"
            command.run("nft", "-f", "-", stdin=table, mechanism="nftables", doing="make a foreign table")

    with ExitStack() as stack:
        lab.nodes["n1"].run(of_somebody_else)
        with agent(lab, "n1", source):
            old = everybody(lab, stack)
            servers = [server_of(each) for each in old]
        lab.nodes["n1"].run(clean)
        assert [server_of(each) for each in old] == servers


def all_new_go_to(namespace, server):
    for _ in range(30):
        with connect(namespace, CLUSTER_IP) as connection:
            if server_of(connection) != server:
                return False
    return True


def wait_until(condition):
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
