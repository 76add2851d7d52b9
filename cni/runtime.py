"""Asks for a container's network as a runtime does: every plugin of a list in turn, each given the last one's result.

For people and tests: `netplane cni add`. A plugin of ours is asked by the agent's socket, without the launcher; where
no agent answers, by a process of `python -m cni`. Others are executed from the folders of executables.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cni import conflist, wire
from cni.conflist import NetworkList
from cni.decode import OWN_TYPE
from cni.environment import is_name
from cni.failure import Code
from cni.request import Command, Reply, Request
from netplane.errors import InputError, KernelError, NetplaneError, RequirementError, one_line

RESULTS = Path("/var/lib/cni/results")
"""Where runtimes keep the results of ADD."""
_SECONDS = 60.0
_EXIT_CODES: dict[int, int] = {
    **dict.fromkeys((1, 2, 3, 4, 6, 7, 8), InputError.exit_code),
    **dict.fromkeys((Code.TRY_AGAIN_LATER, Code.NOT_AVAILABLE, Code.LIMITED_CONNECTIVITY), 4),
    Code.DIFFERS: 1,
}
"""Whoever must act on a plugin's error (docs/cli.md); any other code is the kernel's, 5."""


class PluginRefused(NetplaneError):
    """A plugin answered with an error; the message has its code and its words."""

    def __init__(self, plugin: str, command: Command, reply: Reply) -> None:
        code, said = _error(reply)
        self.code = code
        self.exit_code = _EXIT_CODES.get(code, 5)
        super().__init__(f"{plugin}: {command.value}: code {code}: {said}")


@dataclass(frozen=True, slots=True)
class Container:
    """What a runtime says about a container. `netns` is a path, "" if there is none any more (DEL)."""

    id: str
    netns: str
    ifname: str = "eth0"
    arguments: tuple[str, ...] = ()
    """CNI_ARGS, as `NAME=VALUE`."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """Where plugins are: the agent's socket, the folders of executables; and the spool, beside which our state is."""

    socket: Path
    path: tuple[Path, ...]
    spool: Path

    def add(self, network: NetworkList, container: Container) -> dict[str, Any]:
        """The last plugin's result. If one refuses, what was done is undone, and PluginRefused is raised."""
        result: dict[str, Any] | None = None
        try:
            for plugin in network.plugins:
                reply = self._ask(network, plugin, Command.ADD, container, result)
                result = result_of(reply.stdout, str(plugin["type"]))
        except NetplaneError:
            with suppress(NetplaneError):
                self.delete(network, container, None)
            raise
        return result or {}

    def delete(self, network: NetworkList, container: Container, previous: Mapping[str, Any] | None) -> None:
        """Ask all plugins, the last one first. Raises PluginRefused for the first that refuses."""
        for plugin in reversed(network.plugins):
            self._ask(network, plugin, Command.DEL, container, previous)

    def check(self, network: NetworkList, container: Container, previous: Mapping[str, Any] | None) -> None:
        """Ask all plugins whether all is as ADD left it. Raises PluginRefused for the first that says no."""
        for plugin in network.plugins:
            self._ask(network, plugin, Command.CHECK, container, previous)

    def _ask(
        self,
        network: NetworkList,
        plugin: Mapping[str, Any],
        command: Command,
        container: Container,
        previous: Mapping[str, Any] | None,
    ) -> Reply:
        stdin = json.dumps(conflist.request(network, plugin, {"prevResult": previous})).encode()
        environment = {
            "CNI_COMMAND": command.value,
            "CNI_CONTAINERID": container.id,
            "CNI_NETNS": container.netns,
            "CNI_IFNAME": container.ifname,
            "CNI_ARGS": ";".join(container.arguments),
            "CNI_PATH": os.pathsep.join(map(str, self.path)),
        }
        kind = str(plugin["type"])
        reply = self._own(environment, stdin) if kind == OWN_TYPE else _execute(self._found(kind), environment, stdin)
        if reply.code != 0:
            raise PluginRefused(kind, command, reply)
        return reply

    def _own(self, environment: Mapping[str, str], stdin: bytes) -> Reply:
        with _opened(environment["CNI_NETNS"]) as (fd, number):
            try:
                return wire.call(self.socket, Request(environment, stdin, fd, number), _SECONDS)
            except KernelError:
                words = (sys.executable, "-I", "-m", "cni", str(self.spool))
        return _execute(words, environment, stdin)

    def _found(self, kind: str) -> Sequence[str]:
        found = shutil.which(kind, path=os.pathsep.join(map(str, self.path)))
        if found is None:
            raise RequirementError(f"plugin {kind!r} is in none of {', '.join(map(str, self.path))}")
        return (found,)


@contextmanager
def _opened(path: str) -> Iterator[tuple[int, int]]:
    """A descriptor of a namespace and 0, or -1 and why there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK) if path else -1
    except OSError as error:
        yield -1, error.errno or 0
        return
    try:
        yield fd, 0
    finally:
        if fd >= 0:
            os.close(fd)


def _execute(words: Sequence[str], environment: Mapping[str, str], stdin: bytes) -> Reply:
    whole = {"PATH": os.environ.get("PATH", os.defpath), **environment}
    try:
        done = subprocess.run(words, input=stdin, stdout=subprocess.PIPE, env=whole, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RequirementError(f"{words[0]}: {error}") from error
    return Reply(done.returncode, done.stdout)


def result_of(text: bytes, where: str) -> dict[str, Any]:
    """A result of ADD as JSON. Raises InputError, saying `where` it came from, if it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{where}: not the result of an ADD")
    return value


def kept_result(network: NetworkList, container: Container) -> dict[str, Any] | None:
    """The result of ADD as the runtime keeps it; None if it does not. Raises InputError if it is damaged."""
    if not is_name(container.id) or "/" in container.ifname:
        return None
    path = RESULTS / f"{network.name}-{container.id}-{container.ifname}"
    try:
        kept = result_of(path.read_bytes(), str(path)).get("result")
    except OSError:
        return None
    return kept if isinstance(kept, dict) else None


def _error(reply: Reply) -> tuple[int, str]:
    """Code and words of an error, whatever is left of them."""
    try:
        value = json.loads(reply.stdout)
        code, said = int(value["code"]), [str(value.get("msg", "")), str(value.get("details", ""))]
    except (ValueError, KeyError, TypeError, AttributeError):
        return Code.INTERNAL, one_line(reply.stdout.decode(errors="replace")) or f"exit code {reply.code}, no words"
    return code, one_line(": ".join(filter(None, said)))
