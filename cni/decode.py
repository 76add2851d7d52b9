"""Standard input, decoded: one plugin's configuration with what the library and the runtime added to it.

    {"cniVersion": "1.0.0", "name": "pods", "type": "netplane",                      of the network list
     "mode": "bridge", "ipam": {"ranges": [[{"subnet": "10.88.0.0/24"}]]},           of the network list
     "runtimeConfig": {"portMappings": [...]}, "prevResult": {...}}                  of this request

docs/cni.md lists every option. `decode_fields` reads values, `decode_ipam`, `decode_capabilities` and `decode_sysctls`
know their parts. A key that nobody knows is passed over (libcni leaves some in); a reference plugin's key that changes
what happens to packets, and that we do not offer, is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeVar

from cni import decode_capabilities, result_json, versions
from cni.attachment import LINK_PREFIXES
from cni.config import BridgeOptions, IpamOptions, Mode, NetworkConfig
from cni.decode_capabilities import Asked
from cni.decode_fields import Section, document, interface_of, order
from cni.decode_ipam import ipam_options
from cni.decode_sysctls import sysctls
from cni.environment import is_name, link_name_fault
from cni.failure import Code, Failure
from cni.request import Command, Invocation
from cni.result import Result
from netplane.model.address import IPNetwork

OWN_TYPE = "netplane"
LOOPBACK_TYPE = "loopback"

_MODES = {each.value: each for each in (Mode.BRIDGE, Mode.ROUTED)}
_SMALLEST_MTU, _LARGEST_MTU = 68, 65535
_LARGEST_VLAN = 4094

NOT_OFFERED: dict[str, tuple[str, ...]] = {
    "macspoofchk": (),
    "vlanTrunk": (),
    "preserveDefaultVlan": (),
    "masqAll": (),
    "externalSetMarkChain": (),
    "conditionsV4": (),
    "conditionsV6": (),
    "unshapedSubnets": (),
    "shapedSubnets": (),
    "promisc": (),
    "allmulti": (),
    "txQLen": (),
    "ingressPolicy": ("open",),
}
"""Keys of the reference plugins (bridge, portmap, bandwidth, tuning, firewall) that we refuse, and harmless values.

Harmless everywhere are false, "false", 0, "", [] and {}. Accepted without effect are `ipMasqBackend`, `backend` and
`markMasqBit`: we masquerade by nftables sets, without marks."""

_TAKING_AWAY = (Command.DEL, Command.GC)

T = TypeVar("T")


def network_config(stdin: bytes, invocation: Invocation, allowed_sysctls: Sequence[re.Pattern[str]]) -> NetworkConfig:
    """The configuration of a request. Raises Failure, and nothing else, whatever the bytes are.

    Mode is CHAINED for an ADD that comes with a `prevResult`. CHECK and DEL always have one (the final result), so
    that their mode is what the configuration says: whether we made the interface is for the journal to say.

    For DEL and GC only name, version and type (and GC's list) must be right: mode, `ipam`, `synchronousDelete` and
    `prevResult` that cannot be read have their defaults, and nothing else is read. Taking away must not fail because
    somebody mistyped an option since.
    """
    top = Section(document(stdin), "")
    name = _name(top)
    version = _version(top)
    versions.allow(invocation.command, version)
    type_ = top.text("type") or OWN_TYPE
    if "/" in type_ or "\0" in type_:
        raise top.bad("type", "is not the name of a plugin")
    if invocation.command in _TAKING_AWAY:
        return _to_take_away(top, NetworkConfig(version, name, type_, raw=top.values), invocation)
    previous = _previous(top, version)
    if type_ == LOOPBACK_TYPE:
        return NetworkConfig(version, name, type_, Mode.LOOPBACK, ipam=None, previous=previous, raw=top.values)
    mode = _mode(top)
    if previous is not None and invocation.command is Command.ADD:
        mode = Mode.CHAINED
    start = NetworkConfig(version, name, type_, mode, previous=previous, raw=top.values)
    return _whole(top, start, invocation, allowed_sysctls)


def version_of(stdin: bytes) -> str:
    """The version to answer an error in: the configuration's if we speak it, else "0.1.0". Never raises."""
    try:
        version = _version(Section(document(stdin), ""))
    except Failure:
        return versions.OLDEST
    return version if version in versions.SUPPORTED else versions.OLDEST


def _whole(
    top: Section,
    start: NetworkConfig,
    invocation: Invocation,
    allowed_sysctls: Sequence[re.Pattern[str]],
) -> NetworkConfig:
    options = _options(_Told({key: value for key, value in top.values.items() if key not in _OF_A_REQUEST}))
    asked = Asked.of(top, invocation)
    return NetworkConfig(
        start.version,
        start.name,
        start.type,
        start.mode,
        options.bridge,
        options.mtu,
        options.default_route,
        options.masquerade,
        options.masquerade_not_to,
        options.snat,
        options.duplicate_address_detection,
        options.interface,
        options.synchronous_delete,
        decode_capabilities.mac(asked),
        None if start.mode is Mode.CHAINED else _ipam(top, options.ipam, asked),
        decode_capabilities.ports(asked.runtime),
        decode_capabilities.bandwidth(asked.runtime.section("bandwidth")) or options.bandwidth,
        sysctls(top, invocation, allowed_sysctls) if top.get("sysctl") else (),
        decode_capabilities.dns(top, asked.runtime),
        start.previous,
        raw=start.raw,
    )


_OF_A_REQUEST = frozenset({"runtimeConfig", "prevResult", "args", "sysctl"})
"""Keys that differ from request to request, and `sysctl`, which is read with the interface's name."""


class _Told:
    """The rest of a configuration, equal to another that says the same in the same order."""

    __slots__ = ("text", "values")

    def __init__(self, values: dict[str, Any]) -> None:
        self.values, self.text = values, repr(values)

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Told) and self.text == other.text


