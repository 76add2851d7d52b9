"""Pods of a lab get their interface from the CNI plugin of their node, asked as a container runtime asks it.

ADD for every pod when the context begins, CHECK and DEL at its end; then nothing may be left of them: no link, no
element of a rule, no record in the journal. Two ways to ask: the plugin in this process, inside the node's namespace,
or the installed launcher, which asks the real agent.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from cni import store
from cni.attachment import LINK_PREFIXES
from cni.known_network import NodeNetwork
from cni.node import NodeAttachments
from cni.plugin import Plugin
from cni.request import Reply, Request
from cni.rule_program import TABLE
from cni.sysctls import allowed
from netplane.closing import Closing
from netplane.errors import KernelError
from netplane.kernel import command
from netplane.kernel.links import Links
from netplane.kernel.netns import Namespace
from netplane.lab.attached import IFNAME, PluginOptions, arguments, configuration, container
from netplane.lab.namespaces import Lab
from netplane.lab.topology import PodHost, Topology

GONE_SECONDS = 20.0
ASK_SECONDS = 60.0
_POLL_SECONDS = 0.005


class PluginNode(Protocol):
    """The plugin of one node. `journal` is the folder where it keeps what is attached."""

    @property
    def journal(self) -> Path:
        """Where it keeps what is attached."""
        ...

    def ask(self, environment: Mapping[str, str], stdin: bytes) -> Reply:
        """The answer to one request."""
        ...


class PluginHere(Closing):
    """The plugin in this process, at work in a node's namespace. Its memory is gone when it is closed."""

    def __init__(self, namespace: Namespace, network: NodeNetwork) -> None:
        with ExitStack() as made:
            directory = made.enter_context(tempfile.TemporaryDirectory(prefix="netplane-lab-"))
            self.journal = Path(directory, "cni")
            self.attachments = made.enter_context(namespace.run(lambda: NodeAttachments(self.journal)))
            self.plugin = Plugin(self.attachments, lambda: network, allowed())
            self._namespace = namespace
            self._made = made.pop_all()

    def ask(self, environment: Mapping[str, str], stdin: bytes) -> Reply:
        """The answer to one request, found inside the namespace: what the plugin executes must not meet the host."""
        fd = os.open(environment["CNI_NETNS"], os.O_RDONLY | os.O_CLOEXEC) if environment["CNI_NETNS"] else -1
        try:
            return self._namespace.run(lambda: self.plugin.handle(Request(environment, stdin, fd)))
        finally:
            if fd >= 0:
                os.close(fd)

    def close(self) -> None:
        """Let go of the node; links and rules are its namespace's."""
        self._made.close()


class PluginInstalled:
    """The launcher as `netplane cni install` puts it into a folder, which asks the agent of its node."""

    def __init__(self, launcher: Path, journal: Path) -> None:
        self.journal = journal
        self._launcher = launcher

    def ask(self, environment: Mapping[str, str], stdin: bytes) -> Reply:
        """The answer to one request."""
        words = [str(self._launcher)]
        done = subprocess.run(
            words, input=stdin, stdout=subprocess.PIPE, env=dict(environment), timeout=ASK_SECONDS, check=False
        )
        return Reply(done.returncode, done.stdout)


def node_network(wiring: Topology, node: str) -> NodeNetwork:
    """What the cluster says of a node: its pod ranges, and where the other nodes are."""
    peers = (address for host in wiring.nodes.values() if host.name != node for address in host.addresses)
    return NodeNetwork(wiring.nodes[node].ranges, tuple(peers))


@contextmanager
def plugins_here(lab: Lab) -> Iterator[Mapping[str, PluginNode]]:
    """The plugin of every node of a lab, in this process."""
    with ExitStack() as made:
        yield {
            name: made.enter_context(PluginHere(namespace, node_network(lab.topology, name)))
            for name, namespace in lab.nodes.items()
        }


