"""`netplane node`: how this node reaches the others."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path

import click

from netplane.cli.networked import (
    Networked,
    network_option,
    networked,
    run_dir_option,
    state_dir_option,
)
from netplane.cli.node_text import explained_text, explained_value, key_text, listed_text, listed_value
from netplane.cli.options import from_option, node_option, output_option, say
from netplane.doctor.reach import Asked, Reach, advice, planned, reach, tells
from netplane.errors import InputError, one_line
from netplane.kernel import echo
from netplane.kernel.echo_once import Lost, Ping, TooBig, echo_once
from netplane.kernel.wireguard_keys import KEYS, KeyStore
from netplane.model.address import IPAddress
from netplane.plan.network_plan import PeerPlan

_SMALL = 84
"""Bytes of an echo request, as ping sends it."""
_offline_option = click.option("--offline", is_flag=True, help="Only what is planned: ask neither nodes nor kernel.")
_wait_option = click.option(
    "--wait", type=click.FloatRange(0.01, 60), default=1.0, show_default=True, help="Seconds to wait for a reply."
)


@click.group("node")
def group() -> None:
    """How this node reaches the others."""


@group.command("list")
@from_option
@node_option
@network_option
@state_dir_option
@_offline_option
@_wait_option
@output_option
def list_(source: Path, node: str, network: str, state_dir: Path, offline: bool, wait: float, output: str) -> None:
    """List every other node: by which way its Pods are reached, over which link, by which address, MTU, alive.

    Has to run on the node it is about: the plan follows from the ways its kernel has. Alive: whether it answers an echo
    request that goes as packets to its Pods go.
    """
    found = networked(source, node, network, state_dir)
    peers = found.plan.peers.values()
    answered = None if offline else echo.ask({each for peer in peers for each in tells(peer)}, wait)
    value = [listed_value(found.plan, peer, _alive(peer, answered)) for peer in peers]
    say(output, value, listed_text(value))


@group.command()
@click.argument("name")
@from_option
@node_option
@network_option
@state_dir_option
@run_dir_option
@_offline_option
@_wait_option
@output_option
def explain(
    name: str,
    source: Path,
    node: str,
    network: str,
    state_dir: Path,
    run_dir: Path,
    offline: bool,
    wait: float,
    output: str,
) -> None:
    """Explain how node NAME is reached, and why so; what the kernel has for it; whether it answers; what to do.

    Asks its own addresses, then its address on the overlay, then with a packet as large as Pods may send, which nobody
    may fragment. For WireGuard the last handshake, for BGP the sessions. Exits 1 if something is wrong.
    """
    found = networked(source, node, network, state_dir)
    peer = _peer(found, name)
    asked = Asked(found.plan, found.program, run_dir, partial(_ask, wait))
    seen: Reach = planned(found.plan, peer) if offline else reach(asked, peer)
    wrong = [*advice(found.plan, peer, seen)]
    value = explained_value(found.plan, peer, seen, wrong)
    say(output, value, explained_text(value))
    if wrong:
        raise click.exceptions.Exit(1)


@group.command()
@click.option("--node", default="", help="The Node's name, for the command that publishes the key.")
@state_dir_option
@click.option("--rotate", is_flag=True, help="Make the next key, which is used as soon as the Node object shows it.")
@output_option
def key(node: str, state_dir: Path, rotate: bool, output: str) -> None:
    """This node's public WireGuard key, and the command that publishes it. Makes a key where there is none."""
    store = KeyStore(state_dir / KEYS)
    in_use, waiting = store.public(), store.rotate() if rotate else store.next_public()
    value = {"publicKey": in_use, "nextPublicKey": waiting, "node": node}
    say(output, value, key_text(value))


def _peer(found: Networked, name: str) -> PeerPlan:
    peer = found.plan.peers.get(name)
    if peer is None:
        if name == found.plan.node:
            raise InputError(f"{name} is this node itself; name another one")
        known = ", ".join([*found.plan.peers][:5]) or "none"
        raise InputError(f"there is no Node {one_line(name, 80)} in the source (others there are: {one_line(known)})")
    return peer


def _alive(peer: PeerPlan, answered: Collection[IPAddress] | None) -> bool | None:
    """Whether it answered, as its Pods are reached; None if it was not asked."""
    asked = tells(peer)
    return None if answered is None or not asked else all(each in answered for each in asked)


def _ask(wait: float, to: IPAddress, size: int) -> float | Lost | TooBig:
    return echo_once(Ping(to, size or _SMALL, dont_fragment=bool(size)), wait)
