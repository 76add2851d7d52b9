"""Which nodes answer: the rules by themselves, and with real requests between namespaces."""

from __future__ import annotations

import asyncio
import time
from ipaddress import ip_address

import pytest

from netplane.agent.alive import Alive, AliveLimits, AliveWatch
from netplane.kernel import command
from netplane.kernel.netns import Namespace

A, B = ip_address("192.0.2.1"), ip_address("2001:db8::2")
BOTH = {"a": A, "b": B}


def rounds(of: Alive, *answers: str, start: float = 0.0) -> list[str]:
    """One round for each word: the letters are the nodes that answer to its request. Who is silent after each."""
    found = []
    of.tick(start)
    for number, letters in enumerate(answers, 1):
        for letter in letters:
            of.heard(BOTH[letter])
        of.tick(start + number)
        found.append("".join(sorted(of.silent)))
    return found


def watching(*, start: float = 0.0) -> Alive:
    made = Alive()
    made.watch(BOTH, start)
    return made


@pytest.mark.parametrize(
    ("answers", "silent"),
    [
        (("ab", "ab", "ab", "ab"), ["", "", "", ""]),
        (("a", "a", "a", "a"), ["", "", "b", "b"]),
        (("a", "a", "ab", "a", "a", "a"), ["", "", "", "", "", "b"]),
        (("a", "a", "a", "ab", "ab", "ab"), ["", "", "b", "b", "", ""]),
        (("a", "a", "a", "ab", "a", "ab", "ab"), ["", "", "b", "b", "b", "b", ""]),
        (("", "", "", "ab", "ab"), ["", "", "ab", "ab", ""]),
    ],
    ids=["all well", "three losses", "one answer starts anew", "two answers", "not one after the other", "all gone"],
)
def test_three_losses_make_silent_and_two_answers_bring_back(answers, silent):
    assert rounds(watching(), *answers) == silent


def test_several_answers_to_one_request_are_one():
    assert rounds(watching(), "a", "a", "a", "abbbb", "a") == ["", "", "b", "b", "b"]


def test_requests_go_to_every_address_once_a_second_with_a_new_number():
    alive = watching(start=10.0)
    assert alive.due() == 10.0
    _, first = alive.tick(10.0)
    assert {probe.address for probe in first} == {A, B}
    assert alive.tick(10.5) == (False, [])
    assert alive.due() == 11.0
    _, second = alive.tick(11.25)
    assert alive.due() == 12.0
    assert {probe.sequence for probe in first}.isdisjoint({probe.sequence for probe in second})


def test_two_nodes_that_share_an_address_are_asked_once():
    alive = Alive()
    alive.watch({"a": A, "twin": A}, 0.0)
    assert len(alive.tick(0.0)[1]) == 1


def test_a_pause_of_the_agent_is_one_loss_and_is_not_made_up_for():
    alive = watching()
    alive.tick(0.0)
    changed, probes = alive.tick(60.0)
    assert not changed
    assert len(probes) == 2
    assert alive.silent == frozenset()
    assert alive.due() == 61.0


def test_a_change_is_said_once():
    alive = watching()
    said = []
    for second in range(6):
        alive.heard(A)
        said.append(alive.tick(float(second))[0])
    assert said == [False, False, False, True, False, False]


def test_to_become_sure_is_a_change():
    alive = watching()
    said = []
    for second in range(4):
        alive.heard(A)
        alive.heard(B)
        said.append(alive.tick(float(second))[0])
    assert said == [False, True, False, False]
    assert Alive().watch({}, 0.0)


def test_nobody_to_watch_is_nothing_to_do():
    alive = Alive()
    assert alive.due() is None
    assert alive.tick(1.0) == (False, [])
    alive.watch(BOTH, 1.0)
    assert alive.due() == 1.0
    alive.watch({}, 2.0)
    assert alive.due() is None


