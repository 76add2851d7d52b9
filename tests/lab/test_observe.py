"""The observer against rules that do exactly one thing, and against rules that do something else."""

from __future__ import annotations

import pytest
from cluster import (
    CLIENT,
    EXTERNAL,
    LINK,
    NODE,
    NODE_1,
    OUTSIDE,
    VIP,
    WEB_1,
    lab_with_servers,
    load,
    probe,
    to,
)

from netplane.lab.compare import compare
from netplane.lab.observe import Mixed, Question, observe
from netplane.lab.probe import Sender
from netplane.lab.topology import Attach
from netplane.model.address import Family, Protocol
from netplane.plan.oracle import Decision, Deliver, Outcome, Untouched
from netplane.plan.plan import Drop, Reject

pytestmark = pytest.mark.lab

DOORS = [(protocol, 80) for protocol in Protocol]
MATCH = "meta l4proto {{tcp,udp,sctp}} {ip} daddr {vip}"
TO_BOTH = f"{MATCH} numgen random mod 2 0 dnat to {{to_web_1}}\n{MATCH} dnat to {{to_web_2}}"
TO_FIRST = f"{MATCH} dnat to {{to_web_1}}"
TO_SECOND = f"{MATCH} dnat to {{to_web_2}}"
MASQUERADE = "ct status dnat masquerade"
HAIRPIN = "ct status dnat {ip} saddr {web_1} {ip} daddr {web_1} masquerade"
TRACKED = "ct state new accept"

each_wiring = pytest.mark.parametrize("attach", list(Attach), ids=lambda attach: attach.value)
each_family = pytest.mark.parametrize("family", list(Family), ids=str)


def seen_of(lab, sender: Sender, family: Family, expected: Outcome, address=VIP):
    """What becomes of one probe per protocol: the outcome if all agree."""
    questions = [Question(probe(lab, sender, address[family], 80, protocol), expected) for protocol in Protocol]
    observations = observe(lab, questions)
    comparisons = [compare(Decision(expected, None, ""), each, lab.topology) for each in observations]
    assert len({comparison.agrees for comparison in comparisons}) == 1, comparisons
    return observations, comparisons


def agrees(*args) -> bool:
    return all(comparison.agrees for comparison in seen_of(*args)[1])


@each_wiring
@each_family
class TestOutcomes:
    def test_a_delivery_to_both_endpoints_is_seen_with_the_senders_own_address(self, attach, family):
        both = to(("web-1", False), ("web-2", False), family=family)
        with lab_with_servers(attach, *DOORS) as lab:
            load(lab, family, prerouting=TO_BOTH, postrouting=TRACKED)
            assert agrees(lab, CLIENT, family, both)

    def test_a_masqueraded_delivery_is_told_from_a_plain_one(self, attach, family):
        plain = to(("web-1", False), ("web-2", False), family=family)
        masqueraded = to(("web-1", True), ("web-2", True), family=family)
        with lab_with_servers(attach, *DOORS) as lab:
            load(lab, family, prerouting=TO_BOTH, output=TO_BOTH, postrouting=MASQUERADE)
            for sender in (CLIENT, NODE_1, OUTSIDE):
                assert agrees(lab, sender, family, masqueraded)
                assert not agrees(lab, sender, family, plain)

    def test_a_host_process_that_is_not_masqueraded_is_noticed(self, attach, family):
        with lab_with_servers(attach, *DOORS) as lab:
            load(lab, family, output=TO_BOTH, postrouting=TRACKED)
            assert agrees(lab, NODE_1, family, to(("web-1", False), ("web-2", False), family=family))
            assert not agrees(lab, NODE_1, family, to(("web-1", True), ("web-2", True), family=family))

    def test_a_missing_and_a_surplus_endpoint_are_noticed(self, attach, family):
        both = to(("web-1", False), ("web-2", False), family=family)
        first = to(("web-1", False), family=family)
        with lab_with_servers(attach, *DOORS) as lab:
            load(lab, family, prerouting=TO_BOTH, postrouting=TRACKED)
            assert not agrees(lab, CLIENT, family, first)
        with lab_with_servers(attach, *DOORS) as lab:
            load(lab, family, prerouting=TO_FIRST, postrouting=TRACKED)
            assert agrees(lab, CLIENT, family, first)
            assert not agrees(lab, CLIENT, family, both)

    def test_a_pod_that_reaches_itself_shows_the_nodes_address(self, attach, family):
        itself = to(("web-1", True), family=family)
        with lab_with_servers(attach, *DOORS) as lab:
            load(lab, family, prerouting=TO_FIRST, postrouting=HAIRPIN)
            assert agrees(lab, WEB_1, family, itself)
        with lab_with_servers(attach, *DOORS) as lab:
            load(lab, family, prerouting=TO_FIRST, postrouting=TRACKED)
            assert not agrees(lab, WEB_1, family, itself)

    def test_a_drop_is_silence(self, attach, family):
        with lab_with_servers(attach, *DOORS) as lab:
            load(lab, family, forward=f"{MATCH} drop", refuse_output=f"{MATCH} drop")
            for sender in (CLIENT, NODE_1, OUTSIDE):
                assert agrees(lab, sender, family, Drop())
                assert not agrees(lab, sender, family, Reject())
                assert not agrees(lab, sender, family, Untouched())

    def test_a_rejection_is_a_port_unreachable_from_the_node(self, attach, family):
        with lab_with_servers(attach, *DOORS) as lab:
            load(lab, family, forward=f"{MATCH} reject", refuse_output=f"{MATCH} reject")
            for sender in (CLIENT, NODE_1, OUTSIDE):
                assert agrees(lab, sender, family, Reject())
                assert not agrees(lab, sender, family, Drop())

    def test_another_kind_of_refusal_is_no_rejection(self, attach, family):
        kind = "icmp type admin-prohibited" if family is Family.IPV4 else "icmpv6 type admin-prohibited"
        with lab_with_servers(attach, *DOORS) as lab:
            load(lab, family, forward=f"{MATCH} reject with {kind}")
            assert not agrees(lab, CLIENT, family, Reject())

    def test_an_untouched_packet_is_answered_by_whom_it_was_sent_to(self, attach, family):
        with lab_with_servers(attach, *DOORS) as lab:
            for sender in (CLIENT, NODE_1, OUTSIDE):
                assert agrees(lab, sender, family, Untouched(), EXTERNAL)
            assert agrees(lab, CLIENT, family, Untouched(), NODE)
            assert agrees(lab, OUTSIDE, family, Untouched(), LINK)
            load(lab, family, prerouting=TO_FIRST.replace("{vip}", EXTERNAL[family]))
            assert not agrees(lab, CLIENT, family, Untouched(), EXTERNAL)

    def test_affinity_is_one_endpoint_every_time(self, attach, family):
        sticky = to(("web-1", False), ("web-2", False), family=family, sticky=True)
        for rules, expected in ((TO_SECOND, True), (TO_BOTH, False)):
            with lab_with_servers(attach, *DOORS) as lab:
                load(lab, family, prerouting=rules, postrouting=TRACKED)
                assert agrees(lab, CLIENT, family, sticky) is expected


