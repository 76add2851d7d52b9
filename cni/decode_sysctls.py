"""Kernel parameters to set inside the container: `sysctl`, as in the reference plugin `tuning`.

    "sysctl": {"net.ipv4.conf.IFNAME.arp_notify": "1", "net/ipv4/ip_unprivileged_port_start": "0"}

As with sysctl(8) the first separator decides: after a dot, dots separate and slashes stand for dots within a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from cni.decode_fields import Section
from cni.failure import Code, Failure
from cni.request import Invocation

PLACEHOLDER = "IFNAME"
"""What stands for the name of the container's interface."""
_LONGEST_VALUE = 1024
_SEGMENT = re.compile(r"[^/\s\0]+")
_SWAPPED = str.maketrans("./", "/.")


def sysctls(top: Section, invocation: Invocation, allowed: Sequence[re.Pattern[str]]) -> tuple[tuple[str, str], ...]:
    """Names (`net/...`, IFNAME replaced) and values, in the order of the configuration. Raises Failure naming the key.

    Only `net/` and only what one of `allowed` matches entirely, spelled with slashes or dots, with or without IFNAME
    for the interface. Nothing twice, however it is spelled.
    """
    section = top.section("sysctl")
    found: dict[str, str] = {}
    for key in section.values:
        name = _name(section, key)
        if not any(pattern.fullmatch(each) for each in _spellings(name, invocation.ifname) for pattern in allowed):
            raise section.bad(key, "is refused: the name is not on the allow-list")
        path = "/".join(invocation.ifname or PLACEHOLDER if each == PLACEHOLDER else each for each in name.split("/"))
        if path in found:
            raise section.bad(key, f"is there twice: {path}")
        found[path] = _value(section, key)
    return tuple(found.items())


def _name(section: Section, key: str) -> str:
    """The parameter as a path below /proc/sys."""
    first = next((each for each in key if each in "./"), "/")
    name = key.translate(_SWAPPED) if first == "." else key
    parts = name.split("/")
    if parts[0] != "net" or len(parts) < 2:
        raise section.bad(key, "is refused: the name does not begin with net.")
    if any(each in (".", "..") or not _SEGMENT.fullmatch(each) for each in parts):
        raise section.bad(key, "is refused: the name is not that of a parameter")
    return name


def _spellings(name: str, ifname: str) -> Iterator[str]:
    """How an allow-list may call it."""
    written = name.split("/")
    meant = [PLACEHOLDER if each == ifname else each for each in written]
    for parts in (written, meant):
        yield "/".join(parts)
        yield "/".join(parts).translate(_SWAPPED)


def _value(section: Section, key: str) -> str:
    value = section.text(key)
    if not value or len(value) > _LONGEST_VALUE or any(each < " " and each != "\t" for each in value):
        raise Failure(Code.INVALID_CONFIG, f"{section.name(key)}: {value[:80]!r} is not a value for a parameter")
    return value
