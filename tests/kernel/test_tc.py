"""Token buckets and redirection, as bytes and as tc shows them. See netplane/kernel/tc.py."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from netplane.kernel import command, link_orders, tc
from netplane.kernel.links import Links, Order
from netplane.kernel.netns import Namespace
from netplane.kernel.tc import Bucket, QueueFacts

pytestmark = pytest.mark.kernel
LINK, QUEUE = 10, 11


@pytest.fixture
def here() -> Iterator[Namespace]:
    with Namespace() as made:
        carry_out(made, link_orders.new_bridge("link", b"\2\0\0\0\0\1", 0), link_orders.new_queue("queue", QUEUE, 1400))
        carry_out(made, link_orders.change("queue", up=True))
        yield made


def carry_out(where: Namespace, *orders: Order) -> None:
    def work() -> None:
        with Links() as kernel:
            kernel.carry_out(orders)

    where.run(work)


def shown(where: Namespace, *words: str) -> str:
    return where.run(lambda: command.run("tc", *words, mechanism="test", doing="show"))


def number(where: Namespace) -> int:
    found = json.loads(where.run(lambda: command.run("ip", "-j", "link", mechanism="test", doing="show")))
    return next(each["ifindex"] for each in found if each["ifname"] == "link")


def read(where: Namespace) -> set[QueueFacts]:
    def work() -> set[QueueFacts]:
        with Links() as kernel:
            return set(tc.read(kernel))

    return where.run(work)


@pytest.mark.parametrize("rate", [1, 1_000_000, 0xFFFFFFFF, 0x100000000, 50_000_000_000])
def test_a_bucket_is_what_tc_and_we_read_back(here, rate):
    carry_out(here, tc.limit(QUEUE, Bucket(rate, 200_000, 300_000)))
    (found,) = (
        each for each in json.loads(shown(here, "-j", "qdisc", "show", "dev", "queue")) if each["kind"] == "tbf"
    )
    assert found["root"] is True
    assert found["options"]["rate"] == rate
    assert read(here) == {QueueFacts(QUEUE, "tbf", True, rate)}


def test_a_bucket_may_be_changed_and_taken_away(here):
    carry_out(here, tc.limit(QUEUE, Bucket(1000, 20_000, 30_000)), tc.limit(QUEUE, Bucket(2000, 20_000, 30_000)))
    assert read(here) == {QueueFacts(QUEUE, "tbf", True, 2000)}
    carry_out(here, tc.remove_limit(QUEUE))
    assert not any(each.rate for each in read(here))


def test_what_does_not_fit_is_the_largest_that_fits(here):
    carry_out(here, tc.limit(QUEUE, Bucket(1000, 1 << 40, 1 << 40)))
    assert read(here) == {QueueFacts(QUEUE, "tbf", True, 1000)}


def test_every_packet_that_arrives_is_redirected(here):
    link = number(here)
    carry_out(here, *tc.redirect(link, QUEUE))
    found = shown(here, "filter", "show", "dev", "link", "parent", "ffff:")
    assert "match 00000000/00000000" in found
    assert "mirred (Egress Redirect to device queue) stolen" in found
    assert "protocol all" in found
    assert QueueFacts(link, "ingress", False) in read(here)
    carry_out(here, *tc.redirect(link, QUEUE)[:1])  # again
    carry_out(here, tc.remove_redirect(link))
    assert not any(each.kind == "ingress" for each in read(here))
