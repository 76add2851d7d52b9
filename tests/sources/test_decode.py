"""Each field of each kind: what is read, what is refused, and what is said about it."""

from __future__ import annotations

from datetime import timedelta
from ipaddress import ip_address, ip_network

import pytest
from manifest_objects import (
    DELETE,
    ENDPOINTS,
    NAMESPACE,
    NODE,
    POD,
    SERVICE,
    SLICE,
    bent,
    decoded,
    value_of,
)

from netplane.model.address import Family, Protocol
from netplane.model.endpoint import EndpointState, SliceEndpoint, SlicePort
from netplane.model.node import Node
from netplane.model.pod import ContainerPort, Namespace
from netplane.model.service import Ingress, Scope, ServicePort, ServiceType

INGRESS = "status.loadBalancer.ingress"


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ([], "type", ServiceType.CLUSTER_IP),
        ([], "ports", (ServicePort("", Protocol.TCP, 80, 80),)),
        ([("spec.ports.0.targetPort", "http")], "ports", (ServicePort("", Protocol.TCP, 80, "http"),)),
        ([("spec.ports.0.targetPort", 8080)], "ports", (ServicePort("", Protocol.TCP, 80, 8080),)),
        ([("spec.ports.0.protocol", "SCTP")], "ports", (ServicePort("", Protocol.SCTP, 80, 80),)),
        ([("spec.ports.0.name", None)], "ports", (ServicePort("", Protocol.TCP, 80, 80),)),
        (
            [("spec.type", "NodePort"), ("spec.ports.0.nodePort", 30080)],
            "ports",
            (ServicePort("", Protocol.TCP, 80, 80, 30080),),
        ),
        ([], "cluster_ips", (ip_address("10.96.0.10"),)),
        (
            [("spec.clusterIPs", ["10.96.0.10", "fd00:96::10"])],
            "cluster_ips",
            (ip_address("10.96.0.10"), ip_address("fd00:96::10")),
        ),
        ([("spec.clusterIP", "None")], "cluster_ips", ()),
        ([("spec.clusterIP", "None"), ("spec.ports", DELETE)], "ports", ()),
        ([("spec", {"type": "ExternalName", "externalName": "a.example"})], "cluster_ips", ()),
        ([("spec.externalIPs", ["203.0.113.1", "203.0.113.1"])], "external_ips", (ip_address("203.0.113.1"),)),
        ([], "affinity", None),
        ([("spec.sessionAffinity", "ClientIP")], "affinity", timedelta(seconds=10800)),
        (
            [("spec.sessionAffinity", "ClientIP"), ("spec.sessionAffinityConfig.clientIP.timeoutSeconds", 86400)],
            "affinity",
            timedelta(days=1),
        ),
        ([("spec.internalTrafficPolicy", "Local")], "internal", Scope.LOCAL),
        ([("spec.externalTrafficPolicy", "")], "external", Scope.CLUSTER),
        ([("spec.publishNotReadyAddresses", True)], "publish_not_ready", True),
        ([("spec.selector", {"b": "2", "a": "1"})], "selector", (("a", "1"), ("b", "2"))),
        ([("metadata.labels", {"a": ""})], "labels", frozenset({("a", "")})),
        ([("spec.loadBalancerSourceRanges", [" 10.1.2.3/8 "])], "source_ranges", (ip_network("10.0.0.0/8"),)),
        ([("metadata.namespace", DELETE)], "id", ("default", "web")),
    ],
)
def test_a_service_is_read_with_the_defaults_of_the_api_server(changes, field, value):
    assert getattr(value_of(bent(SERVICE, *changes)), field) == value


LOAD_BALANCER = bent(SERVICE, ("spec.type", "LoadBalancer"), ("spec.healthCheckNodePort", 32000))


