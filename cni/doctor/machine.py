"""Checks of what the kernel must be able to do. Tried, in a new namespace that is thrown away: versions say nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path

from cni import rule_program
from cni.attachment import Attachment, AttachmentId, NetnsId, PodAddress
from cni.config import Mode, NetworkConfig, PortMapping
from cni.doctor.finding import Finding, error, ok, warning
from cni.doctor.view import View
from netplane.kernel import link_orders, link_read, links, tc
from netplane.kernel.link_orders import Conf, End
from netplane.kernel.links import Links, Order
from netplane.kernel.netns import Namespace
from netplane.kernel.tc import Bucket
from netplane.model.address import Family, Protocol
from netplane.programs.nftables_text import program_script

_NEAR, _FAR, _BRIDGE, _QUEUE = 10, 11, 12, 13
_IPV6 = Path("/proc/sys/net/ipv6")
_NO_POD = "no Pod can be attached"
_VLAN = "a kernel with CONFIG_BRIDGE_VLAN_FILTERING, or leave vlan out of the network configuration"


@dataclass(frozen=True, slots=True)
class Part:
    """Something a kernel may lack: what is tried for it, and what it means if that is refused."""

    name: str
    orders: tuple[Order, ...]
    why: str
    mend: str

    def tried(self, kernel: Links) -> Finding:
        """Do it, with the links that were made before."""
        refused = kernel.attempt(self.orders)
        if not refused:
            return ok(f"the kernel has {self.name}")
        said = f"{refused[0].order.doing}: {refused[0].said}"
        return error(f"the kernel has no {self.name} ({said})", self.why, self.mend)


def kernel(view: View) -> Iterator[Finding]:
    """Whether it can make what Pods need: cables, the bridge, queues where bandwidth is limited."""
    with Namespace() as scratch, scratch.run(Links) as tried:
        for part in parts(view.config, scratch.fd):
            yield part.tried(tried)
        if view.config and view.config.bridge.vlan and view.mode is Mode.BRIDGE:
            yield vlans(link_read.link(tried, "npp2"))
        yield cookies(tried.namespace_cookie())


def parts(config: NetworkConfig | None, netns_fd: int) -> Iterator[Part]:
    """What is needed for a configuration; for both modes if there is none. The last two are made of the first one."""
    cable = link_orders.cable(End("npp0", _NEAR, b""), End("npp1", _FAR, b""), netns_fd, 1500)
    settings = link_orders.settings((Conf.RP_FILTER, 1), link_local=not _IPV6.exists())
    orders = (cable, link_orders.change("npp0", settings, up=True))
    yield Part("pairs of links (veth)", orders, _NO_POD, "modprobe veth, or a kernel with CONFIG_VETH")
    if config is None or config.mode is Mode.BRIDGE:
        yield Part("bridges", _bridged(config), _NO_POD, 'modprobe bridge, or "mode": "routed"')
    if config is not None and (config.bandwidth or (config.raw.get("capabilities") or {}).get("bandwidth")):
        queue = (link_orders.new_queue("npp3", _QUEUE, 1500), link_orders.change(_QUEUE, up=True))
        limits = (tc.limit(_QUEUE, Bucket(10**6, 1 << 17, 1 << 18)), *tc.redirect(_NEAR, _QUEUE))
        mend = "modprobe -a ifb sch_tbf sch_ingress cls_u32 act_mirred; in clouds they are in linux-modules-extra"
        yield Part("queues of limited bandwidth", (*queue, *limits), "Pods with limits do not start", mend)


def vlans(bridge: link_read.LinkFacts | None) -> Finding:
    """Whether a bridge that was told to tell VLANs apart does: a kernel that cannot says nothing."""
    if bridge is not None and bridge.vlan_filtering:
        return ok("bridges tell VLANs apart")
    return error("bridges of this kernel do not tell VLANs apart", _NO_POD, _VLAN)


def cookies(found: int) -> Finding:
    """What a namespace's cookie, or 0, means."""
    if found:
        return ok("the kernel tells namespaces apart")
    why = "a Pod whose link somebody deleted is not mended: its namespace could be another's by now"
    return warning("the kernel has no SO_NETNS_COOKIE", why, "Linux 5.14 or later; all else works without")


def ruleset() -> str:
    """All there can be in our tables, for `probe.try_ruleset`."""
    ports = tuple(PortMapping(protocol, 80, 80) for protocol in Protocol)
    addresses = tuple(PodAddress(ip_interface(each)) for each in ("10.88.0.5/24", "fd00:88::5/64"))
    id_, netns = AttachmentId("doctor", "c", "eth0"), NetnsId(0, 0)
    sample = Attachment(id_, Mode.ROUTED, "", netns, addresses=addresses, masquerade=True, ports=ports)
    families = (Family.IPV4, Family.IPV6) if _IPV6.exists() else (Family.IPV4,)
    return program_script(rule_program.program([sample], families))


def _bridged(config: NetworkConfig | None) -> tuple[Order, ...]:
    made = [links.bridge("npp2", _BRIDGE, bytes.fromhex("026e70000001"))]
    if config is not None and config.bridge.vlan:
        made.append(link_orders.change("npp2", link_orders.vlan_filtering()))
    plugged = link_orders.change("npp0", link_orders.master(_BRIDGE))
    return (*made, plugged, link_orders.change("npp0", link_orders.port(True, False)))
