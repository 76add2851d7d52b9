"""Who gives addresses and from which ranges: `ipam` of the configuration, and what the runtime adds to it.

    "ipam": {"ranges": [[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd88::/64"}]], "routes": [{"dst": "0.0.0.0/0"}]}

As host-local reads it: the old style (`subnet` beside `type`) is a first set, and the runtime's `ipRanges` come before.
"""

from __future__ import annotations

import posixpath

from cni import ranges
from cni.config import OWN_IPAM, IpamOptions, Range, RangeSet
from cni.decode_fields import Section
from cni.failure import Failure
from cni.result import Dns, Route

_LARGEST = 2**31 - 1
_QUARANTINE = IpamOptions().quarantine
_BEFORE_SETS = ("0.1.0", "0.2.0")
"""Versions whose result has one address of each family."""
_PLAIN = {"dst", "gw"}
"""All that a route had before 1.1.0, and most have."""


def ipam_options(top: Section, runtime: Section | None = None) -> IpamOptions:
    """`ipam`, decoded. Of another plugin's only `type`: the rest is its business. Raises Failure naming the key."""
    ipam = top.section("ipam")
    type_ = ipam.text("type") or OWN_IPAM
    if type_ != OWN_IPAM:
        if "/" in type_ or "\0" in type_ or type_ in (".", ".."):
            raise ipam.bad("type", "is not the name of a plugin")
        return IpamOptions(type_)
    sets = _sets(ipam, runtime)
    if top.text("cniVersion") in ("", *_BEFORE_SETS) and _too_many(sets):
        said = "does not support more than 1 range per address family"
        raise Failure(ipam.code, f"ipam.ranges: CNI version {top.text('cniVersion') or '0.1.0'} {said}")
    return IpamOptions(
        sets=sets,
        node_ranges=ipam.flag("nodeRanges", default=not sets),
        routes=tuple(map(route, ipam.sections("routes"))),
        import_from=_folder(ipam, "importFrom"),
        quarantine=_seconds(ipam, "quarantine", _QUARANTINE),
        resolv_conf=_folder(ipam, "resolvConf"),
    )


def route(section: Section) -> Route:
    """A route of a configuration or a result (1.1.0: with mtu, advmss, priority, table and scope)."""
    to = section.network("dst")
    if to is None:
        raise section.bad("dst", "is missing")
    via = section.address("gw", to.version)
    if section.values.keys() <= _PLAIN:
        return Route(to, via)
    return Route(
        to,
        via,
        section.number("mtu", 0, _LARGEST) or 0,
        section.number("advmss", 0, _LARGEST) or 0,
        section.number("priority", 0, 2**32 - 1),
        section.number("table", 0, 2**32 - 1),
        section.number("scope", 0, 255),
    )


def resolv_conf(text: str) -> Dns:
    """A file like /etc/resolv.conf, as host-local's `resolvConf` reads it: the last `search` and `domain` count."""
    nameservers: list[str] = []
    options: list[str] = []
    search: tuple[str, ...] = ()
    domain = ""
    for line in text.splitlines():
        words = line.split()
        match words:
            case [first, *_] if first[0] in "#;":
                continue
            case ["nameserver", server, *_]:
                nameservers.append(server)
            case ["domain", domain, *_]:
                pass
            case ["search", *rest]:
                search = tuple(rest)
            case ["options", *rest]:
                options.extend(rest)
    return Dns(tuple(nameservers), domain, search, tuple(options))


def _sets(ipam: Section, runtime: Section | None) -> tuple[RangeSet, ...]:
    asked = tuple(_set(runtime, where, each) for where, each in runtime.items("ipRanges")) if runtime else ()
    old = (_range(ipam),) if ipam.get("subnet") is not None else ()
    new = tuple(_set(ipam, where, each) for where, each in ipam.items("ranges"))
    try:
        return ranges.checked((*asked, *((old,) if old else ()), *new))
    except Failure as failure:
        raise Failure(ipam.code, f"ipam.ranges: {failure.msg}", failure.details) from None


def _set(parent: Section, where: str, value: object) -> RangeSet:
    if not isinstance(value, list):
        raise Failure(parent.code, f"{where}: {value!r} is not a list of ranges", 'one is [{"subnet": "10.88.0.0/24"}]')
    inside = (Section(each, f"{where}[{at}]", folded=parent.folded) for at, each in enumerate(value))
    return tuple(map(_range, inside))


def _range(section: Section) -> Range:
    text = section.text("subnet")
    if not text:
        raise section.bad("subnet", "is missing")
    first, last = section.address("rangeStart"), section.address("rangeEnd")
    try:
        return ranges.range_of(ranges.subnet_of(text), first, last, section.address("gateway"))
    except Failure as failure:
        raise Failure(section.code, f"{section.name('subnet')}: {failure.msg}", failure.details) from None


def _too_many(sets: tuple[RangeSet, ...]) -> bool:
    families = [each[0].subnet.version for each in sets]
    return len(families) > len(set(families))


def _folder(section: Section, key: str) -> str:
    """An absolute path without `..`; "" if absent."""
    text = section.text(key)
    if text and (not text.startswith("/") or "\0" in text or ".." in text.split("/")):
        raise section.bad(key, "is not an absolute path")
    return posixpath.normpath(text) if text else ""


def _seconds(section: Section, key: str, default: float) -> float:
    value = section.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise section.bad(key, "is not a number of seconds")
    if not 0 <= value <= _LARGEST:
        raise section.bad(key, f"is not from 0 to {_LARGEST}")
    return float(value)
