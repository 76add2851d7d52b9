"""A program of the Pod network as text, in the words of `ip`, `bridge`, `wg` and `nft`: for people, and to compare."""

from __future__ import annotations

from collections.abc import Iterator

from netplane.model.address import IPAddress, host_port
from netplane.programs.network import NetworkProgram, RouteKey, WireguardPeer
from netplane.programs.network_lines import (
    address_words,
    forwarding_words,
    link_words,
    neighbour_words,
    route_words,
    rule_words,
)
from netplane.programs.nftables_text import program_script
from netplane.programs.program import Program


def network_program_text(program: Program) -> str:
    """All that a program wants of the Pod network; equal programs give equal bytes."""
    parts = ["".join(f"{line}\n" for line in _lines(program.network)), program_script(program.network_rules)]
    if program.network.bird:
        parts.append(program.network.bird)
    return "\n".join(part for part in parts if part)


def _lines(network: NetworkProgram) -> Iterator[str]:
    yield from (link_words(each) for _, each in sorted(network.links.items()))
    for link, peers in sorted(network.peers.items()):
        yield from (f"{_peer_words(each)} dev {link}" for _, each in sorted(peers.items()))
    addresses = sorted(network.addresses, key=lambda each: (each.link, _place(each.address)))
    yield from map(address_words, addresses)
    neighbours = sorted(network.neighbours.items(), key=lambda each: (each[0][0], _place(each[0][1])))
    yield from (neighbour_words(*key, mac) for key, mac in neighbours)
    yield from (forwarding_words(*key, to) for key, to in sorted(network.forwarding.items(), key=lambda each: each[0]))
    yield from (route_words(key, network.routes[key]) for key in sorted(network.routes, key=_order))
    yield from map(rule_words, sorted(network.rules, key=lambda each: _place(each.source.network_address)))
    yield from (f"sysctl {name} = {value}" for name, value in sorted(network.sysctls.items()))


def _peer_words(peer: WireguardPeer) -> str:
    keepalive = f" keepalive {peer.keepalive}" if peer.keepalive else ""
    allowed = ",".join(map(str, peer.allowed))
    return f"peer {peer.key} endpoint {host_port(peer.endpoint, peer.port)}{keepalive} allowed-ips {allowed}"


def _order(key: RouteKey) -> tuple[int, int, tuple[int, int], int]:
    return key.table, key.metric, _place(key.to.network_address), key.to.prefixlen


def _place(address: IPAddress) -> tuple[int, int]:
    return address.version, int(address)
