"""A node for the agent: an anonymous namespace, a folder of manifests, the real process, and the kernel to look at."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from netplane.closing import Closing
from netplane.kernel import command, netlink
from netplane.kernel.netns import Namespace
from netplane.kernel.nftables import NftablesDriver
from netplane.model.address import Family

SECONDS = 15.0
_NFTABLES_GROUP = 7  # NFNLGRP_NFTABLES
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_ENDPOINT = re.compile(r"-j DNAT --to-destination \[?([0-9a-f.:]+?)\]?:\d+$", re.MULTILINE)
_CLUSTER_IP = re.compile(r"^-A KUBE-\S+ -d ([0-9a-f.:]+)/\d+ .* cluster IP: no such port", re.MULTILINE)
_SIZE = {Family.IPV4: 4, Family.IPV6: 16}

NODES = """\
apiVersion: v1
kind: Node
metadata: {name: n1}
spec: {podCIDRs: [10.244.1.0/24, "fd00:10:244:1::/64"]}
status: {addresses: [{type: InternalIP, address: 192.0.2.11}, {type: InternalIP, address: "2001:db8:2::11"}]}
"""


def service(name: str, last: int, *endpoints: str, **spec: Any) -> str:
    """Service shop/NAME at 10.96.0.LAST and fd00:10:96::LAST, port 80, with these ready endpoints ("10.244.1.5@n1")."""
    addresses = [f"10.96.0.{last}", f"fd00:10:96::{last}"]
    made: list[dict[str, Any]] = [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"clusterIP": addresses[0], "clusterIPs": addresses, "ports": [{"port": 80}]} | spec,
        }
    ]
    for version in (4, 6):
        listed = [each.split("@") for each in endpoints if ip_address(each.split("@")[0]).version == version]
        made.append(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": f"{name}-v{version}",
                    "namespace": "shop",
                    "labels": {"kubernetes.io/service-name": name},
                },
                "addressType": f"IPv{version}",
                "ports": [{"port": 8080}],
                "endpoints": [{"addresses": [address], "nodeName": node} for address, node in listed],
            }
        )
    return "\n---\n".join(map(json.dumps, made)) + "\n"


class Kernel(Closing):
    """What nftables and iptables of a namespace have, read from it, and told by its own notifications on changes."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._driver = namespace.run(NftablesDriver)
        self._notified = namespace.run(_subscribe)

    def endpoints(self) -> set[str]:
        """`10.244.1.5`: the addresses of the endpoints there are rules for, of whatever backend."""
        return self._addresses("endpoints") | self._in_iptables(_ENDPOINT)

    def cluster_ips(self) -> set[str]:
        return self._addresses("cluster-ips") | self._in_iptables(_CLUSTER_IP)

    def wait(self, holds: Callable[[], bool]) -> None:
        """Until `holds` is true of the kernel; it is asked again whenever the kernel says that something changed."""
        deadline = time.monotonic() + SECONDS
        while not holds():
            self._notified.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                self._notified.recv(1 << 17)
            except TimeoutError:
                raise AssertionError(f"{self.endpoints()} {self.cluster_ips()} after {SECONDS} s") from None

    def nft(self, *words: str) -> str:
        return self._namespace.run(lambda: command.run("nft", *words, mechanism="nftables", doing="test"))

    def rules(self) -> str:
        """Everything, with the order in which things were made: the handles."""
        return self.nft("-a", "list", "ruleset")

    def close(self) -> None:
        self._driver.close()
        self._notified.close()

    def _in_iptables(self, pattern: re.Pattern[str]) -> set[str]:
        def saved() -> list[str]:
            programs = ("iptables-save", "ip6tables-save")
            return [command.run(each, mechanism="iptables", doing="test") for each in programs]

        return {str(ip_address(found)) for each in self._namespace.run(saved) for found in pattern.findall(each)}

    def _addresses(self, name: str) -> set[str]:
        return {
            str(ip_address(key[: _SIZE[family]]))
            for family, table in self._driver.read().items()
            for key in table.elements.get(name, {})
        }


