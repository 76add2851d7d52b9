"""Stale flows leave the kernel's table, by every way the same and nothing else: on random tables and by hand."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from random import Random

import pytest
from builders import IPV4, NODE_ADDRESS, UDP, down, exposed, plan_of, port, service, slices, up
from connections import connection, names, put
from generated.clusters import CLUSTER_IPS, NODE_IPS, NUMBERS, OUTER_IPS, POD_IPS, World

from netplane.agent import flows as module
from netplane.agent.flows import Cleaned, Flows, Way, table_pressure
from netplane.kernel import sysctls
from netplane.kernel.conntrack import Connection, read
from netplane.kernel.links import LOOPBACK, Links, address
from netplane.kernel.links import up as link_up
from netplane.kernel.netns import Namespace
from netplane.model.address import Protocol, family_of
from netplane.model.service import RemovedEndpoints
from netplane.plan.node import plan_node
from netplane.plan.plan import Plan
from netplane.plan.stale import StaleFlows

pytestmark = pytest.mark.kernel

LOCAL = tuple(map(ip_address, ("192.0.2.101", "192.0.2.77", "2001:db8::101")))
LOOPBACKS = tuple(map(ip_address, ("127.0.0.1", "::1")))
PODS = tuple(each for pods in POD_IPS.values() for each in pods)
ANYWHERE = (*CLUSTER_IPS, *OUTER_IPS, *NODE_IPS["n1"], *LOCAL, *NODE_IPS["n2"][:1])
VIP, HERE, FAR, CLIENT = "10.96.0.10", "10.244.1.5", "10.244.2.6", "10.244.1.9"


class Resetting(World):
    """Every second Service wants its connections reset."""

    def _service(self, of):
        return replace(super()._service(of), removed_endpoints=self._one(tuple(RemovedEndpoints)))


@pytest.fixture
def node() -> Iterator[Namespace]:
    def furnish() -> None:
        with Links() as links:
            links.carry_out([link_up(LOOPBACK), *(address(each, each.max_prefixlen, LOOPBACK) for each in LOCAL)])

    with Namespace() as made:
        made.run(furnish)
        yield made


def some_connections(random: Random, count: int) -> list[Connection]:
    """Of everything there can be between clients and the Services of a `World`, no two with one client and target."""
    made = {}
    for _ in range(count):
        to = random.choice(ANYWHERE)
        family = family_of(to)
        client = random.choice([each for each in PODS if family_of(each) is family])
        protocol = random.choice((Protocol.UDP, Protocol.UDP, Protocol.TCP, Protocol.SCTP)).number
        target = (to, random.choice((*NUMBERS, 30002)))
        pods = [each for each in PODS if family_of(each) is family]
        server = target if random.random() < 0.2 else (random.choice(pods), random.choice((80, 8080, 8080)))
        zone = random.choice((0,) * 9 + (7,))
        one = connection(protocol, (client, random.randrange(1024, 65536)), target, server, zone=zone)
        made[one.original] = one
    return list(made.values())


def is_stale(stale: StaleFlows, one: Connection) -> bool:
    return not one.zone and one.protocol in module._PROTOCOLS and stale.is_stale(module._flow(one))


WAYS = {
    "erase": {"look": 0},
    "choose": {"best": Way.CHOOSE, "look": 0},
    "dump": {"best": Way.DUMP},
    "the cheapest": {},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(5))
def test_exactly_the_stale_flows_are_removed_by_every_way(node, seed, way):
    """A table in step with one plan is in step with the next one, whatever was in it and whatever has changed."""
    world, random = Resetting(seed), Random(seed)
    told: list[str] = []
    flows = Flows(told.append, **WAYS[way])
    there = {each.original: each for each in some_connections(random, 120)}
    node.run(lambda: put(there.values()))
    plan: Plan | None = None
    used = set()
    for _ in range(7):
        plan = plan_node(world.change(), "n1", world.settings, plan)
        stale = StaleFlows(plan, (*LOCAL, *LOOPBACKS))
        gone = [each for each in there.values() if is_stale(stale, each)]
        done = node.run(lambda plan=plan: flows.follow(plan))
        used.add(done.way)
        for each in gone:
            del there[each.original]
        assert names(node.run(read)) == names(there.values())
        counted = [sum(each.protocol == protocol for each in gone) for protocol in (17, 6)]
        assert done.tcp == counted[1]
        assert done.udp <= counted[0] if done.erased else done.udp == counted[0]
        new = [
            each for each in some_connections(random, 25) if each.original not in there and not is_stale(stale, each)
        ]
        node.run(lambda new=new: put(new))
        there |= {each.original: each for each in new}
    assert told == []
    assert used <= {None, *(each for each in Way if way != "dump" or each is Way.DUMP)}


# --- one thing at a time --------------------------------------------------------------------------------------------


def dns(*endpoints, **changes):
    of = service("dns", ips=(VIP,), ports=(port(53, changes.pop("protocol", UDP)),), **changes)
    return plan_of(of, slices(of, *endpoints))


def flow(port, answers=HERE, *, protocol=17, to=VIP):
    return connection(protocol, (CLIENT, port), (to, 53), (answers, 8080))


BOTH, REST = dns(up(HERE), up(FAR)), dns(up(FAR), down(HERE))


def following(node, *plans, there=(), **options) -> list[Cleaned]:
    flows = Flows(**options)

    def work():
        put(there)
        return [flows.follow(plan) for plan in plans]

    return node.run(work)


@pytest.mark.parametrize(("way", "removed"), [("erase", (0, 1)), ("choose", (2, 0)), ("dump", (2, 0))])
def test_an_endpoint_that_goes_takes_its_flows_along(node, way, removed):
    there = [flow(1000), flow(1001), flow(1002, FAR)]
    first, then = following(node, BOTH, REST, there=there, **WAYS[way])
    assert (first.udp, first.erased, first.way) == (0, 0, Way.DUMP)
    assert (then.udp, then.erased) == removed
    assert then.way is Way(way)
    assert names(node.run(read)) == names([flow(1002, FAR)])


def test_without_a_change_of_serving_endpoints_the_table_is_not_even_looked_at(node):
    _, second, third = following(node, BOTH, BOTH, dns(up(FAR), up(HERE), affinity=None), there=[flow(1000)])
    assert second == third == Cleaned()


def test_a_new_memory_finds_what_went_while_nobody_looked(node):
    (done,) = following(node, REST, there=[flow(1000), flow(1001, FAR)])
    assert done == Cleaned(udp=1, way=Way.DUMP)


def test_after_a_failed_round_everything_is_looked_at_again(node):
    flows = Flows()
    node.run(lambda: flows.follow(REST))
    node.run(lambda: put([flow(1000)]))
    assert node.run(lambda: flows.follow(REST)) == Cleaned()
    flows.forget()
    assert node.run(lambda: flows.follow(REST)) == Cleaned(udp=1, way=Way.DUMP)


def test_when_a_look_costs_more_than_reading_all_everything_is_read(node):
    of = exposed(ports=(port(53, UDP, node_port=30053),))
    before, plan = (plan_of(of, slices(of, *(up(each) for each in some))) for some in ((HERE, FAR), (FAR,)))
    targets = [*frontends(of), ("198.51.100.99", 30053)]
    there = [connection(17, (CLIENT, 1000 + at), to, (HERE, 8080)) for at, to in enumerate(targets)]
    answered = there[:-1]
    _, cheap = following(node, before, plan, there=there, look=len(there) + 10)
    assert cheap == Cleaned(udp=len(answered), way=Way.DUMP)
    node.run(lambda: put(answered))
    _, dear = following(node, before, plan, look=0)
    assert dear.way is Way.CHOOSE  # the node port: its address may be any
    assert names(node.run(read)) == names(there[-1:])


def frontends(of):
    yield VIP, 53
    yield from ((str(each), 53) for each in of.external_ips if family_of(each) is IPV4)
    yield from ((str(each.address), 53) for each in of.ingress if family_of(each.address) is IPV4)
    yield NODE_ADDRESS[IPV4], 30053
    yield str(LOCAL[1]), 30053


# --- TCP ------------------------------------------------------------------------------------------------------------


def resetting(*endpoints):
    return dns(*endpoints, protocol=Protocol.TCP, removed_endpoints=RemovedEndpoints.RESET)


def test_connections_are_counted_whichever_way(node):
    tcp = [flow(port, protocol=6) for port in (1000, 1001)]
    _, done = following(node, resetting(up(HERE), up(FAR)), resetting(up(FAR)), there=tcp, look=0)
    assert done == Cleaned(tcp=2, way=Way.CHOOSE)
    _, none_left = following(node, resetting(up(HERE)), resetting(), there=tcp, look=0)
    assert none_left == Cleaned(tcp=2, way=Way.CHOOSE)


def test_where_nobody_would_answer_the_clients_connections_are_kept_and_that_is_said_once(node):
    told: list[str] = []
    there = [flow(1000, protocol=6)]
    node.run(lambda: sysctls.write({"net/netfilter/nf_conntrack_tcp_loose": 0}))
    plans = resetting(up(HERE), up(FAR)), resetting(up(FAR)), resetting()
    assert following(node, *plans, there=there, tell=told.append) == [Cleaned()] * 3
    assert names(node.run(read)) == names(there)
    assert [each.split(":")[0] for each in told] == [
        "TCP connections to removed endpoints are kept in spite of netplane.dev/removed-endpoints"
    ]
    assert "nf_conntrack_tcp_loose" in told[0]


# --- trouble --------------------------------------------------------------------------------------------------------


def test_a_refusal_of_the_kernel_is_told_once_fails_nothing_and_is_tried_again(node):
    told: list[str] = []
    flows = Flows(told.append)
    for _ in range(3):
        assert node.run(lambda: without_net_admin(lambda: flows.follow(REST))) == Cleaned()
    assert len(told) == 1
    assert "run as root" in told[0]
    assert flows.troubles
    node.run(lambda: put([flow(1000)]))
    assert node.run(lambda: flows.follow(REST)) == Cleaned(udp=1, way=Way.DUMP)
    assert not flows.troubles


def without_net_admin(work):
    """Call `work` in this thread with CAP_NET_ADMIN put aside."""
    header, before, less = struct.pack("=Ii", 0x20080522, 0), bytearray(24), bytearray(24)
    as_buffer = ctypes.c_char * 24
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(header, as_buffer.from_buffer(before)) == 0
    less[:] = before
    less[1] &= ~(1 << 4)  # bit 12 of the effective capabilities
    assert libc.capset(header, as_buffer.from_buffer(less)) == 0
    try:
        return work()
    finally:
        assert libc.capset(header, as_buffer.from_buffer(before)) == 0


def test_a_full_table_is_told_once_with_what_to_do_until_it_is_over(node):
    told: list[str] = []
    flows = Flows(told.append)
    node.run(flows.look_at_table)
    pressure = node.run(table_pressure)
    assert (pressure.count, pressure.full, told) == (0, False, [])
    for count in (pressure.limit, pressure.limit - 1, 0, pressure.limit):
        flows.watch(replace(pressure, count=count))
    assert len(told) == 2
    assert f"{pressure.limit} of at most {pressure.limit}" in told[0]
    assert "nf_conntrack_count" in told[0]
    assert "nf_conntrack_max" in told[0]
