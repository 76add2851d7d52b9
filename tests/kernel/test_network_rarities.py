"""What kernels show of routes and ways in rarer moments: what was learned, what is left over, what others made."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address

import pytest
from uplinked_node import NetworkNode, overlay

from netplane.errors import KernelError
from netplane.kernel import command, sysctls, underlay
from netplane.kernel.links import Links
from netplane.kernel.netns import Namespace
from netplane.kernel.underlay import UnderlayPath
from netplane.model.address import IPAddress

pytestmark = pytest.mark.kernel


@pytest.fixture
def here() -> Iterator[NetworkNode]:
    with NetworkNode() as made:
        yield made


def path(where: NetworkNode, address: str) -> UnderlayPath | None:
    wanted: IPAddress = ip_address(address)

    def work() -> UnderlayPath | None:
        with Links() as kernel:
            return underlay.look(kernel, [wanted]).paths.get(wanted)

    return where.run(work)


def test_a_next_hop_of_the_other_family_is_a_router(here):
    here.ip("route", "add", "203.0.113.0/24", "via", "inet6", "fd00:18::9", "dev", "eth0")
    found = path(here, "203.0.113.7")
    assert found is not None
    assert not found.on_link


def test_an_mtu_that_a_router_told_is_not_the_way_s(here):
    """It is forgotten after ten minutes, and only whoever sends hears of it: a plan that follows it would not rest."""
    with Namespace() as router:

        def ip(*words: str) -> None:
            router.run(lambda: command.run("ip", *words, mechanism="test", doing="change"))

        here.ip("link", "set", "far", "netns", str(router.path))
        ip("link", "set", "lo", "up")
        ip("link", "add", "narrow", "mtu", "1400", "type", "veth", "peer", "name", "end", "mtu", "1400")
        for name, address in (("far", "198.18.0.9/15"), ("narrow", "203.0.113.1/24")):
            ip("address", "add", address, "dev", name)
            ip("link", "set", name, "up")
        ip("link", "set", "end", "up")
        router.run(lambda: sysctls.write({"net/ipv4/ip_forward": 1}))
        here.ip("route", "add", "203.0.113.0/24", "via", "198.18.0.9")
        with here.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sending:
            sending.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
            sending.connect(("203.0.113.7", 9))
            deadline = time.monotonic() + 20
            while "mtu 1400" not in here.ip("route", "get", "203.0.113.7"):
                assert time.monotonic() < deadline
                try:
                    sending.send(bytes(1450))
                except OSError:
                    continue  # it knows already
        found = path(here, "203.0.113.7")
        assert found is not None
        assert found.mtu == 1500


def test_without_sweeping_what_is_left_over_stays(here):
    here.apply(overlay(1, 2))
    here.ip("rule", "add", "from", "10.128.0.0/24", "iif", "eth0", "lookup", "98", "pref", "98", "proto", "98")
    here.apply(overlay(1, 2, 3), sweep=False)
    assert "iif eth0" in here.ip("rule")
    here.apply(overlay(1, 2, 3))
    assert "iif eth0" not in here.ip("rule")


def test_rules_of_others_stay(here):
    here.ip("rule", "add", "from", "10.128.0.0/24", "lookup", "98", "pref", "97", "proto", "99")
    here.apply(overlay(1))
    here.apply(overlay())
    assert "97:" in here.ip("rule")


def test_a_link_we_make_has_our_group(here):
    with suppress(KernelError):  # what is not ours gets nothing
        here.apply(overlay(1))
    (link,) = here.shown("link", "show", "np-vxlan4")
    assert link["group"] == "98"
