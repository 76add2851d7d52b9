"""A node whose agent follows a folder that never rests, under fire, with accidents; and what must be true all along.

After every batch the kernel has what a compile from scratch of the folder's meaning wants: asked of the kernel by a
thread that has nothing to do with the agent. Everything is drawn from one seed, so that a step can be reached again.
"""

from __future__ import annotations

import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from itertools import product
from pathlib import Path
from random import Random

from churn.background import NODE, Background
from churn.folder import Batch, Folder, Meaning
from churn.fronts import DOORS, ECHO, SERVERS, WEB, Front, Picked
from churn.manifests import Object
from churn.place import BOTH, CLIENT, Shooter, flush, settings, shooters, somebody_else, wiring
from churn.storm import Outcomes, Storm, StormClient, StormServer, StormTarget
from generated.clusters import NODE_IPS
from generated.simulator import plain, wanted
from node_of_agent import Agent

from netplane.agent.control import Refusal, ask
from netplane.backends.backend import Backend
from netplane.backends.registry import BACKENDS
from netplane.closing import Closing
from netplane.kernel.host import Host
from netplane.kernel.mechanism import Pending
from netplane.kernel.nftables import NftablesDriver
from netplane.lab.namespaces import Lab
from netplane.lab.topology import first
from netplane.model.address import Family, IPAddress, Protocol, family_of, host_port
from netplane.model.pod import PodId
from netplane.model.service import Service
from netplane.model.snapshot import Snapshot
from netplane.plan.node import plan_node
from netplane.plan.oracle import Deliver, Oracle, Packet, Reject, Untouched
from netplane.plan.plan import Drop, Origin
from netplane.programs.program import Program
from netplane.sources.assemble import Assembler, Change
from netplane.sources.options import settings_of

SECONDS = 15.0
ACCIDENTS = {"": 80, "kill": 4, "killed before": 2, "hang up": 5, "flush": 4, "switch": 3}
"""What happens beside the changes of a batch, and how often."""
TWO_TRANSACTIONS = frozenset({"iptables"})
"""Backends that forward in one kernel transaction and refuse in another: a packet that comes between them, when one
turns into the other, is nobody's."""
REFUSED = frozenset({"refused", "lost"})
DOMAIN = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}


