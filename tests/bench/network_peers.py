"""Many peers on one node: learnt at once, and one of them changed. netplane, and who does the same with iproute2.

The other is `ip -batch` and `bridge -batch` with a link, and a neighbour, a forwarding entry and a route for each peer:
what Flannel asks of the kernel, without what it does before that, and without anything of netplane's rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv4Network, ip_network
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.baselines import send
from bench.cold import in_new_process
from bench.network_node import NodeNetwork, facts_of
from bench.network_pairs import UPLINK, UPLINK_MTU, carry_out
from bench.network_results import NetworkAmount, PeerRun, Stages
from bench.timing import collecting_later, timed
from netplane.backends.network.compile import compile_network
from netplane.kernel import link_orders, links
from netplane.kernel.host import NETWORK, Host, HostOptions
from netplane.kernel.link_orders import End
from netplane.kernel.links import Links
from netplane.kernel.netns import Namespace
from netplane.model.node import Node
from netplane.plan.network import addresses_to_reach, plan_network
from netplane.plan.network_settings import Mode, NetworkSettings

_UNDERLAY = IPv4Network("198.18.0.0/16")
_CLUSTER = IPv4Network("10.0.0.0/8")
_MODES = (Mode.VXLAN, Mode.HOST_GW)
_MOMENTS = 10
_INDEX = 2
_OVERHEAD = 50


def peer_runs(amount: NetworkAmount) -> list[PeerRun]:
    """For each mode: cold and one at a time, netplane and iproute2 by turns, each in a process of its own."""
    runs = [PeerRun(mode.value) for mode in _MODES]
    for mode, run in zip(_MODES, runs, strict=True):
        for _ in range(amount.cold):
            run.cold.append(in_new_process(netplane_cold, mode, amount.peers))
            run.batch_cold.append(in_new_process(batch_cold, mode, amount.peers))
        run.changes, run.batch_changes = in_new_process(changes, mode, amount.peers, amount.changes)
        run.memory = in_new_process(memory, mode, amount.peers, amount.kept)
    return runs


def node_of(number: int, turn: int = 0) -> Node:
    """Peer `number`; the node itself is 0. Every `turn` it has another Pod range."""
    pods = ip_network((int(_CLUSTER[0]) + ((turn % 64 * 1024 + number) << 8), 24))  # never that of another peer
    return Node(f"n{number}", (_address(number),), (pods,))


def nodes_of(peers: int) -> dict[str, Node]:
    """The node and its peers."""
    return {node.name: node for node in map(node_of, range(peers + 1))}


def netplane_cold(mode: Mode, peers: int) -> Stages:
    """From decoded nodes to the kernel, in a new namespace, stage by stage, with the agent's own objects."""
    nodes, settings = nodes_of(peers), _settings(mode)
    with _node() as (namespace, options), namespace.run(Links) as kernel:
        host = namespace.run(lambda: Host(options, NETWORK))
        with host, collecting_later():
            addresses = addresses_to_reach(nodes, "n0", settings)
            asking, facts = timed(lambda: namespace.run(lambda: facts_of(kernel, addresses)))
            planning, plan = timed(lambda: plan_network(nodes, "n0", settings, facts))
            compiling, compiled = timed(lambda: compile_network(plan))
            applying, _ = timed(lambda: namespace.run(lambda: host.apply(compiled.program, reread=True)))
            assert not plan.problems, plan.problems[0]
            return Stages(asking, planning, compiling, applying)


def batch_cold(mode: Mode, peers: int) -> float:
    """The same peers by iproute2."""
    with _node() as (namespace, _):
        return _sent(namespace, [*_own_link(mode), *_entries(mode, map(node_of, range(1, peers + 1)))])


def changes(mode: Mode, peers: int, count: int) -> tuple[list[float], list[float]]:
    """Seconds until a peer whose Pod range is another now is reached: netplane's and iproute2's, by turns."""
    ours: list[float] = []
    theirs: list[float] = []
    with _node() as (namespace, options), _node() as (other, _), collecting_later():
        network = namespace.run(lambda: NodeNetwork("n0", _settings(mode), options))
        with network:
            nodes = nodes_of(peers)
            _reconcile(namespace, network, nodes)
            _sent(other, [*_own_link(mode), *_entries(mode, map(node_of, range(1, peers + 1)))])
            for turn in range(1, count + 1):
                number = 1 + turn * 7 % peers
                before, after = nodes[f"n{number}"], node_of(number, turn)
                nodes = nodes | {after.name: after}
                ours.append(timed(lambda: _reconcile(namespace, network, nodes))[0])  # noqa: B023
                lines = [*_entries(mode, [before], remove=True), *_entries(mode, [after])]
                theirs.append(_sent(other, lines))
    return ours, theirs


