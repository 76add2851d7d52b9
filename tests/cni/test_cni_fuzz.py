"""Whatever a runtime sends, the answer is a decoded request or an error of the specification, never an exception.

A seeded thousand of inputs; `NETPLANE_FUZZ_INPUTS=100000` asks for more (scripts/test --long). A failure shows the
environment and the bytes; the same seed makes the same input.
"""

import json
import os
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_network

import conformance
import pytest

from cni import ranges, result_json
from cni.config import Mode, NetworkConfig
from cni.decode import network_config, version_of
from cni.environment import invocation
from cni.failure import Failure
from cni.request import Command, Invocation
from cni.result import Dns, Interface, Result, ResultAddress, Route

BATCHES = 8
INPUTS = int(os.environ.get("NETPLANE_FUZZ_INPUTS", "1000"))
ALLOWED = (re.compile(r"net/ipv[46]/conf/IFNAME/\w+"), re.compile(r"net\.core\..*"))

COMMANDS = ["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"]
ENVIRONMENT = {
    "CNI_CONTAINERID": "4f1c0de",
    "CNI_NETNS": "/var/run/netns/cni-1",
    "CNI_IFNAME": "eth0",
    "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;IP=10.88.0.7;MAC=0a:58:0a:58:00:07",
    "CNI_PATH": "/opt/cni/bin:/usr/lib/cni",
}
FULL = {
    "cniVersion": "1.1.0",
    "name": "pods",
    "type": "netplane",
    "mode": "bridge",
    "bridge": "cni0",
    "isGateway": True,
    "isDefaultGateway": True,
    "hairpinMode": False,
    "vlan": 0,
    "mtu": 1450,
    "ipMasq": "true",
    "snat": True,
    "clusterRanges": ["10.88.0.0/16", "fd88::/48"],
    "capabilities": {"portMappings": True},
    "sysctl": {"net.ipv4.conf.IFNAME.arp_notify": "1", "net/core/somaxconn": "4096"},
    "args": {"cni": {"mac": "0a:58:0a:58:00:08", "ips": ["10.88.0.8/24"]}},
    "dns": {"nameservers": ["10.96.0.10"], "domain": "cluster.local", "search": ["a"], "options": ["ndots:5"]},
    "ipam": {
        "type": "netplane",
        "subnet": "10.87.0.0/24",
        "ranges": [[{"subnet": "10.88.0.0/24", "rangeStart": "10.88.0.5"}], [{"subnet": "fd88::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0", "gw": "fd88::1", "mtu": 1400}],
        "importFrom": "/var/lib/cni/networks/pods",
        "quarantine": 3.5,
        "nodeRanges": False,
    },
    "runtimeConfig": {
        "portMappings": [{"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": "192.0.2.1"}],
        "bandwidth": {"IngressRate": 10000000, "IngressBurst": 4294967295},
        "ipRanges": [[{"subnet": "10.89.0.0/24", "gateway": "10.89.0.254"}]],
        "dns": {"Servers": ["10.96.0.10"], "Searches": ["b"], "Options": []},
        "ips": ["10.88.0.9"],
        "mac": "0a:58:0a:58:00:09",
    },
    "prevResult": {
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "cni0"}, {"name": "eth0", "mac": "0a:58:0a:58:00:05", "sandbox": "/x", "mtu": 1450}],
        "ips": [{"interface": 1, "address": "10.88.0.5/24", "gateway": "10.88.0.1"}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.88.0.1", "priority": 3}],
        "dns": {},
    },
    "cni.dev/valid-attachments": [{"containerID": "4f1c0de", "ifname": "eth0"}],
}
SMALL = {"cniVersion": "0.4.0", "name": "pods", "type": "netplane", "ipam": {"type": "host-local"}}
OLD = {"name": "pods", "prevResult": {"ip4": {"ip": "10.88.0.5/24", "routes": [{"dst": "0.0.0.0/0"}]}}}

