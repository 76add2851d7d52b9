"""Words -> NetworkSettings: `--network`, its YAML file, and `network:` of a case say the same things.

mode: cross-subnet
cluster-ranges: [10.244.0.0/16, "fd00:244::/48"]
vxlan: {port: 4790}
load-balancers: {pools: [203.0.113.16/28, 203.0.113.40-203.0.113.50], announce: neighbours}
"""

from __future__ import annotations

import difflib
import stat
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import msgspec

from netplane.errors import InputError, one_line
from netplane.model.address import IPAddress, IPNetwork
from netplane.plan.network_settings import (
    LARGEST_MTU,
    SMALLEST_MTU,
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
from netplane.sources import fields
from netplane.sources.documents import BadText, Doubled, documents_of
from netplane.sources.fields import Bad

_Made = TypeVar("_Made")
_Word = TypeVar("_Word", bound=Enum)
_Reader = Callable[[object, str], object]

_LARGEST_FILE = 1 << 20
_LONGEST_LIST = 1000
_MODES = ", ".join(mode.value for mode in Mode)
_RESERVED_AS = {0: "RFC 7607", 23456: "RFC 6793", 65535: "RFC 7300", 4294967295: "RFC 7300"}


def read_network_settings(path_or_word: str) -> NetworkSettings:
    """The settings that a mode word, or else the YAML or JSON file of that name, says.

    Raises InputError that names the file, the field, and what to write there.
    """
    if path_or_word in {mode.value for mode in Mode}:
        return NetworkSettings(Mode(path_or_word))
    if not path_or_word:
        raise InputError(f"network: is empty; write {_MODES}, or the path of a file")
    shown = one_line(path_or_word, 120)
    try:
        return network_settings(_document(Path(path_or_word)), where=shown)
    except OSError as error:
        near = difflib.get_close_matches(path_or_word, [mode.value for mode in Mode], 1)
        hint = f"; did you mean {near[0]}?" if near else f"; write {_MODES}, or the path of a file"
        raise InputError(f"network {shown}: is no mode, and as a file: {error.strerror or error}{hint}") from None
    except ValueError:  # a NUL in the name
        raise InputError(f"network {shown}: is neither a mode nor a file; write {_MODES}, or a path") from None


def network_settings(value: object, where: str = "network") -> NetworkSettings:
    """The settings that `value` says: a mode word, or a mapping with `mode`. Errors begin with `where`.

    Raises InputError that names the field and what to write there.
    """
    try:
        if isinstance(value, str):
            return NetworkSettings(_mode(value, "mode"))
        settings = _object(NetworkSettings, _SETTINGS, ("mode",))(value, "")
        _check(settings)
    except Bad as bad:
        raise InputError(one_line(f"{where}: {bad.field}: {bad.why}" if bad.field else f"{where}: {bad.why}")) from None
    return settings


def _document(path: Path) -> object:
    """The one document of a file, as plain values. Raises InputError, or OSError if it cannot be read."""
    shown = one_line(str(path), 120)
    if not stat.S_ISREG(path.stat().st_mode):
        raise InputError(f"{shown}: is no ordinary file; write one with `mode: ...`")
    with path.open("rb") as file:
        content = file.read(_LARGEST_FILE + 1)
    if len(content) > _LARGEST_FILE:
        raise InputError(f"{shown}: has more than {_LARGEST_FILE} bytes; is it another file?")
    documents = list(documents_of(path.name, content))
    if len(documents) != 1:
        raise InputError(f"{shown}: holds {len(documents)} documents; write one, with `mode: ...`")
    value = documents[0].value
    if isinstance(value, BadText):
        raise InputError(one_line(f"{shown}: {f'line {value.line}: ' if value.line else ''}{value.why}"))
    try:
        return msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value
    except msgspec.DecodeError as error:
        raise InputError(one_line(f"{shown}: is not JSON: {error}; correct it")) from None


# --- values -----------------------------------------------------------------------------------------------------------


def _shown(value: object) -> str:
    """`value` for a message, whatever it is."""
    try:
        return fields.shown(value)
    except (ValueError, RecursionError):  # a number with more digits than Python prints, or something inside itself
        return f"this {type(value).__name__}"


def _word(default: _Word) -> Callable[[object, str], _Word]:
    """A reader of the words of `default`'s kind."""
    words = [str(each.value) for each in type(default)]

    def read(value: object, field: str) -> _Word:
        if isinstance(value, str) and value in words:
            return type(default)(value)
        near = difflib.get_close_matches(value, words, 1) if isinstance(value, str) and len(value) < 80 else []
        hint = f"did you mean {near[0]}?" if near else f"write one of {', '.join(words)}"
        raise Bad(field, f"{_shown(value)} is not known; {hint}")

    return read


_mode = _word(Mode.VXLAN)


def _yes_or_no(value: object, field: str) -> bool:
    if not isinstance(value, bool):
        raise Bad(field, f"{_shown(value)} is not known; write true or false")
    return value


def _number(low: int, high: int, or_zero: str = "") -> Callable[[object, str], int]:
    """A reader of whole numbers from `low` to `high`, and of 0 if there is something for it to mean."""
    rule = f"write a whole number from {low} to {high}" + (f", or 0 for {or_zero}" if or_zero else "")

    def read(value: object, field: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise Bad(field, f"{_shown(value)} is no whole number; {rule}")
        if not (low <= value <= high or (or_zero and value == 0)):
            raise Bad(field, f"{_shown(value)} is out of range; {rule}")
        return value

    return read


def _system(value: object, field: str) -> int:
    """The number of an autonomous system."""
    number = _number(1, (1 << 32) - 2)(value, field)
    if number in _RESERVED_AS:
        raise Bad(field, f"{number} is nobody's ({_RESERVED_AS[number]}); write a private one, like 64512")
    return number


def _text(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise Bad(field, f"{_shown(value)} is no string; put it in quotes")
    return value


def _address(value: object, field: str) -> IPAddress:
    return fields.address(_text(value, field).strip(), field)


def _file(value: object, field: str) -> str:
    """An absolute path that can be shown."""
    path = _text(value, field)
    if not path.startswith("/") or not path.isprintable() or len(path.encode(errors="replace")) > 4000:
        raise Bad(field, f"{_shown(path)} is not the path of a file; write an absolute one, of printable characters")
    return path


def _listed(value: object, field: str) -> list[object]:
    """A list, or words with commas between."""
    entries = value.split(",") if isinstance(value, str) else value
    if not isinstance(entries, list | tuple):
        raise Bad(field, f"{_shown(value)} is no list; write one, in brackets")
    if len(entries) > _LONGEST_LIST:
        raise Bad(field, f"has {len(entries)} entries; write at most {_LONGEST_LIST}")
    return list(entries)


def _networks(value: object, field: str) -> tuple[IPNetwork, ...]:
    read = (fields.network(_text(text, at).strip(), at) for at, text in fields.each(_listed(value, field), field))
    return tuple(dict.fromkeys(read))


def _cluster_ranges(value: object, field: str) -> tuple[IPNetwork, ...]:
    """What is for Pods only."""
    networks = _networks(value, field)
    for network in networks:
        if network.prefixlen == 0 or network.is_multicast or network.is_loopback:
            raise Bad(field, f"{network} holds more than Pods; write what Pod ranges come out of")
    return networks


def _labels(value: object, field: str) -> tuple[tuple[str, str], ...]:
    """Labels that a Node must have, all of them."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise Bad(field, f"{_shown(value)} is no mapping; write labels a Node must have, like {{rack: a}}")
    if isinstance(value, Doubled):
        raise Bad(f"{field}.{value.key}", "is written twice; remove one")
    return tuple(sorted(fields.labels(value, field)))


def _pools(value: object, field: str) -> tuple[tuple[IPAddress, IPAddress], ...]:
    """First and last address of each, in the order they are written: none in two."""
    pools = [(at, _pool(_text(text, at).strip(), at)) for at, text in fields.each(_listed(value, field), field)]
    ordered = sorted(pools, key=lambda pool: (pool[1][0].version, int(pool[1][0])))
    for (at, one), (_, other) in pairwise(ordered):
        if one[0].version == other[0].version and int(other[0]) <= int(one[1]):
            raise Bad(at, f"overlaps {other[0]}-{other[1]}; write each address into one pool")
    return tuple(pool for _, pool in pools)


def _pool(text: str, field: str) -> tuple[IPAddress, IPAddress]:
    """CIDR, or FIRST-LAST."""
    if "-" not in text:
        network = fields.network(text, field)
        first, last = fields.address(str(network[0]), field), fields.address(str(network[-1]), field)
        return first, last
    low, _, high = text.partition("-")
    first, last = fields.address(low.strip(), field), fields.address(high.strip(), field)
    if first.version != last.version or int(first) > int(last):
        raise Bad(field, f"{_shown(text)} ends before it begins; write FIRST-LAST of one family, or a CIDR")
    return first, last


def _object(
    make: Callable[..., _Made], readers: Mapping[str, _Reader], needed: Iterable[str] = ()
) -> Callable[[object, str], _Made]:
    """A reader of mappings with these keys: dashes in them are underscores in the names of fields."""

    def read(value: object, field: str) -> _Made:
        if not isinstance(value, Mapping):
            raise Bad(field, f"{_shown(value)} is no mapping; write one with {', '.join(readers)}")
        if isinstance(value, Doubled):
            raise Bad(_path(field, value.key), "is written twice; remove one")
        for key in value:
            if key not in readers:
                raise Bad(
                    _path(field, one_line(key, 48) if isinstance(key, str) else _shown(key)), _unknown(key, readers)
                )
        for key in needed:
            if key not in value:
                raise Bad(_path(field, key), "is missing; write it" + (f": one of {_MODES}" if key == "mode" else ""))
        made = {_FIELDS.get(key, key.replace("-", "_")): readers[key](value[key], _path(field, key)) for key in value}
        return make(**made)

    return read


_FIELDS = {"as": "asn"}


def _path(field: str, key: str) -> str:
    return f"{field}.{key}" if field else key


def _unknown(key: object, readers: Mapping[str, _Reader]) -> str:
    word = key.replace("_", "-") if isinstance(key, str) and len(key) < 80 else ""
    near = difflib.get_close_matches(word, readers, 1)
    return f"is unknown; did you mean {near[0]}?" if near else f"is unknown; there is {', '.join(readers)}"


# --- the keys ---------------------------------------------------------------------------------------------------------

_PORT = _number(1, 65535)


def _peers(value: object, field: str) -> tuple[BgpPeer, ...]:
    peers = tuple(_PEER(entry, at) for at, entry in fields.each(_listed(value, field), field))
    seen: dict[tuple[IPAddress, object], int] = {}
    for place, peer in enumerate(peers):
        first = seen.setdefault((peer.address, peer.nodes), place)
        if first != place:
            raise Bad(
                f"{field}[{place}].address", f"{peer.address} is in {field}[{first}] for the same nodes; remove one"
            )
    return peers


_PEER = _object(
    BgpPeer,
    {"address": _address, "as": _system, "password-file": _file, "nodes": _labels, "multihop": _yes_or_no},
    ("address", "as"),
)
_BGP: dict[str, _Reader] = {
    "as": _system,
    "mesh": _yes_or_no,
    "reflectors": _labels,
    "password-file": _file,
    "peers": _peers,
    "hold-seconds": _number(3, 65535),  # RFC 4271, 4.2
    "graceful-restart-seconds": _number(1, 4095, "none"),  # RFC 4724, 3: 12 bits
    "advertise-external-ips": _yes_or_no,
    "advertise-load-balancer-ips": _yes_or_no,
}
_SETTINGS: dict[str, _Reader] = {
    "mode": _mode,
    "cluster-ranges": _cluster_ranges,
    "masquerade": _yes_or_no,
    "no-masquerade": _networks,
    "mtu": _number(SMALLEST_MTU, LARGEST_MTU, "what the way takes"),
    "clamp-mss": _yes_or_no,
    "pods-to-nodes": _word(PodsToNodes.OVERLAY),
    "vxlan": _object(Vxlan, {"id": _number(1, (1 << 24) - 1), "port": _PORT, "checksum": _yes_or_no}),
    "wireguard": _object(Wireguard, {"port": _PORT, "keepalive": _number(1, 65535, "none"), "plaintext": _yes_or_no}),
    "bgp": _object(Bgp, _BGP),
    "load-balancers": _object(LoadBalancers, {"pools": _pools, "announce": _word(Announce.NEIGHBOURS)}),
}


def _check(settings: NetworkSettings) -> None:
    """What no single field shows."""
    bgp = settings.bgp
    if bgp.reflectors and not bgp.mesh:
        raise Bad("bgp.reflectors", "is of no use with `mesh: false`; remove one of them")
    if settings.mode is Mode.BGP and not bgp.mesh and not bgp.peers:
        raise Bad("bgp.peers", "is missing, and with `mesh: false` nobody tells nodes where Pods are; write routers")
    if settings.mode is Mode.WIREGUARD and settings.pods_to_nodes is PodsToNodes.DIRECT:
        raise Bad("pods-to-nodes", "direct would be in plain text, which mode wireguard never is; remove it")
