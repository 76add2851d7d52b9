"""Two nodes with a Pod each, netplane's network between them, and the manifests that say so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.baselines import send
from bench.network_netplane import Netplane
from bench.network_node import keys
from bench.network_pairs import Pair, node_address, pod_range
from command_line import Done, netplane

from netplane.kernel.host import HostOptions
from netplane.kernel.netns import Namespace
from netplane.plan.network_settings import Mode


@dataclass(frozen=True)
class TwoNodes:
    """`n1` is where commands are run."""

    pair: Pair
    place: Path
    mode: Mode

    @property
    def words(self) -> tuple[str, ...]:
        return ("--from", str(self.place / "manifests"), "--node", "n1", "--network", self.mode.value)

    def node(self, verb: str, *more: str) -> Done:
        state = ("--state-dir", str(self.place / "n1" / "state"), "--wait", "0.5")
        run = ("--run-dir", str(self.place / "n1" / "run")) if verb == "explain" else ()
        return self.run("node", verb, *more, *self.words, *state, *run)

    def run(self, *words: str) -> Done:
        return netplane(*words, namespace=self.pair.nodes[0])


@contextmanager
def two_nodes(mode: Mode, place: Path, *, pod_mtu: int = 1400) -> Iterator[TwoNodes]:
    """Nodes n1 and n2, wired, and programmed as the agent does it; n3 is only in the manifests, and is not there."""
    with ExitStack() as made:
        pair = made.enter_context(Pair(pod_mtu))
        Netplane(mode)(pair, made, place)
        key = (
            (lambda number: keys(HostOptions(state_directory=place / f"n{number}" / "state")).public())
            if (mode is Mode.WIREGUARD)
            else (lambda number: "")
        )
        manifests(place / "manifests", key)
        yield TwoNodes(pair, place, mode)


def manifests(folder: Path, key: Callable[[int], str] = lambda _: "") -> Path:
    """The Nodes n1 and n2."""
    folder.mkdir()
    (folder / "nodes.yaml").write_text("---\n".join(_node(number, key(number)) for number in (1, 2)))
    return folder


def _node(number: int, key: str) -> str:
    annotations = f"{{netplane.dev/wireguard-public-key: {key}}}" if key else "{}"
    return (
        f"apiVersion: v1\nkind: Node\nmetadata: {{name: n{number}, annotations: {annotations}}}\n"
        f"spec: {{podCIDRs: [{pod_range(number)}]}}\n"
        f"status: {{addresses: [{{type: InternalIP, address: {node_address(number)}}}]}}\n"
    )


def nft(namespace: Namespace, script: str) -> None:
    send(namespace, f"{script}\n", "nft", "-f", "-")


def ip(namespace: Namespace, *lines: str) -> None:
    send(namespace, "".join(f"{line}\n" for line in lines), "ip", "-batch", "-")
