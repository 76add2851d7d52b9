"""The CNI plugin's part of the agent: its socket, the threads that serve it, and what it is told of the cluster."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cni.keeper import Keeper
from cni.known_network import NodeNetwork
from cni.node import NodeAttachments
from cni.plan import peers_of
from cni.plugin import Plugin
from cni.server import CniServer
from cni.store import State
from cni.sysctls import allowed
from netplane.agent.lock import RunDirectory
from netplane.closing import Closing
from netplane.errors import one_line
from netplane.kernel.host import STATE_DIRECTORY
from netplane.model.node import Node

CNI_SOCKET = "cni.sock"
_STORE, _SPOOL = "cni", "cni/spool"
_STORE_SECONDS = 10.0
"""How long it waits for a plugin that works without an agent just now."""
_SWITCH_SECONDS = 0.0005


@dataclass(frozen=True, slots=True)
class CniOptions:
    """Where attachments are remembered."""

    state_directory: Path = STATE_DIRECTORY


class CniService(Closing):
    """Serves the plugin in the namespace of the thread that creates it, until it is closed.

    Raises NetplaneError where it cannot: OwnershipError if another process has the state directory.
    """

    def __init__(self, options: CniOptions, place: RunDirectory, network: Callable[[], NodeNetwork]) -> None:
        # While a round computes, a thread that wants to serve a container waits for so long, several times: 5 ms each
        # are the interpreter's default.
        sys.setswitchinterval(_SWITCH_SECONDS)
        with ExitStack() as stack:
            store = stack.enter_context(RunDirectory.made(options.state_directory)).path / _STORE
            self._node = stack.enter_context(NodeAttachments(store, _STORE_SECONDS))
            plugin = Plugin(self._node, network, allowed())
            self._keeper = Keeper(plugin, options.state_directory / _SPOOL)
            self._keeper.start()
            stack.enter_context(self._keeper)
            listening: socket.socket = place.listen(CNI_SOCKET)
            stack.callback(place.remove, CNI_SOCKET)
            self._server = stack.enter_context(CniServer(listening, plugin))
            self._server.start()
            self._keeper.run()
            self._open = stack.pop_all()

    def close(self) -> None:
        """Finish what has begun, and let go. Containers keep what they have."""
        self._open.close()

    def value(self) -> dict[str, Any]:
        """How it is, for `netplane agent status`."""
        states = [each.state for each in list(self._node.store.records.values())]
        problems = [one_line(each) for each in list(self._keeper.problems.values())]
        if not self._server.serving:
            problems.append("the thread that serves containers has ended; restart the agent")
        return {
            "attachments": states.count(State.ATTACHED),
            "pending": len(states) - states.count(State.ATTACHED),
            "problems": problems,
        }


@contextmanager
def serving(
    options: CniOptions | None, place: RunDirectory, network: Callable[[], NodeNetwork]
) -> Iterator[CniService | None]:
    """Serve, if options say so."""
    if options is None:
        yield None
        return
    with CniService(options, place, network) as service:
        yield service


def node_network(nodes: Mapping[str, Node], name: str) -> NodeNetwork:
    """What the cluster says of this node."""
    node = nodes.get(name)
    others = (address for each in nodes.values() for address in each.addresses)
    own = node.addresses if node else ()
    return NodeNetwork(node.pod_ranges if node else (), peers_of(others, own))
