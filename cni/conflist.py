"""Network lists as the runtime's library reads them: which file counts, and what each plugin of it is given.

/etc/cni/net.d/10-netplane.conflist   .conf and .json hold one plugin instead of a list
the first in order of names that the runtime can read is the network of all Pods
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cni.config import Mode, NetworkConfig
from cni.decode import OWN_TYPE, network_config
from cni.failure import Failure
from cni.install import default_conflist
from cni.request import Command, Invocation
from cni.sysctls import allowed
from cni.versions import SUPPORTED
from netplane.errors import InputError
from netplane.model.address import IPNetwork

_ADD = Invocation(Command.ADD, container="any", netns="/proc/self/ns/net", ifname="eth0")
ENDINGS = (".conf", ".conflist", ".json")
"""How the name of a file ends that runtimes look at."""
_OLDEST = "0.1.0"
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class NetworkList:
    """One network: its plugins in the order of ADD. `version` is the highest of the list's that we know."""

    path: Path
    name: str
    version: str
    plugins: tuple[Mapping[str, Any], ...]

    @property
    def own(self) -> Mapping[str, Any] | None:
        """The first plugin of the list that is ours; None if there is none."""
        return next((each for each in self.plugins if each["type"] == OWN_TYPE), None)


def files(directory: Path) -> list[Path]:
    """The files of `directory` a runtime looks at, in its order. Raises InputError if it cannot be read."""
    try:
        return sorted(path for path in directory.iterdir() if path.suffix in ENDINGS)
    except OSError as error:
        raise InputError(f"{directory}: {error.strerror}") from error


def first(directory: Path) -> NetworkList:
    """The network of all Pods. Raises InputError if there is none, or the first file cannot be used."""
    found = files(directory)
    if not found:
        raise InputError(f"{directory}: no network is configured; netplane cni install writes one")
    return read(found[0])


def named(directory: Path, name: str) -> NetworkList:
    """The network of that name. Raises InputError if no file has it."""
    lists = [read(path) for path in files(directory)]
    for each in lists:
        if each.name == name:
            return each
    known = ", ".join(each.name for each in lists) or "none"
    raise InputError(f"{directory}: no network is called {name!r}; there is: {known}")


def read(path: Path) -> NetworkList:
    """The network of a file. Raises InputError, saying what in it is wrong."""
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    if len(text) > _MOST_BYTES:
        raise InputError(f"{path}: longer than {_MOST_BYTES} bytes")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    return _network(path, value)


def configured(mode: Mode, pod_ranges: Iterable[IPNetwork], cluster_ranges: Iterable[IPNetwork]) -> bytes:
    """A network list with our plugin alone. Without pod ranges those of the Node object count.

    A container gets one address of each family. Raises InputError if the ranges cannot be used together.
    """
    value = json.loads(default_conflist())
    (plugin,) = value["plugins"]
    plugin |= {"mode": mode.value, "clusterRanges": [str(each) for each in cluster_ranges]}
    families: dict[int, list[dict[str, str]]] = {}
    for each in pod_ranges:
        families.setdefault(each.version, []).append({"subnet": str(each)})
    if families:
        plugin["ipam"] = {"type": OWN_TYPE, "ranges": [families[version] for version in sorted(families)]}
    text = json.dumps(value, indent=2).encode() + b"\n"
    checked(_network(Path("options"), value))
    return text


def checked(network: NetworkList) -> NetworkConfig:
    """Our plugin's part of a network, decoded. Raises InputError if there is none, or it is wrong."""
    if network.own is None:
        raise InputError(f"{network.path}: no plugin of it has the type {OWN_TYPE!r}")
    try:
        return network_config(json.dumps(request(network, network.own, {})).encode(), _ADD, allowed())
    except Failure as failure:
        raise InputError(f"{network.path}: {failure}") from failure


def request(network: NetworkList, plugin: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """What `plugin` reads from standard input. `extra`: prevResult, runtimeConfig and the like; None is left out."""
    added = {key: value for key, value in extra.items() if value is not None}
    return {**plugin, "cniVersion": network.version, "name": network.name, **added}


def _network(path: Path, value: object) -> NetworkList:
    if not isinstance(value, dict):
        raise InputError(f"{path}: not a JSON object")
    single = path.suffix != ".conflist" and "plugins" not in value
    plugins = [value] if single else value.get("plugins")
    if not isinstance(plugins, list) or not plugins:
        raise InputError(f"{path}: plugins: must be a list with at least one plugin")
    for at, plugin in enumerate(plugins):
        kind = plugin.get("type") if isinstance(plugin, dict) else None
        if not isinstance(kind, str) or not kind or "/" in kind:
            raise InputError(f"{path}: plugins[{at}].type: must be the name of an executable")
    name = value.get("name")
    if not isinstance(name, str) or not name:
        raise InputError(f"{path}: name: missing")
    return NetworkList(path, name, _version(path, value), tuple(plugins))


def _version(path: Path, value: Mapping[str, Any]) -> str:
    given = value.get("cniVersions", [])
    several: Sequence[object] = given if isinstance(given, list) else ()
    known = [each for each in SUPPORTED if each in several]
    version = value.get("cniVersion") or (known[-1] if known else _OLDEST)
    if not isinstance(version, str):
        raise InputError(f"{path}: cniVersion: must be a string")
    return max((*known, version), key=lambda each: SUPPORTED.index(each) if each in SUPPORTED else -1)
