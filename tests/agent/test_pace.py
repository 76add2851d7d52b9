"""When the next round is due: see netplane/agent/pace.py. Seconds are given, nothing waits."""

from itertools import pairwise

import pytest

from netplane.agent.pace import REPAIR_SECONDS, Limits, Pace, Reach

LIMITS = Limits(at_least=1.0, at_most=60.0, retry=2.0)
START = 1000.0


def succeed(pace: Pace, now: float) -> Reach:
    """A round at `now` that takes no time and succeeds."""
    reach = pace.start(now)
    pace.done(now, reach)
    return reach


def fail(pace: Pace, now: float) -> Reach:
    """A round at `now` that takes no time and fails."""
    reach = pace.start(now)
    pace.failed(now)
    return reach


@pytest.fixture
def pace() -> Pace:
    """A pace whose first round was at START and succeeded."""
    made = Pace(LIMITS, START)
    succeed(made, START)
    return made


def test_the_first_round_is_due_at_once_and_whole():
    pace = Pace(LIMITS, START)
    assert pace.due() <= START
    assert pace.start(START) is Reach.EVERYTHING


def test_a_change_is_due_at_least_seconds_after_the_last_round(pace):
    pace.changed()
    assert pace.due() == START + LIMITS.at_least


def test_a_change_long_after_the_last_round_is_due_at_once(pace):
    pace.changed()
    assert pace.due() <= START + 30


def test_many_changes_make_one_round(pace):
    for _ in range(5):
        pace.changed()
    succeed(pace, START + 1)
    assert pace.due() == START + LIMITS.at_most


@pytest.mark.parametrize("end", [succeed, fail])
def test_a_change_during_a_round_is_the_business_of_the_next(pace, end):
    pace.changed()
    reach = pace.start(START + 1)
    pace.changed()
    if end is succeed:
        pace.done(START + 1, reach)
        assert pace.due() == START + 1 + LIMITS.at_least
    else:
        pace.failed(START + 1)
        assert pace.due() == START + 1 + LIMITS.retry


def test_without_changes_the_next_round_is_at_most_seconds_after_the_last_whole_one(pace):
    assert pace.due() == START + LIMITS.at_most


def test_rounds_of_changes_do_not_put_off_the_whole_one(pace):
    for second in range(1, 50):
        pace.changed()
        succeed(pace, START + second)
    assert pace.due() == START + LIMITS.at_most
    assert pace.start(START + LIMITS.at_most - 0.001) is Reach.CHANGES
    assert pace.start(START + LIMITS.at_most) is Reach.EVERYTHING


def test_a_whole_round_that_is_late_still_keeps_the_least_distance(pace):
    succeed(pace, START + 59.5)
    assert pace.due() == START + 60.5


def test_a_round_of_a_change_compares_with_what_was_applied_only(pace):
    pace.changed()
    assert pace.start(pace.due()) is Reach.CHANGES


def test_waits_after_failures_double_up_to_at_most(pace):
    waits, now = [], START
    for _ in range(8):
        fail(pace, now)
        waits.append(pace.due() - now)
        now = pace.due()
    assert waits == [2, 4, 8, 16, 32, 60, 60, 60]
    assert all(after >= before for before, after in pairwise(waits))


def test_failures_for_a_year_do_not_overflow(pace):
    for _ in range(100_000):
        fail(pace, START)
    assert pace.due() == START + LIMITS.at_most


def test_the_retry_is_never_later_than_at_most_even_if_that_is_short():
    pace = Pace(Limits(at_least=0.05, at_most=0.3, retry=0.5), START)
    fail(pace, START)
    assert pace.due() == START + 0.3


def test_a_round_after_a_failure_is_whole(pace):
    fail(pace, START + 1)
    assert pace.start(START + 1) is Reach.EVERYTHING


def test_a_change_may_be_the_correction_so_it_is_tried_without_the_long_wait(pace):
    for second in (0, 2, 6, 14):
        fail(pace, START + second)
    assert pace.due() == START + 14 + 16
    pace.changed()
    assert pace.due() == START + 14 + LIMITS.retry
    assert pace.start(pace.due()) is Reach.EVERYTHING


