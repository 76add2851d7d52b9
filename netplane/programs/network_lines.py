"""Changes of the Pod network for people, in the words of `ip` and `bridge`."""

from __future__ import annotations

from collections.abc import Iterator

from netplane.model.address import IPAddress
from netplane.programs.network import (
    MAIN_TABLE,
    METRIC,
    Link,
    LinkAddress,
    Route,
    RouteKey,
    RouteKind,
    SourceRule,
    VxlanLink,
)
from netplane.programs.network_changes import LinkWork, NetworkChanges


def changes_lines(changes: NetworkChanges) -> Iterator[str]:
    """`+ route 10.244.2.0/24 via 10.244.2.0 dev np-vxlan4 onlink`, `- ...`: in the order they are carried out.

    A route that takes the place of another is one line, with `+`.
    """
    yield from (f"! link {name} is not netplane's: it is left alone" for name in changes.foreign)
    yield from (f"- {each.words}" for each in changes.leftovers)
    yield from (f"- {address_words(each)}" for each in changes.misfits)
    for change in changes.links.values():
        how = "" if change.work is LinkWork.NEW else f" ({change.work.value})"
        yield f"+ {link_words(change.link)}{how}"
    yield from (f"+ sysctl {name} = {value}" for name, value in changes.sysctls.items())
    yield from (f"+ {address_words(each)}" for each in changes.addresses)
    yield from (f"+ {neighbour_words(*key, mac)}" for key, mac in changes.neighbours.items())
    yield from (f"+ {forwarding_words(*key, to)}" for key, to in changes.forwarding.items())
    yield from (f"+ {route_words(key, route)}" for key, route in changes.routes.items())
    yield from (f"+ {rule_words(each)}" for each in changes.rules)
    yield from (f"- {rule_words(each)}" for each in changes.no_rules)
    yield from (f"- {route_words(key, route)}" for key, route in changes.no_routes.items())
    yield from (f"- {forwarding_words(*key, to)}" for key, to in changes.no_forwarding.items())
    yield from (f"- {neighbour_words(*key, mac)}" for key, mac in changes.no_neighbours.items())
    yield from (f"- {address_words(each)}" for each in changes.no_addresses)
    yield from (f"- link {name}" for name in changes.no_links)


def link_words(link: Link) -> str:
    """`link np-vxlan4 vxlan id 4097 port 4789 local 198.18.0.1 address 0a:... mtu 1450`."""
    if isinstance(link, VxlanLink):
        checksum = " udpcsum" if link.checksum else ""
        what = f"vxlan id {link.id} port {link.port} local {link.local}{checksum} address {link.mac.hex(':')}"
        return f"link {link.name} {what} mtu {link.mtu}"
    return f"link {link.name} mtu {link.mtu}"


def address_words(given: LinkAddress) -> str:
    """`address 10.244.1.0 dev np-vxlan4`."""
    return f"address {given.address} dev {given.link}{' announced' if given.announced else ''}"


def neighbour_words(link: str, to: IPAddress, mac: bytes) -> str:
    """`neighbour 10.244.2.0 lladdr 0a:... dev np-vxlan4`."""
    return f"neighbour {to} lladdr {mac.hex(':')} dev {link}"


def forwarding_words(link: str, mac: bytes, to: IPAddress | None) -> str:
    """`forwarding 0a:... dst 198.18.0.2 dev np-vxlan4`."""
    return f"forwarding {mac.hex(':')}{f' dst {to}' if to else ''} dev {link}"


def route_words(key: RouteKey, route: Route | None) -> str:
    """`route 10.244.2.0/24 via 10.244.2.0 dev np-vxlan4 onlink mtu 1430`; table and metric where they are unusual."""
    words = ["route"]
    if route and route.kind is not RouteKind.UNICAST:
        words.append(route.kind.value)
    words.append(str(key.to))
    if route and route.via:
        words.append(f"via {route.via}")
    if route and route.link:
        words.append(f"dev {route.link}{' onlink' if route.via else ''}")
    if route and route.source:
        words.append(f"src {route.source}")
    if key.table != MAIN_TABLE:
        words.append(f"table {key.table}")
    if key.metric != METRIC:
        words.append(f"metric {key.metric}")
    if route and route.mtu:
        words.append(f"mtu {route.mtu}")
    return " ".join(words)


def rule_words(rule: SourceRule) -> str:
    """`rule 98: from 10.244.1.0/24 lookup 98`."""
    return f"rule {rule.priority}: from {rule.source} lookup {rule.table}"
