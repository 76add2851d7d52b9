"""When the next round is due: see netplane/agent/pace.py. Seconds are given, nothing waits."""

from itertools import pairwise

import pytest

from netplane.agent.pace import Limits, Pace

LIMITS = Limits(at_least=1.0, at_most=60.0, retry=2.0)
START = 1000.0


@pytest.fixture
def pace() -> Pace:
    """A pace whose first round was at START and succeeded."""
    made = Pace(LIMITS, START)
    made.done(START, whole=True)
    return made


def test_the_first_round_is_due_at_once_and_whole():
    pace = Pace(LIMITS, START)
    assert pace.due() <= START
    assert pace.whole(START)


def test_a_change_is_due_at_least_seconds_after_the_last_round(pace):
    pace.changed()
    assert pace.due() == START + LIMITS.at_least


def test_a_change_long_after_the_last_round_is_due_at_once(pace):
    pace.changed()
    assert pace.due() <= START + 30


def test_many_changes_make_one_round(pace):
    for _ in range(5):
        pace.changed()
    pace.done(START + 1, whole=False)
    assert pace.due() == START + LIMITS.at_most


def test_a_change_during_a_round_is_not_forgotten_by_the_next(pace):
    pace.done(START + 1, whole=False)
    pace.changed()
    assert pace.due() == START + 2


def test_without_changes_the_next_round_is_at_most_seconds_after_the_last_whole_one(pace):
    assert pace.due() == START + LIMITS.at_most


def test_rounds_of_changes_do_not_put_off_the_whole_one(pace):
    for second in range(1, 50):
        pace.changed()
        pace.done(START + second, whole=False)
    assert pace.due() == START + LIMITS.at_most
    assert not pace.whole(START + LIMITS.at_most - 0.001)
    assert pace.whole(START + LIMITS.at_most)


def test_a_whole_round_that_is_late_still_keeps_the_least_distance(pace):
    pace.done(START + 59.5, whole=False)
    assert pace.due() == START + 60.5


def test_a_round_of_a_change_compares_with_what_was_applied_only(pace):
    pace.changed()
    assert not pace.whole(pace.due())


def test_waits_after_failures_double_up_to_at_most(pace):
    waits, now = [], START
    for _ in range(8):
        pace.failed(now)
        waits.append(pace.due() - now)
        now = pace.due()
    assert waits == [2, 4, 8, 16, 32, 60, 60, 60]
    assert all(after >= before for before, after in pairwise(waits))


def test_failures_for_a_year_do_not_overflow(pace):
    for _ in range(100_000):
        pace.failed(START)
    assert pace.due() == START + LIMITS.at_most


def test_the_retry_is_never_later_than_at_most_even_if_that_is_short():
    pace = Pace(Limits(at_least=0.05, at_most=0.3, retry=0.5), START)
    pace.failed(START)
    assert pace.due() == START + 0.3


def test_a_round_after_a_failure_is_whole(pace):
    pace.failed(START + 1)
    assert pace.whole(START + 1)


def test_a_change_may_be_the_correction_so_it_is_tried_without_the_long_wait(pace):
    for second in (0, 2, 6, 14):
        pace.failed(START + second)
    assert pace.due() == START + 14 + 16
    pace.changed()
    assert pace.due() == START + 14 + LIMITS.retry
    assert pace.whole(pace.due())


def test_a_change_that_corrects_nothing_only_hurries_one_round(pace):
    pace.failed(START)
    pace.failed(START + 2)
    pace.changed()
    pace.failed(START + 4)
    assert pace.due() == START + 4 + 8


def test_constant_changes_while_nothing_works_are_tried_no_more_often_than_the_first_retry(pace):
    now = START
    for _ in range(5):
        pace.failed(now)
        pace.changed()
        assert pace.due() - now == LIMITS.retry
        now = pace.due()


def test_after_a_success_the_pace_is_as_before_the_failures(pace):
    for _ in range(4):
        pace.failed(START + 10)
    pace.done(START + 20, whole=True)
    assert pace.due() == START + 20 + LIMITS.at_most
    assert not pace.whole(START + 21)
    pace.failed(START + 30)
    assert pace.due() == START + 30 + LIMITS.retry