@dataclass(slots=True)
class Report:
    """What happened in a run."""

    steps: int = 0
    batches: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    settle: list[float] = field(default_factory=list)
    repairs: list[float] = field(default_factory=list)
    storm: dict[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        settle = sorted(self.settle) or [0.0]
        times = f"settled p50 {settle[len(settle) // 2] * 1000:.0f} ms, worst {settle[-1] * 1000:.0f} ms"
        if self.repairs:
            times += f", a flush repaired after {max(self.repairs) * 1000:.0f} ms at most"
        kinds = ", ".join(f"{count} x {kind}" for kind, count in sorted(self.kinds.items()))
        return f"{self.steps} steps in {self.batches} batches ({kinds}); {times}; connections: {self.storm}"


class Churn(Closing):
    """One run. `steps` may be called as often as wanted; closing it checks that the agent printed no traceback."""

    def __init__(self, seed: int, backend: Backend, folder: Path, run: Path, rate: float) -> None:
        self.seed, self._backend, self._run = seed, backend, run
        self._first = backend.name
        self._random = Random(f"live {seed}")
        self.report = Report()
        self._said: list[str] = []
        self._options, attach = settings(self._random)
        self._settings = settings_of(dict(each.split("=", 1) for each in self._options))
        self._background = Background(seed)
        self._fronts: list[Front] = [
            Front(self._random, 0, "a"),
            Front(self._random, 1, "b"),
            Picked(self._random, 2, "c"),
            Front(self._random, 3, ""),
        ]
        self._folder = Folder(folder, self._random)
        self._next_target = 0
        self._allowed: dict[int, Outcomes] = {}
        self._by_front: dict[int, list[tuple[StormTarget, Packet]]] = {}
        with ExitStack() as made:
            self._lab = made.enter_context(Lab(wiring(attach)))
            self._node = self._lab.nodes[NODE]
            self._node.run(somebody_else)
            self._host = made.enter_context(self._node.run(Host))
            self._driver = made.enter_context(self._node.run(NftablesDriver))
            self._shooters = shooters(self._lab.topology)
            self._storm = made.enter_context(self._start_storm(rate))
            self._carry_out(self._folder.towards(self._desired(), calm=True))
            self._agent = self._start_agent()
            self._made = made.pop_all()
        self._settle()
        for number, front in enumerate(self._fronts):
            self._aim(number, front)
        self._allow(self._exact())
        self._storm.last(sum(each.lasting for aimed in self._by_front.values() for each, _ in aimed))
        self._storm.resume()

    def close(self) -> None:
        self._agent.close()
        self._made.close()

    # --- a series of batches ---

    def steps(self, count: int) -> None:
        """So many changes, in batches. Raises AssertionError naming seed and step."""
        last = self.report.steps + count
        while self.report.steps < last:
            try:
                self._batch()
                assert not self._storm.wrong, "\n".join(self._storm.wrong[:10])
            except AssertionError as error:
                said = "\n  ".join(self._said[-12:])
                again = f"NETPLANE_CHURN_SEED={self.seed} NETPLANE_CHURN_STEPS={self.report.steps}"
                raise AssertionError(
                    f"{self._first}, seed {self.seed}, step {self.report.steps}: {error}\n  {said}\n"
                    f"options {' '.join(self._options)}; again: {again} pytest tests/churn -k {self._first}"
                ) from error

    def finish(self) -> Report:
        """Everything once more, calmly: all files corrected, the source read again, nothing left to do."""
        self._carry_out(self._planned("everything is corrected", calm=True))
        self._hang_up()
        self._settle()
        self._storm.pause()
        self.report.storm = self._storm.stop()
        assert not self._storm.wrong, "\n".join(self._storm.wrong[:10])
        return self.report

    def _batch(self) -> None:
        count = self._random.choice((1, 1, 1, 2, 3, 5))
        said = [self._change() for _ in range(count)]
        accident = self._random.choices([*ACCIDENTS], [*ACCIDENTS.values()])[0]
        self.report.steps += count
        self.report.batches += 1
        self.report.kinds[accident or "no accident"] += 1
        batch = self._planned(f"{'; '.join(said)}; {accident}", killing=accident.startswith("kill"))
        before = self._allowed
        self._allow(_either(before, self._while(batch, switching=accident == "switch")))
        match accident:
            case "kill":
                at = self._random.randrange(len(batch.actions) + 1)
                self._carry_out(batch, range(at))
                self._agent_dies(self._random.uniform(0, 0.06))
                self._carry_out(batch, range(at, len(batch.actions)))
                self._agent_returns()
            case "killed before":
                self._agent_dies(0)
                self._carry_out(batch)
                self._agent_returns()
            case _:
                self._carry_out(batch)
        if accident == "hang up":
            self._hang_up()
        elif accident == "switch" and self._folder.complete:
            self._switch()
        started = time.monotonic()
        self._settle()
        if not accident:
            self.report.settle.append(time.monotonic() - started)
        # What the agent must not sweep yet is still there.
        self._allow(self._exact() if self._folder.complete else _either(before, self._exact()))
        if accident == "flush":
            self._flush()
        if self._random.random() < 0.2:
            self._storm.last(1)

    def _change(self) -> str:
        if self._random.random() < 0.4:
            return self._background.change()
        return self._random.choice(self._fronts).change()

    def _desired(self) -> dict[str, tuple[Object, ...]]:
        files = self._background.files()
        for front in self._fronts:
            files |= front.files()
        return files

    def _planned(self, said: str, *, killing: bool = False, calm: bool = False) -> Batch:
        """What a killed agent cannot remember of the Services under fire is made right before."""
        broken = self._folder.broken()
        under_fire = [title for title in broken if title.startswith("fire.") or title == f"node.{NODE}"]
        correct = broken if calm or self._random.random() < 0.15 else under_fire if killing else []
        batch = self._folder.towards(self._desired(), correct=correct, calm=calm or killing)
        self._said.append(f"{self.report.steps}: {said}: {', '.join(batch.said)}")
        return batch

    def _carry_out(self, batch: Batch, which: range | None = None) -> None:
        for index in which if which is not None else range(len(batch.actions)):
            batch.actions[index]()

    # --- accidents ---

    def _start_agent(self) -> Agent:
        options = ("--backend", self._backend.name, "--at-least", "0.001", "--at-most", "3600")
        settings = (f"--{each}" for each in self._options)
        agent = Agent(self._node, self._folder.path, self._run, *options, *settings)
        agent.next("ready")
        return agent

    def _agent_dies(self, after: float) -> None:
        self._agent.is_quiet(after)
        self._agent.process.kill()
        self._agent.process.wait()
        self._agent.close()

    def _agent_returns(self) -> None:
        self._folder.restarted()
        self._agent = self._start_agent()

    def _hang_up(self) -> None:
        self._agent.process.send_signal(signal.SIGHUP)

    def _switch(self) -> None:
        """The agent is told to serve with the next backend. What it has not read yet is left for the round after."""
        names = sorted(BACKENDS)
        name = names[(names.index(self._backend.name) + 1) % len(names)]
        deadline = time.monotonic() + SECONDS
        while not self._switched(name):
            assert time.monotonic() < deadline, f"not complete after {SECONDS:g} s"
            self._agent.is_quiet(0.02)
        self._backend = BACKENDS[name]

    def _switched(self, name: str) -> bool:
        """False if the agent has not read yet what makes the source complete: written a moment ago."""
        try:
            ask(self._run, {"ask": "backend", "backend": name}, SECONDS)
        except Refusal as refusal:
            if "was never read well" not in str(refusal):
                raise
            return False
        return True

    def _flush(self) -> None:
        """Somebody removes what is ours. Nobody can connect then, but who is connected stays so."""
        self._storm.pause()
        self._node.run(lambda: flush(self._random, self._backend.name))
        started = time.monotonic()
        self._settle()
        self.report.repairs.append(time.monotonic() - started)
        self._storm.resume()

    # --- what must be true ---

    def _settle(self) -> None:
        """Until the kernel has what it should; asked again whenever the agent says something."""
        want, deadline = self._program(), time.monotonic() + SECONDS
        while lines := self._missing(want):
            assert time.monotonic() < deadline, f"not done after {SECONDS:g} s:\n    " + "\n    ".join(lines[:20])
            assert self._agent.process.poll() is None, f"the agent ended: {self._agent.raw[-5:]}"
            self._agent.is_quiet(0.02)
        if want.nftables.structure and self._folder.complete:
            assert plain(self._node.run(self._driver.read)) == wanted(want.nftables)

    def _missing(self, want: Program) -> list[str]:
        """What is still to be done. Without knowing everything the agent may leave more than is wanted."""
        if self._folder.complete:
            pending = self._node.run(lambda: self._host.pending(want))
            return [line for each in pending if each.made or each.swept for line in each.lines()]
        pending = self._node.run(lambda: _pending_without_sweep(self._host, want))
        return [line for each in pending if each.made for line in each.lines()]

    def _program(self) -> Program:
        plan = plan_node(_snapshot(self._folder.objects()), NODE, self._settings)
        return self._backend.compile(plan).program

    def _allow(self, outcomes: dict[int, Outcomes]) -> None:
        self._storm.allow({number: each for number, each in outcomes.items() if self._allowed.get(number) != each})
        self._allowed = outcomes

    def _exact(self) -> dict[int, Outcomes]:
        return {
            target: outcome
            for number, front in enumerate(self._fronts)
            for target, outcome in self._outcomes(
                number, [self._folder.meaning(each) for each in _titles(front)]
            ).items()
        }

    def _while(self, batch: Batch, *, switching: bool) -> dict[int, Outcomes]:
        """What may happen while the agent sees the changes, each file before, after or between, in any order."""
        allowed: dict[int, Outcomes] = {}
        for number, front in enumerate(self._fronts):
            versions = [batch.versions.get(each, [self._folder.meaning(each)]) for each in _titles(front)]
            for chosen in product(*versions):
                for target, outcome in self._outcomes(number, list(chosen)).items():
                    allowed[target] = allowed.get(target, frozenset()) | outcome
        if switching or self._backend.name in TWO_TRANSACTIONS:
            for target, packet in (each for aimed in self._by_front.values() for each in aimed):
                if REFUSED & allowed[target.id] and allowed[target.id] - REFUSED:
                    allowed[target.id] |= _untouched(packet)
        return allowed

    def _outcomes(self, number: int, files: list[Meaning]) -> dict[int, Outcomes]:
        snapshot = _snapshot(one for file in files for one in file.values())
        if NODE not in snapshot.nodes:  # for a moment: then the last good state stays
            return {}
        oracle = Oracle(plan_node(snapshot, NODE, self._settings), self._lab.topology.nodes[NODE].local())
        return {target.id: _outcome(oracle, packet) for target, packet in self._by_front.get(number, ())}

    # --- the storm ---

    def _start_storm(self, rate: float) -> Storm:
        lab = self._lab
        doors = tuple(range(WEB, WEB + DOORS)), tuple(range(ECHO, ECHO + DOORS))
        servers = [StormServer(str(lab.pods[PodId("fire", name)].path), *doors) for name in SERVERS]
        servers.append(StormServer(str(lab.outside.path), (80,), (81,), everyone=True))
        paths = {"pod": lab.pods[CLIENT], "server": lab.pods[BOTH], "node": self._node, "outside": lab.outside}
        marks = {node.name: mark for mark, node in lab.marks()}
        clients = [
            StormClient(
                str(paths[each.name].path),
                {int(DOMAIN[family]): str(source) for family, source in each.sources.items()},
                marks[NODE] if each.origin is Origin.OUTSIDE else 0,
            )
            for each in self._shooters
        ]
        return Storm(servers, clients, rate)

    def _aim(self, number: int, front: Front) -> None:
        """Every address of a Service, from everywhere."""
        targets = [
            (StormTarget(0, index, f"{shooter.name} -> {to} {port}", (str(to), port), lasting), shooter)
            for index, shooter in enumerate(self._shooters)
            for to, port, lasting in _addresses(front.service)
        ]
        numbered = [(replace(each, id=self._next_target + place), who) for place, (each, who) in enumerate(targets)]
        self._next_target += len(numbered)
        self._by_front[number] = [(each, _packet(each, who)) for each, who in numbered]
        self._storm.add(each for each, _ in numbered)


def _pending_without_sweep(host: Host, want: Program) -> list[Pending]:
    """What an agent that may not sweep would still do."""
    listed = [each.pending(want, reread=True, sweep=False) for each in host._mechanisms]
    for each in host._mechanisms:
        each.forget()
    return listed


def _either(one: Mapping[int, Outcomes], other: Mapping[int, Outcomes]) -> dict[int, Outcomes]:
    return {number: each | one.get(number, frozenset()) for number, each in other.items()}


def _titles(front: Front) -> tuple[str, ...]:
    """The files that say what a Service under fire means."""
    behind = "pods" if isinstance(front, Picked) else "slices"
    return front.title, f"{front.title}.{behind}", f"node.{NODE}"


def _snapshot(objects: Iterator[Object] | object) -> Snapshot:
    return Assembler().apply([Change(None, one) for one in objects])  # type: ignore[attr-defined]


def _addresses(service: Service) -> Iterator[tuple[IPAddress, int, bool]]:
    ours = (*service.cluster_ips, *service.external_ips, *(each.address for each in service.ingress))
    for port, lasting in zip(service.ports[:2], (False, True), strict=True):
        yield from ((to, port.port, lasting) for to in ours)
        yield from ((first(family, NODE_IPS[NODE]), port.node_port, lasting) for family in Family)


def _packet(target: StormTarget, shooter: Shooter) -> Packet:
    to = ip_address(target.address[0])
    return Packet(shooter.origin, shooter.sources[family_of(to)], to, Protocol.TCP, target.address[1])


def _outcome(oracle: Oracle, packet: Packet) -> Outcomes:
    match oracle.decide(packet).outcome:
        case Deliver(to):
            return frozenset(str(each.endpoint) for each in to)
        case Drop():
            return frozenset({"lost"})
        case Reject():
            # The kernel loses an ICMP error for a socket that is still in connect(), as it is where one machine is
            # all there is (TcpExtLockDroppedIcmps): the second SYN is refused, a second later.
            return frozenset({"refused", "lost"})
        case Untouched():
            return _untouched(packet)


def _untouched(packet: Packet) -> Outcomes:
    """Nobody listens on the node; outside answers for every address there is."""
    here = packet.destination in NODE_IPS[NODE]
    return frozenset({"refused" if here else host_port(packet.destination, packet.port)})
