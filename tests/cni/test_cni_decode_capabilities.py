"""What a runtime asks for one container, kernel parameters: the reference plugins' parsing cases by name."""

import re
from ipaddress import ip_address

import pytest
from decoding import PREVIOUS, decoded, refused, refused_bytes

from cni.config import Bandwidth, PortMapping
from cni.failure import Code
from cni.result import Dns
from netplane.model.address import Protocol


def test_portmap_correctly_parses_an_add_config():
    mappings = [
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 8081, "containerPort": 81, "protocol": "UDP"},
        {"hostPort": 8082, "containerPort": 82},
        {"hostPort": 8083, "containerPort": 83, "protocol": "sctp", "hostIP": "192.168.0.2"},
        {"hostPort": 8084, "containerPort": 84, "protocol": "tcp", "hostIP": "::"},
        {"hostPort": 8080, "containerPort": 80, "protocol": "TCP", "hostIP": ""},
    ]
    config = decoded(runtimeConfig={"portMappings": mappings}, snat=False, prevResult=PREVIOUS)
    assert not config.snat
    assert config.ports == (
        PortMapping(Protocol.TCP, 8080, 80),
        PortMapping(Protocol.UDP, 8081, 81),
        PortMapping(Protocol.TCP, 8082, 82),
        PortMapping(Protocol.SCTP, 8083, 83, ip_address("192.168.0.2")),
        PortMapping(Protocol.TCP, 8084, 84, ip_address("::")),
    )


def test_portmap_correctly_parses_a_del_config():
    assert decoded("DEL", snat=False, conditionsV4=["a", "b"], conditionsV6=["c", "d"]).ports == ()


