"""Run cases: for each backend a fresh lab, its program on every node, all packets, and a comparison of each.

A result is a value; who prints it decides how. Two ways to get the program into the kernel: `in_process` compiles
and applies here, inside each node's namespace; `by_agent` starts the real agent there and waits until it is ready.
Pods that the CNI plugin attaches come after that, by the same way: the plugin in this process, or launcher and agent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from netplane.backends.registry import backend_named
from netplane.errors import NetplaneError, one_line
from netplane.kernel.host import Host
from netplane.lab.agents import agents_of
from netplane.lab.attaching import attached_pods, plugins_here
from netplane.lab.capture import recording
from netplane.lab.cases import Case, Line, load_case
from netplane.lab.compare import Comparison, compare
from netplane.lab.namespaces import Lab
from netplane.lab.networked import Network
from netplane.lab.networking import network_here
from netplane.lab.observe import Question, observe
from netplane.lab.outcome import named, say
from netplane.lab.servers import Servers, open_doors
from netplane.lab.strangers import move_in
from netplane.lab.topology import Attach, Unsuitable
from netplane.lab.trace import rules_for
from netplane.plan.oracle import Decision

_WORST_TRACED = 3

Program = Callable[[Lab, Case, str], AbstractContextManager[None]]
"""Gets the program of a backend into every node of a lab, for as long as the context lasts."""


@dataclass(frozen=True, slots=True)
class PacketResult:
    """One line of a case on one backend: what `packets.txt` and the oracle say, and what was seen."""

    line: int
    packet: str
    expected: str
    seen: str
    differences: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    """For a difference: the rules that matched, as the kernel traced them."""
    again: str = ""
    """For a difference: the command that runs this packet again."""

    @property
    def agrees(self) -> bool:
        """Whether everybody says the same."""
        return not self.differences


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One case on one backend. `error` says why it could not be run at all; `skipped`, why that was not even tried."""

    case: str
    folder: str
    backend: str
    packets: tuple[PacketResult, ...] = ()
    seconds: float = 0.0
    error: str = ""
    skipped: str = ""

    @property
    def agrees(self) -> bool:
        """Whether it could be run and every packet agrees."""
        return not self.error and all(packet.agrees for packet in self.packets)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How to run cases. `only` are line numbers of `packets.txt` (empty: all); `pcap` a folder for what was sent.

    With `plugin` the CNI plugin attaches the pods, as it does anyway where a case is about it; `attach` says how pods
    are attached and `network` how they reach each other where the case does not; `network_words` are the options of
    `netplane lab run` that say the same. `tell` is called with a few words before each step that takes a while.
    """

    agent: bool = False
    plugin: bool = False
    attach: Attach = Attach.BRIDGE
    network: Network | None = None
    network_words: str = ""
    only: frozenset[int] = field(default=frozenset())
    pcap: Path | None = None
    tell: Callable[[str], None] = field(default=lambda _: None)


def run_cases(folders: Iterable[Path], backends: Sequence[str], options: RunOptions) -> Iterator[CaseResult]:
    """Run each case on each backend, one after another; results as they come. Never raises for a case that fails."""
    for folder in folders:
        for backend in backends:
            started = time.monotonic()
            try:
                case = load_case(folder, attach=options.attach, plugin=options.plugin, network=options.network)
                packets = run_case(case, backend, options)
                yield CaseResult(case.name, str(folder), backend, packets, time.monotonic() - started)
            except Unsuitable as error:
                yield CaseResult(folder.resolve().name, str(folder), backend, skipped=one_line(str(error)))
            except NetplaneError as error:
                name, seconds = folder.resolve().name, time.monotonic() - started
                yield CaseResult(name, str(folder), backend, (), seconds, one_line(str(error)))


def run_case(case: Case, backend: str, options: RunOptions) -> tuple[PacketResult, ...]:
    """Run one case on one backend in a lab of its own. Raises NetplaneError if that is not possible."""
    lines = [line for line in case.lines if not options.only or line.number in options.only]
    oracles = case.whole_oracles()
    decisions = [oracles.decide(line.probe) for line in lines]
    program = by_agent if options.agent else in_process
    options.tell(f"wiring {len(case.topology.nodes)} nodes, {len(case.topology.pods)} pods and an outside client")
    with standing(case) as lab:
        options.tell(_starting(case, backend, options))
        with program(lab, case, backend), _recorded(lab, case, backend, options):
            options.tell(f"sending {len(lines)} kinds of packets until every endpoint was seen")
            return _ask_all(lab, case, backend, lines, decisions, options)


def _starting(case: Case, backend: str, options: RunOptions) -> str:
    """What is done before packets are sent, in a few words."""
    begun = f"starting the agent on {', '.join(case.topology.nodes)}" if options.agent else f"applying {backend}"
    if case.network:
        begun += f", a Pod network by {case.network.settings.mode.value}"
    if not case.topology.plugin:
        return begun
    how = "launcher and agent" if options.agent else "the CNI plugin"
    return f"{begun}, attaching {len(case.topology.pods)} pods by {how} ({case.topology.attach.value})"


def _ask_all(
    lab: Lab,
    case: Case,
    backend: str,
    lines: Sequence[Line],
    decisions: Sequence[Decision],
    options: RunOptions,
) -> tuple[PacketResult, ...]:
    """Send every line's packets and compare; the rules of the first few differences are traced."""
    questions = [Question(line.probe, d.outcome) for line, d in zip(lines, decisions, strict=True)]
    seen = observe(lab, questions)
    compared = [compare(d, o, lab.topology) for d, o in zip(decisions, seen, strict=True)]
    results: list[PacketResult] = []
    promised = case.oracles()
    for line, comparison in zip(lines, compared, strict=True):
        again = _again(case, backend, line, options)
        result = _result(case, line, promised.decide(line.probe), comparison, again)
        traced = sum(bool(each.rules) for each in results) < _WORST_TRACED
        results.append(_with_rules(lab, line, result) if comparison.differences and traced else result)
    return tuple(results)


