"""The state of the chains that are ours in the iptables tables.

Text is exactly what `iptables-save` prints, so that comparing with the kernel is comparing strings: nothing is parsed,
and a rule that differs in any detail is seen. Chains carry kube-proxy's names: a chain whose name says so is ours,
whoever wrote it (docs/decisions/0012).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from netplane.model.address import Family
from netplane.model.service import ServiceId
from netplane.programs.iptables_tree import Rules, Tree

TableKey = tuple[Family, str]
"""One table of the kernel: `(Family.IPV4, "nat")`."""

Chains = Mapping[str, Rules]

FILTER, NAT, MANGLE = "filter", "nat", "mangle"
TABLES = (FILTER, NAT, MANGLE)
"""The tables we look into, in the order they are written: what is refused must be known before what is translated."""

MARKER = "NETPLANE"
"""An empty chain in every table we keep. Without it, chains of our names were written by kube-proxy or a stranger."""

SERVICES, EXTERNAL_SERVICES, NODE_PORTS = "KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS"
FIREWALL, FORWARD = "KUBE-PROXY-FIREWALL", "KUBE-FORWARD"
POSTROUTING, MARK_MASQ = "KUBE-POSTROUTING", "KUBE-MARK-MASQ"
_KUBE_PROXY = {SERVICES, EXTERNAL_SERVICES, NODE_PORTS, FIREWALL, FORWARD, POSTROUTING, MARK_MASQ, "KUBE-PROXY-CANARY"}
MASQ_UNLESS_POD, EXTERNAL_NODE_PORTS = "KUBE-MASQ-UNLESS-POD", "KUBE-EXTERNAL-NODEPORTS"
REFUSE, DROP_INVALID = "KUBE-REFUSE", "KUBE-DROP-INVALID"

BRANCHES = {
    SERVICES: "KUBE-IP",
    EXTERNAL_SERVICES: "KUBE-EIP",
    FIREWALL: "KUBE-FIP",
    DROP_INVALID: "KUBE-SIP",
    NODE_PORTS: "KUBE-PORT",
    EXTERNAL_NODE_PORTS: "KUBE-EPORT",
}
"""The chains that are trees, and how the names of their branches begin: no two in one table have the same."""

_FIXED = frozenset({*_KUBE_PROXY, *BRANCHES, MASQ_UNLESS_POD, REFUSE, MARKER})
_HASHED = re.compile(r"KUBE-(?:SVC|SVL|EXT|FW|SEP)-[A-Z2-7]{16}\Z")
_BRANCH = re.compile(
    r"KUBE-[EFS]?IP-(?:[0-9.]{7,15}/[0-9]{1,2}|[A-Z2-7]{16})\Z|KUBE-E?PORT-(?:TCP|UDP|SCTP)(?:-[0-9]{1,5}){0,2}\Z"
)


def is_ours(chain: str) -> bool:
    """Whether a chain of this name belongs to a Service proxy: to netplane, or to kube-proxy before it.

    Chains of the kubelet (KUBE-FIREWALL, KUBE-IPTABLES-HINT, KUBE-KUBELET-CANARY, KUBE-MARK-DROP) are not ours.
    """
    return chain in _FIXED or bool(_HASHED.match(chain) or _BRANCH.match(chain))


Source = tuple[Family, int, str, int]
"""Whose INVALID packets are dropped: family, first address of a network, `tcp`, port."""


def is_of_a_service(chain: str) -> bool:
    """Whether a chain of ours belongs to one Service, and not to the dispatch or the frame."""
    return bool(_HASHED.match(chain))


@dataclass(frozen=True, slots=True)
class Jump:
    """A rule of a built-in chain that leads to one of ours: `PREROUTING`, `-m comment ... -j KUBE-SERVICES`."""

    chain: str
    rule: str


class Part(Protocol):
    """The chains one Service has of its own. Rendered when asked: the text of 100 000 endpoints is not kept."""

    def chains(self) -> Mapping[TableKey, Chains]:
        """The same for the same part, always."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What a table has however many Services there are. `jumps` stand first in their chains, in this order."""

    chains: Chains = field(default_factory=dict)
    jumps: tuple[Jump, ...] = ()


@dataclass(frozen=True, slots=True)
class IptablesProgram:
    """A table that is not in `frames` has nothing of ours. Roots of `trees`, the dispatch, are not in `frames`."""

    frames: Mapping[TableKey, Frame] = field(default_factory=dict)
    trees: Mapping[TableKey, tuple[Tree, ...]] = field(default_factory=dict)
    parts: Mapping[ServiceId, Part] = field(default_factory=dict)
    sources: Mapping[Source, int] = field(default_factory=dict, compare=False)
    """Memory of the backend: how many Services use each entry of KUBE-DROP-INVALID."""
