"""What the rules know of other nodes: which sources are behind an overlay, which must not be, by length of prefix."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from netplane.model.address import Family, IPNetwork, family_of
from netplane.plan.network_plan import NetworkPlan, PeerPlan, Way
from netplane.plan.network_settings import Mode
from netplane.plan.network_spans import merged, span_of

OVERLAID = frozenset((Way.VXLAN, Way.WIREGUARD))
"""The ways by an overlay."""
_OVERLAY_MODES = frozenset((Mode.VXLAN, Mode.CROSS_SUBNET, Mode.WIREGUARD))
_NAME = re.compile(r"[A-Za-z0-9_.:@+-]+")


@dataclass(frozen=True, slots=True)
class Judged:
    """Which sources are asked for: those of `families`, where there is an overlay.

    `confined`: Pods of other nodes come by it alone, so that it matters who they are even if they are not reached.
    `plaintext`: but for those that may be reached in plain text.
    """

    families: frozenset[Family] = frozenset()
    confined: bool = False
    plaintext: bool = False


def judged_of(plan: NetworkPlan) -> Judged:
    """What a plan's rules ask for."""
    settings = plan.settings
    if settings.mode not in _OVERLAY_MODES:
        return Judged()
    wireguard = settings.mode is Mode.WIREGUARD
    families = frozenset(family_of(each) for each in plan.ranges)
    return Judged(families, settings.mode is not Mode.CROSS_SUBNET, wireguard and settings.wireguard.plaintext)


def behind(peer: PeerPlan, judged: Judged) -> tuple[IPNetwork, ...]:
    """The Pod ranges of a peer that come by an overlay."""
    return _of(judged, peer.ranges) if peer.way in OVERLAID else ()


def refused(peer: PeerPlan, judged: Judged) -> tuple[IPNetwork, ...]:
    """The Pod ranges of a peer that come by no way, if that is asked for."""
    return _of(judged, peer.unreachable) if judged.confined else ()


def plain(peer: PeerPlan, judged: Judged) -> tuple[IPNetwork, ...]:
    """The Pod ranges of a peer that come in plain text though others must not."""
    return _of(judged, peer.ranges) if judged.plaintext and peer.way is Way.DIRECT else ()


def lengths(networks: Iterable[IPNetwork], family: Family) -> tuple[int, ...]:
    """Of the prefixes of a family, each once; the longest first."""
    return tuple(sorted({each.prefixlen for each in networks if each.version == family}, reverse=True))


def only_pods(plan: NetworkPlan, family: Family) -> tuple[tuple[IPNetwork, ...], bool]:
    """The ranges of the cluster that hold no node's address, merged; and whether that is all there are."""
    ranges = [each for each in plan.settings.cluster_ranges if each.version == family]
    nodes = [int(each) for each in plan.addresses if each.version == family]
    if ranges:
        nodes += (int(each) for peer in plan.peers.values() for each in peer.addresses if each.version == family)
    found = [each for each in ranges if not _holds(each, nodes)]
    return merged(map(span_of, found)), bool(ranges) and len(found) == len(ranges)


def nameable(links: Iterable[str]) -> Iterator[str]:
    """The links that a rule can name: nft has no words for some letters."""
    return (each for each in links if _NAME.fullmatch(each))


def _of(judged: Judged, networks: tuple[IPNetwork, ...]) -> tuple[IPNetwork, ...]:
    return tuple(each for each in networks if family_of(each) in judged.families)


def _holds(network: IPNetwork, nodes: list[int]) -> bool:
    first, last = int(network.network_address), int(network.broadcast_address)
    return any(first <= each <= last for each in nodes)
