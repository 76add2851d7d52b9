"""Nodes and a host that reaches them, in few words: `plan(Mode.VXLAN)` is the plan of n1 among n1, n2 and n3.

All have both families (`builders.node`). `far` names nodes behind a router; every path takes 1500 bytes.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from builders import node

from netplane.model.address import IPAddress
from netplane.model.node import Node
from netplane.plan.network import plan_network
from netplane.plan.network_plan import PUBLIC_KEY_ANNOTATION, HostFacts, NetworkPlan, Path
from netplane.plan.network_settings import Mode, NetworkSettings


def key(number: int) -> str:
    """A public key."""
    return b64encode(bytes([number]) * 32).decode()


def keyed(name: str, **changes: Any) -> Node:
    """A Node that shows the key of its number."""
    shown = ((PUBLIC_KEY_ANNOTATION, key(int(name[1:]))),)
    return node(name, **{"annotations": shown, **changes})


def cluster(*nodes: Node) -> dict[str, Node]:
    """n1, n2 and n3, with `nodes` added or instead of them."""
    named = {name: keyed(name) for name in ("n1", "n2", "n3")}
    return {**named, **{each.name: each for each in nodes}}


def host(nodes: Mapping[str, Node], on: str = "n1", far: Iterable[str] = (), **changes: Any) -> HostFacts:
    """What the host of a node knows: a path over eth0 to every address of the others."""
    paths = {
        address: Path("eth0", 1500, on_link=name not in far)
        for name, each in nodes.items()
        if name != on
        for address in each.addresses
    }
    return replace(HostFacts(paths=paths, public_key=key(int(on[1:]))), **changes)


def without(facts: HostFacts, *addresses: IPAddress) -> HostFacts:
    """The same host without paths to these."""
    return replace(facts, paths={to: path for to, path in facts.paths.items() if to not in addresses})


def plan(
    mode: Mode,
    *nodes: Node,
    on: str = "n1",
    far: Iterable[str] = (),
    facts: HostFacts | None = None,
    services: Any = (),
    advertised: Any = (),
    **settings: Any,
) -> NetworkPlan:
    """The plan of a node; fields of NetworkSettings by name."""
    known = cluster(*nodes)
    seen = facts or host(known, on, far)
    return plan_network(known, on, NetworkSettings(mode, **settings), seen, services, advertised)


def told(made: NetworkPlan) -> list[str]:
    """The problems as text."""
    return [str(each) for each in made.problems]
