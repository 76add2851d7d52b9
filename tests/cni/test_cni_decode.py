"""Standard input, decoded: the whole, mode and options of the link, what is refused and why."""

import json
from ipaddress import ip_network

import conformance
import pytest
from decoding import LEAST, PREVIOUS, asked, decoded, refused, refused_bytes

from cni.config import BridgeOptions, IpamOptions, Mode, NetworkConfig
from cni.decode import NOT_OFFERED, network_config, version_of
from cni.failure import Code
from cni.request import Command

# --- the whole --------------------------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_the_type():
    raw = dict(LEAST)
    assert decoded() == NetworkConfig("1.1.0", "pods", "netplane", ipam=IpamOptions(node_ranges=True), raw=raw)


@pytest.mark.parametrize("version", conformance.VERSIONS)
def test_every_version_is_read(version):
    assert decoded(cniVersion=version).version == version


def test_skel_infers_the_config_is_0_1_0():
    for missing in ({}, {"cniVersion": ""}, {"cniVersion": None}):
        stdin = json.dumps({"name": "skel-test", "some": "config"} | missing).encode()
        assert network_config(stdin, asked(), ()).version == "0.1.0"
        assert version_of(stdin) == "0.1.0"


def test_skel_version_gating():
    assert refused("CHECK", code=Code.INCOMPATIBLE_VERSION, cniVersion="0.3.0") == "config version does not allow CHECK"
    assert refused("GC", code=Code.INCOMPATIBLE_VERSION, cniVersion="1.0.0") == "config version does not allow GC"
    assert refused("STATUS", code=Code.INCOMPATIBLE_VERSION, cniVersion="1.0.0").endswith("STATUS")
    assert refused(code=Code.INCOMPATIBLE_VERSION, cniVersion="9.8.7") == "incompatible CNI versions"
    assert refused("CHECK", code=Code.DECODING_FAILURE, cniVersion="adsfsadf")
    assert refused(code=Code.DECODING_FAILURE, cniVersion=1.0) == "cniVersion is not a string"


@pytest.mark.parametrize("command", ["ADD", "CHECK", "DEL", "GC", "STATUS"])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        pytest.param("te%%st", "invalid characters found in network name", id="when the config has a bad name"),
        ("a/b", "invalid characters found in network name"),
        ("", "missing network name"),
        (None, "missing network name"),
        (3, "name: 3 is not a string"),
    ],
)
def test_skel_immediately_returns_invalid_network_config(command, name, said):
    assert refused(command, name=name) == said


@pytest.mark.parametrize("command", ["ADD", "CHECK", "DEL", "GC", "STATUS"])
@pytest.mark.parametrize(
    "stdin",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"null",
        b'"x"',
        b"\xff\xfe",
        b'{"name":"\xff"}',
        '{"name":"pods"}'.encode("utf-16"),
        '\ufeff{"name":"pods"}'.encode(),
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a":' * 150 + b"1" + b"}" * 150,
        b'{"name":"pods","mtu":' + b"9" * 5000 + b"}",
        b'{"name":"pods","mtu":NaN}',
        b'{"name":"pods","mtu":-Infinity}',
        b'{"name":"pods","mtu":1e999}',
        b'{"name":"pods","name":"pods"}',
        b'{"name":"pods","x":"\\ud800"}',
        b'{"name":"pods","\\udfff":1}',
        b'{"name":"pods"} {}',
        b"{'name':'pods'}",
    ],
    ids=lambda stdin: repr(stdin[:24]),
)
def test_what_is_no_json_object_is_a_decoding_failure(command, stdin):
    failure = refused_bytes(stdin, command)
    assert failure.code is Code.DECODING_FAILURE
    assert conformance.of_error(failure.value(version_of(stdin))) == []
    assert version_of(stdin) == "0.1.0"


def test_a_pair_of_surrogates_is_a_character():
    assert network_config(b'{"name":"pods","x":"\\ud83d\\ude00"}', asked(), ()).raw["x"] == "😀"


def test_brackets_in_texts_are_no_nesting():
    assert decoded(x="[" * 500).name == "pods"


