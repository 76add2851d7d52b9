"""Checks of what is there besides netplane: routes that shadow ours, and what other network plugins left behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from fnmatch import fnmatchcase

from cni.doctor.finding import Finding, error, ok, warning
from netplane.doctor.view import View, network_file
from netplane.errors import NetplaneError
from netplane.kernel import command
from netplane.kernel.routes import MAIN_TABLE, RouteFacts
from netplane.model.address import IPNetwork
from netplane.plan.network_settings import Mode
from netplane.programs.network import METRIC, PROTOCOL

_BIRD = 12
"""RTPROT_BIRD"""
_POD_ROUTES = 97
"""The CNI plugin's own."""
_KERNEL = 2
_NAMES = {2: "kernel", 3: "boot", 4: "static", 9: "ra", 11: "zebra", 12: "bird", 16: "dhcp", 80: "calico", 186: "bgp"}
_SHOWN = 5
_LINKS = (
    ("Flannel", ("flannel.*", "flannel-v6.*", "flannel-wg*", "flannel.ipip")),
    ("Calico", ("vxlan.calico", "vxlan-v6.calico", "wireguard.cali", "wg-v6.cali", "cali*")),
    ("Cilium", ("cilium_*", "lxc_health", "lxc????????????")),
    ("Weave Net", ("weave", "vethwe*", "vxlan-6784", "datapath")),
    ("kube-router", ("kube-bridge", "kube-dummy-if", "tun-???????????")),
    ("Antrea", ("antrea-*",)),
    ("OVN-Kubernetes", ("ovn-k8s-*", "br-int")),
    ("kindnet", ("knet*",)),
)
"""Names of links that say whose they are."""
_CHAINS = (
    ("Flannel", ("FLANNEL-", "flannel-")),
    ("Calico", ("cali-", "filter-cali", "nat-cali")),
    ("Cilium", ("CILIUM_", "OLD_CILIUM")),
    ("Weave Net", ("WEAVE",)),
    ("kube-router", ("KUBE-ROUTER", "KUBE-POD-FW-", "KUBE-NWPLCY-")),
    ("Antrea", ("ANTREA-",)),
    ("kindnet", ("kindnet", "KIND-MASQ")),
)
"""How their chains and tables begin."""


def routes(view: View) -> Iterator[Finding]:
    """Whether a route that is not ours takes what is for other nodes' Pods."""
    if view.plan is None:
        yield ok("without --from, --node and --network no route is known to be ours")
        return
    own = {PROTOCOL, _POD_ROUTES} | ({_BIRD} if view.mode is Mode.BGP else set())
    foreign = [each for each in view.routes if each.table == MAIN_TABLE and each.protocol not in own]
    found = False
    for peer in view.plan.peers.values():
        for network in peer.ranges:
            for each in (each for each in foreign if _shadows(each, network)):
                found = True
                yield _shadowed(view, peer.node, network, each)
    if not found:
        yield ok("no foreign route takes what is for other nodes' Pods")


def leftovers(view: View) -> Iterator[Finding]:
    """Links that another network plugin left behind, or still uses."""
    found = False
    for who, patterns in _LINKS:
        names = sorted(each for each in view.links if any(fnmatchcase(each, pattern) for pattern in patterns))
        if names:
            found = True
            shown = names[:_SHOWN]
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            yield warning(
                f"links of {who}: {', '.join(shown)}{more}",
                "its routes and rules decide about packets of Pods, too; Pods it attached keep its addresses",
                f"remove {who} from the cluster and drain this node; what stays then: "
                + "; ".join(f"ip link del {name}" for name in shown),
            )
    for left in _reference_bridge(view):
        found = True
        yield left
    tunnel = view.links.get("tunl0")
    if tunnel and tunnel.up:
        found = True
        yield warning(
            "tunl0 is up: somebody uses IP in IP, as Calico does",
            "routes over it take packets that are for Pods",
            "ip route show dev tunl0; if nobody needs it: ip addr flush dev tunl0; ip link set tunl0 down",
        )
    if not found:
        yield ok("no link of another network plugin")


def rules(_view: View) -> Iterator[Finding]:
    """Chains that another network plugin left behind."""
    owners: dict[str, list[str]] = {}
    for where, name in _chains():
        for who, beginnings in _CHAINS:
            if name.startswith(beginnings):
                owners.setdefault(who, []).append(f"{where} {name}")
    for who, names in owners.items():
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        yield warning(
            f"rules of {who}: {', '.join(names[:_SHOWN])}{more}",
            "they masquerade, accept or drop packets of Pods before or after netplane does",
            f"remove {who} from the cluster, then restart this node, or flush and delete these chains by hand",
        )
    if not owners:
        yield ok("no rules of another network plugin")


def _shadows(route: RouteFacts, network: IPNetwork) -> bool:
    """Whether packets to a part of `network` take `route` and not ours."""
    if route.to.version != network.version or route.to.prefixlen < network.prefixlen:
        return False
    inside = network.supernet_of(route.to)  # type: ignore[arg-type]
    return inside and (route.to.prefixlen > network.prefixlen or route.priority < METRIC)


def _shadowed(view: View, node: str, network: IPNetwork, route: RouteFacts) -> Finding:
    link = next((each.name for each in view.links.values() if each.index == route.index), f"link {route.index}")
    way = f"via {route.via} dev {link}" if route.via else f"dev {link}"
    metric = f" metric {route.priority}" if route.priority else ""
    who = _NAMES.get(route.protocol, str(route.protocol))
    ip = "ip -6" if route.to.version == 6 else "ip"
    if route.protocol == _KERNEL:
        mend = f"an address of {link} is in the Pods' {network}: take it away (ip addr show dev {link})"
    else:
        mend = f"{ip} route del {route.to} {way}{metric} proto {who}, and in whatever made it"
    return error(
        f"{route.to} {way}{metric} (protocol {who}) takes packets that are for {node}'s Pods in {network}",
        "they go another way than the plan says, or nowhere",
        mend,
    )


def _reference_bridge(view: View) -> Iterator[Finding]:
    bridge = view.links.get("cni0")
    if bridge is None or any(each.index == bridge.index for each in view.bridges):
        return
    on_it = [str(each.address) for each in view.addresses if each.index == bridge.index and not each.link_local]
    if on_it:
        yield warning(
            f"cni0 has {', '.join(on_it)}, which is not among this node's Pods",
            "it is left over from Flannel's or the reference bridge plugin; packets to that network end there",
            "drain this node, then: ip link del cni0",
        )


def _chains() -> Iterator[tuple[str, str]]:
    """Names of all chains and tables, with where they are."""
    try:
        said = command.run("nft", "-j", "list", "chains", mechanism="nftables", doing="list chains")
        for each in json.loads(said)["nftables"]:
            if "chain" in each:
                chain = each["chain"]
                where = f"{chain['family']} {chain['table']}"
                yield where, chain["name"]
                yield chain["family"], chain["table"]
    except NetplaneError:
        pass  # no nft: `backend check nftables` says so
    for tool, names in (("iptables", "ip_tables_names"), ("ip6tables", "ip6_tables_names")):
        for table in network_file(names):
            words = (f"{tool}-legacy-save", "-t", table)
            text = command.run(*words, mechanism="iptables", doing=" ".join(words))
            yield from (
                (f"{tool}-legacy {table}", line[1:].split()[0]) for line in text.splitlines() if line[:1] == ":"
            )
