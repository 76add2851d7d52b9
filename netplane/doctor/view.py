"""What the checks look at: the host as the calling thread's namespace shows it, and the plan if there is one."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from netplane.kernel import link_read, routes
from netplane.kernel.link_orders import GET_LINK, LINK
from netplane.kernel.link_read import AddressFacts, LinkFacts
from netplane.kernel.links import Links
from netplane.kernel.netlink import Request
from netplane.kernel.routes import RouteFacts
from netplane.model.address import IPNetwork
from netplane.plan.network_plan import NetworkPlan, Way
from netplane.plan.network_settings import Mode, NetworkSettings

OWN_PREFIX = "np-"
"""Of the names of overlay links that are ours."""


class View:
    """The host, for the checks; each fact is read once. Belongs to the thread that asks first.

    `settings` and `plan` are None where nobody said them: then checks tell what is wrong in any mode. `ways` are the
    links by which the kernel reaches other nodes' addresses.
    """

    def __init__(
        self,
        settings: NetworkSettings | None = None,
        plan: NetworkPlan | None = None,
        ways: frozenset[str] = frozenset(),
    ) -> None:
        self.settings, self.plan, self._ways = settings, plan, ways

    @property
    def mode(self) -> Mode | None:
        """The mode of the network; None where that is not known."""
        return self.settings.mode if self.settings else None

    @cached_property
    def links(self) -> dict[str, LinkFacts]:
        """All links, by name."""
        with Links() as kernel:
            request = Request(GET_LINK, LINK.pack(0, 0, 0, 0, 0, 0) + link_read.WITHOUT_COUNTERS)
            found = map(link_read.decode, kernel.dump(request, "list links"))
            return {link.name: link for link in found}

    @cached_property
    def routes(self) -> list[RouteFacts]:
        """The unicast routes of all tables."""
        with Links() as kernel:
            return routes.read(kernel)

    @cached_property
    def addresses(self) -> list[AddressFacts]:
        """The addresses of all links."""
        with Links() as kernel:
            return link_read.addresses(kernel)

    @cached_property
    def uplinks(self) -> list[LinkFacts]:
        """The links packets to other nodes leave by, else those of default routes; sorted by name, none of ours."""
        by_index = {link.index: link for link in self.links.values()}
        used = {each.index for each in self.routes if each.to.prefixlen == 0 and each.table == routes.MAIN_TABLE}
        named = [self.links[name] for name in self._ways if name in self.links]
        found = {each.name: each for each in (*named, *(by_index[index] for index in used if index in by_index))}
        return [found[name] for name in sorted(found) if not name.startswith(OWN_PREFIX)]

    @cached_property
    def versions(self) -> frozenset[int]:
        """4, 6 or both: which families Pods have addresses of; 4 where nothing says."""
        return frozenset({each.version for each in self.plan.ranges} if self.plan else ()) or frozenset({4})

    @cached_property
    def bridges(self) -> list[LinkFacts]:
        """The bridges that have an address among this node's Pods; none without a plan."""
        own = self.plan.ranges if self.plan else ()
        indices = {each.index for each in self.addresses if _inside(each, own)}
        return [link for link in self.links.values() if link.kind == "bridge" and link.index in indices]

    @property
    def tunnels(self) -> bool:
        """Whether any other node is reached by VXLAN, as far as that is known."""
        if self.plan:
            return any(peer.way is Way.VXLAN for peer in self.plan.peers.values())
        return self.mode in (Mode.VXLAN, Mode.CROSS_SUBNET)


def _inside(fact: AddressFacts, ranges: tuple[IPNetwork, ...]) -> bool:
    return any(fact.address.version == each.version and fact.address.ip in each for each in ranges)


def network_file(name: str) -> list[str]:
    """The lines of a file of /proc/net, as the calling thread's namespace shows it; none if there is none."""
    path = Path("/proc/thread-self/net", name)
    return path.read_text().splitlines() if path.exists() else []
