"""Checks of the kernel's settings, links and tables: what stops or loses Pods' packets."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator, Sequence

from cni.config import Mode
from cni.doctor.finding import Finding, error, ok, warning
from cni.doctor.view import SeenLink, View
from netplane.errors import RequirementError
from netplane.kernel import sysctls

_STRICT, _LOOSE = 1, 2
_LARGEST_LINKS = 5
_FULL = 0.9
_IN_CLOEXEC = os.O_CLOEXEC
_libc = ctypes.CDLL(None, use_errno=True)


def forwarding(view: View) -> Iterator[Finding]:
    """Whether this host forwards at all. The agent lets it when it attaches the first container."""
    why = "packets of Pods to other Pods, Services and the outside are dropped by the kernel"
    for version, name in ((4, "net/ipv4/ip_forward"), (6, "net/ipv6/conf/all/forwarding")):
        if version not in view.versions:
            continue
        try:
            on = sysctls.read(name) != "0"
        except RequirementError:
            mend = "boot without ipv6.disable=1, or take IPv6 ranges out of the network configuration"
            yield error(f"this host has no IPv{version}", "Pods with such an address do not start", mend)
            continue
        if on:
            yield ok(f"IPv{version} packets are forwarded")
        elif view.records:
            yield error(f"IPv{version} packets are not forwarded ({_dotted(name)}=0)", why, _set(name, 1))
        else:
            yield ok(f"IPv{version} packets will be forwarded: the agent sees to it with the first Pod")


def announcements(view: View) -> Iterator[Finding]:
    """Whether the node has its IPv6 default route from a router's announcement: a host that forwards obeys none."""
    ways = [each for each in view.routes if each.to.prefixlen == 0]
    of_ipv6 = [each for each in ways if each.to.version == 6]
    hearing = {each.link for each in of_ipv6 if each.announced} if of_ipv6 else {each.link for each in ways}
    deaf = (
        [each for each in view.paths if each.index in hearing and _obeys_no_router(each)] if 6 in view.versions else []
    )
    for each in deaf:
        lost = (
            "is lost when netplane lets the host forward" if of_ipv6 else "is missing, and none is taken from a router"
        )
        yield warning(
            f"the IPv6 default route over {each.name} {lost} (accept_ra=1)",
            "Pods' and the node's own IPv6 packets find no way out",
            _set(f"net/ipv6/conf/{each.name}/accept_ra", 2),
        )
    if not deaf:
        yield ok("no IPv6 route of the node depends on a router's announcements")


def bridged_packets(view: View) -> Iterator[Finding]:
    """Whether packets between two Pods of one bridge are seen by the rules of Services."""
    if view.mode is not Mode.BRIDGE:
        yield ok("br_netfilter does not matter: Pods are not on a bridge")
        return
    why = (
        "a Pod that reaches a Pod of its own bridge through a Service gets the reply from an address it never asked:"
        " the connection hangs. It does not matter in routed mode"
    )
    for version, name in ((4, "net/bridge/bridge-nf-call-iptables"), (6, "net/bridge/bridge-nf-call-ip6tables")):
        if version not in view.versions:
            continue
        try:
            on = sysctls.read(name) != "0"
        except RequirementError:
            load = "modprobe br_netfilter && echo br_netfilter > /etc/modules-load.d/netplane.conf"
            yield error("br_netfilter is not loaded", why, load)
            return
        if on:
            yield ok(f"IPv{version} packets between ports of a bridge pass the rules of Services")
        else:
            yield error(
                f"IPv{version} packets between ports of a bridge pass no rules ({_dotted(name)}=0)", why, _set(name, 1)
            )


def reverse_path(view: View) -> Iterator[Finding]:
    """Whether the reverse path filter drops replies, or lets Pods lie about their address."""
    all_ = int(sysctls.read("net/ipv4/conf/all/rp_filter"))
    paths = view.paths
    strict = [each for each in paths if max(all_, _filter_of(each)) == _STRICT]
    if len(paths) > 1 and strict:
        names = ", ".join(each.name for each in strict)
        yield warning(
            f"the reverse path filter is strict on {names}, and the node has {len(paths)} ways out",
            "a packet that comes in by one way and whose reply would leave by another is dropped",
            "; ".join(_set(f"net/ipv4/conf/{each.name}/rp_filter", _LOOSE) for each in strict),
        )
    elif view.mode is Mode.ROUTED and all_ == _LOOSE:
        yield warning(
            "the reverse path filter is loose everywhere (net.ipv4.conf.all.rp_filter=2)",
            "the larger of `all` and the link's own counts, so Pods' links are not strict; only the rules of netplane"
            " stop a Pod that lies about its address",
            _set("net/ipv4/conf/all/rp_filter", 0),
        )
    else:
        yield ok("the reverse path filter stops no replies")


def links_to_limit(large: Sequence[tuple[str, int]], mtu: int) -> tuple[str, str]:
    """The first few of these links (name and MTU) in words, and the commands that give those `mtu`."""
    first = large[:_LARGEST_LINKS]
    more = f" and {len(large) - len(first)} more" if len(large) > len(first) else ""
    names = ", ".join(f"{name} ({size})" for name, size in first)
    return names + more, "; ".join(f"ip link set {name} mtu {mtu}" for name, _ in first)


