"""Manifests as plain values, small and valid, for tests to bend."""

from __future__ import annotations

import copy
import json
from typing import Any

from netplane.sources.decode import Decoded, decode

SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web", "namespace": "shop"},
    "spec": {"clusterIP": "10.96.0.10", "ports": [{"port": 80}]},
}
SLICE = {
    "apiVersion": "discovery.k8s.io/v1",
    "kind": "EndpointSlice",
    "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
    "addressType": "IPv4",
    "ports": [{"port": 8080}],
    "endpoints": [{"addresses": ["10.0.1.5"]}],
}
ENDPOINTS = {
    "apiVersion": "v1",
    "kind": "Endpoints",
    "metadata": {"name": "web", "namespace": "shop"},
    "subsets": [{"addresses": [{"ip": "10.0.1.6"}], "ports": [{"port": 8080}]}],
}
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web-0", "namespace": "shop", "labels": {"app": "web"}},
    "spec": {"nodeName": "n1", "containers": [{"ports": [{"name": "http", "containerPort": 8080}]}]},
    "status": {
        "phase": "Running",
        "podIPs": [{"ip": "10.0.1.7"}, {"ip": "fd00::7"}],
        "conditions": [{"type": "Ready", "status": "True"}],
    },
}
NODE = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "zone-a"}},
    "spec": {"podCIDRs": ["10.0.1.0/24"]},
    "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
}
NAMESPACE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "web"}}}
ALL = (SERVICE, SLICE, ENDPOINTS, POD, NODE, NAMESPACE)

DELETE = object()


def bent(base: dict[str, Any], *changes: tuple[str, object]) -> dict[str, Any]:
    """A copy of `base` with values put at dotted paths (numbers index lists); DELETE removes."""
    made = copy.deepcopy(base)
    for path, value in changes:
        *way, last = (int(part) if part.isdigit() else part for part in path.split("."))
        at: Any = made
        for part in way:
            at = at.setdefault(part, {}) if isinstance(at, dict) else at[part]
        if value is DELETE:
            del at[last]
        elif isinstance(at, list) and last == len(at):
            at.append(value)
        else:
            at[last] = value
    return made


def text(*objects: object) -> str:
    """The objects as a YAML stream (JSON is YAML)."""
    return "".join(f"---\n{json.dumps(one)}\n" for one in objects)


def decoded(*objects: object) -> Decoded:
    """What becomes of the objects, as YAML and, as a List, as JSON: the same, or the test fails."""
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}).encode()
    as_yaml, as_json = decode("x.yaml", text(*objects).encode()), decode("x.json", listed)
    assert [found.value for found in as_yaml.objects.values()] == [found.value for found in as_json.objects.values()]
    assert as_yaml.refused == as_json.refused
    assert [one.why for one in as_yaml.problems] == [one.why for one in as_json.problems]
    return as_yaml


def value_of(one: dict[str, Any]) -> Any:
    """The model's value of one good object."""
    result = decoded(one)
    assert not result.problems, [str(problem) for problem in result.problems]
    (found,) = result.objects.values()
    return found.value


def problems_of(*objects: object) -> list[str]:
    """What is said about the objects."""
    return [str(problem) for problem in decoded(*objects).problems]
