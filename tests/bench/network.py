"""The Pod network across two nodes: packets through every mode, by turns; then many peers on one node."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.cni_sides import busy_seconds, own_seconds
from bench.network_netplane import OWN
from bench.network_packets import exchanged
from bench.network_peers import peer_runs
from bench.network_results import SIDES, NetworkAmount, NetworkRun
from bench.network_sides import OTHERS, Side, side
from bench.timing import timed
from netplane.errors import RequirementError

Say = Callable[[str], None]
_MAKING = OTHERS | OWN


def run_network(amount: NetworkAmount, say: Say) -> NetworkRun:
    """Everything about the Pod network across nodes."""
    run = NetworkRun(amount.peers, amount.kept)
    with TemporaryDirectory(prefix="netplane-bench-") as place, ExitStack() as stack:
        sides = _made(Path(place), run, say, stack)
        say(f"packets from Pod to Pod, {amount.rounds} rounds")
        busy, own = busy_seconds(), own_seconds(())
        seconds, run.packets = timed(lambda: exchanged(sides, amount))
        run.other = max(busy_seconds() - busy - (own_seconds(()) - own), 0.0) / seconds
    say(f"{amount.peers} peers")
    run.peer_runs = peer_runs(amount)
    return run


def _made(place: Path, run: NetworkRun, say: Say, stack: ExitStack) -> dict[str, Side]:
    sides = {}
    for number, name in enumerate(SIDES):
        say(f"two nodes and two Pods: {name}")
        try:
            sides[name] = stack.enter_context(side(*_MAKING[name], place / str(number)))
        except (RequirementError, TimeoutError) as error:
            run.missing[name] = str(error)
    return sides
