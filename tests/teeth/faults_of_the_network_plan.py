"""Faults of the plan of the Pod network."""

from teeth.fault import Fault

_PLAN = "netplane.plan.network"
_PEERS, _CLAIMS, _SURVEY, _BGP, _SPANS = (f"{_PLAN}_{part}" for part in ("peers", "claims", "survey", "bgp", "spans"))


def _tests(*parts: str) -> tuple[str, ...]:
    return tuple(f"tests/plan/test_network_{part}.py" for part in parts)


NETWORK_PLAN = {
    "network: a node gives its own range away": Fault(
        _SURVEY,
        "key=lambda mark: (mark[2] != own, mark[2], mark[0])",
        "key=lambda mark: (mark[2], mark[0])",
        _tests("claims"),
    ),
    "network: a range that lost takes others along": Fault(
        _SURVEY,
        "yield mark, kept[place]\n",
        "yield mark, kept[place]\n            firsts.insert(place, mark[0])\n            kept.insert(place, mark)\n",
        _tests("claims", "laws"),
    ),
    "network: a range with a node's address in it is confined": Fault(
        _SURVEY, "if mark[3] and id(mark) not in unconfined]", "if mark[3]]", _tests("claims", "laws")
    ),
    "network: cluster ranges cut nodes in them off": Fault(
        _SURVEY,
        "merged(ranges, [mark[0] for mark in made.line if not mark[3] and id(mark) not in lost])",
        "merged(ranges)",
        _tests("claims"),
    ),
    "network: what changed beside the claims is not seen": Fault(
        _SURVEY, "return replace(before, nodes=nodes, claims=claims)", "return before", _tests("laws")
    ),
    "network: who lost is not planned again": Fault(
        _PLAN, "if known.lost_by(name) != old.lost_by(name))", "if name not in known.claims)", _tests("laws")
    ),
    "network: a changed path is not planned again": Fault(
        _PLAN, "if before.paths.get(address) != path}", "if address not in before.paths}", _tests("laws")
    ),
    "network: a path that is gone is not planned again": Fault(
        _PLAN, "for address in before.paths if address not in paths)", "for address in ())", _tests("laws")
    ),
    "network: IPv6 outside costs as little as IPv4": Fault(
        _PEERS, "{Family.IPV4: 50, Family.IPV6: 70}", "{Family.IPV4: 50, Family.IPV6: 50}", _tests("ways")
    ),
    "network: each node chooses the outer family by its own paths": Fault(
        _PEERS,
        "if address is not None and here.has(family):\n            path = _path",
        "if address is not None and here.has(family) and address in paths:\n            path = _path",
        _tests("ways"),
    ),
    "network: cross-subnet looks at the other's families only": Fault(
        _PEERS,
        "return here.families & other.families() or here.families | other.families()",
        "return other.families()",
        _tests("laws"),
    ),
    "network: a node without a key is reached in plain text": Fault(
        _PEERS, "plaintext and (other.key_fault or not here.keyed)", "other.key_fault or not here.keyed", _tests("ways")
    ),
    "network: a key may be anybody's": Fault(_SURVEY, "yield name, keeper", "yield from ()", _tests("ways", "claims")),
    "network: any text is a key": Fault(_CLAIMS, "not _KEY.match(text) or", "", _tests("ways")),
    "network: host-gw passes routers": Fault(
        _PEERS,
        "if path is not None and not path.on_link:\n        why",
        "if path is None and not paths:\n        why",
        _tests("ways"),
    ),
    "network: small ways carry IPv6": Fault(
        _PEERS, "if mtu >= SMALLEST_PACKET[family_of(each)]]", "if mtu >= 68]", _tests("ways")
    ),
    "network: the Service range is anybody's": Fault(
        _CLAIMS,
        "    if (place := overlapping(span, map(span_of, rules.services))) >= 0:\n        return",
        "    if (place := -1) >= 0:\n        return",
        _tests("claims"),
    ),
    "network: a range may reach out of the cluster's": Fault(
        _CLAIMS, "if rules.cluster and not inside(span,", "if rules.cluster and overlapping(span,", _tests("claims")
    ),
    "network: any Service address is announced": Fault(
        _BGP, "elif (place := overlapping(span_of(address), pods)) >= 0:", "elif (place := -1) >= 0:", _tests("bgp")
    ),
    "network: clients of reflectors speak with each other": Fault(
        _BGP, "(settings.reflectors and not ours and not theirs)", "False", _tests("bgp")
    ),
    "network: neighbours are not merged": Fault(_SPANS, "if low > last + 1:", "if low > last:", _tests("spans")),
}