# All Pods of a node have the same: this is two thirds of the time it would take to decode each request whole.
@lru_cache(maxsize=32)
def _options(told: _Told) -> NetworkConfig:
    """What the network list alone says."""
    top = Section(told.values, "")
    _refuse_what_we_do_not_offer(top)
    bridge, default_route = _bridge(top)
    interface = not top.flag("disableContainerInterface", default=False)
    return NetworkConfig(
        "",
        "",
        "",
        bridge=bridge,
        mtu=_mtu(top),
        default_route=default_route,
        masquerade=top.flag("ipMasq", default=True),
        masquerade_not_to=_networks(top, "clusterRanges"),
        snat=top.flag("snat", default=True),
        duplicate_address_detection=top.flag("enabledad", default=False),
        interface=interface,
        synchronous_delete=top.flag("synchronousDelete", default=False),
        ipam=_ipam_if(top, interface),
        bandwidth=decode_capabilities.bandwidth(top),
    )


def _ipam_if(top: Section, interface: bool) -> IpamOptions | None:
    if interface:
        return ipam_options(top)
    if top.get("ipam"):
        raise top.bad("ipam", "cannot be combined with disableContainerInterface true")
    return None


def _ipam(top: Section, ipam: IpamOptions | None, asked: Asked) -> IpamOptions | None:
    """With what is asked for one container. Of another plugin's addresses that plugin is asked."""
    if ipam is None or ipam.delegated:
        return ipam
    if asked.runtime.get("ipRanges"):
        ipam = ipam_options(top, asked.runtime)
    wanted = decode_capabilities.requested(asked)
    return replace(ipam, requested=wanted) if wanted else ipam


def _to_take_away(top: Section, start: NetworkConfig, invocation: Invocation) -> NetworkConfig:
    loopback = start.type == LOOPBACK_TYPE
    return NetworkConfig(
        start.version,
        start.name,
        start.type,
        Mode.LOOPBACK if loopback else _or(Mode.BRIDGE, lambda: _mode(top)),
        synchronous_delete=_or(False, lambda: top.flag("synchronousDelete", default=False)),
        ipam=None if loopback else _or(IpamOptions(), lambda: ipam_options(top)),
        previous=_or(None, lambda: _previous(top, start.version)),
        valid_attachments=_valid(top) if invocation.command is Command.GC else None,
        raw=top.values,
    )


def _or(default: T, read: Callable[[], T]) -> T:
    try:
        return read()
    except Failure:
        return default


