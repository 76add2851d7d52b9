"""A Pod that the plugin attaches without a bridge cannot send to another node with an address that is not its own."""

from __future__ import annotations

from contextlib import ExitStack
from ipaddress import ip_address

import made
import pytest
from ground import BOTH, Ground

from netplane.lab.attached import PluginOptions, attached
from netplane.lab.attaching import attached_pods, plugins_here
from netplane.lab.namespaces import Lab
from netplane.lab.networked import networked
from netplane.lab.packets import Flow, send, udp
from netplane.lab.proof import Proving, address
from netplane.lab.topology import Attach, topology
from netplane.lab.wires import Wires, with_marker
from netplane.model.pod import PodId
from netplane.plan.network_settings import Mode

pytestmark = [pytest.mark.lab, pytest.mark.kernel]


@pytest.mark.parametrize("mode", [Mode.VXLAN, Mode.HOST_GW], ids=lambda mode: mode.value)
def test_a_pod_cannot_send_as_somebody_else(mode):
    ground = Ground(mode)
    wiring = attached(networked(topology(ground.snapshot(), Attach.ROUTED), ground.options()))
    with ExitStack() as opened:
        lab = opened.enter_context(Lab(wiring))
        opened.enter_context(made.make(lab, ground))
        plugins = opened.enter_context(plugins_here(lab))
        opened.enter_context(attached_pods(lab, PluginOptions(), plugins))
        proving = Proving(lab, ground.options())
        here, neighbour, there = (wiring.pods[PodId("shop", name)] for name in ("a1", "b1", "a2"))
        for family in BOTH:
            stranger = ip_address({4: "203.0.113.9", 6: "2001:db8:113::9"}[family.value])
            to = address(there, family)
            with Wires(lab, there.id) as end:
                for forged in (address(neighbour, family), stranger, proving.topology.nodes["n1"].source(family)):
                    send(lab.pods[here.id], [udp(Flow(forged, 40000, to, 7), b"forged")])
                send(lab.pods[here.id], [udp(Flow(address(here, family), 40000, to, 7), b"honest")])
                seen = end.until(lambda each: b"honest" in each.raw, "the honest packet")
            assert with_marker(seen, b"forged") == []
