"""Admission refuses what cannot be answered in time, and never on a guess."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline import Criticality
from tierline_serving.admission import MARGIN, STALE_AFTER, WARM_AFTER, Admission, Backlog, Verdict

PER_ROW, FIXED = 0.0001, 0.002


def warmed(sizes: tuple[int, ...] = (10, 100, 400), max_batch_rows: int = 1000) -> Admission:
    admission = Admission(max_batch_rows)
    for index in range(WARM_AFTER):
        rows = sizes[index % len(sizes)]
        admission.observe(rows, rows * PER_ROW + FIXED, now=0.0)
    return admission


def test_the_fit_recovers_the_cost_of_a_batch() -> None:
    wait = warmed().expected_wait(Backlog(queued_rows=500), now=0.0)
    assert wait == pytest.approx(500 * PER_ROW + FIXED, rel=1e-6)


def test_a_queue_of_several_batches_pays_the_fixed_cost_for_each() -> None:
    wait = warmed().expected_wait(Backlog(queued_rows=2500), now=0.0)
    assert wait == pytest.approx(2500 * PER_ROW + 3 * FIXED, rel=1e-6)


def test_what_has_already_run_of_a_batch_does_not_count() -> None:
    backlog = Backlog(running_rows=400, running_since=0.0)
    assert warmed().expected_wait(backlog, now=0.04) == pytest.approx(0.002, rel=1e-6)


def test_a_request_that_cannot_meet_its_deadline_is_told_when_to_come_back() -> None:
    backlog = Backlog(queued_rows=1000)
    decision = warmed().decide(100, deadline_at=0.05, backlog=backlog, now=0.0)
    assert decision.verdict is Verdict.OVERLOADED
    late = 1100 * PER_ROW + 2 * FIXED + MARGIN - 0.05
    assert decision.retry_after == pytest.approx(late, rel=1e-6)


def test_a_request_that_can_meet_its_deadline_is_admitted() -> None:
    decision = warmed().decide(100, 0.2, Backlog(queued_rows=1000), now=0.0)
    assert decision.verdict is Verdict.ADMIT


@pytest.mark.parametrize(("took", "burst"), [(0.001, 0.1), (0.05, 0.4)])
def test_a_queue_stands_when_it_has_outlasted_a_burst_of_eight_batches(
    took: float, burst: float
) -> None:
    """Until then it may take all of the callers' time, from then on half of it."""
    admission = Admission(1)
    for _ in range(WARM_AFTER):
        admission.observe(1, took, now=0.0)

    def is_admitted(now: float) -> bool:
        backlog = Backlog(queued_rows=5)
        return admission.decide(1, now + 8 * took, backlog, now).verdict is Verdict.ADMIT

    assert is_admitted(1.0)
    assert is_admitted(0.999 + burst)
    assert not is_admitted(1.001 + burst)
    admission.drained(Criticality.DEFAULT)
    assert is_admitted(1.1 + burst)


def test_a_queue_that_stands_for_one_class_need_not_stand_for_those_above_it() -> None:
    admission = Admission(1)
    for _ in range(WARM_AFTER):
        admission.observe(1, 0.001, now=0.0)
    backlog = Backlog(queued_rows=9)

    def is_admitted(now: float, criticality: Criticality, before: int) -> bool:
        asked = (1, now + 0.012, backlog, now, criticality, before)
        return admission.decide(*asked).verdict is Verdict.ADMIT

    for now in (1.0, 1.2):
        assert is_admitted(now, Criticality.DEFAULT, 9) is (now == 1.0)
        assert is_admitted(now, Criticality.CRITICAL, 8 if now == 1.2 else 0)


def test_a_length_foretells_the_fewest_rows_and_one_where_whole_catalogues_are_asked_for() -> None:
    admission = Admission(100)
    assert admission.rows_in(10_000) == 1
    for _ in range(1000):
        admission.learn_size(100, 25_600)
        admission.learn_size(100, 51_200)  # with a long history
    assert admission.rows_in(51_200) == pytest.approx(100, abs=2)
    for _ in range(1000):
        admission.learn_size(100, 25_600)
    assert admission.rows_in(51_200) == 200
    assert admission.rows_in(-200) == 1
    admission.learn_size(0, 400)
    assert admission.rows_in(51_200) == 1


def test_nobody_is_refused_before_the_fit_is_warm() -> None:
    admission = Admission(1000)
    for _ in range(WARM_AFTER - 1):
        admission.observe(10, 5.0, now=0.0)
    decision = admission.decide(10, 0.001, Backlog(queued_rows=10_000), now=0.0)
    assert decision.verdict is Verdict.ADMIT


@pytest.mark.parametrize("deadline_at", [4.9, 5.0, math.nan])
def test_a_deadline_that_has_passed_is_refused_warm_or_not(deadline_at: float) -> None:
    for admission in (Admission(1000), warmed()):
        decision = admission.decide(1, deadline_at, Backlog(), now=5.0)
        assert decision.verdict is Verdict.DEADLINE_PASSED


def test_one_slow_spell_does_not_refuse_everybody_for_ever() -> None:
    admission = Admission(1000)
    for _ in range(WARM_AFTER):
        admission.observe(10, 5.0, now=0.0)
    refused = admission.decide(10, 0.1 + STALE_AFTER / 2, Backlog(), now=STALE_AFTER / 2)
    tried = admission.decide(10, 0.1 + STALE_AFTER, Backlog(), now=STALE_AFTER)
    assert (refused.verdict, tried.verdict) == (Verdict.OVERLOADED, Verdict.ADMIT)


def test_a_single_stalled_batch_refuses_nobody() -> None:
    admission = warmed()
    admission.observe(10, 0.5, now=0.0)  # 170 times what it takes
    assert admission.decide(10, 0.02, Backlog(), now=0.0).verdict is Verdict.ADMIT


def test_a_model_that_became_slower_is_believed_from_its_second_slow_batch() -> None:
    admission = warmed()
    for _ in range(2):
        admission.observe(10, 0.5, now=0.0)
    assert admission.decide(10, 0.02, Backlog(), now=0.0).verdict is Verdict.OVERLOADED


def test_the_fit_follows_a_model_that_became_faster() -> None:
    admission = Admission(1000)
    for index in range(200):
        cost = 0.001 if index < 100 else 0.0001
        admission.observe(10 + index % 7, (10 + index % 7) * cost, now=0.0)
    assert admission.expected_wait(Backlog(queued_rows=10), 0.0) == pytest.approx(0.001, rel=0.1)


@given(
    st.lists(st.tuples(st.integers(1, 5000), st.floats(0.0, 10.0)), min_size=1, max_size=60),
    st.integers(0, 100_000),
)
def test_a_predicted_wait_is_finite_never_negative_and_grows_with_the_queue(
    batches: list[tuple[int, float]], rows: int
) -> None:
    admission = Admission(4096)
    for size, seconds in batches:
        admission.observe(size, seconds, now=0.0)
    shorter = admission.expected_wait(Backlog(queued_rows=rows), 0.0)
    longer = admission.expected_wait(Backlog(queued_rows=rows + 1), 0.0)
    assert 0.0 <= shorter <= longer < math.inf
