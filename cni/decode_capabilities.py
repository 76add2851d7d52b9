"""What a runtime asks for one container: `runtimeConfig` (its capabilities), `args.cni`, and CNI_ARGS.

    "runtimeConfig": {"portMappings": [{"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""}]}

Keys are read whatever their case: containerd sends the names of Go's fields, the conventions document others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from cni.config import Bandwidth, PortMapping
from cni.decode_fields import Section, address_of
from cni.failure import Code, Failure
from cni.request import Invocation
from cni.result import Dns
from netplane.model.address import IPAddress, Protocol


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for one container, in the three places where it can be."""

    runtime: Section
    args: Section
    arguments: Mapping[str, str]

    @classmethod
    def of(cls, top: Section, invocation: Invocation) -> Self:
        """What a request asks. Raises Failure if a section is none."""
        runtime = Section(top.get("runtimeConfig"), "runtimeConfig", folded=True)
        args = Section(top.section("args").get("cni"), "args.cni", folded=True)
        return cls(runtime, args, invocation.arguments)


_PROTOCOLS = {"": Protocol.TCP} | {each.value.lower(): each for each in Protocol}
_LARGEST_PORT = 65535
_LARGEST_RATE = 2**64 - 1
_LARGEST_BURST = 8 * (2**32 - 1) + 7
"""In bit: the kernel counts a burst in bytes, in 32 bits. containerd asks for 2**32 - 1 where it means "any"."""
_MAC = re.compile(r"([0-9a-f]{2})([:-])(?:[0-9a-f]{2}\2){4}[0-9a-f]{2}|(?:[0-9a-f]{4}\.){2}[0-9a-f]{4}", re.IGNORECASE)


def ports(runtime: Section) -> tuple[PortMapping, ...]:
    """`portMappings`, each once, in the runtime's order. Raises Failure naming the key.

    A port that is not from 1 to 65535 is an error (the reference plugin's words for 0; runtimes leave such mappings
    out before). Two mappings of one host port must not differ.
    """
    found: dict[tuple[Protocol, int, IPAddress | None], PortMapping] = {}
    for section in runtime.sections("portMappings"):
        mapping = _mapping(section)
        at = (mapping.protocol, mapping.host_port, mapping.host_address)
        if found.setdefault(at, mapping) != mapping:
            why = f"is there twice, for container ports {found[at].container_port} and {mapping.container_port}"
            raise section.bad("hostPort", why)
    return tuple(found.values())


def bandwidth(section: Section) -> Bandwidth | None:
    """The limits a section names (the runtime's `bandwidth`, or the configuration itself, as in the reference plugin).

    None: no limit. Raises Failure naming the key.
    """
    limits = Bandwidth(*_limit(section, "ingress"), *_limit(section, "egress"))
    return limits if limits != Bandwidth() else None


def requested(asked: Asked) -> tuple[IPAddress, ...]:
    """Addresses of CNI_ARGS, `args.cni` and capability, in this order, each once; prefix lengths do not matter."""
    said = asked.arguments.get("IP", "")
    found = [_address(text, "CNI_ARGS: IP", Code.INVALID_ENVIRONMENT) for text in said.split(",") if said]
    for section in (asked.args, asked.runtime):
        found += (_address(text, section.name("ips"), section.code) for text in section.texts("ips"))
    return tuple(dict.fromkeys(found))


def mac(asked: Asked) -> bytes:
    """The address that was asked for, by capability, `args.cni` or CNI_ARGS, in this order; empty if none."""
    for section in (asked.runtime, asked.args):
        text = section.text("mac")
        if text:
            return _six_bytes(text, section.name("mac"), section.code)
    text = asked.arguments.get("MAC", "")
    return _six_bytes(text, "CNI_ARGS: MAC", Code.INVALID_ENVIRONMENT) if text else b""


def dns(top: Section, runtime: Section) -> Dns | None:
    """`dns` of the configuration, overridden by what the runtime says; None if neither says anything.

    An empty list is said: it takes away what IPAM would say, as in the reference plugins.
    """
    own, asked = top.section("dns"), runtime.section("dns")
    if not _says(own, "nameservers", "domain", "search", "options") and not _says(asked, *_ASKED.values()):
        return None
    several = {
        key: asked.texts(theirs) if asked.get(theirs) is not None else own.texts(key) for key, theirs in _ASKED.items()
    }
    return Dns(domain=own.text("domain"), **several)


_ASKED = {"nameservers": "servers", "search": "searches", "options": "options"}
"""Our words for DNS settings, and those of the capability."""


def _says(section: Section, *keys: str) -> bool:
    return any(section.get(key) not in (None, "") for key in keys)


def _mapping(section: Section) -> PortMapping:
    said = section.text("protocol")
    protocol = _PROTOCOLS.get(said.lower())
    if protocol is None:
        raise section.bad("protocol", "is none of tcp, udp and sctp")
    return PortMapping(
        protocol,
        _port(section, "hostPort"),
        _port(section, "containerPort"),
        section.address("hostIP"),
    )


def _port(section: Section, key: str) -> int:
    port = section.number(key, 1, _LARGEST_PORT)
    if port is None:
        raise section.bad(key, "is missing")
    return port


def _limit(section: Section, direction: str) -> tuple[int, int]:
    """Rate and burst: both or neither, as the reference plugin wants it."""
    rate = section.number(f"{direction}Rate", 0, _LARGEST_RATE) or 0
    burst = section.number(f"{direction}Burst", 0, _LARGEST_BURST) or 0
    if rate and not burst:
        raise section.bad(f"{direction}Rate", f"is set, so {direction}Burst must be too")
    if burst and not rate:
        raise section.bad(f"{direction}Burst", f"is set, so {direction}Rate must be too")
    return rate, burst


def _address(text: str, name: str, code: Code) -> IPAddress:
    found = address_of(text.partition("/")[0])
    if found is None:
        raise Failure(code, f"{name}: {text!r} is not an IP address")
    return found


def _six_bytes(text: str, name: str, code: Code) -> bytes:
    if not _MAC.fullmatch(text):
        raise Failure(code, f"{name}: {text!r} is not a MAC address: 0a:58:0a:58:00:05 is one")
    found = bytes.fromhex(re.sub(r"[:.\-]", "", text))
    if found[0] & 1 or not any(found):
        raise Failure(code, f"{name}: {text!r} is not the address of one interface")
    return found
