"""What is measured how often, and everything that was seen. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.clusters import Size
from bench.cni_results import AttachAmount, AttachRun
from bench.network_results import NetworkAmount, NetworkRun

PARTS = ("cold", "change", "agent", "packets", "kills", "cni", "network")


@dataclass(frozen=True, slots=True)
class Load:
    """A cluster to load into an empty kernel, and how often."""

    size: Size
    netplane: int
    baseline: int


@dataclass(frozen=True, slots=True)
class Amount:
    """How much to measure. Seconds are for each way that netplane can go, and end what takes long there."""

    loads: tuple[Load, ...]
    big: Size
    changes: int
    """Rounds of three changes, in process and by the agent; every `per_baseline`-th of them by the baseline too."""
    resized: int
    change_seconds: float
    per_baseline: int
    comparisons: int
    counts: tuple[int, ...]
    """First packets: of how many Services; the first count is what the others are compared with."""
    packet_rounds: int
    packet_samples: int
    agent_seconds: float
    """How long single changes go on at least: with `flap_seconds` beyond `--at-most`, so all is compared once."""
    flap_seconds: float
    kills: int
    attach: AttachAmount
    network: NetworkAmount


FULL = Amount(
    loads=(
        Load(Size(1000, 2), 3, 3),
        Load(Size(5000, 2), 3, 1),
        Load(Size(10_000, 2), 2, 1),
        Load(Size(20_000, 2), 3, 1),
        Load(Size(10_000, 10), 1, 0),  # the baseline once, when it is needed for changes and packets
    ),
    big=Size(10_000, 10),
    changes=80,
    resized=8,
    change_seconds=12.0,
    per_baseline=5,
    comparisons=5,
    counts=(1, 10, 1000, 10_000),
    packet_rounds=9,
    packet_samples=200,
    agent_seconds=23.0,
    flap_seconds=10.0,
    kills=100,
    attach=AttachAmount(blocks=8, versions=25, serial=15, parallel=40, ports=6, many=1000),
    network=NetworkAmount(rounds=151, stream_seconds=0.03, trips=200, peers=500, cold=5, changes=100, kept=1000),
)
QUICK = Amount(
    loads=(Load(Size(1000, 2), 3, 3), Load(Size(3000, 2), 1, 1)),
    big=Size(1000, 10),
    changes=20,
    resized=2,
    change_seconds=3.0,
    per_baseline=10,
    comparisons=1,
    counts=(1, 10, 1000),
    packet_rounds=5,
    packet_samples=100,
    agent_seconds=0.0,
    flap_seconds=3.0,
    kills=3,
    attach=AttachAmount(blocks=3, versions=20, serial=10, parallel=24, ports=4, many=200),
    network=NetworkAmount(rounds=31, stream_seconds=0.02, trips=100, peers=500, cold=1, changes=20, kept=100),
)


@dataclass(frozen=True, slots=True)
class Stages:
    """Seconds of a cold load. `diff` includes reading the (empty) kernel."""

    plan: float
    compile: float
    diff: float
    kernel: float

    @property
    def total(self) -> float:
        """From the decoded cluster to the kernel."""
        return self.plan + self.compile + self.diff + self.kernel


@dataclass(slots=True)
class ColdLoads:
    """Cold loads of one size, one way."""

    way: str
    size: Size
    netplane: list[Stages] = field(default_factory=list)
    baseline: list[float] = field(default_factory=list)
    stopped: float = 0.0
    """After so many seconds the baseline, here or with a smaller cluster, was stopped; 0 if never."""


Samples = dict[str, list[float]]
"""Seconds of single changes, by kind."""


@dataclass(slots=True)
class Changes:
    """Single changes in this process, and by the baseline.

    `undisturbed` and `disturbed` are comparisons of everything, after nobody or somebody else changed the mechanism.
    """

    netplane: Samples = field(default_factory=dict)
    baseline: Samples = field(default_factory=dict)
    undisturbed: list[float] = field(default_factory=list)
    disturbed: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Flaps:
    """What an agent did while endpoints changed all the time. Seconds, of the clock or of processors."""

    changes: int = 0
    seconds: float = 0.0
    """From the first change until the kernel had the last one."""
    lag: float = 0.0
    """From the last change until the kernel had it."""
    itself: float = 0.0
    programs: float = 0.0
    rounds: int = 0


@dataclass(slots=True)
class AgentRun:
    """What one agent process showed. Memory in MiB; `changes` are seconds from rename to kernel."""

    start_seconds: float = 0.0
    """From exec to ready: reading and decoding the manifests, the first round, and setting memory aside."""
    started_mib: float = 0.0
    ended_mib: float = 0.0
    peak_mib: float = 0.0
    changes: Samples = field(default_factory=dict)
    flaps: Flaps = field(default_factory=Flaps)


@dataclass(slots=True)
class Kills:
    """What connections saw of agents that were killed while a cluster changed."""

    kills: int = 0
    starting: int = 0
    """Before it was ready."""
    working: int = 0
    """While a program it had started was at work."""
    changes: int = 0
    served: int = 0
    failed: int = 0
    established: int = 0
    broken: int = 0
    differences: int = 0
    """Between the kernel and the cluster, after a last agent was ready."""
    wrong: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Results:
    """Everything that was seen; by way, where it is not said otherwise. What was not asked for is empty."""

    machine: dict[str, str]
    big: Size
    cold: list[ColdLoads] = field(default_factory=list)
    changes: dict[str, Changes] = field(default_factory=dict)
    agents: dict[str, AgentRun] = field(default_factory=dict)
    packets: dict[str, list[list[float]]] = field(default_factory=dict)
    """Seconds per connection: by target, see `target`, then by round."""
    kills: dict[str, Kills] = field(default_factory=dict)
    attach: AttachRun | None = None
    """Of containers, which is the same whatever the way."""
    network: NetworkRun | None = None
    """Of the Pod network across nodes, likewise."""


NETPLANE, CONTROL, BASELINE = "netplane", "netplane, on a second node", "baseline"


def target(way: object, who: str, count: int) -> str:
    """What `packets` calls the last of `count` Services."""
    return f"{way}: {who}: {count}"
