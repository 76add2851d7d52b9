"""Client-IP affinity over time: one memory for all addresses, ended by the endpoint's leaving and by the timeout."""

import shutil
import socket
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from netplane.backends.registry import BACKENDS, backend_named
from netplane.kernel.host import Host
from netplane.lab.cases import load_case
from netplane.lab.run import standing
from netplane.lab.servers import Answer
from netplane.model.pod import PodId
from netplane.plan.node import plan_node
from netplane.sources.manifests import load

pytestmark = [pytest.mark.lab, pytest.mark.kernel]

CASE = Path(__file__).parent.parent / "cases" / "affinity-every-address"
OF_IPV4 = [("10.96.0.10", 80), ("203.0.113.5", 80), ("203.0.113.80", 80), ("192.0.2.11", 30080)]
OF_IPV6 = [("fd00:10:96::10", 80), ("2001:db8:113::5", 80), ("2001:db8:113::80", 80), ("2001:db8:2::11", 30080)]
TRIES = 12
DEADLINE = 20.0

each_backend = pytest.mark.parametrize("backend", sorted(BACKENDS))


class Node:
    """n1 of the lab, kept by a host of its own as the agent would keep it."""

    def __init__(self, lab, case, backend, made):
        self._lab, self._case, self._backend = lab, case, backend_named(backend)
        self._host = lab.nodes["n1"].run(Host)
        made.callback(self._host.close)
        self._settings = load_case(case).settings.plan
        self.apply()

    def apply(self):
        plan = plan_node(load(self._case).snapshot, "n1", self._settings)
        program = self._backend.compile(plan).program
        self._lab.nodes["n1"].run(lambda: self._host.apply(program, reread=True))


@contextmanager
def cluster(tmp_path, backend, *, seconds=600):
    case = Path(shutil.copytree(CASE, tmp_path / "case"))
    edit(case, "timeoutSeconds: 600", f"timeoutSeconds: {seconds}")
    with standing(load_case(case)) as lab, ExitStack() as made:
        yield case, Node(lab, case, backend, made), lab.pods[PodId("shop", "client")]


def edit(case, old, new):
    manifest = case / "cluster.yaml"
    text = manifest.read_text()
    assert old in text
    manifest.write_text(text.replace(old, new))


def server(client, to):
    with client.run(lambda: socket.create_connection(to, timeout=DEADLINE)) as connection:
        answer = Answer.decode(connection.recv(500))
    assert answer
    return answer.name


@each_backend
@pytest.mark.parametrize("addresses", [OF_IPV4, OF_IPV6], ids=["IPv4", "IPv6"])
def test_every_address_of_a_service_leads_to_the_endpoint_the_client_had(tmp_path, backend, addresses):
    with cluster(tmp_path, backend) as (_, _node, client):
        assert len({server(client, to) for to in addresses for _ in range(TRIES)}) == 1


@each_backend
def test_a_client_keeps_its_endpoint_when_the_program_is_applied_again(tmp_path, backend):
    with cluster(tmp_path, backend) as (_, node, client):
        had = server(client, OF_IPV4[0])
        node.apply()
        assert {server(client, OF_IPV4[0]) for _ in range(TRIES)} == {had}


@each_backend
def test_affinity_ends_with_the_endpoint_and_does_not_come_back_with_it(tmp_path, backend):
    with cluster(tmp_path, backend) as (case, node, client):
        had = server(client, OF_IPV4[0])
        name = had.partition("/")[2]
        label = f"name: {name}, namespace: shop, labels: {{app: web}}"
        edit(case, label, f"name: {name}, namespace: shop, labels: {{app: gone}}")
        node.apply()
        other = server(client, OF_IPV4[0])
        assert other != had
        edit(case, f"name: {name}, namespace: shop, labels: {{app: gone}}", label)
        node.apply()
        assert {server(client, OF_IPV4[0]) for _ in range(TRIES)} == {other}


@each_backend
def test_affinity_ends_after_its_timeout_without_new_connections(tmp_path, backend):
    """Both endpoints are seen again and again only if the memory is lost in between, once a second."""
    with cluster(tmp_path, backend, seconds=1) as (_, _node, client):
        seen, end = set(), time.monotonic() + 3 * DEADLINE
        while len(seen) < 2:
            assert time.monotonic() < end, "the client never moved"
            seen.add(server(client, OF_IPV4[0]))
            wait_until_forgotten(client)


def wait_until_forgotten(client):
    """Let the timeout pass: a socket in the client's namespace that nobody sends to wakes up after it."""
    with client.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as silent:
        silent.settimeout(1.2)
        with pytest.raises(TimeoutError):
            silent.recv(1)
