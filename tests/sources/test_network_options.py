"""Words -> NetworkSettings: what they say, and what is said of those that say nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_address, ip_network
from random import Random

import pytest

from netplane.errors import InputError
from netplane.plan.network_settings import (
    Announce,
    Bgp,
    BgpPeer,
    LoadBalancers,
    Mode,
    NetworkSettings,
    PodsToNodes,
    Vxlan,
    Wireguard,
)
from netplane.sources.network_options import network_settings, read_network_settings

VXLAN = NetworkSettings(Mode.VXLAN)
ROUTER = BgpPeer(ip_address("198.18.0.1"), 64513)

WHOLE = """\
mode: bgp
cluster-ranges: [10.244.0.0/16, "fd00:244::/48"]
masquerade: false
no-masquerade: 198.51.100.0/24, 203.0.113.0/24
mtu: 1400
clamp-mss: false
pods-to-nodes: direct
vxlan: {id: 7, port: 8472, checksum: true}
wireguard: {port: 51821, keepalive: 25, plaintext: true}
bgp:
  as: 65001
  mesh: true
  reflectors: {rr: "yes"}
  password-file: /etc/netplane/bgp
  hold-seconds: 9
  graceful-restart-seconds: 0
  advertise-external-ips: true
  advertise-load-balancer-ips: true
  peers:
    - {address: 198.18.0.1, as: 4200000000, password-file: /etc/netplane/rack, nodes: {rack: a}, multihop: true}
    - {address: "fd00::1", as: 64513}
load-balancers:
  pools: [203.0.113.16/28, 203.0.113.40-203.0.113.50, "fd00:1b::/120"]
  announce: bgp
