"""Attachments and findings as JSON values, the contract, and as text for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from cni.config import PortMapping
from cni.doctor import Examined
from cni.store import Record
from netplane.cli.options import columns
from netplane.errors import one_line

_HEADINGS = ("NETWORK", "CONTAINER", "IFNAME", "POD", "ADDRESSES", "MODE", "LINK", "HOST PORTS", "STATE", "SINCE")
_ID_SHOWN = 13
"""As many characters of a container's id as runtimes show."""
_LONGEST_COMMAND = 4000


def attachments_value(records: Iterable[Record]) -> list[dict[str, Any]]:
    """The journal's attachments, by network, container and interface."""
    return [_attachment(record) for record in sorted(records, key=lambda record: record.attachment.id)]


def attachments_text(found: list[dict[str, Any]]) -> str:
    """A line for each attachment."""
    if not found:
        return "no attachments"
    # Names come from whoever made the container.
    return columns([_HEADINGS, *(tuple(map(one_line, _cells(each))) for each in found)])


def findings_value(found: Iterable[Examined]) -> list[dict[str, str]]:
    """What the checks said, in their order."""
    return [
        {
            "check": check,
            "level": finding.level.value,
            "what": finding.what,
            "why": finding.why,
            "mend": finding.mend,
        }
        for check, finding in found
    ]


def findings_text(found: list[dict[str, str]], *, everything: bool) -> str:
    """What is wrong, and how to mend it; with `everything` what is well, too."""
    shown = [each for each in found if everything or each["level"] != "ok"]
    counted = {level: sum(each["level"] == level for each in found) for level in ("error", "warning", "ok")}
    several = {level: "" if count == 1 else "s" for level, count in counted.items()}
    total = (
        f"{counted['error']} error{several['error']}, {counted['warning']} warning{several['warning']},"
        f" {counted['ok']} ok"
    )
    return "\n".join([*(line for each in shown for line in _finding(each)), total])


def _finding(each: dict[str, str]) -> Iterator[str]:
    yield f"{each['level']:7}  {each['check']}: {one_line(each['what'])}"
    if each["why"]:
        yield f"         {one_line(each['why'])}"
    if each["mend"]:
        yield f"         mend: {one_line(each['mend'], _LONGEST_COMMAND)}"


def _attachment(record: Record) -> dict[str, Any]:
    one = record.attachment
    return {
        "network": one.id.network,
        "container": one.id.container,
        "ifname": one.id.ifname,
        "pod": one.pod,
        "addresses": [str(each.address) for each in one.addresses],
        "mode": one.mode.value,
        "bridge": one.bridge.name if one.bridge else "",
        "link": one.link,
        "mac": one.mac.hex(":"),
        "mtu": one.mtu,
        "netns": one.netns,
        "hostPorts": [_port(each) for each in one.ports],
        "ipam": one.delegate or "netplane",
        "state": record.state.name.lower(),
        "since": datetime.fromtimestamp(record.since, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "boot": record.boot,
    }


def _port(mapping: PortMapping) -> dict[str, Any]:
    return {
        "protocol": mapping.protocol.value,
        "hostAddress": str(mapping.host_address or ""),
        "hostPort": mapping.host_port,
        "containerPort": mapping.container_port,
    }


def _cells(each: dict[str, Any]) -> Iterator[str]:
    yield each["network"]
    yield each["container"][:_ID_SHOWN]
    yield each["ifname"]
    yield each["pod"] or "-"
    yield ",".join(each["addresses"]) or "-"
    yield each["mode"]
    yield each["link"] or "-"
    yield ",".join(_port_text(port) for port in each["hostPorts"]) or "-"
    yield each["state"]
    yield each["since"]


def _port_text(port: dict[str, Any]) -> str:
    address = port["hostAddress"]
    host = f"[{address}]:" if ":" in address else f"{address}:" if address else ""
    return f"{host}{port['hostPort']}->{port['containerPort']}/{port['protocol']}"