# fmt: off
NASTY = [
    None, True, False, 0, 1, -1, 80, 4095, 65536, 2**31, 2**32, 2**63, 2**64, 10**300, 1e308, 0.5, -0.0, "", "0",
    "true", "x", "a" * 70_000, "\0", "\n", "ä", "\ud83d\ude00", "\u2028", "%d", "%s%n", "../../etc/passwd", "/", ".",
    "..", "eth0", "IFNAME", "netplane", "loopback", "host-local", "bridge", "routed", "0.1.0", "0.2.0", "0.3.1",
    "9.9.9", "10.0.0.0/8", "10.0.0.1/32", "0.0.0.0/0", "::/0", "fe80::1%eth0", "::ffff:10.0.0.1", "fd00::/127",
    "10.0.0.1", "255.255.255.255", "10.88.0.5/24", "010.0.0.1", "1.2.3.4/255.0.0.0", "01:00:5e:00:00:01",
    "0A:58:0A:58:00:09", [], {}, [[]], [{}], [None], ["x"], [1], [[{}]], {"": ""}, {"a": {"b": {"c": []}}},
    {"subnet": "10.0.0.0/24"}, [{"subnet": "10.0.0.0/24"}], [[{"subnet": "10.0.0.0/24"}, {"subnet": "fd00::/64"}]],
]
TOKENS = [
    b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\", b"\\u0000", b"\\ud800", b"\\udc00", b"\x00", b"\xff",
    b"\xc3\x28", b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"null", b"-", b"\xef\xbb\xbf", b"[" * 2000,
    b'{"a":' * 2000, b"\n", b"//",
]
WORDS = [
    "", "x", ".", "..", "/", "a b", "%", "eth%d", "\udcff", "a" * 300, "ADD", "NOPE", "add", "IP=", "IP=x", "MAC=x",
    ";", "=", "IgnoreUnknown=1", "IP=10.0.0.1,fd00::1", "a=b=c", "-x", "\0", "ö", "\u3000", ":", "::",
    "IgnoreUnknown=2;IP=10.0.0.1", "UNKNOWN=1",
]
# fmt: on


@dataclass(frozen=True)
class Input:
    """One request: the environment and standard input."""

    environment: dict[str, str]
    stdin: bytes


def inputs(seed: int, number: int) -> Iterator[Input]:
    """As many mutated requests, the same for the same seed."""
    chance = random.Random(seed)
    for _ in range(number):
        yield Input(_environment(chance), _stdin(chance))


def _environment(chance: random.Random) -> dict[str, str]:
    given = {"CNI_COMMAND": chance.choice(COMMANDS), **ENVIRONMENT}
    for _ in range(chance.choice((0, 0, 0, 1, 1, 3))):
        variable = chance.choice(list(given))
        match chance.randrange(4):
            case 0:
                del given[variable]
            case 1:
                given[variable] = chance.choice(WORDS)
            case 2:
                given[variable] += chance.choice(WORDS)
            case _:
                at = chance.randrange(len(given[variable]) + 1)
                given[variable] = given[variable][:at] + chance.choice(";=/: \udc80%aA0.") + given[variable][at + 1 :]
    return given


