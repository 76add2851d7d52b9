"""`settings.yaml` of a case: the agent's options, the node that `plan.txt` is about, how and by whom pods are attached,
and by what network they reach each other.

node: n2
attach: routed
local: interface-prefix=np
node-ports: [192.0.2.0/24, "2001:db8::/64"]
masquerade-all: true
cni: {ipMasq: false}
network: {mode: vxlan, cluster-ranges: [10.244.0.0/16]}
subnets: {n3: b}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from netplane.errors import InputError, one_line
from netplane.lab.attached import PluginOptions
from netplane.lab.networked import FIRST_SUBNET, Network, PodNetworkOptions
from netplane.lab.topology import Attach
from netplane.plan.settings import Settings
from netplane.sources.documents import BadText, documents_of
from netplane.sources.network_options import network_settings, read_network_settings
from netplane.sources.options import settings_of

SETTINGS_FILE = "settings.yaml"
FIRST_NODE = "n1"
_OTHER_SUBNET = f"not {FIRST_SUBNET}"
_SWITCHES = {
    "masquerade-all": ("--masquerade-all", "--no-masquerade-all"),
    "drop-invalid": ("--drop-invalid", "--keep-invalid"),
}


@dataclass(frozen=True, slots=True)
class CaseSettings:
    """How a case is run. `options` are the words that tell the agent the same as `plan`.

    With `plugin` the case is about the CNI plugin: its packets need pods that are attached by it.
    """

    plan: Settings = field(default_factory=Settings)
    node: str = FIRST_NODE
    attach: Attach = Attach.BRIDGE
    options: tuple[str, ...] = ()
    plugin: PluginOptions | None = None
    attach_is_said: bool = False
    """Whether the case itself says how its pods are attached."""
    network: PodNetworkOptions | None = None
    """The case is about this Pod network."""


def read_settings(path: Path, attach: Attach = Attach.BRIDGE) -> CaseSettings:
    """The settings in `path`, the usual ones if there is no such file. Raises InputError that names the file.

    `attach` is how pods are attached where the file does not say.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return CaseSettings(attach=attach)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {one_line(str(error))}") from None
    found = next((document.value for document in documents_of(path.name, content)), None)
    if isinstance(found, BadText):
        raise InputError(f"{path}: cannot be read: line {found.line}: {found.why}")
    if not isinstance(found, Mapping):
        raise InputError(f"{path}: write options as `key: value` lines")
    try:
        return _settings({str(key): value for key, value in found.items()}, attach)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def network_of(option: str, *, two_subnets: bool = False) -> Network | None:
    """The Pod network that `--network` asks for, a mode or the path of a file; None for "none".

    With `two_subnets` every second node is in another subnet than the first. Raises InputError.
    """
    if option == "none":
        return None
    settings = read_network_settings(option)
    words = option if option == settings.mode.value else str(Path(option).resolve())

    def on(nodes: Sequence[str]) -> PodNetworkOptions:
        far = dict.fromkeys(nodes[1::2], _OTHER_SUBNET) if two_subnets else {}
        return PodNetworkOptions(settings, words, far)

    return on


def _settings(found: dict[str, object], attach: Attach) -> CaseSettings:
    node = str(found.pop("node", FIRST_NODE))
    plugin = _plugin(found.pop("cni")) if "cni" in found else None
    network = _network(found)
    said = "attach" in found
    word = str(found.pop("attach", attach.value))
    if word not in {each.value for each in Attach}:
        raise InputError(f"attach: {word!r} is not one of {', '.join(each.value for each in Attach)}")
    return CaseSettings(settings_of(found), node, Attach(word), tuple(_words(found)), plugin, said, network)


def _network(found: dict[str, object]) -> PodNetworkOptions | None:
    subnets = found.pop("subnets", {})
    words = found.pop("network", "none")
    if not isinstance(subnets, Mapping):
        raise InputError("subnets: write `node: name`, for each node that is not in subnet a")
    if words == "none":
        if subnets:
            raise InputError("subnets: only a `network` reaches from one to another; say which")
        return None
    return PodNetworkOptions(network_settings(words), words, {str(node): str(name) for node, name in subnets.items()})


def _plugin(value: object) -> PluginOptions:
    if not isinstance(value, Mapping):
        raise InputError("cni: write options of the plugin as `key: value`, or {} for the usual ones")
    return PluginOptions({str(key): each for key, each in value.items()})


def _words(found: Mapping[str, object]) -> Iterator[str]:
    """The same options as the command line has them: lists with commas, switches by their two names."""
    for key, value in found.items():
        if key in _SWITCHES:
            yield _SWITCHES[key][0 if value in (True, "true") else 1]
        else:
            yield f"--{key}={','.join(map(str, value)) if isinstance(value, list) else value}"
