"""Containers attached and detached: netplane and the reference plugins in blocks, by turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.cni_exec import Block
from bench.cni_netplane import Netplane
from bench.cni_results import AT_ONCE, AttachAmount, Attached, AttachRun, case
from bench.cni_sides import (
    PLAIN,
    PORTS,
    REFERENCE_PLUGINS,
    Pods,
    Reference,
    Side,
    Way,
    busy_seconds,
    links,
    own_seconds,
    wait_for_links,
)
from bench.timing import timed


def run_attach(amount: AttachAmount, say: Callable[[str], None]) -> AttachRun:
    """Everything about containers. Raises RuntimeError with what a plugin said if one refuses."""
    with TemporaryDirectory(prefix="netplane-bench-") as place, ExitStack() as stack:
        reference = stack.enter_context(Reference(_folder(place, "reference")))
        netplane = stack.enter_context(Netplane(_folder(place, "netplane")))
        run = _Run(amount, stack.enter_context(Pods()), [netplane, reference])
        for way in (PLAIN, PORTS):
            run.warm_up(way)
        busy, own, (seconds, _) = busy_seconds(), own_seconds(run.sides), timed(lambda: run.measure(say))
        found = run.found
        own, busy = own_seconds(run.sides) - own, busy_seconds() - busy
        found.other = max(busy - own, 0.0) / seconds
        found.launcher_bytes = netplane.launcher.stat().st_size
        found.reference_bytes = (REFERENCE_PLUGINS / "bridge").stat().st_size
        say(f"{amount.many} containers")
        found.many, found.empty_mib = amount.many, netplane.memory()
        found.many_mib = run.memory_with(amount.many, netplane)
        return found


class _Run:
    def __init__(self, amount: AttachAmount, pods: Pods, sides: Sequence[Side]) -> None:
        self._amount, self._pods, self.sides = amount, pods, sides
        self._settled = [0 for _ in sides]
        self.found = AttachRun()

    def warm_up(self, way: Way) -> None:
        """What is made once, as a bridge, is there afterwards."""
        for number, side in enumerate(self.sides):
            (pod,) = self._pods.make(1)
            before = links(side)
            (ran,) = side.runner.run([side.add(way, pod)]).ran
            side.runner.run([side.delete(way, pod, ran.output)])
            wait_for_links(side, max(before, 2))  # lo and the bridge
            self._settled[number] = links(side)

    def measure(self, say: Callable[[str], None]) -> None:
        """All ways, all sides, block by block."""
        amount = self._amount
        say("VERSION")
        self._versions()
        for way, count, workers in (
            (PLAIN, amount.serial, 1),
            (PLAIN, amount.parallel, AT_ONCE),
            (PORTS, amount.ports, 1),
        ):
            say(case(way.name, workers))
            attached = [Attached() for _ in self.sides]
            for block in range(amount.blocks):
                order = list(range(len(self.sides)))
                for number in order[::-1] if block % 2 else order:
                    self._block(number, way, count, workers, attached[number])
            self.found.attached[case(way.name, workers)] = (attached[0], attached[1])

    def memory_with(self, count: int, netplane: Netplane) -> float:
        """MiB of the agent when so many containers are attached."""
        pods = self._pods.make(count)
        done = netplane.runner.run([netplane.add(PORTS, pod) for pod in pods], AT_ONCE)
        found = netplane.memory()
        deleted = zip(pods, done.ran, strict=True)
        netplane.runner.run([netplane.delete(PORTS, pod, ran.output) for pod, ran in deleted], AT_ONCE)
        wait_for_links(netplane, self._settled[0])
        return found

    def _versions(self) -> None:
        for _ in range(self._amount.blocks):
            for side, found in zip(self.sides, self.found.versions, strict=True):
                ran = side.runner.run([side.version()] * self._amount.versions).ran
                found += [each.seconds for each in ran]

    def _block(self, number: int, way: Way, count: int, workers: int, found: Attached) -> None:
        side = self.sides[number]
        pods = self._pods.make(count)
        served = side.served()
        added = side.runner.run([side.add(way, pod) for pod in pods], workers)
        found.add.note(added, side.served() - served)
        served = side.served()
        operations = [side.delete(way, pod, ran.output) for pod, ran in zip(pods, added.ran, strict=True)]
        gone, deleted = timed(lambda: self._delete(number, operations, workers))
        found.delete.note(deleted, side.served() - served)
        found.gone.append(gone / count)

    def _delete(self, number: int, operations: Sequence[Sequence[object]], workers: int) -> Block:
        side = self.sides[number]
        done = side.runner.run(operations, workers)  # type: ignore[arg-type]
        wait_for_links(side, self._settled[number])
        return done


def _folder(place: str, name: str) -> Path:
    made = Path(place, name)
    made.mkdir()
    return made
