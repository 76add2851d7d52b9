"""Health check node ports of the running agent, byte by byte: see netplane/agent/health.py."""

from __future__ import annotations

import socket
import time
from ipaddress import ip_address

import pytest
from node_of_agent import SECONDS, service

from netplane.kernel import links

pytestmark = pytest.mark.kernel

PORT = 32091
OWN = {4: "192.0.2.11", 6: "2001:db8:2::11"}


def gateway(*endpoints: str) -> str:
    return service(
        "gateway",
        7,
        *endpoints,
        type="LoadBalancer",
        externalTrafficPolicy="Local",
        healthCheckNodePort=PORT,
        ports=[{"port": 80, "nodePort": 30091}],
    )


def answer(status: str, local: int) -> bytes:
    body = (
        '{\n\t"service": {\n\t\t"namespace": "shop",\n\t\t"name": "gateway"\n\t},\n'
        f'\t"localEndpoints": {local},\n\t"serviceProxyHealthy": true\n}}'
    )
    return (
        f"HTTP/1.1 {status}\r\n"
        "Content-Type: application/json\r\n"
        "X-Content-Type-Options: nosniff\r\n"
        f"X-Load-Balancing-Endpoint-Weight: {local}\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Connection: close\r\n"
        "\r\n"
        f"{body}"
    ).encode()


OK, GONE = "200 OK", "503 Service Unavailable"


@pytest.fixture
def gate(node):
    """A node that has its addresses, and an endpoint of the Service here: over IPv4 only."""
    with node.namespace.run(links.Links) as made:
        made.carry_out([links.up(links.LOOPBACK)])
        made.carry_out([links.address(ip_address(each), ip_address(each).max_prefixlen, 1) for each in OWN.values()])
    node.write("gateway", gateway("10.244.1.5@n1", "10.244.2.5@n2", "fd00:10:244:2::5@n2"))
    return node


def ask(node, version: int, request: bytes = b"GET /healthz HTTP/1.1\r\nHost: n1\r\n\r\n") -> bytes:
    """All that comes back."""
    with connect(node, version) as asking:
        asking.sendall(request)
        return b"".join(iter(lambda: asking.recv(4096), b""))


def connect(node, version: int) -> socket.socket:
    return node.namespace.run(lambda: socket.create_connection((OWN[version], PORT), timeout=SECONDS))


def listening(agent, node) -> None:
    """The first answer comes before `ready`, so nothing has to be waited for."""
    agent.next("ready")


def test_the_answer_has_these_bytes_and_its_own_count_per_family(gate):
    with gate.agent() as agent:
        listening(agent, gate)
        assert ask(gate, 4) == answer(OK, 1)
        assert ask(gate, 6) == answer(GONE, 0)
        assert ask(gate, 4, b"POST /anything HTTP/1.0\r\n\r\n") == answer(OK, 1)


def test_a_node_whose_last_endpoint_goes_says_503_and_200_when_it_is_back(gate):
    with gate.agent() as agent:
        listening(agent, gate)
        for endpoints, expected in (
            (("10.244.2.5@n2",), answer(GONE, 0)),
            (("10.244.1.5@n1", "10.244.1.6@n1"), answer(OK, 2)),
        ):
            gate.write("gateway", gateway(*endpoints))
            agent.next("reconciled")
            assert asked_until(gate, expected) == expected


def asked_until(node, expected: bytes) -> bytes:
    """The line comes just before the answers change: ask until they have. Empty: nobody listens."""
    deadline = time.monotonic() + SECONDS
    while (said := asked(node)) != expected and time.monotonic() < deadline:
        continue
    return said


def asked(node) -> bytes:
    try:
        return ask(node, 4)
    except ConnectionError:
        return b""


def test_whoever_asks_badly_hurts_nobody_and_the_end_waits_for_none_of_them(gate):
    with gate.agent() as agent:
        listening(agent, gate)
        with connect(gate, 4) as silent, connect(gate, 4) as endless, connect(gate, 6) as rude:
            silent.sendall(b"GET / HT")
            rude.close()
            assert ask(gate, 4, b"\0\xff" * 100 + b"\r\n\r\n") == answer(OK, 1)
            with pytest.raises(ConnectionError):
                endless.sendall(b"x" * (64 << 20))
            assert ask(gate, 4) == answer(OK, 1)
            assert agent.end() == 0


def test_a_service_that_goes_takes_its_port_with_it(gate):
    gate.write("web", service("web", 1, "10.244.1.5@n1"))
    with gate.agent() as agent:
        listening(agent, gate)
        gate.remove("gateway")
        agent.next("reconciled")
        assert asked_until(gate, b"") == b""


def test_a_port_that_is_taken_is_said_once_and_answered_when_it_is_free(gate):
    taken = gate.namespace.run(lambda: socket.create_server((OWN[4], PORT)))
    try:
        with gate.agent("--at-most", "0.1") as agent:
            said = agent.next("cannot answer health checks")
            assert (
                said["why"]
                == f"Service shop/gateway: health check node port {PORT} on {OWN[4]}: Address already in use"
            )
            agent.next("ready")
            assert ask(gate, 6) == answer(GONE, 0)
            assert agent.is_quiet(0.3)
            taken.close()
            assert asked_until(gate, answer(OK, 1)) == answer(OK, 1)
    finally:
        taken.close()
