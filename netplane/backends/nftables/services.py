"""One Service as elements, and as chains of its own only where clients must be remembered."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
from functools import lru_cache
from struct import Struct

from netplane.backends.nftables.layout import WORDS, masquerading, pick
from netplane.errors import UnsupportedError
from netplane.model.address import Family, IPNetwork, Protocol, family_of
from netplane.model.service import ServicePortId
from netplane.plan.plan import (
    Affinity,
    Drop,
    Endpoint,
    Forward,
    Frontend,
    FrontendRow,
    Origin,
    Pool,
    Reject,
    ServicePlan,
    ThisNode,
    Verdict,
)
from netplane.programs.nftables import Chain, Data, Part, SetSpec, Structure

_PROTOCOL = {protocol: bytes((protocol.number, 0, 0, 0)) for protocol in Protocol}
_PORT = Struct(">H2x")
# numgen leaves its choice in the byte order of the host.
_SLOT = Struct("=I")
_slots = [_SLOT.pack(index) for index in range(256)]

REMEMBERED_CLIENTS = 65536
"""Clients one endpoint of a Service with affinity can remember. Later ones are served but not remembered."""

Slots = list[tuple[str, Pool]]
"""Which map each pool of a row is kept in."""

_TABLES = tuple(
    tuple(f"{prefix}{origin.value}" for origin in (Origin.POD, Origin.NODE, Origin.OUTSIDE))
    for prefix in ("from-", "node-ports-from-")
)

Sets = dict[tuple[Family, str], dict[bytes, Data]]


@dataclass(slots=True)
class _Draft:
    """A part being written."""

    node: str
    elements: Sets = field(default_factory=dict)
    chains: dict[Family, dict[str, Chain]] = field(default_factory=dict)
    sets: dict[Family, dict[str, SetSpec]] = field(default_factory=dict)
    uses: set[tuple[Family, Chain]] = field(default_factory=set)
    sticky: dict[Pool, str] = field(default_factory=dict)

    def put(self, family: Family, name: str) -> dict[bytes, Data]:
        """The elements of one set, to be added to."""
        return self.elements.setdefault((family, name), {})


_interned: dict[frozenset[tuple[Family, Chain]], frozenset[tuple[Family, Chain]]] = {}


def spell(service: ServicePlan, node: str) -> Part:
    """What the Service contributes to the tables of `node`."""
    draft = _Draft(node)
    for address in service.cluster_ips:
        draft.put(family_of(address), "cluster-ips")[address.packed] = None
    for row in service.rows():
        _spell_row(draft, row)
    uses = frozenset(draft.uses)
    return Part(
        elements=draft.elements,
        structure={
            family: Structure(chains, draft.sets.get(family, {})) for family, chains in sorted(draft.chains.items())
        },
        uses=_interned.setdefault(uses, uses),
    )


def frontend_key(frontend: Frontend) -> bytes:
    """The frontend as it stands in the maps: address (none for a node port), protocol, port."""
    address = b"" if isinstance(frontend.address, ThisNode) else frontend.address.packed
    return address + _PROTOCOL[frontend.protocol] + _PORT.pack(frontend.port)


def _spell_row(draft: _Draft, row: FrontendRow) -> None:
    family = row.frontend.family
    key = frontend_key(row.frontend)
    node_port = isinstance(row.frontend.address, ThisNode)
    if row.allowed:
        _guard(draft, family, key, row.allowed)
    slots = _pools(row, node_port)
    for name, pool in slots:
        _fill(draft, family, key, row, pool, name)
    verdicts = row.verdicts
    for table, verdict in zip(_TABLES[node_port], (verdicts.pod, verdicts.node, verdicts.outside), strict=True):
        draft.put(family, table)[key] = _verdict(draft, family, row, verdict, slots)


def _pools(row: FrontendRow, node_port: bool) -> Slots:
    """The map each pool of the row is kept in: one for everybody, and one more if outsiders have another."""
    base = "node-port-slots" if node_port else "slots"
    pod, node, outside = row.verdicts.pod, row.verdicts.node, row.verdicts.outside
    ours = [verdict.pool for verdict in (pod, node) if isinstance(verdict, Forward)]
    if len(ours) == 2 and not _same(*ours):
        raise UnsupportedError(f"nftables: {row.frontend}: pods and the node itself cannot have different endpoints")
    slots = [(base, ours[0])] if ours else []
    if isinstance(outside, Forward) and not (ours and _same(ours[0], outside.pool)):
        slots.append((base + "-outside", outside.pool))
    return slots


def _same(one: Pool, other: Pool) -> bool:
    return one is other or one == other


def _verdict(draft: _Draft, family: Family, row: FrontendRow, verdict: Verdict, slots: Slots) -> str:
    match verdict:
        case Drop():
            return "drop"
        case Reject():
            return "goto refuse"
        case Forward(pool, masquerade):
            if pool.affinity:
                chain = Chain(_sticky_chain(draft, family, row.service_port, pool, pool.affinity))
            else:
                name = next(name for name, kept in slots if _same(kept, pool))
                chain = pick(family, name, len(pool.endpoints))
                draft.uses.add((family, chain))
            if not masquerade:
                return _goto(chain.name)
            marking = masquerading(chain.name)
            if pool.affinity:
                draft.chains[family][marking.name] = marking
            else:
                draft.uses.add((family, marking))
            return _goto(marking.name)


@lru_cache(maxsize=4096)
def _goto(chain: str) -> str:
    return f"goto {chain}"


def _fill(draft: _Draft, family: Family, key: bytes, row: FrontendRow, pool: Pool, name: str) -> None:
    """The slots of a pool, and its endpoints among those whose packets are watched."""
    endpoints, hairpins = draft.put(family, "endpoints"), draft.put(family, "hairpins")
    slots = None if pool.affinity else draft.put(family, name)
    protocol = _PROTOCOL[row.frontend.protocol]
    for index, endpoint in enumerate(pool.endpoints):
        address, port = endpoint.address.packed, _PORT.pack(endpoint.port)
        if slots is not None:
            slots[key + (_slots[index] if index < 256 else _SLOT.pack(index))] = address + port
        endpoints[address + protocol + port] = None
        if endpoint.may_be_on(draft.node):  # only a pod of this node can send to itself through this node
            hairpins[address + address + protocol + port] = None
    if not hairpins:
        del draft.elements[family, "hairpins"]


def _guard(draft: _Draft, family: Family, key: bytes, allowed: tuple[IPNetwork, ...]) -> None:
    draft.put(family, "guarded")[key] = None
    ranges = draft.put(family, "allowed")
    for network in allowed:
        first, last = network.network_address, network.broadcast_address
        ranges[key + first.packed + key + last.packed] = None


# --- client IP affinity -------------------------------------------------------------------------------------------
#
# Memory is per endpoint of a Service port, shared by all addresses of the Service, and ends with the endpoint: the
# set of its clients goes when it goes (docs/decisions/0003).
#
#   sticky-NAME-POOL:  ip saddr @clients-NAME__10.0.1.5/80 goto endpoint-NAME__10.0.1.5/80      for each endpoint
#                      numgen random mod 2 0 goto endpoint-NAME__10.0.1.5/80                 1/n, 1/(n-1), ...
#                      goto endpoint-NAME__10.0.2.6/80
#   endpoint-NAME:     update @clients-NAME { ip saddr }
#                      meta l4proto tcp dnat to 10.0.1.5:80


def _sticky_chain(draft: _Draft, family: Family, owner: ServicePortId, pool: Pool, affinity: Affinity) -> str:
    """The name of the chain that remembers clients of the pool, written if it was not yet."""
    if pool in draft.sticky:
        return draft.sticky[pool]
    chains, sets = draft.chains.setdefault(family, {}), draft.sets.setdefault(family, {})
    base = f"{owner.namespace}/{owner.name}/{owner.protocol}/{owner.port}"
    name = f"sticky-{kernel_name(base)}-{_digest(pool)}"
    draft.sticky[pool] = name
    to = [f"goto endpoint-{kernel_name(_of_endpoint(base, endpoint))}" for endpoint in pool.endpoints]
    seen: list[str] = []
    for endpoint, goto in zip(pool.endpoints, to, strict=True):
        clients = _clients_set(family, _of_endpoint(base, endpoint), affinity)
        sets[clients.name] = clients
        chain = _endpoint_chain(family, endpoint, owner.protocol, goto.removeprefix("goto "), clients)
        chains[chain.name] = chain
        seen.append(f"{WORDS[family].ip} saddr @{clients.name} {goto}")
    fair = [f"numgen random mod {len(to) - index} 0 {goto}" for index, goto in enumerate(to[:-1])]
    chains[name] = Chain(name, (*seen, *fair, to[-1]))
    return name


def _digest(pool: Pool) -> str:
    """Eight characters that stand for the endpoints.

    Structure and elements are two transactions: a chain that leads elsewhere under its old name would, between them,
    be followed by elements that mean what it was.
    """
    return hashlib.sha256(" ".join(map(str, pool.endpoints)).encode()).hexdigest()[:8]


def _of_endpoint(base: str, endpoint: Endpoint) -> str:
    return f"{base}__{str(endpoint.address).replace(':', '.')}/{endpoint.port}"


def _clients_set(family: Family, base: str, affinity: Affinity) -> SetSpec:
    """The clients an endpoint has seen. The timeout is in the name: a set cannot change its own."""
    seconds = int(affinity.timeout.total_seconds())
    address = WORDS[family].address
    declaration = f"{{ type {address.value}; flags dynamic,timeout; timeout {seconds}s; size {REMEMBERED_CLIENTS}; }}"
    return SetSpec(f"clients-{seconds}s-{kernel_name(base)}", declaration, (address,), dynamic=True)


def _endpoint_chain(family: Family, endpoint: Endpoint, protocol: Protocol, name: str, clients: SetSpec) -> Chain:
    remember = f"update @{clients.name} {{ {WORDS[family].ip} saddr }}"
    return Chain(name, (remember, f"meta l4proto {protocol} dnat to {endpoint}"))


_UNSAFE = re.compile(r"[^A-Za-z0-9/_.-]")


@lru_cache(maxsize=4096)
def kernel_name(base: str) -> str:
    """`base` for people after eight characters of hash, safe in nft text, at most 200 characters.

    The shape is kube-proxy's: base32(sha256(base))[:8] and the readable name.
    """
    short = base64.b32encode(hashlib.sha256(base.encode()).digest())[:8].decode()
    return f"{short}-{_UNSAFE.sub('_', base)}"[:200]
