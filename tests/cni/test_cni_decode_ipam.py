"""Who gives addresses and from which ranges: host-local's configuration cases by name, and our own options."""

from ipaddress import ip_address, ip_network

import pytest
from decoding import decoded, refused

from cni.config import IpamOptions, NetworkConfig
from cni.decode_ipam import resolv_conf
from cni.failure import Code
from cni.result import Dns, Route

OLD = {"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.9", "rangeEnd": "10.1.2.20", "gateway": "10.1.2.30"}
NEW = {"subnet": "11.1.2.0/24", "rangeStart": "11.1.2.9", "rangeEnd": "11.1.2.20", "gateway": "11.1.2.30"}


def said(config: NetworkConfig) -> list[list[tuple[str, ...]]]:
    """The sets, each range as texts."""
    assert config.ipam is not None
    return [[tuple(map(str, (r.subnet, r.first, r.last, r.gateway))) for r in each] for each in config.ipam.sets]


AS_OLD, AS_NEW = tuple(OLD.values()), tuple(NEW.values())


@pytest.mark.parametrize(
    ("ipam", "want"),
    [
        pytest.param(OLD, [[AS_OLD]], id="Should parse an old-style config"),
        pytest.param({"ranges": [[OLD], [NEW]]}, [[AS_OLD], [AS_NEW]], id="Should parse a new-style config"),
        pytest.param({**OLD, "ranges": [[NEW]]}, [[AS_OLD], [AS_NEW]], id="Should parse a mixed config"),
        pytest.param({"ranges": [[OLD, NEW]]}, [[AS_OLD, AS_NEW]], id="several ranges in a set"),
        pytest.param({"ranges": []}, [], id="no ranges"),
    ],
)
@pytest.mark.parametrize("type_", [{}, {"type": "netplane"}, {"type": ""}], ids=["no type", "our type", "empty type"])
def test_host_local_ipam_config(type_, ipam, want):
    config = decoded(ipam=type_ | ipam)
    assert said(config) == want
    assert config.ipam is not None
    assert config.ipam.node_ranges is (not want)


@pytest.mark.parametrize("key", ["ipRanges", "IpRanges", "IPRanges"])
def test_host_local_the_runtimes_ranges_come_first(key):
    config = decoded(ipam={**OLD, "ranges": [[NEW]]}, runtimeConfig={key: [[{"Subnet": "12.0.0.0/24"}]]})
    assert said(config) == [[("12.0.0.0/24", "12.0.0.1", "12.0.0.254", "12.0.0.1")], [AS_OLD], [AS_NEW]]


def test_ranges_of_the_runtime_alone_are_enough():
    config = decoded(runtimeConfig={"ipRanges": [[{"subnet": "12.0.0.0/24"}]]})
    assert config.ipam is not None
    assert not config.ipam.node_ranges
    assert decoded(ipam={"nodeRanges": True, **OLD}).ipam.node_ranges
    assert not decoded(ipam={"nodeRanges": False}).ipam.node_ranges


ASKED = ("10.1.2.11", "11.11.11.11", "2001:db8:1::11")


@pytest.mark.parametrize(
    ("args", "cni", "runtime", "want"),
    [
        pytest.param("IP=10.1.2.10", {}, {}, ("10.1.2.10",), id="Should parse CNI_ARGS env"),
        pytest.param("IP=10.1.2.10/24", {}, {}, ("10.1.2.10",), id="Should parse CNI_ARGS env with a prefix"),
        pytest.param("IP=10.1.2.10,fd00::1/64", {}, {}, ("10.1.2.10", "fd00::1"), id="several, as the static plugin"),
        pytest.param("IP=10.1.2.10", {"ips": ASKED}, {}, ("10.1.2.10", *ASKED), id="Should parse config args"),
        pytest.param("", {}, {"ips": ["10.1.2.3/24"]}, ("10.1.2.3",), id="the capability"),
        pytest.param("", {}, {"IPs": ["10.1.2.3"]}, ("10.1.2.3",), id="the capability, as Go spells it"),
        pytest.param("IP=::ffff:10.1.2.3", {"ips": ["10.1.2.3"]}, {"ips": ["10.1.2.3"]}, ("10.1.2.3",), id="each once"),
        pytest.param(
            "IP=10.0.0.1",
            {"ips": ["10.0.0.2"]},
            {"ips": ["10.0.0.3"]},
            ("10.0.0.1", "10.0.0.2", "10.0.0.3"),
            id="appended, all three",
        ),
    ],
)
def test_host_local_requested_addresses(args, cni, runtime, want):
    config = decoded(cni_args=args, args={"cni": cni}, runtimeConfig=runtime)
    assert config.ipam is not None
    assert config.ipam.requested == tuple(map(ip_address, want))


