"""What a node says and hears by BGP: sessions with nodes and routers, what it announces, what it lets in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_network

from netplane.errors import Problem
from netplane.model.address import Family, IPAddress, IPNetwork, family_of
from netplane.plan.network_names import node_session, router_id, router_session
from netplane.plan.network_peers import address_of
from netplane.plan.network_plan import BgpPlan, BgpSession, Path
from netplane.plan.network_settings import Announce, Bgp, BgpPeer, Mode, NetworkSettings
from netplane.plan.network_spans import overlapping, span_of

_LABELS = "metadata.labels"


@dataclass(frozen=True, slots=True)
class Speaker:
    """A node as a BGP speaker."""

    name: str
    addresses: tuple[IPAddress, ...]
    ranges: tuple[IPNetwork, ...]
    labels: frozenset[tuple[str, str]]

    def reflects(self, settings: Bgp) -> bool:
        """Whether it reflects routes."""
        return settings.mesh and bool(settings.reflectors) and self.labels.issuperset(settings.reflectors)

    def routers(self, settings: Bgp) -> tuple[BgpPeer, ...]:
        """The routers it speaks with."""
        return tuple(each for each in settings.peers if self.labels.issuperset(each.nodes))


@dataclass(frozen=True, slots=True)
class Around:
    """What surrounds the speaker. `addresses`: where Nodes' are on the line of `network_spans`. `confined`: all that
    is for Pods. `reflected`: whether some node reflects routes.
    """

    addresses: frozenset[int]
    confined: tuple[IPNetwork, ...]
    reflected: bool


def speaks(settings: NetworkSettings) -> bool:
    """Whether a node needs a BGP speaker at all."""
    return settings.mode is Mode.BGP or settings.load_balancers.announce is Announce.BGP


def node_sessions(
    settings: Bgp, here: Speaker, other: Speaker, paths: Mapping[IPAddress, Path]
) -> tuple[BgpSession, ...]:
    """The sessions between two nodes: one of each family that both have and one of them has Pods of.

    A reflector has one of every family that both have, since it hands on the routes of others.
    """
    ours, theirs = here.reflects(settings), other.reflects(settings)
    if not settings.mesh or (settings.reflectors and not ours and not theirs):
        return ()
    pods = {family_of(each) for each in (*here.ranges, *other.ranges)}
    made = []
    for family in Family:
        local, remote = address_of(here.addresses, family), address_of(other.addresses, family)
        if local is None or remote is None or not (ours or theirs or family in pods):
            continue
        path = paths.get(remote)
        session = BgpSession(
            name=node_session(other.name, family),
            local=local,
            remote=remote,
            asn=settings.asn,
            password_file=settings.password_file,
            multihop=path is not None and not path.on_link,
            client=ours and not theirs,
        )
        made.append(session)
    return tuple(made)


def plan_bgp(
    settings: NetworkSettings,
    here: Speaker,
    nodes: Iterable[BgpSession],
    advertised: Iterable[IPAddress],
    paths: Mapping[IPAddress, Path],
    around: Around,
) -> tuple[BgpPlan, list[Problem]]:
    """The whole of it, given the sessions with `nodes`."""
    problems: list[Problem] = []
    routers = tuple(_router_sessions(settings.bgp, here, paths, around.addresses, problems))
    pods = settings.mode is Mode.BGP
    if pods:
        problems += _unheard(settings.bgp, here, routers, around)
    identity = router_id(here.name, here.addresses)
    plan = BgpPlan(
        settings=settings.bgp,
        router_id=identity,
        sessions=(*(nodes if pods else ()), *routers),
        announced=(*(here.ranges if pods else ()), *_services(settings, advertised, around, problems)),
        accepted=around.confined if pods else (),
        cluster_id=identity if pods and here.reflects(settings.bgp) else None,
    )
    return plan, problems


def _unheard(settings: Bgp, here: Speaker, routers: tuple[BgpSession, ...], around: Around) -> Iterator[Problem]:
    """That nobody tells this node where Pods are."""
    if settings.mesh and settings.reflectors and not around.reflected:
        wanted = ", ".join(f"{key}={value}" for key, value in settings.reflectors)
        why = f"no Node has them all ({wanted}), so nobody reflects routes; label some, or correct the setting"
        yield Problem("", f"Node {here.name}: {_LABELS}: bgp.reflectors", why)
    if not settings.mesh and not routers:
        why = "there is no mesh, and no entry of bgp.peers is for this Node, so it hears of no Pod; add one"
        yield Problem("", f"Node {here.name}: {_LABELS}: bgp.peers", why)


def _router_sessions(
    settings: Bgp,
    here: Speaker,
    paths: Mapping[IPAddress, Path],
    nodes: frozenset[int],
    problems: list[Problem],
) -> Iterator[BgpSession]:
    """The sessions with routers, by address; an entry that cannot work has its Problem."""
    found: dict[IPAddress, BgpPeer] = {}
    for peer in here.routers(settings):
        path = paths.get(peer.address)
        local = address_of(here.addresses, family_of(peer.address))
        if span_of(peer.address)[0] in nodes:
            why = "is the address of a Node; nodes speak with each other by themselves: remove the entry"
        elif peer.address in found:
            why = "is in two entries that are for this Node; remove one"
        elif local is None:
            why = f"this Node has no {family_of(peer.address)} address to speak from; add one, or remove the entry"
        elif path is not None and not path.on_link and not peer.multihop:
            why = "is behind a router; say `multihop: true`, or correct the address"
        else:
            found[peer.address] = peer
            continue
        problems.append(Problem("", f"Node {here.name}: bgp.peers: {peer.address}", why))
    for address, peer in sorted(found.items(), key=lambda item: (item[0].version, int(item[0]))):
        path, own = paths.get(address), address_of(here.addresses, family_of(address))
        source = path.source if path is not None and path.source in here.addresses else own
        if source is not None:
            yield BgpSession(
                router_session(address), source, address, peer.asn, peer.password_file, multihop=peer.multihop
            )


def _services(
    settings: NetworkSettings, advertised: Iterable[IPAddress], around: Around, problems: list[Problem]
) -> Iterator[IPNetwork]:
    """The addresses of Services to announce: none that is a Node's or a Pod's, whoever wrote it into a Service."""
    bgp = settings.bgp
    if not (
        bgp.advertise_external_ips
        or bgp.advertise_load_balancer_ips
        or settings.load_balancers.announce is Announce.BGP
    ):
        return
    pods = [span_of(each) for each in around.confined]
    for address in sorted(set(advertised), key=lambda each: (each.version, int(each))):
        if span_of(address)[0] in around.addresses:
            whose = "a Node's"
        elif (place := overlapping(span_of(address), pods)) >= 0:
            whose = f"a Pod's (in {around.confined[place]})"
        else:
            yield ip_network(address)
            continue
        why = f"is {whose}, so it is not announced; take it out of the Services that have it"
        problems.append(Problem("", f"Service address {address}", why))
