"""What is measured of the Pod network, and what was seen. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field

PLAIN, PLAIN_AGAIN = "plain routing", "plain routing, on a second pair of nodes"
HAND_MADE = "a hand-made VXLAN"
PLAIN_MASQUERADE, HAND_MADE_MASQUERADE = f"{PLAIN}, and masquerading", f"{HAND_MADE}, and masquerading"
"""The same with the rules of whoever masquerades what leaves the cluster: then connections are tracked, too."""
HOST_GW, VXLAN, WIREGUARD, BGP = "netplane host-gw", "netplane vxlan", "netplane wireguard", "netplane bgp"
HOST_GW_BARE = f"{HOST_GW}, masquerade: false"
VXLAN_DIRECT = f"{VXLAN}, pods-to-nodes: direct"
VXLAN_BARE = f"{VXLAN_DIRECT}, masquerade: false"
SIDES = (
    *(PLAIN, PLAIN_AGAIN, HOST_GW_BARE, PLAIN_MASQUERADE, HOST_GW, BGP),
    *(HAND_MADE, VXLAN_BARE, HAND_MADE_MASQUERADE, VXLAN_DIRECT, VXLAN, WIREGUARD),
)
"""In this order in the tables."""


@dataclass(frozen=True, slots=True)
class NetworkAmount:
    """How often: `rounds` of a stream and of round trips for each side, by turns.

    `peers` are other nodes; they are learnt `cold` times, and one of them changes `changes` times. `kept`: changes
    over which memory is looked at.
    """

    rounds: int
    stream_seconds: float
    trips: int
    peers: int
    cold: int
    changes: int
    kept: int


@dataclass(slots=True)
class Packets:
    """What one side's packets did: a value for every round."""

    streams: list[float] = field(default_factory=list)
    """Bytes a second of one TCP connection."""
    work: list[float] = field(default_factory=list)
    """Its bytes by seconds of processor time of the one thread that plays both ends."""
    trips: list[float] = field(default_factory=list)
    """Seconds of a round trip: the median of the round."""
    lost: int = 0
    """Round trips that never ended."""


@dataclass(slots=True)
class Stages:
    """Seconds until a node reaches its peers, by stage."""

    facts: float
    """Reading how the kernel reaches every one of them."""
    plan: float
    compile: float
    kernel: float
    """Reading what is there, finding what differs, and making it."""

    @property
    def total(self) -> float:
        """All of it."""
        return self.facts + self.plan + self.compile + self.kernel


@dataclass(slots=True)
class PeerRun:
    """Many peers on one node, netplane and `ip -batch` with `bridge -batch` by turns. Seconds."""

    mode: str
    cold: list[Stages] = field(default_factory=list)
    batch_cold: list[float] = field(default_factory=list)
    changes: list[float] = field(default_factory=list)
    batch_changes: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    """VmRSS in MiB, at ten moments while peers change one after the other."""


@dataclass(slots=True)
class NetworkRun:
    """Everything that was seen. `missing`: sides that could not be measured, and why."""

    peers: int
    kept: int
    packets: dict[str, Packets] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    peer_runs: list[PeerRun] = field(default_factory=list)
    other: float = 0.0
    """Processors that somebody else used while packets were sent, the kernel's own threads included."""