def _stdin(chance: random.Random) -> bytes:
    value = json.loads(json.dumps(chance.choice((FULL, FULL, FULL, SMALL, OLD))))
    for _ in range(chance.choice((0, 1, 1, 2, 4))):
        _change(chance, value)
    text = json.dumps(value, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
    for _ in range(chance.choice((0, 0, 0, 0, 1, 2))):
        text = _damage(chance, text)
    return text


def _change(chance: random.Random, value: object) -> None:
    """One part of the JSON, somewhere, is another now, is gone, has another name or is there twice."""
    parts = [each for each in _containers(value) if each]
    if not parts:
        return
    inside = chance.choice(parts)
    key = chance.choice(list(inside) if isinstance(inside, dict) else range(len(inside)))
    match chance.randrange(5):
        case 0 if isinstance(inside, dict):
            inside[_renamed(chance, key)] = inside.pop(key)
        case 1:
            del inside[key]
        case 2 if isinstance(inside, list):
            inside.append(inside[key])
        case 3:
            inside[key] = [inside[key]]
        case _:
            inside[key] = json.loads(json.dumps(chance.choice(NASTY)))


def _renamed(chance: random.Random, key: str) -> str:
    return chance.choice(
        (key.lower(), key.upper(), key.swapcase(), key + "s", "", "net." + key, chance.choice(list(FULL)))
    )


def _containers(value: object) -> Iterator[dict | list]:
    if isinstance(value, dict | list):
        yield value
        for each in value.values() if isinstance(value, dict) else value:
            yield from _containers(each)


def _damage(chance: random.Random, text: bytes) -> bytes:
    at = chance.randrange(len(text) + 1)
    match chance.randrange(5):
        case 0:
            return text[:at]
        case 1:
            return text[:at] + bytes([chance.randrange(256)]) + text[at + 1 :]
        case 2:
            return text[:at] + text[at + chance.randrange(40) :]
        case 3:
            return text[:at] + text[chance.randrange(len(text) + 1) :]
        case _:
            return text[:at] + chance.choice(TOKENS) + text[at:]


# --- what must hold ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(BATCHES))
def test_whatever_comes_is_decoded_or_refused_as_the_specification_says(seed):
    outcomes = {"refused": 0, "decoded": 0}
    for each in inputs(seed, max(1, INPUTS // BATCHES)):
        wrong = problems(each, outcomes)
        assert not wrong, f"seed {seed}: {wrong}\n{each.environment!r}\n{each.stdin!r}"
    assert min(outcomes.values()) > INPUTS // BATCHES // 10, f"the inputs are too much alike: {outcomes}"


def problems(given: Input, outcomes: dict[str, int]) -> list[str]:
    """What is wrong with how a request is read."""
    version = version_of(given.stdin)
    command = given.environment.get("CNI_COMMAND", "")
    try:
        asked = invocation(given.environment)
        config = network_config(given.stdin, asked, ALLOWED) if asked.command is not Command.VERSION else None
    except Failure as failure:
        outcomes["refused"] += 1
        stdout = json.dumps(failure.value(version)).encode()
        return conformance.of_output(command, 1, stdout, version)
    outcomes["decoded"] += 1
    return [] if config is None else [*of_config(config, asked), *of_previous(config)]


def of_config(config: NetworkConfig, asked: Invocation) -> Iterator[str]:
    """What every decoded configuration promises."""
    if config.name != config.raw["name"] or config.version not in conformance.VERSIONS:
        yield f"name or version: {config}"
    if not all(0 < port < 65536 for each in config.ports for port in (each.host_port, each.container_port)):
        yield f"ports: {config.ports}"
    if not all(name.startswith("net/") and ".." not in name.split("/") for name, _ in config.sysctls):
        yield f"sysctls: {config.sysctls}"
    if len(config.mac) not in (0, 6) or not 0 <= config.mtu <= 65535 or not 0 <= config.bridge.vlan <= 4094:
        yield f"mac, mtu or vlan: {config}"
    if (config.mode is Mode.CHAINED) and asked.command is not Command.ADD:
        yield "chained, but not an ADD"
    if config.ipam is not None:
        if "/" in config.ipam.type or not 0 <= config.ipam.quarantine < 2**31:
            yield f"ipam: {config.ipam}"
        for each in config.ipam.sets:
            first = next(ranges.addresses(each), None)
            if first is not None and not ranges.holds(each, first):
                yield f"{first} is not in {each}"
    json.dumps(config.raw, allow_nan=False).encode()


def of_previous(config: NetworkConfig) -> Iterator[str]:
    """A result that was read can be said in every version, and read again."""
    if config.previous is None:
        return
    interfaces = tuple(replace(each, mac="") for each in config.previous.interfaces)
    yield from of_result(replace(config.previous, interfaces=interfaces))


def of_result(result: Result) -> Iterator[str]:
    for version in conformance.VERSIONS:
        try:
            said = json.loads(json.dumps(result_json.encode(result, version)))
        except Failure as failure:
            if result.addresses:
                yield f"{version}: {failure}"
            continue
        yield from conformance.of_result(said, version)
        again = result_json.decode(said, version)
        if result_json.encode(again, version) != said:
            yield f"{version}: {said} came back as {again}"


@pytest.mark.parametrize("seed", range(BATCHES))
def test_every_result_is_said_and_read_again_in_every_version(seed):
    chance = random.Random(seed)
    for _ in range(max(1, INPUTS // BATCHES // 4)):
        result = some_result(chance)
        assert list(of_result(result)) == [], f"seed {seed}: {result}"
        assert result_json.decode(result_json.encode(result, "1.1.0"), "") == result


def some_result(chance: random.Random) -> Result:
    interfaces = tuple(
        Interface(
            chance.choice(("eth0", "cni0", "ö")),
            chance.choice(("", "0a:58:0a:58:00:05")),
            chance.choice(("", "/var/run/netns/x", "\u2028")),
            chance.choice((0, 68, 65535)),
            chance.choice(("", "/run/x")),
            chance.choice(("", "0000:00:1f.6")),
        )
        for _ in range(chance.randrange(4))
    )
    at = (None, *range(len(interfaces)))
    addresses = tuple(_some_address(chance, chance.choice(at)) for _ in range(chance.randrange(4)))
    routes = tuple(_some_route(chance) for _ in range(chance.randrange(4)))
    dns = Dns(
        *(
            chance.choice((empty, some))
            for empty, some in (((), ("10.96.0.10",)), ("", "a"), ((), ("b",)), ((), ("c",)))
        )
    )
    return Result(interfaces, addresses, routes, dns)


def _some_address(chance: random.Random, interface: int | None) -> ResultAddress:
    if chance.random() < 0.5:
        address = IPv4Interface((chance.getrandbits(32), chance.randrange(33)))
        return ResultAddress(address, chance.choice((None, ip_address(chance.getrandbits(31)))), interface)
    address = IPv6Interface((chance.getrandbits(128) | 1 << 127, chance.randrange(129)))
    return ResultAddress(address, chance.choice((None, ip_address("fe80::1"))), interface)


def _some_route(chance: random.Random) -> Route:
    to = ip_network(chance.choice(("0.0.0.0/0", "::/0", "10.0.0.0/8", "fd00::/64", "10.1.2.3/32")))
    via = chance.choice((None, ip_address("10.0.0.1" if to.version == 4 else "fe80::1")))
    small = (0, 1, 1400, 2**31 - 1)
    return Route(
        to,
        via,
        chance.choice(small),
        chance.choice(small),
        *(chance.choice((None, 0, 7, most)) for most in (2**32 - 1, 2**32 - 1, 255)),
    )
