"""The plan of the Pod network: from Nodes, settings and facts of this host, how this node reaches every other.

Cost follows the change: given the previous plan, only nodes are planned again whose Node, whose standing among the
others or whose paths changed. The result never depends on whether, or from what, it was derived.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from netplane.errors import InputError, Problem, one_line
from netplane.model.address import IPAddress, IPNetwork, family_of
from netplane.model.node import Node
from netplane.plan.network_bgp import Around, Speaker, node_sessions, plan_bgp, speaks
from netplane.plan.network_claims import KEY_FIELD, Rules
from netplane.plan.network_memory import Entry, NetworkMemory
from netplane.plan.network_names import inner_addresses, vtep_mac
from netplane.plan.network_peers import SMALLEST_PACKET, Here, Other, address_of, reach
from netplane.plan.network_plan import VXLAN_LINKS, BgpPlan, HostFacts, NetworkPlan, Overlay, Path, Way
from netplane.plan.network_settings import Mode, NetworkSettings
from netplane.plan.network_spans import inside, overlapping, span_of
from netplane.plan.network_survey import Survey, survey
from netplane.plan.plan import Note


def plan_network(
    nodes: Mapping[str, Node],
    node: str,
    settings: NetworkSettings,
    facts: HostFacts,
    service_ranges: tuple[IPNetwork, ...] = (),
    advertised: tuple[IPAddress, ...] = (),
    previous: NetworkPlan | None = None,
) -> NetworkPlan:
    """The plan for `node`. `previous` saves work and never changes the result.

    `advertised`: addresses of Services that routers are to hear of, if the settings announce any by BGP.
    Raises InputError if there is no such Node; everything else is a Problem, and what it is not about goes on.
    """
    if node not in nodes:
        listed = ", ".join(sorted(nodes)[:5]) or "none"
        raise InputError(
            f"Node {one_line(node, 80)}: not found (Nodes there are: {one_line(listed)}), so it has no Pod range and no"
            " address; correct --node, or wait until it is there: the Pod network stays as it was"
        )
    before = previous.memory if previous is not None else None
    rules = _rules(nodes[node], settings, facts, service_ranges)
    known = survey(nodes, node, facts.public_key if rules.keys else "", rules, before.survey if before else None)
    own, here = _speaker(known, node), _here(known, node, settings)
    memory = NetworkMemory(here, own, known, facts.paths, _entries(known, here, own, facts.paths, before))
    bgp, of_bgp = _bgp(memory, advertised)
    return NetworkPlan(
        node=node,
        settings=settings,
        ranges=own.ranges,
        addresses=own.addresses,
        peers={name: entry.reached.plan for name, entry in memory.entries.items()},
        overlays=_overlays(memory, facts.addresses),
        keeps_source=known.keeps_source,
        confined=known.confined,
        uplinks=_uplinks(rules, facts, own.ranges),
        pod_mtu=_pod_mtu(memory),
        bgp=bgp,
        problems=(*_own_problems(memory), *_too_large(memory), *of_bgp, *_told(memory)),
        notes=tuple(_notes(memory, facts.silent)),
        memory=memory,
    )


def addresses_to_reach(nodes: Mapping[str, Node], node: str, settings: NetworkSettings) -> tuple[IPAddress, ...]:
    """The addresses that `plan_network` wants the paths of (`HostFacts.paths`): other nodes', and routers'."""
    routers = [peer.address for peer in settings.bgp.peers] if speaks(settings) else []
    others = (address for name, each in nodes.items() if name != node for address in each.addresses)
    return tuple(dict.fromkeys((*others, *routers)))


# --- from the facts ---------------------------------------------------------------------------------------------------


def _rules(own: Node, settings: NetworkSettings, facts: HostFacts, service_ranges: tuple[IPNetwork, ...]) -> Rules:
    """What Pod ranges must keep to, as far as it does not follow from other Nodes."""
    ours = [span_of(each) for each in own.pod_ranges]
    links = sorted(
        ((link, network) for link, networks in facts.networks.items() for network in networks),
        key=lambda pair: (pair[0], span_of(pair[1])),
    )
    return Rules(
        cluster=settings.cluster_ranges,
        services=service_ranges,
        keeps_source=settings.no_masquerade,
        # Pods here are on links, too; and a network of everything, or of one host, is a way and no place.
        links=tuple(
            (link, each)
            for link, each in links
            if 0 < each.prefixlen < each.max_prefixlen and overlapping(span_of(each), ours) < 0
        ),
        macs=settings.mode in (Mode.VXLAN, Mode.CROSS_SUBNET),
        keys=settings.mode is Mode.WIREGUARD,
    )


def _uplinks(rules: Rules, facts: HostFacts, ours: tuple[IPNetwork, ...]) -> tuple[str, ...]:
    """The links by which other nodes are reached, and others that networks are on; none that is for our Pods."""
    spans = [span_of(each) for each in ours]
    found = {path.link for path in facts.paths.values()} | {link for link, _ in rules.links}
    pods = {link for link in found if any(inside(span_of(each), spans) for each in facts.networks.get(link, ()))}
    return tuple(sorted(found - pods - {"lo"}))


def _speaker(known: Survey, node: str) -> Speaker:
    """What a node has and keeps, and its labels."""
    claim, lost = known.claims[node], known.lost_by(node).things
    if not lost:
        return Speaker(node, claim.addresses, claim.ranges, claim.node.labels)
    addresses = tuple(each for each in claim.addresses if each not in lost)
    return Speaker(node, addresses, tuple(each for each in claim.ranges if each not in lost), claim.node.labels)


def _here(known: Survey, node: str, settings: NetworkSettings) -> Here:
    """What this node is to others."""
    own = _speaker(known, node)
    shown = known.claims[node].key == known.key
    return Here(
        name=node,
        settings=settings,
        addresses=own.addresses,
        families=frozenset(map(family_of, own.ranges)),
        # Others go by the key they see. Without one they send plain text, if they may: so this node does, too.
        keyed=bool(known.key) and (shown or not settings.wireguard.plaintext),
        routed=bool(own.routers(settings.bgp)),
    )


def _other(known: Survey, who: Speaker, settings: NetworkSettings) -> Other:
    """What another node is to this one."""
    claim, lost = known.claims[who.name], known.lost_by(who.name)
    taken = f"is also that of Node {lost.key_of}, which keeps it; make a new one on one of them" if lost.key_of else ""
    return Other(
        name=who.name,
        addresses=who.addresses,
        ranges=who.ranges,
        mac=claim.mac,
        mac_fault=f"makes the same MAC as Node {lost.mac_of}; name it otherwise" if lost.mac_of else "",
        key=claim.key,
        key_fault=taken or claim.key_fault,
        routed=bool(who.routers(settings.bgp)),
    )


# --- every other node -------------------------------------------------------------------------------------------------


def _entries(
    known: Survey, here: Here, own: Speaker, paths: Mapping[IPAddress, Path], before: NetworkMemory | None
) -> Mapping[str, Entry]:
    """All other nodes by name; those that nothing changed for are taken from `before`."""
    kept: Mapping[str, Entry] = {}
    if before is not None and before.here == here and before.speaker == own:
        kept = before.entries
        changed = _changed(known, paths, before)
        if not changed and known.claims.keys() == before.survey.claims.keys():
            return kept
    else:
        changed = set(known.claims)
    made: dict[str, Entry] = {}
    for name in sorted(known.claims):
        if name == here.name:
            continue
        entry = kept.get(name)
        if entry is None or name in changed:
            fresh = _entry(known, here, own, name, paths)
            entry = entry if fresh == entry else fresh  # whoever compiles it sees by identity that nothing is new
        made[name] = entry
    return made


def _changed(known: Survey, paths: Mapping[IPAddress, Path], before: NetworkMemory) -> set[str]:
    """The nodes that are to be planned again."""
    old = before.survey
    made = {name for name, claim in known.claims.items() if old.claims.get(name) is not claim}
    made.update(name for name in {**known.lost, **old.lost} if known.lost_by(name) != old.lost_by(name))
    if paths is not before.paths and paths != before.paths:
        moved = {address for address, path in paths.items() if before.paths.get(address) != path}
        moved.update(address for address in before.paths if address not in paths)
        made.update(name for name, claim in known.claims.items() if not moved.isdisjoint(claim.addresses))
    return made


def _entry(known: Survey, here: Here, own: Speaker, name: str, paths: Mapping[IPAddress, Path]) -> Entry:
    """All about one other node."""
    who = _speaker(known, name)
    reached = reach(here, _other(known, who, here.settings), paths)
    bgp = here.settings.bgp
    if here.settings.mode is not Mode.BGP or (not bgp.reflectors and who.ranges and reached.plan.way is Way.NONE):
        return Entry(reached)  # what it would say of its Pods could not be followed
    return Entry(reached, node_sessions(bgp, own, who, paths))


# --- what follows from all of them ------------------------------------------------------------------------------------


def _bgp(memory: NetworkMemory, advertised: Iterable[IPAddress]) -> tuple[BgpPlan | None, list[Problem]]:
    """What this node says and hears by BGP, None if it has no need to."""
    settings, known = memory.here.settings, memory.survey
    if not speaks(settings):
        return None, []
    around = Around(
        addresses=frozenset(first for first, _, _, is_range, _ in known.line if not is_range),
        confined=known.confined,
        reflected=any(_speaker(known, name).reflects(settings.bgp) for name in known.claims),
    )
    sessions = [session for entry in memory.entries.values() for session in entry.sessions]
    return plan_bgp(settings, memory.speaker, sessions, advertised, memory.paths, around)


def _overlays(memory: NetworkMemory, here: frozenset[IPAddress]) -> tuple[Overlay, ...]:
    """This node's ends of the overlays that some other node is reached by, by link. `here`: what the host has."""
    mtus: dict[str, int] = {}
    for entry in memory.entries.values():
        plan = entry.reached.plan
        if plan.tunnel is not None:
            mtus[plan.link] = max(mtus.get(plan.link, 0), plan.mtu)
    return tuple(_overlay(memory, link, mtus[link], here) for link in sorted(mtus))


