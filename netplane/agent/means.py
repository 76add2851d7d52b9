"""What an agent works with: opened in one order, closed in the opposite one."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from netplane.agent.lock import SOCKET, NamespaceMark, RunDirectory
from netplane.agent.network import PodNetwork
from netplane.agent.network_watch import NetworkWatch
from netplane.agent.pods import CniService, serving
from netplane.agent.work import AgentOptions, Work
from netplane.kernel.events import RulesetEvents
from netplane.kernel.host import Host
from netplane.kernel.transactions import OwnTransactions
from netplane.sources.watch import Watcher


class Means(NamedTuple):
    """Everything that has to be closed."""

    host: Host
    events: RulesetEvents
    watcher: Watcher
    mark: NamespaceMark
    questions: socket.socket
    work: Work
    pods: CniService | None
    network: NetworkWatch


@contextmanager
def means_of(options: AgentOptions) -> Iterator[Means]:
    """In the namespace of the calling thread. Raises NetplaneError, OwnershipError if another agent is at work here."""
    own = OwnTransactions()
    with (
        RunDirectory.made(options.run_directory) as place,
        place.lock(),
        NamespaceMark() as mark,
        Host(options.host, own=own) as host,
        PodNetwork(options.node, options.network, options.host, own) as network,
        NetworkWatch(network) as watch,  # listen before reading: no change may fall between
        RulesetEvents() as events,
        Watcher(options.source) as watcher,
        _listening(place) as questions,
    ):
        work = Work(options, host, network)
        with serving(options.cni, place, work.network) as pods:
            yield Means(host, events, watcher, mark, questions, work, pods, watch)


@contextmanager
def _listening(place: RunDirectory) -> Iterator[socket.socket]:
    with place.listen() as made:
        try:
            yield made
        finally:
            place.remove(SOCKET)