class Agent(Closing):
    """The real process, logging JSON. Closing it ends it, and then it must not have printed a traceback."""

    def __init__(
        self,
        namespace: Namespace,
        folder: Path,
        run_dir: Path,
        *options: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.said: list[dict[str, Any]] = []
        self.run_dir = run_dir
        self.raw: list[str] = []
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        ready, tell = os.pipe()
        self._ready = ready
        try:
            words = (*words_of(folder, run_dir), "--log", "json", "--ready-fd", str(tell), *options)
            self.process = namespace.run(
                lambda: subprocess.Popen(
                    words,
                    stderr=subprocess.PIPE,
                    text=True,
                    pass_fds=(tell,),
                    env={**os.environ, **(environment or {})},
                )
            )
        finally:
            os.close(tell)
        self._reader = threading.Thread(target=self._read, name="agent's stderr", daemon=True)
        self._reader.start()

    def next(self, message: str) -> dict[str, Any]:
        """The next line that says `message`, and its fields. Lines before it are read and kept in `said`."""
        deadline = time.monotonic() + SECONDS
        while True:
            line = self._line(deadline - time.monotonic())
            assert line is not None, f"the agent did not say {message!r}: {self.raw}"
            if line["message"] == message:
                return line

    def is_quiet(self, seconds: float) -> bool:
        """Whether it says nothing for so long."""
        return self._line(seconds) is None

    def count(self, message: str) -> int:
        """How often it has said `message`, as far as read."""
        return sum(line["message"] == message for line in self.said)

    def told_ready(self) -> bytes:
        """What was written to --ready-fd."""
        return os.read(self._ready, 16)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal that ends it; its exit code. All it said is in `said` then."""
        self.process.send_signal(number)
        code = self.process.wait(SECONDS)
        self._reader.join()
        while self._line(0) is not None:
            pass
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        os.close(self._ready)
        assert "Traceback" not in "".join(self.raw)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.raw.append(line)
            self._lines.put(line)
        self._lines.put(None)

    def _line(self, seconds: float) -> dict[str, Any] | None:
        try:
            text = self._lines.get(timeout=max(seconds, 0.001))
        except queue.Empty:
            return None
        if text is None:
            self._lines.put(None)
            return None
        line: dict[str, Any] = json.loads(text)
        self.said.append(line)
        return line


class Node(Closing):
    """The namespace, its manifests and its kernel."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run_dir = folder.with_name("run")
        folder.mkdir(exist_ok=True)
        self.write("nodes", NODES)
        self.namespace = Namespace()
        self.kernel = Kernel(self.namespace)

    def write(self, name: str, text: str) -> None:
        """Rename a manifest into place, as an editor does: no reader sees half of it."""
        new = self.folder / f".{name}.new"
        new.write_text(text)
        new.rename(self.folder / f"{name}.yaml")

    def remove(self, name: str) -> None:
        (self.folder / f"{name}.yaml").unlink()

    def agent(self, *options: str, environment: Mapping[str, str] | None = None) -> Agent:
        """The agent, started."""
        return Agent(self.namespace, self.folder, self.run_dir, *options, environment=environment)

    def run_agent(self, *options: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        """The agent, where it is expected to end by itself."""
        words = (*words_of(folder or self.folder, self.run_dir), *options)
        return self.namespace.run(
            lambda: subprocess.run(words, capture_output=True, text=True, check=False, timeout=SECONDS)
        )

    def close(self) -> None:
        self.kernel.close()
        self.namespace.close()


def words_of(folder: Path, run_dir: Path) -> tuple[str, ...]:
    """The command, on node n1; a later --node wins."""
    words = (sys.executable, "-m", "netplane", "agent", "run", "--from", str(folder), "--node", "n1")
    return (*words, "--run-dir", str(run_dir), "--state-dir", str(run_dir.with_name(f"{run_dir.name}-state")))


def _subscribe() -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, netlink.NETFILTER)
    made.bind((0, 0))
    made.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _NFTABLES_GROUP)
    return made
