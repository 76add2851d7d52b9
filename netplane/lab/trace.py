"""Which rules a probe meets on a node: sends it once more while the kernel traces it.

Rules of nftables are shown as `nft` says them, those of iptables, in either variant, as `iptables-save` does.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from netplane.errors import KernelError
from netplane.kernel import command
from netplane.kernel.netns import Namespace
from netplane.lab.asking import Asking
from netplane.lab.namespaces import Lab
from netplane.lab.observe import nodes_on_path
from netplane.lab.probe import Probe
from netplane.lab.rule_log import Logged, RuleLog, legacy_families
from netplane.lab.rule_texts import RuleTexts
from netplane.model.address import Protocol

_TABLE = "netplane-lab-trace"
_SECONDS = 10.0
_POLL_SECONDS = 0.002
_NETFILTER = "12"
_MOST = 48
_EVENT = re.compile(
    r"trace id \S+ (?P<family>\S+) (?P<table>\S+) (?P<chain>\S+) (?P<what>(?:rule|policy|verdict|unknown).*)"
)
_RULE = re.compile(r"rule (?P<text>.*) # handle (?P<handle>\d+) (?P<verdict>\(verdict .*\))")


def rules_for(lab: Lab, probe: Probe) -> tuple[str, ...]:
    """What one packet of the probe met, in order, on each node that may decide: `n1: ip TABLE CHAIN: rule ...`.

    Uses a table of its own, which is gone afterwards; other tables are not touched. The monitors are ended.
    Rules of legacy iptables come after those of nftables: the two do not say when.
    """
    names = [node.name for node in nodes_on_path(probe, lab.topology)]
    with ExitStack() as watching:
        met = [watching.enter_context(_watched(lab.nodes[name], probe)) for name in names]
        with Asking(lab) as asking:
            asking.send(probe, 1)
            asking.wait()
    return tuple(f"{name}: {rule}" for name, rules in zip(names, met, strict=True) for rule in rules)


@contextmanager
def _watched(node: Namespace, probe: Probe) -> Iterator[list[str]]:
    """A list that is filled, when the context ends, with what the packets traced in it met."""
    met: list[str] = []
    with tempfile.TemporaryFile("w+") as output, _logged(node) as log:
        with _monitored(node, probe, output):
            yield met
        output.seek(0)
        met += node.run(lambda: [*_matched(output), *_of_legacy(log)])


@contextmanager
def _logged(node: Namespace) -> Iterator[RuleLog | None]:
    """The log of rules of legacy iptables, if this node has any."""
    families = node.run(legacy_families)
    if not families:
        yield None
        return
    log = node.run(lambda: RuleLog(families))
    try:
        yield log
    finally:
        node.run(log.close)


@contextmanager
def _monitored(node: Namespace, probe: Probe, output: IO[str]) -> Iterator[None]:
    """`nft monitor trace` writes to `output`, listening from the start and having read all at the end."""
    words = ("nft", "-a", "monitor", "trace")
    node.run(lambda: command.run("nft", "-f", "-", stdin=_script(probe), mechanism="trace", doing="start"))
    monitor = node.run(lambda: subprocess.Popen(words, stdout=output, stderr=subprocess.DEVNULL))
    try:
        node.run(lambda: _wait("listen", lambda: _listens(monitor.pid)))
        yield
        node.run(lambda: _wait("read everything", lambda: _has_read(monitor.pid)))
    finally:
        monitor.terminate()
        monitor.wait()
        node.run(
            lambda: command.run("nft", "delete", "table", "inet", _TABLE, mechanism="trace", doing="remove the table")
        )


def _script(probe: Probe) -> str:
    """Mark the first packet of the probe's connection for tracing, before anybody else sees it."""
    ip = "ip" if probe.family == 4 else "ip6"
    icmp = "icmp" if probe.family == 4 else "icmpv6"
    what = f"meta l4proto {probe.protocol or icmp} {ip} saddr {probe.source} {ip} daddr {probe.destination}"
    port = f" th dport {probe.port}" if probe.protocol else ""
    first = " tcp flags & (syn | ack) == syn" if probe.protocol is Protocol.TCP else ""
    chains = "".join(
        f"chain {hook} {{ type filter hook {hook} priority -400; {what}{port}{first} meta nftrace set 1; }}\n"
        for hook in ("prerouting", "output")
    )
    return f"table inet {_TABLE} {{\n{chains}}}\n"


def _wait(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise KernelError(mechanism="trace", doing=f"wait for nft monitor to {what}", said=f"not in {_SECONDS:g} s")
        time.sleep(_POLL_SECONDS)


def _listens(pid: int) -> bool:
    """Whether the monitor's netlink socket has joined a group: what happens before that it does not see."""
    return any(int(row[3], 16) for row in _sockets(pid))


def _has_read(pid: int) -> bool:
    """Whether nothing waits in its socket and it sleeps, so that it has also written what it read."""
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state == "S" and not any(int(row[4]) for row in _sockets(pid))


def _sockets(pid: int) -> list[list[str]]:
    """Netfilter netlink sockets of a process: address, protocol, port (the pid), groups, bytes waiting, ..."""
    rows = [line.split() for line in Path("/proc/thread-self/net/netlink").read_text().splitlines()[1:]]
    return [row for row in rows if row[1] == _NETFILTER and row[2] == str(pid)]


def _matched(output: Iterable[str]) -> Iterator[str]:
    """What the packet met, from where our own table saw it first to where it sees the same packet sent once more.

    The id is of no use: it changes on the way, when a packet leaves a bridge.
    """
    events = [found for line in output if (found := _EVENT.match(line))]
    ours = [number for number, event in enumerate(events) if event["table"] == _TABLE and event["what"][:4] == "rule"]
    again = next((number for number in ours[1:] if events[number]["chain"] == events[ours[0]]["chain"]), len(events))
    met = [event for event in events[:again] if event["table"] != _TABLE]
    texts = RuleTexts()
    for event in met[:_MOST]:
        yield f"{event['family']} {event['table']} {event['chain']}: {_spelled(event, texts)}"


def _spelled(event: re.Match[str], texts: RuleTexts) -> str:
    rule = _RULE.match(event["what"])
    if rule is None:
        return event["what"].strip()
    said = texts.of_handle(event["family"], event["table"], event["chain"], int(rule["handle"]))
    return f"rule {said or rule['text'].strip()} {rule['verdict']}"


def _of_legacy(log: RuleLog | None) -> Iterator[str]:
    """What the packet met in the tables of legacy iptables, up to the first thing it meets again: a repetition."""
    texts = RuleTexts()
    for each in _once(log.read() if log else ()):
        said = texts.of_number(each.family, each.table, each.chain, each.number)
        what = f"rule {said}" if said else each.kind  # a rule that only returns is called `return`, as a chain's end is
        yield f"legacy {each.family} {each.table} {each.chain}: {what}"


def _once(logged: Iterable[Logged]) -> list[Logged]:
    """Without what the same packet, sent once more, met: it starts again with the very first."""
    found = [*logged]
    again = next((n for n, each in enumerate(found) if n and each == found[0]), len(found))
    return found[:again][:_MOST]