def packet_size(view: View) -> Iterator[Finding]:
    """Whether Pods may send packets that the node's ways out cannot carry."""
    paths = view.paths
    if not paths:
        yield ok("the size of packets does not matter: the node has no way out")
        return
    smallest = min(paths, key=lambda each: each.mtu)
    large = [each for each in view.links.values() if each in view.own_links or each.name == view.bridge]
    large = sorted((each for each in large if each.mtu > smallest.mtu), key=lambda each: each.name)
    wanted = view.config.mtu if view.config else 0
    why = "large packets are lost where the path does not tell the sender: TLS handshakes and downloads hang"
    if wanted > smallest.mtu:
        yield warning(
            f"mtu {wanted} in the network configuration is more than {smallest.mtu} of {smallest.name}",
            why,
            f'set "mtu": {smallest.mtu}, or remove it: then netplane finds it',
        )
    if large:
        names, mend = links_to_limit([(each.name, each.mtu) for each in large], smallest.mtu)
        yield warning(
            f"larger packets than {smallest.name} carries ({smallest.mtu}): {names}",
            why,
            f"make these Pods anew; until then: {mend}",
        )
    if not large and wanted <= smallest.mtu:
        yield ok(f"Pods' packets fit {smallest.name} ({smallest.mtu})")


def bridge(view: View) -> Iterator[Finding]:
    """Whether the bridge is one, and has no addresses of somebody else."""
    link = view.links.get(view.bridge)
    if not view.bridge:
        yield ok("no bridge is configured")
    elif link is None:
        yield ok(f"{view.bridge} will be made for the first Pod")
    elif link.kind != "bridge":
        yield error(
            f"{link.name} is no bridge but {link.kind or 'a network card'}",
            "Pods cannot be attached to it",
            'rename it, or choose another name: "bridge": "…" in the network configuration',
        )
    else:
        yield from _foreign_addresses(view, link)


def address_conflicts(view: View) -> Iterator[Finding]:
    """Whether another link of the host has an address among the Pods'."""
    own = {each.index for each in view.links.values() if each in view.own_links or each.name == view.bridge}
    names = {each.index: each.name for each in view.links.values()}
    clashes = [
        (names.get(index, str(index)), address, network)
        for index, address in view.addresses
        for network in view.pod_networks
        if index not in own and address.version == network.version and address.ip in network
    ]
    for name, address, network in clashes:
        yield error(
            f"{name} has {address}, which is in the Pods' {network}",
            "packets to some Pods, or to that network, go the wrong way",
            f"choose another range, or take the address away: ip addr del {address} dev {name}",
        )
    if not clashes:
        yield ok("no other link has an address of the Pods' networks")


def connections(_view: View) -> Iterator[Finding]:
    """Whether the kernel's table of connections is nearly full."""
    try:
        entries = int(sysctls.read("net/netfilter/nf_conntrack_count"))
        limit = int(sysctls.read("net/netfilter/nf_conntrack_max"))
    except RequirementError:
        yield ok("connections are not tracked yet")
        return
    yield fullness(entries, limit)


def fullness(entries: int, limit: int) -> Finding:
    """What `entries` of at most `limit` tracked connections mean."""
    if limit and entries >= _FULL * limit:
        why = "new connections of everybody on this node are dropped when it is full"
        mend = _set("net/netfilter/nf_conntrack_max", 2 * limit)
        return (error if entries >= limit else warning)(f"{entries} of {limit} connections are tracked", why, mend)
    return ok(f"{entries} of {limit} connections are tracked")


def watches(_view: View) -> Iterator[Finding]:
    """Whether a process of root can still watch files, as the runtime and the agent must."""
    fd = _libc.inotify_init1(_IN_CLOEXEC)
    if fd >= 0:
        os.close(fd)
        yield ok("files can be watched")
        return
    number = ctypes.get_errno()
    yield error(
        f"files cannot be watched: {os.strerror(number)}",
        "containerd does not notice the network configuration and the agent does not notice manifests",
        _set("fs/inotify/max_user_instances", 8192) if number == errno.EMFILE else "read the kernel's log: dmesg",
    )


def _foreign_addresses(view: View, link: SeenLink) -> Iterator[Finding]:
    sets = view.config.ipam.sets if view.config and view.config.ipam else ()
    expected = {each.gateway for ranges in sets for each in ranges}
    expected |= {
        each.gateway
        for record in view.records
        for each in record.attachment.addresses
        if each.gateway is not None and record.attachment.bridge and record.attachment.bridge.name == link.name
    }
    on_it = [each for index, each in view.addresses if index == link.index and not each.ip.is_link_local]
    foreign = [each for each in on_it if each.ip not in expected] if expected else []
    for address in foreign:
        yield warning(
            f"{link.name} has the address {address}, which is no gateway of the Pods",
            "it is left over from another plugin or an earlier range: packets to that network end here",
            f'ip addr del {address} dev {link.name}, or "forceAddress": true in the network configuration',
        )
    if not foreign:
        yield ok(f"{link.name} has no foreign addresses")


def _obeys_no_router(link: SeenLink) -> bool:
    return sysctls.read(f"net/ipv6/conf/{link.name}/accept_ra") == "1"


def _filter_of(link: SeenLink) -> int:
    return int(sysctls.read(f"net/ipv4/conf/{link.name}/rp_filter"))


def _dotted(name: str) -> str:
    return name.replace("/", ".")


def _set(name: str, value: int) -> str:
    # A link's name may hold dots; sysctl takes slashes as well.
    shown = name if "." in name else _dotted(name)
    return f"sysctl -w {shown}={value}"