def _name(top: Section) -> str:
    name = top.text("name")
    if not name:
        raise Failure(Code.INVALID_CONFIG, "missing network name", "name is missing or empty")
    if not is_name(name):
        raise Failure(Code.INVALID_CONFIG, "invalid characters found in network name", f"name: {name!r}")
    return name


def _version(top: Section) -> str:
    """Absent means 0.1.0: the first version had no such key."""
    version = top.get("cniVersion")
    if version is not None and not isinstance(version, str):
        raise Failure(Code.DECODING_FAILURE, "cniVersion is not a string")
    return version or versions.OLDEST


def _mode(top: Section) -> Mode:
    text = top.text("mode")
    mode = _MODES.get(text) if text else Mode.BRIDGE
    if mode is None:
        raise top.bad("mode", f"is none of {', '.join(_MODES)}")
    return mode


def _bridge(top: Section) -> tuple[BridgeOptions, bool]:
    """The bridge's options, and whether the container gets a default route.

    `isDefaultGateway` implies `isGateway`; without it there is a default route if the bridge is a gateway.
    """
    hairpin_said = top.get("hairpinMode") is not None
    promiscuous = top.flag("promiscMode", default=False)
    hairpin = top.flag("hairpinMode", default=not promiscuous)
    if hairpin and promiscuous and hairpin_said:
        raise top.bad("hairpinMode", "cannot be combined with promiscMode true")
    default_said = top.flag("isDefaultGateway", default=False)
    gateway = top.flag("isGateway", default=True) or default_said
    options = BridgeOptions(
        _bridge_name(top),
        hairpin,
        top.flag("portIsolation", default=False),
        promiscuous,
        top.number("vlan", 0, _LARGEST_VLAN) or 0,
        gateway,
        top.flag("forceAddress", default=False),
    )
    return options, top.flag("isDefaultGateway", default=gateway)


def _bridge_name(top: Section) -> str:
    name = top.text("bridge")
    if not name:
        return BridgeOptions().name
    fault, _ = link_name_fault(name)
    if fault:
        raise top.bad("bridge", f"cannot be a link: {fault}")
    if name.startswith(tuple(LINK_PREFIXES.values())):
        raise top.bad("bridge", "begins like the links of containers")
    return name


def _mtu(top: Section) -> int:
    mtu = top.number("mtu", 0, _LARGEST_MTU) or 0
    if 0 < mtu < _SMALLEST_MTU:
        raise top.bad("mtu", f"is less than the {_SMALLEST_MTU} bytes that IPv4 needs")
    return mtu


def _networks(top: Section, key: str) -> tuple[IPNetwork, ...]:
    found: dict[IPNetwork, None] = {}
    for text in top.texts(key):
        interface = interface_of(text)
        if interface is None:
            raise Failure(top.code, f"{key}: {text!r} is not a network: 10.88.0.0/16 is one")
        found[interface.network] = None
    return tuple(sorted(found, key=order))


def _previous(top: Section, version: str) -> Result | None:
    value = top.get("prevResult")
    return None if value is None else result_json.decode(value, version, "prevResult")


def _valid(top: Section) -> frozenset[tuple[str, str]] | None:
    """GC's list; None if it is missing or null: a runtime that says nothing does not say that nothing is valid."""
    # The second is what libcni called it at first, and still sends.
    for key in ("cni.dev/valid-attachments", "cni.dev/attachments"):
        if top.get(key) is not None:
            sections = (Section(each, where, folded=True) for where, each in top.items(key))
            return frozenset(_attachment(section) for section in sections)
    return None


def _attachment(section: Section) -> tuple[str, str]:
    container, ifname = section.text("containerID"), section.text("ifname")
    if not container:
        raise section.bad("containerID", "is missing")
    if not ifname:
        raise section.bad("ifname", "is missing")
    return container, ifname


def _refuse_what_we_do_not_offer(top: Section) -> None:
    for key in NOT_OFFERED.keys() & top.values.keys():
        value = top.get(key)
        if value and value != "false" and value not in NOT_OFFERED[key]:
            raise Failure(
                Code.UNSUPPORTED_FIELD,
                top.bad(key, "is not supported").msg,
                f"take {key} out of the configuration; docs/cni.md lists what there is instead",
            )
