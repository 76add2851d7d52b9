"""Checks of sysctls and sizes: what stops or loses packets between nodes."""

from __future__ import annotations

from collections.abc import Iterator

from cni.doctor.finding import Finding, error, ok, warning
from cni.doctor.kernel import links_to_limit
from netplane.doctor.view import OWN_PREFIX, View
from netplane.errors import RequirementError
from netplane.kernel import sysctls
from netplane.kernel.link_orders import Conf

_STRICT, _LOOSE = 1, 2
_SMALLEST_IPV6 = 1280
_OVERHEADS = {"vxlan": 50, "wireguard": 60}


def forwarding(view: View) -> Iterator[Finding]:
    """Whether packets are forwarded on the links they come and go by; for the host as a whole it is a row apart."""
    names = [each.name for each in view.uplinks] + sorted(each for each in view.links if each.startswith(OWN_PREFIX))
    off = [name for name in names if not view.links[name].conf(Conf.FORWARDING)] if 4 in view.versions else []
    whole = sysctls.read("net/ipv4/ip_forward") != "0"
    for name in off if whole else []:
        yield error(
            f"IPv4 packets that come in by {name} are not forwarded (net.ipv4.conf.{name}.forwarding=0)",
            "packets of Pods on other nodes end here",
            f"sysctl -w net/ipv4/conf/{name}/forwarding=1",
        )
    if 6 in view.versions and not sysctls.exists("net/ipv6/conf/all/forwarding"):
        mend = "boot without ipv6.disable=1, or take IPv6 ranges out of the Nodes"
        yield error("this host has no IPv6", "Pods with such an address reach no other node", mend)
    if not off or not whole:
        yield ok("no link on the way between nodes refuses to forward")


def reverse_path(view: View) -> Iterator[Finding]:
    """Whether the reverse path filter drops what comes by another way than replies go."""
    all_ = int(sysctls.read("net/ipv4/conf/all/rp_filter"))
    strict = [each for each in view.uplinks if max(all_, each.conf(Conf.RP_FILTER)) == _STRICT]
    names = ", ".join(each.name for each in strict)
    loosen = "; ".join(f"sysctl -w net/ipv4/conf/{each.name}/rp_filter={_LOOSE}" for each in strict)
    if strict and view.settings is not None and view.settings.nodes_directly:
        yield error(
            f"the reverse path filter is strict on {names}, and settings say pods-to-nodes: direct",
            "what Pods of other nodes send to this node comes by another link than the answers go: it is dropped",
            loosen,
        )
    elif len(view.uplinks) > 1 and strict:
        yield warning(
            f"the reverse path filter is strict on {names}, and packets leave this node by {len(view.uplinks)} links",
            "what comes in by one of them and is answered by another is dropped: several next hops (BGP), nodes with"
            " two addresses, load-balancer addresses asked for from another network",
            loosen,
        )
    else:
        yield ok("the reverse path filter drops nothing between nodes")


def bridged_packets(view: View) -> Iterator[Finding]:
    """Whether packets between Pods of one bridge are seen by the rules of Services."""
    bridges = view.bridges
    if not bridges:
        yield ok("no bridge of Pods that is known")
        return
    why = "a Pod that asks a Service whose endpoint is on its own bridge gets the reply from an address it never asked"
    for version, name in ((4, "net/bridge/bridge-nf-call-iptables"), (6, "net/bridge/bridge-nf-call-ip6tables")):
        if version not in view.versions:
            continue
        try:
            on = sysctls.read(name) != "0"
        except RequirementError:
            yield warning("br_netfilter is not loaded", why, "modprobe br_netfilter")
            return
        if on:
            yield ok(f"IPv{version} packets between ports of {bridges[0].name} pass the rules of Services")
        else:
            yield warning(f"{name.replace('/', '.')}=0", why, f"sysctl -w {name.replace('/', '.')}=1")


def packet_size(view: View) -> Iterator[Finding]:
    """Whether Pods may send packets that the way to other nodes does not carry."""
    limit, whence = _limit(view)
    if not limit:
        yield ok("no way to another node is known that packets would have to fit")
        return
    if 6 in view.versions and limit < _SMALLEST_IPV6:
        yield error(
            f"packets between Pods may have {limit} bytes ({whence}), and IPv6 needs {_SMALLEST_IPV6}",
            "IPv6 packets between nodes are lost",
            "raise the MTU of the uplink, or give Nodes no IPv6 Pod range",
        )
    suspects = [*view.bridges, *(each for each in view.links.values() if each.name.startswith(("npb", "npr")))]
    large = sorted((each for each in suspects if each.mtu > limit), key=lambda each: each.name)
    if not large:
        yield ok(f"Pods' packets fit the way between nodes: {limit} bytes ({whence})")
        return
    names, mend = links_to_limit([(each.name, each.mtu) for each in large], limit)
    yield warning(
        f"larger packets than the way between nodes carries ({limit}, {whence}): {names}",
        "they are refused with an ICMP message each time, and lost where somebody drops that: downloads hang",
        f"make these Pods anew (netplane gives new ones the right size); until then: {mend}",
    )


def _limit(view: View) -> tuple[int, str]:
    """The largest packet between Pods of two nodes, and who says so; 0 where nothing does."""
    if view.plan:
        smallest = min((each for each in view.plan.peers.values() if each.mtu), key=lambda it: it.mtu, default=None)
        if view.plan.pod_mtu:
            return view.plan.pod_mtu, f"the way to {smallest.node}" if smallest else "mtu of the network's settings"
        return 0, ""
    uplinks = view.uplinks
    if not uplinks:
        return 0, ""
    smallest_link = min(uplinks, key=lambda each: each.mtu)
    overhead = _OVERHEADS.get(view.mode.value, 0) if view.mode else 0
    less = f" less {overhead} of the overlay" if overhead else ""
    return smallest_link.mtu - overhead, f"{smallest_link.mtu} of {smallest_link.name}{less}"
