"""Results out and in, every version, judged by an independent reader of the specification."""

import json
from dataclasses import replace
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_network

import conformance
import pytest
from conformance import VERSIONS

from cni import result_json
from cni.failure import Code, Failure
from cni.result import Dns, Interface, Result, ResultAddress, Route

MAC = "0a:58:0a:01:00:05"
FULL = Result(
    (
        Interface("cni0", MAC, "", 1450),
        Interface("npb0123456789ab", MAC, "", 1450),
        Interface("eth0", MAC, "/var/run/netns/x", 1450, "/run/socket", "0000:00:1f.6"),
    ),
    (
        ResultAddress(IPv4Interface("10.1.0.5/16"), ip_address("10.1.0.1"), 2),
        ResultAddress(IPv4Interface("10.2.0.5/16"), None, 2),
        ResultAddress(IPv6Interface("fd00::5/64"), ip_address("fd00::1"), 2),
    ),
    (
        Route(ip_network("0.0.0.0/0"), ip_address("10.1.0.1"), 1400, 1360, 0, 254, 0),
        Route(ip_network("10.9.0.0/16")),
        Route(ip_network("::/0"), ip_address("fd00::1"), priority=7),
    ),
    Dns(("10.96.0.10",), "cluster.local", ("default.svc",), ("ndots:5",)),
)


def without_extras(result: Result) -> Result:
    """What 1.0.0 and older can say of it."""
    interfaces = tuple(replace(each, mtu=0, socket_path="", pci_id="") for each in result.interfaces)
    return replace(result, interfaces=interfaces, routes=tuple(Route(each.to, each.via) for each in result.routes))


def by_family(result: Result) -> Result:
    """What 0.2.0 can say of it: the first address of each family, and its family's routes."""
    firsts = [next((a for a in result.addresses if a.address.version == each), None) for each in (4, 6)]
    kept = tuple(replace(each, interface=None) for each in firsts if each)
    families = {each.address.version for each in kept}
    routes = tuple(Route(each.to, each.via) for each in result.routes if each.to.version in families)
    return Result((), kept, routes, result.dns)


def sayable(result: Result, version: str) -> Result:
    if version in ("0.1.0", "0.2.0"):
        return by_family(result)
    return result if version == "1.1.0" else without_extras(result)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_full_result_conforms(version):
    said = result_json.encode(FULL, version)
    assert conformance.of_result(said, version, "" if version in ("0.1.0", "0.2.0") else "eth0") == []
    assert conformance.of_output("ADD", 0, json.dumps(said).encode(), version) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_what_a_version_can_say_comes_back(version):
    said = json.loads(json.dumps(result_json.encode(FULL, version)))
    assert result_json.decode(said, "") == sayable(FULL, version)


@pytest.mark.parametrize("to", VERSIONS)
@pytest.mark.parametrize("of", VERSIONS)
def test_types_any_version_converts_to_any_other(of, to):
    between = result_json.decode(result_json.encode(FULL, of), of)
    assert conformance.of_result(result_json.encode(between, to), to) == []
    assert result_json.decode(result_json.encode(between, to), to) == sayable(sayable(FULL, of), to)


def test_0_2_0_as_the_specification_prints_it():
    assert result_json.encode(FULL, "0.2.0") == {
        "cniVersion": "0.2.0",
        "ip4": {
            "ip": "10.1.0.5/16",
            "gateway": "10.1.0.1",
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}, {"dst": "10.9.0.0/16"}],
        },
        "ip6": {"ip": "fd00::5/64", "gateway": "fd00::1", "routes": [{"dst": "::/0", "gw": "fd00::1"}]},
        "dns": {
            "nameservers": ["10.96.0.10"],
            "domain": "cluster.local",
            "search": ["default.svc"],
            "options": ["ndots:5"],
        },
    }


def test_1_1_0_says_everything():
    said = result_json.encode(FULL, "1.1.0")
    assert said["interfaces"][2] == {
        "name": "eth0",
        "mac": MAC,
        "sandbox": "/var/run/netns/x",
        "mtu": 1450,
        "socketPath": "/run/socket",
        "pciID": "0000:00:1f.6",
    }
    assert said["ips"][0] == {"interface": 2, "address": "10.1.0.5/16", "gateway": "10.1.0.1"}
    assert said["routes"] == [
        {"dst": "0.0.0.0/0", "gw": "10.1.0.1", "mtu": 1400, "advmss": 1360, "priority": 0, "table": 254, "scope": 0},
        {"dst": "10.9.0.0/16"},
        {"dst": "::/0", "gw": "fd00::1", "priority": 7},
    ]


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0"])
def test_ips_have_a_version_before_1_0_0(version):
    assert [each["version"] for each in result_json.encode(FULL, version)["ips"]] == ["4", "4", "6"]


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_routes_of_a_family_without_an_address_are_dropped(version):
    said = result_json.encode(replace(FULL, addresses=FULL.addresses[2:]), version)
    assert "ip4" not in said
    assert said["ip6"]["routes"] == [{"dst": "::/0", "gw": "fd00::1"}]


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_types_cannot_convert_no_valid_ip_addresses(version):
    with pytest.raises(Failure, match="cannot convert: no valid IP addresses"):
        result_json.encode(replace(FULL, addresses=()), version)


