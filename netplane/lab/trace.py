"""Which nftables rules a probe meets on a node: sends it once more while the kernel traces it."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from netplane.errors import KernelError
from netplane.kernel import command
from netplane.kernel.netns import Namespace
from netplane.lab.asking import Asking
from netplane.lab.namespaces import Lab
from netplane.lab.observe import nodes_on_path
from netplane.lab.probe import Probe

_TABLE = "netplane-lab-trace"
_SECONDS = 10.0
_NETFILTER = "12"
_MOST = 24
_EVENT = re.compile(r"trace id (?P<id>\S+) (?P<where>\S+ \S+ \S+) (?P<what>(?:rule|policy|verdict|unknown).*)")


def rules_for(lab: Lab, probe: Probe) -> tuple[str, ...]:
    """What one packet of the probe met, in order, on each node that may decide: `n1: ip TABLE CHAIN: rule ...`.

    Uses a table of its own, which is gone afterwards; other tables are not touched. The monitors are ended.
    """
    names = [node.name for node in nodes_on_path(probe, lab.topology)]
    with ExitStack() as watching:
        monitors = [watching.enter_context(_monitor(lab.nodes[name], probe)) for name in names]
        with Asking(lab) as asking:
            asking.send(probe, 1)
            asking.wait()
        outputs = []
        for monitor in monitors:
            monitor.terminate()
            outputs.append(monitor.communicate()[0])
    return tuple(f"{name}: {rule}" for name, output in zip(names, outputs, strict=True) for rule in _matched(output))


@contextmanager
def _monitor(node: Namespace, probe: Probe) -> Iterator[subprocess.Popen[str]]:
    """`nft monitor trace`, listening, and rules that mark the probe for it."""
    words = ("nft", "monitor", "trace")
    node.run(lambda: command.run("nft", "-f", "-", stdin=_script(probe), mechanism="trace", doing="start"))
    monitor = node.run(lambda: subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True))
    try:
        node.run(lambda: _wait_listening(monitor.pid))
        yield monitor
    finally:
        monitor.kill()
        monitor.communicate()
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


def _wait_listening(pid: int) -> None:
    """Until the monitor's netlink socket has joined a group: what happens before that it does not see."""
    deadline = time.monotonic() + _SECONDS
    table = Path("/proc/thread-self/net/netlink")
    while True:
        rows = (line.split() for line in table.read_text().splitlines()[1:])
        if any(row[1] == _NETFILTER and row[2] == str(pid) and int(row[3], 16) for row in rows):
            return
        if time.monotonic() > deadline:
            raise KernelError(
                mechanism="trace", doing="wait for nft monitor", said=f"not listening after {_SECONDS:g} s"
            )
        time.sleep(0.002)


def _matched(output: str) -> tuple[str, ...]:
    """The events of the first packet traced; later packets of a connection only repeat its fate."""
    events = [found for line in output.splitlines() if (found := _EVENT.match(line)) and _TABLE not in line]
    first = [event for event in events if event["id"] == events[0]["id"]]
    return tuple(f"{event['where']}: {event['what'].strip()}" for event in first[:_MOST])
