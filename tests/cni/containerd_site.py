"""A node with containerd and plugins, somebody outside, and eyes: what the plugins have left on the node.

outside (192.0.2.2) ---- (192.0.2.1) node ---- containers
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from bench.cni_netplane import Installed
from containerd_image import PORT
from containerd_node import ContainerdNode

from cni import store
from netplane.closing import Closing
from netplane.kernel.netns import Namespace

NODE_ADDRESSES = ("192.0.2.1", "2001:db8::1")
_OUTSIDE = ("192.0.2.2", "2001:db8::2")
_SECONDS = 5.0
_REFERENCE = Path("/usr/lib/cni")
_REFERENCE_PLUGINS = ("bridge", "host-local", "portmap", "bandwidth", "loopback")
_OF_THE_LINK = re.compile(r"(^|[ \"])(fe80|ff00)::")  # the kernel's own addresses and routes of IPv6 on every link


class Plugins(Protocol):
    """Plugins in a folder, and a configuration in another, that attach containers on a node."""

    executables: Path
    net_d: Path
    versions: tuple[int, ...]
    """The families a container gets addresses of."""

    def remembered(self, node: ContainerdNode) -> list[str]:
        """What their own state says is attached, or taken."""

    def close(self) -> None:
        """End what was started."""


class Reference(Closing):
    """Debian's: bridge, host-local, portmap and bandwidth."""

    versions = (4,)

    def __init__(self, namespace: Namespace, folder: Path) -> None:
        self.executables, self.net_d = _REFERENCE, folder / "net.d"
        self.net_d.mkdir(parents=True)
        ipam = {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/24"}]]}
        plugins = [
            {"type": "bridge", "bridge": "cni0", "isDefaultGateway": True, "hairpinMode": True, "ipam": ipam},
            {"type": "portmap", "capabilities": {"portMappings": True}},
            {"type": "bandwidth", "capabilities": {"bandwidth": True}},
        ]
        listed = {"cniVersion": "1.0.0", "name": "pods", "plugins": plugins}
        (self.net_d / "10-pods.conflist").write_text(json.dumps(listed))

    @staticmethod
    def missing() -> str:
        """Which of them this machine has not: "" if none."""
        lacking = [each for each in _REFERENCE_PLUGINS if not (_REFERENCE / each).exists()]
        return f"missing in {_REFERENCE}: {', '.join(lacking)}" if lacking else ""

    def remembered(self, node: ContainerdNode) -> list[str]:
        folder = node.root / "var/lib/cni/networks/pods"
        return sorted(each.name for each in folder.glob("*.*.*.*")) if folder.is_dir() else []

    def close(self) -> None:
        """Nothing was started."""


class Netplane(Installed):
    """netplane's agent and launcher, in one of its modes. Addresses are of the Node object's ranges."""

    versions = (4, 6)

    def __init__(self, mode: str, namespace: Namespace, folder: Path) -> None:
        capabilities = {"portMappings": True, "bandwidth": True}
        plugin = {"type": "netplane", "mode": mode, "capabilities": capabilities}
        super().__init__(namespace, folder, plugin, ["10.88.0.0/24", "fd88::/64"])

    def remembered(self, node: ContainerdNode) -> list[str]:
        return [str(each.attachment.id) for each in store.read(self.state / "cni")]


class Site(Closing):
    """The network, the plugins and containerd. `plugins` makes them, given the node's namespace and a folder."""

    def __init__(self, plugins: Callable[[Namespace, Path], Plugins], folder: Path) -> None:
        with ExitStack() as opened:
            self.namespace, self._outside = (opened.enter_context(Namespace()) for _ in range(2))
            _wire(self.namespace, self._outside)
            self.plugins = plugins(self.namespace, folder / "plugins")
            opened.callback(self.plugins.close)
            made = ContainerdNode(self.namespace, folder / "node", self.plugins.executables, self.plugins.net_d)
            self.node = opened.enter_context(made)
            self._opened = opened.pop_all()

    def ask_from_outside(self, port: int, version: int = 4) -> str:
        """Which container answers at a port of the node."""
        return self._outside.run(lambda: ask(NODE_ADDRESSES[version == 6], port))

    def ask_from_node(self, address: str, port: int = PORT) -> str:
        """Which container answers at an address, asked by the node itself."""
        return self.namespace.run(lambda: ask(address, port))

    def udp_client(self, port: int) -> socket.socket:
        """Somebody outside who goes on sending to a port of the node."""

        def connect() -> socket.socket:
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            made.settimeout(_SECONDS)
            made.connect((NODE_ADDRESSES[0], port))
            return made

        return self._outside.run(connect)

    def udp_server(self, port: int) -> socket.socket:
        """A server inside the only sandbox there is."""

        def bind() -> socket.socket:
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            made.settimeout(_SECONDS)
            made.bind(("", port))
            return made

        (name,) = self.node.netns_left()
        with Namespace(self.node.root / "run/netns" / name) as inside:
            return inside.run(bind)

    def state(self) -> dict[str, list[str]]:
        """All that plugins could leave on the node: links, addresses, routes, qdiscs, rules, what they remember."""
        return {
            "links": sorted(json_of(self.namespace, "ip", "link")),
            "addresses": self._lines("ip", "-o", "address", "show", "scope", "global"),
            "routes": self._lines("ip", "route", "show", "table", "all")
            + self._lines("ip", "-6", "route", "show", "table", "all"),
            "qdiscs": self._lines("tc", "qdisc", "show"),
            "rules": self._lines("nft", "--stateless", "list", "ruleset"),
            "remembered": self.plugins.remembered(self.node),
            "namespaces": self.node.netns_left(),
            "sandboxes": self.node.cri.sandboxes(),
        }

    def close(self) -> None:
        self._opened.close()

    def _lines(self, *words: str) -> list[str]:
        lines = _run(self.namespace, *words).splitlines()
        return sorted(line.rstrip() for line in lines if not _OF_THE_LINK.search(line))


def ask(address: str, port: int) -> str:
    """What a container of our image answers: its host name. "" if nobody does; one that has just started is awaited."""
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((address, port), _SECONDS) as connection:
                return connection.makefile().readline().strip()
        except ConnectionRefusedError:
            time.sleep(0.01)
        except OSError:
            break
    return ""


def json_of(namespace: Namespace, program: str, what: str) -> list[str]:
    """The names `ip -json WHAT show` lists."""
    return [each["ifname"] for each in json.loads(_run(namespace, program, "-json", what, "show"))]


def _wire(node: Namespace, outside: Namespace) -> None:
    for namespace in (node, outside):
        _run(namespace, "ip", "link", "set", "lo", "up")
    _run(node, "ip", "link", "add", "uplink", "type", "veth", "peer", "name", "uplink", "netns", str(outside.path))
    for namespace, addresses in ((node, NODE_ADDRESSES), (outside, _OUTSIDE)):
        for address, size in zip(addresses, (24, 64), strict=True):
            options = ("nodad",) if ":" in address else ()
            _run(namespace, "ip", "address", "add", f"{address}/{size}", "dev", "uplink", *options)
        _run(namespace, "ip", "link", "set", "uplink", "up")


def _run(namespace: Namespace, *words: str) -> str:
    def work() -> subprocess.CompletedProcess[str]:
        found = shutil.which(words[0]) or words[0]
        return subprocess.run((found, *words[1:]), capture_output=True, text=True, check=False, timeout=30)

    done = namespace.run(work)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout
