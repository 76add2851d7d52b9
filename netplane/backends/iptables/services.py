"""One Service: its entries in the trees, and its chains.

    KUBE-SVC-X (endpoints for everybody), KUBE-SVL-X (those of this node)
        masquerade, if the cluster IP was asked by something other than a pod
        the endpoint that knows the sender (affinity)
        1/n -> KUBE-SEP-A, 1/(n-1) -> KUBE-SEP-B, ..., the last
    KUBE-EXT-X    by origin: masquerade or not, KUBE-SVC-X, KUBE-SVL-X, or left to filter
    KUBE-FW-X     the source ranges: to KUBE-EXT-X in nat; back, or DROP, in filter
    KUBE-SEP-A    hairpin, remember the sender, DNAT

A verdict that does not forward is a DROP or REJECT in filter. nat must then not send the packet to a node port of the
same number: where that could be, an ACCEPT ends its way through nat.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from netplane.backends.iptables.layout import Here, port_number, prefix_text
from netplane.backends.iptables.words import (
    addressed,
    comment,
    endpoint_chain,
    host,
    network,
    port_chain,
    probability,
    remember,
    rule,
    seen_within,
    to_endpoint,
)
from netplane.errors import UnsupportedError
from netplane.model.address import Family, Protocol, family_of
from netplane.plan.plan import (
    Drop,
    Endpoint,
    Forward,
    FrontendKind,
    FrontendRow,
    HealthCheck,
    Origin,
    Pool,
    PortPlan,
    Reject,
    ServicePlan,
    ThisNode,
    Verdict,
    Verdicts,
)
from netplane.programs.iptables import (
    DROP_INVALID,
    EXTERNAL_NODE_PORTS,
    EXTERNAL_SERVICES,
    FILTER,
    FIREWALL,
    MARK_MASQ,
    MASQ_UNLESS_POD,
    NAT,
    NODE_PORTS,
    REFUSE,
    SERVICES,
    Chains,
    Source,
    TableKey,
)
from netplane.programs.iptables_tree import Key, Rules

Root = tuple[TableKey, str]
"""A tree: its table and the name of its first chain."""

Entries = dict[Root, dict[Key, Rules]]

_KINDS = {
    FrontendKind.CLUSTER_IP: " cluster IP",
    FrontendKind.EXTERNAL_IP: " external IP",
    FrontendKind.LOAD_BALANCER: " loadbalancer IP",
    FrontendKind.NODE_PORT: "",
}
_ORIGINS = (Origin.NODE, Origin.POD, Origin.OUTSIDE)
_WORDS = {Origin.NODE: "LOCAL", Origin.POD: "pod", Origin.OUTSIDE: "outside"}


@dataclass(frozen=True, slots=True)
class ServiceChains:
    """The chains of one Service, rendered when asked."""

    service: ServicePlan
    here: Here

    def chains(self) -> Mapping[TableKey, Chains]:
        """By table; a table in which there are none is left out."""
        found: dict[TableKey, dict[str, Rules]] = {}
        for port in self.service.ports:
            words = _Port(port, self.here)
            for table, chains in ((NAT, words.nat_chains()), (FILTER, words.filter_chains())):
                if chains:
                    found.setdefault((port.family, table), {}).update(chains)
        return found


def entries(service: ServicePlan, here: Here) -> Entries:
    """What the Service adds to the trees."""
    found: Entries = {}

    def put(family: Family, table: str, root: str, key: Key, text: str) -> None:
        found.setdefault(((family, table), root), {})[key] = (text,)

    for port in service.ports:
        words = _Port(port, here)
        for row in port.rows:
            for table, root, text in words.entries(row):
                put(port.family, table, root, _key(row), text)
    for address in service.cluster_ips:
        family = family_of(address)
        key = Key(int(address), ("rest",))  # after the ports
        said = f"{service.service} cluster IP: no such port"
        put(family, FILTER, SERVICES, key, rule(host("-d", address), comment(said), f"-j {REFUSE}"))
        if here.may_answer_node_ports(address):
            put(family, NAT, SERVICES, key, rule(host("-d", address), comment(said), "-j ACCEPT"))
    for check in service.health:
        put(check.family, FILTER, NODE_PORTS, *_health_entry(check))
    return found


def _key(row: FrontendRow) -> Key:
    to = row.frontend
    if isinstance(to.address, ThisNode):
        return Key(port_number(to.protocol, to.port))
    return Key(int(to.address), ("port", str(to.protocol), f"{to.port:05}"))


def _health_entry(check: HealthCheck) -> tuple[Key, str]:
    # Nothing keeps two Services from naming one port.
    key = Key(port_number(Protocol.TCP, check.port), (str(check.service),))
    said = comment(f"{check.service} health check node port")
    return key, f"-p tcp {said} -m tcp --dport {check.port} -j ACCEPT"


# --- one port of a Service --------------------------------------------------------------------------------------------


class _Port:
    """How one port of a Service is spelled in one family."""

    def __init__(self, port: PortPlan, here: Here) -> None:
        self._port, self._here, self._family = port, here, port.family
        self._external = _external_verdicts(port)
        self._pools = _named_pools(port, here.facts.name)

    def _chain(self, kind: str) -> str:
        return port_chain(kind, self._port.id)

    def _of(self, pool: Pool) -> str:
        return next(name for name, each in self._pools if each is pool or each == pool)

    # --- entries of the trees

    def entries(self, row: FrontendRow) -> Iterator[tuple[str, str, str]]:
        """The table, the tree and the rule of each entry of a row."""
        name, node_port = self._port.id, isinstance(row.frontend.address, ThisNode)
        if row.allowed:
            yield FILTER, FIREWALL, addressed(row.frontend, f"{name} loadbalancer IP", self._chain("FW"))
        if target := self._target(row):
            yield NAT, NODE_PORTS if node_port else SERVICES, addressed(row.frontend, _said(row), target)
        if verdict := _refusal(row):
            if node_port:
                root = EXTERNAL_NODE_PORTS
            else:
                root = SERVICES if row.kind is FrontendKind.CLUSTER_IP else EXTERNAL_SERVICES
            yield (
                FILTER,
                root,
                addressed(
                    row.frontend, f"{name} {_why(row, verdict)}", "DROP" if isinstance(verdict, Drop) else REFUSE
                ),
            )

    def _target(self, row: FrontendRow) -> str:
        """Where nat sends the packets of a row, "" if it leaves them alone."""
        verdict = row.verdicts.node
        if row.kind is FrontendKind.CLUSTER_IP and isinstance(verdict, Forward):
            return self._of(verdict.pool)
        if _forwards(row.verdicts):
            return self._chain("FW" if row.allowed else "EXT")
        address = row.frontend.address
        shadows = not isinstance(address, ThisNode) and self._here.may_answer_node_ports(address)
        return "ACCEPT" if shadows else ""

    # --- chains

    def nat_chains(self) -> dict[str, Rules]:
        """Those that lead to the endpoints."""
        chains: dict[str, Rules] = {}
        for name, pool in self._pools:
            chains[name] = tuple(self._choice(pool))
            for endpoint in pool.endpoints:
                chains[endpoint_chain(self._port.id, endpoint)] = tuple(self._to(endpoint, pool))
        if self._external:
            chains[self._chain("EXT")] = tuple(self._by_origin(self._external))
            if allowed := self._allowed(self._chain("EXT")):
                said = comment(f"other traffic to {self._port.id} will be dropped by {FIREWALL}")
                chains[self._chain("FW")] = (*allowed, rule(said, "-j ACCEPT"))
        return chains

    def filter_chains(self) -> dict[str, Rules]:
        """The source ranges."""
        if not (allowed := self._allowed("RETURN")):
            return {}
        said = comment(f"{self._port.id} traffic not accepted by {self._chain('FW')}")
        return {self._chain("FW"): (*allowed, rule(said, "-j DROP"))}

    def _allowed(self, target: str) -> Rules:
        """The source ranges, each sent to `target`. They are the same for all load-balancer addresses of a Service."""
        ranges = next((row.allowed for row in self._port.rows if row.allowed), ())
        said = comment(f"{self._port.id} loadbalancer IP")
        return tuple(rule(network("-s", each), said, f"-j {target}") for each in ranges)

    def _by_origin(self, verdicts: Verdicts) -> Iterator[str]:
        """KUBE-EXT: by where the packet comes from."""
        name = self._port.id
        if pool := _masqueraded(verdicts):
            yield rule(comment(f"masquerade traffic for {name} external destinations"), f"-j {MARK_MASQ}")
            yield f"-j {self._of(pool)}"
            return
        for origin in _ORIGINS:
            for head, test in self._here.guards(origin, self._family):
                said = f"{_WORDS[origin]} traffic for {name} external destinations"
                match verdicts[origin]:
                    case Forward(pool, masquerade):
                        if masquerade:
                            yield rule(head, comment(f"masquerade {said}"), test, f"-j {MARK_MASQ}")
                        yield rule(head, comment(f"route {said}" if test else said), test, f"-j {self._of(pool)}")
                    case Drop() | Reject():
                        yield rule(head, comment(f"{said} is refused in filter"), test, "-j ACCEPT")

    def _choice(self, pool: Pool) -> Iterator[str]:
        """KUBE-SVC and KUBE-SVL: one of the endpoints."""
        name = self._port.id
        for row in self._port.rows:
            if row.kind is FrontendKind.CLUSTER_IP and (marking := _marking(row, pool)):
                yield addressed(row.frontend, f"{name} cluster IP", marking)
        to = [endpoint_chain(name, endpoint) for endpoint in pool.endpoints]
        said = [comment(f"{name} -> {endpoint}") for endpoint in pool.endpoints]
        if pool.affinity:
            seconds = int(pool.affinity.timeout.total_seconds())
            for chain, words in zip(to, said, strict=True):
                yield rule(words, seen_within(chain, self._family, seconds), f"-j {chain}")
        for index, (chain, words) in enumerate(zip(to, said, strict=True)):
            left = len(to) - index
            yield rule(words, probability(left) if left > 1 else "", f"-j {chain}")

    def _to(self, endpoint: Endpoint, pool: Pool) -> Iterator[str]:
        """KUBE-SEP: translate."""
        if endpoint.may_be_on(self._here.facts.name):  # only a pod of this node can send to itself through this node
            yield rule(host("-s", endpoint.address), comment(str(self._port.id)), f"-j {MARK_MASQ}")
        seen = remember(endpoint_chain(self._port.id, endpoint), self._family) if pool.affinity else ""
        said, protocol = comment(str(self._port.id)), self._port.id.protocol
        yield rule(f"-p {protocol}", said, seen, f"-m {protocol} -j DNAT --to-destination {to_endpoint(endpoint)}")


def _named_pools(port: PortPlan, node: str) -> list[tuple[str, Pool]]:
    """The pools somebody is sent to, by the name of their chain.

    SVL is kube-proxy's name for the endpoints of this node, and SVC for all; where only one of them is used, it is
    SVL if others serve elsewhere.
    """
    pools: list[Pool] = []
    for row in port.rows:
        for verdict in (row.verdicts.pod, row.verdicts.node, row.verdicts.outside):
            if isinstance(verdict, Forward) and not any(each is verdict.pool or each == verdict.pool for each in pools):
                pools.append(verdict.pool)
    if len(pools) > 2:
        raise UnsupportedError(f"iptables: {port.id}: more than two sets of endpoints for one port")
    elsewhere = any(endpoint.node != node for endpoint in port.serving)
    pools.sort(key=lambda pool: all(endpoint.node == node for endpoint in pool.endpoints))  # this node's come last
    kinds = ("SVC", "SVL")
    if len(pools) == 1 and elsewhere and all(endpoint.node == node for endpoint in pools[0].endpoints):
        kinds = ("SVL", "SVC")
    return [(port_chain(kind, port.id), pool) for kind, pool in zip(kinds, pools, strict=False)]


def _external_verdicts(port: PortPlan) -> Verdicts | None:
    """What KUBE-EXT does: the verdicts of every address but cluster IPs. None if all of them refuse."""
    found: Verdicts | None = None
    for row in port.rows:
        if row.kind is not FrontendKind.CLUSTER_IP and _forwards(row.verdicts):
            if found is not None and found != row.verdicts:
                raise UnsupportedError(f"iptables: {port.id}: two external addresses with different verdicts")
            found = row.verdicts
    return found


def _forwards(verdicts: Verdicts) -> bool:
    return any(isinstance(each, Forward) for each in (verdicts.pod, verdicts.node, verdicts.outside))


def _masqueraded(verdicts: Verdicts) -> Pool | None:
    """The pool to which everybody is sent, and masqueraded."""
    first = verdicts.pod
    same = first == verdicts.node == verdicts.outside
    return first.pool if isinstance(first, Forward) and first.masquerade and same else None


def _marking(row: FrontendRow, pool: Pool) -> str:
    """The chain that marks those of a cluster IP's packets that are masqueraded, "" if none are."""
    forwards = [
        each for each in (row.verdicts.pod, row.verdicts.node, row.verdicts.outside) if isinstance(each, Forward)
    ]
    if not forwards:
        return ""
    if len(forwards) < 3 or any(each.pool != forwards[0].pool for each in forwards):
        raise UnsupportedError(f"iptables: {row.frontend}: a cluster IP must have the same endpoints for everybody")
    if forwards[0].pool != pool:
        return ""
    match [each.masquerade for each in forwards]:
        case [False, False, False]:
            return ""
        case [False, True, True]:
            return MASQ_UNLESS_POD
        case [True, True, True]:
            return MARK_MASQ
    raise UnsupportedError(f"iptables: {row.frontend}: cannot masquerade some origins and not others")


