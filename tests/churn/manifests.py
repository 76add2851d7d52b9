"""Objects of the model as the API writes them, and the manifests a folder may hold them in.

What is encoded is decoded as the same object (`test_encoding.py`), so that the objects themselves say what the folder
means.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from random import Random
from typing import Any

import yaml

from netplane.model.endpoint import EndpointSlice, EndpointState, SliceEndpoint
from netplane.model.node import ZONE_LABEL, Node
from netplane.model.pod import Pod
from netplane.model.service import Service, ServicePort, ServiceType

Object = Service | EndpointSlice | Node | Pod
Name = tuple[str, str, str]
"""Kind, namespace and name: what makes an object the same one."""
Document = dict[str, Any]


def name_of(one: Object) -> Name:
    """The name of an object among all others."""
    match one:
        case Service() | Pod():
            return type(one).__name__, one.id.namespace, one.id.name
        case EndpointSlice():
            return "EndpointSlice", one.namespace, one.name
        case Node():
            return "Node", "", one.name


def encoded(one: Object) -> Document:
    """The object as a manifest."""
    match one:
        case Service():
            return _service(one)
        case EndpointSlice():
            return _slice(one)
        case Node():
            return _node(one)
        case Pod():
            return _pod(one)


def _object(one: Object, labels: Iterable[tuple[str, str]] = (), version: str = "v1", **body: Any) -> Document:
    kind, namespace, name = name_of(one)
    metadata = {"name": name, "labels": dict(labels)} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": version, "kind": kind, "metadata": metadata} | body


def _service(one: Service) -> Document:
    ips = [str(each) for each in one.cluster_ips]
    spec: Document = {
        "type": one.type.value,
        "ports": [_port(each) for each in one.ports],
        "externalIPs": [str(each) for each in one.external_ips],
        "loadBalancerSourceRanges": [str(each) for each in one.source_ranges],
        "internalTrafficPolicy": one.internal.value,
        "externalTrafficPolicy": one.external.value,
        "publishNotReadyAddresses": one.publish_not_ready,
        "selector": dict(one.selector),
    }
    if one.type is ServiceType.EXTERNAL_NAME:
        spec["externalName"] = "somewhere.example"
    else:
        spec |= {"clusterIP": ips[0], "clusterIPs": ips} if ips else {"clusterIP": "None"}
    if one.affinity is not None:
        seconds = int(one.affinity.total_seconds())
        spec |= {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}}
    if one.health_check_node_port:
        spec["healthCheckNodePort"] = one.health_check_node_port
    ingress = [{"ip": str(each.address), "ipMode": "Proxy" if each.proxy else "VIP"} for each in one.ingress]
    return _object(one, one.labels, spec=spec, status={"loadBalancer": {"ingress": ingress}})


def _port(one: ServicePort) -> Document:
    made: Document = {"port": one.port, "protocol": one.protocol.value, "targetPort": one.target}
    return made | ({"name": one.name} if one.name else {}) | ({"nodePort": one.node_port} if one.node_port else {})


def _slice(one: EndpointSlice) -> Document:
    return _object(
        one,
        [("kubernetes.io/service-name", one.service.name)],
        "discovery.k8s.io/v1",
        addressType=str(one.family),
        ports=[{"name": each.name, "protocol": each.protocol.value, "port": each.port} for each in one.ports],
        endpoints=[_endpoint(each) for each in one.endpoints],
    )


_CONDITIONS = {
    EndpointState.READY: {"ready": True, "serving": True, "terminating": False},
    EndpointState.DRAINING: {"ready": False, "serving": True, "terminating": True},
    EndpointState.DOWN: {"ready": False, "serving": False, "terminating": False},
}


def _endpoint(one: SliceEndpoint) -> Document:
    made: Document = {"addresses": [str(one.address)], "conditions": _CONDITIONS[one.state]}
    made |= {"nodeName": one.node} if one.node else {}
    made |= {"targetRef": {"kind": "Pod", "name": one.pod}} if one.pod else {}
    hints = {"forZones": one.zone_hints, "forNodes": one.node_hints}
    return made | {"hints": {kind: [{"name": each} for each in sorted(names)] for kind, names in hints.items()}}


def _node(one: Node) -> Document:
    addresses = [{"type": "InternalIP", "address": str(each)} for each in one.addresses]
    labels = {**dict(one.labels), **({ZONE_LABEL: one.zone} if one.zone else {})}
    ranges = [str(each) for each in one.pod_ranges]
    return _object(one, labels.items(), spec={"podCIDRs": ranges}, status={"addresses": addresses})


def _pod(one: Pod) -> Document:
    ports = [{"name": each.name, "protocol": each.protocol.value, "containerPort": each.port} for each in one.ports]
    made = _object(
        one,
        one.labels,
        spec={"nodeName": one.node, "hostNetwork": one.host_network, "containers": [{"ports": ports}]},
        status={
            "phase": "Succeeded" if one.finished else "Running",
            "podIPs": [{"ip": str(each)} for each in one.addresses],
            "conditions": [{"type": "Ready", "status": str(one.ready)}],
        },
    )
    if one.terminating:
        made["metadata"]["deletionTimestamp"] = "2026-11-21T04:00:00Z"
    return made


# --- files ------------------------------------------------------------------------------------------------------------

SUFFIXES = (".yaml", ".yml", ".json")


def text(random: Random, suffix: str, documents: Iterable[Document]) -> str:
    """The documents in one of the ways people and machines write them."""
    listed = list(documents)
    if suffix == ".json":
        return json.dumps({"apiVersion": "v1", "kind": "List", "items": listed}, indent=random.choice((None, 2)))
    if random.random() < 0.3:
        return yaml.safe_dump_all(listed, sort_keys=random.random() < 0.5) or "# nothing\n"
    return "".join(f"---\n{json.dumps(each)}\n" for each in listed) or "# nothing\n"


def cut(random: Random, documents: Iterable[Document]) -> tuple[str, int]:
    """The beginning of a file that ends in the middle of a document, and how many documents are whole in it."""
    listed = [json.dumps(each) for each in documents]
    whole = random.randrange(len(listed))
    part = listed[whole][: random.randrange(1, len(listed[whole]) - 1)]
    return "".join(f"---\n{each}\n" for each in listed[:whole]) + f"---\n{part}", whole


def refused(random: Random, document: Document) -> Document:
    """The document with a mistake for which the API server would refuse it."""
    wrong: Document = json.loads(json.dumps(document))
    match document["kind"]:
        case "Service":
            kind, port = random.choice((("ClusterIPs", 80), ("ClusterIP", 99999), ("", 0)))
            spec = wrong["spec"]
            spec["type"] = kind or spec["type"]
            spec["ports"] = [{"port": port}]
        case "EndpointSlice":
            random.choice((lambda: wrong.pop("addressType"), lambda: wrong["metadata"].pop("labels")))()
        case "Node":
            wrong["spec"]["podCIDRs"] = ["10.244.1.0/33"]
        case "Pod":
            wrong["spec"]["containers"][0]["ports"] = [{"containerPort": -1}]
    return wrong
