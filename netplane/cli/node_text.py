"""How other nodes are reached, as JSON values, the contract, and as text for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from netplane.cli.options import columns
from netplane.cli.values import problem_value
from netplane.doctor.reach import Reach
from netplane.errors import Problem, one_line
from netplane.plan.network_plan import PUBLIC_KEY_ANNOTATION, NetworkPlan, PeerPlan, Way

_HEADINGS = ("NODE", "WAY", "LINK", "BY", "MTU", "ALIVE", "POD RANGES")
_ALIVE = {True: "yes", False: "NO", None: "-"}
_WHY = {
    Way.DIRECT: "its address is on a network of this node, and the mode sends packets there directly",
    Way.VXLAN: "the mode carries them by VXLAN to its address",
    Way.WIREGUARD: "the mode carries them enciphered, by WireGuard, to its address",
    Way.BGP: "bird learns by BGP where its Pods are",
    Way.NONE: "not at all: the problems say why; packets to its Pods are refused",
}


def listed_value(plan: NetworkPlan, peer: PeerPlan, answers: bool | None) -> dict[str, Any]:
    """One other node. `alive` is null where it was not asked."""
    return {
        "node": peer.node,
        "way": peer.way.value,
        "link": peer.link,
        "by": [str(each) for each in _by(peer)],
        "mtu": peer.mtu,
        "alive": answers,
        "ranges": [str(each) for each in peer.ranges],
        "unreachable": [str(each) for each in peer.unreachable],
        "problems": [problem_value(each) for each in _problems(plan, peer)],
    }


def listed_text(found: Iterable[dict[str, Any]]) -> str:
    """A line for each node."""
    rows = [_cells(each) for each in found]
    return columns([_HEADINGS, *rows]) if rows else "no other node"


def explained_value(plan: NetworkPlan, peer: PeerPlan, seen: Reach, wrong: list[str]) -> dict[str, Any]:
    """All there is to say about the way to a node. What was not asked is null or empty."""
    own = [each for each in seen.echoes if not each.size]
    answers = all(each.seconds is not None for each in own) if own else None
    return listed_value(plan, peer, answers) | {
        "addresses": [str(each) for each in peer.addresses],
        "why": _why(plan, peer),
        "mtuFrom": _mtu_from(plan, peer),
        "podMtu": plan.pod_mtu,
        "notes": [str(each) for each in plan.notes if each.about == f"Node {peer.node}"],
        "entries": [{"entry": each.said, "there": each.there} for each in seen.entries],
        "echoes": [
            {"what": each.what, "to": str(each.to), "size": each.size, "seconds": each.seconds, "said": each.said}
            for each in seen.echoes
        ],
        "handshakeSeconds": seen.handshake,
        "sessions": [
            {"name": each.name, "with": each.neighbour, "state": each.state, "since": each.since, "error": each.error}
            for each in seen.sessions
        ],
        "wrong": wrong,
    }


def explained_text(value: dict[str, Any]) -> str:
    """The same for people."""
    return "\n".join(one_line(line, 1000) if line.strip() == line else line for line in _explained(value))


def key_text(value: dict[str, str]) -> str:
    """The key in use, that which waits, and how it is published."""
    shown = value["nextPublicKey"] or value["publicKey"]
    lines = [f"in use: {value['publicKey']}"]
    if value["nextPublicKey"]:
        lines.append(f"next:   {value['nextPublicKey']} (used as soon as the Node object shows it)")
    node = value["node"] or "NODE"
    lines.append(f"kubectl annotate --overwrite node {node} {PUBLIC_KEY_ANNOTATION}={shown}")
    return "\n".join(lines)


def _cells(each: dict[str, Any]) -> tuple[str, ...]:
    ranges = ",".join(each["ranges"]) or "-"
    lost = f" (not {','.join(each['unreachable'])})" if each["unreachable"] else ""
    return tuple(
        map(
            one_line,
            (
                each["node"],
                each["way"],
                each["link"] or "-",
                ",".join(each["by"]) or "-",
                str(each["mtu"] or "-"),
                _ALIVE[each["alive"]],
                f"{ranges}{lost}",
            ),
        )
    )


def _explained(value: dict[str, Any]) -> Iterator[str]:
    over = f" over {value['link']}" if value["link"] else ""
    by = f", by {', '.join(value['by'])}" if value["by"] else ""
    yield f"{value['node']}: {value['way']}{over}{by}"
    yield f"  why      {value['why']}"
    yield f"  Pods     {', '.join(value['ranges']) or 'none reached'}"
    if value["unreachable"]:
        yield f"  not      {', '.join(value['unreachable'])}"
    if value["mtu"]:
        yield f"  MTU      {value['mtu']} ({value['mtuFrom']}); Pods here have {value['podMtu']}"
    yield from (f"  note     {one_line(note)}" for note in value["notes"])
    yield from (f"  problem  {one_line(each['what'])}: {one_line(each['why'])}" for each in value["problems"])
    if value["entries"]:
        yield "the kernel should have"
        shown = [(f"  {_there(each['there'])}", each["entry"]) for each in value["entries"]]
        yield columns(shown)
    if value["echoes"]:
        yield "does it answer"
        yield columns([(f"  {_answered(each)}", each["to"], _what(each)) for each in value["echoes"]])
    if value["way"] == Way.WIREGUARD.value and value["echoes"]:
        last = value["handshakeSeconds"]
        yield f"  WireGuard: {'no handshake yet' if last is None else f'last handshake {last:.0f} s ago'}"
    for each in value["sessions"]:
        error = f" ({one_line(each['error'])})" if each["error"] else ""
        yield f"  BGP: {each['name']} with {each['with']}: {each['state']} since {each['since']}{error}"
    if value["wrong"]:
        yield "what is wrong, and what to do"
        yield from (f"  {one_line(each, 1000)}" for each in value["wrong"])
    elif value["echoes"]:
        yield "all is well"


def _there(there: bool | None) -> str:
    return {True: "has", False: "LACKS", None: "planned"}[there]


def _answered(echo: dict[str, Any]) -> str:
    return f"NO: {one_line(echo['said'])}" if echo["seconds"] is None else f"{echo['seconds'] * 1000:.2f} ms"


def _what(echo: dict[str, Any]) -> str:
    return f"{echo['what']} ({echo['size']} bytes, not to be fragmented)" if echo["size"] else str(echo["what"])


def _by(peer: PeerPlan) -> tuple[object, ...]:
    """The next hop, or the far end of the overlay."""
    return (peer.tunnel.outer,) if peer.tunnel else peer.next_hops


def _problems(plan: NetworkPlan, peer: PeerPlan) -> list[Problem]:
    return [each for each in plan.problems if each.what.startswith(f"Node {peer.node}:")]


def _why(plan: NetworkPlan, peer: PeerPlan) -> str:
    return f"mode {plan.settings.mode.value}: {_WHY[peer.way]}"


def _mtu_from(plan: NetworkPlan, peer: PeerPlan) -> str:
    """Where the size of packets to its Pods comes from."""
    if not peer.mtu:
        return ""
    if peer.mtu == plan.settings.mtu:
        return "mtu of the network's settings"
    if peer.tunnel is None:
        return f"what the way to {', '.join(map(str, peer.next_hops or peer.addresses[:1]))} takes"
    overhead = {Way.VXLAN: (50, 70), Way.WIREGUARD: (60, 80)}[peer.way][peer.tunnel.outer.version == 6]
    return f"{peer.mtu + overhead} of the way to {peer.tunnel.outer} less {overhead} of {peer.way.value}"
