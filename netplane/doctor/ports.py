"""Checks of the UDP port of an overlay: who else has it, and what lets nothing in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from cni.doctor import chains
from cni.doctor.finding import Finding, error, ok, warning
from netplane.doctor.view import View, network_file
from netplane.errors import NetplaneError
from netplane.kernel import command
from netplane.plan.network_settings import Mode

_BGP_PORT = 179
_OUR_PROGRAMS = frozenset({"wireguard-go"})
_KERNEL_TUNNELS = frozenset({"vxlan", "wireguard", "geneve"})
_NOBODY = "a program that cannot be seen from here"
_LOCAL, _INODE = 1, 9
"""Fields of a line of /proc/net/udp."""


def taken(view: View) -> Iterator[Finding]:
    """Whether a program has the port that the overlay needs."""
    port = _udp_port(view)
    if not port:
        yield ok("this mode needs no UDP port" if view.settings else "no overlay is asked for")
        return
    inodes = {inode for name in ("udp", "udp6") for inode in _listeners(name, port)}
    holders = {_holder(inode) for inode in inodes}
    if any(each.kind in _KERNEL_TUNNELS for each in view.links.values()):
        holders -= {_NOBODY}  # the kernel's own sockets
    users = sorted(holders - _OUR_PROGRAMS)
    for user in users:
        yield error(
            f"UDP {port} is taken by {user}",
            "the overlay cannot be made, or gets no packet",
            f"end it, or choose another port for all nodes ({_key(view)} of the network's settings)",
        )
    others = [each for each in view.links.values() if each.kind == "vxlan" and not each.name.startswith("np-")]
    for link in others if _key(view) == "vxlan: port" else []:
        yield warning(
            f"{link.name} is a VXLAN, too",
            "if it has the same port and VNI, ours cannot be made; if it has the same port, packets of unknown nodes"
            " are dropped before it sees them",
            f"ip -d link show {link.name}; if nobody needs it: ip link del {link.name}",
        )
    if not users:
        yield ok(f"nobody else has UDP {port}")


def filtered(view: View) -> Iterator[Finding]:
    """Whether a chain of somebody else drops what comes in unless it says otherwise, and does not speak of our port."""
    wanted = _wanted(view)
    if not wanted:
        yield ok("this mode needs no port of this host" if view.settings else "no mode is asked for: nothing to let in")
        return
    words = f"{wanted[0]} {wanted[1]}"
    stops = [*_nftables(), *_legacy()]
    for where, text in stops:
        if _speaks_of(text, wanted[1]):
            yield ok(f"{where} drops what it does not know, and knows of {words}")
        else:
            yield error(
                f"{where} drops what comes in, and no rule of it speaks of {words}",
                "packets of other nodes end there: their Pods are not reached",
                _accept(where, wanted),
            )
    if not stops:
        yield ok("nothing on this host drops all that comes in")


def _udp_port(view: View) -> int:
    if view.settings is None:
        return 0
    if view.mode is Mode.WIREGUARD:
        return view.settings.wireguard.port
    return view.settings.vxlan.port if view.tunnels else 0


def _wanted(view: View) -> tuple[str, int] | None:
    if view.mode is Mode.BGP:
        return "TCP", _BGP_PORT
    return ("UDP", port) if (port := _udp_port(view)) else None


def _key(view: View) -> str:
    return "wireguard: port" if view.mode is Mode.WIREGUARD else "vxlan: port"


def _listeners(name: str, port: int) -> Iterator[int]:
    """The inodes of sockets with this local port."""
    for line in network_file(name)[1:]:
        fields = line.split()
        if int(fields[_LOCAL].rpartition(":")[2], 16) == port:
            yield int(fields[_INODE])


def _holder(inode: int) -> str:
    """The program that has a socket, by name and process."""
    wanted = f"socket:[{inode}]"
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with suppress(OSError):  # it ended meanwhile
            if any(str(each.readlink()) == wanted for each in (process / "fd").iterdir()):
                name = (process / "comm").read_text().strip()
                return name if name in _OUR_PROGRAMS else f"{name}[{process.name}]"
    return _NOBODY


def _nftables() -> Iterator[tuple[str, str]]:
    """Chains of nftables at the input hook that drop by policy, or by their last rule, and their tables as text."""
    try:
        listed = chains.nft("list", "chains")
    except NetplaneError:
        return  # no nft: `backend check nftables` says so
    for chain in listed:
        family, table, name = chain["family"], chain["table"], chain["name"]
        if chain.get("hook") != "input" or family not in ("ip", "ip6", "inet") or table.startswith(chains.OURS):
            continue
        if how := chains.how_it_drops(chain):
            text = command.run("nft", "list", "table", family, table, mechanism="nftables", doing=f"look at {table}")
            yield f"{family} {table} chain {name} ({how})", text


def _legacy() -> Iterator[tuple[str, str]]:
    for tool, text in chains.legacy_that_drop("INPUT"):
        yield f"{tool}-legacy chain INPUT (policy drop)", text


def _speaks_of(text: str, port: int) -> bool:
    """Whether a rule names the port. What exactly it says about it is not judged."""
    words = text.replace(",", " ").replace("{", " ").replace("}", " ").split()
    return str(port) in words


def _accept(where: str, wanted: tuple[str, int]) -> str:
    protocol, port = wanted[0].lower(), wanted[1]
    family, table, _, chain, *_ = where.split()
    if family.endswith("-legacy"):
        return f"{family} -I INPUT -p {protocol} --dport {port} -j ACCEPT"
    if (table, chain) == ("filter", "INPUT"):
        tool = "ip6tables" if family == "ip6" else "iptables"
        return f"{tool} -I INPUT -p {protocol} --dport {port} -j ACCEPT"
    return f"nft insert rule {family} {table} {chain} {protocol} dport {port} accept"
