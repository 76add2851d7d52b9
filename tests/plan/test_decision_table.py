"""Every cell of the decision table, for both families: see netplane/plan/services.py and kube-proxy.md section 4."""

from __future__ import annotations

import pytest
from builders import (
    CLUSTER,
    FAR,
    HERE,
    IPV4,
    IPV6,
    LOCAL,
    NODE,
    OUTSIDE,
    POD,
    exposed,
    frontend,
    plan_of,
    row,
    slices,
    up,
)

from netplane.plan.plan import Drop, Forward, FrontendKind, Reject

CLUSTER_IP, EXTERNAL_IP = FrontendKind.CLUSTER_IP, FrontendKind.EXTERNAL_IP
LOAD_BALANCER, BY_NODE_PORT = FrontendKind.LOAD_BALANCER, FrontendKind.NODE_PORT
EXTERNAL = (EXTERNAL_IP, LOAD_BALANCER, BY_NODE_PORT)

DROP, REJECT = Drop(), Reject()
ALL, HERE_ONLY, FAR_ONLY = ("here", "far"), ("here",), ("far",)
MASQ, KEEP = True, False

families = pytest.mark.parametrize("family", [IPV4, IPV6], ids=str)
every_kind = pytest.mark.parametrize("kind", list(FrontendKind), ids=lambda kind: kind.value)
external_kinds = pytest.mark.parametrize("kind", EXTERNAL, ids=lambda kind: kind.value)
origins = pytest.mark.parametrize("origin", [POD, NODE, OUTSIDE], ids=lambda origin: origin.value)


def plan(*endpoints, internal=CLUSTER, external=CLUSTER, **settings):
    """A Service with every kind of frontend; its endpoints are "here" and "far", in both families."""
    of = exposed(internal=internal, external=external)
    listed = [up(address, "n1") for address in HERE.values() if "here" in endpoints]
    listed += [up(address, "n2") for address in FAR.values() if "far" in endpoints]
    return plan_of(of, slices(of, *listed), **settings)


def verdict(plan, kind, family, origin):
    """(endpoints, masquerade), DROP or REJECT."""
    found = row(plan, frontend(kind, family)).verdicts[origin]
    if not isinstance(found, Forward):
        return found
    names = {HERE[family]: "here", FAR[family]: "far"}
    return tuple(names[str(each.address)] for each in found.pool.endpoints), found.masquerade


# --- cluster IPs ------------------------------------------------------------------------------------------------------


@families
@pytest.mark.parametrize(
    ("origin", "wanted"),
    [(POD, (ALL, KEEP)), (NODE, (ALL, MASQ)), (OUTSIDE, (ALL, MASQ))],
)
def test_a_cluster_ip_leads_to_all_endpoints_and_only_pods_keep_their_address(family, origin, wanted):
    assert verdict(plan("here", "far"), CLUSTER_IP, family, origin) == wanted


@families
@pytest.mark.parametrize(
    ("origin", "wanted"),
    [(POD, (HERE_ONLY, KEEP)), (NODE, (HERE_ONLY, MASQ)), (OUTSIDE, (HERE_ONLY, MASQ))],
)
def test_internal_policy_local_keeps_everyone_on_this_node(family, origin, wanted):
    assert verdict(plan("here", "far", internal=LOCAL), CLUSTER_IP, family, origin) == wanted


@families
@origins
def test_internal_policy_local_drops_everyone_if_endpoints_are_only_elsewhere(family, origin):
    assert verdict(plan("far", internal=LOCAL), CLUSTER_IP, family, origin) == DROP


@families
@pytest.mark.parametrize("origin", [NODE, OUTSIDE, POD], ids=lambda origin: origin.value)
def test_masquerade_all_masquerades_at_cluster_ips_pods_too(family, origin):
    assert verdict(plan("here", "far", masquerade_all=True), CLUSTER_IP, family, origin) == (ALL, MASQ)


@families
@external_kinds
def test_masquerade_all_says_nothing_about_pods_at_external_addresses_with_policy_local(family, kind):
    assert verdict(plan("here", "far", external=LOCAL, masquerade_all=True), kind, family, POD) == (ALL, KEEP)


@families
@pytest.mark.parametrize("external", [CLUSTER, LOCAL])
@origins
def test_the_external_policy_says_nothing_about_cluster_ips(family, external, origin):
    assert verdict(plan("far", external=external), CLUSTER_IP, family, origin) == (FAR_ONLY, origin is not POD)


# --- external addresses and node ports --------------------------------------------------------------------------------


@families
@external_kinds
@origins
def test_external_policy_cluster_leads_to_all_endpoints_and_masquerades_always(family, kind, origin):
    assert verdict(plan("here", "far"), kind, family, origin) == (ALL, MASQ)


@families
@external_kinds
@pytest.mark.parametrize(
    ("origin", "wanted"),
    [(POD, (ALL, KEEP)), (NODE, (ALL, MASQ)), (OUTSIDE, (HERE_ONLY, KEEP))],
)
def test_external_policy_local_keeps_outsiders_on_this_node_with_their_address(family, kind, origin, wanted):
    assert verdict(plan("here", "far", external=LOCAL), kind, family, origin) == wanted


@families
@external_kinds
@pytest.mark.parametrize(
    ("origin", "wanted"),
    [(POD, (FAR_ONLY, KEEP)), (NODE, (FAR_ONLY, MASQ)), (OUTSIDE, DROP)],
)
def test_external_policy_local_drops_outsiders_only_where_no_endpoint_is_here(family, kind, origin, wanted):
    assert verdict(plan("far", external=LOCAL), kind, family, origin) == wanted


@families
@external_kinds
@origins
def test_the_internal_policy_says_nothing_about_external_addresses(family, kind, origin):
    assert verdict(plan("far", internal=LOCAL), kind, family, origin) == (FAR_ONLY, MASQ)


# --- no endpoint ------------------------------------------------------------------------------------------------------


@families
@every_kind
@origins
@pytest.mark.parametrize("policy", [CLUSTER, LOCAL])
def test_without_any_endpoint_everyone_is_refused_whatever_the_policy(family, kind, origin, policy):
    assert verdict(plan(internal=policy, external=policy), kind, family, origin) == REJECT


@pytest.mark.parametrize(("has", "lacks"), [(IPV4, IPV6), (IPV6, IPV4)])
@every_kind
def test_endpoints_of_one_family_do_not_answer_for_the_other(has, lacks, kind):
    of = exposed()
    made = plan_of(of, slices(of, up(HERE[has], "n1")))
    assert verdict(made, kind, has, POD)[0] == HERE_ONLY
    assert verdict(made, kind, lacks, POD) == REJECT
