"""What Wiring promises, in namespaces of the kernel, with packets. See cni/wiring.py."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from wired import GATEWAY, HOST, Site, address_of, answers, attachment, here, udp

from cni.attachment import PodAddress
from cni.config import BridgeOptions, Mode, PortMapping
from cni.failure import Code, Failure
from cni.result import Route
from cni.wiring import DOOMED, Wiring
from netplane.errors import KernelError
from netplane.kernel import sysctls
from netplane.kernel.netns import Namespace
from netplane.model.address import Protocol

pytestmark = pytest.mark.kernel
BOTH = pytest.mark.parametrize("mode", [Mode.BRIDGE, Mode.ROUTED], ids=lambda mode: mode.value)


@pytest.fixture
def site() -> Iterator[Site]:
    own = here()
    with Site() as made:
        yield made
    assert here() == own, "a call left this thread in another namespace"


# --- packets ----------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("version", [4, 6])
def test_containers_and_host_reach_each_other(site, mode, version):
    one, other = site.attached(attachment(1, mode), attachment(2, mode))
    assert answers(one, other, address_of(2, version))
    assert answers(one, site.host, HOST[version])
    assert answers(site.host, one, address_of(1, version))
    assert answers(one, one, address_of(1, version))


@BOTH
def test_a_container_of_one_family_is_left_without_the_other(site, mode):
    one, other = site.attached(attachment(1, mode, (4,)), attachment(2, mode, (6,)))
    assert "inet6" not in site.ip(one, "address", "show", "eth0")
    assert "inet " not in site.ip(other, "address", "show", "eth0")
    assert answers(site.host, other, address_of(2, 6))


def test_a_routed_container_cannot_send_from_an_address_that_is_not_its_own(site):
    (one,) = site.attached(attachment(1, Mode.ROUTED))
    site.ip(one, "address", "add", "10.9.9.9/32", "dev", "eth0")
    with udp(site.host, HOST[4]) as there, udp(one, "10.9.9.9") as spoofed, udp(one, address_of(1, 4)) as own:
        spoofed.sendto(b"spoofed", there.getsockname())
        own.sendto(b"own", there.getsockname())
        assert there.recv(10) == b"own"


# --- what is made -----------------------------------------------------------------------------------------------------


@BOTH
def test_macs_names_and_mtu_are_the_attachments(site, mode):
    wanted = attachment(1, mode)
    (one,) = site.attached(wanted)
    inner, outer = site.links(one)["eth0"], site.links()[wanted.link]
    assert inner["address"] == wanted.mac.hex(":")
    assert outer["address"] == wanted.host_mac.hex(":")
    assert (inner["mtu"], outer["mtu"]) == (1450, 1450)
    assert outer["inet6_addr_gen_mode"] == "none"
    assert outer["ifalias"] == "c1"
    assert abs(inner["ifindex"] - outer["ifindex"]) == 1


def test_the_bridge_keeps_the_address_it_was_made_with(site):
    first = attachment(1)
    site.attached(first)
    bridge = site.links()["cni0"]
    assert bridge["address"] == "0a:58:0a:f4:01:01" == site.wiring.bridge_mac(first).hex(":")
    site.attached(replace(attachment(2), host_mac=bytes.fromhex("020000000001")))  # lower: a bridge would take it
    site.wiring.detach([first.link])
    assert site.links()["cni0"]["address"] == "0a:58:0a:f4:01:01"
    assert "PROMISC" not in bridge["flags"]
    assert bridge["linkinfo"]["info_data"]["stp_state"] == 0
    assert site.host.run(lambda: sysctls.read("net/ipv6/conf/cni0/accept_ra")) == "0"


@pytest.mark.parametrize("hairpin", [True, False])
@pytest.mark.parametrize("isolated", [True, False])
def test_a_port_is_hairpin_and_isolated_as_asked(site, hairpin, isolated):
    wanted = attachment(bridge=BridgeOptions(hairpin=hairpin, isolated=isolated))
    site.attached(wanted)
    port = site.links()[wanted.link]["linkinfo"]["info_slave_data"]
    assert (port["hairpin"], port["isolated"]) == (hairpin, isolated)


def test_the_host_forwards_and_a_routed_link_is_strict(site):
    wanted = attachment(1, Mode.ROUTED, ports=(PortMapping(Protocol.TCP, 8080, 80),))
    site.attached(wanted)

    def seen() -> list[str]:
        v4, v6 = f"net/ipv4/conf/{wanted.link}", f"net/ipv6/conf/{wanted.link}"
        names = [f"{v4}/rp_filter", f"{v4}/proxy_arp", f"{v4}/forwarding", f"{v4}/route_localnet", f"{v6}/proxy_ndp"]
        names += ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"]
        return [sysctls.read(each) for each in names]

    assert site.host.run(seen) == ["1"] * 7
    assert site.host.run(lambda: sysctls.read(f"net/ipv6/conf/{wanted.link}/accept_ra")) == "0"
    assert "10.244.1.11 proto 97" in site.ip(site.host, "route", "show", "dev", wanted.link)
    assert "fd00:244:1::b proto 97" in site.ip(site.host, "-6", "route", "show", "dev", wanted.link)


def test_a_bridge_takes_packets_of_localhost_once_a_container_has_host_ports(site):
    def localnet() -> str:
        return site.host.run(lambda: sysctls.read("net/ipv4/conf/cni0/route_localnet"))

    site.attached(attachment(1))
    assert localnet() == "0"
    site.attached(attachment(2, ports=(PortMapping(Protocol.TCP, 8080, 80),)))
    assert localnet() == "1"


def test_routes_have_the_details_that_were_asked_for(site):
    to, gateway = ip_network("10.99.0.0/16"), ip_address(GATEWAY[4])
    routes = (
        Route(to, mtu=1400, advertised_mss=1300, priority=7),
        Route(ip_network("10.98.0.0/16"), gateway, table=1234),
        Route(ip_network("10.97.0.0/16"), gateway, scope=0),
        Route(ip_network("fd09::/16"), mtu=1300),
    )
    (one,) = site.attached(attachment(routes=routes))
    shown = site.ip(one, "route", "show", "table", "all")
    assert "10.99.0.0/16 via 10.244.1.1 dev eth0 metric 7 mtu 1400 advmss 1300" in shown
    assert "10.98.0.0/16 via 10.244.1.1 dev eth0 table 1234" in shown
    assert "10.97.0.0/16 via 10.244.1.1 dev eth0" in shown
    assert "fd09::/16 via fd00:244:1::1 dev eth0 metric 1024 mtu 1300" in site.ip(one, "-6", "route")


def test_two_routes_to_the_same_network_are_both_there(site):
    to = ip_network("fd09::/16")
    hops = [ip_address(f"fd00:244:1::{each}") for each in "12"]
    (one,) = site.attached(attachment(routes=tuple(Route(to, hop) for hop in hops)))
    shown = site.ip(one, "-6", "route", "show", "fd09::/16")
    assert all(f"via {hop}" in shown for hop in hops)


def test_a_container_may_have_several_interfaces(site):
    (one,) = site.attached(attachment(1))
    second = attachment(7, ifname="net1", routes=())
    site.wiring.attach(second, one.fd)
    assert {"lo", "eth0", "net1"} == site.links(one).keys()
    site.wiring.check(attachment(1), one.fd)
    site.wiring.check(second, one.fd)


def test_without_an_interface_the_link_is_there_and_down(site):
    wanted = attachment(addresses=(), routes=(), interface=False)
    (one,) = site.attached(wanted)
    assert "UP" not in site.links(one)["eth0"]["flags"]
    assert "inet" not in site.ip(one, "address", "show", "eth0")
    site.wiring.check(wanted, one.fd)


def test_ipv6_is_turned_on_where_a_container_has_it_turned_off(site):
    one = site.container()
    one.run(lambda: sysctls.write({"net/ipv6/conf/all/disable_ipv6": 1, "net/ipv6/conf/default/disable_ipv6": 1}))
    site.wiring.attach(attachment(), one.fd)
    assert answers(site.host, one, address_of(1, 6))
    site.wiring.check(attachment(), one.fd)


def test_ipv6_addresses_survive_when_the_link_goes_down(site):
    (one,) = site.attached(attachment())
    site.ip(one, "link", "set", "eth0", "down")
    assert address_of(1, 6) in site.ip(one, "address", "show", "eth0")


def test_addresses_can_be_checked_for_duplicates(site):
    first = attachment(1, duplicate_address_detection=True)
    (one,) = site.attached(first)
    site.wiring.settle(first, one.fd)
    shown = site.ip(one, "-6", "address", "show", "eth0", "scope", "global")
    assert address_of(1, 6) in shown
    assert "tentative" not in shown
    twice = replace(attachment(2, duplicate_address_detection=True), addresses=attachment(1).addresses)
    (two,) = site.attached(twice)
    with pytest.raises(Failure, match=f"somebody else has {address_of(1, 6)}"):
        site.wiring.settle(twice, two.fd)


def test_parameters_are_set_inside_and_nowhere_else(site):
    names = ("net/core/somaxconn", "net/ipv4/conf/eth0/arp_notify")
    (one,) = site.attached(attachment(sysctls=((names[0], "77"), (names[1], "0"))))
    assert [one.run(lambda name=name: sysctls.read(name)) for name in names] == ["77", "0"]
    assert site.host.run(lambda: sysctls.read(names[0])) != "77"


@pytest.mark.parametrize(
    "name", ["kernel/core_pattern", "net/../kernel/core_pattern", "net", "net//x", "../etc/passwd"]
)
def test_a_parameter_that_is_not_the_networks_is_refused_before_anything_is_made(site, name):
    wanted = attachment(sysctls=((name, "1"),))
    with pytest.raises(Failure, match="not one of the network's") as caught:
        site.attached(wanted)
    assert caught.value.code is Code.INVALID_CONFIG
    assert not site.wiring.present()


# --- all or nothing ---------------------------------------------------------------------------------------------------


def test_an_interface_that_exists_is_refused_and_left(site):
    (one,) = site.attached(attachment(1))
    with pytest.raises(Failure, match=r"container veth name provided \(eth0\) already exists") as caught:
        site.wiring.attach(attachment(2), one.fd)
    assert caught.value.code is Code.DUPLICATE
    assert list(site.wiring.present()) == [attachment(1).link]
    site.wiring.check(attachment(1), one.fd)


def test_attaching_the_same_twice_is_refused(site):
    (one,) = site.attached(attachment(1))
    with pytest.raises(Failure, match="already exists"):
        site.wiring.attach(attachment(1), one.fd)
    site.wiring.check(attachment(1), one.fd)


@BOTH
def test_what_fails_inside_leaves_nothing(site, mode):
    bad = attachment(1, mode, routes=(Route(ip_network("10.99.0.0/16"), ip_address("203.0.113.77")),))
    with pytest.raises(KernelError, match="add a route over link"):
        site.attached(bad)
    assert not site.wiring.present()


def test_a_parameter_that_does_not_exist_leaves_nothing(site):
    with pytest.raises(Exception, match=r"net\.ipv4\.no_such does not exist"):
        site.attached(attachment(sysctls=(("net/ipv4/no_such", "1"),)))
    assert not site.wiring.present()


@BOTH
def test_a_descriptor_of_no_namespace_is_said_to_be_none(site, mode):
    fd = os.open("/dev/null", os.O_RDONLY)
    try:
        with pytest.raises(Failure, match="CNI_NETNS cannot be entered") as caught:
            site.wiring.attach(attachment(1, mode), fd)
    finally:
        os.close(fd)
    assert caught.value.code is Code.INVALID_NETNS
    assert not site.wiring.present()


def test_a_number_that_is_taken_is_left_alone(site):
    site.attached(attachment(1))
    taken = site.links()[attachment(1).link]["ifindex"] + 2
    site.ip(site.host, "link", "add", "foreign", "index", str(taken), "type", "bridge")
    site.attached(attachment(2))
    foreign = site.links()["foreign"]
    assert "UP" not in foreign["flags"]
    assert "master" not in foreign


def test_the_link_of_an_earlier_container_of_this_name_is_replaced(site):
    (old,) = site.attached(attachment(1))
    (new,) = site.attached(attachment(1))
    assert "eth0" not in site.links(old)
    site.wiring.check(attachment(1), new.fd)


# --- bridges ----------------------------------------------------------------------------------------------------------


def test_a_bridge_with_another_address_is_refused_unless_it_may_be_taken_away(site):
    site.ip(site.host, "link", "add", "cni0", "type", "bridge")
    site.ip(site.host, "address", "add", "10.99.0.1/24", "dev", "cni0")
    with pytest.raises(Failure, match=r'"cni0" already has an IP address different from 10\.244\.1\.1/24') as caught:
        site.attached(attachment())
    assert caught.value.code is Code.INVALID_CONFIG
    (one,) = site.attached(attachment(bridge=BridgeOptions(force_address=True)))
    assert "10.99.0.1" not in site.ip(site.host, "address", "show", "cni0")
    assert answers(one, site.host, GATEWAY[4])


def test_two_networks_of_ipv6_that_do_not_overlap_share_a_bridge(site):
    site.ip(site.host, "link", "add", "cni0", "type", "bridge")
    site.ip(site.host, "address", "add", "fd00:99::1/64", "dev", "cni0", "nodad")
    site.attached(attachment(1, versions=(6,)))
    assert "fd00:99::1" in site.ip(site.host, "address", "show", "cni0")


def test_a_link_that_is_no_bridge_is_refused(site):
    site.ip(site.host, "link", "add", "cni0", "type", "veth", "peer", "name", "other")
    with pytest.raises(Failure, match='"cni0" already exists but is not a bridge'):
        site.attached(attachment())


def test_an_adopted_bridge_keeps_the_address_it_has(site):
    site.ip(site.host, "link", "add", "cni0", "type", "bridge")
    before = site.links()["cni0"]["address"]
    wanted = [attachment(1), replace(attachment(2), host_mac=bytes.fromhex("020000000001"))]
    site.attached(*wanted)
    assert site.links()["cni0"]["address"] == before
    assert site.wiring.repair(wanted) == []


def test_a_bridge_somebody_deleted_or_changed_is_made_again_by_the_next_container(site):
    site.attached(attachment(1))
    site.ip(site.host, "link", "delete", "cni0")
    (two,) = site.attached(attachment(2))
    assert answers(two, site.host, GATEWAY[4])
    site.ip(site.host, "link", "set", "cni0", "down")
    (three,) = site.attached(attachment(3))
    assert answers(three, site.host, GATEWAY[4])
    site.ip(site.host, "address", "flush", "dev", "cni0")
    (four,) = site.attached(attachment(4))
    assert answers(four, site.host, GATEWAY[4])
    assert answers(four, site.host, GATEWAY[6])


def test_a_bridge_may_have_no_address(site):
    (one,) = site.attached(attachment(bridge=BridgeOptions(gateway=False), routes=()))
    assert "inet " not in site.ip(site.host, "address", "show", "cni0")
    assert site.host.run(lambda: sysctls.read("net/ipv4/ip_forward")) == "0"
    assert "eth0" in site.links(one)


def test_a_vlan_is_refused_by_name_where_the_kernel_cannot(site):
    wanted = attachment(bridge=BridgeOptions(vlan=100))
    site.ip(site.host, "link", "add", "probe", "type", "bridge")
    if site.filters_vlans("probe"):
        site.attached(wanted)
        assert "100 PVID Egress Untagged" in site.run(site.host, "bridge", "vlan", "show", "dev", wanted.link)
        return
    with pytest.raises(Failure, match="vlan 100: this kernel cannot filter VLANs on bridges") as caught:
        site.attached(wanted)
    assert caught.value.code is Code.UNSUPPORTED_FIELD
    assert "CONFIG_BRIDGE_VLAN_FILTERING" in caught.value.details
    assert not site.wiring.present()


# --- the end ----------------------------------------------------------------------------------------------------------


@BOTH
def test_a_doomed_container_is_not_heard_any_more_and_others_are(site, mode):
    one, other = site.attached(attachment(1, mode), attachment(2, mode))
    with udp(site.host, HOST[4]) as there, udp(one, address_of(1, 4)) as dead, udp(other, address_of(2, 4)) as living:
        for each in (dead, living):  # whoever is neighbour of whom is known from here on
            each.sendto(b"before", there.getsockname())
            assert there.recv(10) == b"before"
        site.wiring.doom([attachment(1, mode).link])
        dead.sendto(b"dead", there.getsockname())
        living.sendto(b"living", there.getsockname())
        assert there.recv(10) == b"living"
    assert site.wiring.present()[attachment(1, mode).link].group == DOOMED


@BOTH
def test_deleting_leaves_others_alone_and_may_be_repeated(site, mode):
    wanted = [attachment(each, mode) for each in range(4)]
    containers = site.attached(*wanted)
    site.wiring.doom([wanted[0].link, wanted[1].link, "npb000000000000"])
    for _ in range(2):
        site.wiring.detach([wanted[0].link, wanted[2].link, "npr000000000000"])
        assert site.wiring.present().keys() == {wanted[1].link, wanted[3].link}
    site.wiring.check(wanted[3], containers[3].fd)
    site.wiring.doom([wanted[0].link])
    assert site.wiring.orphans([wanted[3]]) == [wanted[1].link]


def test_no_links_are_no_work(site):
    site.wiring.doom([])
    site.wiring.detach([])
    assert site.wiring.present() == {}
    assert not site.wiring.exists("npb000000000000")


def test_a_link_ends_with_its_container(site):
    wanted = attachment()
    with Namespace() as one:
        site.wiring.attach(wanted, one.fd)
        site.wiring.events.read()
    gone: frozenset[str] = frozenset()
    while wanted.link not in gone:
        gone |= site.wiring.events.read().gone
    assert not site.wiring.exists(wanted.link)


def test_one_thread_may_delete_while_another_attaches(site):
    wanted = [attachment(each) for each in range(24)]
    containers = [site.container() for _ in wanted]
    doomed: queue.SimpleQueue[str] = queue.SimpleQueue()
    places: list[int] = []

    def bury() -> None:
        with site.host.run(Wiring) as other:
            while link := doomed.get():
                other.detach([link])
        places.append(here())

    thread = threading.Thread(target=bury)
    thread.start()
    for number, (each, container) in enumerate(zip(wanted, containers, strict=True)):
        site.wiring.attach(each, container.fd)
        if number % 2:
            site.wiring.doom([each.link])
            doomed.put(each.link)
    doomed.put("")
    thread.join()
    assert places == [here()]
    assert site.wiring.present().keys() == {each.link for each in wanted[::2]}
    for each, container in zip(wanted[::2], containers[::2], strict=True):
        site.wiring.check(each, container.fd)


# --- other things -----------------------------------------------------------------------------------------------------


def test_loopback_goes_up(site):
    one = site.container()
    with pytest.raises(Failure, match="lo is down"):
        site.wiring.loopback_check(one.fd)
    site.wiring.loopback_up(one.fd)
    site.wiring.loopback_check(one.fd)


def test_the_mtu_is_the_smallest_on_the_way_to_the_peers(site):
    peers = [ip_address("192.0.2.1"), ip_address("192.0.2.129"), ip_address("2001:db8:7::1")]
    assert site.wiring.path_mtu(peers) == 1500
    for number, (name, mtu) in enumerate((("up0", 1400), ("up1", 9000), ("up2", 1300))):
        site.ip(site.host, "link", "add", name, "mtu", str(mtu), "type", "bridge")
        site.ip(site.host, "link", "set", name, "up")
        site.ip(site.host, "address", "add", f"192.0.2.{128 * number + 2}/25", "dev", name) if number < 2 else None
    site.ip(site.host, "route", "add", "default", "dev", "up2")
    assert site.wiring.path_mtu([]) == 1300
    assert site.wiring.path_mtu(peers[1:2]) == 9000
    assert site.wiring.path_mtu(peers) == 1400
    assert site.wiring.path_mtu([ip_address(HOST[4]), peers[1]]) == 9000  # one of them is this host
    site.ip(site.host, "route", "add", "192.0.2.129", "dev", "up1", "mtu", "1280")
    assert site.wiring.path_mtu(peers) == 1280


def test_an_explicit_mac_is_announced_at_once(site):
    wanted = replace(attachment(), mac=bytes.fromhex("020102030405"))
    (one,) = site.attached(wanted)
    assert site.links(one)["eth0"]["address"] == "02:01:02:03:04:05"
    assert one.run(lambda: sysctls.read("net/ipv4/conf/eth0/arp_notify")) == "1"


def test_an_address_of_another_network_than_the_gateways_works_too(site):
    far = PodAddress(ip_interface("10.77.0.5/24"), ip_address("10.77.0.1"))
    (one,) = site.attached(attachment(addresses=(far,), routes=(Route(ip_network("0.0.0.0/0")),)))
    assert answers(one, site.host, HOST[4])
