"""`netplane host`: what this machine can do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import click

from netplane import doctor
from netplane.backends.registry import BACKENDS
from netplane.cli.backend import missing
from netplane.cli.networked import networked
from netplane.cli.options import columns, output_option, say
from netplane.errors import RequirementError, one_line
from netplane.kernel import probe
from netplane.kernel.host import STATE_DIRECTORY
from netplane.sources.network_options import read_network_settings

_STATE_HELP = "Folder of this node's WireGuard keys."
_LONGEST_LINE = 4000

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
@click.option("--from", "source", type=click.Path(path_type=Path), help="Directory (or file) of manifests: the Nodes.")
@click.option("--node", help="The Node that this host is.")
@click.option("--network", metavar="MODE|FILE", help="The mode of the Pod network, or a YAML file of settings.")
@click.option(
    "--state-dir", type=click.Path(path_type=Path), default=STATE_DIRECTORY, show_default=True, help=_STATE_HELP
)
@output_option
def check(source: Path | None, node: str | None, network: str | None, state_dir: Path, output: str) -> None:
    """Try what netplane needs of this host, and look for what would keep Pods of two nodes apart.

    Without --network no mode is known: what a mode lacks is only told. With --from and --node as well, the other nodes
    are known: routes that take what is for their Pods, sizes of packets, and whether they answer. Reads only, and sends
    an echo request to other nodes. Exits 4 if something is missing or in the way.
    """
    rows = [*_backends(), *(_row(*_sysctl(*each)) for each in _SYSCTLS)]
    rows += [_found(each) for each in doctor.examine(_view(source, node, network, state_dir))]
    say(output, rows, columns((row["check"], row["result"], _words(row)) for row in rows))
    if any(row["result"] in ("MISSING", "error") for row in rows):
        raise click.exceptions.Exit(RequirementError.exit_code)


def _view(source: Path | None, node: str | None, network: str | None, state_dir: Path) -> doctor.View:
    if network is None:
        if source or node:
            raise click.UsageError("--from and --node say which nodes there are: --network is needed as well.")
        return doctor.View()
    if source is None or node is None:
        if source or node:
            raise click.UsageError("--from and --node belong together.")
        return doctor.View(read_network_settings(network))
    found = networked(source, node, network, state_dir)
    ways = frozenset(path.link for path in found.facts.paths.values())
    return doctor.View(found.plan.settings, found.plan, ways)


def _backends() -> Iterator[dict[str, str]]:
    root = _root()
    yield _row("root", *root)
    for backend in BACKENDS.values() if root[0] == "ok" else ():
        for need, said in missing(backend):
            yield _row(f"{backend.name}: {need.name}", "MISSING" if said else "ok", said or need.minimum)


def _row(check: str, result: str, said: str, why: str = "", mend: str = "") -> dict[str, str]:
    return {"check": check, "result": result, "said": said, "why": why, "mend": mend}


def _found(each: doctor.Examined) -> dict[str, str]:
    finding = each.finding
    return _row(each.check, finding.level.value, finding.what, finding.why, finding.mend)


def _words(row: dict[str, str]) -> str:
    """For people: what, why, and what to do."""
    why = f": {row['why']}" if row["why"] else ""
    mend = f"; mend: {row['mend']}" if row["mend"] else ""
    return one_line(f"{row['said']}{why}{mend}", _LONGEST_LINE)


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
