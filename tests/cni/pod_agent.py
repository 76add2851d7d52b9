"""The real agent and the real launcher on a node of their own, to be killed at any moment."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cni import install
from cni.launcher.build import LAUNCHER
from netplane.agent.control import ask
from netplane.closing import Closing
from netplane.kernel.netns import Namespace

SECONDS = 30.0

NODES = """\
apiVersion: v1
kind: Node
metadata: {name: n1}
spec: {podCIDRs: [10.88.1.0/24, "fd00:88:1::/64"]}
status: {addresses: [{type: InternalIP, address: 192.0.2.11}]}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
spec: {podCIDRs: [10.88.2.0/24, "fd00:88:2::/64"]}
status: {addresses: [{type: InternalIP, address: 192.0.2.12}]}
"""


class PodAgent(Closing):
    """A namespace that is a node, an agent in it, and a launcher that knows where that agent is."""

    def __init__(self, directory: Path, *, fallback: bool = False, within: tuple[str, ...] = ()) -> None:
        self.directory = directory
        self._within = within
        """Words before the agent's command line: what takes privileges away."""
        self.manifests = directory / "manifests"
        self.manifests.mkdir()
        (self.manifests / "nodes.yaml").write_text(NODES)
        self.run_dir, self.state_dir = directory / "run", directory / "state"
        self.spool = self.state_dir / "cni" / "spool"
        python = Path(sys.executable) if fallback else None
        settings = install.LauncherSettings(self.run_dir / "cni.sock", self.spool, python)
        self.launcher = directory / "netplane"
        self.launcher.write_bytes(install.patched(LAUNCHER.read_bytes(), settings))
        self.launcher.chmod(0o755)
        self.log = (directory / "agent.log").open("ab")
        self.namespace = Namespace()
        self.process: subprocess.Popen[bytes] | None = None
        self.serving = threading.Event()

    def start(self) -> None:
        """Start the agent and wait until it serves."""
        ready, told = os.pipe()
        words = (*self._within, sys.executable, "-m", "netplane", "agent", "run", "--node", "n1")
        source = ("--from", str(self.manifests), "--backend", "nftables")
        places = ("--run-dir", str(self.run_dir), "--state-dir", str(self.state_dir), "--ready-fd", str(told))
        try:
            self.process = self.namespace.run(
                lambda: subprocess.Popen((*words, *source, *places), stderr=self.log, stdout=self.log, pass_fds=(told,))
            )
            os.close(told)
            readable, _, _ = select.select([ready], [], [], SECONDS)
            assert readable, self.said()[-2000:]
            assert os.read(ready, 1), self.said()[-2000:]
            self.serving.set()
        finally:
            os.close(ready)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End the agent."""
        self.serving.clear()
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(SECONDS)
            self.process = None

    def said(self) -> str:
        """Its log, of all its lives."""
        return (self.directory / "agent.log").read_text()

    def status(self) -> dict[str, Any]:
        """What `netplane agent status` says of the plugin."""
        found: dict[str, Any] = ask(self.run_dir, {"ask": "status"}, SECONDS)["cni"]
        return found

    def spawn(
        self, verb: str, config: Mapping[str, Any], container: str, netns: Path | str, ifname: str = "eth0"
    ) -> subprocess.Popen[bytes]:
        """The launcher, started as a runtime does."""
        variables = {"CNI_COMMAND": verb, "CNI_CONTAINERID": container, "CNI_IFNAME": ifname}
        variables |= {"CNI_PATH": "/usr/lib/cni", "CNI_NETNS": str(netns)}
        process = subprocess.Popen(
            (self.launcher,), env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(config).encode())
            process.stdin.close()
        except BrokenPipeError:
            pass  # it has answered already
        return process

    def ask(self, verb: str, config: Mapping[str, Any], container: str, netns: Path | str = "") -> tuple[int, Any]:
        """Exit code and answer of one request."""
        process = self.spawn(verb, config, container, netns)
        assert process.stdout is not None
        with process.stdout:
            said = process.stdout.read()
        code = process.wait(SECONDS)
        return code, json.loads(said) if said.strip() else None

    def close(self) -> None:
        self.kill(signal.SIGTERM)
        self.log.close()
        self.namespace.close()
        assert "Traceback" not in self.said()