CONTAINERD = {
    "portMappings": [{"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""}],
    "bandwidth": {"IngressRate": 10000000, "IngressBurst": 4294967295, "EgressRate": 0, "EgressBurst": 0},
    "dns": {"Servers": ["10.96.0.10"], "Searches": ["default.svc"], "Options": ["ndots:5"]},
    "io.kubernetes.cri.pod-annotations": {"HostPort": "x"},
    "cgroupPath": "/kubepods/x",
}


def test_what_containerd_sends():
    config = decoded(runtimeConfig=CONTAINERD)
    assert config.ports == (PortMapping(Protocol.TCP, 8080, 80),)
    assert config.bandwidth == Bandwidth(10000000, 4294967295)
    assert config.dns == Dns(("10.96.0.10",), "", ("default.svc",), ("ndots:5",))


@pytest.mark.parametrize(
    ("mapping", "want"),
    [
        pytest.param({"hostPort": 0}, "hostPort: 0 is not from 1 to 65535", id="fails with invalid mappings"),
        ({"hostPort": -1}, "hostPort: -1 is not from 1 to 65535"),
        ({"hostPort": 65536}, "hostPort: 65536 is not from 1 to 65535"),
        ({"hostPort": "80"}, 'hostPort: "80" is not a whole number'),
        ({"hostPort": 80.0}, "hostPort: 80.0 is not a whole number"),
        ({"hostPort": None}, "hostPort: null is missing"),
        ({"containerPort": 0}, "containerPort: 0 is not from 1 to 65535"),
        ({"containerPort": None}, "containerPort: null is missing"),
        ({"protocol": "icmp"}, 'protocol: "icmp" is none of tcp, udp and sctp'),
        ({"protocol": 6}, "protocol: 6 is not a string"),
        ({"hostIP": "node"}, 'hostIP: "node" is not an IP address'),
        ({"hostIP": "fe80::1%eth0"}, "hostIP: "),
    ],
)
def test_portmap_fails_with_invalid_mappings(mapping, want):
    whole = {"hostPort": 8080, "containerPort": 80} | mapping
    assert f"runtimeConfig.portMappings[0].{want}" in refused(runtimeConfig={"portMappings": [whole]})


def test_one_host_port_cannot_lead_to_two_places():
    mappings = [{"hostPort": 80, "containerPort": each} for each in (8080, 8081)]
    assert "hostPort: 80 is there twice, for container ports 8080 and 8081" in refused(
        runtimeConfig={"portMappings": mappings}
    )


@pytest.mark.parametrize("broken", [{}, "x", [3], ["80:80"]])
def test_port_mappings_are_a_list_of_objects(broken):
    assert refused(runtimeConfig={"portMappings": broken}).startswith("runtimeConfig.portMappings")


@pytest.mark.parametrize(
    ("runtime", "options", "want"),
    [
        ({}, {}, None),
        ({"bandwidth": {}}, {}, None),
        ({"bandwidth": None}, {}, None),
        ({"bandwidth": {"ingressRate": 8, "ingressBurst": 9}}, {}, Bandwidth(8, 9)),
        ({"bandwidth": {"egressRate": 8, "egressBurst": 9}}, {}, Bandwidth(0, 0, 8, 9)),
        ({}, {"ingressRate": 8, "ingressBurst": 9}, Bandwidth(8, 9)),
        (
            {"bandwidth": {"egressRate": 1, "egressBurst": 2}},
            {"ingressRate": 8, "ingressBurst": 9},
            Bandwidth(0, 0, 1, 2),
        ),
    ],
)
def test_bandwidth(runtime, options, want):
    assert decoded(runtimeConfig=runtime, **options).bandwidth == want


@pytest.mark.parametrize(
    ("limits", "want"),
    [
        ({"ingressRate": 8}, "ingressRate: 8 is set, so ingressBurst must be too"),
        ({"EgressBurst": 8}, "egressBurst: 8 is set, so egressRate must be too"),
        ({"ingressRate": -8, "ingressBurst": 8}, "ingressRate: -8 is not from 0"),
        ({"ingressRate": 8, "ingressBurst": 8 * 2**32}, "ingressBurst: 34359738368 is not from 0"),
        ({"ingressRate": 2**64, "ingressBurst": 8}, "ingressRate: 18446744073709551616 is not from 0"),
        ({"ingressRate": "10M", "ingressBurst": 8}, 'ingressRate: "10M" is not a whole number'),
    ],
)
def test_bandwidth_refused(limits, want):
    assert f"runtimeConfig.bandwidth.{want}" in refused(runtimeConfig={"bandwidth": limits})


A, B, C = "0a:58:0a:01:00:01", "0A-58-0A-01-00-02", "0a58.0a01.0003"


@pytest.mark.parametrize(
    ("args", "cni", "runtime", "want"),
    [
        pytest.param(f"MAC={A}", {}, {}, A, id="explicit MAC from CNI_ARGS"),
        pytest.param(f"MAC={A}", {"mac": B}, {}, "0a:58:0a:01:00:02", id="explicit MAC from Args"),
        pytest.param(f"MAC={A}", {"mac": B}, {"mac": C}, "0a:58:0a:01:00:03", id="explicit MAC from RuntimeConfig"),
        pytest.param("", {}, {"Mac": A}, A, id="as Go spells it"),
        pytest.param("", {}, {}, "", id="none"),
    ],
)
def test_bridge_explicit_mac(args, cni, runtime, want):
    assert decoded(cni_args=args, args={"cni": cni}, runtimeConfig=runtime).mac == bytes.fromhex(want.replace(":", ""))


@pytest.mark.parametrize(
    "mac", ["x", "0a:58:0a:01:00", A + ":07", "0a:58:0a:01:00-01", "01:00:5e:00:00:01", "00:00:00:00:00:00", A + "\n"]
)
def test_no_mac_address_of_an_interface(mac):
    assert "runtimeConfig.mac: " in refused(runtimeConfig={"mac": mac})


def test_a_bad_mac_in_the_environment_is_the_environments_fault():
    assert "CNI_ARGS: MAC" in refused(cni_args="MAC=x", code=Code.INVALID_ENVIRONMENT)


@pytest.mark.parametrize(
    ("own", "runtime", "want"),
    [
        pytest.param(None, {}, None, id="DNS not overridden"),
        pytest.param({}, {}, None, id="DNS said and empty"),
        pytest.param({"nameservers": ["10.0.0.1"], "domain": "a"}, {}, Dns(("10.0.0.1",), "a"), id="DNS overridden"),
        pytest.param({"nameservers": []}, {}, Dns(), id="DNS overridden with an empty list"),
        pytest.param(
            {"nameservers": ["10.0.0.1"], "domain": "a", "search": ["b"]},
            {"servers": ["10.0.0.2"]},
            Dns(("10.0.0.2",), "a", ("b",)),
            id="the runtime's settings come first, one by one",
        ),
        pytest.param({"search": ["b"]}, {"searches": [], "Options": ["c"]}, Dns(options=("c",)), id="also empty ones"),
    ],
)
def test_ptp_dns(own, runtime, want):
    assert decoded(dns=own, runtimeConfig={"dns": runtime}).dns == want


# --- kernel parameters ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("net.ipv4.conf.IFNAME.arp_notify", "net/ipv4/conf/eth0/arp_notify"),
        ("net/ipv4/conf/IFNAME/arp_notify", "net/ipv4/conf/eth0/arp_notify"),
        ("net.ipv4.conf.eth0/100.arp_notify", "net/ipv4/conf/eth0.100/arp_notify"),
        ("net/ipv4/conf/eth0.100/arp_notify", "net/ipv4/conf/eth0.100/arp_notify"),
        ("net.core.somaxconn", "net/core/somaxconn"),
    ],
)
def test_tuning_names_of_parameters(name, want):
    assert decoded(sysctl={name: "1"}).sysctls == ((want, "1"),)


