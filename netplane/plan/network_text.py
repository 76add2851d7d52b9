"""A network plan as text, for people and for goldens. Equal plans give equal text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from netplane.errors import one_line
from netplane.plan.network_plan import BgpPlan, BgpSession, NetworkPlan, Overlay, PeerPlan, Way


def network_text(plan: NetworkPlan) -> str:
    """The whole plan: this node, its ends of overlays, every other node by name, BGP, and what is wrong."""
    lines = [f"node {plan.node}", *(f"  {line}" for line in _own_lines(plan))]
    for overlay in plan.overlays:
        lines += _overlay_lines(overlay)
    for name in sorted(plan.peers):
        lines += ("", *peer_lines(plan.peers[name]))
    if plan.bgp is not None:
        lines += ("", *_bgp_lines(plan.bgp))
    for title, told in (("problems", plan.problems), ("notes", plan.notes)):
        if told:
            lines += ("", title, *(f"  {one_line(str(each))}" for each in told))
    return "\n".join(lines) + "\n"


def peer_lines(peer: PeerPlan) -> Iterator[str]:
    """How one other node is reached."""
    mtu = f", packets of at most {peer.mtu} bytes" if peer.mtu else ""
    match peer.way:
        case Way.NONE:
            how = "is not reached"
        case Way.BGP:
            how = "is reached as bird learns"
        case Way.DIRECT:
            how = f"is reached directly over {peer.link}"
        case _:
            how = f"is reached by {peer.way.value} over {peer.link}"
    yield f"node {peer.node} {how}{mtu}"
    yield f"  addresses {_listed(peer.addresses)}"
    if peer.ranges:
        yield f"  pods {_listed(peer.ranges)}"
    if peer.unreachable:
        yield f"  refused {_listed(peer.unreachable)}"
    if peer.next_hops:
        yield f"  via {_listed(peer.next_hops)}"
    if tunnel := peer.tunnel:
        mark = f", mac {mac_text(tunnel.mac)}" if tunnel.mac else f", key {tunnel.key}" if tunnel.key else ""
        yield f"  outside {tunnel.outer}, inside {_listed(tunnel.inner)}{mark}"


def mac_text(mac: bytes) -> str:
    """`02:00:5e:10:00:01`."""
    return mac.hex(":")


def _own_lines(plan: NetworkPlan) -> Iterator[str]:
    yield f"mode {plan.settings.mode.value}"
    yield f"addresses {_listed(plan.addresses)}"
    yield f"pods {_listed(plan.ranges)}" + (f", packets of at most {plan.pod_mtu} bytes" if plan.pod_mtu else "")
    if plan.settings.masquerade:
        yield f"pods are masqueraded except to {_listed(plan.keeps_source)}"
    else:
        yield "pods are never masqueraded"
    yield f"nothing leaves unless a node has it to {_listed(plan.confined)}"
    if plan.uplinks:
        yield f"no pod is on {_listed(plan.uplinks)}"
    if plan.settings.nodes_directly:
        yield "pods reach other nodes directly"
    for each in plan.announced:
        yield f"answers for {each.address} on {each.link}"
    if plan.load_balancer_addresses:
        yield f"load-balancer addresses {_listed(plan.load_balancer_addresses)}"


def _overlay_lines(overlay: Overlay) -> Iterator[str]:
    mac = f", mac {mac_text(overlay.mac)}" if overlay.mac else ""
    yield f"  overlay {overlay.link}, mtu {overlay.mtu}{mac}"
    yield f"    outside {overlay.outer}, inside {_listed(overlay.inner)}"
    if overlay.sources:
        yield f"    the node itself speaks as {_listed(overlay.sources)}"


def _bgp_lines(plan: BgpPlan) -> Iterator[str]:
    reflects = f", reflects as cluster {plan.cluster_id}" if plan.cluster_id is not None else ""
    yield f"bgp of AS {plan.settings.asn}, router id {plan.router_id}{reflects}"
    yield f"  announces {_listed(plan.announced)}"
    yield f"  accepts {_listed(plan.accepted)}"
    yield from (f"  {session_text(each)}" for each in plan.sessions)


def session_text(session: BgpSession) -> str:
    """`session node_n2: 192.0.2.1 to 192.0.2.2, AS 64512, several hops, client, with a password`."""
    more = [f"AS {session.asn}"]
    more += ["several hops"] * session.multihop + ["client"] * session.client
    more += ["with a password"] * bool(session.password_file)
    return f"session {session.name}: {session.local} to {session.remote}, {', '.join(more)}"


def _listed(things: Iterable[object]) -> str:
    return ", ".join(map(str, things)) or "none"
