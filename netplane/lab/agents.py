"""The real agent on every node of a lab, one process each, and what may be asked of it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cni.install import InstallOptions, LauncherSettings, install
from netplane.closing import Closing
from netplane.errors import KernelError
from netplane.kernel.netns import Namespace
from netplane.lab.attaching import PluginInstalled, attached_pods
from netplane.lab.cases import Case
from netplane.lab.namespaces import Lab
from netplane.lab.networked import NotForTheNetwork, PodNetworkOptions
from netplane.lab.router import routing, wait_for_routes
from netplane.plan.network_settings import Mode

READY_SECONDS = 30.0
STOP_SECONDS = 10.0


class LabAgent(Closing):
    """One agent process. Its log is shown if it does not get ready."""

    def __init__(self, namespace: Namespace, node: str, case: Case, backend: str) -> None:
        self.node = node
        self._namespace = namespace
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed by close()
        self._run_directory = tempfile.TemporaryDirectory(prefix="netplane-lab-")
        self._ready, told = os.pipe()
        source = str(case.folder.resolve())
        words = ("run", "--node", node, "--from", source, "--backend", backend, *case.settings.options)
        if case.network:
            words += ("--network", self._network(case.network))
        options = ("--ready-fd", str(told))
        self._process = namespace.run(
            lambda: subprocess.Popen(
                (*self._words(*words), *options),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=(told,),
            )
        )
        os.close(told)

    def wait_ready(self) -> None:
        """Return when the first round was applied; KernelError with the agent's own words if that does not happen."""
        readable, _, _ = select.select([self._ready], [], [], READY_SECONDS)
        if not readable or not os.read(self._ready, 1):
            self._log.seek(0)
            said = self._log.read()[-400:] or f"silent for {READY_SECONDS:g} s"
            raise KernelError(mechanism="agent", doing=f"get ready on {self.node}", said=said)

    def switch(self, backend: str) -> subprocess.Popen[str]:
        """`netplane agent backend BACKEND` for this agent, started; its output is JSON."""
        words = self._words("backend", backend, "--output", "json")
        return self._namespace.run(
            lambda: subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )

    def plugin(self) -> PluginInstalled:
        """The launcher, installed in a folder of its own: it asks this agent."""
        place = Path(self._run_directory.name)
        settings = LauncherSettings(place / "cni.sock", place / "state" / "cni" / "spool")
        folder = place / "bin"
        install(InstallOptions(settings, folder, place / "net.d", link_directory=None))
        return PluginInstalled(folder / "netplane", place / "state" / "cni")

    def close(self) -> None:
        """End it as an init system would."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._ready)
        self._log.close()
        self._run_directory.cleanup()

    def _network(self, network: PodNetworkOptions) -> str:
        """What `--network` is told: a mode, or the path of a file."""
        if isinstance(network.words, str):
            return network.words
        path = Path(self._run_directory.name, "network.json")
        path.write_text(json.dumps(network.words))
        return str(path)

    def _words(self, verb: str, *words: str) -> tuple[str, ...]:
        place = ("--run-dir", self._run_directory.name)
        state = ("--state-dir", f"{self._run_directory.name}/state") if verb == "run" else ()
        return (sys.executable, "-m", "netplane", "agent", verb, *words, *place, *state)


@contextmanager
def agents_of(lab: Lab, case: Case, backend: str) -> Iterator[Mapping[str, LabAgent]]:
    """An agent in every node's namespace, by the node's name: ready when the context begins, ended with it.

    So are pods that the plugin attaches: each agent is asked for its own.
    """
    if case.network and case.network.settings.mode is Mode.WIREGUARD:
        raise NotForTheNetwork("mode wireguard: agents find each other's keys in the manifests, and a case has none")
    with ExitStack() as made:
        if case.network:
            made.enter_context(routing(lab, case.network.settings))
        agents = {
            name: made.enter_context(LabAgent(namespace, name, case, backend)) for name, namespace in lab.nodes.items()
        }
        for agent in agents.values():
            agent.wait_ready()
        if case.network:
            wait_for_routes(lab, case.network.settings)
        if case.topology.plugin:
            plugins = {name: agent.plugin() for name, agent in agents.items()}
            made.enter_context(attached_pods(lab, case.plugin, plugins))
        yield agents
