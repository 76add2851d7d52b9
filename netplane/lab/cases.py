"""A case: a folder of manifests, and packets with what should become of them (`docs/cases.md`).

    tests/cases/<situation>/
        cluster.yaml     manifests; any number of files
        packets.txt      one probe per line: FROM PROTOCOL DESTINATION -> OUTCOME
        settings.yaml    optional: the options of the agent, `node`, `attach`, `cni`, `network` and `subnets`

Reading a case touches nothing but its files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

from netplane.errors import InputError, Problem
from netplane.lab.attached import NotForThePlugin, PluginOptions, attached, cluster_networks
from netplane.lab.case_settings import SETTINGS_FILE, CaseSettings, read_settings
from netplane.lab.networked import Network, PodNetworkOptions, keeps_source, networked
from netplane.lab.outcome import WORDS, Arrival, Named, Reaches
from netplane.lab.pod_network import PodNetwork
from netplane.lab.probe import FromNode, FromOutside, FromPod, Oracles, Probe, Sender, usual_source
from netplane.lab.topology import Attach, Topology, topology
from netplane.model.address import IPAddress, IPNetwork, Protocol, family_of
from netplane.model.pod import PodId
from netplane.model.snapshot import Snapshot
from netplane.plan.node import plan_node
from netplane.plan.plan import Plan
from netplane.sources.manifests import load

PACKETS_FILE = "packets.txt"

_LINE = re.compile(r"(?P<sender>.+?)\s+(?P<protocol>tcp|udp|sctp|icmp)\s+(?P<to>\S+)\s*->\s*(?P<outcome>.+)")
_SENDER = re.compile(r"(?P<kind>pod|node|outside\s+via)\s+(?P<name>\S+)(?:\s+from\s+(?P<source>\S+))?")
_DESTINATION = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<v4>[^:\[\]]+)):(?P<port>\d+)")
_REMARK = re.compile(r"\s*\([^)]*\)\s*$")
_TARGET = re.compile(r"(?P<name>(?:node\s+)?\S+)(?P<masqueraded>\s+masqueraded)?")
_SHAPE = "write FROM PROTOCOL DESTINATION -> OUTCOME, e.g. pod web-1 tcp 10.96.0.10:80 -> web-1 masqueraded, web-2"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of `packets.txt`."""

    number: int
    text: str
    probe: Probe
    expected: Named


@dataclass(frozen=True, slots=True)
class Case:
    """A case as read. `problems` are those of its manifests."""

    folder: Path
    snapshot: Snapshot
    problems: tuple[Problem, ...]
    settings: CaseSettings
    topology: Topology
    lines: tuple[Line, ...] = ()
    network: PodNetworkOptions | None = None
    """How pods of one node reach those of another; None: by routes of the lab's own."""

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    def plans(self) -> dict[str, Plan]:
        """The plan of every node. Raises InputError if one cannot be made with these settings."""
        return {node: plan_node(self.snapshot, node, self.settings.plan) for node in self.topology.nodes}

    @property
    def plugin(self) -> PluginOptions:
        """What the plugin's configuration says besides the usual, if it attaches the pods."""
        return self.settings.plugin or PluginOptions()

    def oracles(self) -> Oracles:
        """The oracles of all nodes: for what the lines say. Plugin and network have a say if the case is about them."""
        plugin, network = self.settings.plugin is not None, self.settings.network is not None
        return Oracles(self.plans(), self.topology, self._pod_network(plugin=plugin, network=network))

    def whole_oracles(self) -> Oracles:
        """The oracles of all nodes: for what is seen. The plugin has a say in it if it attaches the pods, and the Pod
        network if there is one.
        """
        plugin, network = self.topology.plugin, self.network is not None
        return Oracles(self.plans(), self.topology, self._pod_network(plugin=plugin, network=network))

    def _pod_network(self, *, plugin: bool, network: bool) -> PodNetwork | None:
        if not plugin and not network:
            return None
        keeps: list[tuple[IPNetwork, ...]] = []
        if plugin and self.plugin.masquerade:
            keeps.append(cluster_networks(self.topology))
        if network and self.network and self.network.settings.masquerade:
            keeps.append(keeps_source(self.topology, self.network.settings))
        return PodNetwork(self.topology, keeps, snat=self.plugin.snat, host_ports=plugin)


def load_case(
    folder: Path, *, attach: Attach = Attach.BRIDGE, plugin: bool = False, network: Network | None = None
) -> Case:
    """Read a case. Raises InputError, with file and line, for anything that cannot be understood; Unsuitable.

    `attach` and `network` are for cases that do not say how their pods are attached and reach each other; with
    `plugin`, or if the case is about it, the CNI plugin attaches them.
    """
    packets = folder / PACKETS_FILE
    if not packets.is_file():
        raise InputError(f"{packets}: does not exist; a case needs one")
    case = load_cluster(folder, attach=attach, plugin=plugin, network=network)
    lines = tuple(_lines(packets, case.topology))
    if case.topology.plugin:
        for line in lines:
            _check_sender(line.probe, case.topology)
    return replace(case, lines=lines)


def load_cluster(
    folder: Path, *, attach: Attach = Attach.BRIDGE, plugin: bool = False, network: Network | None = None
) -> Case:
    """A case without its packets: any folder of manifests will do. Raises InputError."""
    settings = read_settings(folder / SETTINGS_FILE, attach)
    loaded = load(folder)
    problems = tuple(each for each in loaded.problems if each.where.partition("#")[0] != SETTINGS_FILE)
    try:
        wiring = topology(loaded.snapshot, settings.attach)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None
    if settings.node not in wiring.nodes:
        raise InputError(f"{folder / SETTINGS_FILE}: node {settings.node!r}: the manifests have no such Node")
    chosen = settings.network or (network(sorted(wiring.nodes)) if network else None)
    if chosen:
        wiring = networked(wiring, chosen)
    if plugin or settings.plugin is not None:
        wiring = attached(wiring)
    return Case(folder, loaded.snapshot, problems, settings, wiring, network=chosen)


