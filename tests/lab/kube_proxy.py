"""A node as kube-proxy left it, in its iptables and its nftables mode, and neighbours who have rules there too.

The shapes are those of kube-proxy's own expectations, with the addresses of `traffic.py`.
"""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from traffic import FRESH_PORT, LASTING_PORT, LONG, PODS, WEB

from netplane.kernel.netns import Namespace
from netplane.model.address import Family

TOOL = {Family.IPV4: "iptables", Family.IPV6: "ip6tables"}
IP = {Family.IPV4: "ip", Family.IPV6: "ip6"}
POD_RANGE = {Family.IPV4: "10.244.1.0/24", Family.IPV6: "fd00:10:244:1::/64"}
ALL_PODS = {Family.IPV4: "10.244.0.0/16", Family.IPV6: "fd00:10:244::/48"}
GONE = {Family.IPV4: ("10.96.0.66", "203.0.113.66"), Family.IPV6: ("fd00:10:96::66", "2001:db8:113::66")}
"""Addresses of a Service that the cluster no longer has: what kube-proxy still has of it must go."""
LOOPBACK = {Family.IPV4: "127.0.0.0/8", Family.IPV6: "::1/128"}


@dataclass(frozen=True)
class _Port:
    """One Service port. Local endpoints are those of policy Local, shown by the Service that is gone."""

    name: str
    protocol: str
    address: str
    port: int
    node_port: int
    target: int
    gone: str = ""

    def chain(self, kind: str, endpoint: str = "") -> str:
        digest = hashlib.sha256(f"{self.name}{self.protocol}{endpoint}".encode()).digest()
        return f"KUBE-{kind}-{base64.b32encode(digest).decode()[:16]}"


def _ports(family: Family) -> tuple[_Port, ...]:
    web, long, (gone, external) = WEB[family], LONG[family], GONE[family]
    return (
        _Port("shop/web:http", "tcp", web, 80, 30080, FRESH_PORT),
        _Port("shop/web:quic", "udp", web, 80, 30080, FRESH_PORT),
        _Port("shop/long:echo", "tcp", long, 80, 30082, LASTING_PORT),
        _Port("old/gone:p80", "tcp", gone, 80, 30099, 9090, external),
    )


def _at(pod: str, port: int) -> str:
    return f"[{pod}]:{port}" if ":" in pod else f"{pod}:{port}"


# --- iptables ---

_NEW = "-m conntrack --ctstate NEW "
_PORTALS = "kubernetes service portals"
_VISIBLE = "kubernetes externally-visible service portals"
_FIREWALL = "kubernetes load balancer firewall"
_JUMPS = (
    ("filter", "INPUT", _NEW, _FIREWALL, "KUBE-PROXY-FIREWALL"),
    ("filter", "OUTPUT", _NEW, _FIREWALL, "KUBE-PROXY-FIREWALL"),
    ("filter", "FORWARD", _NEW, _FIREWALL, "KUBE-PROXY-FIREWALL"),
    ("filter", "FORWARD", "", "kubernetes forwarding rules", "KUBE-FORWARD"),
    ("filter", "FORWARD", _NEW, _PORTALS, "KUBE-SERVICES"),
    ("filter", "OUTPUT", _NEW, _PORTALS, "KUBE-SERVICES"),
    ("filter", "INPUT", "", "kubernetes health check service ports", "KUBE-NODEPORTS"),
    ("filter", "INPUT", _NEW, _VISIBLE, "KUBE-EXTERNAL-SERVICES"),
    ("filter", "FORWARD", _NEW, _VISIBLE, "KUBE-EXTERNAL-SERVICES"),
    ("nat", "PREROUTING", "", _PORTALS, "KUBE-SERVICES"),
    ("nat", "OUTPUT", "", _PORTALS, "KUBE-SERVICES"),
    ("nat", "POSTROUTING", "", "kubernetes postrouting rules", "KUBE-POSTROUTING"),
)
"""What kube-proxy puts first into built-in chains, one after the other: table, chain, match, comment, target."""

_CHAINS = {
    "mangle": ("KUBE-PROXY-CANARY",),
    "filter": (
        "KUBE-NODEPORTS", "KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-FORWARD", "KUBE-PROXY-FIREWALL",
        "KUBE-PROXY-CANARY",
    ),
    "nat": ("KUBE-NODEPORTS", "KUBE-SERVICES", "KUBE-MARK-MASQ", "KUBE-POSTROUTING", "KUBE-PROXY-CANARY"),
}  # fmt: skip