def test_the_version_of_an_error_is_the_configurations_if_we_speak_it():
    assert version_of(json.dumps(LEAST).encode()) == "1.1.0"
    assert version_of(b'{"cniVersion":"0.4.0","name":"%%"}') == "0.4.0"
    assert version_of(b'{"cniVersion":"9.9.9"}') == "0.1.0"
    assert version_of(b'{"cniVersion":3}') == "0.1.0"


def test_unknown_keys_and_what_libcni_leaves_in_are_passed_over():
    config = decoded(capabilities={"portMappings": True}, disableCheck=True, whatever=[1], dataDir="/x")
    assert config.raw["whatever"] == [1]


@pytest.mark.parametrize("type_", ["a/b", "../netplane", "\0"])
def test_a_type_has_no_path_separator(type_):
    assert "type: " in refused(type=type_)


def test_equal_configurations_of_different_requests_share_what_was_decoded():
    first, second = decoded(runtimeConfig={"mac": "0a:58:0a:01:00:05"}), decoded(cni_args="IP=10.1.2.3")
    assert first.bridge is second.bridge
    assert (first.mac, second.mac) == (bytes.fromhex("0a580a010005"), b"")
    assert (decoded(mtu=1400).mtu, decoded(mtu=1500).mtu) == (1400, 1500)


# --- mode and options of the link -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "mode"), [({}, Mode.BRIDGE), ({"mode": "bridge"}, Mode.BRIDGE), ({"mode": "routed"}, Mode.ROUTED)]
)
@pytest.mark.parametrize("command", ["ADD", "CHECK", "DEL", "STATUS"])
def test_mode(command, options, mode):
    assert decoded(command, **options).mode is mode


@pytest.mark.parametrize("mode", ["macvlan", "Bridge", "chained", "loopback", 1])
def test_no_such_mode(mode):
    assert refused(mode=mode).startswith("mode: ")


def test_an_add_after_another_plugin_is_chained():
    config = decoded(prevResult=PREVIOUS)
    assert config.mode is Mode.CHAINED
    assert config.ipam is None
    assert config.previous is not None
    assert str(config.previous.addresses[0].address) == "10.0.0.2/24"


@pytest.mark.parametrize("command", ["CHECK", "DEL"])
def test_check_and_del_always_have_a_result_so_the_configuration_says_the_mode(command):
    config = decoded(command, prevResult=PREVIOUS, mode="routed")
    assert config.mode is Mode.ROUTED
    assert config.previous is not None
    assert config.ipam is not None


@pytest.mark.parametrize("previous", [None, PREVIOUS])
def test_loopback(previous):
    config = decoded(type="loopback", prevResult=previous, mtu="nonsense")
    assert (config.mode, config.ipam) == (Mode.LOOPBACK, None)
    assert (config.previous is None) is (previous is None)
    assert decoded("DEL", type="loopback").mode is Mode.LOOPBACK


@pytest.mark.parametrize("version", conformance.VERSIONS)
def test_a_previous_result_is_read_in_every_version(version):
    old = {"ip4": {"ip": "10.0.0.2/24"}}
    config = decoded(cniVersion=version, prevResult=old if version < "0.3" else PREVIOUS)
    assert config.previous is not None
    assert str(config.previous.addresses[0].address) == "10.0.0.2/24"


@pytest.mark.parametrize("command", ["ADD", "CHECK"])
def test_libcni_an_invalid_cached_result_is_an_error_on_check(command):
    said = refused(command, code=Code.DECODING_FAILURE, prevResult={"ips": [{"address": "x"}]})
    assert said.startswith('prevResult.ips[0].address: "x"')


def test_libcni_an_invalid_cached_result_is_tolerated_on_del():
    assert decoded("DEL", prevResult={"ips": [{"address": "x"}]}).previous is None


