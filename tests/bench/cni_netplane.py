"""netplane's side: an agent in a namespace, and the launcher installed as on a node, in folders of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.clusters import NODE
from bench.cni_exec import Runner, Stage
from bench.cni_sides import SUBNET, Pod, Way, environment_of, port_mapping
from bench.process import Agent
from bench.ways import NFTABLES
from cni.install import InstallOptions, LauncherSettings, install
from cni.launcher.build import LAUNCHER, build
from netplane.closing import Closing
from netplane.kernel.netns import Namespace

_READY_SECONDS = 30.0
_NETWORK: Mapping[str, Any] = {"cniVersion": "1.0.0", "name": "pods"}


class Installed(Closing):
    """An agent that serves attachments, and folders as /opt/cni/bin and /etc/cni/net.d are on a node.

    `ranges` are the node's pod ranges.
    """

    def __init__(self, namespace: Namespace, folder: Path, plugin: Mapping[str, Any], ranges: Sequence[str]) -> None:
        self._namespace, self._folder = namespace, folder
        self.executables, self.net_d = folder / "bin", folder / "net.d"
        self.state = folder / "state"
        (folder / "manifests").mkdir(parents=True)
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}, "spec": {"podCIDRs": list(ranges)}}
        (folder / "manifests" / "node.yaml").write_text(json.dumps(node))
        if not LAUNCHER.exists():
            build()
        install(
            InstallOptions(
                LauncherSettings(folder / "run" / "cni.sock", self.state / "cni" / "spool"),
                self.executables,
                self.net_d,
                link_directory=None,
                conflist=json.dumps({**_NETWORK, "plugins": [plugin]}).encode(),
            )
        )
        self.agent = self._start()

    def start_again(self) -> None:
        """After the agent was killed."""
        self.agent.close()
        self.agent = self._start()

    def close(self) -> None:
        self.agent.close()

    def _start(self) -> Agent:
        agent = Agent(NFTABLES, self._namespace, self._folder / "manifests", self._folder)
        try:
            agent.must_be_ready(_READY_SECONDS)
        except BaseException:
            agent.close()
            raise
        return agent


class Netplane(Closing):
    """See `cni_sides.Side`."""

    def __init__(self, folder: Path) -> None:
        self.namespace = Namespace()
        self.runner = Runner(folder, self.namespace)
        self._installed = Installed(self.namespace, folder / "installed", _plugin(masquerade=False), [SUBNET])
        self.launcher = self._installed.executables / "netplane"

    def add(self, way: Way, pod: Pod) -> list[Stage]:
        """See `Side.add`."""
        return [self._stage("ADD", way, pod, {})]

    def delete(self, way: Way, pod: Pod, result: bytes) -> list[Stage]:
        """See `Side.delete`."""
        return [self._stage("DEL", way, pod, {"prevResult": json.loads(result)})]

    def version(self) -> list[Stage]:
        """See `Side.version`."""
        return [Stage(self.launcher, {"CNI_COMMAND": "VERSION"}, {})]

    def served(self) -> float:
        """See `Side.served`: the agent."""
        return self._installed.agent.processor_seconds()

    def memory(self) -> float:
        """MiB of the agent."""
        return self._installed.agent.memory("VmRSS")

    def close(self) -> None:
        self._installed.close()
        self.namespace.close()

    def _stage(self, command: str, way: Way, pod: Pod, extra: Mapping[str, Any]) -> Stage:
        runtime = {"runtimeConfig": port_mapping(pod)} if way.ports else {}
        config = {**_NETWORK, **_plugin(masquerade=way.ports), **runtime, **extra}
        return Stage(self.launcher, environment_of(command, pod, self.launcher.parent), config)


def _plugin(*, masquerade: bool) -> dict[str, Any]:
    return {
        "type": "netplane",
        "ipMasq": masquerade,
        "ipam": {"type": "netplane", "ranges": [[{"subnet": SUBNET}]]},
        "capabilities": {"portMappings": True},
    }
