"""What answers have shown of a tier's latency, and what is only known to take longer."""

from __future__ import annotations

from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline._core.estimators import BASELINE_DOUBLES, REFRESH, SIZE, LatencyWindow, PeakEwma

SPREAD = [0.001 * (1 + 37 * place % 100) for place in range(96)]  # 1 ms to 100 ms, shuffled


def window(*latencies: float, now: float = 0.0) -> LatencyWindow:
    seen = LatencyWindow()
    for latency in latencies:
        seen.observe(latency, now)
    return seen


def test_until_the_tail_is_measured_the_fastest_answer_is_all_that_is_known() -> None:
    assert window().usually_late == 0.0
    assert window(0.03, 0.02, 0.025).usually_late == 0.02
    hurried = window(0.02)
    for _ in range(60):
        hurried.censored(0.021, 0.0)  # six in seven never come within what anybody waits
    assert hurried.usually_late == 0.02


def test_the_usual_tail_is_the_95th_percentile_and_stays_in_an_outage() -> None:
    seen = window(*SPREAD)
    known = seen.usually_late
    assert 0.090 < known < 0.097
    for _ in range(200):
        seen.timed_out(0.08, 0.0)
    assert seen.usually_late == known


def test_the_usual_tail_follows_a_slower_tier_at_half_its_pace_a_minute_and_a_faster_at_once() -> (
    None
):
    seen = window(*[0.01] * 512)
    for _ in range(512):
        seen.observe(0.1, 1.0)
    assert seen.usually_late < 0.0102
    for i in range(32):
        seen.observe(0.1, 1.0 + BASELINE_DOUBLES * (1 + i) / 32)
    assert seen.usually_late == pytest.approx(0.02, rel=0.03)
    for _ in range(512):
        seen.observe(0.001, 100.0)
    assert seen.usually_late == 0.001


@pytest.mark.parametrize(
    ("timeouts", "typical", "fastest"), [(12, 0.01, 0.01), (44, 0.0, 0.01), (300, 0.0, 0.0)]
)
def test_what_only_timeouts_have_shown_keeps_nobody_away(
    timeouts: int, typical: float, fastest: float
) -> None:
    seen = window(*[0.01] * 20)
    for _ in range(timeouts):
        seen.censored(0.5, 1.0)
    assert seen.lately_typical(2.0) == typical
    assert seen.lately_fastest(2.0) == fastest


@given(st.lists(st.tuples(st.floats(0.001, 1.0), st.booleans()), min_size=32, max_size=400))
def test_the_usual_tail_is_a_latency_that_some_answer_had(steps: list[tuple[float, bool]]) -> None:
    seen, answers = LatencyWindow(), [0.0]
    for latency, is_censored in steps:
        if is_censored:
            seen.censored(latency, 0.0)
        else:
            seen.observe(latency, 0.0)
            answers.append(latency)
        assert seen.usually_late in answers


def test_a_smaller_penalty_does_not_wipe_out_a_larger_one() -> None:
    latency = PeakEwma()
    latency.penalise(0.25, 0.0)
    latency.penalise(0.01, 0.1)
    assert latency.value(0.1) == pytest.approx(0.25 * 0.9048, rel=1e-3)
    latency.penalise(0.4, 0.2)
    assert latency.value(0.2) == 0.4


# -- to the digit --------------------------------------------------------------------------------


def test_a_belief_fades_by_the_time_since_the_last_answer() -> None:
    latency = PeakEwma(decay=10.0)
    latency.observe(1.0, 100.0)
    latency.observe(0.0, 110.0)
    assert latency.value(110.0) == pytest.approx(exp(-1.0))
    assert latency.value(130.0) == pytest.approx(exp(-3.0))


@pytest.mark.parametrize("place", [0, 1, 255, SIZE - 2, SIZE - 1])
def test_the_oldest_latency_is_the_first_to_be_forgotten(place: int) -> None:
    latencies = [0.005] * SIZE
    latencies[place] = 9.0
    seen = window(*latencies, *[0.005] * (place + 1 + -(place + 1) % REFRESH))
    assert seen.slowest == 0.005
    for latency in [9.0] + [0.005] * (SIZE - REFRESH):
        seen.observe(latency, 0.0)
    assert seen.slowest == 9.0
    for _ in range(2 * REFRESH):
        seen.observe(0.005, 0.0)
    assert seen.slowest == 0.005


def test_an_answer_in_no_time_at_all_is_an_answer() -> None:
    assert window(0.02, 0.0).usually_late == 0.0
    seen = window(*[0.0] * 20, *[0.03] * 11)
    seen.censored(1.0, 0.0)
    assert (seen.fastest, seen.typical) == (0.0, 0.0)


def test_one_attempt_that_was_given_up_among_many_answers_is_the_slowest() -> None:
    seen = window(*[0.01 * place for place in range(1, 32)])
    seen.censored(1.0, 0.0)
    assert seen.slowest == 1.0
    assert seen.fastest == pytest.approx(0.04)


def test_who_was_given_up_before_any_answer_came_says_nothing_of_when_answers_come() -> None:
    seen = LatencyWindow()
    for _ in range(17):
        seen.censored(0.001, 0.0)
    for place in range(15):
        seen.observe(0.01 * (place + 1), 0.0)
    found = (seen.fastest, seen.typical, seen.late, seen.slowest)
    assert found == pytest.approx((0.02, 0.08, 0.15, 0.15))  # those of the fifteen


def test_a_median_that_just_half_of_the_attempts_have_shown_is_known() -> None:
    seen = window(*[0.01] * 16)
    for _ in range(16):
        seen.censored(0.5, 0.0)
    assert seen.lately_typical(1.0) == 0.01


def test_a_tenth_percentile_that_just_a_tenth_of_the_attempts_have_shown_is_known() -> None:
    seen = LatencyWindow()
    for _ in range(33):
        seen.censored(0.5, 0.0)
    for _ in range(3):  # of forty that are then sorted at once: a timeout counts for nine
        seen.timed_out(0.5, 0.0)
    for _ in range(4):
        seen.observe(0.01, 0.0)
    assert seen.lately_fastest(1.0) == 0.01


@pytest.mark.parametrize(("answers", "known"), [(38, True), (37, False)])
def test_a_tail_is_believed_when_answers_have_drawn_just_as_much_as_they_must(
    answers: int, known: bool
) -> None:
    seen = LatencyWindow()
    for waited in [1.0] * (40 - answers) + [0.001] * 24:
        seen.censored(waited, 0.0)
    for place in range(answers):  # 38 of the 40 that lasted: 95 %
        seen.observe(0.01 + 0.0001 * place, 0.0)
    assert seen.tail == (1.0 if known else None)
    assert seen.knows_late is known


@pytest.mark.parametrize(("answers", "known"), [(32, True), (31, False)])
def test_a_tail_takes_thirty_two_answers(answers: int, known: bool) -> None:
    seen = LatencyWindow()
    for _ in range(64 - answers):
        seen.censored(0.001, 0.0)
    for _ in range(answers):
        seen.observe(0.01, 0.0)
    assert seen.tail == (0.01 if known else None)