OPTIONS = {
    "bridge": ({"bridge": "br7"}, BridgeOptions("br7")),
    "isGateway": ({"isGateway": False}, BridgeOptions(gateway=False)),
    "isDefaultGateway implies isGateway": ({"isGateway": False, "isDefaultGateway": True}, BridgeOptions(gateway=True)),
    "forceAddress": ({"forceAddress": True}, BridgeOptions(force_address=True)),
    "hairpinMode": ({"hairpinMode": False}, BridgeOptions(hairpin=False)),
    "promiscMode": ({"promiscMode": True}, BridgeOptions(hairpin=False, promiscuous=True)),
    "both said": ({"promiscMode": True, "hairpinMode": False}, BridgeOptions(hairpin=False, promiscuous=True)),
    "vlan": ({"vlan": 100}, BridgeOptions(vlan=100)),
    "vlan 0": ({"vlan": 0}, BridgeOptions()),
    "the last vlan": ({"vlan": 4094}, BridgeOptions(vlan=4094)),
    "portIsolation": ({"portIsolation": "true"}, BridgeOptions(isolated=True)),
}


@pytest.mark.parametrize(("options", "want"), OPTIONS.values(), ids=OPTIONS)
def test_options_of_the_bridge(options, want):
    assert decoded(**options).bridge == want


@pytest.mark.parametrize(
    ("options", "want"),
    [
        ({}, True),
        ({"isGateway": True}, True),
        ({"isGateway": False}, False),
        ({"isDefaultGateway": False}, False),
        ({"isGateway": False, "isDefaultGateway": True}, True),
    ],
)
def test_who_gets_a_default_route(options, want):
    assert decoded(**options).default_route is want


def test_the_other_options():
    config = decoded(
        mtu=1450,
        ipMasq=False,
        clusterRanges=["fd88::/48", "10.96.0.0/12", "10.88.0.0/16", "10.96.0.0/12"],
        snat="false",
        enabledad=True,
        synchronousDelete=True,
    )
    assert config.mtu == 1450
    assert not config.masquerade
    assert config.masquerade_not_to == tuple(map(ip_network, ("10.88.0.0/16", "10.96.0.0/12", "fd88::/48")))
    assert not config.snat
    assert config.duplicate_address_detection
    assert config.synchronous_delete
    assert decoded("DEL", synchronousDelete=True).synchronous_delete


BROKEN = {
    "mtu is negative": ({"mtu": -1}, "mtu: -1 is not from 0 to 65535"),
    "mtu is a fraction": ({"mtu": 1450.5}, "mtu: 1450.5 is not a whole number"),
    "mtu is a text": ({"mtu": "1450"}, 'mtu: "1450" is not a whole number'),
    "mtu is a boolean": ({"mtu": True}, "mtu: true is not a whole number"),
    "mtu is huge": ({"mtu": 10**4000}, "mtu: 1000"),
    "mtu is too small for IPv4": ({"mtu": 67}, "mtu: 67 is less than"),
    "vlan id must be between 0 and 4094: 4095": ({"vlan": 4095}, "vlan: 4095 is not from 0 to 4094"),
    "vlan id must be between 0 and 4094: -1": ({"vlan": -1}, "vlan: -1 is not from 0 to 4094"),
    "cannot set hairpin mode and promiscuous mode at the same time": (
        {"hairpinMode": True, "promiscMode": True},
        "hairpinMode: true cannot be combined",
    ),
    "bridge is no name": ({"bridge": "a/b"}, 'bridge: "a/b" cannot be a link'),
    "bridge is too long": ({"bridge": "b" * 16}, "interface name is too long"),
    "bridge is named like a container's link": ({"bridge": "npbridge"}, "begins like the links of containers"),
    "a boolean is a number": ({"ipMasq": 1}, "ipMasq: 1 is neither true nor false"),
    "a boolean is another word": ({"isGateway": "yes"}, 'isGateway: "yes" is neither true nor false'),
    "clusterRanges is a text": ({"clusterRanges": "10.0.0.0/8"}, "clusterRanges: "),
    "clusterRanges has no network": ({"clusterRanges": ["10.0.0.0"]}, "clusterRanges: '10.0.0.0' is not a network"),
    "ipam is a list": ({"ipam": []}, "ipam: [] is not an object"),
    "args is a text": ({"args": "x"}, 'args: "x" is not an object'),
    "runtimeConfig is a list": ({"runtimeConfig": [1]}, "runtimeConfig: [1] is not an object"),
    "dns is a text": ({"dns": "10.96.0.10"}, 'dns: "10.96.0.10" is not an object'),
    "nameservers is a text": ({"dns": {"nameservers": "10.96.0.10"}}, "dns.nameservers: "),
    "ipam with disableContainerInterface": (
        {"disableContainerInterface": True, "ipam": {"type": "host-local"}},
        "cannot be combined with disableContainerInterface",
    ),
}


