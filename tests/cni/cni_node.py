"""A node for the plugin: an anonymous namespace, its attachments, and containers that are namespaces too."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cni.keeper import Keeper
from cni.known_network import NodeNetwork
from cni.node import NodeAttachments
from cni.plugin import Plugin
from cni.request import Reply, Request
from cni.store import State
from cni.sysctls import allowed
from netplane.closing import Closing
from netplane.kernel import command
from netplane.kernel.netns import Namespace

RANGES = {4: "10.88.1.0/24", 6: "fd00:88:1::/64"}
DUAL = [[{"subnet": RANGES[4]}], [{"subnet": RANGES[6]}]]


def network(mode: str = "bridge", version: str = "1.0.0", **options: Any) -> dict[str, Any]:
    """A configuration as a runtime would send it; `options` replace what is there."""
    made = {"cniVersion": version, "name": "pods", "type": "netplane", "mode": mode, "ipam": {"ranges": DUAL}}
    return made | options


class Container(Closing):
    """A namespace that stands for one, and what it looks like from inside."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.namespace = Namespace()

    def ip(self, *words: str) -> Any:
        return ip(self.namespace, *words)

    def addresses(self, link: str = "eth0") -> set[str]:
        """`10.88.1.2/24`: all but link-local."""
        found = [each for each in self.ip("addr", "show", "dev", link) if each]
        return {f"{each['local']}/{each['prefixlen']}" for each in found[0]["addr_info"] if each["scope"] != "link"}

    def routes(self, family: int = 4) -> list[dict[str, Any]]:
        return [*self.ip(f"-{family}", "route", "show")]

    def links(self) -> set[str]:
        return {each["ifname"] for each in self.ip("link", "show")}

    def close(self) -> None:
        self.namespace.close()


class Node(Closing):
    """The plugin without socket and launcher. `again` ends it as a crash would and starts it anew."""

    def __init__(self, directory: Path, cluster: NodeNetwork | None = None) -> None:
        self.directory = directory
        self.cluster = cluster or NodeNetwork()
        self.namespace = Namespace()
        self._open()

    def _open(self) -> None:
        self.attachments = self.namespace.run(lambda: NodeAttachments(self.directory / "cni"))
        self.plugin = Plugin(self.attachments, lambda: self.cluster, allowed(Path("/nonexistent")))
        self.keeper = Keeper(self.plugin, self.directory / "cni" / "spool")
        self.keeper.start()

    def again(self) -> None:
        """A restart of the agent."""
        self.attachments.close()
        self._open()

    def ip(self, *words: str) -> Any:
        return ip(self.namespace, *words)

    def nft(self, *words: str) -> str:
        return self.namespace.run(lambda: command.run("nft", *words, mechanism="nftables", doing="test"))

    def links(self) -> set[str]:
        """The host links of containers."""
        return {each["ifname"] for each in self.ip("link", "show") if each["ifname"].startswith(("npb", "npr", "npi"))}

    def ask(
        self,
        verb: str,
        config: Mapping[str, Any],
        container: Container | str = "",
        variables: Mapping[str, str] | None = None,
        ifname: str = "eth0",
    ) -> Reply:
        """One request, as the launcher hands it over."""
        with _opened(container) as (name, path, fd):
            environment = {"CNI_COMMAND": verb, "CNI_PATH": "/usr/lib/cni", "CNI_CONTAINERID": name}
            environment |= {"CNI_IFNAME": ifname, "CNI_NETNS": path}
            given = {key: value for key, value in (environment | dict(variables or {})).items() if value}
            request = Request(given, json.dumps(config).encode(), fd)
            self.plugin.quick(request)
            return self.plugin.handle(request)

    def add(self, config: Mapping[str, Any], container: Container, **more: Any) -> dict[str, Any]:
        """The result of an ADD that must succeed."""
        reply = self.ask("ADD", config, container, **more)
        assert reply.code == 0, reply
        result: dict[str, Any] = json.loads(reply.stdout)
        return result

    def done(self, verb: str, config: Mapping[str, Any], container: Container | str, **more: Any) -> None:
        """Any other verb, which must succeed and say nothing."""
        assert self.ask(verb, config, container, **more) == Reply(0)

    def refused(self, verb: str, config: Mapping[str, Any], container: Container | str = "", **more: Any) -> dict:
        """The error of a request that must fail."""
        reply = self.ask(verb, config, container, **more)
        assert reply.code != 0
        error: dict[str, Any] = json.loads(reply.stdout)
        return error

    def settle(self) -> None:
        """Until what is doomed is gone."""
        records = self.attachments.store.records
        self.attachments.wait_gone([id_ for id_, each in records.items() if each.state is State.DOOMED])

    def close(self) -> None:
        self.attachments.close()
        self.namespace.close()


def ip(namespace: Namespace, *words: str) -> Any:
    """What iproute2 says, a second pair of eyes."""
    said = namespace.run(lambda: command.run("ip", "-json", "-details", *words, mechanism="ip", doing="test"))
    return json.loads(said or "[]")


@contextmanager
def _opened(container: Container | str) -> Iterator[tuple[str, str, int]]:
    """Its name, the path of its namespace and a descriptor; a mere name has no namespace."""
    if isinstance(container, str):
        yield container, "", -1
        return
    path = str(container.namespace.path)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield container.name, path, fd
    finally:
        os.close(fd)
