"""The links driver against the kernel, in namespaces of its own."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from netplane.errors import KernelError, RequirementError
from netplane.kernel import command, links, sysctls
from netplane.kernel.links import Links, Peer
from netplane.kernel.netns import Namespace
from netplane.model.address import Family

pytestmark = pytest.mark.kernel
MAC = bytes.fromhex("026e70000001")


def carry_out(namespace: Namespace, *orders: links.Order) -> None:
    def work() -> None:
        with Links() as here:
            here.carry_out(orders)

    namespace.run(work)


def shown(namespace: Namespace, *words: str) -> str:
    return namespace.run(lambda: command.run("ip", *words, mechanism="test", doing="show"))


def test_the_far_end_of_a_cable_is_born_in_its_namespace_and_both_become_ready():
    with Namespace() as here, Namespace() as there:
        carry_out(here, links.veth("near", 10, Peer("far", 2, there.fd)))
        carry_out(there, links.up(2))
        for namespace, name, index in ((here, "near", 10), (there, "far", 2)):

            def work(name: str = name) -> links.LinkState:
                with Links() as kernel:
                    kernel.wait_ready([name], 10)
                    return kernel.read()[name]

            assert namespace.run(work).index == index


def test_a_link_without_carrier_is_not_ready():
    with Namespace() as here, Namespace() as there:
        carry_out(here, links.veth("near", 10, Peer("far", 2, there.fd)))

        def work() -> None:
            with Links() as kernel:
                kernel.wait_ready(["near"], 0.05)

        with pytest.raises(KernelError, match="not up after"):
            here.run(work)


def test_a_bridge_keeps_its_address_and_its_port_reflects():
    with Namespace() as here, Namespace() as there:
        carry_out(here, links.bridge("br", 3, MAC), links.veth("port", 10, Peer("far", 2, there.fd), 3))
        carry_out(here, links.hairpin(10))
        assert "02:6e:70:00:00:01" in shown(here, "link", "show", "br")
        details = shown(here, "-d", "link", "show", "port")
        assert "master br" in details
        assert "hairpin on" in details


def test_addresses_routes_rules_and_neighbours_are_as_ordered():
    with Namespace() as here:
        carry_out(
            here,
            links.up(links.LOOPBACK),
            links.bridge("br", 3, MAC),
            links.address(ip_address("198.18.0.1"), 24, 3),
            links.address(ip_address("fd00::1"), 64, 3, preferred=False),
            links.route(ip_network("10.0.0.0/8"), 3, ip_address("203.0.113.1"), table=1000),
            links.local_route(ip_network("::/0"), 100),
            links.rule_for_mark(Family.IPV6, 5, 100, 20),
            links.rule_for_link(Family.IPV4, "br", 1000, 10),
            links.neighbour(ip_address("198.18.0.9"), MAC, 3),
        )
        assert "198.18.0.1/24" in shown(here, "address", "show", "br")
        assert "deprecated" in shown(here, "-6", "address", "show", "br")
        assert "10.0.0.0/8 via 203.0.113.1" in shown(here, "route", "show", "table", "1000")
        assert "local default" in shown(here, "-6", "route", "show", "table", "100")
        assert "20:\tfrom all fwmark 0x5 lookup 100" in shown(here, "-6", "rule")
        assert "10:\tfrom all iif br lookup 1000" in shown(here, "rule")
        assert "02:6e:70:00:00:01 PERMANENT" in shown(here, "neighbour")


def test_what_the_kernel_refuses_is_named_in_words():
    with Namespace() as here, pytest.raises(KernelError, match=r"add address 198\.18\.0\.1/24 to link 77"):
        carry_out(here, links.address(ip_address("198.18.0.1"), 24, 77))


def test_parameters_are_those_of_the_namespace():
    with Namespace() as here, Namespace() as other:
        here.run(lambda: sysctls.write({"net/ipv4/ip_forward": 1}))
        assert here.run(lambda: sysctls.read("net/ipv4/ip_forward")) == "1"
        assert other.run(lambda: sysctls.read("net/ipv4/ip_forward")) == "0"


def test_a_parameter_this_kernel_lacks_is_a_requirement():
    with pytest.raises(RequirementError, match=r"net\.ipv4\.no_such does not exist"):
        sysctls.write({"net/ipv4/no_such": 1})
