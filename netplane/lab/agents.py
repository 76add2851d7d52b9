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
from netplane.kernel.wireguard_keys import KeyStore
from netplane.lab.attaching import PluginInstalled, attached_pods
from netplane.lab.cases import Case
from netplane.lab.keys import with_keys
from netplane.lab.namespaces import Lab
from netplane.lab.networked import PodNetworkOptions
from netplane.lab.networking import wait_until_up
from netplane.lab.router import routing
from netplane.plan.network_settings import Mode

READY_SECONDS = 30.0
STOP_SECONDS = 10.0


class LabAgent(Closing):
    """One agent process, once it was started. Its log is shown if it does not get ready."""

    def __init__(self, namespace: Namespace, node: str, case: Case, backend: str) -> None:
        self.node = node
        self._namespace, self._case, self._backend = namespace, case, backend
        self._process: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed by close()
        self._run_directory = tempfile.TemporaryDirectory(prefix="netplane-lab-")
        self._ready, self._told = os.pipe()

    def public_key(self) -> str:
        """The key it is going to have for WireGuard."""
        return KeyStore(Path(self._run_directory.name, "state", "wireguard")).public()

    def start(self, source: Path) -> None:
        """Start it with the manifests in a folder."""
        case, told = self._case, self._told
        words = ("run", "--node", self.node, "--from", str(source), "--backend", self._backend, *case.settings.options)
        if case.network:
            words += ("--network", self._network(case.network))
        self._process = self._namespace.run(
            lambda: subprocess.Popen(
                (*self._words(*words), "--ready-fd", str(told)),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=(told,),
            )
        )

    def wait_ready(self) -> None:
        """Return when the first round was applied; KernelError with the agent's own words if that does not happen."""
        os.close(self._told)
        self._told = -1
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
        """End it as an init system would, and what outlives it: bird, wireguard-go."""
        if self._process is not None:
            _end(self._process)
            if self._case.network:
                self._clean()
        for fd in (self._ready, self._told):
            if fd >= 0:
                os.close(fd)
        self._log.close()
        self._run_directory.cleanup()

    def _clean(self) -> None:
        place = ("--run-dir", self._run_directory.name, "--state-dir", f"{self._run_directory.name}/state")
        words = (sys.executable, "-m", "netplane", "network", "clean", *place)
        self._namespace.run(lambda: subprocess.run(words, stdout=self._log, stderr=self._log, check=False))

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


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def agents_of(lab: Lab, case: Case, backend: str) -> Iterator[Mapping[str, LabAgent]]:
    """An agent in every node's namespace, by the node's name: ready when the context begins, ended with it.

    So are pods that the plugin attaches: each agent is asked for its own.
    """
    with ExitStack() as made:
        if case.network:
            made.enter_context(routing(lab, case.network.settings))
        agents = {
            name: made.enter_context(LabAgent(namespace, name, case, backend)) for name, namespace in lab.nodes.items()
        }
        source = case.folder.resolve()
        if case.network and case.network.settings.mode is Mode.WIREGUARD:
            source = Path(made.enter_context(tempfile.TemporaryDirectory(prefix="netplane-lab-")))
            with_keys(case.folder, {name: agent.public_key() for name, agent in agents.items()}, source)
        for agent in agents.values():
            agent.start(source)
        for agent in agents.values():
            agent.wait_ready()
        if case.network:
            wait_until_up(lab, case.network.settings)
        if case.topology.plugin:
            plugins = {name: agent.plugin() for name, agent in agents.items()}
            made.enter_context(attached_pods(lab, case.plugin, plugins))
        yield agents
