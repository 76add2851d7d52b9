"""Comparisons as nft reads them: what they say, and that the kernel needs no call for them."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from netplane.backends.network.words import among, host, several, within
from netplane.kernel import command
from netplane.kernel.netns import Namespace
from netplane.model.address import Family

NETWORKS = {
    "10.244.1.0/24": "ip saddr & 255.255.255.0 == 10.244.1.0",
    "10.244.0.0/14": "ip saddr & 255.252.0.0 == 10.244.0.0",
    "192.0.2.1/32": "ip saddr == 192.0.2.1",
    "0.0.0.0/0": "",
    "fd00:244::/32": "@nh,64,32 == 0xfd000244",
    "fd00:244:1::/48": "@nh,96,32 & 0xffff0000 == 0x00010000 @nh,64,32 == 0xfd000244",
    "fd00:244:1:2::/64": "@nh,96,32 == 0x00010002 @nh,64,32 == 0xfd000244",
    "::/0": "",
}


@pytest.mark.parametrize(("network", "words"), NETWORKS.items())
def test_a_network_is_compared_word_by_word(network, words):
    assert within("saddr", ip_network(network)) == words


def test_destinations_are_elsewhere():
    assert within("daddr", ip_network("10.0.0.0/8")) == "ip daddr & 255.0.0.0 == 10.0.0.0"
    expected = ("@nh,288,32 == 0x00000001", "@nh,256,32 == 0x00000000", "@nh,224,32 == 0x00000000")
    assert within("daddr", host(ip_address("fd00::1"))) == " ".join((*expected, "@nh,192,32 == 0xfd000000"))


def test_addresses_and_beginnings_of_them_are_looked_up():
    assert among("saddr", Family.IPV4, "nodes") == "ip saddr @nodes"
    assert among("saddr", Family.IPV6, "nodes") == "ip6 saddr @nodes"
    assert among("daddr", Family.IPV4, "pods-24", 24) == "ip daddr & 255.255.255.0 @pods-24"
    assert among("daddr", Family.IPV6, "pods-64", 64) == "ip6 daddr & ffff:ffff:ffff:ffff:: @pods-64"


def test_one_is_no_set():
    assert several(["eth0"]) == '"eth0"'
    assert several(["eth0", "eth1"]) == '{ "eth0", "eth1" }'
    assert several([ip_address("192.0.2.1"), ip_network("10.0.0.0/8")]) == "{ 192.0.2.1, 10.0.0.0/8 }"


@pytest.mark.kernel
@pytest.mark.parametrize("network", [each for each, words in NETWORKS.items() if words])
def test_nft_loads_four_bytes_at_a_time(network):
    family = "ip6" if ":" in network else "ip"
    script = (
        f"add table {family} t; add chain {family} t c; add rule {family} t c {within('saddr', ip_network(network))}"
    )
    with Namespace() as namespace:
        words = ("nft", "--debug=netlink", f"{script} drop")
        shown = namespace.run(lambda: command.run(*words, mechanism="test", doing="load"))
    loads = [line for line in shown.splitlines() if "payload load" in line]
    assert loads
    assert all("load 4b" in line for line in loads)
