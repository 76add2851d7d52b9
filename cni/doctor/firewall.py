"""Checks of other programs that decide about packets and links: firewalls and network managers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from os.path import samestat
from pathlib import Path

from cni.attachment import LINK_PREFIXES
from cni.config import Mode
from cni.doctor import chains, machine
from cni.doctor.finding import Finding, error, ok, warning
from cni.doctor.view import View
from netplane.errors import KernelError, RequirementError
from netplane.kernel import command, probe

_NFT_PARTS = "a kernel with nft_nat, nft_masq, nft_fib, nft_ct and nf_conntrack; nft 1.0 or later"
_MANAGERS = {"systemd-network": "systemd-networkd", "NetworkManager": "NetworkManager", "firewalld": "firewalld"}
"""What /proc calls a process (at most 15 characters), and what people call it."""


@dataclass(frozen=True, slots=True)
class _Stop:
    """A chain that drops what is forwarded, unless a rule of its table says otherwise."""

    family: str
    table: str
    chain: str
    how: str
    accepts: str
    """The rules of its table that accept something, a line each."""

    @property
    def of_iptables(self) -> bool:
        return self.table == "filter" and self.chain == "FORWARD" and self.family in ("ip", "ip6")

    def __str__(self) -> str:
        return f"{self.family} {self.table} chain {self.chain} ({self.how})"


def rules(_view: View) -> Iterator[Finding]:
    """Whether masquerading and host ports can be written at all."""
    why = "Pods with masquerading or host ports do not start, and routed ones neither"
    try:
        command.run("nft", "list", "tables", mechanism="nftables", doing="list tables")
    except RequirementError as missing:
        yield error(str(missing), why, "apt install nftables")
    except KernelError as refused:
        yield error(str(refused), why, "a kernel with nf_tables; netplane backend check nftables tries what it can do")
    else:
        said = probe.try_ruleset(machine.ruleset())
        yield error(f"nftables refuses our rules: {said}", why, _NFT_PARTS) if said else ok("nftables takes our rules")


def forward_chains(view: View) -> Iterator[Finding]:
    """Whether a chain of somebody else drops what Pods send or get."""
    stops = [*_nftables(), *_legacy()]
    for stop in stops:
        if _names_pods(view, stop.accepts):
            yield ok(f"{stop} accepts packets of Pods")
            continue
        yield error(
            f"{stop} drops what this host forwards",
            "a drop is final whatever netplane accepts, so Pods reach nobody outside of their host",
            _accept(view, stop),
        )
    if not stops:
        yield ok("nothing drops all that is forwarded")


def managers(view: View) -> Iterator[Finding]:
    """Whether a program that manages links or rules of the whole host runs in this namespace."""
    running = sorted(_running())
    for name in running:
        yield _manager(name, view)
    if not running:
        yield ok("neither systemd-networkd nor NetworkManager nor firewalld runs")


def _nftables() -> Iterator[_Stop]:
    for chain in chains.nft("list", "chains"):
        if chain.get("hook") != "forward" or chain.get("type") != "filter" or chain["family"] not in _FAMILIES:
            continue
        family, table, name = chain["family"], chain["table"], chain["name"]
        if table.startswith(chains.OURS):
            continue
        if how := chains.how_it_drops(chain):
            doing = f"look at {family} {table}"
            text = command.run("nft", "list", "table", family, table, mechanism="nftables", doing=doing)
            yield _Stop(family, table, name, how, _lines(text, "accept"))


_FAMILIES = ("ip", "ip6", "inet")


def _legacy() -> Iterator[_Stop]:
    for tool, text in chains.legacy_that_drop("FORWARD"):
        family = "ip" if tool == "iptables" else "ip6"
        yield _Stop(family, "filter", "FORWARD", "legacy, policy drop", _lines(text, "-j ACCEPT"))


def _lines(text: str, word: str) -> str:
    return "\n".join(line for line in text.splitlines() if word in line)


def _names_pods(view: View, rules: str) -> bool:
    """Whether a rule speaks of Pods' links or networks. What exactly it says about them is not judged."""
    return any(f'{each}"' in rules or f"{each} " in rules for each in _pod_words(view))


def _pod_words(view: View) -> list[str]:
    networks = [str(each) for each in view.pod_networks]
    prefixes = [f"{prefix}{star}" for prefix in LINK_PREFIXES.values() for star in "*+"]
    return [*networks, *prefixes, *([view.bridge] if view.bridge else [])]


def _accept(view: View, stop: _Stop) -> str:
    tool = "ip6tables" if stop.family == "ip6" else "iptables"
    tool += "-legacy" if stop.how.startswith("legacy") else ""
    if stop.of_iptables:
        link = view.bridge or f"{LINK_PREFIXES[Mode.ROUTED]}+"
        return "; ".join(f"{tool} -I FORWARD {side} {link} -j ACCEPT" for side in ("-i", "-o"))
    link = view.bridge or f"{LINK_PREFIXES[Mode.ROUTED]}*"
    where = f"{stop.family} {stop.table} {stop.chain}"
    return "; ".join(f"nft insert rule {where} {side} '\"{link}\"' accept" for side in ("iifname", "oifname"))


def _running() -> set[str]:
    """The managers among the processes of the calling thread's network namespace."""
    here = Path("/proc/thread-self/ns/net").stat()
    found = set()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            name = _MANAGERS.get((process / "comm").read_text().rstrip("\n"))
            if name and samestat((process / "ns" / "net").stat(), here):
                found.add(name)
        except OSError:  # it ended meanwhile
            continue
    return found


def _manager(name: str, view: View) -> Finding:
    links = [*(f"{prefix}*" for prefix in LINK_PREFIXES.values()), *([view.bridge] if view.bridge else [])]
    if name == "firewalld":
        sources = " ".join(f"--add-source={each}" for each in view.pod_networks) or "--add-source=POD-RANGE"
        return warning(
            "firewalld runs",
            "it rejects what it forwards for zones that are not trusted",
            f"firewall-cmd --permanent --zone=trusted {sources} && firewall-cmd --reload",
        )
    if name == "NetworkManager":
        devices = ";".join(f"interface-name:{each}" for each in links)
        return warning(
            "NetworkManager runs",
            "it may give Pods' links addresses of its own, or take them down",
            f"printf '[keyfile]\\nunmanaged-devices={devices}\\n' > /etc/NetworkManager/conf.d/netplane.conf"
            " && systemctl reload NetworkManager",
        )
    return warning(
        "systemd-networkd runs",
        "it removes routes it does not know, and changes links that match one of its files",
        "mkdir -p /etc/systemd/networkd.conf.d &&"
        " printf '[Network]\\nManageForeignRoutes=no\\nManageForeignRoutingPolicyRules=no\\n'"
        f" > /etc/systemd/networkd.conf.d/netplane.conf && printf '[Match]\\nName={' '.join(links)}\\n[Link]\\n"
        "Unmanaged=yes\\n' > /etc/systemd/network/00-netplane.network && systemctl restart systemd-networkd",
    )