def find_cases(paths: list[Path]) -> list[Path]:
    """The case folders in `paths`: each of them, or below them, sorted. Raises InputError where there is none."""
    found: list[Path] = []
    for path in paths:
        here = sorted(packets.parent for packets in path.rglob(PACKETS_FILE))
        if not here:
            raise InputError(f"{path}: holds no case (a folder with a {PACKETS_FILE})")
        found += here
    return list(dict.fromkeys(found))


def read_line(text: str, wiring: Topology) -> tuple[Probe, Named]:
    """The probe and the expected outcome of one line. Raises InputError that says what is wrong with it."""
    found = _LINE.fullmatch(text.strip())
    if found is None:
        raise InputError(_SHAPE)
    protocol = None if found["protocol"] == "icmp" else Protocol(found["protocol"].upper())
    destination, port = _destination(found["to"], protocol)
    sender, source = _sender(found["sender"], wiring)
    if source is None:
        source = usual_source(sender, family_of(destination), wiring)
    if source.version != destination.version:
        raise InputError(f"from {source} to {destination}: both must be of one family")
    return Probe(sender, source, protocol, destination, port), _outcome(found["outcome"], wiring)


def _check_sender(probe: Probe, wiring: Topology) -> None:
    """A node has the address of the bridge only where the plugin has attached a pod."""
    if isinstance(probe.sender, FromNode) and not wiring.nodes[probe.sender.node].owns(probe.source):
        raise NotForThePlugin(f"{probe.sender} from {probe.source}: the plugin makes no bridge on a node without pods")


def _lines(packets: Path, wiring: Topology) -> Iterator[Line]:
    try:
        content = packets.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{packets}: cannot be read: {error}") from None
    for number, whole in enumerate(content.splitlines(), 1):
        text = whole.partition("#")[0].strip()
        if text:
            try:
                probe, expected = read_line(text, wiring)
            except InputError as error:
                raise InputError(f"{packets}:{number}: {error}") from None
            yield Line(number, " ".join(text.split()), probe, expected)


def _destination(text: str, protocol: Protocol | None) -> tuple[IPAddress, int]:
    if protocol is None:
        return _address(text.strip("[]"), "destination"), 0
    found = _DESTINATION.fullmatch(text)
    if found is None:
        raise InputError(f"destination {text!r}: write ADDRESS:PORT or [ADDRESS]:PORT")
    port = int(found["port"])
    if not 0 < port < 65536:
        raise InputError(f"destination {text!r}: a port is between 1 and 65535")
    return _address(found["v6"] or found["v4"], "destination"), port


def _sender(text: str, wiring: Topology) -> tuple[Sender, IPAddress | None]:
    found = _SENDER.fullmatch(text)
    if found is None:
        raise InputError(
            f"{text!r}: write pod NAME, node NAME or outside via NODE, each with `from ADDRESS` if need be"
        )
    source = _address(found["source"], "source") if found["source"] else None
    name = found["name"]
    if found["kind"] == "pod":
        return FromPod(_pod(name, list(wiring.pods))), source
    if name not in wiring.nodes:
        raise InputError(f"node {name!r} is unknown; there is {', '.join(wiring.nodes)}")
    return FromNode(name) if found["kind"] == "node" else FromOutside(name), source


def _outcome(text: str, wiring: Topology) -> Named:
    text = _REMARK.sub("", text).strip()
    if text in WORDS:
        return WORDS[text]
    sticky = text.startswith("one of ")
    arrivals = frozenset(_arrival(part.strip(), wiring) for part in text.removeprefix("one of ").split(","))
    return Reaches(arrivals, sticky)


def _arrival(text: str, wiring: Topology) -> Arrival:
    found = _TARGET.fullmatch(text)
    if found is None:
        raise InputError(f"outcome {text!r}: write drop, reject, untouched, or pods: NAME [masqueraded], ...")
    name = " ".join(found["name"].split())
    return Arrival(_target(name, wiring), masqueraded=bool(found["masqueraded"]))


def _target(name: str, wiring: Topology) -> str:
    """The full name of what a line calls `name`: a pod, a node, or an address of nobody in the cluster."""
    if name.startswith("node "):
        if name.removeprefix("node ") not in wiring.nodes:
            raise InputError(f"{name} is unknown; there is {', '.join(wiring.nodes)}")
        return name
    guests = [pod for node in wiring.nodes.values() for pod in node.ports.values()]
    if address := _maybe_address(name):
        pod = wiring.pod_at(address)
        return str(pod.id) if pod else str(address)
    return str(_pod(name, [*wiring.pods, *dict.fromkeys(guests)]))


def _pod(name: str, known: list[PodId]) -> PodId:
    namespace, _, short = name.rpartition("/")
    found = [pod for pod in known if pod.name == short and namespace in ("", pod.namespace)]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"pod {name!r} is ambiguous; write one of {', '.join(map(str, found))}")
    raise InputError(f"pod {name!r} is unknown; there is {', '.join(sorted(map(str, known))) or 'none'}")


def _address(text: str, what: str) -> IPAddress:
    if address := _maybe_address(text):
        return address
    raise InputError(f"{what} {text!r} is not an address")


def _maybe_address(text: str) -> IPAddress | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
