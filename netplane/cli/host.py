"""`netplane host`: what this machine can do."""

from __future__ import annotations

import os
from pathlib import Path

import click

from netplane.backends.registry import BACKENDS
from netplane.cli.backend import missing
from netplane.cli.options import columns, output_option, say
from netplane.errors import RequirementError
from netplane.kernel import probe

# What Services need of the node besides rules, and what to do about it.
_SYSCTLS = (
    ("net/ipv4/ip_forward", "1", "Pods' IPv4 packets are not forwarded: sysctl -w net.ipv4.ip_forward=1"),
    (
        "net/ipv6/conf/all/forwarding",
        "1",
        "Pods' IPv6 packets are not forwarded: sysctl -w net.ipv6.conf.all.forwarding=1",
    ),
)


@click.group("host")
def group() -> None:
    """What this machine can do."""


@group.command()
@output_option
def check(output: str) -> None:
    """Try every backend's requirements and look at the settings Services depend on. Exits 4 if one is missing."""
    rows: list[tuple[str, ...]] = [("root", *_root())]
    if rows[0][1] == "ok":
        for backend in BACKENDS.values():
            rows += [
                (f"{backend.name}: {need.name}", "MISSING" if said else "ok", said or need.minimum)
                for need, said in missing(backend)
            ]
    rows += [_sysctl(*each) for each in _SYSCTLS]
    value = [{"check": name, "result": result, "said": said} for name, result, said in rows]
    say(output, value, columns(rows))
    if any(result == "MISSING" for _, result, _ in rows):
        raise click.exceptions.Exit(RequirementError.exit_code)


def _root() -> tuple[str, str]:
    if not probe.is_root():
        return "MISSING", "run as root (or with CAP_NET_ADMIN and CAP_SYS_ADMIN)"
    return (
        ("ok", f"uid {os.geteuid()}") if probe.can_make_namespace() else ("MISSING", "network namespaces are refused")
    )


def _sysctl(name: str, wanted: str, remedy: str) -> tuple[str, str, str]:
    try:
        value = Path("/proc/sys", name).read_text().strip()
    except OSError as error:
        return name, "unknown", str(error.strerror)
    return (name, "ok", f"is {value}") if value == wanted else (name, "warning", f"is {value}; {remedy}")
