"""The router of a lab as a rack's router is: it speaks BGP with the nodes around it, and passes on by what it hears.

A bird in the namespace "outside", which is no part of netplane. What it hears is in the table that the outside looks
into before it takes a packet for its own (`namespaces.ROUTER_TABLE`).
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from netplane.errors import KernelError, RequirementError
from netplane.kernel import routes
from netplane.kernel.links import Links
from netplane.kernel.netns import Namespace
from netplane.lab.namespaces import ROUTER_TABLE, Lab
from netplane.lab.topology import Subnet, Topology
from netplane.model.address import IPNetwork
from netplane.plan.network_settings import BgpPeer, Mode, NetworkSettings

ROUTER_AS = 64600
ROUTES_SECONDS = 30.0
END_SECONDS = 10.0
_POLL_SECONDS = 0.02
_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
_LABEL = "subnet"

_HEAD = """router id {id};
protocol device {{ scan time 1; }}
"""
_KERNEL = """protocol kernel kernel{family} {{
  kernel table {table}; learn; scan time 1;
  ipv{family} {{ import all; export where source = RTS_BGP; }};
}}
"""
_SESSION = """protocol bgp {name} {{
  local {local} as {own}; neighbor {remote} as {asn}; multihop; passive; hold time 30;
  ipv{family} {{ import all; export none; }};
}}
"""


def peers(of: Subnet, families: tuple[int, ...] = (4, 6)) -> tuple[BgpPeer, ...]:
    """`bgp.peers` for nodes of a subnet, which the label `subnet` tells (its number): they speak with their router."""
    return tuple(
        BgpPeer(address, ROUTER_AS, nodes=((_LABEL, str(of.number)),))
        for address in of.router
        if address.version in families
    )


@contextmanager
def routing(lab: Lab, settings: NetworkSettings) -> Iterator[None]:
    """The router speaks BGP while the context lasts, if the settings have sessions with it."""
    routers = {address for each in lab.topology.subnets() for address in each.router}
    if settings.mode is not Mode.BGP or not any(peer.address in routers for peer in settings.bgp.peers):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="netplane-lab-") as folder:
        process = _start(lab.outside, Path(folder), configuration(lab.topology, settings))
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def configuration(topology: Topology, settings: NetworkSettings) -> str:
    """What bird reads: one session with each address of each node, and all it says is believed."""
    sessions = (
        _SESSION.format(
            name=f"node_{node.name.replace('-', '_').replace('.', '_')}_{remote.version}",
            local=next(each for each in here.router if each.version == remote.version),
            own=ROUTER_AS,
            remote=remote,
            asn=settings.bgp.asn,
            family=remote.version,
        )
        for here in topology.subnets()
        for node in topology.nodes.values()
        if node.subnet == here.number
        for remote in node.addresses
    )
    kernel = (_KERNEL.format(family=family, table=ROUTER_TABLE) for family in (4, 6))
    return "".join((_HEAD.format(id=topology.subnets()[0].router[0]), *kernel, *sessions))


def wait_for_routes(lab: Lab, settings: NetworkSettings) -> None:
    """Return when every node, and the router if it is told, knows where Pods are. KernelError if that takes too long.

    Only BGP needs time: every other network is there as soon as it was applied.
    """
    if settings.mode is not Mode.BGP:
        return
    ranges = {node.name: set(node.ranges) for node in lab.topology.nodes.values()}
    every = set().union(*ranges.values())
    places = {name: (namespace, every - ranges[name]) for name, namespace in lab.nodes.items()}
    if settings.bgp.peers:
        places["the router"] = (lab.outside, every)
    deadline = time.monotonic() + ROUTES_SECONDS
    while missing := {name: left for name, (where, wanted) in places.items() if (left := wanted - _known(where))}:
        if time.monotonic() > deadline:
            said = "; ".join(f"{name} has none to {', '.join(map(str, left))}" for name, left in missing.items())
            raise KernelError(mechanism="lab", doing="wait for routes of BGP", said=said)
        time.sleep(_POLL_SECONDS)


def _known(namespace: Namespace) -> set[IPNetwork]:
    """Where unicast routes lead."""

    def work() -> set[IPNetwork]:
        with Links() as here:
            return {each.to for each in routes.read(here)}

    return namespace.run(work)


def _start(namespace: Namespace, folder: Path, text: str) -> subprocess.Popen[bytes]:
    bird = shutil.which("bird", path=_PATH)
    if bird is None:
        raise RequirementError("the program 'bird' is missing; install it (Debian: apt install bird2)")
    (folder / "bird.conf").write_text(text)
    words = [bird, "-f", "-c", "bird.conf", "-s", "bird.ctl", "-P", "bird.pid"]
    return namespace.run(lambda: subprocess.Popen(words, cwd=folder, stdin=subprocess.DEVNULL))
