"""Real packets over the whole corpus: what every case says happens, on every backend."""

from pathlib import Path

import pytest

from netplane.backends.registry import BACKENDS
from netplane.lab.cases import find_cases, load_case
from netplane.lab.run import RunOptions, run_case

pytestmark = [pytest.mark.lab, pytest.mark.kernel]

ROOT = Path(__file__).parent.parent.parent
FOLDERS = find_cases(
    [
        ROOT / "tests" / "cases",
        ROOT / "examples" / "shop",
        ROOT / "examples" / "host-ports",
        ROOT / "examples" / "three-nodes",
    ]
)


def told(packet):
    return f"{packet.packet}: expected {packet.expected}, seen {packet.seen}: {'; '.join(packet.differences)}"


@pytest.mark.parametrize("backend", sorted(BACKENDS))
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_packet_does_what_the_case_says(folder, backend):
    packets = run_case(load_case(folder), backend, RunOptions())
    assert packets
    assert [told(packet) for packet in packets if not packet.agrees] == []


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_the_real_agent_makes_the_shop_work(backend):
    packets = run_case(load_case(ROOT / "examples" / "shop"), backend, RunOptions(agent=True))
    assert len(packets) > 30
    assert [told(packet) for packet in packets if not packet.agrees] == []
