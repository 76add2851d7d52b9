"""The rows of kube-proxy's truth table that are about a packet, as questions to the oracle (docs/semantics.md)."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from builders import (
    ADDRESS,
    FAR,
    HERE,
    IPV4,
    IPV6,
    LOCAL,
    NODE,
    NODE_ADDRESS,
    NODE_PORT,
    OUTSIDE,
    POD,
    SCTP,
    TCP,
    UDP,
    ask,
    delivered,
    exposed,
    networks,
    node,
    packet,
    plan_of,
    port,
    service,
    slices,
    target,
    text_of,
    up,
)

from netplane.model.service import Ingress, ServiceType
from netplane.plan.oracle import Deliver, Packet, Untouched, decide
from netplane.plan.plan import Drop, FrontendKind, Reject
from netplane.plan.settings import NodePortScope

CLUSTER_IP, EXTERNAL_IP = FrontendKind.CLUSTER_IP, FrontendKind.EXTERNAL_IP
LOAD_BALANCER, BY_NODE_PORT = FrontendKind.LOAD_BALANCER, FrontendKind.NODE_PORT

families = pytest.mark.parametrize("family", [IPV4, IPV6], ids=str)
every_kind = pytest.mark.parametrize("kind", list(FrontendKind), ids=lambda kind: kind.value)
origins = pytest.mark.parametrize("origin", [POD, NODE, OUTSIDE], ids=lambda origin: origin.value)
protocols = pytest.mark.parametrize("protocol", [TCP, UDP, SCTP], ids=str)


def both(**fields):
    """Every kind of frontend; an endpoint here and one elsewhere, in both families."""
    of = exposed(**fields)
    return [of, slices(of, *(up(each, "n1") for each in HERE.values()), *(up(each, "n2") for each in FAR.values()))]


@families
@every_kind
def test_row_2_a_pod_that_is_sent_to_itself_is_masqueraded_whatever_the_table_says(family, kind):
    answer = ask(plan_of(both(external=LOCAL)), packet(POD, *target(kind, family), source=HERE[family]))
    assert delivered(answer) == {(text_of(HERE[family]), True), (text_of(FAR[family]), False)}


@pytest.mark.parametrize(("on", "masqueraded"), [("n1", True), ("", True), ("n2", False)])
def test_row_2_a_pod_counts_as_its_own_endpoint_where_it_is_or_where_nobody_says(on, masqueraded):
    of = service()
    plan = plan_of(of, slices(of, up(HERE[IPV4], on)))
    answer = ask(plan, packet(POD, ADDRESS[CLUSTER_IP][IPV4], source=HERE[IPV4]))
    assert delivered(answer) == {(text_of(HERE[IPV4]), masqueraded)}


@families
@every_kind
@protocols
@origins
def test_row_7_every_protocol_is_refused_alike(family, kind, protocol, origin):
    of = exposed(ports=(port(protocol=protocol, node_port=NODE_PORT),))
    assert ask(plan_of(of), packet(origin, *target(kind, family), protocol)).outcome == Reject()


@families
@every_kind
@protocols
def test_a_port_of_one_protocol_says_nothing_about_another(family, kind, protocol):
    of = exposed(ports=(port(protocol=protocol, node_port=NODE_PORT),))
    plan = plan_of(of, slices(of, up(HERE[family], "n1")))
    outcomes = {each: ask(plan, packet(OUTSIDE, *target(kind, family), each)).outcome for each in (TCP, UDP, SCTP)}
    nothing = Reject() if kind is CLUSTER_IP else Untouched()
    assert isinstance(outcomes.pop(protocol), Deliver)
    assert set(outcomes.values()) == {nothing}


@families
@origins
def test_an_endpoint_at_the_nodes_own_address_is_not_masqueraded_unless_the_node_sends(family, origin):
    of = exposed()
    plan = plan_of(of, slices(of, up(NODE_ADDRESS[family], "n1")))
    answer = ask(plan, packet(origin, ADDRESS[CLUSTER_IP][family]))
    assert delivered(answer) == {(text_of(NODE_ADDRESS[family]), origin is NODE)}


# --- 14, 15: source ranges --------------------------------------------------------------------------------------------

RANGES = ("192.0.2.128/25", "2001:db8::100/120")
INSIDE = {IPV4: "192.0.2.200", IPV6: "2001:db8::1aa"}
BEYOND = {IPV4: "192.0.2.100", IPV6: "2001:db8::2aa"}


@families
@origins
def test_row_14_a_source_outside_the_ranges_is_dropped_at_the_load_balancer_address(family, origin):
    plan = plan_of(both(ranges=RANGES))
    at = ADDRESS[LOAD_BALANCER][family]
    assert ask(plan, packet(origin, at, source=BEYOND[family])).outcome == Drop()
    assert isinstance(ask(plan, packet(origin, at, source=INSIDE[family])).outcome, Deliver)


@families
@pytest.mark.parametrize("kind", [CLUSTER_IP, EXTERNAL_IP, BY_NODE_PORT], ids=lambda kind: kind.value)
def test_row_14_ranges_do_not_guard_other_frontends(family, kind):
    answer = ask(plan_of(both(ranges=RANGES)), packet(OUTSIDE, *target(kind, family), source=BEYOND[family]))
    assert isinstance(answer.outcome, Deliver)


@families
def test_ranges_come_before_the_answer_that_there_are_no_endpoints(family):
    plan = plan_of(exposed(ranges=RANGES))
    at = ADDRESS[LOAD_BALANCER][family]
    assert ask(plan, packet(OUTSIDE, at, source=BEYOND[family])).outcome == Drop()
    assert ask(plan, packet(OUTSIDE, at, source=INSIDE[family])).outcome == Reject()


@pytest.mark.parametrize(("ranges", "closed", "open_"), [(RANGES[:1], IPV6, IPV4), (RANGES[1:], IPV4, IPV6)])
@origins
def test_ranges_of_one_family_close_the_other(ranges, closed, open_, origin):
    plan = plan_of(both(ranges=ranges))
    for source in (INSIDE, BEYOND):
        assert ask(plan, packet(origin, ADDRESS[LOAD_BALANCER][closed], source=source[closed])).outcome == Drop()
    answer = ask(plan, packet(origin, ADDRESS[LOAD_BALANCER][open_], source=INSIDE[open_]))
    assert isinstance(answer.outcome, Deliver)


@families
@pytest.mark.parametrize(("covers", "allowed"), [(True, True), (False, False)])
def test_row_15_only_a_node_inside_the_ranges_may_use_the_address_itself_as_source(family, covers, allowed):
    ranges = ("192.0.2.0/24", "2001:db8::/64") if covers else RANGES
    at = ADDRESS[LOAD_BALANCER][family]
    answer = ask(plan_of(both(ranges=ranges)), packet(NODE, at, source=at))
    assert isinstance(answer.outcome, Deliver) is allowed


def test_a_node_inside_the_ranges_of_one_family_opens_nothing_in_the_other():
    plan = plan_of(both(ranges=("192.0.2.0/24", "2001:db8:ffff::/64")))
    at = ADDRESS[LOAD_BALANCER][IPV6]
    assert ask(plan, packet(NODE, at, source=at)).outcome == Drop()


@pytest.mark.parametrize(
    ("ranges", "source", "allowed"),
    [
        (("0.0.0.0/0",), "198.18.0.1", True),
        (("192.0.2.7/32",), "192.0.2.7", True),
        (("192.0.2.7/32",), "192.0.2.8", False),
        (("192.0.2.0/25", "192.0.2.128/25"), "192.0.2.255", True),
        (("192.0.2.0/24", "192.0.2.128/25"), "192.0.2.1", True),
    ],
)
def test_ranges_are_taken_exactly_also_where_they_touch_or_overlap(ranges, source, allowed):
    plan = plan_of(both(ranges=ranges), node(addresses=()))
    outcome = ask(plan, packet(OUTSIDE, "203.0.113.5", source=source)).outcome
    assert (outcome != Drop()) is allowed


# --- 16: not ours to serve --------------------------------------------------------------------------------------------


@families
def test_row_16_an_address_with_ip_mode_proxy_is_left_alone(family):
    proxied = tuple(Ingress(ip_address(each), proxy=True) for each in ADDRESS[LOAD_BALANCER].values())
    of = service(ingress=proxied)
    plan = plan_of(of, slices(of, up(HERE[family], "n1")))
    for origin in (POD, NODE, OUTSIDE):
        assert ask(plan, packet(origin, ADDRESS[LOAD_BALANCER][family])).outcome == Untouched()
    notes = [str(note) for each in plan.services.values() for port_plan in each.ports for note in port_plan.notes]
    assert any("ipMode Proxy" in note for note in notes)


def test_one_address_by_proxy_says_nothing_about_another_by_vip():
    of = service(ingress=(Ingress(ip_address("203.0.113.5"), proxy=True), "203.0.113.6"))
    plan = plan_of(of)
    assert ask(plan, packet(OUTSIDE, "203.0.113.5")).outcome == Untouched()
    assert ask(plan, packet(OUTSIDE, "203.0.113.6")).outcome == Reject()


@pytest.mark.parametrize("kind", [ServiceType.CLUSTER_IP, ServiceType.NODE_PORT])
def test_ingress_addresses_left_over_from_another_type_are_not_served(kind):
    plan = plan_of(service(ingress=("203.0.113.5",), type=kind))
    assert ask(plan, packet(OUTSIDE, "203.0.113.5")).outcome == Untouched()


# --- 17, 18: which addresses have node ports --------------------------------------------------------------------------

TWO_ADDRESSES = node(addresses=(*node().addresses, *node("n9").addresses))
SECOND = {IPV4: "192.0.2.9", IPV6: "2001:db8::9"}
LATER = {IPV4: "192.0.2.77", IPV6: "2001:db8::77"}
LOOPBACK = {IPV4: "127.0.0.1", IPV6: "::1"}
STRANGE = {IPV4: "172.16.0.1", IPV6: "fd00:172::1"}
HERS = {IPV4: "192.0.2.2", IPV6: "2001:db8::2"}


@families
@pytest.mark.parametrize(
    ("scope", "primary", "second", "later", "strange"),
    [
        (NodePortScope.PRIMARY, True, False, False, False),
        (NodePortScope.ALL, True, True, True, True),
        (networks("192.0.2.0/24", "2001:db8::/64"), True, True, True, False),
        (networks("192.0.2.9/32", "2001:db8::9/128"), False, True, False, False),
        (networks("127.0.0.0/8", "::1/128"), False, False, False, False),
        (networks("0.0.0.0/0", "::/0"), True, True, True, True),
    ],
    ids=["primary", "all", "networks", "one address", "loopback", "everything"],
)
def test_rows_17_and_18_node_ports_answer_on_the_chosen_local_addresses_and_never_on_loopback(
    family, scope, primary, second, later, strange
):
    plan = plan_of(both(), TWO_ADDRESSES, node_ports=scope)
    local = (LATER[family], STRANGE[family], LOOPBACK[family])

    def answers(address):
        outcome = ask(plan, packet(NODE, address, NODE_PORT), *local).outcome
        assert isinstance(outcome, Deliver | Untouched)
        return isinstance(outcome, Deliver)

    assert answers(NODE_ADDRESS[family]) is primary
    assert answers(SECOND[family]) is second
    assert answers(LATER[family]) is later
    assert answers(STRANGE[family]) is strange
    assert not answers(LOOPBACK[family])
    assert not answers(HERS[family])


@families
def test_a_family_without_node_port_networks_has_no_node_ports(family):
    scope = networks("2001:db8::/64") if family is IPV4 else networks("192.0.2.0/24")
    plan = plan_of(both(), node_ports=scope)
    assert ask(plan, packet(OUTSIDE, NODE_ADDRESS[family], NODE_PORT)).outcome == Untouched()


def test_a_node_without_addresses_has_no_primary_node_ports():
    plan = plan_of(both(), node(addresses=()))
    assert ask(plan, packet(OUTSIDE, "192.0.2.1", NODE_PORT), "192.0.2.1").outcome == Untouched()


# --- 19, 20, 21: what no row names ------------------------------------------------------------------------------------


@families
@origins
def test_row_19_an_undefined_port_of_a_cluster_ip_is_refused(family, origin):
    plan = plan_of(both())
    assert ask(plan, packet(origin, ADDRESS[CLUSTER_IP][family], 81)).outcome == Reject()
    assert ask(plan, packet(origin, ADDRESS[CLUSTER_IP][family], NODE_PORT)).outcome == Reject()


@families
@pytest.mark.parametrize("kind", [EXTERNAL_IP, LOAD_BALANCER, BY_NODE_PORT], ids=lambda kind: kind.value)
@origins
def test_row_19_is_about_cluster_ips_only(family, kind, origin):
    address, _ = target(kind, family)
    assert ask(plan_of(both(ranges=RANGES)), packet(origin, address, 81)).outcome == Untouched()


@families
@origins
def test_row_19_a_cluster_ip_is_refused_before_its_service_range_is_dropped(family, origin):
    plan = plan_of(both(), service_ranges=networks("10.96.0.0/12", "fd00:96::/112"))
    assert ask(plan, packet(origin, ADDRESS[CLUSTER_IP][family], 81)).outcome == Reject()


@families
@origins
def test_row_20_an_unallocated_address_is_dropped_where_the_range_is_known(family, origin):
    free = {IPV4: "10.96.0.11", IPV6: "fd00:96::11"}[family]
    ranges = networks("10.96.0.0/12", "fd00:96::/112")
    for protocol in (TCP, UDP, SCTP, None):
        asked = packet(origin, free, 80 if protocol else 0, protocol)
        assert ask(plan_of(both(), service_ranges=ranges), asked).outcome == Drop()
        assert ask(plan_of(both()), asked).outcome == Untouched()


def test_row_20_a_range_of_one_family_says_nothing_about_the_other():
    plan = plan_of(both(), service_ranges=networks("10.96.0.0/12"))
    assert ask(plan, packet(POD, "fd00:96::11")).outcome == Untouched()


def test_an_external_ip_inside_the_service_range_is_served():
    of = service(external_ips=("10.96.9.9",))
    plan = plan_of(of, slices(of, up(HERE[IPV4], "n1")), service_ranges=networks("10.96.0.0/12"))
    assert isinstance(ask(plan, packet(OUTSIDE, "10.96.9.9")).outcome, Deliver)
    assert ask(plan, packet(OUTSIDE, "10.96.9.9", 81)).outcome == Drop()


@families
@origins
def test_row_21_an_echo_to_a_cluster_ip_is_refused(family, origin):
    assert ask(plan_of(both()), packet(origin, ADDRESS[CLUSTER_IP][family], 0, None)).outcome == Reject()


@families
@pytest.mark.parametrize("kind", [EXTERNAL_IP, LOAD_BALANCER, BY_NODE_PORT], ids=lambda kind: kind.value)
def test_row_21_an_echo_to_any_other_frontend_is_left_alone(family, kind):
    assert ask(plan_of(both(ranges=RANGES)), packet(OUTSIDE, target(kind, family)[0], 0, None)).outcome == Untouched()


@families
@origins
def test_an_address_of_nobody_is_left_alone(family, origin):
    free = {IPV4: "8.8.8.8", IPV6: "2001:4860:4860::8888"}[family]
    assert ask(plan_of(both()), packet(origin, free)).outcome == Untouched()


def test_the_reason_names_the_frontend_and_the_origin():
    plan = plan_of(both())
    assert ask(plan, packet(POD, "10.96.0.10")).reason == "cluster IP of Service shop/web, from pod"
    assert "source ranges" in ask(plan_of(both(ranges=RANGES)), packet(OUTSIDE, "203.0.113.5", source="1.1.1.1")).reason


def test_decide_is_the_oracle_in_one_call():
    plan = plan_of(both())
    asked: Packet = packet(POD, "10.96.0.10")
    assert decide(plan, asked) == ask(plan, asked)
