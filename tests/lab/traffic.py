"""Connections without end to a small cluster while something happens to its first node: none may fail or break.

The storm of `tests/churn` makes them: a SYN that had to be sent again counts as lost.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from itertools import count
from pathlib import Path

from netplane.lab import sockets
from netplane.lab.cases import load_cluster
from netplane.lab.namespaces import Lab
from netplane.lab.topology import first
from netplane.model.address import Family, host_port
from netplane.model.pod import PodId

ROOT = Path(__file__).parent.parent.parent
sys.path.append(str(ROOT / "tests" / "churn"))

from storm import Outcomes, Storm, StormClient, StormServer, StormTarget  # noqa: E402  its folder is known by now

CASE = ROOT / "tests" / "cases" / "node-port"
RATE = 600
DEADLINE = 60.0
LASTING = 24
"""Established connections, over all targets by turns."""
FRESH_PORT, LASTING_PORT = 8080, 8200
"""Where pods listen: the first greets and closes, the second goes on answering."""

NODE = {Family.IPV4: "192.0.2.11", Family.IPV6: "2001:db8:2::11"}
WEB = {Family.IPV4: "10.96.0.10", Family.IPV6: "fd00:10:96::10"}
LONG = {Family.IPV4: "10.96.0.30", Family.IPV6: "fd00:10:96::30"}
PODS = {Family.IPV4: ("10.244.1.5", "10.244.2.5"), Family.IPV6: ("fd00:10:244:1::5", "fd00:10:244:2::5")}

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


class Traffic(Storm):
    """New and lasting connections from a pod, from the node and from outside, in both families, through n1."""

    def __init__(self, lab: Lab) -> None:
        pods = [lab.pods[PodId("shop", name)] for name in ("web-1", "web-2")]
        servers = [StormServer(str(pod.path), (FRESH_PORT,), (LASTING_PORT,)) for pod in pods]
        super().__init__(servers, _clients(lab), RATE)

    def start(self) -> None:
        """Begin, and return when the lasting connections stand and new ones are being made."""
        targets = [*_targets()]
        self.add(target for target, _ in targets)
        self.allow({target.id: allowed for target, allowed in targets})
        self.last(LASTING)
        self.resume()
        self.go_on(200)
        assert self._ask()["lasting"] == LASTING, self.wrong

    def go_on(self, number: int) -> None:
        """Return when `number` more connections have ended, well or not."""
        wanted = self._ask()["ended"] + number
        end = time.monotonic() + DEADLINE
        while self._ask()["ended"] < wanted:
            assert time.monotonic() < end, f"less than {number} connections in {DEADLINE:g} s"

    def finish(self) -> int:
        """End it: how many new connections were served. Fails if anything went wrong before."""
        assert self._ask()["lasting"] == LASTING, self.wrong
        last = self.stop()
        assert self.wrong == []
        assert last["broken"] == 0
        return last["ended"]["served"]


def _clients(lab: Lab) -> list[StormClient]:
    node = lab.topology.nodes["n1"]
    mark = next(mark for mark, each in lab.marks() if each.name == "n1")
    pod = PodId("shop", "client")
    who = (
        (lab.pods[pod], lab.topology.pods[pod].addresses, 0),
        (lab.nodes["n1"], node.addresses, 0),
        (lab.outside, node.clients, mark),
    )
    return [
        StormClient(
            str(namespace.path), {of: str(first(family, addresses)) for family, of in sockets.DOMAIN.items()}, mark
        )
        for namespace, addresses, mark in who
    ]


def _targets() -> Iterator[tuple[StormTarget, Outcomes]]:
    """Cluster IP and node port, from a pod, from the node and from outside; and who may answer."""
    numbers = count()
    for family in Family:
        for client, name in enumerate(("pod", "node", "outside")):
            ways = (
                (WEB[family], 80, False),
                (NODE[family], 30080, False),
                (LONG[family], 80, True),
                (NODE[family], 30082, True),
            )
            for address, port, lasting in ways:
                to = f"{name} -> {host_port(ip_address(address), port)}"
                target = StormTarget(next(numbers), client, to, (address, port), lasting)
                at = LASTING_PORT if lasting else FRESH_PORT
                yield target, frozenset(host_port(ip_address(pod), at) for pod in PODS[family])
