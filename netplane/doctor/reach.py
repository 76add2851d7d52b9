"""How another node is reached: what the kernel should have for it and whether it has it, whether the node answers, and
what to do if something of that is wrong. Reads and sends echo requests; `advice` only concludes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from netplane.backends.network.bird import session_name
from netplane.doctor.entries import Entry, entries_of, look
from netplane.errors import KernelError
from netplane.kernel import bird, wireguard
from netplane.kernel.bird import Session
from netplane.kernel.echo_once import Lost, TooBig
from netplane.model.address import IPAddress, family_of
from netplane.plan.network_plan import NetworkPlan, PeerPlan, Way
from netplane.plan.network_settings import Mode
from netplane.programs.network import NetworkProgram

ESTABLISHED = "Established"
SILENT_SECONDS = 180.0
"""A WireGuard peer with traffic has a handshake at least so often (REJECT_AFTER_TIME)."""

Ask = Callable[[IPAddress, int], float | Lost | TooBig]
"""Sends one echo request, as an IP packet of so many bytes (0: a small one) that nobody may fragment."""


@dataclass(frozen=True, slots=True)
class Echo:
    """An address that was asked. `what` it is for people; `size` in bytes of the IP packet, 0 for a small one."""

    what: str
    to: IPAddress
    size: int
    answer: float | Lost | TooBig

    @property
    def seconds(self) -> float | None:
        """Until the reply; None if none came."""
        return self.answer if isinstance(self.answer, float) else None

    @property
    def said(self) -> str:
        """Why none came; "" if one did."""
        match self.answer:
            case Lost(why):
                return why
            case TooBig(mtu):
                return f"only packets of at most {mtu} bytes pass" if mtu else "it is too large for something between"
        return ""


@dataclass(frozen=True, slots=True)
class Reach:
    """What was seen of a node. `handshake`: seconds since WireGuard's last, None if there was none.

    `looked`: whether the kernel and the node were asked at all.
    """

    entries: tuple[Entry, ...] = ()
    echoes: tuple[Echo, ...] = ()
    handshake: float | None = None
    sessions: tuple[Session, ...] = ()
    said: tuple[str, ...] = ()
    """Who gave no answer, and why."""
    looked: bool = True


@dataclass(frozen=True, slots=True)
class Asked:
    """Where answers come from: the plan and its program, where bird and wireguard-go are, who sends echo requests."""

    plan: NetworkPlan
    program: NetworkProgram
    run_dir: Path
    ask: Ask


def planned(plan: NetworkPlan, peer: PeerPlan) -> Reach:
    """What the kernel should have, without a look at it."""
    return Reach(tuple(entries_of(plan, peer, None)), looked=False)


def reach(asked: Asked, peer: PeerPlan) -> Reach:
    """How `peer` is reached now. Sends up to three echo requests for each family, one after the other."""
    said: list[str] = []
    entries = tuple(entries_of(asked.plan, peer, look(asked.program)))
    handshake = _handshake(asked, peer, said) if peer.way is Way.WIREGUARD else None
    sessions = _sessions(asked, peer, said) if asked.plan.settings.mode is Mode.BGP else ()
    return Reach(entries, tuple(_echoes(asked.ask, peer)), handshake, sessions, tuple(said))


def tells(peer: PeerPlan) -> tuple[IPAddress, ...]:
    """The addresses of a node that answer if its Pods are reached: those on the overlay, else its own."""
    if peer.way is Way.NONE:
        return ()
    return _through(peer) or peer.next_hops or peer.addresses[:1]


# --- what is wrong, and what to do ------------------------------------------------------------------------------------


def advice(plan: NetworkPlan, peer: PeerPlan, seen: Reach) -> Iterator[str]:
    """What is wrong with the way to `peer`, and what to do; nothing if all is well. The first is to be done first."""
    if peer.way is Way.NONE:
        yield f"this node has no way to {peer.node}'s Pods: mend what the problems say, on its Node or in the settings"
        return
    if not seen.looked:
        return
    missing = [each for each in seen.entries if not each.there]
    if missing:
        yield (
            f"the kernel lacks {len(missing)} of {len(seen.entries)} entries for {peer.node}: the agent does not run"
            " here, or has other manifests or settings, or cannot make them: netplane agent status"
        )
    yield from seen.said
    own = [each for each in seen.echoes if each.to in peer.addresses and not each.size]
    inner = [each for each in seen.echoes if each.to not in peer.addresses and not each.size]
    silent = [str(each.to) for each in own if each.seconds is None]
    if own and len(silent) == len(own):
        yield (
            f"{', '.join(silent)} does not answer: {peer.node} is down or cut off, or somebody drops echo requests"
            " (ICMP) between; nothing else can work before that does"
        )
        return
    if silent:
        yield f"{', '.join(silent)} does not answer, another address of {peer.node} does: look at that family there"
    if any(each.seconds is None for each in inner):
        yield from _blocked(plan, peer, seen)
        return
    yield from _too_large(peer, seen)
    yield from _unspoken(plan, peer, seen)


def _blocked(plan: NetworkPlan, peer: PeerPlan, seen: Reach) -> Iterator[str]:
    outer = peer.tunnel.outer if peer.tunnel else peer.addresses[0]
    own = next((each for each in plan.addresses if each.version == outer.version), "this node")
    if peer.way is Way.WIREGUARD:
        port = plan.settings.wireguard.port
        if seen.handshake is None:
            yield (
                f"{outer} answers, the address behind WireGuard does not, and there never was a handshake: UDP {port}"
                f" between {own} and {outer} is blocked, or netplane does not run there, or one of the two has another"
                " key than its Node object says (netplane node key, on both)"
            )
            return
        if seen.handshake > SILENT_SECONDS:
            yield (
                f"{outer} answers, the address behind WireGuard does not, and the last handshake was"
                f" {seen.handshake:.0f} s ago: UDP {port} is blocked since, or the key of one of the two was changed"
            )
            return
        yield (
            f"WireGuard speaks with {outer} ({seen.handshake:.0f} s ago), and the address behind it does not answer:"
            f" {peer.node} does not count this node's range among our allowed IPs (another Node object?), or drops it"
        )
        return
    port = plan.settings.vxlan.port
    yield (
        f"{outer} answers, the address behind the overlay does not: UDP {port} between {own} and {outer} is blocked"
        f" (a firewall on one of them or on the way, a cloud's security group), or netplane does not run there, or with"
        f" another VNI or port; on both: tcpdump -ni any udp port {port}"
    )


def _too_large(peer: PeerPlan, seen: Reach) -> Iterator[str]:
    for each in (each for each in seen.echoes if each.size and each.seconds is None):
        yield (
            f"small packets get to {each.to}, one of {each.size} bytes does not ({each.said}): something between"
            f" carries less than {peer.link or 'the link'} says; give the route to {peer.node} its true MTU, or set mtu"
            " in the network's settings"
        )


def _unspoken(plan: NetworkPlan, peer: PeerPlan, seen: Reach) -> Iterator[str]:
    if plan.settings.mode is not Mode.BGP:
        return
    for each in seen.sessions:
        if each.state != ESTABLISHED:
            error = f", {each.error}" if each.error else ""
            yield (
                f"the BGP session {each.name} with {each.neighbour} is {each.state} since {each.since}{error}: TCP 179"
                " between them is blocked, or no bird runs there, or AS number or password differ"
            )
    if any(each.state == ESTABLISHED for each in seen.sessions) and not all(each.there for each in seen.entries):
        yield f"a session is established, and no route to {peer.node}'s Pods came by it: ask birdc there: show route"


# --- asking -----------------------------------------------------------------------------------------------------------


def _through(peer: PeerPlan) -> tuple[IPAddress, ...]:
    """Addresses of the node that are reached as its Pods are, and no other way."""
    return peer.tunnel.inner if peer.tunnel else ()


def _echoes(ask: Ask, peer: PeerPlan) -> Iterator[Echo]:
    """Its own addresses, then through the overlay, then as large as packets of Pods may be."""
    asked = [("its own address", each) for each in peer.addresses]
    asked += [("through the overlay", each) for each in _through(peer)]
    answered: dict[int, IPAddress] = {}
    for what, to in asked:
        seconds = ask(to, 0)
        yield Echo(what, to, 0, seconds)
        if seconds is not None and (to in _through(peer) or not _through(peer)):
            answered.setdefault(family_of(to), to)
    if peer.mtu:
        yield from (Echo("as large as may be", to, peer.mtu, ask(to, peer.mtu)) for to in answered.values())


def _handshake(asked: Asked, peer: PeerPlan, said: list[str]) -> float | None:
    key = peer.tunnel.key if peer.tunnel else ""
    try:
        return wireguard.peers_seen(asked.run_dir).get(key)
    except KernelError as error:
        said.append(f"WireGuard of this node gives no answer: {error}; netplane agent status")
        return None


def _sessions(asked: Asked, peer: PeerPlan, said: list[str]) -> tuple[Session, ...]:
    """Those with the node itself; with reflectors and routers, if there are none."""
    plan = asked.plan.bgp
    try:
        found = bird.sessions(asked.run_dir / "bird")
    except KernelError as error:
        said.append(f"bird on this node gives no answer: {error}; netplane agent status")
        return ()
    direct = {session_name(each) for each in plan.sessions if each.remote in peer.addresses} if plan else set()
    return tuple(each for each in found if each.name in direct) or found
