"""Bandwidth: what a container gets and sends is limited, by real packets. See cni/link_program.py and kernel/tc.py."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from wired import HOST, Site, address_of, attachment, udp

from cni.config import Bandwidth, Mode
from cni.failure import Failure
from cni.link_program import bucket, links_of, queue_name
from netplane.errors import RequirementError
from netplane.kernel import sysctls
from netplane.kernel.netns import Namespace
from netplane.kernel.tc import Bucket

RATE, BURST = 8_000_000, 400_000  # bit: a megabyte a second, 50 kB at once
BOTH = pytest.mark.parametrize("mode", [Mode.BRIDGE, Mode.ROUTED], ids=lambda mode: mode.value)
kernel = pytest.mark.kernel
SIZE, COUNT = 1200, 400


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as made:
        yield made


def arrived(sender: Namespace, to: Namespace, address: str) -> tuple[int, float]:
    """How many bytes of many sent at once arrive, and how long the sending took."""
    with udp(to, address) as there, udp(sender, "::" if ":" in address else "0.0.0.0") as own:
        there.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
        own.setsockopt(socket.SOL_SOCKET, 32, 8 << 20)  # SO_SNDBUFFORCE
        own.sendto(b"who is who", there.getsockname()[:2])
        there.recv(SIZE)
        start = time.monotonic()
        for _ in range(COUNT):
            own.sendto(bytes(SIZE), there.getsockname()[:2])
        took = time.monotonic() - start
        there.settimeout(0.5)
        bytes_ = 0
        try:
            while True:
                bytes_ += len(there.recv(SIZE))
        except TimeoutError:
            return bytes_, took


def at_most(rate: int, burst: int, seconds: float) -> float:
    """Bytes that may pass: the bucket, what waits in its queue, and what the time of sending is worth."""
    made = bucket(rate, burst)
    return made.burst + made.limit + made.rate * seconds


@kernel
@BOTH
@pytest.mark.parametrize("version", [4, 6])
def test_each_direction_is_limited_and_the_other_is_not(site, mode, version):
    host, own = HOST[version], address_of(1, version)
    (one,) = site.attached(attachment(1, mode, bandwidth=Bandwidth(ingress_rate=RATE, ingress_burst=BURST)))
    bytes_, took = arrived(site.host, one, own)
    assert SIZE * 10 < bytes_ <= at_most(RATE, BURST, took)
    assert arrived(one, site.host, host)[0] == SIZE * COUNT
    (two,) = site.attached(attachment(2, mode, bandwidth=Bandwidth(egress_rate=RATE, egress_burst=BURST)))
    bytes_, took = arrived(two, site.host, host)
    assert SIZE * 10 < bytes_ <= at_most(RATE, BURST, took)
    assert arrived(site.host, two, address_of(2, version))[0] == SIZE * COUNT


@kernel
def test_buckets_are_as_asked_and_the_queue_goes_with_the_link(site):
    wanted = attachment(1, bandwidth=Bandwidth(RATE, BURST, 2 * RATE, 2 * BURST))
    site.attached(wanted)
    shown = json.loads(site.run(site.host, "tc", "-j", "qdisc"))
    found = {each["dev"]: each["options"] for each in shown if each["kind"] == "tbf"}
    assert found[wanted.link]["rate"] == RATE // 8
    assert found[queue_name(wanted)]["rate"] == RATE // 4
    assert abs(found[wanted.link]["burst"] - BURST // 8) < 100
    assert site.wiring.present().keys() == set(links_of(wanted))
    assert "mirred" in site.run(site.host, "tc", "filter", "show", "dev", wanted.link, "parent", "ffff:")
    site.wiring.doom([wanted.link])
    site.wiring.detach([wanted.link])
    assert not site.wiring.present()


@kernel
def test_the_queue_of_an_earlier_container_of_this_name_is_replaced(site):
    wanted = attachment(1, bandwidth=Bandwidth(egress_rate=RATE, egress_burst=BURST))
    site.attached(wanted)
    site.ip(site.host, "link", "delete", wanted.link)
    (one,) = site.attached(wanted)
    site.wiring.check(wanted, one.fd)


@kernel
@BOTH
def test_an_interface_another_plugin_made_is_limited(site, mode):
    made = attachment(1, mode)
    other, one = site.attached(attachment(2, mode), made)
    limits = Bandwidth(RATE, BURST, RATE, BURST)
    parameters = (("net/core/somaxconn", "77"),)
    chained = replace(made, mode=Mode.CHAINED, link="", mac=b"", bridge=None, bandwidth=limits, sysctls=parameters)
    site.wiring.attach(chained, one.fd)
    site.wiring.check(chained, one.fd)
    site.wiring.check(made, one.fd)  # who made it finds nothing missing
    assert one.run(lambda: sysctls.read("net/core/somaxconn")) == "77"
    bytes_, took = arrived(one, site.host, HOST[4])
    assert bytes_ <= at_most(RATE, BURST, took)
    assert arrived(other, site.host, HOST[4])[0] == SIZE * COUNT
    for _ in range(2):
        site.wiring.unchain(chained)
        assert not site.wiring.exists(queue_name(chained))


@kernel
def test_what_fails_leaves_no_limits_on_the_interface_of_another_plugin(site):
    made = attachment(1)
    (one,) = site.attached(made)
    limits, wrong = Bandwidth(RATE, BURST, RATE, BURST), (("net/ipv4/no_such", "1"),)
    chained = replace(made, mode=Mode.CHAINED, link="", bridge=None, bandwidth=limits, sysctls=wrong)
    with pytest.raises(RequirementError, match="no_such does not exist"):
        site.wiring.attach(chained, one.fd)
    shown = json.loads(site.run(site.host, "tc", "-j", "qdisc"))
    assert not any(each["kind"] in ("tbf", "ingress") for each in shown)
    assert site.wiring.present().keys() == {made.link}


@kernel
def test_an_interface_that_is_no_veth_cannot_be_limited(site):
    one = site.container()
    chained = attachment(1, Mode.CHAINED, bandwidth=Bandwidth(RATE, BURST))
    with pytest.raises(Failure, match="the container has no interface eth0"):
        site.wiring.attach(chained, one.fd)
    site.ip(one, "link", "add", "eth0", "type", "bridge")
    with pytest.raises(Failure, match="bandwidth: eth0 is not one end of a veth whose other end is on the host"):
        site.wiring.attach(chained, one.fd)
    site.ip(one, "link", "delete", "eth0")
    site.ip(one, "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
    with pytest.raises(Failure, match="not one end of a veth whose other end is on the host"):
        site.wiring.attach(chained, one.fd)


@pytest.mark.parametrize(
    ("rate", "burst", "expected"),
    [
        (8_000_000, 400_000, Bucket(1_000_000, 50_000, 75_000)),
        (8_000_000, (1 << 32) - 1, Bucket(1_000_000, 131_072, 156_072)),  # containerd's: nobody said one
        (8_000_000, (1 << 31) - 1, Bucket(1_000_000, 131_072, 156_072)),
        (8_000_000, 0, Bucket(1_000_000, 131_072, 156_072)),
        (80_000_000_000, 0, Bucket(10_000_000_000, 1_000_000_000, 1_250_000_000)),
        (1, 80, Bucket(1, 10, 10)),
    ],
)
def test_a_bucket_of_a_rate_and_a_burst(rate, burst, expected):
    assert bucket(rate, burst) == expected


def test_the_queue_is_named_after_the_link_and_without_one_after_the_attachment():
    own, chained = attachment(1), attachment(1, Mode.CHAINED)
    assert queue_name(own) == queue_name(chained) == "npi" + own.link[3:]
    assert links_of(own) == (own.link,)
    assert links_of(chained) == ()
    assert links_of(replace(chained, bandwidth=Bandwidth(egress_rate=1))) == (queue_name(own),)
