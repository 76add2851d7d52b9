"""Established TCP connections to an endpoint that is gone: reset where the Service wants it, kept otherwise."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest
from changing import SECONDS, Cluster, connected, server_of, ways

from netplane.backends.registry import BACKENDS
from netplane.kernel import sysctls

pytestmark = [pytest.mark.lab, pytest.mark.kernel]


@pytest.fixture(params=sorted(BACKENDS))
def cluster(request, tmp_path, monkeypatch):
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "lock"))
    with Cluster(tmp_path, BACKENDS[request.param]) as made:
        made.leave("web-2")
        yield made


@pytest.fixture
def connect(cluster):
    """Connections from everywhere, all to web-1."""
    with ExitStack() as stack:

        def made():
            found = {
                name: stack.enter_context(connected(namespace, socket.SOCK_STREAM, to))
                for name, (namespace, to) in ways(cluster).items()
            }
            assert {server_of(each) for each in found.values()} == {"web-1:8080"}
            return found

        yield made


def outcomes(connections):
    """What each client is told to its next packet."""
    return {name: _outcome(each) for name, each in connections.items()}


def _outcome(connection):
    try:
        return server_of(connection)
    except OSError as error:
        return type(error).__name__


def all_of(outcome, connections):
    return dict.fromkeys(connections, outcome)


@pytest.mark.parametrize("another", [True, False], ids=["another endpoint is there", "none is left"])
def test_the_next_packet_to_an_endpoint_that_is_gone_is_answered_by_a_reset(cluster, connect, another):
    cluster.annotate()
    cluster.round()
    connections = connect()
    cluster.leave("web-1")
    if another:
        cluster.join("web-2")
    assert cluster.round().flows.tcp == len(connections)
    assert outcomes(connections) == all_of("ConnectionResetError", connections)


@pytest.mark.parametrize("another", [True, False], ids=["another endpoint is there", "none is left"])
def test_a_client_that_only_waits_is_told_by_its_keepalive(cluster, connect, another):
    cluster.annotate()
    cluster.round()
    connections = connect()
    for each in connections.values():
        for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL):
            each.setsockopt(socket.IPPROTO_TCP, option, 1)
        each.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    cluster.leave("web-1")
    if another:
        cluster.join("web-2")
    cluster.round()
    for each in connections.values():
        each.settimeout(SECONDS)
        with pytest.raises(ConnectionResetError):
            each.recv(100)


def test_without_the_wish_connections_go_on(cluster, connect):
    cluster.round()
    connections = connect()
    cluster.leave("web-1")
    cluster.join("web-2")
    assert cluster.round().flows.tcp == 0
    assert outcomes(connections) == all_of("web-1:8080", connections)


def test_a_draining_endpoint_keeps_its_connections(cluster, connect):
    cluster.annotate()
    cluster.round()
    connections = connect()
    cluster.drain("web-1")
    cluster.join("web-2")
    assert cluster.round().flows.tcp == 0
    assert outcomes(connections) == all_of("web-1:8080", connections)


def test_new_connections_where_none_is_left_are_refused_as_ever(cluster):
    cluster.annotate()
    cluster.leave("web-1")
    cluster.round()
    for namespace, to in ways(cluster).values():
        with pytest.raises(ConnectionRefusedError):
            connected(namespace, socket.SOCK_STREAM, to)


def test_where_the_kernel_does_not_pick_up_connections_they_are_kept(cluster, connect):
    cluster.annotate()
    cluster.round()
    connections = connect()
    cluster.node.run(lambda: sysctls.write({"net/netfilter/nf_conntrack_tcp_loose": 0}))
    cluster.leave("web-1")
    cluster.join("web-2")
    assert cluster.round().flows.tcp == 0
    assert outcomes(connections) == all_of("web-1:8080", connections)
