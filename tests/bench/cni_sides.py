"""Who attaches containers, each in a node's namespace of its own: the reference plugins, or netplane's agent."""

from __future__ import annotations

import json
import os
import resource
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bench.cni_exec import Runner, Stage
from netplane.closing import Closing
from netplane.kernel.netns import Namespace

REFERENCE_PLUGINS = Path("/usr/lib/cni")
_VERSION = "1.0.0"
_GONE_SECONDS = 60.0
SUBNET = "10.90.0.0/16"


@dataclass(frozen=True, slots=True)
class Way:
    """How containers are attached. `ports`: they are masqueraded and have a hostPort each."""

    name: str
    ports: bool = False


PLAIN = Way("bridge")
PORTS = Way("bridge, masquerade, a hostPort", ports=True)


@dataclass(frozen=True, slots=True)
class Pod:
    """A container to be: a namespace without anything in it."""

    number: int
    netns: str


class Pods(Closing):
    """Fresh namespaces, kept until the end: to end one costs the kernel time that others would be charged."""

    def __init__(self) -> None:
        self._open: list[int] = []
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    def make(self, count: int) -> list[Pod]:
        """So many containers that nobody has attached yet."""
        made = []
        for _ in range(count):
            with Namespace() as namespace:
                self._open.append(os.dup(namespace.fd))
            made.append(Pod(len(self._open), f"/proc/{os.getpid()}/fd/{self._open[-1]}"))
        return made

    def close(self) -> None:
        for each in self._open:
            os.close(each)


class Side(Protocol):
    """One of those that are compared."""

    namespace: Namespace
    runner: Runner

    def add(self, way: Way, pod: Pod) -> list[Stage]:
        """What the runtime starts to attach a container."""

    def delete(self, way: Way, pod: Pod, result: bytes) -> list[Stage]:
        """What it starts to detach it, given what ADD printed."""

    def version(self) -> list[Stage]:
        """The command VERSION, which does nothing."""

    def served(self) -> float:
        """Seconds of processor time used so far by what serves all containers, 0 if there is no such thing."""


def missing() -> str:
    """Which reference plugins this machine has not: "" if none."""
    lacking = [each for each in ("bridge", "host-local", "portmap") if not (REFERENCE_PLUGINS / each).exists()]
    where = f"{REFERENCE_PLUGINS} (package containernetworking-plugins)"
    return f"missing in {where}: {', '.join(lacking)}" if lacking else ""


class Reference(Closing):
    """Debian's bridge + host-local, and portmap. Raises RuntimeError where they are missing."""

    def __init__(self, folder: Path) -> None:
        if lacking := missing():
            raise RuntimeError(lacking)
        self.namespace = Namespace()
        self.runner = Runner(folder, self.namespace)
        self._leases = str(folder / "networks")

    def add(self, way: Way, pod: Pod) -> list[Stage]:
        """See `Side.add`."""
        return self._stages("ADD", way, pod, {})

    def delete(self, way: Way, pod: Pod, result: bytes) -> list[Stage]:
        """See `Side.delete`: in the opposite order, each with the result of all."""
        return self._stages("DEL", way, pod, {"prevResult": json.loads(result)})[::-1]

    def version(self) -> list[Stage]:
        """See `Side.version`."""
        return [Stage(REFERENCE_PLUGINS / "bridge", {"CNI_COMMAND": "VERSION"}, {})]

    def served(self) -> float:
        """See `Side.served`: there is nothing."""
        return 0.0

    def close(self) -> None:
        self.namespace.close()

    def _stages(self, command: str, way: Way, pod: Pod, extra: Mapping[str, Any]) -> list[Stage]:
        environment = environment_of(command, pod, REFERENCE_PLUGINS)
        ipam = {"type": "host-local", "dataDir": self._leases, "ranges": [[{"subnet": SUBNET}]]}
        bridge = {"type": "bridge", "bridge": "cni0", "isDefaultGateway": True, "hairpinMode": True, "ipam": ipam}
        plugins: list[dict[str, Any]] = [bridge | {"ipMasq": way.ports}]
        if way.ports:
            plugins.append({"type": "portmap", "runtimeConfig": port_mapping(pod)})
        return [
            Stage(
                REFERENCE_PLUGINS / each["type"],
                environment,
                {"cniVersion": _VERSION, "name": "pods", **each, **extra},
                chained=bool(number) and not extra,
            )
            for number, each in enumerate(plugins)
        ]


def environment_of(command: str, pod: Pod, path: Path) -> dict[str, str]:
    """What containerd sets."""
    arguments = f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod-{pod.number}"
    return {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": container_id(pod),
        "CNI_NETNS": pod.netns,
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": f"{arguments};K8S_POD_INFRA_CONTAINER_ID={container_id(pod)}",
        "CNI_PATH": str(path),
    }


def container_id(pod: Pod) -> str:
    """As long as containerd's."""
    return f"{pod.number:064x}"


def port_mapping(pod: Pod) -> dict[str, Any]:
    """`runtimeConfig` with one hostPort, as containerd writes it."""
    mapping = {"HostPort": 10_000 + pod.number, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""}
    return {"portMappings": [mapping]}


def links(side: Side) -> int:
    """How many links the node has."""
    return side.namespace.run(lambda: len(socket.if_nameindex()))


def wait_for_links(side: Side, count: int) -> None:
    """Until the node has no more than so many: then every link that was to be deleted is gone."""
    deadline = time.monotonic() + _GONE_SECONDS
    while links(side) > count:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{links(side)} links after {_GONE_SECONDS:g} s, not {count}")
        time.sleep(0.001)


def busy_seconds() -> float:
    """Of all processors of the machine, since it started."""
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _waiting, irq, softirq, steal = (int(each) for each in words[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def own_seconds(sides: Sequence[Side]) -> float:
    """Of this process, of what it has started and waited for, and of what serves."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system + sum(each.served() for each in sides)