def test_a_change_that_corrects_nothing_only_hurries_one_round(pace):
    fail(pace, START)
    fail(pace, START + 2)
    pace.changed()
    fail(pace, START + 4)
    assert pace.due() == START + 4 + 8


def test_constant_changes_while_nothing_works_are_tried_no_more_often_than_the_first_retry(pace):
    now = START
    for _ in range(5):
        fail(pace, now)
        pace.changed()
        assert pace.due() - now == LIMITS.retry
        now = pace.due()


def test_after_a_success_the_pace_is_as_before_the_failures(pace):
    for _ in range(4):
        fail(pace, START + 10)
    succeed(pace, START + 20)
    assert pace.due() == START + 20 + LIMITS.at_most
    assert pace.start(START + 21) is Reach.CHANGES
    fail(pace, START + 30)
    assert pace.due() == START + 30 + LIMITS.retry


# --- what others do to the kernel -----------------------------------------------------------------------------------


def test_a_disturbance_is_repaired_as_soon_as_rounds_may_be(pace):
    pace.disturbed(sure=True)
    assert pace.repairing
    assert pace.due() == START + LIMITS.at_least
    assert pace.start(pace.due()) is Reach.KERNEL
    assert not pace.repairing


def test_a_second_disturbance_is_repaired_a_second_after_the_first(pace):
    pace.disturbed(sure=True)
    succeed(pace, START + 10)
    pace.disturbed(sure=True)
    assert pace.due() == max(START + 10 + LIMITS.at_least, START + 10 + REPAIR_SECONDS)


def test_constant_disturbance_makes_one_repair_a_second():
    pace, now, repairs = Pace(Limits(at_least=0.05), START), START, 0
    succeed(pace, START)
    while now < START + 20:
        pace.disturbed(sure=True)
        now = pace.due()
        repairs += succeed(pace, now) is Reach.KERNEL
    assert 19 <= repairs <= 22


def test_rounds_of_changes_between_two_repairs_do_not_look_at_the_kernel_and_leave_the_repair_to_come():
    pace = Pace(Limits(at_least=0.05), START)
    succeed(pace, START)
    pace.disturbed(sure=False)
    assert succeed(pace, START + 1) is Reach.KERNEL
    pace.disturbed(sure=False)
    pace.changed()
    assert pace.due() == START + 1.05
    assert succeed(pace, START + 1.05) is Reach.CHANGES
    assert pace.repairing
    assert pace.due() == START + 2
    assert pace.start(START + 2) is Reach.KERNEL


def test_a_disturbance_during_a_round_is_the_business_of_the_next(pace):
    pace.disturbed(sure=True)
    reach = pace.start(START + 1)
    pace.disturbed(sure=True)
    pace.done(START + 1, reach)
    assert pace.repairing


def test_the_comparison_of_everything_repairs_too(pace):
    pace.disturbed(sure=True)
    assert pace.start(START + LIMITS.at_most) is Reach.EVERYTHING
    assert not pace.repairing


def test_repairs_do_not_put_off_the_comparison_of_everything(pace):
    for second in range(1, 50):
        pace.disturbed(sure=True)
        assert succeed(pace, START + second) is Reach.KERNEL
    assert pace.due() == START + LIMITS.at_most


def test_a_disturbance_may_be_the_correction_of_what_fails(pace):
    """Somebody removed the table that was in the way."""
    for second in (0, 2, 6, 14):
        fail(pace, START + second)
    pace.disturbed(sure=True)
    assert pace.due() == START + 14 + LIMITS.retry
    assert pace.start(pace.due()) is Reach.EVERYTHING


def test_where_something_is_surely_damaged_changes_wait_for_the_repair():
    pace = Pace(Limits(at_least=0.05), START)
    succeed(pace, START)
    pace.disturbed(sure=True)
    assert succeed(pace, START + 1) is Reach.KERNEL
    pace.disturbed(sure=True)
    pace.disturbed(sure=False)
    pace.changed()
    assert pace.due() == START + 1 + REPAIR_SECONDS
    assert succeed(pace, pace.due()) is Reach.KERNEL
    pace.changed()
    assert pace.due() == START + 1 + REPAIR_SECONDS + 0.05