def _overlay(memory: NetworkMemory, link: str, mtu: int, here: frozenset[IPAddress]) -> Overlay:
    own = memory.speaker
    inner = tuple(each for each in inner_addresses(own.ranges) if mtu >= SMALLEST_PACKET[family_of(each)])
    family = next((family for family, name in VXLAN_LINKS.items() if name == link), 0)
    outer = next((each for each in own.addresses if each.version == family), own.addresses[0])
    sources = tuple(each for each in _as_known(memory, inner) if each in here)
    if family:
        return Overlay(link, outer, inner, mtu, mac=vtep_mac(own.name), sources=sources)
    return Overlay(link, outer, inner, mtu, key=memory.survey.key, sources=sources)


def _as_known(memory: NetworkMemory, inner: Iterable[IPAddress]) -> Iterator[IPAddress]:
    """The addresses of this node that all others lead to by the overlay: the first that its Node says of each family,
    if no other Node keeps it, and if there is an end of that family (backends/network/routes.py).
    """
    own, claimed = memory.speaker, memory.survey.claims[memory.speaker.name].addresses
    for family in sorted(set(map(family_of, inner))):
        first = address_of(claimed, family)
        if first is not None and first in own.addresses:
            yield first


def _pod_mtu(memory: NetworkMemory) -> int:
    """The largest packet that gets to every Pod."""
    settings = memory.here.settings
    mtus = (entry.reached.plan.mtu for entry in memory.entries.values())
    return min((mtu for mtu in mtus if mtu), default=settings.mtu)


