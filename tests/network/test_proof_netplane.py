"""What netplane makes passes every proof: each mode, each family of packets, each family of what is around them."""

from __future__ import annotations

import made
import pytest
from ground import BOTH, Ground

from netplane.lab.network_proof import prove
from netplane.model.address import Family
from netplane.plan.network_settings import Mode

pytestmark = [pytest.mark.lab, pytest.mark.kernel]

GROUNDS = [
    Ground(Mode.VXLAN),
    Ground(Mode.VXLAN, (Family.IPV6,)),
    Ground(Mode.HOST_GW),
    Ground(Mode.CROSS_SUBNET),
    Ground(Mode.BGP),
    Ground(Mode.WIREGUARD),
    Ground(Mode.WIREGUARD, (Family.IPV6,)),
]


@pytest.mark.parametrize("family", BOTH, ids=str)
@pytest.mark.parametrize("ground", GROUNDS, ids=str)
def test_every_proof(standing, ground, family):
    assert prove(standing(ground, made.make), family) == {}
