"""Masquerade of containers' traffic, and no forged sources, with real packets."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from cni_packets import CLUSTER, FAR, NODE, OUTSIDE, Pod, Site, ask, carry_out, client, in_links, server, site

from cni.config import Mode
from netplane.kernel import links, sysctls
from netplane.model.address import Family, Protocol

pytestmark = pytest.mark.kernel

TCP, UDP = Protocol.TCP, Protocol.UDP
PORT = 7000
families = pytest.mark.parametrize("family", list(Family), ids=str)
protocols = pytest.mark.parametrize("protocol", [TCP, UDP], ids=str)


@pytest.fixture(scope="module", params=[Mode.BRIDGE, Mode.ROUTED], ids=lambda each: each.value)
def made(request):
    with site(request.param) as each:
        for more in (
            {},
            {},
            {"masquerade": False},
            {"masquerade_not_to": (*CLUSTER, *(ip_network(each) for each in OUTSIDE.values()))},
        ):
            each.pod(**more)
        yield each


def seen(asking_pod: Pod, there, family, protocol, to: str):
    """Whom a server takes a container for."""
    with server(there, family, protocol, PORT, to) as here, client(asking_pod.namespace, family, protocol) as asking:
        return ask(asking, to, PORT, [here]).client


def outsider(made: Site, family, protocol):
    return client(made.outside, family, protocol, (OUTSIDE[family], 0))


@families
@protocols
def test_towards_the_outside_it_has_the_address_of_the_node(made: Site, family, protocol):
    assert seen(made.pods[0], made.outside, family, protocol, OUTSIDE[family]) == ip_address(NODE[family])


@families
@protocols
def test_towards_the_ranges_of_the_cluster_it_keeps_its_own(made: Site, family, protocol):
    pod = made.pods[0]
    assert seen(pod, made.outside, family, protocol, FAR[family]) == ip_address(pod.address(family))


@families
def test_towards_a_container_of_the_node_it_keeps_its_own(made: Site, family):
    pod, other = made.pods[:2]
    assert seen(pod, other.namespace, family, TCP, other.address(family)) == ip_address(pod.address(family))


@families
def test_towards_the_node_it_keeps_its_own(made: Site, family):
    pod = made.pods[0]
    assert seen(pod, made.node, family, TCP, NODE[family]) == ip_address(pod.address(family))


@families
@pytest.mark.parametrize("which", [2, 3], ids=["without masquerade", "with a list of its own"])
def test_others_have_other_rules(made: Site, family, which):
    pod = made.pods[which]
    assert seen(pod, made.outside, family, TCP, OUTSIDE[family]) == ip_address(pod.address(family))


@families
@protocols
def test_answers_to_the_outside_keep_the_address_that_was_asked(made: Site, family, protocol):
    pod = made.pods[0]
    with server(pod.namespace, family, protocol, PORT) as here, outsider(made, family, protocol) as asking:
        assert ask(asking, pod.address(family), PORT, [here]).client == ip_address(OUTSIDE[family])


def test_a_removed_container_is_not_masqueraded_any_more(made: Site):
    pod = made.pods[1]
    made.remove(pod)
    try:
        assert str(seen(pod, made.outside, Family.IPV4, TCP, OUTSIDE[Family.IPV4])) == pod.address(Family.IPV4)
    finally:
        made.add(pod)


# --- forged sources -------------------------------------------------------------------------------------------------

FORGED = {Family.IPV4: "10.244.1.200", Family.IPV6: "fd00:244:1::c8"}


def forge(made: Site, pod: Pod, source: str) -> None:
    """Let a container have an address that is not its own; the kernel's own protection is off, where it has one."""
    names = ["all", *(other.attachment.link for other in made.pods)]
    made.node.run(lambda: sysctls.write({f"net/ipv4/conf/{name}/rp_filter": 0 for name in names}))
    address = ip_address(source)
    carry_out(pod.namespace, links.address(address, address.max_prefixlen, 2))


def heard_first(made: Site, pod: Pod, family: Family, forged: str) -> str:
    """Sends to the node with a forged source and then, the same way, with its own: who is heard first?"""
    with (
        server(made.node, family, UDP, PORT) as here,
        client(pod.namespace, family, UDP, (forged, 0)) as liar,
        client(pod.namespace, family, UDP, (pod.address(family), 0)) as honest,
    ):
        liar.sendto(b"forged", (NODE[family], PORT))
        honest.sendto(b"own", (NODE[family], PORT))
        return str(here.recvfrom(64)[1][0])


@pytest.mark.parametrize("whose", ["nobody's", "another container's", "the node's"])
@families
def test_of_a_routed_container_a_forged_source_is_dropped(family, whose):
    with site(Mode.ROUTED) as made:
        pod, other = made.pod(), made.pod()
        source = {"nobody's": FORGED, "another container's": {family: other.address(family)}, "the node's": OUTSIDE}
        forged = source[whose][family]
        forge(made, pod, forged)
        assert heard_first(made, pod, family, forged) == pod.address(family)


@families
def test_on_a_bridge_nothing_is_dropped(family):
    with site(Mode.BRIDGE) as made:
        pod = made.pod()
        forge(made, pod, FORGED[family])
        assert heard_first(made, pod, family, FORGED[family]) == FORGED[family]


def test_a_routed_container_still_finds_its_neighbours():
    """Its link-local address is on no route of its own, and duplicate address detection has no source at all."""
    with site(Mode.ROUTED) as made:
        pod = made.pod()
        name = pod.attachment.link
        near = in_links(made.node, lambda kernel: kernel.read()[name])
        link_local = ip_address("fe80::7"), ip_address("fe80::8")
        carry_out(made.node, links.address(link_local[0], 64, near.index))
        carry_out(pod.namespace, links.address(link_local[1], 64, 2))
        with (
            server(made.node, Family.IPV6, UDP, PORT) as here,
            client(pod.namespace, Family.IPV6, UDP, ("fe80::8", 0, 0, 2)) as asking,
        ):
            asking.connect(("fe80::7", PORT, 0, 2))
            asking.send(b"ask")
            assert here.recvfrom(64)[1][0].startswith("fe80::8")


def test_forged_sources_are_dropped_also_in_a_family_the_container_has_no_address_of():
    with site(Mode.ROUTED) as made:
        pod = made.wired()
        made.add(replace(pod, attachment=replace(pod.attachment, addresses=pod.attachment.addresses[:1])))
        forge(made, pod, FORGED[Family.IPV6])
        assert heard_first(made, pod, Family.IPV6, FORGED[Family.IPV6]) == pod.address(Family.IPV6)
