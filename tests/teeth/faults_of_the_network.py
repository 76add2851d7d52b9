"""Faults of how the plan of the Pod network becomes rules, routes and processes, and of what watches over them."""

from teeth.fault import Fault

_BACKEND, _KERNEL, _AGENT, _PLAN = "netplane.backends.network", "netplane.kernel", "netplane.agent", "netplane.plan"


def _backend(*parts: str) -> tuple[str, ...]:
    return tuple(f"tests/backends/test_network_{part}.py" for part in parts)


_DETAILS = ("tests/backends/test_network_details.py",)


def _kernel(*parts: str) -> tuple[str, ...]:
    return tuple(f"tests/kernel/test_{part}.py" for part in parts)


def _one(path: str, *tests: str) -> tuple[str, ...]:
    return tuple(f"tests/{path}.py::test_{test}" for test in tests)


_RULES = {
    "network: our own Pods are in plain text": Fault(
        f"{_BACKEND}.rules",
        "yield from (f\"{within('daddr', each)} accept\" for each in self.shape.own)",
        "yield from ()",
        _backend("golden"),
    ),
    "network: a range with a node in it is confined whole": Fault(
        f"{_BACKEND}.judged", "if not _holds(each, nodes)]", "if each]", _backend("rules")
    ),
    "network: the other ranges of a cluster with a node in one are all there are": Fault(
        f"{_BACKEND}.judged", "bool(ranges) and len(found) == len(ranges)", "bool(ranges)", _backend("rules")
    ),
    "network: whoever is not reached may be anybody": Fault(
        f"{_BACKEND}.rules",
        "yield from (self._in(field, REFUSED, each) for each in shape.refused)",
        "yield from ()",
        _backend("rules"),
    ),
    "network: a Pod speaks as a Pod of another node": Fault(
        f"{_BACKEND}.rules",
        'yield from (f"{each} goto astray" for each in self._of_others("saddr"))',
        "yield from ()",
        _backend("sources"),
    ),
    "network: a Pod speaks as a Pod of another subnet": Fault(
        f"{_BACKEND}.rules",
        """yield from (f"{not_up} {self._in('saddr', PODS, each)} drop".lstrip() for each in shape.pods)""",
        "yield from ()",
        _backend("sources"),
    ),
    "network: beside the overlay Pods are taken for those of other nodes by any link": Fault(
        f"{_BACKEND}.rules",
        'yield f"iifname {several(shape.uplinks)} {IP[self.family]} daddr {several(shape.addresses)} accept"',
        'yield f"{IP[self.family]} daddr {several(shape.addresses)} accept"',
        _backend("sources"),
    ),
    "network: beside the overlay the wire speaks as Pods to Pods": Fault(
        f"{_BACKEND}.rules",
        'yield f"iifname {several(shape.uplinks)} {IP[self.family]} daddr {several(shape.addresses)} accept"',
        'yield f"iifname {several(shape.uplinks)} accept"',
        _backend("sources"),
    ),
    "network: beside the overlay answers must come back by the same link": Fault(
        f"{_BACKEND}.routes", "_LOOSE if direct else 0", "0", _backend("sources")
    ),
    "network: a prefix is compared as one that is a word longer": Fault(
        f"{_BACKEND}.words",
        "if kept := mask >> shift & _ALL:",
        "if (kept := mask >> shift & _ALL) or shift == 32:",
        _backend("words"),
    ),
    "network: the last address of a range keeps its source nowhere": Fault(
        f"{_BACKEND}.elements",
        "return network.network_address.packed, network.broadcast_address.packed",
        "return network.network_address.packed, (network.broadcast_address - (network.num_addresses > 1)).packed",
        _DETAILS,
    ),
    "network: nobody may send VXLAN": Fault(
        f"{_BACKEND}.elements",
        "found[family_of(outer), VXLAN_PEERS] = {outer.packed: None}",
        "pass",
        _DETAILS,
    ),
    "network: only the first load-balancer address is nobody's": Fault(
        f"{_BACKEND}.elements",
        "for each in plan.load_balancer_addresses:",
        "for each in plan.load_balancer_addresses[:1]:",
        _backend("rules"),
    ),
    "network: VXLAN sent to everybody is taken": Fault(
        f"{_BACKEND}.rules",
        "{vxlan.id} fib daddr type != unicast drop",
        "{vxlan.id} fib daddr type local drop",
        _backend("rules"),
    ),
    "network: a forged source comes out of the overlay": Fault(
        f"{_BACKEND}.rules",
        'yield f"{shape.overlay} goto from-overlay"',
        'yield f"{shape.overlay} accept"',
        _backend("rules"),
    ),
    "network: the wire speaks as our Pods": Fault(
        f"{_BACKEND}.rules",
        "yield from (f\"{within('saddr', each)} {uplink} drop\" for each in shape.own)",
        "yield from ()",
        _backend("rules"),
    ),
    "network: segments are cut on the way out only": Fault(
        f"{_BACKEND}.rules",
        'yield f"{self.shape.overlay} {fits}"',
        "yield from ()",
        _DETAILS,
    ),
    "network: plain text leaves where routes lead it": Fault(
        f"{_BACKEND}.rules",
        "encrypted=settings.mode is Mode.WIREGUARD",
        "encrypted=False",
        _backend("rules"),
    ),
    "network: neighbours do not find a load-balancer address": Fault(
        f"{_BACKEND}.rules",
        '            yield "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept"\n',
        "            pass\n",
        _backend("rules"),
    ),
}
_ROUTES = {
    "network: a peer's smaller MTU is forgotten": Fault(
        f"{_BACKEND}.routes", "return peer.mtu if peer.mtu < of_link else 0", "return 0", _backend("compile", "rules")
    ),
    "network: WireGuard lets a node's own addresses out": Fault(
        f"{_BACKEND}.routes",
        "sorted((*peer.ranges, *own), key=_in_order)",
        "sorted(peer.ranges, key=_in_order)",
        _backend("compile"),
    ),
    "network: the overlay has an address of one family": Fault(
        f"{_BACKEND}.routes",
        "for each in overlay.inner)\n    yield",
        "for each in overlay.inner[:1])\n    yield",
        _backend("compile"),
    ),
    "network: our own range has no backstop": Fault(
        f"{_BACKEND}.routes", "return caught | own\n", "return caught\n", _backend("compile")
    ),
    "network: backstops are routes like others": Fault(
        f"{_BACKEND}.routes",
        "caught = {RouteKey(each, metric=BACKSTOP_METRIC)",
        "caught = {RouteKey(each)",
        _backend("compile"),
    ),
    "network: packets pass a direct next hop of the other family": Fault(
        f"{_BACKEND}.routes",
        "via=hops[family_of(each)])",
        "via=peer.next_hops[0])",
        _backend("compile"),
    ),
    "network: IPv6 is not forwarded": Fault(
        f"{_BACKEND}.routes", 'values["net/ipv6/conf/all/forwarding"] = 1', "pass", _backend("compile")
    ),
    "network: other settings leave peers as they were": Fault(
        f"{_BACKEND}.compile",
        "or (frame_of(before.plan), judged_of(before.plan)) != (frame, asked)",
        "",
        _DETAILS,
    ),
    "network: what a peer had before stays": Fault(
        f"{_BACKEND}.compile",
        "for name in (*changed, *removed) if name in old}",
        "for name in removed}",
        _backend("compile"),
    ),
    "network: a removed peer may still send VXLAN": Fault(
        f"{_BACKEND}.compile",
        "[name for name in peers.gone if name not in peers.fresh]",
        "[]",
        _backend("compile"),
    ),
    "network: backstops of before stay": Fault(
        f"{_BACKEND}.compile",
        "(before.plan.confined, before.plan.ranges) != (plan.confined, plan.ranges)",
        "before.plan.ranges != plan.ranges",
        _backend("compile"),
    ),
}
_BIRD = {
    "bgp: a router is believed about our own Pods": Fault(
        f"{_BACKEND}.bird",
        'then reject;"\n    if accepted',
        'then accept;"\n    if accepted',
        _backend("bird") + _one("kernel/test_bird_sessions", "nobody_is_believed_about_our_own_pods"),
    ),
    "bgp: a default route is for Pods": Fault(
        f"{_BACKEND}.bird",
        "sizes = ((each, max(each.prefixlen, shortest)) for each in accepted)",
        "sizes = ((each, each.prefixlen) for each in accepted)",
        _backend("bird"),
    ),
    "bgp: what a router said is told to other nodes": Fault(
        f"{_BACKEND}.bird",
        "source = RTS_BGP && bgp_path.len = 0",
        "source = RTS_BGP",
        _kernel("bird_reflector"),
    ),
    "bgp: no graceful restart": Fault(
        f"{_BACKEND}.bird",
        'yield "graceful restart yes;"',
        'yield "graceful restart no;"',
        _backend("bird")
        + _one(
            "kernel/test_bird_mechanism",
            "while_bird_is_away_and_when_it_comes_back_packets_flow_and_no_route_is_touched",
        ),
    ),
    "bgp: routers hear of an address that serves nobody here": Fault(
        f"{_PLAN}.advertising",
        "reached = not local or isinstance(row.verdicts.outside, Forward)",
        "reached = True",
        _one("plan/test_load_balancers_announced", "policy_local_is_told_only_while_an_endpoint_here_answers"),
    ),
    "bgp: passwords are for everybody to read": Fault(
        f"{_KERNEL}.bird_files",
        "_FLAGS, 0o600, dir_fd=folder.fd)",
        "_FLAGS, 0o644, dir_fd=folder.fd)",
        _kernel("bird_mechanism"),
    ),
    "bgp: a bird of another namespace is ours": Fault(
        f"{_KERNEL}.bird_process",
        "return (there.st_dev, there.st_ino) == (namespace.st_dev, namespace.st_ino) and cwd == folder",
        "return cwd == folder",
        _one("kernel/test_bird_mechanism", "a_bird_in_another_namespace_is_not_ours_though_its_folder_is"),
    ),
    "bgp: routes of any bird are removed": Fault(
        f"{_KERNEL}.bird_routes",
        "if each.priority == METRIC and each.table",
        "if each.table",
        _kernel("bird_mechanism"),
    ),
}
_KERNEL_FAULTS = {
    "network: a VXLAN link learns": Fault(
        f"{_KERNEL}.network_links",
        'attribute(_PORT, struct.pack(">H", link.port)),\n        attribute(_LEARNING, b"\\0"),',
        'attribute(_PORT, struct.pack(">H", link.port)),',
        _kernel("network_mechanism"),
    ),
    "network: a VXLAN link has no group": Fault(
        f"{_KERNEL}.network_links",
        "        link_orders.group(GROUP),\n",
        "",
        _one("kernel/test_network_rarities", "a_link_we_make_has_our_group"),
    ),
    "network: a foreign link of our name is ours": Fault(
        f"{_KERNEL}.network_links",
        'if kind != "vxlan" or _number(found, _GROUP) != GROUP:',
        'if kind != "vxlan":',
        _kernel("network_mechanism"),
    ),
    "network: neighbours are forgotten with time": Fault(
        f"{_KERNEL}.network_neighbours",
        "_neighbour(index, to, _PERMANENT)",
        "_neighbour(index, to, 0x04)",
        _kernel("network_mechanism"),
    ),
    "network: an announced address speaks for the node": Fault(
        f"{_KERNEL}.network_neighbours",
        "scope = _HOST_SCOPE if announced and address.version == 4 else 0\n    payload",
        "scope = 0\n    payload",
        _kernel("network_mechanism"),
    ),
    "network: an address has no mark": Fault(
        f"{_KERNEL}.network_neighbours",
        "attribute(_FLAGS, _U32.pack(flags)) + _MARK",
        "attribute(_FLAGS, _U32.pack(flags))",
        _kernel("network_mechanism"),
    ),
    "network: one metric too many": Fault(
        f"{_KERNEL}.network_routes",
        "if found.keys() - {_MTU}:\n        return -1",
        "pass",
        _kernel("network_mechanism"),
    ),
    "network: routes are added, not replaced": Fault(
        f"{_KERNEL}.network_routes", "CREATE | _REPLACE)", "CREATE)", _kernel("network_replace", "network_mechanism")
    ),
    "network: rules of everybody are ours": Fault(
        f"{_KERNEL}.network_routes",
        "if payload[0] == family and protocol == PROTOCOL:",
        "if payload[0] == family:",
        _kernel("network_rarities"),
    ),
    "network: the table of a rule is not looked at": Fault(
        f"{_KERNEL}.network_routes",
        "return SourceRule(_network(family, found[_SOURCE], length), table, priority), protocol",
        "return SourceRule(_network(family, found[_SOURCE], length), priority=priority), protocol",
        _kernel("network_mechanism"),
    ),
    "network: the first refusal ends an apply": Fault(
        f"{_KERNEL}.network_driver",
        "        failures += _write_sysctls(changes.sysctls)\n",
        "        _raise(failures)\n        failures += _write_sysctls(changes.sysctls)\n",
        _kernel("network_mechanism"),
    ),
    "network: announced addresses are not announced": Fault(
        f"{_KERNEL}.network_driver",
        "if each.announced and id(order) not in not_given:",
        "if each.announced and id(order) in not_given:",
        _kernel("network_mechanism"),
    ),
    "network: links are swept before what is on them is made": Fault(
        f"{_KERNEL}.network_mechanism",
        "make=work.make,\n            sweep=work.sweep,",
        "make=lambda: (work.sweep(), work.make())[1],\n            sweep=work.sweep,",
        _kernel("network_replace", "network_mechanism"),
    ),
    "network: without sweeping leftovers go": Fault(
        f"{_KERNEL}.network_mechanism",
        "changes = self._changes if self._sweep else replace(self._changes, leftovers=())",
        "changes = self._changes",
        _kernel("network_rarities"),
    ),
    "network: a link made anew gets nothing": Fault(
        f"{_KERNEL}.network_mechanism",
        "if changes.misfits or changes.leftovers or self._driver.moved(links):",
        "if changes.misfits or changes.leftovers:",
        _kernel("network_mechanism"),
    ),
    "network: a removed route is not heard": Fault(
        f"{_KERNEL}.network_events",
        'self.last[fact.key] = f"{route_words(fact.key, wanted)} was removed" if gone else ""',
        'self.last[fact.key] = ""',
        _kernel("network_events"),
    ),
    "network: lost events are forgotten": Fault(
        f"{_KERNEL}.network_events",
        'self.too_much, self.underlay = "too much changed at once", True',
        "pass",
        _kernel("network_events"),
    ),
    "network: a link that comes up again lost nothing": Fault(
        f"{_KERNEL}.network_events",
        'self.lost.setdefault(name, f"link {name} went down")',
        "pass",
        _kernel("network_events"),
    ),
    "network: containers wake the agent": Fault(
        f"{_KERNEL}.network_events",
        "for by in (_TO_CONTAINERS, _BY_KERNEL))",
        "for by in (_BY_KERNEL,))",
        _kernel("network_events"),
    ),
    "network: neighbours of a new link are not heard": Fault(
        f"{_KERNEL}.network_events",
        "        self._listen()\n        return news.heard()",
        "        return news.heard()",
        _kernel("network_events"),
    ),
    "network: a small MTU of a route is not seen": Fault(
        f"{_KERNEL}.underlay", "min(mtu, route.mtu or mtu)", "mtu", _kernel("network_underlay")
    ),
    "network: an MTU that was learned lasts": Fault(
        f"{_KERNEL}.underlay",
        "if (route := routes[address]) is not None:",
        "if (route := routes[address]) is None:",
        _kernel("network_rarities"),
    ),
    "network: everything is on-link": Fault(
        f"{_KERNEL}.underlay",
        "on_link = _GATEWAY not in found and _VIA not in found",
        "on_link = _VIA not in found",
        _kernel("network_underlay"),
    ),
    "network: an IPv4 address behind an IPv6 router is on-link": Fault(
        f"{_KERNEL}.underlay",
        "on_link = _GATEWAY not in found and _VIA not in found",
        "on_link = _GATEWAY not in found",
        _kernel("network_rarities"),
    ),
    "network: an announced address makes a network": Fault(
        f"{_KERNEL}.underlay",
        "        if fact.marked:\n            continue\n",
        "",
        _kernel("network_underlay"),
    ),
}
_WIREGUARD = {
    "wireguard: allowed addresses are added, not replaced": Fault(
        f"{_KERNEL}.wireguard_changes",
        "lost = not set(found.allowed) <= set(allowed)",
        "lost = False",
        _kernel("wireguard_changes"),
    ),
    "wireguard: a peer that left stays": Fault(
        f"{_KERNEL}.wireguard_changes",
        "for key in found.peers if key not in peers)",
        "for key in ())",
        _kernel("wireguard_changes"),
    ),
    "wireguard: a roaming peer is called back": Fault(
        f"{_KERNEL}.wireguard_changes",
        "and (renumbered or not heard)",
        "",
        _kernel("wireguard_changes"),
    ),
    "wireguard: a renumbered peer is waited for": Fault(
        f"{_KERNEL}.wireguard_changes",
        "and (renumbered or not heard)",
        "and not heard",
        _kernel("wireguard_changes"),
    ),
    "wireguard: somebody's preshared key stays": Fault(
        f"{_KERNEL}.wireguard_changes", "and not found.secret:", ":", _kernel("wireguard_changes")
    ),
    "wireguard: any private key will do": Fault(
        f"{_KERNEL}.wireguard_mechanism",
        "if self._keys.public() != key:",
        "if not self._keys.public():",
        _kernel("wireguard_nodes"),
    ),
    "wireguard: a waiting key is used at once": Fault(
        f"{_KERNEL}.wireguard_keys",
        "if waiting and self._half(waiting) == announced:",
        "if waiting:",
        _kernel("wireguard_keys"),
    ),
    "wireguard: a peer of many networks has the last ones only": Fault(
        f"{_KERNEL}.wireguard_netlink",
        "attribute(_FLAGS, _U32.pack(_UPDATE_ONLY)), more)",
        "attribute(_FLAGS, _U32.pack(_REPLACE)), more)",
        _kernel("wireguard_netlink"),
    ),
    "wireguard: a change brings back who was removed": Fault(
        f"{_KERNEL}.wireguard_uapi",
        '    if not peer.new:\n        yield "update_only=true"\n',
        "",
        _kernel("wireguard_uapi"),
    ),
    "wireguard: the process of another namespace is asked": Fault(
        f"{_KERNEL}.wireguard_go",
        "return bool(pid) and _namespace(str(pid)) == self._home",
        "return bool(pid)",
        _kernel("wireguard_nodes"),
    ),
    "wireguard: what a killed process left stays": Fault(
        f"{_KERNEL}.wireguard_go",
        'folder.remove(f"{link}.pid")\n\n    def close',
        "pass\n\n    def close",
        _kernel("wireguard_nodes"),
    ),
}
_ALIVE = {
    "announce: neighbours may keep what they knew": Fault(
        f"{_KERNEL}.announce", 'struct.pack("!I", _OVERRIDE)', 'struct.pack("!I", 0)', _kernel("announce")
    ),
    "announce: only the request is sent": Fault(
        f"{_KERNEL}.announce",
        "return own + _arp(_REQUEST, mac, bytes(6), address), own + _arp(_REPLY, mac, mac, address)",
        "return (own + _arp(_REQUEST, mac, bytes(6), address),)",
        _kernel("announce"),
    ),
    "echo: anybody's answer counts": Fault(
        f"{_KERNEL}.echo",
        "if (kind, theirs, whose) == (_REPLY[version], number, token) else",
        "if kind == _REPLY[version] else",
        _kernel("echo"),
    ),
    "echo: a header is forgotten in the size": Fault(
        f"{_KERNEL}.echo", "HEADERS = {4: 28, 6: 48}", "HEADERS = {4: 20, 6: 40}", _kernel("echo")
    ),
    "alive: two losses are enough": Fault(
        f"{_AGENT}.alive",
        "if peer.row <= -self._limits.losses:",
        "if peer.row < -1:",
        _one("agent/test_alive", "three_losses_make_silent_and_two_answers_bring_back"),
    ),
    "alive: a new address is the old node": Fault(
        f"{_AGENT}.alive",
        "if name in before and before[name].address == address",
        "if name in before",
        ("tests/agent/test_alive.py",),
    ),
    "alive: who begins is sure": Fault(
        f"{_AGENT}.alive",
        "self.sure = False",
        "self.sure = True",
        ("tests/agent/test_alive.py",),
    ),
    "announcing: a silent node is elected": Fault(
        f"{_PLAN}.announcing",
        "return frozenset(ready or nodes) - silent",
        "return frozenset(ready or nodes)",
        ("tests/plan/test_load_balancers_announced.py",),
    ),
    "announcing: a node thinks itself silent": Fault(
        f"{_PLAN}.announcing",
        "electorate.facts.silent - {electorate.node}",
        "electorate.facts.silent",
        ("tests/plan/test_load_balancers_announced.py",),
    ),
    "announcing: who is back is not elected again": Fault(
        f"{_PLAN}.announcing",
        "or (back and winner(address, {**back, name: number_of(name)}) != name)",
        "",
        ("tests/plan/test_load_balancers_announced.py",),
    ),
    "load balancers: an address of a node is given": Fault(
        f"{_PLAN}.load_balancers",
        "    _move_nodes(draft, old.nodes, snapshot.nodes)\n",
        "",
        ("tests/plan/test_load_balancers.py",),
    ),
    "load balancers: the first endpoint of another family is enough": Fault(
        f"{_PLAN}.announcing",
        "for port in entry.ports if port.family is family_of(address) for each",
        "for port in entry.ports for each",
        ("tests/plan/test_load_balancers_announced.py",),
    ),
}
_WATCHED = {
    "alive: a node that never rests keeps all waiting": Fault(
        f"{_AGENT}.alive",
        "self._ticks > self._limits.losses or ",
        "",
        ("tests/agent/test_alive.py",),
    ),
    "alive: who just came is relied upon": Fault(
        f"{_AGENT}.alive",
        "each.silent or (self.sure and not each.known)",
        "each.silent",
        ("tests/agent/test_alive.py",),
    ),
    "agent: a node alone looks at no link": Fault(
        f"{_AGENT}.network",
        "if found.paths or not wanted or not anew",
        "if found.paths or not anew",
        _one("agent/test_pod_network_suspects", "a_node_alone_answers_for_its_load_balancers"),
    ),
    "network: VXLAN in pieces passes": Fault(
        f"{_BACKEND}.rules",
        'yield f"{_PIECE[self.family]} fib daddr type != unicast drop"',
        "yield from ()",
        _DETAILS,
    ),
    "network: without WireGuard Pods reach nodes in plain text": Fault(
        f"{_BACKEND}.routes",
        "    routes.update((RouteKey(each, TABLE, BACKSTOP_METRIC)",
        "    dict((RouteKey(each, TABLE, BACKSTOP_METRIC)",
        _one("agent/test_pod_network_suspects", "without_wireguard_nothing_of_pods_is_on_the_wire"),
    ),
    "network: any address is a node's": Fault(
        f"{_PLAN}.network_claims",
        'if (place := overlapping(span, _NOBODY_SPANS)) >= 0:\n            why = f"{address} is in',
        'if (place := -1) >= 0:\n            why = f"{address} is in',
        ("tests/plan/test_network_claims.py",),
    ),
    "agent: what contradicts the plan is not repaired": Fault(
        f"{_AGENT}.network_watch",
        "        if heard.contradiction:\n",
        "        if False:\n",
        _one("agent/test_pod_network", "what_somebody_else_removes_comes_back"),
    ),
    "agent: who fights is fought without a pause": Fault(
        f"{_AGENT}.network_watch",
        "max(self._repaired + REPAIR_SECONDS - self._loop.time(), 0.0)",
        "0.0",
        _one("agent/test_pod_network_suspects", "a_fight_over_a_route_is_fought_once_a_second"),
    ),
    "agent: other ways are not looked for": Fault(
        f"{_AGENT}.network_watch",
        "        elif heard.underlay:\n            self._ask_for(Look.PATHS)",
        "        elif heard.underlay:\n            pass",
        _one("agent/test_pod_network", "an_uplink_that_goes_down_and_comes_up_is_used_again"),
    ),
    "agent: while nobody knows who answers addresses are swept": Fault(
        f"{_AGENT}.network",
        "sweep = sweep and seen.answers.sure",
        "sweep = bool(sweep)",
        ("tests/agent/test_agent_load_balancer.py", "-k", "starts_again"),
    ),
    "agent: new addresses are not asked for": Fault(
        f"{_AGENT}.network",
        "if not anew and wanted == self._asked:",
        "if not anew and self._asked:",
        _one(
            "agent/test_pod_network",
            "a_node_that_joins_is_reached_and_one_that_leaves_leaves_nothing_and_others_are_not_touched",
        ),
    ),
    "agent: a process that ended is not looked for": Fault(
        f"{_AGENT}.network_watch",
        "        if self._network.disturbed():\n            self._ask_for(Look.KERNEL)",
        "        self._network.disturbed()",
        _one("agent/test_pod_network_suspects", "a_killed_bird_comes_back"),
    ),
}
NETWORK = {**_RULES, **_ROUTES, **_BIRD, **_KERNEL_FAULTS, **_WIREGUARD, **_ALIVE, **_WATCHED}
