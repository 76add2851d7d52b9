"""Echo requests in namespaces: who answers, and what size of packet gets there and back."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from neighbours import ip, neighbours, routed

from netplane.errors import KernelError
from netplane.kernel.echo import Answer, Echo, ask, checksum, request
from netplane.kernel.echo_once import Lost, Ping, TooBig, echo_once
from netplane.kernel.netns import Namespace

HERE = {4: "192.0.2.1", 6: "2001:db8::1"}
THERE = {4: "192.0.2.2", 6: "2001:db8::2"}
NOBODY = {4: "192.0.2.77", 6: "2001:db8::77"}
FAR = {4: "198.51.100.2", 6: "2001:db8:51::2"}
by_family = pytest.mark.parametrize("family", [4, 6])


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Namespace, Namespace]]:
    with neighbours() as made:
        yield made


@pytest.fixture(scope="module")
def a() -> Iterator[Namespace]:
    """A host from which the far one is behind a router, with 1400 bytes on the other side."""
    with routed(1400) as (made, _, _):
        yield made


def answers(echo: Echo, number: int) -> list[Answer]:
    found: list[Answer] = []
    deadline = time.monotonic() + 10
    while len(found) < number:
        assert select.select([echo], [], [], max(0, deadline - time.monotonic()))[0], found
        found += echo.read()
    return found


def test_a_request_byte_by_byte():
    assert request(4, 0x1234, 7, b"abc") == bytes.fromhex("0800 2162 1234 0007 616263")
    assert checksum(request(4, 0x1234, 7, b"abc")) == 0
    assert request(6, 0x1234, 7, b"abc") == bytes.fromhex("8000 0000 1234 0007 616263")


@pytest.mark.kernel
@by_family
def test_a_peer_answers_with_the_number_it_was_asked(pair, family):
    with pair[0].run(Echo) as echo:
        assert pair[0].run(lambda: echo.send(ip_address(THERE[family]), 513))
        (answer,) = answers(echo, 1)
        assert answer[:2] == (ip_address(THERE[family]), 513)
        assert 0 < answer.seconds < 10


@pytest.mark.kernel
def test_nothing_to_read_is_nothing_to_wait_for(pair):
    with pair[0].run(Echo) as echo:
        assert list(echo.read()) == []
        assert select.select([echo], [], [], 0)[0] == []


@pytest.mark.kernel
@by_family
def test_answers_to_others_are_not_heard(pair, family):
    with pair[0].run(Echo) as one, pair[0].run(Echo) as other:
        for _ in range(3):
            other.send(ip_address(THERE[family]), 1)
        answers(other, 3)
        assert list(one.read()) == []


@pytest.mark.kernel
@by_family
def test_a_forged_answer_is_not_heard(pair, family):
    """The number is 16 bits and can be guessed; what follows it cannot."""
    with pair[0].run(Echo) as one:
        made = request(family, one._number, 5, b"\0" * 16)
        forged = bytes([0 if family == 4 else 129]) + made[1:]
        if family == 4:
            forged = forged[:2] + b"\0\0" + forged[4:]
            forged = forged[:2] + checksum(forged).to_bytes(2, "big") + forged[4:]

        def forge() -> None:
            with Echo() as sender:
                sender._sockets[family].sendto(forged, (HERE[family], 0))

        pair[1].run(forge)
        one.send(ip_address(THERE[family]), 9)
        assert [answer.sequence for answer in answers(one, 1)] == [9]


@pytest.mark.kernel
def test_what_cannot_be_sent_is_said(pair):
    with pair[0].run(Echo) as echo:
        assert not echo.send(ip_address("203.0.113.9"), 1)
        assert not echo.send(ip_address("2001:db8:113::9"), 1)


@pytest.mark.kernel
def test_many_are_asked_at_once():
    with neighbours() as (here, there):
        ip(there, "route", "add", "local", "10.9.0.0/22", "dev", "lo")
        ip(here, "route", "add", "10.9.0.0/22", "via", "192.0.2.2")
        many = [ip_address("10.9.0.0") + number for number in range(1, 801)]
        found = here.run(lambda: ask(many, 20, tries=4))
        assert set(found) == set(many)


@pytest.mark.kernel
def test_who_does_not_answer_is_missing_after_the_time(pair):
    asked = [ip_address(THERE[4]), ip_address(NOBODY[4]), ip_address(THERE[6]), ip_address(NOBODY[6])]
    begin = time.monotonic()
    found = pair[0].run(lambda: ask(asked, 0.4))
    assert set(found) == {ip_address(THERE[4]), ip_address(THERE[6])}
    assert time.monotonic() - begin >= 0.4


# --- one packet -------------------------------------------------------------------------------------------------------


def once(namespace: Namespace, address: str, seconds: float = 10, **how: object) -> float | Lost | TooBig:
    return namespace.run(lambda: echo_once(Ping(ip_address(address), **how), seconds))  # type: ignore[arg-type]


@pytest.mark.kernel
@by_family
def test_the_round_trip_of_one_packet(pair, family):
    seconds = once(pair[0], THERE[family])
    assert isinstance(seconds, float)
    assert 0 < seconds < 10


@pytest.mark.kernel
@by_family
def test_nobody_there(pair, family):
    assert isinstance(once(pair[0], NOBODY[family], 0.2), Lost)


@pytest.mark.kernel
@by_family
def test_no_way_there_is_said_at_once(pair, family):
    said = once(pair[0], {4: "203.0.113.9", 6: "2001:db8:113::9"}[family])
    assert said == Lost("Network is unreachable")


@pytest.mark.kernel
@by_family
@pytest.mark.parametrize(("size", "fits"), [(1500, True), (1501, False)])
def test_the_link_here_takes_exactly_its_mtu(pair, family, size, fits):
    said = once(pair[0], THERE[family], size=size, dont_fragment=True)
    assert isinstance(said, float) if fits else said == TooBig(1500)


@pytest.mark.kernel
@by_family
@pytest.mark.parametrize("size", [1501, 9000])
def test_what_may_be_fragmented_gets_there(pair, family, size):
    assert isinstance(once(pair[0], THERE[family], size=size), float)


@pytest.mark.kernel
@by_family
def test_a_router_says_what_fits(a, family):
    for _ in range(2):  # what it said before is not believed
        assert once(a, FAR[family], size=1401, dont_fragment=True) == TooBig(1400)
    assert isinstance(once(a, FAR[family], size=1400, dont_fragment=True), float)


@pytest.mark.kernel
@by_family
def test_it_leaves_from_the_address_and_link_that_are_named(pair, family):
    source = ip_address(HERE[family])
    assert isinstance(once(pair[0], THERE[family], source=source, link="eth0"), float)


@pytest.mark.kernel
def test_a_source_or_link_that_is_not_there_is_named(pair):
    with pytest.raises(KernelError, match=r"ask 192.0.2.2 from 203.0.113.1: Cannot assign"):
        once(pair[0], THERE[4], source=ip_address("203.0.113.1"))
    with pytest.raises(KernelError, match=r"ask 192.0.2.2 by eth7: No such device"):
        once(pair[0], THERE[4], link="eth7")