@contextmanager
def standing(case: Case) -> Iterator[Lab]:
    """The lab of a case, up, with servers for everything its packets may reach, and no program on any node."""
    probed = {(line.probe.protocol, line.probe.port) for line in case.lines if line.probe.protocol}
    with Lab(case.topology) as lab, Servers() as servers:
        move_in(lab, case.folder)
        open_doors(servers, lab, [(protocol, port) for protocol, port in probed if protocol])
        yield lab


@contextmanager
def in_process(lab: Lab, case: Case, backend: str) -> Iterator[None]:
    """Plan, compile and apply on every node, in this process."""
    chosen = backend_named(backend)
    for name, plan in case.plans().items():
        program = chosen.compile(plan).program

        def apply(program: object = program) -> None:
            with Host() as host:
                host.apply(program, reread=True)  # type: ignore[arg-type]

        lab.nodes[name].run(apply)
    with ExitStack() as made:
        if case.network:
            made.enter_context(network_here(lab, case.snapshot.nodes, case.network))
        if case.topology.plugin:
            plugins = made.enter_context(plugins_here(lab))
            made.enter_context(attached_pods(lab, case.plugin, plugins))
        yield


@contextmanager
def by_agent(lab: Lab, case: Case, backend: str) -> Iterator[None]:
    """Run `netplane agent run` in every node's namespace; ready when all have applied once, ended at the end."""
    with agents_of(lab, case, backend):
        yield


def _recorded(lab: Lab, case: Case, backend: str, options: RunOptions) -> AbstractContextManager[None]:
    if options.pcap is None:
        return nullcontext()
    return recording(lab, options.pcap / f"{case.name}-{backend}")


def _result(case: Case, line: Line, decision: Decision, comparison: Comparison, again: str) -> PacketResult:
    oracle = named(decision.outcome, line.probe.protocol, case.topology)
    expected, seen = say(line.expected, case.topology), comparison.seen
    differences = comparison.differences
    if oracle != line.expected:
        differences = (f"the oracle says {say(oracle, case.topology)}: {decision.reason}", *differences)
    packet = line.text.partition("->")[0].strip()
    return PacketResult(line.number, packet, expected, seen, differences, again=again if differences else "")


def _again(case: Case, backend: str, line: Line, options: RunOptions) -> str:
    """The command that runs a line in the same way again."""
    return f"netplane lab run {case.folder} --backend {backend} --packet {line.number}{_how(case, options)}"


def _how(case: Case, options: RunOptions) -> str:
    """The options that attach and connect pods in the same way again, where the case does not say so itself."""
    attach = " --attach routed" if case.topology.attach is Attach.ROUTED and not case.settings.attach_is_said else ""
    cni = " --cni" if case.topology.plugin and case.settings.plugin is None else ""
    return attach + cni + (f" {options.network_words}" if case.network and case.settings.network is None else "")


def _with_rules(lab: Lab, line: Line, result: PacketResult) -> PacketResult:
    rules = rules_for(lab, line.probe)
    return PacketResult(
        result.line, result.packet, result.expected, result.seen, result.differences, rules, result.again
    )