def test_routes_of_ipam():
    routes = [
        {"dst": "0.0.0.0/0"},
        {"dst": "10.9.0.0/16", "gw": "10.1.2.1"},
        {"dst": "::/0", "gw": "", "mtu": 1400, "advmss": 1360, "priority": 5, "table": 100, "scope": 253},
    ]
    config = decoded(ipam={**OLD, "routes": routes})
    assert config.ipam is not None
    assert config.ipam.routes == (
        Route(ip_network("0.0.0.0/0")),
        Route(ip_network("10.9.0.0/16"), ip_address("10.1.2.1")),
        Route(ip_network("::/0"), None, 1400, 1360, 5, 100, 253),
    )


def test_what_is_ours_in_ipam():
    given = {"importFrom": "/var/lib/cni/networks/pods/", "quarantine": 1.5, "resolvConf": "/etc/resolv.conf"}
    ipam = decoded(ipam=OLD | given).ipam
    assert ipam is not None
    assert (ipam.import_from, ipam.quarantine) == ("/var/lib/cni/networks/pods", 1.5)
    assert ipam.resolv_conf == "/etc/resolv.conf"
    assert decoded(ipam={"quarantine": 0}).ipam.quarantine == 0.0


def test_another_plugins_ipam_is_its_own_business():
    theirs = {"type": "host-local", "ranges": "nonsense", "subnet": 3, "quarantine": "x"}
    config = decoded(ipam=theirs, cni_args="IP=nonsense")
    assert config.ipam == IpamOptions("host-local")
    assert config.raw["ipam"] == theirs
    assert decoded("DEL", ipam=theirs).ipam == IpamOptions("host-local")


IPAM_BROKEN = {
    "no path separator in ipam.type": ({"type": "../host-local"}, "ipam.type: "),
    "ipam.type ..": ({"type": ".."}, "ipam.type: "),
    "ipam.type is a number": ({"type": 3}, "ipam.type: 3 is not a string"),
    "ranges is an object": ({"ranges": {}}, "ipam.ranges: {} is not a list"),
    "a set is an object": ({"ranges": [OLD]}, "ipam.ranges[0]: "),
    "a range is a text": ({"ranges": [["10.0.0.0/24"]]}, 'ipam.ranges[0][0]: "10.0.0.0/24" is not an object'),
    "an empty set": ({"ranges": [[]]}, "ipam.ranges: empty range set"),
    "no subnet": ({"ranges": [[{"rangeStart": "10.0.0.1"}]]}, "ipam.ranges[0][0].subnet: null is missing"),
    "no network": ({"subnet": "10.0.0.0"}, "ipam.subnet: '10.0.0.0' is not a network"),
    "host bits": ({"subnet": "10.0.0.1/24"}, "ipam.subnet: 10.0.0.1/24: Network has host bits set"),
    "too small": (
        {"ranges": [[OLD], [{"subnet": "10.0.0.0/31"}]]},
        "ipam.ranges[1][0].subnet: Network 10.0.0.0/31 too",
    ),
    "rangeStart is no address": (OLD | {"rangeStart": "x"}, 'ipam.rangeStart: "x" is not an IP address'),
    "rangeStart outside": (OLD | {"rangeStart": "10.1.3.1"}, "RangeStart 10.1.3.1 not in network"),
    "rangeEnd outside": (OLD | {"rangeEnd": "10.1.3.1"}, "RangeEnd 10.1.3.1 not in network"),
    "gateway outside": (OLD | {"gateway": "10.1.3.1"}, "gateway 10.1.3.1 not in network"),
    "gateway is a number": (OLD | {"gateway": 1}, "ipam.gateway: 1 is not a string"),
    "Should detect overlap": (
        {
            "ranges": [
                [{"subnet": "10.1.2.0/24", "rangeEnd": "10.1.2.128"}],
                [{"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.15"}],
            ]
        },
        "range set 0 overlaps with 1",
    ),
    "overlap within a set": ({"ranges": [[OLD, OLD]]}, "overlap"),
    "mixed families in a set": ({"ranges": [[OLD, {"subnet": "fd00::/64"}]]}, "mixed address families"),
    "routes is an object": ({"routes": {}}, "ipam.routes: {} is not a list"),
    "a route is a text": ({"routes": ["0.0.0.0/0"]}, 'ipam.routes[0]: "0.0.0.0/0" is not an object'),
    "a route to nowhere": ({"routes": [{"gw": "10.0.0.1"}]}, "ipam.routes[0].dst: null is missing"),
    "a route by no address": ({"routes": [{"dst": "0.0.0.0/0", "gw": "x"}]}, 'ipam.routes[0].gw: "x" is not'),
    "a route by a zone": ({"routes": [{"dst": "::/0", "gw": "fe80::1%eth0"}]}, "ipam.routes[0].gw: "),
    "importFrom is relative": ({"importFrom": "networks"}, 'ipam.importFrom: "networks" is not an absolute path'),
    "importFrom climbs": ({"importFrom": "/var/../etc"}, "ipam.importFrom: "),
    "importFrom has a zero byte": ({"importFrom": "/a\0b"}, "ipam.importFrom: "),
    "resolvConf is relative": ({"resolvConf": "x"}, "ipam.resolvConf: "),
    "quarantine is a text": ({"quarantine": "30"}, 'ipam.quarantine: "30" is not a number of seconds'),
    "quarantine is negative": ({"quarantine": -1}, "ipam.quarantine: -1 is not from 0"),
    "quarantine is huge": ({"quarantine": 10**4000}, "ipam.quarantine: 1000"),
    "quarantine is a boolean": ({"quarantine": True}, "ipam.quarantine: true is not"),
    "nodeRanges is a number": ({"nodeRanges": 1}, "ipam.nodeRanges: 1 is neither"),
}