def iptables_text(family: Family) -> str:
    """What `iptables-restore --noflush` makes kube-proxy's state of."""
    rules = {"mangle": [], "filter": [*_filter_rules(family)], "nat": [*_nat_rules(family)]}
    text = ""
    for table, chains in _CHAINS.items():
        own = dict.fromkeys([*chains, *(rule.split()[1] for rule in rules[table])])
        jumps = [
            f'-I {chain} {match}-m comment --comment "{comment}" -j {target}'
            for of, chain, match, comment, target in _JUMPS
            if of == table
        ]
        lines = [f"*{table}", *(f":{chain} - [0:0]" for chain in own), *jumps, *rules[table], "COMMIT"]
        text += "\n".join(lines) + "\n"
    return text


def _filter_rules(family: Family) -> Iterator[str]:
    yield "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP"
    yield '-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT'
    yield (
        '-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule"'
        " -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
    )
    gone = _ports(family)[-1]
    words = f"-m tcp -p tcp -d {gone.gone} --dport 80 -j DROP"
    yield f'-A KUBE-EXTERNAL-SERVICES -m comment --comment "{gone.name} has no local endpoints" {words}'
    comment = f"{gone.name} traffic not accepted by {gone.chain('FW')}"
    yield f'-A KUBE-PROXY-FIREWALL -m comment --comment "{comment}" {words}'
    yield (
        f'-A KUBE-NODEPORTS -m comment --comment "{gone.name} health check node port"'
        " -m tcp -p tcp --dport 30098 -j ACCEPT"
    )


def _nat_rules(family: Family) -> Iterator[str]:
    yield "-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000"
    yield "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN"
    yield "-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000"
    comment = "kubernetes service traffic requiring SNAT"
    yield f'-A KUBE-POSTROUTING -m comment --comment "{comment}" -j MASQUERADE --random-fully'
    for port in _ports(family):
        yield from _port_rules(family, port)
    comment = "kubernetes service nodeports; NOTE: this must be the last rule in this chain"
    last = f"-m addrtype --dst-type LOCAL ! -d {LOOPBACK[family]} -j KUBE-NODEPORTS"
    yield f'-A KUBE-SERVICES -m comment --comment "{comment}" {last}'


def _port_rules(family: Family, port: _Port) -> Iterator[str]:
    match = f"-m {port.protocol} -p {port.protocol} -d {port.address} --dport {port.port}"
    service, external = port.chain("SVC"), port.chain("EXT")
    yield f'-A KUBE-SERVICES -m comment --comment "{port.name} cluster IP" {match} -j {service}'
    node_port = f"-m {port.protocol} -p {port.protocol} --dport {port.node_port}"
    yield f"-A KUBE-NODEPORTS -m comment --comment {port.name} {node_port} -j {external}"
    comment = f"masquerade traffic for {port.name} external destinations"
    yield f'-A {external} -m comment --comment "{comment}" -j KUBE-MARK-MASQ'
    yield f"-A {external} -j {service}"
    outside = f"{match} ! -s {POD_RANGE[family]}"
    yield f'-A {service} -m comment --comment "{port.name} cluster IP" {outside} -j KUBE-MARK-MASQ'
    for number, pod in enumerate(PODS[family]):
        to = _at(pod, port.target)
        chain = port.chain("SEP", to)
        share = "-m statistic --mode random --probability 0.5000000000 " if number == 0 else ""
        recent = f"-m recent --name {chain} --set " if port.gone else ""
        yield f'-A {service} -m comment --comment "{port.name} -> {to}" {share}-j {chain}'
        yield f"-A {chain} -m comment --comment {port.name} -s {pod} -j KUBE-MARK-MASQ"
        dnat = f"{recent}-m {port.protocol} -p {port.protocol} -j DNAT --to-destination {to}"
        yield f"-A {chain} -m comment --comment {port.name} {dnat}"


# --- nftables ---

