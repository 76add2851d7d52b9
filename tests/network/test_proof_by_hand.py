"""The proofs can be passed, and can fail: a network made by hand, whole and with one thing wrong."""

from __future__ import annotations

import by_hand
import pytest
from ground import BOTH, Ground, proving

from netplane.kernel.command import run
from netplane.lab.network_proof import PROOFS, prove
from netplane.model.address import Family
from netplane.plan.network_settings import Mode

pytestmark = [pytest.mark.lab, pytest.mark.kernel]

GROUNDS = [
    Ground(Mode.VXLAN),
    Ground(Mode.VXLAN, (Family.IPV6,)),
    Ground(Mode.HOST_GW),
    Ground(Mode.CROSS_SUBNET),
    Ground(Mode.BGP),
]


@pytest.mark.parametrize("family", BOTH, ids=str)
@pytest.mark.parametrize("ground", GROUNDS, ids=str)
def test_a_network_made_by_hand_passes(standing, ground, family):
    assert prove(standing(ground, by_hand.make), family) == {}


# Fault: mode, node (all, if none is named), commands, and the proofs that must see it.
FAULTS = {
    "a link that is gone": (Mode.VXLAN, "n2", "ip link del np-vxlan4", {"everybody_is_reached"}),
    "a link that is too large": (Mode.VXLAN, "", "ip link set np-vxlan4 mtu 1400", {"sizes"}),
    "a link that is too small": (Mode.VXLAN, "n1", "ip link set np-vxlan4 mtu 1300", {"sizes"}),
    "directly where it should be hidden": (
        Mode.VXLAN,
        "n1",
        "ip route replace 10.244.2.0/24 via 192.0.2.12 dev eth0 onlink metric 98",
        {"on_the_wire", "no_pod_on_the_underlay"},
    ),
    "no backstop for the cluster's range": (
        Mode.VXLAN,
        "n1",
        "ip route del unreachable 10.244.0.0/16 metric 9899",
        {"unknown_pods"},
    ),
    "no backstop, and the router has one": (
        Mode.HOST_GW,
        "n2",
        "ip route del unreachable 10.244.0.0/16 metric 9899",
        {"unknown_pods"},
    ),
    "anybody may send VXLAN": (
        Mode.VXLAN,
        "",
        "nft flush chain inet netplane-network raw",
        {"forged_senders"},
    ),
    "no masquerade towards the outside": (
        Mode.VXLAN,
        "n1",
        "nft insert rule inet netplane-network post tcp dport 8080 accept",
        {"outside_sees_nodes"},
    ),
    "everything is masqueraded": (
        Mode.HOST_GW,
        "n1",
        "nft insert rule inet netplane-network post oifname eth0 masquerade",
        {"everybody_is_reached", "outside_sees_nodes"},
    ),
    "Pods speak to other nodes past the overlay": (
        Mode.VXLAN,
        "n1",
        "ip -4 rule del priority 98",
        {"no_pod_on_the_underlay"},
    ),
    "a hole for packets of the largest size": (
        Mode.HOST_GW,
        "n1",
        "nft insert rule inet netplane-network forward ip daddr 10.244.2.0/24 ip length 1400 drop",
        {"sizes"},
    ),
    "one hop too many": (
        Mode.VXLAN,
        "n1",
        "nft insert rule inet netplane-network forward oifname np-vxlan4 ip ttl set 60",
        {"hops"},
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_seen(fault):
    mode, node, words, seen_by = FAULTS[fault]
    with proving(Ground(mode), by_hand.make) as proving_:
        for name, namespace in proving_.lab.nodes.items():
            if node in ("", name):
                namespace.run(lambda: run("sh", "-ec", words, mechanism="test", doing=fault))
        found = {name: PROOFS[name](proving_, Family.IPV4) for name in seen_by}
    assert [name for name, problems in found.items() if not problems] == []
