"""What one Node says of itself for the Pod network, as far as it can be used whatever other Nodes say."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from netplane.errors import Problem, one_line
from netplane.model.address import IPAddress, IPNetwork
from netplane.model.node import Node
from netplane.plan.network_names import vtep_mac
from netplane.plan.network_plan import PUBLIC_KEY_ANNOTATION
from netplane.plan.network_spans import Span, inside, overlapping, span_of

Thing = IPAddress | IPNetwork
Mark = tuple[int, int, str, bool, Thing]
"""A span, the node that claims it, whether it is a Pod range, and what it is."""

KEY_FIELD = f"metadata.annotations[{PUBLIC_KEY_ANNOTATION}]"

# 32 bytes in base64: the last digit before '=' holds four bits, the lowest two of its six are 0.
_KEY = re.compile(r"[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=\Z")
_NO_KEY = "A" * 43 + "="
_NOBODYS = tuple(
    map(
        ip_network,
        (
            "0.0.0.0/8",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "224.0.0.0/4",
            "255.255.255.255",
            "::/127",
            "fe80::/10",
            "ff00::/8",
        ),
    )
)


@dataclass(frozen=True, slots=True)
class Rules:
    """What a Pod range must keep to, and what else Pods reach under their own address.

    `links`: networks that this host has on links of its own; asked only where `cluster` does not say what is for Pods.
    `macs`, `keys`: whether nodes find each other by these, so that no two may have the same.
    """

    cluster: tuple[IPNetwork, ...] = ()
    services: tuple[IPNetwork, ...] = ()
    keeps_source: tuple[IPNetwork, ...] = ()
    links: tuple[tuple[str, IPNetwork], ...] = ()
    macs: bool = False
    keys: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """What a Node says. `key_fault`: why there is no `key`, "" where there is one or none is asked for."""

    node: Node
    name: str
    addresses: tuple[IPAddress, ...]
    ranges: tuple[IPNetwork, ...]
    line: tuple[Mark, ...]
    mac: bytes = b""
    key: str = ""
    key_fault: str = ""
    problems: tuple[Problem, ...] = ()

    def field_of(self, thing: Thing) -> str:
        """The field of the Node that says it."""
        place = next((place for place, network in enumerate(self.node.pod_ranges) if network == thing), None)
        return "status.addresses" if place is None else f"spec.podCIDRs[{place}]"

    def said(self) -> tuple[object, ...]:
        """All that other Nodes can be at odds with."""
        return self.line, self.mac, self.key, self.node.pod_ranges  # a Problem names the place of a range


def claim_of(name: str, node: Node, rules: Rules, *, own: bool) -> Claim:
    """What the Node says, without what is wrong by itself; each part that is left out has its Problem.

    Of another's addresses the first of each family counts: who may write the status of a Node could have our Pods'
    packets to any address that he adds.
    """
    problems: list[Problem] = []
    addresses = tuple(_usable(name, node, rules, problems))
    if not own:
        first: dict[int, IPAddress] = {}
        for address in addresses:
            first.setdefault(address.version, address)
        addresses = tuple(first.values())
    line: list[Mark] = [(*span_of(address), name, False, address) for address in addresses]
    ranges: list[IPNetwork] = []
    for place, network in enumerate(node.pod_ranges):
        span = span_of(network)
        if why := _fault(network, span, rules) or _own_fault(network, span, line):
            problems.append(Problem("", f"Node {name}: spec.podCIDRs[{place}]", why))
        else:
            ranges.append(network)
            line.append((*span, name, True, network))
    if not node.pod_ranges:
        why = "is missing, so its Pods are not reached; set it, or wait for whoever allocates Pod ranges"
        problems.append(Problem("", f"Node {name}: spec.podCIDRs", why))
    if not node.addresses:
        problems.append(Problem("", f"Node {name}: status.addresses", "has no InternalIP to reach it by; add one"))
    for mark in line:
        if not mark[3] and inside(mark[:2], map(span_of, rules.cluster)):
            why = f"{mark[4]} is inside cluster-ranges, which are for Pods only; make those smaller"
            problems.append(Problem("", f"Node {name}: status.addresses", why))
    mac = vtep_mac(name) if rules.macs else b""
    key, fault = _key(node) if rules.keys else ("", "")
    return Claim(node, name, addresses, tuple(ranges), tuple(line), mac, key, fault, tuple(problems))


def _usable(name: str, node: Node, rules: Rules, problems: list[Problem]) -> Iterator[IPAddress]:
    """The Node's addresses, each once, without those that can be no node's: our Pods' packets to an address go to the
    Node that has it, and 169.254.169.254, say, is not the business of one.
    """
    for address in dict.fromkeys(node.addresses):
        span = span_of(address)
        if (place := overlapping(span, _NOBODY_SPANS)) >= 0:
            why = f"{address} is in {_NOBODYS[place]}, which is nobody's; take it out"
        elif (place := overlapping(span, map(span_of, rules.services))) >= 0:
            why = f"{address} is in the Service range {rules.services[place]}; take it out"
        else:
            yield address
            continue
        problems.append(Problem("", f"Node {name}: status.addresses", why))


def _fault(network: IPNetwork, span: Span, rules: Rules) -> str:
    """Why no Node can have that Pod range, "" if one can."""
    if (place := overlapping(span, _NOBODY_SPANS)) >= 0:
        return f"{network} overlaps {_NOBODYS[place]}, which is nobody's; give the Node another range"
    if rules.cluster and not inside(span, map(span_of, rules.cluster)):
        listed = one_line(", ".join(map(str, rules.cluster)), 80)
        return f"{network} is not inside cluster-ranges ({listed}); give the Node another range or add this one there"
    if (place := overlapping(span, map(span_of, rules.services))) >= 0:
        return f"{network} overlaps the Service range {rules.services[place]}; give the Node another range"
    if not rules.cluster and (place := overlapping(span, [span_of(each) for _, each in rules.links])) >= 0:
        link, taken = rules.links[place]
        return (
            f"{network} overlaps {taken} on link {link} of this host; give the Node another range,"
            " or say in cluster-ranges that it is for Pods"
        )
    return ""


def _own_fault(network: IPNetwork, span: Span, line: Sequence[Mark]) -> str:
    """Why the Node cannot have that Pod range beside what it has already, "" if it can."""
    place = overlapping(span, (mark[:2] for mark in line))
    if place < 0:
        return ""
    kind = "Pod range" if line[place][3] else "address"
    return f"{network} overlaps the Node's own {kind} {line[place][4]}; give it another range"


def _key(node: Node) -> tuple[str, str]:
    """The Node's public key, or why it has none."""
    text = next((value for name, value in node.annotations if name == PUBLIC_KEY_ANNOTATION), "")
    if not text:
        return "", "is missing; the agent on that node says which key to write there"
    if not _KEY.match(text) or text == _NO_KEY:
        return "", f"'{one_line(text, 48)}' is not the base64 of a key of 32 bytes; write what the agent there says"
    return text, ""


_NOBODY_SPANS = tuple(map(span_of, _NOBODYS))