def memory(mode: Mode, peers: int, count: int) -> list[float]:
    """VmRSS in MiB at the beginning and at ten moments, while one peer after the other changes."""
    found = []
    with _node() as (namespace, options), namespace.run(lambda: NodeNetwork("n0", _settings(mode), options)) as network:
        nodes = nodes_of(peers)
        _reconcile(namespace, network, nodes)
        for turn in range(1, count + 1):
            after = node_of(1 + turn * 7 % peers, turn)
            nodes = nodes | {after.name: after}
            _reconcile(namespace, network, nodes)
            if turn % max(count // _MOMENTS, 1) == 0:
                found.append(_resident())
    return found


def _reconcile(namespace: Namespace, network: NodeNetwork, nodes: Mapping[str, Node]) -> None:
    namespace.run(lambda: network.reconcile(nodes))


def _settings(mode: Mode) -> NetworkSettings:
    return NetworkSettings(mode, cluster_ranges=(_CLUSTER,))


def _address(number: int) -> IPv4Address:
    return _UNDERLAY[number + 1]


class _node:
    """A namespace with an uplink that all peers are on, and folders for the node's files."""

    def __enter__(self) -> tuple[Namespace, HostOptions]:
        with ExitStack() as made:
            place = Path(made.enter_context(TemporaryDirectory(prefix="netplane-bench-")))
            namespace, far = made.enter_context(Namespace()), made.enter_context(Namespace())
            carry_out(
                namespace,
                links.up(links.LOOPBACK),
                link_orders.cable(End(UPLINK, _INDEX, b""), End(UPLINK, _INDEX + 1, b""), far.fd, UPLINK_MTU),
                links.address(_address(0), _UNDERLAY.prefixlen, _INDEX),
            )
            carry_out(far, links.up(_INDEX + 1))
            with namespace.run(Links) as here:
                here.wait_ready((UPLINK,), 30.0)
            self._made = made.pop_all()
        return namespace, HostOptions(run_directory=place, state_directory=place)

    def __exit__(self, *_: object) -> None:
        self._made.close()


def _own_link(mode: Mode) -> Iterator[str]:
    if mode is Mode.VXLAN:
        vxlan = f"type vxlan id 4097 dev {UPLINK} local {_address(0)} dstport 4789 nolearning"
        yield f"link add flannel.4097 address {_mac(0)} mtu {UPLINK_MTU - _OVERHEAD} {vxlan}"
        yield f"addr add {node_of(0).pod_ranges[0][0]}/32 dev flannel.4097"
        yield "link set flannel.4097 up"


def _entries(mode: Mode, nodes: Iterator[Node] | list[Node], *, remove: bool = False) -> Iterator[str]:
    """Lines for `ip -batch`, and for `bridge -batch` those that begin with fdb."""
    for node in nodes:
        (address,), (pods,) = node.addresses, node.pod_ranges
        if mode is Mode.HOST_GW:
            yield f"route {'del' if remove else 'replace'} {pods} via {address} dev {UPLINK}"
            continue
        verb = "del" if remove else "replace"
        mac = _mac(int(node.name[1:]))
        yield f"neigh {verb} {pods[0]} {'' if remove else f'lladdr {mac} nud permanent '}dev flannel.4097"
        yield f"route {verb} {pods} via {pods[0]} dev flannel.4097 onlink"
        yield f"fdb {verb} {mac} dev flannel.4097 dst {address} self{'' if remove else ' permanent'}"


def _sent(namespace: Namespace, lines: list[str]) -> float:
    """Seconds of the two programs."""
    scripts = {
        "ip": "".join(f"{line}\n" for line in lines if not line.startswith("fdb")),
        "bridge": "".join(f"{line}\n" for line in lines if line.startswith("fdb")),
    }
    return sum(
        timed(lambda: send(namespace, script, program, "-batch", "-"))[0]  # noqa: B023
        for program, script in scripts.items()
        if script
    )


def _mac(number: int) -> str:
    return (0x020000000000 + number).to_bytes(6, "big").hex(":")


def _resident() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024