@pytest.mark.parametrize(
    "name",
    [
        "kernel.hostname",
        "net",
        "net.",
        "net..a",
        "net/../kernel/x",
        "/net/core/x",
        "net/./x",
        "..",
        "",
        "net/a b",
        "net.a/../b",
    ],
)
def test_tuning_invalid_net_sysctl_key(name):
    assert refused(sysctl={name: "1"}, allowed=(re.compile(".*"),)).startswith("sysctl.")


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        (r"net/core/somaxconn", "net.core.somaxconn"),
        (r"net\.core\.somaxconn", "net.core.somaxconn"),
        (r"^net\.core\.somaxconn$", "net/core/somaxconn"),
        (r"net/ipv4/conf/IFNAME/\w+", "net.ipv4.conf.IFNAME.rp_filter"),
        (r"net/ipv4/conf/IFNAME/\w+", "net.ipv4.conf.eth0.rp_filter"),
        (r"net/ipv4/conf/eth0/\w+", "net.ipv4.conf.eth0.rp_filter"),
    ],
)
def test_tuning_the_allow_list_may_be_spelled_either_way(pattern, name):
    assert decoded(sysctl={name: "1"}, allowed=(re.compile("nothing"), re.compile(pattern))).sysctls


@pytest.mark.parametrize(
    ("patterns", "name"),
    [
        ((), "net.core.somaxconn"),
        (("net/core/somaxconn",), "net.core.somaxconn2"),
        (("net/ipv4/conf/IFNAME/.*",), "net.ipv4.conf.all.rp_filter"),
        (("net/ipv4/conf/IFNAME/.*",), "net.ipv4.conf.eth1.rp_filter"),
    ],
)
def test_tuning_a_parameter_that_is_not_on_the_allow_list(patterns, name):
    said = refused(sysctl={name: "1"}, allowed=tuple(map(re.compile, patterns)))
    assert said == f'sysctl.{name}: "1" is refused: the name is not on the allow-list'


def test_tuning_duplicated_sysctl_keys_are_not_allowed():
    for other in ("net/core/somaxconn", "net.core.somaxconn"):
        stdin = b'{"cniVersion":"1.1.0","name":"pods","sysctl":{"net.core.somaxconn":"1","%b":"2"}}' % other.encode()
        assert refused_bytes(stdin).code in (Code.INVALID_CONFIG, Code.DECODING_FAILURE)
    twice = {"net.ipv4.conf.IFNAME.rp_filter": "1", "net/ipv4/conf/eth0/rp_filter": "1"}
    assert "is there twice: net/ipv4/conf/eth0/rp_filter" in refused(sysctl=twice)


@pytest.mark.parametrize("value", [1, None, "", "1\n2", "a\0", "x" * 1025, True])
def test_tuning_values_are_texts_of_one_line(value):
    assert "sysctl.net.core.somaxconn: " in refused(sysctl={"net.core.somaxconn": value})
