"""`--from`, `--node`, `--network` -> the plan of the Pod network on this host, for commands that ask about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from cni.doctor import Place
from netplane.backends.network.compile import compile_network
from netplane.cli.options import Command, say_problems
from netplane.kernel import underlay
from netplane.kernel.links import Links
from netplane.kernel.wireguard_keys import IN_USE, KEYS, KeyStore
from netplane.model.node import Node
from netplane.plan import network_plan
from netplane.plan.network import addresses_to_reach, plan_network
from netplane.plan.network_plan import HostFacts, NetworkPlan
from netplane.plan.network_settings import Mode, NetworkSettings
from netplane.programs.network import NetworkProgram
from netplane.sources.manifests import load
from netplane.sources.network_options import read_network_settings

NETWORK_HELP = "How Pods of one node reach those of another: a mode (vxlan, host-gw, ...) or a YAML file of settings."
_HERE = Place()


def network_option(command: Command) -> Command:
    """`--network MODE|FILE`."""
    return click.option("--network", metavar="MODE|FILE", required=True, help=NETWORK_HELP)(command)


def state_dir_option(command: Command) -> Command:
    """`--state-dir DIR`."""
    return click.option(
        "--state-dir",
        type=click.Path(path_type=Path),
        default=_HERE.state_dir,
        show_default=True,
        help="Folder of this node's WireGuard keys.",
    )(command)


def run_dir_option(command: Command) -> Command:
    """`--run-dir DIR`."""
    return click.option(
        "--run-dir",
        type=click.Path(path_type=Path),
        default=_HERE.run_dir,
        show_default=True,
        help="Folder of what the agent started: bird, wireguard-go.",
    )(command)


@dataclass(frozen=True, slots=True)
class Networked:
    """What this host told, the plan of one Node on it, and what its kernel should have."""

    facts: HostFacts
    plan: NetworkPlan
    program: NetworkProgram


def networked(source: Path, node: str, network: str, state_dir: Path) -> Networked:
    """The plan of `node`, with what the kernel says about the ways from here. Problems go to standard error.

    Raises InputError for a node that is not there and for settings that cannot be used. Nothing is changed: where this
    node has no key for WireGuard yet, none is made.
    """
    settings = read_network_settings(network)
    loaded = load(source)
    nodes = loaded.snapshot.nodes
    facts = _facts(nodes, node, settings, state_dir)
    plan = plan_network(nodes, node, settings, facts)
    say_problems((*loaded.problems, *plan.problems))
    return Networked(facts, plan, compile_network(plan).program.network)


def _facts(nodes: Mapping[str, Node], node: str, settings: NetworkSettings, state_dir: Path) -> HostFacts:
    with Links() as kernel:
        found = underlay.look(kernel, addresses_to_reach(nodes, node, settings))
    known = {to: network_plan.Path(*path) for to, path in found.paths.items()}
    key = _public_key(settings, state_dir / KEYS)
    return HostFacts(known, found.networks, key, addresses=found.addresses)


def _public_key(settings: NetworkSettings, keys: Path) -> str:
    if settings.mode is not Mode.WIREGUARD or not (keys / IN_USE).exists():
        return ""
    return KeyStore(keys).public()
