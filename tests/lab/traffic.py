"""Connections without end to a small cluster while something happens to its first node: none may fail or break.

The process of `tests/churn/storm_process.py` makes them: a SYN that had to be sent again counts as lost.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

from netplane.closing import Closing
from netplane.lab.cases import load_cluster
from netplane.lab.namespaces import Lab
from netplane.lab.topology import first
from netplane.model.address import Family, host_port
from netplane.model.pod import PodId

ROOT = Path(__file__).parent.parent.parent
PROCESS = ROOT / "tests" / "churn" / "storm_process.py"
CASE = ROOT / "tests" / "cases" / "node-port"
RATE = 600
DEADLINE = 60.0
LASTING = 24
"""Established connections, over all targets by turns."""
FRESH_PORT, LASTING_PORT = 8080, 8200
"""Where pods listen: the process greets and closes below 8180, and goes on answering above."""

NODE = {Family.IPV4: "192.0.2.11", Family.IPV6: "2001:db8:2::11"}
WEB = {Family.IPV4: "10.96.0.10", Family.IPV6: "fd00:10:96::10"}
LONG = {Family.IPV4: "10.96.0.30", Family.IPV6: "fd00:10:96::30"}
PODS = {Family.IPV4: ("10.244.1.5", "10.244.2.5"), Family.IPV6: ("fd00:10:244:1::5", "fd00:10:244:2::5")}
_FAMILY = {Family.IPV4: 2, Family.IPV6: 10}

SECOND_SERVICE = f"""apiVersion: v1
kind: Service
metadata: {{name: long, namespace: shop}}
spec:
  type: NodePort
  selector: {{app: web}}
  clusterIPs: [{LONG[Family.IPV4]}, "{LONG[Family.IPV6]}"]
  ports:
    - {{name: echo, protocol: TCP, port: 80, targetPort: {LASTING_PORT}, nodePort: 30082}}
"""


def cluster(folder: Path) -> Path:
    """The manifests: the case `node-port`, and a second Service in front of the same pods."""
    made = Path(shutil.copytree(CASE, folder / "cluster"))
    (made / "long.yaml").write_text(SECOND_SERVICE)
    return made


@contextmanager
def standing(manifests: Path) -> Iterator[Lab]:
    """The cluster's namespaces, without any rules."""
    with Lab(load_cluster(manifests).topology) as lab:
        yield lab


class Traffic(Closing):
    """New and lasting connections from a pod, from the node and from outside, in both families, through n1."""

    def __init__(self, lab: Lab) -> None:
        words = (sys.executable, str(PROCESS))
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self._said: list[dict[str, object]] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._acks = 0
        pods = [lab.pods[PodId("shop", name)] for name in ("web-1", "web-2")]
        ports = [FRESH_PORT, LASTING_PORT]
        servers = [{"path": str(pod.path), "ports": ports} for pod in pods]
        self._tell(servers=servers, clients=_clients(lab), rate=RATE)
        self._wait(lambda said: "ready" in said)

    def start(self) -> None:
        """Begin, and return when the lasting connections stand and new ones are being made."""
        targets = [*_targets()]
        allowed = {each["id"]: each.pop("allow") for each in targets}
        self._tell(targets=targets, allow=allowed, lasting=LASTING, paused=False)
        self.go_on(200)
        assert self._ask()["lasting"] == LASTING, self._said

    def go_on(self, number: int) -> None:
        """Return when `number` more connections have ended, well or not."""
        before = self._ended()
        end = time.monotonic() + DEADLINE
        while self._ended() < before + number:
            assert time.monotonic() < end, f"less than {number} connections in {DEADLINE:g} s"

    def stop(self) -> tuple[int, list[str]]:
        """End it: how many connections were served, and all that went wrong."""
        assert self._ask()["lasting"] == LASTING, self.wrong()
        self._tell(stop=True)
        last = self._wait(lambda said: "ended" in said and "served" in said)
        self._process.wait(DEADLINE)
        return last["ended"].get("served", 0), self.wrong()

    def wrong(self) -> list[str]:
        """What went wrong so far."""
        with self._news:
            return [str(said["wrong"]) for said in self._said if "wrong" in said]

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._process.stdin.close()
        self._process.stdout.close()

    def _ended(self) -> int:
        return int(self._ask()["ended"])

    def _ask(self) -> dict[str, object]:
        self._acks += 1
        number = self._acks
        self._tell(ack=number)
        return self._wait(lambda said: said.get("ack") == number)

    def _tell(self, **what: object) -> None:
        self._process.stdin.write(json.dumps(what) + "\n")

    def _wait(self, wanted) -> dict:
        with self._news:
            found = self._news.wait_for(lambda: next(filter(wanted, self._said), None), DEADLINE)
        assert found, f"the process said {self._said[-3:]}"
        return found

    def _read(self) -> None:
        for line in self._process.stdout:
            with self._news:
                self._said.append(json.loads(line))
                self._news.notify_all()


def _clients(lab: Lab) -> list[dict[str, object]]:
    node = lab.topology.nodes["n1"]
    mark = next(mark for mark, each in lab.marks() if each.name == "n1")
    pod = PodId("shop", "client")
    who = (
        (lab.pods[pod], lab.topology.pods[pod].addresses, 0),
        (lab.nodes["n1"], node.addresses, 0),
        (lab.outside, node.clients, mark),
    )
    return [
        {
            "path": str(namespace.path),
            "sources": {number: str(first(family, addresses)) for family, number in _FAMILY.items()},
            "mark": mark,
        }
        for namespace, addresses, mark in who
    ]


def _targets() -> Iterator[dict[str, object]]:
    """Cluster IP and node port, from a pod, from the node and from outside."""
    number = 0
    for family in Family:
        for client, name in enumerate(("pod", "node", "outside")):
            ways = (
                (WEB[family], 80, False),
                (NODE[family], 30080, False),
                (LONG[family], 80, True),
                (NODE[family], 30082, True),
            )
            for address, port, lasting in ways:
                number += 1
                at = LASTING_PORT if lasting else FRESH_PORT
                yield {
                    "id": number,
                    "client": client,
                    "name": f"{name} -> {host_port(ip_address(address), port)}",
                    "address": (address, port),
                    "lasting": lasting,
                    "allow": [host_port(ip_address(pod), at) for pod in PODS[family]],
                }