def _own_problems(memory: NetworkMemory) -> Iterator[Problem]:
    """What is wrong with this node itself, for every other alike."""
    here, claim = memory.here, memory.survey.claims[memory.here.name]
    yield from claim.problems
    what = f"Node {here.name}"
    if here.settings.mode in (Mode.HOST_GW, Mode.BGP) and here.addresses:
        for family in sorted(here.families):
            if not here.has(family):
                why = f"has no {family} address, which its {family} Pod range needs with mode"
                yield Problem(
                    "", f"{what}: status.addresses", f"{why} {here.settings.mode.value}; add one, or use vxlan"
                )
    if here.settings.mode is Mode.WIREGUARD and (why := _key_fault(memory.survey, here)):
        yield Problem("", f"{what}: {KEY_FIELD}", why)


def _key_fault(known: Survey, here: Here) -> str:
    """Why others cannot speak with this node, "" if they can."""
    claim = known.claims[here.name]
    if not known.key:
        return "this node has no private key, so it reaches no Pod on others; start its agent as root once"
    if claim.key_fault:
        return f"{claim.key_fault} ({known.key})"
    if claim.key != known.key:
        return f"{claim.key} is not the key of this node, so no other reaches its Pods; write {known.key}"
    return ""


def _too_large(memory: NetworkMemory) -> Iterator[Problem]:
    """That the settings want packets no way takes: once, however many ways."""
    wanted = memory.here.settings.mtu
    small = [(entry.reached.takes, name) for name, entry in memory.entries.items() if 0 < entry.reached.takes < wanted]
    if small:
        least, name = min(small)
        more = f" (and {len(small) - 1} more ways take less)" if len(small) > 1 else ""
        why = f"{wanted} bytes are more than the way to Node {name} takes, which is {least}{more}; say at most {least}"
        yield Problem("", "network setting mtu", why)


def _told(memory: NetworkMemory) -> Iterator[Problem]:
    """What is wrong with other nodes, by name."""
    for name, entry in memory.entries.items():
        claim = memory.survey.claims[name]
        if claim.problems:
            yield from claim.problems
        if name in memory.survey.lost:
            yield from memory.survey.lost[name].problems
        if entry.reached.problems:
            yield from entry.reached.problems


def _notes(memory: NetworkMemory, silent: frozenset[str]) -> Iterator[Note]:
    for name, entry in memory.entries.items():
        if entry.reached.notes:
            yield from entry.reached.notes
        if name in silent:
            yield Note(f"Node {name}", "does not answer now")
