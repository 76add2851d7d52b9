"""The result of ADD as JSON, in every version of the specification, in and out.

    0.1.0, 0.2.0         {"ip4": {"ip", "gateway", "routes"}, "ip6": {...}, "dns"}      one address of each family
    0.3.0, 0.3.1, 0.4.0  {"interfaces", "ips": [{"version": "4", ...}], "routes", "dns"}
    1.0.0                without ips[].version
    1.1.0                with interfaces[].mtu, socketPath, pciID and routes[].mtu, advmss, priority, table, scope

What is empty is left out, as the reference library does; keys are read whatever their case, as it does too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from cni import versions
from cni.decode_fields import Section
from cni.decode_ipam import route
from cni.failure import Code, Failure
from cni.result import Dns, Interface, Result, ResultAddress, Route

_BY_FAMILY = frozenset({"0.1.0", "0.2.0"})
_WITH_ADDRESS_VERSION = frozenset({"0.3.0", "0.3.1", "0.4.0"})
_LARGEST = 2**31 - 1


def encode(result: Result, version: str) -> dict[str, Any]:
    """The result as the runtime reads it, for JSON: what the version cannot say is left out.

    Raises Failure(INCOMPATIBLE_VERSION) for an unknown version, and for 0.1.0 and 0.2.0 if there is no address.
    """
    if version not in versions.SUPPORTED:
        raise Failure(Code.INCOMPATIBLE_VERSION, f'unsupported CNI result version "{version}"')
    if version in _BY_FAMILY:
        return _encoded_by_family(result, version)
    extras = version == versions.NEWEST
    said: dict[str, Any] = {"cniVersion": version}
    if result.interfaces:
        said["interfaces"] = [_encoded_interface(each, extras=extras) for each in result.interfaces]
    if result.addresses:
        numbered = version in _WITH_ADDRESS_VERSION
        said["ips"] = [_encoded_address(each, numbered=numbered) for each in result.addresses]
    if result.routes:
        said["routes"] = [_encoded_route(each, extras=extras) for each in result.routes]
    return said | _encoded_dns(result.dns)


def decode(value: object, version: str, where: str = "result") -> Result:
    """A result of a plugin, or a prevResult, in the version it names, or else in `version`.

    An interface index that points to no interface is as good as none. Raises Failure(DECODING_FAILURE), naming
    `where` and the key, or Failure(INCOMPATIBLE_VERSION).
    """
    section = Section(value, where, Code.DECODING_FAILURE, folded=True)
    said = section.text("cniVersion") or version
    if said not in versions.SUPPORTED:
        raise Failure(Code.INCOMPATIBLE_VERSION, f'unsupported CNI result version "{said}"', where)
    if said in _BY_FAMILY:
        return _decoded_by_family(section)
    interfaces = tuple(map(_decoded_interface, section.sections("interfaces")))
    addresses = tuple(_decoded_address(each, len(interfaces)) for each in section.sections("ips"))
    return Result(interfaces, addresses, tuple(map(route, section.sections("routes"))), _decoded_dns(section))


# --- out --------------------------------------------------------------------------------------------------------------


def _encoded_by_family(result: Result, version: str) -> dict[str, Any]:
    said: dict[str, Any] = {"cniVersion": version}
    for family in (4, 6):
        first = next((each for each in result.addresses if each.address.version == family), None)
        if first is None:
            continue
        one = said[f"ip{family}"] = {"ip": str(first.address)}
        if first.gateway is not None:
            one["gateway"] = str(first.gateway)
        routes = [_encoded_route(each, extras=False) for each in result.routes if each.to.version == family]
        if routes:
            said[f"ip{family}"]["routes"] = routes
    if len(said) == 1:
        raise Failure(Code.INCOMPATIBLE_VERSION, "cannot convert: no valid IP addresses", f"to version {version}")
    return said | _encoded_dns(result.dns)


def _encoded_interface(interface: Interface, *, extras: bool) -> dict[str, Any]:
    said: dict[str, Any] = {"name": interface.name}
    if interface.mac:
        said["mac"] = interface.mac
    if interface.sandbox:
        said["sandbox"] = interface.sandbox
    if extras:
        more = (("mtu", interface.mtu), ("socketPath", interface.socket_path), ("pciID", interface.pci_id))
        said.update((key, value) for key, value in more if value)
    return said


def _encoded_address(address: ResultAddress, *, numbered: bool) -> dict[str, Any]:
    said: dict[str, Any] = {"version": str(address.address.version)} if numbered else {}
    if address.interface is not None:
        said["interface"] = address.interface
    said["address"] = str(address.address)
    if address.gateway is not None:
        said["gateway"] = str(address.gateway)
    return said


def _encoded_route(route: Route, *, extras: bool) -> dict[str, Any]:
    said: dict[str, Any] = {"dst": str(route.to)}
    if route.via is not None:
        said["gw"] = str(route.via)
    if extras:
        said.update(_present(route))
    return said


def _present(route: Route) -> Iterator[tuple[str, int]]:
    for key, size in (("mtu", route.mtu), ("advmss", route.advertised_mss)):
        if size:
            yield key, size
    for key, value in (("priority", route.priority), ("table", route.table), ("scope", route.scope)):
        if value is not None:
            yield key, value


def _encoded_dns(dns: Dns) -> dict[str, Any]:
    several: Iterable[tuple[str, Any]] = (
        ("nameservers", list(dns.nameservers)),
        ("domain", dns.domain),
        ("search", list(dns.search)),
        ("options", list(dns.options)),
    )
    said = {key: value for key, value in several if value}
    return {"dns": said} if said else {}


# --- in ---------------------------------------------------------------------------------------------------------------


def _decoded_by_family(section: Section) -> Result:
    addresses: list[ResultAddress] = []
    routes: list[Route] = []
    for family, key in ((4, "ip4"), (6, "ip6")):
        if section.get(key) is None:
            continue
        one = section.section(key)
        address = one.interface("ip")
        if address.version != family:
            raise one.bad("ip", f"is not an IPv{family} address")
        addresses.append(ResultAddress(address, one.address("gateway", family)))
        routes.extend(map(route, one.sections("routes")))
    return Result((), tuple(addresses), tuple(routes), _decoded_dns(section))


def _decoded_interface(section: Section) -> Interface:
    return Interface(
        section.text("name"),
        section.text("mac"),
        section.text("sandbox"),
        section.number("mtu", 0, _LARGEST) or 0,
        section.text("socketPath"),
        section.text("pciID"),
    )


def _decoded_address(section: Section, interfaces: int) -> ResultAddress:
    at = section.number("interface", -_LARGEST, _LARGEST)
    inside = at is not None and 0 <= at < interfaces
    address = section.interface("address")
    return ResultAddress(address, section.address("gateway", address.version), at if inside else None)


def _decoded_dns(section: Section) -> Dns:
    dns = section.section("dns")
    return Dns(dns.texts("nameservers"), dns.text("domain"), dns.texts("search"), dns.texts("options"))
