"""Whether what a plugin prints is what the CNI specification says, version by version. Written from its text
(SPEC.md of 0.2.0, 0.3.1, 0.4.0, 1.0.0 and 1.1.0), not from our encoder: it imports nothing of ours.

Each function returns what is wrong, in words; an empty list is conformance.
"""

from __future__ import annotations

import json
import re
from ipaddress import ip_address, ip_interface, ip_network

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
WELL_KNOWN = {1, 2, 3, 4, 5, 6, 7, 11, 50, 51}  # "Error codes 0-99 are reserved for well-known errors"
OF_THE_LIBRARY = {8, 999}  # containernetworking/cni pkg/types: ErrInvalidNetNS, ErrInternal
STATUS_ONLY = {50, 51}

OF_INTERFACE = {"name": str, "mac": str, "sandbox": str}
OF_INTERFACE_1_1 = {"mtu": int, "socketPath": str, "pciID": str}
OF_ROUTE = {"dst": str, "gw": str}
OF_ROUTE_1_1 = {"mtu": int, "advmss": int, "priority": int, "table": int, "scope": int}
OF_DNS = {"nameservers": list, "domain": str, "search": list, "options": list}


def of_output(command: str, code: int, stdout: bytes, version: str, ifname: str = "") -> list[str]:
    """What a finished plugin said: exit code and standard output."""
    if code != 0:
        value, wrong = _json(stdout)
        return wrong or of_error(value, command)
    if command == "ADD":
        value, wrong = _json(stdout)
        return wrong or of_result(value, version, ifname)
    if command == "VERSION":
        value, wrong = _json(stdout)
        return wrong or of_version_answer(value)
    return [f"{command} succeeded and printed {stdout[:80]!r}"] if stdout.strip() else []


def of_error(value: object, command: str = "") -> list[str]:
    """SPEC "Error": cniVersion, code, msg; details may be there."""
    if not isinstance(value, dict):
        return [f"an error is an object, not {value!r}"]
    wrong = _keys(value, {"cniVersion": str, "code": int, "msg": str, "details": str}, "error", needed=("code", "msg"))
    code = value.get("code")
    if isinstance(code, int) and code < 100 and code not in WELL_KNOWN | OF_THE_LIBRARY:
        wrong.append(f"error code {code} is reserved and not assigned")
    if code in STATUS_ONLY and command not in ("", "STATUS"):
        wrong.append(f"error code {code} is for STATUS, not {command}")
    if not value.get("msg"):
        wrong.append("msg is empty")
    if "cniVersion" in value and value["cniVersion"] not in VERSIONS:
        wrong.append(f"cniVersion {value['cniVersion']!r} is no version")
    return wrong + _speakable(value)


def of_version_answer(value: object) -> list[str]:
    """SPEC "VERSION": the version of the answer, and all that are supported."""
    if not isinstance(value, dict):
        return [f"the answer to VERSION is an object, not {value!r}"]
    wrong = _keys(value, {"cniVersion": str, "supportedVersions": list}, "answer", needed=("cniVersion",))
    supported = value.get("supportedVersions")
    if not isinstance(supported, list) or not supported or not all(each in VERSIONS for each in supported):
        wrong.append(f"supportedVersions: {supported!r}")
    elif value.get("cniVersion") not in supported:
        wrong.append("cniVersion is not among supportedVersions")
    return wrong


def of_result(value: object, version: str, ifname: str = "", *, ipam: bool = False) -> list[str]:
    """The success result of ADD for a configuration of `version`; `ifname` must then be among its interfaces.

    `ipam`: that of an IPAM plugin, "abbreviated": without interfaces, and without references to one.
    """
    if not isinstance(value, dict):
        return [f"a result is an object, not {value!r}"]
    wrong = [] if value.get("cniVersion") == version else [f"cniVersion {value.get('cniVersion')!r}, not {version}"]
    if version in ("0.1.0", "0.2.0"):
        wrong += _by_family(value)
    else:
        wrong += _by_list(value, version, ipam)
        names = [each.get("name") for each in value.get("interfaces", []) if isinstance(each, dict)]
        if ifname and ifname not in names:
            wrong.append(f"no interface {ifname} among {names}")
    return wrong + _dns(value) + _speakable(value)


# --- parts ------------------------------------------------------------------------------------------------------------


def _by_family(value: dict) -> list[str]:
    wrong = _unknown(value, {"cniVersion", "ip4", "ip6", "dns"}, "result")
    if not value.keys() & {"ip4", "ip6"}:
        wrong.append("a result has ip4 or ip6")
    for key, family in (("ip4", 4), ("ip6", 6)):
        if key not in value:
            continue
        one = value[key]
        if not isinstance(one, dict):
            wrong.append(f"{key} is not an object")
            continue
        wrong += _keys(one, {"ip": str, "gateway": str, "routes": list}, key, needed=("ip",))
        wrong += _cidr(one.get("ip"), f"{key}.ip", family)
        wrong += _address(one.get("gateway"), f"{key}.gateway", family) if "gateway" in one else []
        for at, route in enumerate(one.get("routes", [])):
            wrong += _route(route, f"{key}.routes[{at}]", OF_ROUTE, family)
    return wrong


