"""A UDP client that keeps its port never hangs on an endpoint that is gone, and keeps one that still serves.

What kube-proxy's end-to-end tests of conntrack look at, for every kind of client and address at once.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest
from changing import Cluster, connected, server_of, wait_until, ways

from netplane.backends.registry import BACKENDS
from netplane.kernel.conntrack import read

pytestmark = [pytest.mark.lab, pytest.mark.kernel]


@pytest.fixture(params=sorted(BACKENDS))
def cluster(request, tmp_path, monkeypatch):
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "lock"))
    with Cluster(tmp_path, BACKENDS[request.param]) as made:
        yield made


@pytest.fixture
def clients(cluster):
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(connected(namespace, socket.SOCK_DGRAM, to))
            for name, (namespace, to) in ways(cluster).items()
        }


def servers(clients):
    return {name: server_of(each) for name, each in clients.items()}


def all_at(server, clients):
    return dict.fromkeys(clients, server)


def test_clients_of_a_pod_that_cycles_get_answers_from_the_new_one(cluster, clients):
    cluster.leave("web-2")
    cluster.round()
    assert servers(clients) == all_at("web-1:8080", clients)
    cluster.leave("web-1")
    cluster.join("web-2")
    cluster.round()
    assert servers(clients) == all_at("web-2:8080", clients)


def test_clients_that_went_on_while_there_was_no_pod_get_answers_when_there_is_one(cluster, clients):
    cluster.leave("web-2")
    cluster.round()
    assert servers(clients) == all_at("web-1:8080", clients)
    cluster.leave("web-1")
    cluster.round()
    assert servers(clients) == all_at("web-1:8080", clients)  # nowhere better to go
    cluster.join("web-2")
    cluster.round()
    assert servers(clients) == all_at("web-2:8080", clients)


def test_clients_that_came_before_there_was_an_endpoint_get_answers_when_there_is_one(cluster, clients):
    cluster.leave("web-1")
    cluster.leave("web-2")
    with cluster.without_service():
        cluster.round()
        for each in clients.values():
            each.send(b"anybody?")
        wait_until(lambda: untranslated(cluster) == len(clients))
    cluster.round()
    assert untranslated(cluster) == len(clients)
    cluster.join("web-1")
    cluster.round()
    for each in clients.values():
        wait_until(lambda each=each: answer_of(each) == "web-1:8080")


def untranslated(cluster):
    """How many flows to the Service the node tracks that go where they were sent."""
    found = cluster.node.run(read)
    return sum(each.original.destination_port in (80, 30080) and each.reply[:2] == each.original[2:] for each in found)


def answer_of(client):
    """The server, or "" if the socket still had to tell of a refusal before."""
    try:
        return server_of(client)
    except ConnectionRefusedError:
        return ""


def test_clients_follow_the_target_port(cluster, clients):
    cluster.round()
    before = servers(clients)
    assert {each.split(":")[1] for each in before.values()} == {"8080"}
    cluster.retarget()
    cluster.round()
    assert {each.split(":")[1] for each in servers(clients).values()} == {"8081"}


def test_a_flow_to_a_draining_pod_goes_on_until_the_pod_is_gone(cluster, clients):
    cluster.leave("web-2")
    cluster.round()
    assert servers(clients) == all_at("web-1:8080", clients)
    cluster.join("web-2")
    cluster.drain("web-1")
    cluster.round()
    assert servers(clients) == all_at("web-1:8080", clients)


def test_flows_to_a_pod_that_went_while_nobody_looked_move_when_the_agent_is_back(cluster, clients):
    cluster.round()
    before = servers(clients)
    assert set(before.values()) == {"web-1:8080", "web-2:8080"}
    cluster.leave("web-2")
    cluster.restart()
    assert cluster.round().flows.udp == sum(server == "web-2:8080" for server in before.values())
    assert servers(clients) == all_at("web-1:8080", clients)