@pytest.mark.parametrize("version", VERSIONS[2:])
def test_what_is_empty_is_left_out(version):
    assert result_json.encode(Result(), version) == {"cniVersion": version}
    assert conformance.of_result({"cniVersion": version}, version) == []
    assert result_json.decode({"cniVersion": version, "ips": None, "dns": {}, "routes": []}, "") == Result()


def test_loopback_conforms():
    for version in VERSIONS:
        assert conformance.of_result(result_json.encode(Result.loopback("/x"), version), version) == []


@pytest.mark.parametrize("missing", [{}, {"cniVersion": ""}, {"cniVersion": None}], ids=["missing", "empty", "null"])
def test_libcni_assumes_config_version_if_result_version_is_missing_or_empty(missing):
    ips = {"ips": [{"version": "4", "address": "10.1.0.5/16"}]}
    assert len(result_json.decode(missing | ips, "0.4.0").addresses) == 1
    assert len(result_json.decode(missing | {"ip4": {"ip": "10.1.0.5/16"}}, "0.2.0").addresses) == 1


def test_a_results_own_version_comes_before_the_configurations():
    assert len(result_json.decode({"cniVersion": "0.2.0", "ip4": {"ip": "10.1.0.5/16"}}, "1.0.0").addresses) == 1


def test_go_reads_keys_whatever_their_case():
    said = {"IPs": [{"Address": "10.1.0.5/16", "Interface": 0}], "Interfaces": [{"Name": "eth0", "Mac": MAC}]}
    found = result_json.decode(said, "1.0.0")
    assert found.addresses == (ResultAddress(IPv4Interface("10.1.0.5/16"), None, 0),)
    assert found.interfaces == (Interface("eth0", MAC),)


@pytest.mark.parametrize("index", [None, 1, 7, -1], ids=["no interface index", "just too big", "too big", "negative"])
def test_portmap_does_not_fail_on_missing_prev_result_interface_index(index):
    said = {"interfaces": [{"name": "host"}], "ips": [{"address": "10.0.0.1/24", "interface": index}]}
    assert result_json.decode(said, "1.0.0").addresses[0].interface is None


def test_an_ipam_plugins_result():
    said = {"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.5/16", "gateway": "10.1.0.1"}], "dns": {}}
    assert conformance.of_result(said, "1.0.0", ipam=True) == []
    found = result_json.decode(said, "1.0.0")
    assert found == Result(addresses=(ResultAddress(IPv4Interface("10.1.0.5/16"), ip_address("10.1.0.1")),))


def test_host_bits_of_a_route_do_not_matter():
    assert result_json.decode({"routes": [{"dst": "10.1.2.3/16"}]}, "1.0.0").routes == (
        Route(ip_network("10.1.0.0/16")),
    )


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ([], "prevResult"),
        ("", "prevResult"),
        ({"ips": {}}, "prevResult.ips"),
        ({"ips": [3]}, "prevResult.ips[0]"),
        ({"ips": [{}]}, "prevResult.ips[0].address"),
        ({"ips": [{"address": "10.1.0.5"}]}, "prevResult.ips[0].address"),
        ({"ips": [{"address": "10.1.0.5/99"}]}, "prevResult.ips[0].address"),
        ({"ips": [{"address": "10.1.0.5/24", "gateway": "x"}]}, "prevResult.ips[0].gateway"),
        ({"ips": [{"address": "10.1.0.5/24", "gateway": "fd00::1"}]}, "prevResult.ips[0].gateway"),
        ({"routes": [{"dst": "0.0.0.0/0", "gw": "fd00::1"}]}, "prevResult.routes[0].gw"),
        ({"cniVersion": "0.2.0", "ip6": {"ip": "fd00::5/64", "gateway": "10.0.0.1"}}, "prevResult.ip6.gateway"),
        ({"ips": [{"address": "10.1.0.5/24", "interface": "0"}]}, "prevResult.ips[0].interface"),
        ({"ips": [{"address": "10.1.0.5/24", "interface": True}]}, "prevResult.ips[0].interface"),
        ({"routes": [{}]}, "prevResult.routes[0].dst"),
        ({"routes": [{"dst": "0.0.0.0/0", "gw": "fe80::1%eth0"}]}, "prevResult.routes[0].gw"),
        ({"routes": [{"dst": "0.0.0.0/0", "gw": "", "mtu": -1}]}, "prevResult.routes[0].mtu"),
        ({"interfaces": [{"name": 3}]}, "prevResult.interfaces[0].name"),
        ({"dns": {"nameservers": "10.96.0.10"}}, "prevResult.dns.nameservers"),
        ({"dns": {"search": [3]}}, "prevResult.dns.search"),
        ({"cniVersion": 1}, "prevResult.cniVersion"),
        ({"cniVersion": "0.2.0", "ip4": {"ip": "fd00::1/64"}}, "prevResult.ip4.ip"),
        ({"cniVersion": "0.2.0", "ip6": {}}, "prevResult.ip6.ip"),
        ({"cniVersion": "0.2.0", "ip4": []}, "prevResult.ip4"),
    ],
)
def test_a_broken_result_is_refused_by_name(value, key):
    with pytest.raises(Failure) as raised:
        result_json.decode(value, "1.0.0", "prevResult")
    assert raised.value.code is Code.DECODING_FAILURE
    assert raised.value.msg.startswith(f"{key}: ")


