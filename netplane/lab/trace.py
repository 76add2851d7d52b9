"""Which nftables rules a probe meets on a node: sends it once more while the kernel traces it."""

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

_TABLE = "netplane-lab-trace"
_SECONDS = 10.0
_POLL_SECONDS = 0.002
_NETFILTER = "12"
_MOST = 24
_EVENT = re.compile(r"trace id (?P<id>\S+) (?P<where>\S+ \S+ \S+) (?P<what>(?:rule|policy|verdict|unknown).*)")


def rules_for(lab: Lab, probe: Probe) -> tuple[str, ...]:
    """What one packet of the probe met, in order, on each node that may decide: `n1: ip TABLE CHAIN: rule ...`.

    Uses a table of its own, which is gone afterwards; other tables are not touched. The monitors are ended.
    """
    names = [node.name for node in nodes_on_path(probe, lab.topology)]
    with ExitStack() as files:
        outputs = [files.enter_context(tempfile.TemporaryFile("w+")) for _ in names]
        with ExitStack() as watching:
            for name, output in zip(names, outputs, strict=True):
                watching.enter_context(_monitored(lab.nodes[name], probe, output))
            with Asking(lab) as asking:
                asking.send(probe, 1)
                asking.wait()
        for output in outputs:
            output.seek(0)
        return tuple(f"{name}: {rule}" for name, text in zip(names, outputs, strict=True) for rule in _matched(text))


@contextmanager
def _monitored(node: Namespace, probe: Probe, output: IO[str]) -> Iterator[None]:
    """`nft monitor trace` writes to `output`, listening from the start and having read all at the end."""
    node.run(lambda: command.run("nft", "-f", "-", stdin=_script(probe), mechanism="trace", doing="start"))
    monitor = node.run(lambda: subprocess.Popen(("nft", "monitor", "trace"), stdout=output, stderr=subprocess.DEVNULL))
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
    """Mark the probe's own packets for tracing, before anybody else sees them."""
    ip = "ip" if probe.family == 4 else "ip6"
    icmp = "icmp" if probe.family == 4 else "icmpv6"
    what = f"meta l4proto {probe.protocol or icmp} {ip} saddr {probe.source} {ip} daddr {probe.destination}"
    port = f" th dport {probe.port}" if probe.protocol else ""
    chains = "".join(
        f"chain {hook} {{ type filter hook {hook} priority -400; {what}{port} meta nftrace set 1; }}\n"
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


def _matched(output: Iterable[str]) -> tuple[str, ...]:
    """The events of the first packet traced; later packets of a connection only repeat its fate."""
    events = [found for line in output if (found := _EVENT.match(line)) and _TABLE not in line]
    first = [event for event in events if event["id"] == events[0]["id"]]
    return tuple(f"{event['where']}: {event['what'].strip()}" for event in first[:_MOST])
