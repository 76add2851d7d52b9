"""An agent that is killed at any instant, in the middle of an apply too, and its successor, break nothing."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from running import agent
from traffic import Traffic, cluster, standing

from netplane.backends.registry import BACKENDS

pytestmark = [pytest.mark.lab, pytest.mark.kernel]

KILLS = 6
MANY = 300
"""Services that come and go, so that a round takes a while."""
LATEST = 0.4
"""Seconds after a change at which the agent is killed at the latest."""
BETWEEN = 100

every_backend = pytest.mark.parametrize("backend", sorted(BACKENDS))


@pytest.fixture
def manifests(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "lock"))
    return cluster(tmp_path)


def crowd(number: int, endpoint: str) -> str:
    """A Service with one endpoint, as two documents."""
    ip = f"10.98.{number // 250}.{number % 250 + 1}"
    return (
        "apiVersion: v1\nkind: Service\n"
        f"metadata: {{name: crowd-{number}, namespace: shop}}\n"
        f"spec: {{clusterIP: {ip}, clusterIPs: [{ip}], ports: [{{port: 80}}]}}\n---\n"
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n"
        f"metadata: {{name: crowd-{number}, namespace: shop, labels: {{kubernetes.io/service-name: crowd-{number}}}}}\n"
        f"addressType: IPv4\nports: [{{port: 8080}}]\nendpoints: [{{addresses: [{endpoint}], nodeName: n1}}]\n"
    )


def change(manifests: Path, chance: random.Random) -> None:
    """Many Services come, go or move: a file is renamed into place."""
    numbers = chance.sample(range(MANY), chance.randrange(1, MANY))
    new = manifests / ".crowd.new"
    new.write_text("---\n".join(crowd(each, f"10.244.1.{chance.randrange(20, 250)}") for each in numbers))
    new.rename(manifests / "crowd.yaml")


def left_to_do(node, manifests: Path, backend: str) -> str:
    words = ("backend", "diff", backend, "--from", str(manifests), "--node", "n1")
    return node.run(
        lambda: subprocess.run((sys.executable, "-m", "netplane", *words), capture_output=True, text=True, check=False)
    ).stdout


@every_backend
def test_killed_at_any_instant_it_breaks_nothing_and_its_successor_converges(manifests, backend):
    chance = random.Random(1)
    with standing(manifests) as lab:
        node = lab.nodes["n1"]
        with Traffic(lab) as traffic:
            for kill in range(KILLS):
                with agent(node, manifests, backend) as daemon:
                    assert left_to_do(node, manifests, backend) == "nothing to do\n"
                    if not kill:
                        traffic.start()
                    change(manifests, chance)
                    daemon.runs_for(chance.uniform(0, LATEST))
                traffic.go_on(BETWEEN)
            with agent(node, manifests, backend):
                assert left_to_do(node, manifests, backend) == "nothing to do\n"
                traffic.go_on(BETWEEN)
            assert traffic.finish() >= BETWEEN * KILLS