"""


def addresses(*texts):
    return tuple(map(ip_address, texts))


def test_every_key_of_a_file_is_a_field(tmp_path):
    file = tmp_path / "network.yaml"
    file.write_text(WHOLE)
    rack = BgpPeer(ip_address("198.18.0.1"), 4200000000, "/etc/netplane/rack", (("rack", "a"),), multihop=True)
    assert read_network_settings(str(file)) == NetworkSettings(
        mode=Mode.BGP,
        cluster_ranges=(ip_network("10.244.0.0/16"), ip_network("fd00:244::/48")),
        masquerade=False,
        no_masquerade=(ip_network("198.51.100.0/24"), ip_network("203.0.113.0/24")),
        mtu=1400,
        clamp_mss=False,
        pods_to_nodes=PodsToNodes.DIRECT,
        vxlan=Vxlan(7, 8472, checksum=True),
        wireguard=Wireguard(51821, 25, plaintext=True),
        bgp=Bgp(
            asn=65001,
            reflectors=(("rr", "yes"),),
            password_file="/etc/netplane/bgp",
            peers=(rack, BgpPeer(ip_address("fd00::1"), 64513)),
            hold_seconds=9,
            graceful_restart_seconds=0,
            advertise_external_ips=True,
            advertise_load_balancer_ips=True,
        ),
        load_balancers=LoadBalancers(
            (
                addresses("203.0.113.16", "203.0.113.31"),
                addresses("203.0.113.40", "203.0.113.50"),
                addresses("fd00:1b::", "fd00:1b::ff"),
            ),
            Announce.BGP,
        ),
    )


@pytest.mark.parametrize("mode", Mode)
def test_a_mode_word_is_settings(mode):
    assert read_network_settings(mode.value) == network_settings(mode.value) == NetworkSettings(mode)
    assert network_settings({"mode": mode.value}) == NetworkSettings(mode)


@pytest.mark.parametrize(
    ("said", "settings"),
    [
        ({"mtu": 0}, VXLAN),
        ({"mtu": 1280}, replace(VXLAN, mtu=1280)),
        ({"mtu": 65535}, replace(VXLAN, mtu=65535)),
        ({"cluster-ranges": "10.0.0.0/8"}, replace(VXLAN, cluster_ranges=(ip_network("10.0.0.0/8"),))),
        ({"cluster-ranges": ["10.0.0.1/8", "10.0.0.0/8"]}, replace(VXLAN, cluster_ranges=(ip_network("10.0.0.0/8"),))),
        ({"cluster-ranges": []}, VXLAN),
        ({"vxlan": {}}, VXLAN),
        ({"vxlan": {"id": 16777215}}, replace(VXLAN, vxlan=Vxlan(id=16777215))),
        ({"wireguard": {"keepalive": 0}}, VXLAN),
        ({"bgp": {"reflectors": {}}}, VXLAN),
        ({"bgp": {"peers": [{"address": "198.18.0.1", "as": 64513}]}}, replace(VXLAN, bgp=Bgp(peers=(ROUTER,)))),
        ({"load-balancers": {"announce": "none"}}, replace(VXLAN, load_balancers=LoadBalancers((), Announce.NONE))),
        (
            {"load-balancers": {"pools": "203.0.113.9-203.0.113.9"}},
            replace(VXLAN, load_balancers=LoadBalancers((addresses("203.0.113.9", "203.0.113.9"),))),
        ),
    ],
)
def test_words_become_settings(said, settings):
    assert network_settings({"mode": "vxlan", **said}) == settings


def peer(**changes):
    return {"bgp": {"peers": [{"address": "198.18.0.1", "as": 64513, **changes}]}}


def looped():
    made: list[object] = []
    made.append(made)
    return made


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"mode": "vxlam"}, "mode: 'vxlam' is not known; did you mean vxlan?"),
        ({"mode": "none"}, "write one of vxlan, host-gw, cross-subnet, bgp, wireguard"),
        ({"mode": None}, "mode: 'None' is not known; write one of vxlan"),
        ({"mode": ["vxlan"]}, "mode: '['vxlan']' is not known"),
        ({"cluster_ranges": []}, "cluster_ranges: is unknown; did you mean cluster-ranges?"),
        ({"vxlan": {"vni": 3}}, "vxlan.vni: is unknown; there is id, port, checksum"),
        ({"bgp": {"asn": 3}}, "bgp.asn: is unknown; did you mean as?"),
        ({"x" * 5000: 1}, "is unknown; there is mode, cluster-ranges"),
        ({1: 1}, "'1': is unknown"),
        ({10**5000: 1}, "this int: is unknown"),
        ({"vxlan": 3}, "vxlan: '3' is no mapping; write one with id, port, checksum"),
        ({"vxlan": None}, "vxlan: 'None' is no mapping"),
        ({"masquerade": 1}, "masquerade: '1' is not known; write true or false"),
        ({"masquerade": "yes"}, "masquerade: 'yes' is not known; write true or false"),
        ({"mtu": True}, "mtu: 'True' is no whole number; write a whole number from 1280 to 65535, or 0 for what the"),
        ({"mtu": 1279}, "mtu: '1279' is out of range"),
        ({"mtu": 65536}, "mtu: '65536' is out of range"),
        ({"mtu": -1}, "mtu: '-1' is out of range"),
        ({"mtu": 10**5000}, "mtu: this int is out of range"),
        ({"mtu": float("nan")}, "mtu: 'nan' is no whole number"),
        ({"mtu": float("inf")}, "mtu: 'inf' is no whole number"),
        ({"mtu": 1450.0}, "mtu: '1450.0' is no whole number"),
        ({"mtu": "1450"}, "mtu: '1450' is no whole number"),
        ({"mtu": [10**5000]}, "mtu: this list is no whole number"),
        ({"mtu": looped()}, "mtu: '[[...]]' is no whole number"),
        ({"vxlan": {"id": 0}}, "vxlan.id: '0' is out of range; write a whole number from 1 to 16777215"),
        ({"vxlan": {"id": 1 << 24}}, "vxlan.id: '16777216' is out of range"),
        ({"vxlan": {"port": 0}}, "vxlan.port: '0' is out of range; write a whole number from 1 to 65535"),
        ({"wireguard": {"keepalive": 65536}}, "wireguard.keepalive: '65536' is out of range"),
        ({"cluster-ranges": 5}, "cluster-ranges: '5' is no list; write one, in brackets"),
        ({"cluster-ranges": {"a": 1}}, "cluster-ranges: '{'a': 1}' is no list"),
        ({"cluster-ranges": [5]}, "cluster-ranges[0]: '5' is no string; put it in quotes"),
        ({"cluster-ranges": ["10.0.0.0"]}, "cluster-ranges[0]: '10.0.0.0' is not a network; write it like"),
        ({"cluster-ranges": ["10.0.0.0/33"]}, "cluster-ranges[0]: '10.0.0.0/33' is not a network"),
        ({"cluster-ranges": ["fe80::%eth0/64"]}, "cluster-ranges[0]: 'fe80::%eth0/64' is not a network"),
        ({"cluster-ranges": ["::/0"]}, "cluster-ranges: ::/0 holds more than Pods"),
        ({"cluster-ranges": ["10.0.0.0/8"] * 1001}, "cluster-ranges: has 1001 entries; write at most 1000"),
        ({"cluster-ranges": ["\ud800/8"]}, "cluster-ranges[0]: '\\ud800/8' is not a network"),
        ({"no-masquerade": "\x00/8"}, "no-masquerade[0]: '\\x00/8' is not a network"),
        ({"bgp": {"as": 0}}, "bgp.as: '0' is out of range"),
        ({"bgp": {"as": 23456}}, "bgp.as: 23456 is nobody's (RFC 6793); write a private one, like 64512"),
        ({"bgp": {"as": 4294967295}}, "bgp.as: '4294967295' is out of range"),
        ({"bgp": {"hold-seconds": 2}}, "bgp.hold-seconds: '2' is out of range; write a whole number from 3 to 65535"),
        ({"bgp": {"graceful-restart-seconds": 4096}}, "bgp.graceful-restart-seconds: '4096' is out of range"),
        ({"bgp": {"password-file": "secret"}}, "bgp.password-file: 'secret' is not the path of a file; write an abs"),
        ({"bgp": {"password-file": "/a\nb"}}, "bgp.password-file: '/a b' is not the path of a file"),
        ({"bgp": {"password-file": "/\x00"}}, "bgp.password-file: '/\\x00' is not the path"),
        ({"bgp": {"password-file": "/" + "x" * 5000}}, "is not the path of a file"),
        ({"bgp": {"password-file": ""}}, "bgp.password-file: '' is not the path of a file"),
        ({"bgp": {"reflectors": ["rr"]}}, "bgp.reflectors: '['rr']' is no mapping; write labels a Node must have"),
        ({"bgp": {"reflectors": {"rr": True}}}, "bgp.reflectors['rr']: must be a string, not 'True'"),
        ({"bgp": {"reflectors": {"r r": "a"}}}, "bgp.reflectors['r r']: 'a' is not a label"),
        ({"bgp": {"reflectors": {1: "a"}}}, "bgp.reflectors: '{1: 'a'}' is no mapping"),
        ({"bgp": {"mesh": False, "reflectors": {"rr": "a"}}}, "bgp.reflectors: is of no use with `mesh: false`"),
        ({"pods-to-nodes": "no"}, "pods-to-nodes: 'no' is not known; write one of overlay, direct"),
        ({"mode": "wireguard", "pods-to-nodes": "direct"}, "pods-to-nodes: direct would be in plain text"),
        ({"mode": "bgp", "bgp": {"mesh": False}}, "bgp.peers: is missing, and with `mesh: false` nobody tells nodes"),
        ({"bgp": {"peers": "198.18.0.1"}}, "bgp.peers[0]: '198.18.0.1' is no mapping; write one with address, as"),
        ({"bgp": {"peers": [{"as": 64513}]}}, "bgp.peers[0].address: is missing; write it"),
        (peer(address="127.0.0.1"), "bgp.peers[0].address: '127.0.0.1' is a loopback address"),
        (peer(address="rack"), "bgp.peers[0].address: 'rack' is not an IP address"),
        (peer(nodes={"a": "b c"}), "bgp.peers[0].nodes['a']: 'b c' is not a label"),
        (peer(multihop=2), "bgp.peers[0].multihop: '2' is not known"),
        ({"bgp": {"peers": [{"address": "198.18.0.1", "as": 1}] * 2}}, "bgp.peers[1].address: 198.18.0.1 is in bgp.p"),
        ({"load-balancers": {"pools": ["203.0.113.9"]}}, "load-balancers.pools[0]: '203.0.113.9' is not a network"),
        ({"load-balancers": {"pools": ["203.0.113.9-203.0.113.8"]}}, "pools[0]: '203.0.113.9-203.0.113.8' ends before"),
        ({"load-balancers": {"pools": ["203.0.113.9-fd00::1"]}}, "pools[0]: '203.0.113.9-fd00::1' ends before"),
        ({"load-balancers": {"pools": ["0.0.0.0/0"]}}, "load-balancers.pools[0]: '0.0.0.0' is unspecified"),
        (
            {"load-balancers": {"pools": ["203.0.113.0/24", "203.0.113.9-203.0.113.10"]}},
            "load-balancers.pools[0]: overlaps 203.0.113.9-203.0.113.10; write each address into one pool",
        ),
        ({"load-balancers": {"announce": "neighbors"}}, "load-balancers.announce: 'neighbors' is not known; did you"),
    ],
)
def test_a_bad_value_is_named_with_what_to_write(said, words):
    with pytest.raises(InputError) as caught:
        network_settings({"mode": "vxlan", **said})
    text = str(caught.value)
    assert text.startswith("network: ")
    assert words in text
    assert len(text) < 420
    assert text.isprintable()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({}, "network: mode: is missing; write it: one of vxlan, host-gw, cross-subnet, bgp, wireguard"),
        ([], "network: '[]' is no mapping; write one with mode"),
        (None, "network: 'None' is no mapping"),
        ("vxlam", "network: mode: 'vxlam' is not known; did you mean vxlan?"),
        (True, "network: 'True' is no mapping"),
    ],
)
def test_something_else_than_settings_is_refused(value, words):
    with pytest.raises(InputError) as caught:
        network_settings(value)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("n.yaml", "", "n.yaml: holds 0 documents; write one"),
        ("n.yaml", "mode: vxlan\n---\nmode: bgp\n", "n.yaml: holds 2 documents"),
        ("n.yaml", "mode: vxlan\nmode: bgp\n", "n.yaml: mode: is written twice; remove one"),
        ("n.yaml", "mode: vxlan\nvxlan: {id: 3, id: 4}\n", "n.yaml: vxlan.id: is written twice"),
        (
            "n.yaml",
            "mode: bgp\nbgp: {peers: [{address: 198.18.0.1, as: 1, as: 2}]}",
            "bgp.peers[0].as: is written twice",
        ),
        ("n.yaml", "mode: bgp\nbgp: {reflectors: {a: b, a: c}}", "bgp.reflectors.a: is written twice"),
        ("n.yaml", "mode: [", "n.yaml: line "),
        ("n.yaml", "mode: vxlan\nmtu: .nan\n", "n.yaml: mtu: '.nan' is no whole number"),
        ("n.yaml", f"mode: vxlan\nmtu: {'9' * 5000}\n", "n.yaml: mtu: '9999"),
        ("n.yaml", "mode: vxlan\nmtu: " + "[" * 5000, "n.yaml: line 2: is nested more than 100 levels deep"),
        ("n.yaml", "- vxlan\n", "n.yaml: '['vxlan']' is no mapping"),
        ("n.yaml", b"mode: \xff\n", "n.yaml: line 1: is not UTF-8 text"),
        ("n.json", '{"mode": "vxlan", "mtu": NaN}', "n.json: is not JSON"),
        ("n.json", '{"mode": "vxlan", "mtu": ' + "9" * 5000 + "}", "n.json: "),
        ("n.json", '{"mode": "vxlan", "mtu": 1e999}', "n.json: "),
        ("n.json", '{"mode": "vxlan", "mode": "bgp"}', "n.json: mode: is written twice"),
        ("n.yaml", "#" * ((1 << 20) + 1), "n.yaml: has more than 1048576 bytes"),
    ],
)
def test_a_bad_file_is_named(tmp_path, name, content, words):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        read_network_settings(str(file))
    assert words in str(caught.value)
    assert len(str(caught.value)) < 420


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("vxlam", "network vxlam: is no mode, and as a file: No such file or directory; did you mean vxlan?"),
        (
            "/nowhere/x.yaml",
            "No such file or directory; write vxlan, host-gw, cross-subnet, bgp, wireguard, or the path",
        ),
        ("", "network: is empty; write vxlan"),
        ("/dev/zero", "/dev/zero: is no ordinary file"),
        ("/", "/: is no ordinary file"),
        ("a\x00b", "network a\\x00b: is neither a mode nor a file"),
        ("\ud800", "network \\ud800: is"),
        ("x" * 5000, "as a file: File name too long"),
    ],
)
def test_what_is_neither_a_mode_nor_a_file_is_said(word, said):
    with pytest.raises(InputError) as caught:
        read_network_settings(word)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 420


def test_a_file_of_json_says_the_same(tmp_path):
    file = tmp_path / "network.json"
    file.write_text(json.dumps({"mode": "vxlan", "mtu": 1400, "vxlan": {"id": 9}}))
    assert read_network_settings(str(file)) == replace(VXLAN, mtu=1400, vxlan=Vxlan(9))


HOSTILE = [
    None, True, False, 0, -1, 1 << 40, 10**5000, float("nan"), float("-inf"), "", "\x00", "\ud800", "x" * 9999,
    "10.0.0.0/8", [], [[]], [None], ["10.0.0.0/8", 5], {}, {"": ""}, {1: 2}, {"as": {}}, [{}], [{"address": []}], (),
    b"vxlan", object(),
]  # fmt: skip
TOP = [
    "cluster-ranges",
    "masquerade",
    "no-masquerade",
    "mtu",
    "clamp-mss",
    "pods-to-nodes",
    "vxlan",
    "wireguard",
    "bgp",
    "load-balancers",
]
BELOW = [
    "id",
    "port",
    "as",
    "mesh",
    "reflectors",
    "password-file",
    "peers",
    "address",
    "nodes",
    "pools",
    "announce",
    "odd",
]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_said_ends_in_settings_or_in_an_input_error(seed):
    random = Random(seed)

    def value(depth):
        if depth and random.random() < 0.6:
            return {random.choice(BELOW): value(depth - 1) for _ in range(random.randrange(4))}
        return random.choice((*HOSTILE, "bgp", "198.18.0.1", 64512, "/etc/x"))

    for _ in range(200):
        said = {key: value(2) for key in random.sample(TOP, 3)} | {"mode": "bgp"}
        text = ""
        try:
            assert isinstance(network_settings(said), NetworkSettings)
        except InputError as error:
            text = str(error)
        assert len(text) < 420
        assert text.isprintable()
