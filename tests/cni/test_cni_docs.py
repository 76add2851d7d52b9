"""docs/cni.md and examples/cni say what the code does."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from cni import conflist, decode, doctor, journal, sysctls, versions
from cni.config import BridgeOptions, IpamOptions, Mode
from cni.failure import Code
from cni.install import InstallOptions
from cni.request import Command, Invocation

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "cni.md").read_text()
EXAMPLES = sorted((ROOT / "examples" / "cni").rglob("*.conflist"))
OURS = [path for path in EXAMPLES if path.name != "before.conflist"]
ADD = Invocation(Command.ADD, container="c1", netns="/run/netns/c1", ifname="eth0", path=("/opt/cni/bin",))

READS = {"flag", "number", "text", "texts", "items", "section", "sections", "address", "network", "interface", "get"}
"""Methods of decode_fields.Section whose first argument is a key; functions below take the key second."""
READS_SECOND = {"_networks", "_folder", "_seconds", "_port"}
SPOKEN_OF_ELSEWHERE = {"cni.dev/valid-attachments", "cni.dev/attachments", "containerID", "ifname", "cni"}


def table(name: str) -> dict[str, str]:
    """The first column of a table between two marks, one entry for each word in it, with the second column."""
    part = PAGE.split(f"<!-- {name} -->")[1].split("<!-- ")[0]
    rows = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| ")][1:]
    return {key.strip("`"): row[1] for row in rows for key in row[0].split(", ") if not set(key) <= set("-|")}


def decoded_keys() -> set[str]:
    """Every key that a function of the decoders takes out of a configuration."""
    found: set[str] = set()
    for path in (ROOT / "cni").glob("decode*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                found |= set(_key(node))
    return found


def _key(call: ast.Call) -> list[str]:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    at = 0 if name in READS else 1 if name in READS_SECOND else None
    arguments = call.args[at : at + 1] if at is not None else []
    texts = [each.value for each in arguments if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    for each in arguments:
        if isinstance(each, ast.JoinedStr):  # f"{direction}Rate"
            texts += [f"{direction}{each.values[-1].value}" for direction in ("ingress", "egress")]
    return texts


def decoded(**options: Any) -> Any:
    stdin = {"cniVersion": "1.0.0", "name": "pods", "type": "netplane"} | options
    return decode.network_config(json.dumps(stdin).encode(), ADD, sysctls.allowed(Path("/nonexistent")))


def test_the_decoders_read_keys():
    assert decoded_keys() > {"mode", "hairpinMode", "clusterRanges", "ranges", "quarantine", "portMappings", "mac"}


@pytest.mark.parametrize("key", sorted(decoded_keys() - SPOKEN_OF_ELSEWHERE))
def test_every_key_that_is_read_is_on_the_page(key):
    assert f"`{key}`" in PAGE


def test_every_option_on_the_page_is_read():
    listed = {*table("options: plugin"), *table("options: ipam"), *table("options: runtime")} - {"capabilities"}
    assert listed <= decoded_keys() | {"runtimeConfig", "name", "type", "cniVersion"}


def test_every_key_that_is_refused_is_on_the_page():
    assert all(f"`{key}`" in PAGE for key in decode.NOT_OFFERED)


def test_the_defaults_on_the_page_are_those_of_the_code():
    config, bridge, ipam = decoded(), BridgeOptions(), IpamOptions()
    assert (config.bridge, config.ipam) == (bridge, replace(ipam, node_ranges=True))
    values = {
        "mode": f"`{config.mode.value}`",
        "mtu": config.mtu,
        "ipMasq": config.masquerade,
        "clusterRanges": config.masquerade_not_to,
        "snat": config.snat,
        "isGateway": bridge.gateway,
        "bridge": f"`{bridge.name}`",
        "hairpinMode": bridge.hairpin,
        "portIsolation": bridge.isolated,
        "promiscMode": bridge.promiscuous,
        "forceAddress": bridge.force_address,
        "vlan": bridge.vlan,
        "enabledad": config.duplicate_address_detection,
        "disableContainerInterface": not config.interface,
        "synchronousDelete": config.synchronous_delete,
        "ingressRate": 0 if config.bandwidth is None else config.bandwidth,
        "sysctl": config.sysctls,
        "dns": config.dns,
    }
    said = table("options: plugin")
    assert {key: said[key] for key in values} == {key: _in_words(value) for key, value in values.items()}
    of_ipam = {"routes": ipam.routes, "importFrom": ipam.import_from, "quarantine": int(ipam.quarantine)}
    assert {key: table("options: ipam")[key] for key in of_ipam} == {k: _in_words(v) for k, v in of_ipam.items()}
    assert table("options: ipam")["type"] == f"`{ipam.type}`"


def test_a_default_route_follows_the_gateway():
    assert decoded().default_route
    assert not decoded(isGateway=False).default_route
    assert decoded(isGateway=False, isDefaultGateway=True).bridge.gateway


def _in_words(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | str) and value != "" else "none"


def test_the_page_has_the_error_codes():
    listed = {int(code) for code in re.findall(r"^\| (\d+) \| ", PAGE, re.MULTILINE)}
    assert listed == {int(code) for code in Code}


def test_the_page_has_the_checks_of_the_doctor():
    assert list(table("checks")) == [each.name for each in doctor.CHECKS]


def test_the_page_names_the_versions():
    assert f"{versions.SUPPORTED[3]} to {versions.NEWEST}" in PAGE


# --- examples -------------------------------------------------------------------------------------------------------


def test_there_are_examples():
    assert {path.name for path in EXAMPLES} == {
        "10-netplane.conflist",
        "10-netplane-routed.conflist",
        "before.conflist",
        "after.conflist",
    }


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_an_example_is_accepted_as_it_is(path):
    network = conflist.read(path)
    assert [plugin["type"] for plugin in network.plugins] == ["netplane"]
    config = conflist.checked(network)
    assert config.mode is (Mode.ROUTED if "routed" in path.name else Mode.BRIDGE)


def test_the_capabilities_of_the_examples_are_those_on_the_page():
    known = set(table("options: runtime"))
    for path in OURS:
        assert set(conflist.read(path).plugins[0]["capabilities"]) <= known


def test_the_migration_keeps_network_range_and_bridge():
    before, after = (
        conflist.read(path) for path in sorted(EXAMPLES, reverse=True)[:2] if path.parent.name == "migration"
    )
    assert before.name == after.name
    old, new = before.plugins[0], after.plugins[0]
    assert {key: old[key] for key in ("bridge", "ipMasq", "hairpinMode", "isDefaultGateway")}.items() <= new.items()
    assert old["ipam"]["ranges"] == new["ipam"]["ranges"]
    assert new["ipam"]["importFrom"] == f"/var/lib/cni/networks/{before.name}"


def test_containerd_looks_where_we_install():
    settings = tomllib.loads((ROOT / "examples" / "cni" / "containerd.toml").read_text())
    cni = settings["plugins"]["io.containerd.grpc.v1.cri"]["cni"]
    here = doctor.Place()
    assert (cni["bin_dir"], cni["conf_dir"], cni["max_conf_num"]) == (str(here.bin_dir), str(here.conf_dir), 1)


def test_the_paths_on_the_page_are_those_of_the_code():
    here, installed = doctor.Place(), InstallOptions()
    assert (here.socket, here.spool) == (installed.settings.socket, installed.settings.spool)
    assert (here.bin_dir, here.conf_dir) == (installed.bin_directory, installed.config_directory)
    for path in (here.bin_dir, here.conf_dir, here.socket, here.spool, here.journal / journal.NAME, sysctls.ALLOW_LIST):
        assert f"`{path}`" in PAGE


# --- network lists --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "version"),
    [
        ({}, "0.1.0"),
        ({"cniVersion": "0.4.0"}, "0.4.0"),
        ({"cniVersion": "1.0.0", "cniVersions": ["0.4.0", "1.0.0", "1.1.0"]}, "1.1.0"),
        ({"cniVersion": "1.0.0", "cniVersions": ["9.0.0"]}, "1.0.0"),
        ({"cniVersion": "9.0.0"}, "9.0.0"),
    ],
)
def test_the_highest_version_we_know_is_chosen(tmp_path, given, version):
    path = tmp_path / "a.conflist"
    path.write_text(json.dumps({"name": "n", "plugins": [{"type": "netplane"}]} | given))
    assert conflist.read(path).version == version


def test_a_conf_file_is_a_list_of_one(tmp_path):
    path = tmp_path / "a.conf"
    path.write_text('{"cniVersion": "1.0.0", "name": "n", "type": "bridge"}')
    assert [plugin["type"] for plugin in conflist.read(path).plugins] == ["bridge"]


def test_the_first_of_the_names_counts_and_other_endings_do_not(tmp_path):
    for name in ("20-b.conflist", "10-a.conflist", "05-c.txt", ".netplane.tmp"):
        (tmp_path / name).write_text(json.dumps({"name": name[3:4], "plugins": [{"type": "netplane"}]}))
    assert conflist.first(tmp_path).name == "a"
    assert conflist.named(tmp_path, "b").path.name == "20-b.conflist"


def test_a_configuration_of_options_has_one_address_of_each_family():
    ranges = [ip_network(each) for each in ("10.1.0.0/24", "fd00::/64", "10.2.0.0/24")]
    text = conflist.configured(Mode.ROUTED, ranges, [ip_network("10.0.0.0/8")])
    (plugin,) = json.loads(text)["plugins"]
    config = decoded(**{key: value for key, value in plugin.items() if key != "type"})
    assert (config.mode, config.masquerade_not_to) == (Mode.ROUTED, (ip_network("10.0.0.0/8"),))
    assert config.ipam is not None
    assert [[str(each.subnet) for each in ranges] for ranges in config.ipam.sets] == [
        ["10.1.0.0/24", "10.2.0.0/24"],
        ["fd00::/64"],
    ]
    assert not config.ipam.node_ranges


def test_without_ranges_the_node_object_has_them():
    (plugin,) = json.loads(conflist.configured(Mode.BRIDGE, [], []))["plugins"]
    assert plugin["ipam"] == {"type": "netplane", "nodeRanges": True}
