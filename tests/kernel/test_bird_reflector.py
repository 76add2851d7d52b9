"""What a node that reflects routes keeps to itself, with real birds. See netplane/backends/network/bird.py."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, ip_network

import pytest
from bird_lab import ROUTER, Wire, addresses, plan, router_text, session, until

from netplane.kernel import command

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(command.find("bird") is None, reason="bird is not installed"),
]
TOLD, LATER = "10.244.77.0/24", ip_network("192.0.2.7/32")


@pytest.fixture
def wire(tmp_path) -> Iterator[Wire]:
    with Wire(tmp_path) as made:
        yield made


def test_what_a_router_told_is_not_passed_on_to_nodes(wire):
    """Each node has its own routers, and believes no other about them: the next hop would be on no link there."""
    reflector, client, router = wire.join(1), wire.join(2), wire.join(ROUTER)
    router.speak_by_hand(router_text([(addresses(1)[0], "")], (TOLD,)))
    sessions = [session(1, 2, client=True), session(1, ROUTER)]
    reflector.speak(plan(1, sessions, cluster_id=IPv4Address("10.0.0.1")))
    client.speak(plan(2, [session(2, 1)]))
    until(lambda: TOLD in reflector.routes(), but=lambda: reflector.routes())
    reflector.speak(plan(1, sessions, (LATER,), cluster_id=IPv4Address("10.0.0.1")))
    until(lambda: str(LATER.network_address) in client.routes(), but=lambda: client.routes())
    assert TOLD not in client.routes()