@pytest.mark.parametrize(
    ("entries", "ingress"),
    [
        ([{"ip": "203.0.113.1"}], (Ingress(ip_address("203.0.113.1")),)),
        ([{"ip": "203.0.113.1", "ipMode": "Proxy"}], (Ingress(ip_address("203.0.113.1"), proxy=True),)),
        ([{"hostname": "lb.example"}, {"ip": "2001:db8::1", "ipMode": "VIP"}], (Ingress(ip_address("2001:db8::1")),)),
    ],
)
def test_ingress_entries_are_addresses_with_their_mode_and_host_names_are_passed_over(entries, ingress):
    assert value_of(bent(LOAD_BALANCER, (INGRESS, entries))).ingress == ingress


def test_the_health_check_port_counts_only_for_load_balancers_that_keep_traffic_local():
    local = ("spec.externalTrafficPolicy", "Local")
    assert value_of(bent(LOAD_BALANCER, local)).health_check_node_port == 32000
    assert value_of(LOAD_BALANCER).health_check_node_port == 0
    assert value_of(bent(SERVICE, local, ("spec.healthCheckNodePort", 32000))).health_check_node_port == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([("spec", DELETE)], "spec: is missing"),
        ([("spec.type", "Clusterip")], "spec.type: 'Clusterip' is not known; write one of ClusterIP, NodePort"),
        ([("spec.ports", [])], "spec.ports: is missing"),
        ([("spec.ports.0.port", "80")], "spec.ports[0].port: must be a whole number, not a string"),
        ([("spec.ports.0.port", 80.5)], "spec.ports[0].port: must be a whole number, not a number with a fraction"),
        ([("spec.ports.0.port", True)], "spec.ports[0].port: must be a whole number, not true or false"),
        ([("spec.ports.0.port", 0)], "spec.ports[0].port: '0' is out of range; write a number from 1 to 65535"),
        ([("spec.ports.0.port", 65536)], "spec.ports[0].port: '65536' is out of range"),
        ([("spec.ports.0.port", -1)], "spec.ports[0].port: '-1' is out of range"),
        ([("spec.ports.0.port", 10**30)], "spec.ports[0].port: "),
        ([("spec.ports.0.port", DELETE)], "spec.ports[0].port: is missing"),
        ([("spec.ports.0.protocol", "tcp")], "spec.ports[0].protocol: 'tcp' is not known; write one of TCP, UDP, SCTP"),
        ([("spec.ports.0.targetPort", 70000)], "spec.ports[0].targetPort: '70000' is out of range"),
        ([("spec.ports.0.targetPort", "no_name")], "spec.ports[0].targetPort: 'no_name' is not a valid name"),
        ([("spec.ports.0.targetPort", "8080")], "spec.ports[0].targetPort: '8080' is not a valid name"),
        ([("spec.ports.0.nodePort", 30000)], "spec.ports[0].nodePort: is not for type ClusterIP"),
        ([("spec.type", "NodePort"), ("spec.ports.0.nodePort", 65536)], "spec.ports[0].nodePort: '65536' is out of"),
        ([("spec.ports.1", {"port": 81})], "spec.ports[0].name: is missing"),
        (
            [("spec.ports", [{"name": "a", "port": 1}, {"name": "a", "port": 2}])],
            "spec.ports[1].name: is also the name of another port",
        ),
        ([("spec.ports", [{"name": "a", "port": 1}, {"name": "b", "port": 1}])], "spec.ports[1].port: is also another"),
        ([("spec.ports", {"port": 80})], "spec.ports: must be a list, not a mapping"),
        ([("spec.ports", [None])], "spec.ports[0]: must be a mapping, not null"),
        ([("spec.clusterIP", "10.96.0.010")], "spec.clusterIP: '10.96.0.010' is not an IP address"),
        ([("spec.clusterIP", "10.96.0.10/32")], "spec.clusterIP: '10.96.0.10/32' is not an IP address"),
        ([("spec.clusterIP", "127.0.0.1")], "spec.clusterIP: '127.0.0.1' is a loopback address"),
        ([("spec.clusterIPs", ["10.96.0.11"])], "spec.clusterIPs[0]: differs from spec.clusterIP"),
        ([("spec.clusterIPs", ["10.96.0.10", "10.96.0.11"])], "spec.clusterIPs: has two addresses of one family"),
        ([("spec.type", "NodePort"), ("spec.clusterIP", "None")], "spec.clusterIP: None is not for type NodePort"),
        ([("spec.loadBalancerSourceRanges", ["10.0.0.0"])], "spec.loadBalancerSourceRanges[0]: '10.0.0.0' is not a"),
        ([("spec.loadBalancerSourceRanges", ["10.0.0.0/33"])], "spec.loadBalancerSourceRanges[0]: '10.0.0.0/33' is"),
        ([("spec.loadBalancerSourceRanges", ["10.0.0.0/255.0.0.0"])], "spec.loadBalancerSourceRanges[0]: "),
        ([("spec.loadBalancerSourceRanges", ["::ffff:10.0.0.0/104"])], "spec.loadBalancerSourceRanges[0]: "),
        ([("spec.sessionAffinity", "clientip")], "spec.sessionAffinity: 'clientip' is not known"),
        (
            [("spec.sessionAffinity", "ClientIP"), ("spec.sessionAffinityConfig.clientIP.timeoutSeconds", 86401)],
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: '86401' is out of range; write a number from 1 to 864",
        ),
        ([("spec.externalTrafficPolicy", "local")], "spec.externalTrafficPolicy: 'local' is not known"),
        ([("spec.selector", {"app": 1})], "spec.selector['app']: must be a string, not '1'; put it in quotes"),
        ([("metadata.labels", {"a b": "c"})], "metadata.labels['a b']: 'c' is not a label"),
        ([("metadata.labels", {"a": "c" * 64})], "is not a label"),
        ([("metadata.labels", ["a"])], "metadata.labels: must be a mapping, not a list"),
    ],
)
def test_a_service_the_api_server_would_refuse_is_refused_with_field_and_reason(changes, said):
    bad = bent(SERVICE, *changes)
    result = decoded(bad, NODE)
    assert [key.kind for key in result.objects] == ["Node"], "one bad object must not stop the others"
    assert [key.name for key in result.refused] == ["web"]
    (problem,) = result.problems
    assert str(problem).startswith(f"x.yaml#1: Service shop/web: {said}") or said in str(problem)
    assert len(str(problem)) <= 400