def test_who_is_not_watched_any_more_is_not_silent():
    alive = watching()
    rounds(alive, "a", "a", "a")
    assert alive.silent == {"b"}
    assert alive.watch({"a": A}, 5.0)
    assert alive.silent == frozenset()


def test_what_is_known_stays_but_a_new_address_begins_anew():
    alive = watching()
    rounds(alive, "a", "a", "a")
    assert not alive.watch(BOTH, 5.0)
    assert alive.silent == {"b"}
    alive.watch({"a": A, "b": ip_address("192.0.2.9")}, 5.0)
    alive.heard(ip_address("192.0.2.9"))  # nobody asked it yet
    alive.tick(5.0)
    assert alive.silent == {"b"}
    alive.heard(ip_address("192.0.2.9"))
    alive.tick(6.0)
    assert alive.silent == frozenset()  # one answer, not two


def test_it_is_sure_when_every_node_has_answered_or_been_silent_once():
    alive = Alive()
    assert not alive.sure  # nobody said yet who there is
    alive.watch(BOTH, 0.0)
    assert not alive.sure
    rounds(alive, "a", "a")
    assert not alive.sure
    rounds(alive, "a", start=3.0)
    assert alive.sure


def test_once_it_is_sure_who_comes_is_silent_until_it_answers():
    alive = watching()
    rounds(alive, "ab")
    assert alive.watch({**BOTH, "c": ip_address("192.0.2.3")}, 9.0)
    assert alive.sure
    assert alive.silent == {"c"}
    alive.tick(9.0)
    alive.heard(ip_address("192.0.2.3"))
    assert alive.tick(10.0)[0]
    assert alive.silent == frozenset()


def test_a_node_that_never_rests_keeps_nobody_waiting():
    alive = watching()
    for second in range(4):
        alive.watch({"a": A, "b": ip_address(f"192.0.2.{50 + second}")}, float(second))
        alive.heard(A)
        alive.tick(float(second))
    assert alive.sure
    assert alive.silent == {"b"}


def test_other_limits():
    alive = Alive(AliveLimits(every=0.5, losses=1, answers=1))
    alive.watch(BOTH, 0.0)
    alive.tick(0.0)
    alive.heard(A)
    alive.tick(0.5)
    assert alive.silent == {"b"}


@pytest.mark.kernel
def test_a_node_that_goes_is_silent_and_is_back_when_it_is_back():
    """In an asyncio loop, as the agent does it, with an address of the namespace that is taken away and given back."""
    with Namespace() as here:

        def ip(*words: str) -> None:
            here.run(lambda: command.run("ip", *words, mechanism="test", doing="change"))

        ip("link", "set", "lo", "up")
        ip("address", "add", "192.0.2.7/32", "dev", "lo")
        ip("address", "add", "2001:db8::7/128", "dev", "lo")
        limits = AliveLimits(every=0.02)
        peers = {"four": ip_address("192.0.2.7"), "six": ip_address("2001:db8::7"), "own": ip_address("127.0.0.1")}
        with here.run(lambda: AliveWatch(limits)) as watch:
            watch.watch(peers, time.monotonic())
            asyncio.run(_until(watch, frozenset()))
            ip("address", "del", "192.0.2.7/32", "dev", "lo")
            asyncio.run(_until(watch, frozenset({"four"})))
            ip("address", "add", "192.0.2.7/32", "dev", "lo")
            ip("address", "del", "2001:db8::7/128", "dev", "lo")
            asyncio.run(_until(watch, frozenset({"six"})))


async def _until(watch: AliveWatch, wanted: frozenset[str]) -> None:
    """Run the watch as a loop does until exactly these are silent and it is sure."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def tick() -> None:
        watch.tick(time.monotonic())
        if watch.sure and watch.silent == wanted:
            done.set()

    def again() -> None:
        tick()
        due = watch.due()
        assert due is not None
        loop.call_at(loop.time() + due - time.monotonic(), again)

    loop.add_reader(watch.fileno(), tick)
    again()
    await asyncio.wait_for(done.wait(), 20)
    loop.remove_reader(watch.fileno())
