"""What an attachment is made of, as orders. Pure; the kernel's view is in test_cni_wiring. See cni/link_program.py."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest
from wired import GATEWAY, attachment

from cni import link_program
from cni.config import BridgeOptions, Mode
from netplane.kernel import link_orders
from netplane.kernel.links import Order
from netplane.kernel.netlink import nested

BOTH = pytest.mark.parametrize("mode", [Mode.BRIDGE, Mode.ROUTED], ids=lambda mode: mode.value)
AF_SPEC = 26


def orders(mode: Mode, *, ipv6: bool) -> list[Order]:
    own = attachment(1, mode, (4,))
    return [*link_program.cable(own, 10, 3, 2, ipv6=ipv6), *link_program.inside(own, 11, ipv6=ipv6)]


@BOTH
def test_a_kernel_without_ipv6_is_given_no_settings_of_it(mode):
    # nested(AF_INET6) with IFLA_INET6_ADDR_GEN_MODE: the kernel refuses the whole message if it lacks the family.
    mode_of_ipv6 = nested(socket.AF_INET6, b"\5\0\x08\0\1\0\0\0")
    with_it = [order for order in orders(mode, ipv6=True) if mode_of_ipv6 in order.request.payload]
    without = [order for order in orders(mode, ipv6=False) if mode_of_ipv6 in order.request.payload]
    assert (len(with_it), len(without)) == (2, 0)


@BOTH
def test_the_same_attachment_is_the_same_bytes(mode):
    assert orders(mode, ipv6=True) == orders(mode, ipv6=True)


@BOTH
@pytest.mark.parametrize("checked", [False, True])
def test_addresses_are_checked_for_duplicates_where_that_is_asked(mode, checked):
    own = attachment(1, mode, (6,), duplicate_address_detection=checked)
    (address,) = (each.address for each in own.addresses)
    flags = (0 if checked else link_orders.NODAD) | (link_orders.NO_PREFIX_ROUTE if mode is Mode.ROUTED else 0)
    wanted = link_orders.address(address.packed, address.network.prefixlen, 11, flags)
    assert wanted in link_program.inside(own, 11, ipv6=True)


def test_a_link_local_address_follows_from_the_mac():
    assert link_program.link_local(bytes.fromhex("0a580af40102")).hex() == "fe80000000000000" + "08580afffef40102"


def test_a_bridges_mac_follows_from_its_first_gateway_or_else_its_name():
    assert link_program.bridge_mac(attachment()).hex(":") == "0a:58:0a:f4:01:01"
    assert link_program.bridge_mac(attachment(versions=(6,))).hex(":") == "0a:58:00:00:00:01"
    unnumbered = attachment(bridge=BridgeOptions("br7", gateway=False))
    assert link_program.bridge_mac(unnumbered) == b"\x0a\x58\0br7"


def test_gateways_are_named_once_with_their_networks_length():
    twice = replace(attachment(), addresses=attachment(1).addresses + attachment(2).addresses)
    lengths = [(packed.hex(), length) for packed, length in link_program.gateway_addresses(twice)]
    assert lengths == [("0af40101", 24), ("fd000244000100000000000000000001", 64)]
    assert link_program.gateway_addresses(attachment(1, Mode.ROUTED)) == []


def test_a_route_without_a_next_hop_goes_by_the_first_gateway_of_its_family():
    own = attachment()
    for version in (4, 6):
        route = replace(own.routes[version == 6], via=None)
        assert str(link_program.next_hop(own, route)) == GATEWAY[version]