@pytest.mark.parametrize(
    ("base", "changes", "said"),
    [
        (SERVICE, [("spec.clusterIP", DELETE)], "spec.clusterIP: is not set and nothing here allocates one"),
        (SERVICE, [("spec.externalIPs", ["203.0.113.1", "x"])], "spec.externalIPs[1]: 'x' is not an IP address"),
        (SERVICE, [("spec.externalIPs", ["0.0.0.0"])], "spec.externalIPs[0]: '0.0.0.0' is unspecified"),
        (SERVICE, [(INGRESS, [{"ip": "203.0.113.1"}])], "status.loadBalancer.ingress: is not for type ClusterIP"),
        (LOAD_BALANCER, [(INGRESS, [{"ip": "fe80::1%eth0"}])], "status.loadBalancer.ingress[0].ip: 'fe80::1%eth0'"),
        (LOAD_BALANCER, [(INGRESS, [{"ip": "203.0.113.1", "ipMode": "vip"}])], "ingress[0].ipMode: 'vip' is not known"),
        (SLICE, [("endpoints.0.addresses", ["fd00::1"])], "endpoints[0].addresses[0]: fd00::1 is not IPv4"),
        (SLICE, [("endpoints.0.addresses", [])], "endpoints[0].addresses[0]: is missing"),
        (SLICE, [("endpoints.0.nodeName", "N 1")], "endpoints[0].nodeName: 'N 1' is not a valid name"),
        (ENDPOINTS, [("subsets.0.addresses.0.ip", "localhost")], "subsets[0].addresses[0].ip: 'localhost' is not"),
        (POD, [("status.podIPs.0.ip", "10.0.1")], "status.podIPs[0].ip: '10.0.1' is not an IP address"),
        (NODE, [("status.addresses.0.address", "n1")], "status.addresses[0].address: 'n1' is not an IP address"),
    ],
)
def test_a_bad_entry_that_only_adds_an_address_is_passed_over_and_the_object_is_used(base, changes, said):
    result = decoded(bent(base, *changes))
    assert len(result.objects) == 1
    assert not result.refused
    (problem,) = result.problems
    assert said in str(problem)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "0.0.0.0", "169.254.1.1", "224.0.0.1", "239.1.1.1", "255.255.255.255", "10.0.0.01", "10.0.0.1 "),
        *("10.0.0.256", "10.0.0", "0x0a000001", "١.١.١.١", "", "a\x00b", "10.0.0.1\n"),
    ],
)
def test_an_endpoint_has_an_address_that_other_hosts_can_reach(address):
    result = decoded(bent(SLICE, ("endpoints.0.addresses", [address]), ("endpoints.1", {"addresses": ["10.0.1.9"]})))
    (found,) = result.objects.values()
    assert [str(one.address) for one in found.value.endpoints] == ["10.0.1.9"]
    assert len(result.problems) == 1