@pytest.mark.parametrize("version", ["", "9.9.9", "1.0"])
def test_an_unknown_version_is_refused(version):
    with pytest.raises(Failure) as raised:
        result_json.encode(FULL, version)
    assert raised.value.code is Code.INCOMPATIBLE_VERSION
    with pytest.raises(Failure) as raised:
        result_json.decode({"cniVersion": version or "x"}, "1.0.0")
    assert raised.value.code is Code.INCOMPATIBLE_VERSION


# --- and the reader of the specification finds what is wrong --------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "change"),
    [
        ("1.0.0", {"cniVersion": "0.4.0"}),
        ("1.0.0", {"ip4": {"ip": "10.1.0.5/16"}}),
        ("1.0.0", {"ips": [{"version": "4", "address": "10.1.0.5/16"}]}),
        ("0.4.0", {"ips": [{"address": "10.1.0.5/16"}]}),
        ("0.4.0", {"ips": [{"version": "6", "address": "10.1.0.5/16"}]}),
        ("1.0.0", {"ips": [{"address": "10.1.0.5"}]}),
        ("1.0.0", {"ips": [{"address": "10.1.0.5/16", "interface": 3}]}),
        ("1.0.0", {"ips": [{"address": "10.1.0.5/16", "interface": "0"}]}),
        ("1.0.0", {"interfaces": [{"name": "eth0", "mtu": 1450}]}),
        ("1.1.0", {"interfaces": [{"name": "eth0", "mtu": "1450"}]}),
        ("1.1.0", {"interfaces": [{"name": "eth0", "mac": "0A-58"}]}),
        ("1.0.0", {"routes": [{"dst": "10.1.2.3/16"}]}),
        ("1.0.0", {"routes": [{"dst": "0.0.0.0/0", "priority": 1}]}),
        ("1.0.0", {"dns": {"servers": []}}),
        ("1.0.0", {"dns": {"search": "x"}}),
        ("0.2.0", {}),
        ("0.2.0", {"ip4": {"ip": "fd00::1/64"}}),
        ("0.2.0", {"ips": []}),
    ],
)
def test_the_checker_finds_a_result_that_does_not_conform(version, change):
    assert conformance.of_result({"cniVersion": version} | change, version)


@pytest.mark.parametrize(
    "error",
    [
        None,
        {},
        {"code": "7", "msg": "x"},
        {"code": 7},
        {"code": 7, "msg": ""},
        {"code": 60, "msg": "x"},
        {"code": 7, "msg": "x", "why": "y"},
        {"code": 7, "msg": "\ud800"},
        {"code": 7, "msg": "x", "cniVersion": "3"},
        {"code": True, "msg": "x"},
    ],
)
def test_the_checker_finds_an_error_that_does_not_conform(error):
    assert conformance.of_error(error)


@pytest.mark.parametrize(
    ("command", "code", "stdout"),
    [
        ("ADD", 0, b""),
        ("DEL", 0, b"{}"),
        ("ADD", 1, b"oops"),
        ("DEL", 1, b'{"code":50,"msg":"x"}'),
        ("VERSION", 0, b"[]"),
    ],
)
def test_the_checker_finds_output_that_does_not_conform(command, code, stdout):
    assert conformance.of_output(command, code, stdout, "1.0.0")


@pytest.mark.parametrize("code", list(Code))
def test_every_failure_conforms(code):
    for version in VERSIONS:
        assert conformance.of_error(Failure(code, "what was wrong\nhere", "and \udcff why").value(version)) == []