@contextmanager
def attached_pods(lab: Lab, options: PluginOptions, plugins: Mapping[str, PluginNode]) -> Iterator[None]:
    """Pods of a lab have their interfaces while the context lasts; if it ends well, nothing is left of them.

    Raises KernelError with the plugin's words if it refuses, or names what is left.
    """
    results = {pod.id: _add(lab, pod, options, plugins[pod.node]) for pod in lab.topology.pods.values()}
    lab.wait_for_pods()
    yield
    for id_, pod in lab.topology.pods.items():
        _check(lab, pod, options, plugins[pod.node], results[id_])
    for pod in lab.topology.pods.values():
        _ask(lab, "DEL", pod, options, plugins[pod.node], {})
    _wait_gone(lab, plugins)


def _add(lab: Lab, pod: PodHost, options: PluginOptions, plugin: PluginNode) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(_ask(lab, "ADD", pod, options, plugin, {}))
    given = {str(each["address"]).partition("/")[0] for each in result["ips"]}
    links = {each["name"] for each in result["interfaces"]}
    if given != set(map(str, pod.addresses)) or not {pod.link, IFNAME} <= links:
        raise KernelError(mechanism="cni", doing=f"ADD of {pod.id}", said=f"this was not asked for: {result}")
    return result


def _check(lab: Lab, pod: PodHost, options: PluginOptions, plugin: PluginNode, result: Mapping[str, Any]) -> None:
    _ask(lab, "CHECK", pod, options, plugin, {"prevResult": result})


def _ask(
    lab: Lab, verb: str, pod: PodHost, options: PluginOptions, plugin: PluginNode, extra: Mapping[str, Any]
) -> bytes:
    environment = {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": container(pod.id),
        "CNI_NETNS": str(lab.pods[pod.id].path),
        "CNI_IFNAME": IFNAME,
        "CNI_ARGS": arguments(pod.id),
        "CNI_PATH": "/opt/cni/bin",
    }
    stdin = json.dumps({**configuration(pod, lab.topology, options), **extra}).encode()
    reply = plugin.ask(environment, stdin)
    if reply.code != 0:
        said = reply.stdout.decode(errors="replace").strip()
        raise KernelError(mechanism="cni", doing=f"{verb} of {pod.id}", said=said or f"exit code {reply.code}")
    return reply.stdout


def _wait_gone(lab: Lab, plugins: Mapping[str, PluginNode]) -> None:
    deadline = time.monotonic() + GONE_SECONDS
    while left := [each for name in lab.nodes for each in leftovers(lab, name, plugins[name])]:
        if time.monotonic() > deadline:
            raise KernelError(mechanism="cni", doing="DEL of all pods", said=f"left behind: {'; '.join(left)}")
        time.sleep(_POLL_SECONDS)


def leftovers(lab: Lab, node: str, plugin: PluginNode) -> list[str]:
    """What is there, on a node and in its pods, of pods that the plugin attached."""
    links = [name for name in _links(lab.nodes[node]) if name.startswith(tuple(LINK_PREFIXES.values()))]
    found = [f"link {name} on {node}" for name in links]
    for pod in lab.topology.pods_of(node):
        found += (f"link {name} in {pod.id}" for name in _links(lab.pods[pod.id]) if name != "lo")
    found += (f"{each} on {node}" for each in lab.nodes[node].run(_elements))
    found += (f"journal of {node}: {each.attachment.id} {each.state.value}" for each in store.read(plugin.journal))
    return found


def _links(namespace: Namespace) -> list[str]:
    def work() -> list[str]:
        with Links() as here:
            return sorted(here.read())

    return namespace.run(work)


def _elements() -> list[str]:
    """Sets and maps of the plugin's tables that hold something, as nft says it."""
    said = command.run("nft", "-j", "list", "ruleset", mechanism="cni", doing="list rules")
    pieces = [each for one in json.loads(said)["nftables"] for each in one.values()]
    ours = (each for each in pieces if each.get("table") == TABLE and each.get("elem"))
    return [f"{each['name']} in {each['family']} {TABLE}: {each['elem']}" for each in ours]