@pytest.mark.parametrize("address", ["::1", "::", "fe80::1", "ff02::1", "::ffff:10.0.0.1", "fd00::1%eth0", "fd00:::1"])
def test_an_ipv6_endpoint_has_an_address_that_other_hosts_can_reach(address):
    result = decoded(bent(SLICE, ("addressType", "IPv6"), ("endpoints.0.addresses", [address])))
    (found,) = result.objects.values()
    assert found.value.endpoints == ()
    assert len(result.problems) == 1


@pytest.mark.parametrize(
    ("conditions", "state"),
    [
        (None, EndpointState.READY),
        ({}, EndpointState.READY),
        ({"ready": None}, EndpointState.READY),
        ({"ready": True, "terminating": True}, EndpointState.READY),
        ({"ready": False}, EndpointState.DOWN),
        ({"ready": False, "serving": True}, EndpointState.DOWN),
        ({"ready": False, "serving": True, "terminating": True}, EndpointState.DRAINING),
        ({"ready": False, "terminating": True}, EndpointState.DRAINING),
        ({"ready": False, "serving": False, "terminating": True}, EndpointState.DOWN),
    ],
)
def test_conditions_amount_to_one_state(conditions, state):
    (endpoint,) = value_of(bent(SLICE, ("endpoints.0.conditions", conditions))).endpoints
    assert endpoint.state is state


def test_a_slice_is_read_with_hints_node_and_pod():
    endpoint = {
        "addresses": ["10.0.1.5", "10.0.1.6"],
        "nodeName": "n1",
        "zone": "zone-a",
        "targetRef": {"kind": "Pod", "name": "web-0"},
        "hints": {"forZones": [{"name": "Zone_A"}], "forNodes": [{"name": "n1"}]},
    }
    read = value_of(
        bent(SLICE, ("endpoints", [endpoint]), ("ports", [{"name": None, "port": 8080}, {"name": "x", "port": None}]))
    )
    assert read.ports == (SlicePort("", Protocol.TCP, 8080),)
    assert read.endpoints == (
        SliceEndpoint(
            ip_address("10.0.1.5"),
            node="n1",
            zone_hints=frozenset({"Zone_A"}),
            node_hints=frozenset({"n1"}),
            pod="web-0",
        ),
    )


def test_a_slice_of_host_names_is_passed_over():
    result = decoded(bent(SLICE, ("addressType", "FQDN"), ("endpoints.0.addresses", ["a.example"])))
    assert not result.objects
    assert not result.problems


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([("metadata.labels", DELETE)], "metadata.labels['kubernetes.io/service-name']: is missing"),
        ([("addressType", DELETE)], "addressType: is missing"),
        ([("addressType", "ipv4")], "addressType: 'ipv4' is not known"),
        ([("ports.0.port", 65536)], "ports[0].port: '65536' is out of range"),
        ([("ports.0.name", "A")], "ports[0].name: 'A' is not a valid name"),
        ([("apiVersion", "v1")], "is not read; write apiVersion: discovery.k8s.io/v1"),
        ([("apiVersion", "discovery.k8s.io/v1beta1")], "is not read; write apiVersion: discovery.k8s.io/v1"),
    ],
)
def test_a_bad_slice_is_refused(changes, said):
    result = decoded(bent(SLICE, *changes))
    assert not result.objects
    (problem,) = result.problems
    assert said in str(problem)