def _by_list(value: dict, version: str, ipam: bool) -> list[str]:
    wrong = _unknown(value, {"cniVersion", "interfaces", "ips", "routes", "dns"}, "result")
    for key in ("interfaces", "ips", "routes"):
        if key in value and not isinstance(value[key], list):
            return [*wrong, f"{key} is not a list"]
    interfaces = value.get("interfaces", [])
    if ipam and interfaces:
        wrong.append("an IPAM plugin's result has no interfaces")
    of_interface = OF_INTERFACE | (OF_INTERFACE_1_1 if version == "1.1.0" else {})
    of_route = OF_ROUTE | (OF_ROUTE_1_1 if version == "1.1.0" else {})
    for at, each in enumerate(interfaces):
        wrong += _interface(each, f"interfaces[{at}]", of_interface)
    for at, each in enumerate(value.get("ips", [])):
        wrong += _ip(each, f"ips[{at}]", version, len(interfaces))
    for at, each in enumerate(value.get("routes", [])):
        wrong += _route(each, f"routes[{at}]", of_route)
    return wrong


def _interface(value: object, where: str, known: dict) -> list[str]:
    if not isinstance(value, dict):
        return [f"{where} is not an object"]
    wrong = _keys(value, known, where, needed=("name",))
    if "mac" in value and not re.fullmatch(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", str(value["mac"])):
        wrong.append(f"{where}.mac: {value['mac']!r}")
    return wrong


def _ip(value: object, where: str, version: str, interfaces: int) -> list[str]:
    if not isinstance(value, dict):
        return [f"{where} is not an object"]
    known = {"address": str, "gateway": str, "interface": int}
    numbered = version in ("0.3.0", "0.3.1", "0.4.0")
    wrong = _keys(
        value,
        known | ({"version": str} if numbered else {}),
        where,
        needed=("address", "version") if numbered else ("address",),
    )
    family = int(value["version"]) if numbered and value.get("version") in ("4", "6") else None
    if numbered and family is None:
        wrong.append(f'{where}.version is "4" or "6", not {value.get("version")!r}')
    wrong += _cidr(value.get("address"), f"{where}.address", family)
    wrong += _address(value.get("gateway"), f"{where}.gateway", family) if "gateway" in value else []
    at = value.get("interface")
    if at is not None and not (isinstance(at, int) and 0 <= at < interfaces):
        wrong.append(f"{where}.interface: {at!r} of {interfaces}")
    return wrong


def _route(value: object, where: str, known: dict, family: int | None = None) -> list[str]:
    if not isinstance(value, dict):
        return [f"{where} is not an object"]
    wrong = _keys(value, known, where, needed=("dst",))
    try:
        to = ip_network(value.get("dst"))
    except (ValueError, TypeError):
        return [*wrong, f"{where}.dst: {value.get('dst')!r}"]
    if family not in (None, to.version):
        wrong.append(f"{where}.dst is of another family: {to}")
    return wrong + (_address(value["gw"], f"{where}.gw", to.version) if "gw" in value else [])


def _dns(value: dict) -> list[str]:
    dns = value.get("dns", {})
    if not isinstance(dns, dict):
        return ["dns is not an object"]
    wrong = _keys(dns, OF_DNS, "dns", needed=())
    return wrong + [
        f"dns.{key} is not a list of strings"
        for key in ("nameservers", "search", "options")
        if not all(isinstance(each, str) for each in dns.get(key, []))
    ]


def _cidr(value: object, where: str, family: int | None) -> list[str]:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f:.]+/[0-9]+", value):
        return [f"{where}: {value!r} is not in CIDR notation"]
    try:
        found = ip_interface(value)
    except ValueError as error:
        return [f"{where}: {error}"]
    return [] if family in (None, found.version) else [f"{where}: {value} is not IPv{family}"]


def _address(value: object, where: str, family: int | None) -> list[str]:
    try:
        found = ip_address(str(value))
    except ValueError as error:
        return [f"{where}: {error}"]
    return [] if family in (None, found.version) else [f"{where}: {value} is not IPv{family}"]


def _keys(value: dict, known: dict, where: str, needed: tuple[str, ...]) -> list[str]:
    wrong = _unknown(value, set(known), where)
    wrong += [f"{where}.{key} is missing" for key in needed if key not in value]
    return wrong + [
        f"{where}.{key}: {each!r} is not {known[key].__name__}"
        for key, each in value.items()
        if key in known and (not isinstance(each, known[key]) or isinstance(each, bool))
    ]


def _unknown(value: dict, known: set[str], where: str) -> list[str]:
    return [f"{where}.{key} is not in the specification" for key in value if key not in known]


def _speakable(value: object) -> list[str]:
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, TypeError) as error:
        return [f"not JSON: {error}"]
    return []


def _json(stdout: bytes) -> tuple[object, list[str]]:
    try:
        return json.loads(stdout.decode()), []
    except ValueError as error:
        return None, [f"standard output is not JSON: {error}: {stdout[:80]!r}"]
