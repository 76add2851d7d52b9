"""Faults of what is decided once, for every backend."""

from teeth.fault import LAWS, ORACLE, Fault, case

_PLAN = ("tests/plan",)
_SERVICES, _ENDPOINTS = "netplane.plan.services", "netplane.plan.endpoints"

PLAN = {
    "no masquerade for outsiders": Fault(
        _SERVICES,
        "Verdicts.same(_to(pools.anywhere, pools, masquerade=True))",
        "Verdicts.same(_to(pools.anywhere, pools, masquerade=False))",
        case("external-ip"),
    ),
    "everybody is masqueraded": Fault(
        _SERVICES,
        "pod=_to(pool, pools, masquerade=masquerade_all)",
        "pod=_to(pool, pools, masquerade=True)",
        _PLAN,
    ),
    "short circuit forgotten": Fault(
        _SERVICES,
        "pod=_to(pools.anywhere, pools, masquerade=False)",
        "pod=_to(pools.here, pools, masquerade=False)",
        case("external-ip-local-elsewhere"),
    ),
    "policy Local uses all endpoints": Fault(
        _SERVICES,
        "outside=_to(pools.here, pools, masquerade=False)",
        "outside=_to(pools.anywhere, pools, masquerade=False)",
        _PLAN,
    ),
    "internal policy Local is ignored": Fault(
        _SERVICES,
        "pool = pools.anywhere if internal is Scope.CLUSTER else pools.here",
        "pool = pools.anywhere",
        ORACLE,
    ),
    "reject for drop": Fault(
        _SERVICES, "return Drop() if pools.known else Reject()", "return Reject()", case("internal-local-elsewhere")
    ),
    "drop for reject": Fault(
        _SERVICES, "return Drop() if pools.known else Reject()", "return Drop()", case("no-endpoints")
    ),
    "source ranges of one family leave the other open": Fault(
        _SERVICES,
        "external if allowed or not ranges else Verdicts.same(Drop())",
        "external",
        case("source-ranges-one-family"),
    ),
    "other family leaks into the pool": Fault(
        _ENDPOINTS, "if each.family is not family:", "if each.family is None:", ("tests/plan/test_endpoints.py",)
    ),
    "terminating endpoints are used beside ready ones": Fault(
        _ENDPOINTS, "anywhere=near or draining", "anywhere=near + draining", case("terminating-here-ready-elsewhere")
    ),
    "hints of another zone": Fault(
        _ENDPOINTS,
        "if facts.zone in each.listed.zone_hints",
        "if facts.zone not in each.listed.zone_hints",
        ORACLE,
    ),
    "hints are heeded though one endpoint has none": Fault(
        _ENDPOINTS,
        "if facts.zone and all(each.listed.zone_hints for each in ready):",
        "if facts.zone and any(each.listed.zone_hints for each in ready):",
        _PLAN,
    ),
    "the worse state of two slices counts": Fault(
        _ENDPOINTS, "_rank(listed) < _rank(other.listed)", "_rank(listed) > _rank(other.listed)", _PLAN
    ),
    "stale UDP flows are not named": Fault(
        "netplane.plan.stale",
        "if serving is None or flow.server in serving:",
        "if serving is None or flow.server:",
        ("tests/plan/test_stale.py",),
    ),
    "flows of an endpoint that went are not looked for": Fault(
        "netplane.plan.stale", "sorted(served - serving, key=_by_number)", "()", ("tests/plan",)
    ),
    "the oracle forgets the hairpin": Fault(
        "netplane.plan.oracle", "(masquerade or hairpin) and not arrives", "masquerade and not arrives", ORACLE
    ),
    "the loser of an address is not planned again when the winner goes": Fault(
        "netplane.plan.node", "for service in contested - fresh.keys():", "for service in ():", LAWS
    ),
    "an incremental plan keeps slices that are gone": Fault(
        "netplane.plan.node", "(*changed, *slices_changed, *slices_gone)", "(*changed, *slices_changed)", LAWS
    ),
}