def test_endpoints_become_a_slice_for_each_subset_and_family():
    subset = {
        "addresses": [{"ip": "10.0.1.6", "nodeName": "n1"}, {"ip": "fd00::6"}],
        "notReadyAddresses": [{"ip": "10.0.1.7"}],
        "ports": [{"name": "http", "port": 8080}],
    }
    four, six = value_of(bent(ENDPOINTS, ("subsets", [subset]))).slices
    assert (four.name, four.family, six.name, six.family) == ("web-ipv4-1", Family.IPV4, "web-ipv6-1", Family.IPV6)
    assert [(str(one.address), one.state, one.node) for one in four.endpoints] == [
        ("10.0.1.6", EndpointState.READY, "n1"),
        ("10.0.1.7", EndpointState.DOWN, ""),
    ]
    assert four.ports == six.ports == (SlicePort("http", Protocol.TCP, 8080),)


def test_a_pod_is_read_with_its_named_ports_those_of_sidecars_too():
    pod = value_of(
        bent(
            POD,
            ("spec.initContainers", [{"restartPolicy": "Always", "ports": [{"name": "proxy", "containerPort": 1}]}]),
            ("spec.containers.0.ports.1", {"containerPort": 9}),
            ("metadata.deletionTimestamp", "2026-01-01T00:00:00Z"),
        )
    )
    assert pod.ports == (ContainerPort("http", Protocol.TCP, 8080), ContainerPort("proxy", Protocol.TCP, 1))
    assert [str(one) for one in pod.addresses] == ["10.0.1.7", "fd00::7"]
    assert (pod.node, pod.ready, pod.terminating, pod.finished) == ("n1", True, True, False)
    assert value_of(bent(POD, ("status.phase", "Succeeded"))).finished


def test_ports_of_the_node_are_read_with_their_address_whether_they_have_a_name_or_not():
    ports = [
        {"containerPort": 80, "hostPort": 8080},
        {"name": "dns", "protocol": "UDP", "containerPort": 53, "hostPort": 53, "hostIP": "127.0.0.1"},
        {"containerPort": 81, "hostPort": 0, "hostIP": "nonsense"},
    ]
    assert value_of(bent(POD, ("spec.containers.0.ports", ports))).ports == (
        ContainerPort("", Protocol.TCP, 80, 8080),
        ContainerPort("dns", Protocol.UDP, 53, 53, ip_address("127.0.0.1")),
    )


@pytest.mark.parametrize(("field", "value"), [("hostPort", 70000), ("hostIP", "10.0.0.300")])
def test_a_port_of_the_node_that_cannot_be_is_refused(field, value):
    port = {"containerPort": 80, "hostPort": 8080, field: value}
    (problem,) = decoded(bent(POD, ("spec.containers.0.ports", [port]))).problems
    assert f"ports[0].{field}" in str(problem)


def test_a_node_is_read_with_internal_addresses_pod_ranges_and_zone():
    addresses = [{"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "192.0.2.1"}]
    assert value_of(bent(NODE, ("status.addresses", addresses), ("metadata.annotations", {"k": "v"}))) == Node(
        name="n1",
        addresses=(ip_address("192.0.2.1"),),
        pod_ranges=(ip_network("10.0.1.0/24"),),
        zone="zone-a",
        labels=frozenset({("topology.kubernetes.io/zone", "zone-a")}),
        annotations=(("k", "v"),),
    )


def test_a_namespace_is_read_with_its_labels():
    assert value_of(NAMESPACE) == Namespace("shop", frozenset({("team", "web")}))
