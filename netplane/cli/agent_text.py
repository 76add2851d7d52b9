"""What `netplane agent status` and `agent backend` print for people, from the JSON that is the contract."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from netplane.cli.options import columns

_SHOWN = 5
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


def status_text(found: dict[str, Any]) -> str:
    """The status as lines: what it is first, then what is wrong, then what happened."""
    rows = [*_rows(found)]
    wrong = (*found["troubles"], *(found["cni"] or {"problems": ()})["problems"])
    troubles = (f"trouble: {each}" for each in wrong)
    return "\n".join([columns(rows), *_failure(found), *troubles, *_drift(found), *_problems(found)])


def switch_text(found: dict[str, Any]) -> str:
    """`connections: 37 kept, 0 broken`."""
    if not found["changed"]:
        return f"{found['to']} runs already; nothing was changed"
    counted = found["connections"]
    if counted is None:
        return f"switched from {found['from']} to {found['to']}\nconnections: the kernel does not list them"
    ended = f", {counted['ended']} ended by themselves" if counted["ended"] else ""
    said = f"connections: {counted['kept']} kept, {counted['broken']} broken{ended}"
    return f"switched from {found['from']} to {found['to']}\n{said}"


def _rows(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    now = datetime.fromisoformat(found["now"])
    yield "state", _state(found)
    yield "process", f"pid {found['pid']}, netplane {found['version']}, since {_when(found['since'], now)}"
    running, configured = found["backend"]["running"], found["backend"]["configured"]
    lasting = "" if running == configured else f" (switched; a restart goes back to {configured})"
    yield "backend", f"{running}{lasting} on node {found['node']}"
    whole = "" if found["source"]["complete"] else "; not all of it was ever read, so nothing is swept"
    yield "source", f"{found['source']['path']}: {found['services']} Services, {found['frontends']} frontends{whole}"
    if found["working"]:
        yield "working", f"{found['working']['at']} since {_when(found['working']['since'], now)}"
    yield "last change", _round(found["lastChange"], now)
    yield "last compare", _round(found["lastCompare"], now)
    if counted := found["conntrack"]:
        used = 100 * counted["entries"] / max(counted["limit"], 1)
        yield "conntrack", f"{counted['entries']} of {counted['limit']} entries ({used:.0f} %)"
    if pods := found["cni"]:
        pending = f", {pods['pending']} being deleted" if pods["pending"] else ""
        yield "cni", f"{pods['attachments']} attachment{'' if pods['attachments'] == 1 else 's'}{pending}"
    if network := found["network"]:
        ways = ", ".join(f"{count} by {way}" for way, count in network["ways"].items()) or "none"
        mtu = f"; Pods' packets: up to {network['podMtu']} bytes" if network["podMtu"] else ""
        yield "network", f"{network['mode']}; other nodes: {ways}{mtu}"
    yield "memory", f"{found['memoryBytes'] / 2**20:.0f} MiB"


def _state(found: dict[str, Any]) -> str:
    return str(found["state"]) + (": the last good state stays" if found["failure"] else "")


def _round(done: dict[str, Any] | None, now: datetime) -> str:
    if done is None:
        return "none yet"
    did = f"made {done['made']}, swept {done['swept']} in {done['seconds']:.3f} s"
    return f"{_when(done['at'], now)}: {did}"


def _failure(found: dict[str, Any]) -> Iterator[str]:
    if failure := found["failure"]:
        now = datetime.fromisoformat(found["now"])
        yield f"failing: {failure['why']}"
        yield f"  since {_when(failure['since'], now)}, tried {failure['times']} times, next {failure['next']}"


def _drift(found: dict[str, Any]) -> Iterator[str]:
    if found["drift"]["times"]:
        yield f"drift: repaired {found['drift']['times']} times; last:"
    for each in found["drift"]["last"][-_SHOWN:]:
        yield f"  {each['at']} {each['mechanism']}: {each['count']} differences, by {each['by'] or 'unknown'}"
    for each in found["drift"]["last"][-1:]:
        yield from (f"    {line}" for line in each["named"])


def _problems(found: dict[str, Any]) -> Iterator[str]:
    if found["problems"]["count"]:
        yield f"problems: {found['problems']['count']}; netplane cluster check lists them; the first:"
    for each in found["problems"]["first"][:_SHOWN]:
        yield "  " + ": ".join(part for part in (each["where"], each["what"], each["why"]) if part)


def _when(at: str, now: datetime) -> str:
    """`2026-11-21T04:00:00.123Z (12 s ago)`."""
    seconds = max((now - datetime.fromisoformat(at)).total_seconds(), 0)
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{at} ({seconds // size:.0f} {unit} ago)"
    return f"{at} ({seconds:.0f} s ago)"