_NFT_HEAD = """
add table IP kube-proxy { comment "rules for kube-proxy" ; }
add chain IP kube-proxy filter-prerouting-pre-dnat { type filter hook prerouting priority -110 ; }
add chain IP kube-proxy filter-input { type filter hook input priority filter ; }
add chain IP kube-proxy filter-forward { type filter hook forward priority filter ; }
add chain IP kube-proxy filter-output { type filter hook output priority filter ; }
add chain IP kube-proxy nat-prerouting { type nat hook prerouting priority dstnat ; }
add chain IP kube-proxy nat-output { type nat hook output priority -100 ; }
add chain IP kube-proxy nat-postrouting { type nat hook postrouting priority srcnat ; }
add chain IP kube-proxy services
add chain IP kube-proxy masquerading
add chain IP kube-proxy cluster-ips-check
add chain IP kube-proxy service-endpoints-check
add chain IP kube-proxy reject-chain { comment "helper for @no-endpoint-services / @no-endpoint-nodeports" ; }
add set IP kube-proxy cluster-ips { type ADDR ; comment "Active ClusterIPs" ; }
add set IP kube-proxy nodeport-ips { type ADDR ; comment "IPs that accept NodePort traffic" ; }
add set IP kube-proxy hairpin-connections { type ADDR . ADDR . inet_proto . inet_service ; }
add map IP kube-proxy no-endpoint-services { type ADDR . inet_proto . inet_service : verdict ; }
add map IP kube-proxy service-ips { type ADDR . inet_proto . inet_service : verdict ; }
add map IP kube-proxy service-nodeports { type inet_proto . inet_service : verdict ; }
add rule IP kube-proxy filter-forward ct state new jump service-endpoints-check
add rule IP kube-proxy filter-output ct state new jump service-endpoints-check
add rule IP kube-proxy nat-output jump services
add rule IP kube-proxy nat-prerouting jump services
add rule IP kube-proxy nat-postrouting jump masquerading
add rule IP kube-proxy filter-forward ct state new jump cluster-ips-check
add rule IP kube-proxy filter-output ct state new jump cluster-ips-check
add rule IP kube-proxy masquerading mark and 0x4000 != 0 mark set mark xor 0x4000 masquerade fully-random
add rule IP kube-proxy masquerading ct status dnat IP saddr . IP daddr . meta l4proto . th dport @hairpin-connections \
masquerade fully-random
add rule IP kube-proxy cluster-ips-check IP daddr @cluster-ips reject comment "Reject traffic to invalid ports"
add rule IP kube-proxy reject-chain reject
add rule IP kube-proxy service-endpoints-check IP daddr . meta l4proto . th dport vmap @no-endpoint-services
add rule IP kube-proxy services IP daddr @cluster-ips IP saddr != PODS mark set mark or 0x4000
add rule IP kube-proxy services IP daddr . meta l4proto . th dport vmap @service-ips
add rule IP kube-proxy services IP daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
"""


def nft_text(family: Family) -> str:
    """What `nft -f` makes kube-proxy's nftables state of."""
    ip = IP[family]
    words = {"IP ": f"{ip} ", "ADDR": "ipv4_addr" if ip == "ip" else "ipv6_addr", "PODS": POD_RANGE[family]}
    text = _NFT_HEAD
    for word, meaning in words.items():
        text = text.replace(word, meaning)
    node = {"ip": "192.0.2.11", "ip6": "2001:db8:2::11"}[ip]
    gone = GONE[family][0]
    text += f"add element {ip} kube-proxy nodeport-ips {{ {node} }}\n"
    text += f"add element {ip} kube-proxy no-endpoint-services {{ {gone} . tcp . 80 : goto reject-chain }}\n"
    text += f"add element {ip} kube-proxy cluster-ips {{ {gone}, {WEB[family]}, {LONG[family]} }}\n"
    return text + "\n".join(line for port in _ports(family)[:-1] for line in _nft_port(ip, family, port)) + "\n"