@each_family
def test_a_reply_that_goes_astray_is_told_from_a_drop(family):
    with lab_with_servers(Attach.BRIDGE, *DOORS) as lab:
        load(lab, family, prerouting=TO_SECOND, postrouting=TRACKED)
        observations, comparisons = seen_of(lab, OUTSIDE, family, Drop())
    assert not any(comparison.agrees for comparison in comparisons)
    assert all("no answer came back" in each.troubles[0] for each in observations)


@each_family
def test_a_tcp_reset_is_not_a_rejection(family):
    with lab_with_servers(Attach.ROUTED, *DOORS) as lab:
        load(lab, family, prerouting=TO_FIRST.replace("{to_web_1}", "{closed_web_1}"), postrouting=TRACKED)
        asked = Question(probe(lab, CLIENT, VIP[family], 80, Protocol.TCP), Reject())
        (observation,) = observe(lab, [asked])
    assert observation.outcome == Mixed("4 connection refused")


@each_family
def test_an_icmp_echo_is_answered_rejected_or_dropped(family):
    echo = "icmp type echo-request" if family is Family.IPV4 else "icmpv6 type echo-request"
    with lab_with_servers(Attach.BRIDGE) as lab:
        load(lab, family, forward=f"{echo} {{ip}} daddr {{vip}} reject\n{echo} {{ip}} daddr {{web_2}} drop")
        addresses = (EXTERNAL[family], VIP[family], str(to(("web-2", False), family=family).to[0].endpoint.address))
        asked = [Question(probe(lab, CLIENT, address, 0, None), Untouched()) for address in addresses]
        assert [each.outcome for each in observe(lab, asked)] == [Untouched(), Reject(), Drop()]


def test_the_wrong_port_of_the_right_pod_is_noticed():
    family = Family.IPV4
    with lab_with_servers(Attach.BRIDGE, *DOORS) as lab:
        load(lab, family, prerouting=f"{MATCH} dnat to {{web_1}}", postrouting=TRACKED)
        assert agrees(lab, CLIENT, family, to(("web-1", False), family=family, port=80))
        assert not agrees(lab, CLIENT, family, to(("web-1", False), family=family, port=8080))


def test_how_often_a_probe_is_tried_follows_from_the_endpoints():
    with lab_with_servers(Attach.BRIDGE) as lab:
        asked = probe(lab, CLIENT, VIP[Family.IPV4])
        two = Question(asked, to(("web-1", False), ("web-2", False), family=Family.IPV4))
    assert (2 / 3) ** two.least() <= 1e-3
    assert 2 * (1 / 2) ** two.most() <= 1e-6
    assert isinstance(two.expected, Deliver)
