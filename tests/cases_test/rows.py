"""What each row of kube-proxy's truth table lets happen, told from the words of a line alone, without the oracle.

`# row 8` or `# rows 2, 8: ...` above probes in packets.txt says which rows they are about, up to a blank line. Row 22
(established flows) cannot be said in a line: tests/lab has it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from netplane.lab.cases import PACKETS_FILE, Case, Line
from netplane.lab.outcome import Reaches
from netplane.lab.probe import FromNode, FromPod, deciding_node
from netplane.plan.oracle import Untouched
from netplane.plan.plan import Drop, Reject

_TAG = re.compile(r"#\s*rows? (\d+(?:, \d+)*)\b")


@dataclass(frozen=True, slots=True)
class Row:
    """One row: what it is about, and whether a line with its outcome can be an example of it."""

    about: str
    allows: Callable[[Case, Line], bool]


def tags(folder: Path) -> dict[int, tuple[int, ...]]:
    """The rows each line of `packets.txt` is about, by line number."""
    found: dict[int, tuple[int, ...]] = {}
    now: tuple[int, ...] = ()
    for number, text in enumerate((folder / PACKETS_FILE).read_text().splitlines(), 1):
        if text.startswith("#"):
            tag = _TAG.match(text)
            now = tuple(map(int, tag[1].split(", "))) if tag else ()
        elif not text.strip():
            now = ()
        else:
            found[number] = now
    return found


def examples(case: Case) -> Iterator[tuple[int, Line]]:
    """Every line with every row it is an example of: it names the row, and the row allows its outcome."""
    named = tags(case.folder)
    for line in case.lines:
        yield from ((number, line) for number in named[line.number] if ROWS[number].allows(case, line))


def _own(line: Line) -> str:
    """The sender as an arrival would name it."""
    return str(line.probe.sender.pod) if isinstance(line.probe.sender, FromPod) else ""


def _reaches(_: Case, line: Line) -> bool:
    return isinstance(line.expected, Reaches)


def _as_itself(_: Case, line: Line) -> bool:
    """Every endpoint sees the sender's own address, except the sender itself."""
    expected = line.expected
    return isinstance(expected, Reaches) and all(each.masqueraded == (each.at == _own(line)) for each in expected.to)


def _masqueraded(case: Case, line: Line) -> bool:
    """No endpoint sees the sender, except on the very node that decides: what stays there is never masqueraded."""
    expected = line.expected
    return isinstance(expected, Reaches) and all(
        each.masqueraded or _stays(case, line, each.at) for each in expected.to
    )


def _stays(case: Case, line: Line, at: str) -> bool:
    guest = next((pod for pod in case.snapshot.pods.values() if str(pod.id) == at and pod.host_network), None)
    here = case.topology.node_at(line.probe.destination) or deciding_node(line.probe.sender, case.topology)
    return guest is not None and guest.node == here.name


def _hairpin(_: Case, line: Line) -> bool:
    expected = line.expected
    return isinstance(expected, Reaches) and any(each.masqueraded and each.at == _own(line) for each in expected.to)


def _from_pod(then: Callable[[Case, Line], bool]) -> Callable[[Case, Line], bool]:
    return lambda case, line: isinstance(line.probe.sender, FromPod) and then(case, line)


def _from_node(then: Callable[[Case, Line], bool]) -> Callable[[Case, Line], bool]:
    return lambda case, line: isinstance(line.probe.sender, FromNode) and then(case, line)


def _dropped(_: Case, line: Line) -> bool:
    return isinstance(line.expected, Drop)


def _refused(_: Case, line: Line) -> bool:
    return isinstance(line.expected, Reject)


def _untouched(_: Case, line: Line) -> bool:
    return isinstance(line.expected, Untouched)


def _to_cluster_ip(case: Case, line: Line) -> bool:
    if case.settings.plan.masquerade_all:
        return _masqueraded(case, line)
    return _as_itself(case, line)


def _unallocated(case: Case, line: Line) -> bool:
    known = any(line.probe.destination in network for network in case.settings.plan.service_ranges)
    return isinstance(line.expected, Drop if known else Untouched)


def _echo_refused(case: Case, line: Line) -> bool:
    return line.probe.protocol is None and _refused(case, line)


def _undetected(case: Case, line: Line) -> bool:
    return _as_itself(case, line) or _dropped(case, line)


def _on_loopback(case: Case, line: Line) -> bool:
    return line.probe.destination.is_loopback and _untouched(case, line)


ROWS = {
    1: Row("pod -> cluster IP, internal policy Cluster: its own address", _to_cluster_ip),
    2: Row("hairpin: an endpoint that is sent to itself is masqueraded", _from_pod(_hairpin)),
    3: Row("node -> cluster IP: masqueraded", _from_node(_masqueraded)),
    4: Row("outside -> cluster IP: masqueraded", _masqueraded),
    5: Row("cluster IP, internal policy Local: the endpoint here", _reaches),
    6: Row("cluster IP, internal policy Local, endpoints elsewhere only: drop", _dropped),
    7: Row("no usable endpoint anywhere: reject", _refused),
    8: Row("node port, external IP, load-balancer IP, policy Cluster: masqueraded", _masqueraded),
    9: Row("outside -> the same, external policy Local: the endpoint here, the client's address", _as_itself),
    10: Row("outside -> the same, external policy Local, endpoints elsewhere only: drop", _dropped),
    11: Row("pod -> the same, external policy Local: short circuit, its own address", _from_pod(_as_itself)),
    12: Row("pod that is not detected -> the same: as outside", _from_pod(_undetected)),
    13: Row("node -> the same, external policy Local: short circuit, masqueraded", _from_node(_masqueraded)),
    14: Row("outside the source ranges -> load-balancer IP: drop", _dropped),
    15: Row("node, or the address itself, -> load-balancer IP whose ranges cover the node: allowed", _masqueraded),
    16: Row("load-balancer IP of ipMode Proxy: untouched", _untouched),
    17: Row("node -> node port on loopback: untouched", _from_node(_on_loopback)),
    18: Row("node port on an address that is none for node ports: untouched", _untouched),
    19: Row("cluster IP, undefined port: reject", _refused),
    20: Row("unallocated Service address: drop if the range is known, else untouched", _unallocated),
    21: Row("echo request to a cluster IP: reject", _echo_refused),
}
