"""Which conntrack entries no longer agree with the plan.

UDP has no handshake: a flow keeps its entry, and so its endpoint, for as long as it talks. An entry is stale if it
belongs to a UDP Service port and is answered by an address that no longer serves it: an endpoint that is gone, or
the frontend itself (an entry from the time when the Service had no endpoint). Flows to endpoints that still serve,
terminating ones too, are left alone whatever the policy says. TCP and SCTP flows are never stale.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from netplane.model.address import Family, IPAddress, Protocol
from netplane.plan.plan import Plan, ThisNode


@dataclass(frozen=True, slots=True)
class UdpFlow:
    """A UDP conntrack entry: where the first packet was sent, and who answers."""

    destination: IPAddress
    port: int
    answers: IPAddress


class StaleFlows:
    """Judges entries by one plan. `local` are further addresses of the node, beyond those of its Node object."""

    def __init__(self, plan: Plan, local: Iterable[IPAddress] = ()) -> None:
        self._by_address: dict[tuple[IPAddress, int], set[IPAddress]] = {}
        self._by_node_port: defaultdict[tuple[Family, int], set[IPAddress]] = defaultdict(set)
        self._node = frozenset((*plan.node.addresses, *local))
        for service in plan.services.values():
            for port in service.ports:
                # Without a serving endpoint there is nowhere better to go: kube-proxy leaves such flows alone, too.
                if port.id.protocol is not Protocol.UDP or not port.serving:
                    continue
                serving = {endpoint.address for endpoint in port.serving}
                for row in port.rows:
                    if isinstance(row.frontend.address, ThisNode):
                        self._by_node_port[(port.family, row.frontend.port)] |= serving
                    else:
                        self._by_address[(row.frontend.address, row.frontend.port)] = serving

    def is_stale(self, flow: UdpFlow) -> bool:
        """Whether the entry should be deleted so that the next packet is decided anew."""
        serving = self._by_address.get((flow.destination, flow.port))
        if serving is None and flow.destination in self._node:
            serving = self._by_node_port.get((Family(flow.destination.version), flow.port))
        return serving is not None and flow.answers not in serving

    def among(self, flows: Iterable[UdpFlow]) -> Iterator[UdpFlow]:
        """Those of the flows that are stale."""
        return filter(self.is_stale, flows)