def _nft_port(ip: str, family: Family, port: _Port) -> Iterator[str]:
    namespace, _, rest = port.name.partition("/")
    base = f"{port.chain('SVC')[-8:]}-{namespace}/{rest.replace(':', '/' + port.protocol + '/')}"
    pods = PODS[family]
    to = ", ".join(f"{number} : {pod} . {port.target}" for number, pod in enumerate(pods))
    choice = f"dnat {ip} addr . port to numgen random mod {len(pods)} map {{ {to} }}"
    yield f"add chain {ip} kube-proxy service-{base}"
    yield f"add chain {ip} kube-proxy external-{base}"
    yield f"add rule {ip} kube-proxy service-{base} meta l4proto {port.protocol} {choice}"
    yield f"add rule {ip} kube-proxy external-{base} mark set mark or 0x4000"
    yield f"add rule {ip} kube-proxy external-{base} goto service-{base}"
    where = f"{port.address} . {port.protocol} . {port.port}"
    yield f"add element {ip} kube-proxy service-ips {{ {where} : goto service-{base} }}"
    where = f"{port.protocol} . {port.node_port}"
    yield f"add element {ip} kube-proxy service-nodeports {{ {where} : goto external-{base} }}"
    for pod in pods:
        flow = f"{pod} . {pod} . {port.protocol} . {port.target}"
        yield f"add element {ip} kube-proxy hairpin-connections {{ {flow} }}"


# --- neighbours ---


def neighbours_text(family: Family, *, mark: str = "KUBE-MARK-MASQ") -> str:
    """A container engine, flannel, the kubelet, and the portmap plugin, which jumps to kube-proxy's `mark` chain."""
    loopback, local = LOOPBACK[family], "block incoming localnet connections"
    pods, bridge = ALL_PODS[family], {Family.IPV4: "172.17.0.0/16", Family.IPV6: "fd17::/64"}[family]
    to = _at(PODS[family][0], FRESH_PORT)
    return f"""*mangle
:KUBE-IPTABLES-HINT - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
COMMIT
*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-USER - [0:0]
:FLANNEL-FWD - [0:0]
:KUBE-FIREWALL - [0:0]
-A INPUT -j KUBE-FIREWALL
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-A OUTPUT -j KUBE-FIREWALL
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-USER -m comment --comment "what the administrator wants: \\"quoted\\"" -j RETURN
-A FLANNEL-FWD -s {pods} -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d {pods} -m comment --comment "flanneld forward" -j ACCEPT
-A KUBE-FIREWALL -d {loopback} ! -s {loopback} -m comment --comment "{local}" \
-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
COMMIT
*nat
:DOCKER - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
:CNI-DN-2a1c1d6e5c7f5b1d2e3f4 - [0:0]
:{mark} - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A OUTPUT ! -d {loopback} -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A POSTROUTING -s {bridge} ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A CNI-HOSTPORT-DNAT -p tcp -m multiport --dports 18080 -j CNI-DN-2a1c1d6e5c7f5b1d2e3f4
-A CNI-DN-2a1c1d6e5c7f5b1d2e3f4 -s {POD_RANGE[family]} -p tcp -m tcp --dport 18080 -j {mark}
-A CNI-DN-2a1c1d6e5c7f5b1d2e3f4 -p tcp -m tcp --dport 18080 -j DNAT --to-destination {to}
COMMIT
"""


FIREWALLD = """table inet firewalld {
    set trusted { type ifname; elements = { "cni0", "lo" } }
    chain filter_INPUT {
        type filter hook input priority filter + 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
        iifname @trusted accept
        jump filter_INPUT_POLICIES
    }
    chain filter_INPUT_POLICIES { meta l4proto { icmp, ipv6-icmp } accept; }
    chain filter_FORWARD {
        type filter hook forward priority filter + 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
    }
    chain nat_PREROUTING { type nat hook prerouting priority dstnat + 10; policy accept; }
    chain nat_POSTROUTING { type nat hook postrouting priority srcnat + 10; policy accept; }
}
"""


# --- loading and reading ---


def run(node: Namespace, *words: str, stdin: str = "") -> str:
    """What a command says in the node's namespace; fails if it fails."""

    def work() -> str:
        done = subprocess.run(words, input=stdin, capture_output=True, text=True, env=dict(os.environ), check=False)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}\n{stdin}"
        return done.stdout

    return node.run(work)


def restore(node: Namespace, variant: str, family: Family, text: str) -> None:
    """Add rules with iptables; `variant` is `nft` or `legacy`."""
    run(node, f"{TOOL[family]}-{variant}-restore", "--noflush", "-w", "5", stdin=text)


def saved(node: Namespace, variant: str) -> list[str]:
    """All tables of a variant, both families, without comments and counters."""
    lines = [line for family in Family for line in run(node, f"{TOOL[family]}-{variant}-save").splitlines()]
    return [line.rpartition(" [")[0] if line.startswith(":") else line for line in lines if not line.startswith("#")]
