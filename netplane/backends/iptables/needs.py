"""What the host must have for the iptables backend, and where it cannot keep the plan's promise."""

from __future__ import annotations

from netplane.backends.backend import Deviation, Requirement
from netplane.backends.iptables.words import UNREACHABLE
from netplane.model.address import Family
from netplane.programs.iptables_text import HEADING

_ENDPOINT = {Family.IPV4: "192.0.2.1:80", Family.IPV6: "[2001:db8::1]:80"}

# What is tried, the kernel module that has it, the table and chain, and the rule in it.
_TRIED = (
    ("match comment", "xt_comment", "filter INPUT", "-m comment --comment x"),
    ("match conntrack", "xt_conntrack", "filter INPUT", "-m conntrack --ctstate NEW"),
    ("match addrtype", "xt_addrtype", "nat PREROUTING", "-m addrtype --dst-type LOCAL"),
    ("match mark", "xt_mark", "nat POSTROUTING", "-m mark ! --mark 0x4000/0x4000"),
    ("match statistic", "xt_statistic", "nat PREROUTING", "-m statistic --mode random --probability 0.5"),
    ("match recent", "xt_recent", "nat PREROUTING", "-m recent --rcheck --seconds 60 --reap --name NETPLANE --rsource"),
    ("matches tcp and udp", "xt_tcpudp", "filter INPUT", "-p tcp -m tcp --dport 80:95"),
    ("match sctp", "xt_sctp", "filter INPUT", "-p sctp -m sctp --dport 80:95"),
    ("target MARK", "xt_mark", "nat PREROUTING", "-j MARK --set-xmark 0x4000/0x4000"),
    ("target DNAT", "xt_nat", "nat PREROUTING", "-p tcp -j DNAT --to-destination {endpoint}"),
    ("target MASQUERADE", "xt_MASQUERADE", "nat POSTROUTING", "-j MASQUERADE --random-fully"),
    ("target REJECT", "ipt_REJECT and ip6t_REJECT", "filter INPUT", "-j REJECT --reject-with {unreachable}"),
)


def _tries(chain: str, rule: str) -> str:
    table, _, hook = chain.partition(" ")
    spelled = {each: rule.format(endpoint=_ENDPOINT[each], unreachable=UNREACHABLE[each]) for each in Family}
    return "".join(f"{HEADING[each]}\n*{table}\n-A {hook} {text}\nCOMMIT\n" for each, text in spelled.items())


REQUIREMENTS = (
    *(
        Requirement(f"the program {program}", "iptables 1.8.9", program=program)
        for program in ("iptables-restore", "ip6tables-restore", "iptables-save", "ip6tables-save")
    ),
    *(
        Requirement(f"iptables {what}", f"Linux with {module}", restore=_tries(chain, rule))
        for what, module, chain, rule in _TRIED
    ),
)

DEVIATIONS = (
    Deviation(
        name="affinity-of-100-clients",
        promise="an endpoint with affinity remembers every client for the timeout",
        instead="the 100 latest, unless the module xt_recent was loaded with another ip_list_tot",
    ),
    Deviation(
        name="invalid-by-network",
        promise="INVALID packets are dropped only if address, protocol and port are an endpoint's",
        instead="also those of the endpoint's neighbours (/24 and /64) with its protocol and port",
    ),
    Deviation(
        name="node-by-address",
        promise="a process of the node is the node whatever source address it uses",
        instead="it is the node if the source is an address of the node; with any other it is outside, or a pod",
    ),
    Deviation(
        name="refused-after-routing",
        promise="a refused packet is dropped, or answered with a port unreachable",
        instead="only where the node has a route to the address; otherwise it answers as for any without one",
    ),
    Deviation(
        name="two-tables",
        promise="a change of the plan happens at one stroke",
        instead="filter changes before nat: when the first endpoint comes or the last one goes, a packet to a node "
        "port or external address in between passes untouched",
    ),
)
