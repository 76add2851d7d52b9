"""What programs a node in kube-proxy's place: its rules, through the same program it starts."""

from __future__ import annotations

import os
import subprocess
from typing import Protocol

from bench import kube_proxy_iptables, kube_proxy_nft
from bench.clusters import Change, Size
from bench.timing import timed
from bench.ways import NFTABLES, Way
from netplane.kernel.command import find
from netplane.kernel.netns import Namespace

LIMIT_SECONDS = 60.0
"""iptables-restore is stopped then: how long the nf_tables variant would have needed is not worth knowing."""
_PIECE = 250


class Baseline(Protocol):
    """kube-proxy's rules on one node. Only what the program it starts takes is measured; making text is not."""

    def load(self, size: Size) -> float | None:
        """Seconds for a whole cluster, in an empty namespace. None if it was stopped after LIMIT_SECONDS."""

    def prepare(self, size: Size) -> float | None:
        """The same state, by whatever leads there in seconds; how long `load` would have taken, if it was that."""

    def change(self, change: Change) -> float:
        """Seconds for what is sent when the endpoints of one Service change."""


def baseline(way: Way, namespace: Namespace) -> Baseline:
    """What a netplane that goes this way is compared with."""
    return NftBaseline(namespace) if way == NFTABLES else IptablesBaseline(namespace, way.variant)


class NftBaseline:
    """nftables mode."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace

    def load(self, size: Size) -> float:
        """See `Baseline.load`. Never stopped."""
        return self._send(kube_proxy_nft.ruleset(size))

    def prepare(self, size: Size) -> float:
        """See `Baseline.prepare`. There is no faster way."""
        return self.load(size)

    def change(self, change: Change) -> float:
        """See `Baseline.change`."""
        return self._send(kube_proxy_nft.change(change.index, change.addresses, change.came, change.went))

    def _send(self, script: str) -> float:
        return timed(lambda: send(self._namespace, script, "nft", "-f", "-"))[0]


class IptablesBaseline:
    """iptables mode, in one of the two variants of iptables."""

    def __init__(self, namespace: Namespace, variant: str) -> None:
        self._namespace = namespace
        self._program = f"iptables-{'legacy' if variant == 'legacy' else 'nft'}-restore"
        self._quadratic = variant != "legacy"
        self._size = Size(0, 0)
        self._dispatch: tuple[str, ...] = ()

    def load(self, size: Size) -> float | None:
        """See `Baseline.load`. The jumps are there before: kube-proxy makes sure of them one by one."""
        self._begin(size)
        script = kube_proxy_iptables.ruleset(size)
        try:
            return timed(lambda: self._restore(script, LIMIT_SECONDS))[0]
        except subprocess.TimeoutExpired:
            return None

    def prepare(self, size: Size) -> float | None:
        """See `Baseline.prepare`."""
        if not self._quadratic:
            return self.load(size)
        self._begin(size)
        for piece in kube_proxy_iptables.parts(size, _PIECE):
            self._restore(piece)
        return None

    def change(self, change: Change) -> float:
        """See `Baseline.change`: a partial sync."""
        script = kube_proxy_iptables.change(self._size, change.index, change.addresses, change.went, self._dispatch)
        return timed(lambda: self._restore(script))[0]

    def _begin(self, size: Size) -> None:
        self._size, self._dispatch = size, kube_proxy_iptables.dispatch(size)
        self._restore(kube_proxy_iptables.jumps())

    def _restore(self, script: str, limit: float | None = None) -> None:
        send(self._namespace, script, self._program, "-w", "5", "--noflush", "--counters", limit=limit)


def send(namespace: Namespace, script: str, *words: str, limit: float | None = None) -> None:
    """Run a program of the host in a namespace, with `script` as its input.

    Raises RuntimeError with what it said if it fails, subprocess.TimeoutExpired when it was killed after `limit`
    seconds.
    """
    words = (find(words[0]) or words[0], *words[1:])
    environment = {"LC_ALL": "C.UTF-8"} | {
        name: value for name, value in os.environ.items() if name == "XTABLES_LOCKFILE"
    }

    def work() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, input=script, capture_output=True, text=True, env=environment, timeout=limit, check=False
        )

    if (done := namespace.run(work)).returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()[-500:]}")
