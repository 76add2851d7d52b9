"""Which flows a change of the plan may have made stale: all that it did, and not many more."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from builders import (
    FAR,
    HERE,
    IPV4,
    IPV6,
    NODE_PORT,
    TCP,
    UDP,
    addresses,
    draining,
    exposed,
    node,
    plan_of,
    port,
    service,
    slices,
    target,
    up,
)
from generated.clusters import CLUSTER_IPS, NODE_IPS, NUMBERS, OUTER_IPS, POD_IPS, World

from netplane.model.address import Family, family_of
from netplane.model.service import RemovedEndpoints
from netplane.plan.node import plan_node
from netplane.plan.plan import FrontendKind
from netplane.plan.stale import Flow, Server, StaleFlows, Suspects

RESET = {"removed_endpoints": RemovedEndpoints.RESET}


class Resetting(World):
    """Every second Service wants its connections reset."""

    def _service(self, of):
        return replace(super()._service(of), removed_endpoints=self._one(tuple(RemovedEndpoints)))


def since(before, plan, local=()):
    return StaleFlows(plan, addresses(*local)).since(StaleFlows(before, addresses(*local)))


def at_cluster_ip(server=None):
    address, number = target(FrontendKind.CLUSTER_IP, IPV4)
    return Suspects(UDP, IPV4, ip_address(address), number, server)


def plain(*endpoints, **changes):
    of = service(ports=(port(protocol=changes.pop("protocol", UDP)),), ips=("10.96.0.10",), **changes)
    return plan_of(of, slices(of, *endpoints))


def test_of_an_endpoint_that_goes_only_its_own_flows_are_suspected():
    before, plan = plain(up(HERE[IPV4]), up(FAR[IPV4])), plain(up(FAR[IPV4]))
    assert since(before, plan) == [at_cluster_ip(Server(ip_address(HERE[IPV4]), 8080))]
    assert since(before, plan)[0].all_stale


def test_what_comes_or_drains_makes_nothing_suspect():
    one, both = plain(up(HERE[IPV4])), plain(up(HERE[IPV4]), up(FAR[IPV4]))
    assert since(one, both) == []
    assert since(both, plain(up(HERE[IPV4]), draining(FAR[IPV4]))) == []
    assert since(both, both) == []


def test_where_nobody_served_before_anybody_may_be_answering():
    assert since(plain(), plain(up(HERE[IPV4]))) == [at_cluster_ip()]
    assert since(plan_of(), plain(up(HERE[IPV4]))) == [at_cluster_ip()]
    assert not at_cluster_ip().all_stale


def test_with_the_last_endpoint_or_the_service_gone_nothing_is_suspect():
    assert since(plain(up(HERE[IPV4])), plain()) == []
    assert since(plain(up(HERE[IPV4])), plan_of()) == []


def test_tcp_is_suspect_only_where_resets_are_wanted():
    both, one = (up(HERE[IPV4]), up(FAR[IPV4])), (up(FAR[IPV4]),)
    assert since(plain(*both, protocol=TCP), plain(*one, protocol=TCP)) == []
    reset = {"protocol": TCP, **RESET}
    gone = Server(ip_address(HERE[IPV4]), 8080)
    assert since(plain(*both, **reset), plain(*one, **reset)) == [at_cluster_ip(gone)._replace(protocol=TCP)]
    assert since(plain(*both, protocol=TCP), plain(*both, **reset)) == [at_cluster_ip()._replace(protocol=TCP)]


def test_other_addresses_of_the_node_may_change_any_flow():
    of = service()
    assert since(plan_of(of, node()), plan_of(of, node(addresses=addresses("192.0.2.9")))) is None


def everywhere(protocol, *endpoints, **changes):
    of = exposed(ports=(port(protocol=protocol, node_port=NODE_PORT),), **changes)
    return StaleFlows(plan_of(of, slices(of, *endpoints))).everywhere()


def test_everywhere_is_the_protocols_and_families_that_have_anything_to_judge():
    assert everywhere(UDP, up(HERE[IPV4])) == [Suspects(UDP, IPV4)]
    assert sorted(everywhere(TCP, **RESET)) == [Suspects(TCP, IPV4), Suspects(TCP, IPV6)]
    assert everywhere(TCP, up(HERE[IPV4])) == []


@pytest.mark.parametrize("seed", range(150))
def test_a_change_makes_stale_only_what_is_suspected(seed):
    """Of all flows there can be: those stale now and not before are suspected, and the certain ones are stale."""
    world = Resetting(seed)
    local = addresses("192.0.2.1", "127.0.0.1", "2001:db8:77::1", "10.96.0.3")
    before = plan_node(world.snapshot, "n1", world.settings)
    for _ in range(6):
        plan = plan_node(world.change(), "n1", world.settings, before)
        old, new = StaleFlows(before, local), StaleFlows(plan, local)
        suspects = new.since(old)
        for flow in every_flow():
            suspected = suspects is None or any(matches(each, flow) for each in suspects)
            if new.is_stale(flow) and not old.is_stale(flow):
                assert suspected, flow
            if flow.protocol is UDP and any(each.all_stale and matches(each, flow) for each in suspects or ()):
                assert new.is_stale(flow), flow
        before = plan


def every_flow():
    """Wherever a Service of `World` may be, answered by whoever may serve it, and by itself."""
    pods = {
        family: [each for pod in POD_IPS.values() for each in pod if family_of(each) is family] for family in Family
    }
    for to in (*CLUSTER_IPS, *OUTER_IPS, *NODE_IPS["n1"], *NODE_IPS["n2"][:1]):
        for number in (*NUMBERS, 30002):
            yield Flow(UDP, to, number, Server(to, number))
            yield Flow(TCP, to, number, Server(to, number))
            for answers in pods[family_of(to)]:
                yield Flow(UDP, to, number, Server(answers, 8080))
                yield Flow(TCP, to, number, Server(answers, 8080))


def matches(suspects, flow):
    """Whether the flow is among the suspects; a node port's are at any address."""
    wanted = (suspects.protocol, suspects.destination, suspects.port, suspects.server)
    return suspects.family is family_of(flow.destination) and all(
        want is None or want == is_ for want, is_ in zip(wanted, flow, strict=True)
    )