def _said(row: FrontendRow) -> str:
    return f"{row.service_port}{_KINDS[row.kind]}"


def _refusal(row: FrontendRow) -> Verdict | None:
    """What becomes of the packets of a row that are not forwarded."""
    verdicts = (row.verdicts.pod, row.verdicts.node, row.verdicts.outside)
    refused = {each for each in verdicts if not isinstance(each, Forward)}
    if len(refused) > 1:
        raise UnsupportedError(f"iptables: {row.frontend}: cannot drop some origins and reject others")
    return next(iter(refused), None)


def _why(row: FrontendRow, verdict: Verdict) -> str:
    """kube-proxy's words for it."""
    if isinstance(verdict, Reject):
        return "has no endpoints"
    closed = row.kind is FrontendKind.LOAD_BALANCER and not _forwards(row.verdicts)
    return "is open to no source address of this family" if closed else "has no local endpoints"


# --- whose INVALID packets are dropped --------------------------------------------------------------------------------

_KEPT = {Family.IPV4: 24, Family.IPV6: 64}
"""How much of an endpoint's address is looked at: the usual share of one node. With all of it there would be as many
rules as endpoints, in a table that established traffic passes."""


def sources(service: ServicePlan) -> frozenset[Source]:
    """What packets of the Service's endpoints look like."""
    found = set()
    for port in service.ports:
        dropped = (32 if port.family is Family.IPV4 else 128) - _KEPT[port.family]
        for verdict in {each for row in port.rows for each in (row.verdicts.pod, row.verdicts.outside)}:
            if isinstance(verdict, Forward):
                for endpoint in verdict.pool.endpoints:
                    first = int(endpoint.address) >> dropped << dropped
                    found.add((port.family, first, str(port.id.protocol), endpoint.port))
    return frozenset(found)


def source_entry(source: Source) -> tuple[Root, Key, Rules]:
    """The rule that drops such packets."""
    family, first, protocol, port = source
    text = f"-s {prefix_text(family, first, _KEPT[family])} -p {protocol} -m {protocol} --sport {port} -j DROP"
    return ((family, FILTER), DROP_INVALID), Key(first, (protocol, f"{port:05}")), (text,)
