"""`netplane load-balancer list`: who has which address, and why."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import netplane

pytestmark = pytest.mark.kernel

SERVICE = """
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, annotations: {annotations}}}
spec: {{type: LoadBalancer, clusterIP: {ip}, ports: [{{port: 80}}]}}
status: {status}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "manifests"
    made.mkdir()
    asked = '{netplane.dev/load-balancer-address: "203.0.113.9"}'
    far = '{netplane.dev/load-balancer-address: "198.18.0.1"}'
    kept = "{loadBalancer: {ingress: [{ip: 203.0.113.12}]}}"
    texts = [
        SERVICE.format(name="a", annotations="{}", ip="10.96.0.1", status="{}"),
        SERVICE.format(name="b", annotations=asked, ip="10.96.0.2", status="{}"),
        SERVICE.format(name="c", annotations="{}", ip="10.96.0.3", status=kept),
        SERVICE.format(name="d", annotations=far, ip="10.96.0.4", status="{}"),
    ]
    (made / "services.yaml").write_text("".join(texts))
    (tmp_path / "network.yaml").write_text("mode: vxlan\nload-balancers: {pools: [203.0.113.8/29]}\n")
    return made


def listed(folder: Path, *words: str):
    return netplane(
        "load-balancer", "list", "--from", str(folder), "--network", str(folder.parent / "network.yaml"), *words
    )


def test_every_address_is_listed_with_its_reason(folder):
    done = listed(folder)
    assert done.code == 0
    head, a, b, c, d = (line.split(maxsplit=2) for line in done.out.splitlines())
    assert head == ["SERVICE", "ADDRESS", "WHY"]
    assert a[0] == "default/a"
    assert a[1].startswith("203.0.113.")
    assert a[2] == "automatic: it follows from the Service's name"
    assert b == ["default/b", "203.0.113.9", "asked: metadata.annotations[netplane.dev/load-balancer-address]"]
    assert c == ["default/c", "203.0.113.12", "kept: it is in its status"]
    assert d[1] == "-"
    assert "198.18.0.1 is in no pool" in d[2]
    assert "problem: Service default/d: " in done.err


def test_the_same_as_json(folder):
    found = {each["name"]: each for each in listed(folder, "--output", "json").json}
    assert found["b"]["addresses"] == [
        {
            "address": "203.0.113.9",
            "why": "asked",
            "reason": "asked: metadata.annotations[netplane.dev/load-balancer-address]",
        }
    ]
    assert found["d"]["addresses"] == []
    assert "198.18.0.1 is in no pool" in found["d"]["notes"][0]


def test_settings_without_pools_give_nobody_anything(folder):
    done = netplane("load-balancer", "list", "--from", str(folder), "--network", "vxlan")
    assert done.code == 3
    assert "has no load-balancers.pools" in done.error
