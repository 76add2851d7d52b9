"""A BgpPlan as the configuration of bird 2.0 (bird.network.cz): what is announced, to whom, and what is let in.

Nothing of the cluster is written as text: addresses and numbers are printed by us, names of sessions are checked, and
passwords are constants in a file of their own (netplane/programs/bird.py).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from netplane.model.address import IPAddress, IPNetwork
from netplane.plan.network_plan import BgpPlan, BgpSession
from netplane.plan.network_settings import Bgp
from netplane.programs import bird

_FAMILIES = (4, 6)
_NAME = re.compile(r"(?:node|router)_[A-Za-z0-9_]{1,50}")  # bird: at most 64, and none of its own words
_SHORTEST = {4: 8, 6: 16}  # no more of the world than this is ever one route to Pods
_SCAN_SECONDS = 2
"""How long a route of bird's stays away that somebody else deleted: only a scan tells bird."""
_PATHS = 16
_RECOVERY_SECONDS = 60
_LONGEST_RESTART = 4095  # 12 bits (RFC 4724, section 3)


class _Asked(NamedTuple):
    """All that the text of a session depends on. `constant`: of its password, or ""."""

    session: BgpSession
    settings: Bgp
    constant: str
    cluster_id: IPAddress | None
    reflects: bool

    @property
    def inside(self) -> bool:
        """Whether the other end is a node of the cluster."""
        return self.session.asn == self.settings.asn


def bird_text(plan: BgpPlan) -> str:
    """The whole configuration; equal plans give equal bytes. Without sessions it announces nothing to nobody."""
    constants = _constants(plan.sessions)
    reflects = plan.cluster_id is not None or any(each.client for each in plan.sessions)
    asked = (
        _Asked(each, plan.settings, constants.get(each.password_file, ""), plan.cluster_id, reflects)
        for each in sorted(plan.sessions, key=session_name)
    )
    tables = (part for family in _FAMILIES for part in _tables(plan, family))
    return "\n".join([_head(plan, constants), *tables, *map(_session, asked)])


def session_name(session: BgpSession) -> str:
    """What bird calls it: its name, if that is a word for bird, else a digest of it."""
    if _NAME.fullmatch(session.name):
        return session.name
    return f"session_{hashlib.sha256(session.name.encode(errors='surrogatepass')).hexdigest()[:12]}"


def _constants(sessions: Iterable[BgpSession]) -> dict[str, str]:
    """The constant of each file of a password."""
    paths = sorted({each.password_file for each in sessions if each.password_file})
    return {path: f"np_password_{number}" for number, path in enumerate(paths, 1)}


def _head(plan: BgpPlan, constants: dict[str, str]) -> str:
    lines = [
        "# Made by netplane, and written again whenever the cluster changes: see docs/network.md.",
        *(bird.reference(constant, path) for path, constant in constants.items()),
        *([f'include "{bird.PASSWORDS}";'] if constants else []),
        "log syslog { info, remote, warning, error, auth, fatal, bug };",
        "timeformat protocol iso long ms;",
        f"router id {plan.router_id};",
        f"graceful restart wait {max(1, min(_RECOVERY_SECONDS, plan.settings.graceful_restart_seconds))};",
        "protocol device np_device {",
        "  scan time 10;",
        "}",
    ]
    return _lines(lines)


