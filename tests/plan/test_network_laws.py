"""What holds for every network plan: on clusters from seeds, with Nodes that say all sorts of things."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from itertools import combinations, permutations
from random import Random

import pytest
from builders import addresses, networks
from network_nodes import key

from netplane.model.node import Node
from netplane.model.table import Table
from netplane.plan.network import plan_network
from netplane.plan.network_plan import PUBLIC_KEY_ANNOTATION, HostFacts, NetworkPlan, Path, Way
from netplane.plan.network_settings import Announce, Bgp, BgpPeer, LoadBalancers, Mode, NetworkSettings, Wireguard
from netplane.plan.network_text import network_text

SEEDS = range(24)
NAMES = tuple(f"n{number}" for number in range(1, 9))
OWN = "n4"
SERVICES = networks("10.96.0.0/16", "fd00:96::/112")
ROUTER = ip_address("198.18.0.1")
LABELS = (("rack", "a"), ("rr", "yes"))
LENGTHS = {4: (20, 22, 23, 25, 32), 6: (60, 63, 65, 128)}


class World:
    """Nodes, settings and a host that change at random, always the same way for the same seed.

    A `calm` one has no Node with a claim to what is another's.
    """

    def __init__(self, seed: int, *, calm: bool = False) -> None:
        self.random = Random(seed)
        self.calm = calm
        self.nodes = {name: self._node(name) for name in NAMES if name == OWN or self._chance(0.8)}
        self.settings = self._settings()
        self.far = {name for name in NAMES if self._chance(0.4)}
        self.mtus: dict[str, int] = {}
        self.facts = self._facts()

    def plan(self, previous: NetworkPlan | None = None) -> NetworkPlan:
        return plan_network(self.nodes, OWN, self.settings, self.facts, SERVICES, (ROUTER,), previous)

    def change(self) -> None:
        draw = self.random.random()
        name = self.random.choice(NAMES)
        if draw < 0.55:
            self.nodes = {**self.nodes, name: self._node(name)}
        elif draw < 0.65 and name != OWN:
            self.nodes = {other: node for other, node in self.nodes.items() if other != name}
        elif draw < 0.70:
            self.nodes = {each: replace(node) for each, node in self.nodes.items()}  # equal, and other objects
        elif draw < 0.80:
            self.mtus[name] = self.random.choice((0, 100, 1300, 1330, 1500, 9000))
            self.facts = self._facts()
        elif draw < 0.90:
            self.far = self.far ^ {name}
            self.facts = self._facts()
        else:
            self.settings = self._settings()
        if self._chance(0.7):
            self.facts = self._facts()

    def _chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def _node(self, name: str) -> Node:
        number = int(name[1:])
        addresses_ = addresses(f"192.0.2.{number}", f"2001:db8::{number}")
        ranges = networks(f"10.244.{number}.0/24", f"fd00:244:{number}::/64")
        shown = key(number)
        if self._chance(0.5) and not self.calm:
            other = self.random.randrange(1, 9)
            odd = f"10.244.{other}.128", f"fd00:244:{other}::", f"192.0.2.{other}", "10.96.3.0", "0.0.0.0", "10.9.0.0"
            base = ip_address(self.random.choice(odd))
            length = self.random.choice(LENGTHS[base.version])
            ranges = tuple(self.random.sample((*ranges, ip_network((base, length), strict=False)), 2))
            addresses_ = tuple(self.random.sample((*addresses_, *addresses(f"192.0.2.{other}", "10.244.3.7")), 2))
            shown = self.random.choice((shown, shown, key(other), "", "?"))
        some = self.random.choice((2, 2, 2, 1, 0))
        return Node(
            name,
            self.random.choice((addresses_, addresses_, addresses_[:1], addresses_[1:], ())),
            ranges[:some],
            labels=frozenset(label for label in LABELS if self._chance(0.4)),
            annotations=((PUBLIC_KEY_ANNOTATION, shown),) if shown else (),
        )

    def _settings(self) -> NetworkSettings:
        pick = self.random.choice
        bgp = Bgp(
            mesh=self._chance(0.8),
            reflectors=pick(((), LABELS[1:])),
            peers=pick(((), (BgpPeer(ROUTER, 64513, nodes=LABELS[:1]),))),
            advertise_external_ips=self._chance(0.5),
        )
        return NetworkSettings(
            mode=pick(tuple(Mode)),
            cluster_ranges=pick(((), networks("10.244.0.0/16", "fd00:244::/32"))),
            mtu=pick((0, 0, 1280, 1400, 9000)),
            wireguard=Wireguard(plaintext=self._chance(0.3)),
            bgp=bgp,
            load_balancers=LoadBalancers(announce=pick(tuple(Announce))),
        )

    def _facts(self, own: str = OWN) -> HostFacts:
        paths = {
            address: Path("eth0", self.mtus.get(name, 1500), on_link=(name in self.far) == (own in self.far))
            for name, node in self.nodes.items()
            if name != own and self.mtus.get(name, 1500)
            for address in node.addresses
        }
        number = int(own[1:])
        bridge = networks(f"10.244.{number}.0/24")
        links = {"eth0": networks("192.0.2.0/24"), "cni0": bridge, "eth7": networks("10.9.9.0/24")}
        shown = key(number) if self.calm or self._chance(0.9) else ""
        on_host = self.nodes[own].addresses if own in self.nodes else ()
        found = frozenset(each for each in on_host if self.calm or self._chance(0.7))
        return HostFacts(paths, links, shown, addresses=found)

    def seen_from(self, own: str) -> NetworkPlan:
        return plan_network(self.nodes, own, self.settings, self._facts(own), SERVICES)


def worlds(seed: int, steps: int = 30) -> Iterator[World]:
    world = World(seed)
    for _ in range(steps):
        yield world
        world.change()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_plan_made_from_the_last_one_is_the_one_made_from_nothing(seed):
    previous = None
    for world in worlds(seed, 60):
        previous = world.plan(previous)
        scratch = world.plan()
        assert previous == scratch
        assert network_text(previous) == network_text(scratch)
        assert previous.memory == scratch.memory


@pytest.mark.parametrize("seed", SEEDS)
def test_far_plans_and_those_of_other_nodes_are_as_good_a_start(seed):
    starts = [world.plan() for world in worlds(seed, 6)]
    world = World(seed + 1000)
    for first in starts:
        assert world.plan(first) == world.plan()
    other = "n1" if "n1" in world.nodes else OWN
    assert world.plan(world.seen_from(other)) == world.plan()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_order_of_nodes_and_the_kind_of_mapping_leave_no_trace(seed):
    for world in worlds(seed, 8):
        first = world.plan()
        names = sorted(world.nodes, reverse=True)
        world.nodes = {name: world.nodes[name] for name in names}
        world.facts = replace(world.facts, paths=dict(sorted(world.facts.paths.items(), key=str)))
        assert world.plan() == world.plan(first) == first
        world.nodes = Table(world.nodes)
        assert world.plan() == first
        assert repr(world.plan()) == repr(first)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_node_that_changes_leaves_the_plans_of_others_the_same_objects(seed):
    world = World(seed, calm=True)
    before = world.plan()
    name = next(name for name in sorted(world.nodes) if name != OWN)
    changed = replace(world.nodes[name], pod_ranges=networks("10.244.99.0/24"), zone="z")
    world.nodes = {**world.nodes, name: changed}
    after = world.plan(before)
    assert all(after.peers[each] is before.peers[each] for each in before.peers if each != name)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_a_node_speaks_as_in_an_overlay_leads_back_into_it(seed):
    world = World(seed, calm=True)
    plans = {name: world.seen_from(name) for name in world.nodes}
    for one, other in permutations(plans, 2):
        there = plans[one].peers[other]
        sources = [each for end in plans[one].overlays if end.link == there.link for each in end.sources]
        for source in sources if there.tunnel else ():
            if source.version in {each.version for each in there.ranges}:
                back = plans[other].peers[one]
                assert back.tunnel is not None
                assert source in back.addresses
                assert source.version in {each.version for each in back.tunnel.inner}


@pytest.mark.parametrize("seed", SEEDS)
def test_no_range_and_no_address_is_two_nodes(seed):
    for world in worlds(seed):
        made = world.plan()
        spans = [*made.ranges, *(each for peer in made.peers.values() for each in (*peer.ranges, *peer.unreachable))]
        for one, other in combinations(spans, 2):
            assert one.version != other.version or not one.overlaps(other)
        listed = [*made.addresses, *(each for peer in made.peers.values() for each in peer.addresses)]
        assert len(set(listed)) == len(listed)
        assert not any(address in network for address in listed for network in (*spans, *made.confined))
        assert not any(one.overlaps(other) for one in spans for other in SERVICES if one.version == other.version)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_not_reached_is_confined_and_keeps_its_source(seed):
    for world in worlds(seed):
        made = world.plan()
        for peer in made.peers.values():
            for network in (*peer.ranges, *peer.unreachable):
                assert any(network.subnet_of(each) for each in made.confined if each.version == network.version)
                assert any(network.subnet_of(each) for each in made.keeps_source if each.version == network.version)
            for address in peer.addresses:
                assert any(address in each for each in made.keeps_source)


@pytest.mark.parametrize("seed", SEEDS)
def test_each_way_has_what_it_needs(seed):
    for world in worlds(seed):
        made = world.plan()
        links = {each.link: each for each in made.overlays}
        for peer in made.peers.values():
            assert bool(peer.ranges) == (peer.way is not Way.NONE)
            match peer.way:
                case Way.NONE:
                    assert (peer.link, peer.mtu, peer.next_hops, peer.tunnel) == ("", 0, (), None)
                case Way.DIRECT:
                    assert {each.version for each in peer.next_hops} == {each.version for each in peer.ranges}
                    assert (peer.link, peer.tunnel) == ("eth0", None)
                case Way.VXLAN | Way.WIREGUARD:
                    assert peer.tunnel.outer in peer.addresses
                    assert peer.mtu <= links[peer.link].mtu
                    assert {each.version for each in peer.tunnel.inner} == {each.version for each in peer.ranges}
                    assert bool(peer.tunnel.key) == (peer.way is Way.WIREGUARD) != bool(peer.tunnel.mac)
            assert made.pod_mtu <= peer.mtu or not peer.mtu
            sizes = {4: 68, 6: 1280}
            assert all(peer.mtu >= sizes[each.version] for each in peer.ranges if peer.mtu)
        keys = [peer.tunnel.key for peer in made.peers.values() if peer.tunnel and peer.tunnel.key]
        assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_not_reached_is_told(seed):
    """By a problem or a note that names the node, or one about this node that says that it is for all alike."""
    for world in worlds(seed):
        made = world.plan()
        said = [str(each) for each in (*made.problems, *made.notes)]
        for peer in made.peers.values():
            if peer.way is Way.NONE or peer.unreachable:
                assert any(each.startswith((f"Node {peer.node}: ", f"Node {OWN}: ")) for each in said), peer


@pytest.mark.parametrize("seed", SEEDS)
def test_two_nodes_that_claim_nothing_of_others_go_by_one_way(seed):
    """Else each would drop what the other sends: it would come by a link that does not lead back."""
    for step in range(12):
        world = World(seed * 100 + step, calm=True)
        if world.settings.mode is Mode.BGP:
            continue
        seen = {name: world.seen_from(name) for name in world.nodes}
        for one, other in combinations(sorted(seen), 2):
            there, back = seen[one].peers[other], seen[other].peers[one]
            if there.ranges and back.ranges:
                assert (there.way, there.link) == (back.way, back.link)
                shared = {each.version for each in seen[one].ranges} & {each.version for each in seen[other].ranges}
                reached = [{each.version for each in peer.ranges} & shared for peer in (there, back)]
                assert reached[0] == reached[1]


@pytest.mark.parametrize("seed", SEEDS)
def test_all_nodes_agree_on_whose_a_range_is_but_those_it_is_about(seed):
    for world in worlds(seed, 10):
        world.settings = replace(world.settings, cluster_ranges=networks("10.244.0.0/16", "fd00:244::/32"))
        seen = {name: world.seen_from(name) for name in world.nodes}
        strict = {name for name, made in seen.items() if not any("on itself" in str(each) for each in made.problems)}
        owners: dict[object, set[str]] = {}
        for name in strict:
            for peer in seen[name].peers.values():
                for network in (*peer.ranges, *peer.unreachable):
                    owners.setdefault(network, set()).add(peer.node)
        assert all(len(each) == 1 for each in owners.values())
