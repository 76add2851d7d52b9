"""`netplane cni`: the plugin that containerd calls, on this host and by hand."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_network
from pathlib import Path
from typing import IO, Any

import click

from cni import conflist, doctor, install, store
from cni.config import Mode
from cni.conflist import NetworkList
from cni.doctor import Level, Place
from cni.failure import Failure
from cni.install import InstallOptions, LauncherSettings
from cni.runtime import RESULTS, Container, Runtime, kept_result, result_of
from netplane.cli.cni_text import attachments_text, attachments_value, findings_text, findings_value
from netplane.cli.options import Command, output_option, say
from netplane.errors import InputError
from netplane.model.address import IPNetwork

_HERE = Place()
_MODES = [Mode.BRIDGE.value, Mode.ROUTED.value]
_RESULT_HELP = f"What `add` printed, - for standard input (default: what the runtime keeps in {RESULTS})."


@click.group("cni")
def group() -> None:
    """The CNI plugin: what it did, by hand, and what would make Pods fail."""


def _folder(name: str, default: Path, text: str) -> Callable[[Command], Command]:
    return click.option(name, type=click.Path(path_type=Path), default=default, show_default=True, help=text)


_conf_dir_option = _folder("--conf-dir", _HERE.conf_dir, "Folder of network configurations.")
_bin_dir_option = _folder("--bin-dir", _HERE.bin_dir, "Folder of the plugins' executables.")
_run_dir_option = _folder("--run-dir", _HERE.run_dir, "Folder of the agent's sockets.")
_state_dir_option = _folder("--state-dir", _HERE.state_dir, "Folder of the journal.")
_link_dir_option = _folder(
    "--link-dir", Path("/etc/systemd/network"), "Folder of systemd's .link files; none: no file."
)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What `add`, `del` and `check` are about."""

    network: NetworkList
    container: Container
    runtime: Runtime


_BY_HAND = (
    click.option("--container", required=True, metavar="ID", help="CNI_CONTAINERID."),
    click.option("--netns", default="", metavar="PATH", help="CNI_NETNS: the container's namespace (`del`: if any)."),
    click.option("--ifname", default="eth0", show_default=True, metavar="NAME", help="CNI_IFNAME."),
    click.option("--config", metavar="NAME|FILE", help="The network: its name or a file (default: that of all Pods)."),
    click.option("--args", "arguments", metavar="NAME=VALUE", multiple=True, help="A pair of CNI_ARGS."),
    _conf_dir_option,
    _bin_dir_option,
    _run_dir_option,
    _state_dir_option,
    output_option,
)


def _by_hand(command: Callable[..., None]) -> Callable[..., None]:
    """What a runtime would say, collected into one `asked` argument."""

    @functools.wraps(command)
    def collected(*, container: str, netns: str, ifname: str, arguments: tuple[str, ...], **rest: Any) -> None:
        network = _network(rest.pop("conf_dir"), rest.pop("config"))
        place = Place(bin_dir=rest.pop("bin_dir"), run_dir=rest.pop("run_dir"), state_dir=rest.pop("state_dir"))
        runtime = Runtime(place.socket, (place.bin_dir,), place.spool)
        command(asked=_Asked(network, Container(container, netns, ifname, arguments), runtime), **rest)

    decorated: Callable[..., None] = collected
    for option in reversed(_BY_HAND):
        decorated = option(decorated)
    return decorated


@group.command("install")
@_bin_dir_option
@_conf_dir_option
@_run_dir_option
@_state_dir_option
@_link_dir_option
@click.option("--mode", type=click.Choice(_MODES), default=None, help="How Pods are attached (default: bridge).")
@click.option(
    "--pod-range",
    "pod_ranges",
    type=ip_network,
    metavar="CIDR",
    multiple=True,
    help="Pods' addresses (default: the Node's).",
)
@click.option(
    "--cluster-range",
    "cluster_ranges",
    type=ip_network,
    metavar="CIDR",
    multiple=True,
    help="Where Pods keep their address.",
)
@click.option("--config", type=click.Path(path_type=Path), help="A network configuration to install as it is.")
@click.option(
    "--without-agent",
    type=click.Choice(["wait", "work"]),
    default="wait",
    show_default=True,
    help="While no agent answers: have the runtime try again, or do the work without it.",
)
@output_option
def install_(
    mode: str | None,
    pod_ranges: tuple[IPNetwork, ...],
    cluster_ranges: tuple[IPNetwork, ...],
    config: Path | None,
    without_agent: str,
    output: str,
    **folders: Path,
) -> None:
    """Put the executables and a network configuration where container runtimes look for them.

    Without --mode, --pod-range, --cluster-range and --config a configuration of netplane that is there stays. Addresses
    of an existing host-local directory are taken over by a configuration with ipam.importFrom (docs/cni.md, migration).
    """
    chosen: bytes | None = None
    if config is not None:
        if mode or pod_ranges or cluster_ranges:
            raise click.UsageError("--config has everything: leave out --mode, --pod-range and --cluster-range.")
        conflist.checked(conflist.read(config))
        chosen = config.read_bytes()
    elif mode or pod_ranges or cluster_ranges:
        chosen = conflist.configured(Mode(mode or Mode.BRIDGE.value), pod_ranges, cluster_ranges)
    python = Path(sys.executable) if without_agent == "work" else None
    done = install.install(replace(_installed(folders, python), conflist=chosen))
    say(output, {"done": done}, "\n".join(done))