def _tables(plan: BgpPlan, family: int) -> Iterator[str]:
    """Filters, and what connects bird with the kernel.

    Routes of the node itself are only there to find next hops by. Those to Pods and Services (the bridge's, say) are
    not among them: they would hide ours.
    """
    announced, accepted = _of(plan.announced, family), _of(plan.accepted, family)
    known = f"!(net ~ [ {_set(announced + accepted)} ])" if announced or accepted else "true"
    ours = f'proto = "np_announced{family}"'
    # What was born in our own system has an empty path; whoever reflects never passes on what a router told.
    reflected = "source = RTS_BGP && bgp_path.len = 0"
    yield _lines(
        [
            f"filter np_import{family} {{",
            *(f"  {rule}" for rule in _import_rules(announced, accepted, family)),
            "}",
            f"filter np_export{family} {{",
            f"  if {ours} then accept;",
            "  reject;",
            "}",
            f"filter np_reflect{family} {{",
            f"  if {ours} || ({reflected}) then accept;",
            "  reject;",
            "}",
        ]
    )
    yield _lines(
        [
            f"protocol direct np_direct{family} {{",
            "  check link yes;",
            f"  ipv{family} {{ import where {known}; }};",
            "}",
            f"protocol kernel np_kernel{family} {{",
            "  learn;",
            "  persist;",
            "  graceful restart yes;",
            f"  metric {bird.METRIC};",
            f"  scan time {_SCAN_SECONDS};",
            f"  merge paths yes limit {_PATHS};",
            f"  ipv{family} {{",
            f"    import where {known};",
            "    export where source = RTS_BGP && dest = RTD_UNICAST;",
            "  };",
            "}",
            f"protocol static np_announced{family} {{",
            f"  ipv{family} {{ import all; }};",
            *(f"  route {network} blackhole;" for network in announced),
            "}",
        ]
    )


def _import_rules(announced: list[IPNetwork], accepted: list[IPNetwork], family: int) -> Iterator[str]:
    """What others say about our own Pods is not believed. One address is a Service's: others may have it, too, and our
    own announcement, which bird prefers, never lets theirs into the kernel."""
    longest = 32 if family == 4 else 128
    if own := [each for each in announced if each.prefixlen < longest]:
        yield f"if net ~ [ {_set(own)} ] then reject;"
    if accepted:
        shortest = _SHORTEST[family]
        sizes = ((each, max(each.prefixlen, shortest)) for each in accepted)
        yield f"if net ~ [ {', '.join(f'{each}{{{least},{longest}}}' for each, least in sizes)} ] then accept;"
    yield "reject;"


@lru_cache(maxsize=1 << 13)
def _session(asked: _Asked) -> str:
    """One session carries the routes of its own family: the next hop is then an address that the session proves."""
    session, settings, family = asked.session, asked.settings, asked.session.remote.version
    lines = [
        f"protocol bgp {session_name(session)} {{",
        f"  local {session.local} as {settings.asn};",
        f"  neighbor {session.remote} as {session.asn};",
        # Bound to our address alone, whether the kernel has it already or not.
        "  strict bind yes;",
        "  free bind yes;",
        *(f"  {option}" for option in _options(asked)),
        *([f"  password {asked.constant};"] if asked.constant else []),
        *(f"  {timer}" for timer in _timers(settings)),
        f"  ipv{family} {{",
        *(["    add paths yes;"] if asked.inside else []),  # a reflector would choose for all of us
        f"    import filter np_import{family};",
        f"    export filter np_{'reflect' if asked.reflects and asked.inside else 'export'}{family};",
        "  };",
        "}",
    ]
    return _lines(lines)


def _options(asked: _Asked) -> Iterator[str]:
    if asked.inside:
        yield "multihop;"
        if asked.session.client:
            yield "rr client;"
        if asked.cluster_id is not None:
            yield f"rr cluster id {asked.cluster_id};"
    else:
        yield "multihop;" if asked.session.multihop else "direct;"
        # Other nodes are in our system, too, and the router tells of them: once is no loop.
        yield "allow local as 1;"


def _timers(settings: Bgp) -> Iterator[str]:
    yield f"hold time {settings.hold_seconds};"
    yield "connect delay time 1;"
    yield "connect retry time 5;"
    yield "error wait time 2, 30;"
    yield "error forget time 30;"
    if settings.graceful_restart_seconds:
        yield "graceful restart yes;"
        yield f"graceful restart time {min(settings.graceful_restart_seconds, _LONGEST_RESTART)};"
    else:
        yield "graceful restart no;"


def _of(networks: Iterable[IPNetwork], family: int) -> list[IPNetwork]:
    return sorted(
        {each for each in networks if each.version == family},
        key=lambda each: (each.network_address.packed, each.prefixlen),
    )


def _set(networks: Iterable[IPNetwork]) -> str:
    """These and whatever is inside them, as the inner part of a prefix set."""
    return ", ".join(f"{each}+" for each in networks)


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
