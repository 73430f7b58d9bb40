"""What answers have shown of a tier's latency, and what is only known to take longer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline._core.estimators import BASELINE_DOUBLES, LatencyWindow, PeakEwma

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