@pytest.mark.parametrize(("options", "want"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("command", ["ADD", "CHECK", "STATUS"])
def test_a_broken_option_is_refused_by_name_and_value(command, options, want):
    assert want in refused(command, **options)


@pytest.mark.parametrize(("options", "want"), BROKEN.values(), ids=BROKEN)
def test_del_and_gc_do_not_mind_a_broken_option(options, want):
    assert decoded("DEL", **options).name == "pods"
    gc = decoded("GC", **options | {"cni.dev/valid-attachments": []})
    assert gc.valid_attachments == frozenset()


@pytest.mark.parametrize("ipam", [None, {}])
def test_bridge_disable_container_interface(ipam):
    config = decoded(disableContainerInterface=True, ipam=ipam)
    assert not config.interface
    assert config.ipam is None


LOUD = {
    "macspoofchk": True,
    "vlanTrunk": [{"id": 101}, {"minID": 200, "maxID": 299}],
    "preserveDefaultVlan": "true",
    "masqAll": True,
    "externalSetMarkChain": "KUBE-MARK-MASQ",
    "conditionsV4": ["!", "-d", "1.2.3.4"],
    "conditionsV6": ["!", "-d", "12::34"],
    "unshapedSubnets": ["10.0.0.0/8"],
    "shapedSubnets": ["10.0.0.0/8"],
    "promisc": True,
    "allmulti": True,
    "txQLen": 1000,
    "ingressPolicy": "isolated",
}


@pytest.mark.parametrize("key", NOT_OFFERED)
def test_a_reference_plugins_key_that_we_do_not_offer_is_refused_with_its_value(key):
    said = refused(code=Code.UNSUPPORTED_FIELD, **{key: LOUD[key]})
    assert said.startswith(f"{key}: {json.dumps(LOUD[key])}")
    for harmless in (None, False, "false", 0, "", [], *NOT_OFFERED[key]):
        decoded(**{key: harmless})
    decoded("DEL", **{key: LOUD[key]})


@pytest.mark.parametrize(
    "options", [{"ipMasqBackend": "iptables"}, {"backend": "nftables"}, {"markMasqBit": 5}, {"ipMasqBackend": ""}]
)
def test_a_reference_plugins_key_that_changes_nothing_is_accepted(options):
    decoded(**options)


# --- GC ---------------------------------------------------------------------------------------------------------------

VALID = [{"containerID": "a", "ifname": "eth0"}, {"containerID": "b", "ifname": "net1"}]


@pytest.mark.parametrize("key", ["cni.dev/valid-attachments", "cni.dev/attachments"])
def test_the_list_of_valid_attachments(key):
    assert decoded("GC", **{key: VALID}).valid_attachments == frozenset({("a", "eth0"), ("b", "net1")})
    assert decoded("GC", **{key: []}).valid_attachments == frozenset()
    assert decoded("GC", **{key: None}).valid_attachments is None


def test_the_list_of_valid_attachments_has_a_better_and_a_worse_name():
    both = {"cni.dev/attachments": [], "cni.dev/valid-attachments": VALID[:1]}
    assert decoded("GC", **both).valid_attachments == frozenset({("a", "eth0")})
    assert decoded("GC").valid_attachments is None
    assert decoded("DEL", **both).valid_attachments is None


@pytest.mark.parametrize("broken", [{}, "x", [3], [{}], [{"containerID": "a"}], [{"containerID": 3, "ifname": "eth0"}]])
def test_a_broken_list_of_valid_attachments_is_never_taken_for_an_empty_one(broken):
    assert refused("GC", **{"cni.dev/valid-attachments": broken}).startswith("cni.dev/valid-attachments")


def test_every_command_is_decoded_but_version():
    for command in set(Command) - {Command.VERSION}:
        assert decoded(command.value, prevResult=PREVIOUS).name == "pods"