@group.command("uninstall")
@_bin_dir_option
@_conf_dir_option
@_link_dir_option
@output_option
def uninstall_(output: str, **folders: Path) -> None:
    """Take away what `install` put there, and nothing else. Containers keep their network."""
    done = install.uninstall(_installed(folders, None))
    say(output, {"done": done}, "\n".join(done) or "nothing to do")


@group.command("list")
@_state_dir_option
@output_option
def list_(state_dir: Path, output: str) -> None:
    """List the attachments of this node: container, Pod, addresses, link, host ports, since when."""
    try:
        found = attachments_value(store.read(Place(state_dir=state_dir).journal))
    except Failure as failure:
        raise InputError(str(failure)) from failure
    say(output, found, attachments_text(found))


@group.command("doctor")
@_conf_dir_option
@_bin_dir_option
@_run_dir_option
@_state_dir_option
@click.option("--all", "everything", is_flag=True, help="Show what is well, too.")
@output_option
def doctor_(conf_dir: Path, bin_dir: Path, run_dir: Path, state_dir: Path, everything: bool, output: str) -> None:
    """Say what on this host would make Pods fail, and how to mend it. Reads only. Exits 1 if Pods would fail."""
    found = doctor.examine(Place(conf_dir, bin_dir, run_dir, state_dir))
    value = findings_value(found)
    say(output, value, findings_text(value, everything=everything))
    if any(each.finding.level is Level.ERROR for each in found):
        raise click.exceptions.Exit(1)


@group.command()
@_by_hand
def add(asked: _Asked, output: str) -> None:
    """Attach a container as a runtime would, and print the result. If that fails, what was done is undone."""
    result = asked.runtime.add(asked.network, asked.container)
    say(output, result, json.dumps(result, indent=2))


@group.command("del")
@_by_hand
def del_(asked: _Asked, output: str) -> None:
    """Detach a container as a runtime would. Its namespace may be gone; doing it again is no error."""
    asked.runtime.delete(asked.network, asked.container, kept_result(asked.network, asked.container))
    _say_done(asked, output, "detached")


@group.command()
@_by_hand
@click.option("--result", type=click.File("rb"), help=_RESULT_HELP)
def check(asked: _Asked, output: str, result: IO[bytes] | None) -> None:
    """Ask whether all is as `add` left it. Exits 1 if something differs."""
    kept = result_of(result.read(), "--result") if result else kept_result(asked.network, asked.container)
    asked.runtime.check(asked.network, asked.container, kept)
    _say_done(asked, output, "as it should be")


def _say_done(asked: _Asked, output: str, done: str) -> None:
    about = asked.container
    value = {"network": asked.network.name, "container": about.id, "ifname": about.ifname, "done": done}
    say(output, value, f"{asked.network.name}/{about.id}/{about.ifname}: {done}")


def _installed(folders: dict[str, Path], python: Path | None) -> InstallOptions:
    place = Place(**{name: path.absolute() for name, path in folders.items() if name != "link_dir"})
    settings = LauncherSettings(place.socket, place.spool, python)
    return InstallOptions(settings, place.bin_dir, place.conf_dir, folders["link_dir"])


def _network(conf_dir: Path, config: str | None) -> NetworkList:
    if config is None:
        return conflist.first(conf_dir)
    if "/" in config or config.endswith(conflist.ENDINGS):
        return conflist.read(Path(config))
    return conflist.named(conf_dir, config)