@pytest.mark.parametrize(("ipam", "want"), IPAM_BROKEN.values(), ids=IPAM_BROKEN)
def test_a_broken_ipam_is_refused_by_name_and_value(ipam, want):
    assert want in refused(ipam=ipam)
    assert decoded("DEL", ipam=ipam).ipam == IpamOptions()


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_host_local_should_error_on_too_many_ranges(version):
    words = f"CNI version {version} does not support more than 1 range per address family"
    assert words in refused(cniVersion=version, ipam={"ranges": [[OLD], [NEW]]})
    assert decoded(cniVersion="0.3.0", ipam={"ranges": [[OLD], [NEW]]})


def test_host_local_should_allow_one_v4_and_v6_range_for_0_2_0():
    assert len(said(decoded(cniVersion="0.2.0", ipam={"ranges": [[OLD], [{"subnet": "2001:db8:1::/48"}]]}))) == 2


@pytest.mark.parametrize(
    ("args", "options", "code", "want"),
    [
        ("IP=nonsense", {}, Code.INVALID_ENVIRONMENT, "CNI_ARGS: IP: 'nonsense' is not an IP address"),
        ("IP=fe80::1%eth0", {}, Code.INVALID_ENVIRONMENT, "CNI_ARGS: IP: "),
        ("", {"args": {"cni": {"ips": ["x"]}}}, Code.INVALID_CONFIG, "args.cni.ips: 'x' is not an IP address"),
        (
            "",
            {"runtimeConfig": {"ips": "10.1.2.3"}},
            Code.INVALID_CONFIG,
            'runtimeConfig.ips: "10.1.2.3" is not a list',
        ),
        ("", {"runtimeConfig": {"ips": [3]}}, Code.INVALID_CONFIG, "runtimeConfig.ips: [3] is not a list of strings"),
        ("", {"runtimeConfig": {"ipRanges": [OLD]}}, Code.INVALID_CONFIG, "runtimeConfig.ipRanges[0]: "),
    ],
)
def test_what_cannot_be_asked_for(args, options, code, want):
    assert want in refused(cni_args=args, code=code, **options)


def test_host_local_resolv_conf():
    text = "# comment\n; too\nnameserver 10.0.0.1\nnameserver 10.0.0.2 # x\ndomain a\ndomain b\nsearch c\nsearch d e\n"
    said = resolv_conf(text + "options ndots:5\noptions rotate\n\nnonsense\nnameserver\n#nameserver 1.1.1.1\n")
    assert said == Dns(("10.0.0.1", "10.0.0.2"), "b", ("d", "e"), ("ndots:5", "rotate"))
    assert resolv_conf("") == Dns()
