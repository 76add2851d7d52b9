"""What links tell, and what the filter in the kernel lets pass. See netplane/kernel/link_events.py."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from netplane.kernel import command, link_events
from netplane.kernel.link_events import ADDRESSES, LINKS, ROUTES, Is, LinkEvents, Rule, kind
from netplane.kernel.link_orders import LINK, UP
from netplane.kernel.link_read import decode_name
from netplane.kernel.netns import Namespace

pytestmark = pytest.mark.kernel
EVERYTHING: list[Rule] = [((), True)]


@pytest.fixture
def here() -> Iterator[Namespace]:
    with Namespace() as made:
        yield made


def ip(where: Namespace, *words: str) -> None:
    where.run(lambda: command.run("ip", *words, mechanism="test", doing="change"))


def heard(where: Namespace, rules: list[Rule], *words: str) -> list[tuple[int, str]]:
    """Kinds of the messages about links, with names, that pass while `ip` does something."""
    with where.run(lambda: LinkEvents((*LINKS, *ADDRESSES, *ROUTES), rules)) as events:
        ip(where, *words)
        return [(each.kind, decode_name(each.payload) if each.kind < 20 else "") for each in events.read() if each]


ADD = ("link", "add", "one", "index", "77", "type", "bridge")


def test_without_rules_nothing_passes(here):
    assert heard(here, [], *ADD) == []


def test_a_rule_without_tests_lets_everything_pass(here):
    assert (link_events.NEW_LINK, "one") in heard(here, EVERYTHING, *ADD)


def test_the_first_rule_that_holds_decides(here):
    both: list[Rule] = [((kind(link_events.NEW_LINK),), False), ((), True)]
    assert not [each for each in heard(here, both, *ADD) if each[0] == link_events.NEW_LINK]
    ip(here, "link", "set", "one", "up")
    assert (link_events.DELETE_LINK, "one") in heard(here, both, "link", "delete", "one")


@pytest.mark.parametrize(("number", "passes"), [(77, True), (78, False)])
def test_all_tests_of_a_rule_must_hold(here, number, passes):
    rule: Rule = ((kind(link_events.NEW_LINK), Is(20, 4, number)), True)
    assert bool(heard(here, [rule], *ADD)) is passes


def test_a_bit_of_a_word_and_letters_of_a_name_can_be_tested(here):
    is_up: Rule = ((kind(link_events.NEW_LINK), Is(24, 4, UP, bit=True), Is(36, 1, ord("o"))), True)
    assert heard(here, [is_up], *ADD) == []
    assert (link_events.NEW_LINK, "one") in heard(here, [is_up], "link", "set", "one", "up")


def test_the_filter_may_be_changed(here):
    with here.run(lambda: LinkEvents(LINKS, [])) as events:
        events.filter(EVERYTHING)
        ip(here, *ADD)
        assert any(each and LINK.unpack_from(each.payload)[3] == 77 for each in events.read())
        assert list(events.read()) == []


def test_what_was_lost_is_said(here):
    with here.run(lambda: LinkEvents(LINKS, EVERYTHING)) as events:
        with socket.socket(fileno=socket.dup(events.fileno())) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        for number in range(100):
            ip(here, "link", "add", f"link{number}", "type", "bridge")
            if None in list(events.read()) or number == 99:
                break
            ip(here, "link", "set", f"link{number}", "up")
            ip(here, "link", "set", f"link{number}", "down")
        assert number < 99
