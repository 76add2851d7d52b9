"""The packet mark ends where it is heeded: no packet leaves a node with ours, and a mark of somebody else's stays."""

import re
import socket
from pathlib import Path

import pytest

from netplane.backends.marks import MASQUERADE
from netplane.backends.registry import BACKENDS
from netplane.kernel.command import run
from netplane.lab.cases import load_case
from netplane.lab.run import in_process, standing

pytestmark = [pytest.mark.lab, pytest.mark.kernel]

CASE = Path(__file__).parent.parent / "cases" / "node-port"
NODE_PORTS = [("192.0.2.11", 30080), ("2001:db8:2::11", 30080)]
THEIRS = 0x100000
DEADLINE = 20.0

# Before netplane decides, somebody marks every packet; after it masqueraded, what leaves is counted.
WATCH = f"""
table inet watch {{
    counter opened {{ }}
    counter ours {{ }}
    counter theirs {{ }}
    chain first {{ type filter hook prerouting priority -200; meta mark set meta mark | {THEIRS:#x}; }}
    chain last {{
        type filter hook postrouting priority 300;
        ct direction original ct status snat tcp flags & (syn | ack) == syn counter name opened
        meta mark & {MASQUERADE:#x} != 0 counter name ours
        ct direction original ct status snat meta mark & {THEIRS:#x} == 0 counter name theirs
    }}
}}
"""


def counted(name):
    said = run("nft", "list", "counter", "inet", "watch", name, mechanism="nftables", doing="test")
    return int(re.search(r"packets (\d+)", said)[1])


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_what_was_masqueraded_leaves_without_our_mark_and_with_that_of_others(backend):
    case = load_case(CASE)
    with standing(case) as lab, in_process(lab, case, backend):
        node = lab.nodes["n1"]
        node.run(lambda: run("nft", "-f", "-", stdin=WATCH, mechanism="nftables", doing="test"))
        for to in NODE_PORTS:
            with lab.outside.run(lambda to=to: socket.create_connection(to, timeout=DEADLINE)) as connection:
                assert connection.recv(500)
        opened, ours, without_theirs = (
            node.run(lambda name=name: counted(name)) for name in ("opened", "ours", "theirs")
        )
    assert opened == len(NODE_PORTS)
    assert ours == 0
    assert without_theirs == 0
