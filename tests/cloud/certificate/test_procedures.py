"""Fixed-sequence test, uniform curve, risk control: by hand, and on many calibrations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from population import accepted_points, draw_calls, true_risks

from tierline.certificate import ESCALATE_ALL, KEEP_ALL
from tierline_cloud.certificate import (
    conformal_risk_threshold,
    empirical_risks,
    fixed_sequence,
    hoeffding_bentkus_bound,
    segment_bounds,
    threshold_grid,
    uniform_curve,
)

SPLITS, N, DELTA = 200, 4000, 0.05
# What 200 calibrations may show of a true rate of δ: δ + 3 standard errors.
MAX_VIOLATIONS = DELTA + 3 * math.sqrt(DELTA * (1 - DELTA) / SPLITS)
GRID = threshold_grid(draw_calls(np.random.default_rng(5), (4000,))[0])
TRUE = true_risks(GRID, 1_000_000)
UNCERTAINTY, LOSSES = draw_calls(np.random.default_rng(7), (SPLITS, N))
ESCALATION = np.array([(threshold < UNCERTAINTY).mean() for threshold in GRID])


def test_the_grid_runs_from_escalating_all_to_keeping_all() -> None:
    assert 45 <= GRID.size <= 50  # equal quantiles are one point
    assert (GRID[0], GRID[-1]) == (ESCALATE_ALL, KEEP_ALL)
    assert (np.diff(GRID) > 0).all()


def test_a_grid_of_few_distinct_uncertainties_has_no_point_twice() -> None:
    grid = threshold_grid(np.array([0.2] * 50 + [0.7] * 50))
    assert grid.tolist() == [ESCALATE_ALL, 0.2, 0.7, KEEP_ALL]


@given(st.integers(0, 1000))
def test_empirical_risks_equal_means_taken_one_by_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    uncertainty = rng.integers(0, 6, 30) / 5
    losses = rng.random(30)
    grid = np.array([ESCALATE_ALL, 0.0, 0.2, 0.5, KEEP_ALL])
    by_hand = [
        sum(loss for loss, u in zip(losses, uncertainty, strict=True) if u <= t) / 30 for t in grid
    ]
    assert empirical_risks(losses, uncertainty, grid) == pytest.approx(by_hand)


@pytest.mark.parametrize("method", ["hoeffding-bentkus", "empirical-bernstein", "wsr"])
def test_certified_thresholds_break_their_promise_no_more_often_than_delta(method: str) -> None:
    for alpha in (0.03, 0.05, 0.10):
        accepted = accepted_points(
            UNCERTAINTY, LOSSES, GRID, alpha=alpha, delta=DELTA, method=method
        )
        assert accepted.min() >= 0
        assert (TRUE[accepted] > alpha).mean() <= MAX_VIOLATIONS


@pytest.mark.parametrize(
    ("method", "price"),
    [("hoeffding-bentkus", 0.06), ("empirical-bernstein", 0.04), ("wsr", 0.04)],
)
def test_certainty_costs_few_points_of_escalation(method: str, price: float) -> None:
    naive, certified = (
        accepted_points(UNCERTAINTY, LOSSES, GRID, alpha=0.05, delta=DELTA, method=which)
        for which in ("naive", method)
    )
    paid = ESCALATION[certified].mean() - ESCALATION[naive].mean()
    assert 0 < paid <= price


@pytest.mark.parametrize("method", ["naive", "crc"])
def test_thresholds_without_a_certificate_break_the_promise_far_more_often(method: str) -> None:
    accepted = accepted_points(UNCERTAINTY, LOSSES, GRID, alpha=0.05, delta=DELTA, method=method)
    assert (TRUE[accepted] > 0.05).mean() > MAX_VIOLATIONS


def test_risk_control_keeps_its_promise_in_expectation() -> None:
    accepted = accepted_points(UNCERTAINTY, LOSSES, GRID, alpha=0.05, delta=DELTA, method="crc")
    assert TRUE[accepted].mean() <= 0.05


@pytest.mark.parametrize("method", ["hoeffding-bentkus", "empirical-bernstein", "wsr"])
def test_the_simulated_test_accepts_what_the_fixed_sequence_test_accepts(method: str) -> None:
    rows = slice(0, 4)
    accepted = accepted_points(
        UNCERTAINTY[rows], LOSSES[rows], GRID, alpha=0.05, delta=DELTA, method=method
    )
    for row in range(4):
        threshold = fixed_sequence(
            LOSSES[row], UNCERTAINTY[row], GRID, alpha=0.05, delta=DELTA, method=method
        )
        assert threshold == GRID[accepted[row]]


def test_the_test_stops_at_the_first_failure_and_does_not_resume() -> None:
    uncertainty = np.repeat([0.1, 0.5, 0.9], 200)
    losses = np.repeat([0.0, 0.5, 0.0], 200)
    grid = np.array([ESCALATE_ALL, 0.1, 0.5, KEEP_ALL])
    threshold = fixed_sequence(losses, uncertainty, grid, alpha=0.05, delta=0.05)
    assert threshold == 0.1


def test_too_few_losses_certify_nothing() -> None:
    grid = np.array([ESCALATE_ALL, KEEP_ALL])
    none = fixed_sequence(np.zeros(58), np.zeros(58), grid, alpha=0.05, delta=0.05)
    enough = fixed_sequence(np.zeros(59), np.zeros(59), grid, alpha=0.05, delta=0.05)
    assert math.isnan(none)
    assert enough == KEEP_ALL


@pytest.mark.parametrize(("method", "rows"), [("hoeffding-bentkus", 60), ("wsr", 10)])
def test_the_whole_curve_holds_at_once_in_all_but_delta_of_the_calibrations(
    method: str, rows: int
) -> None:
    # The worst a controller can do: choose, in each calibration, the point that is most wrong.
    broken = 0
    for losses, uncertainty in zip(LOSSES[:rows], UNCERTAINTY[:rows], strict=True):
        curve = uniform_curve(losses, uncertainty, GRID, delta=DELTA, method=method)
        broken += any(point.bound < risk for point, risk in zip(curve, TRUE, strict=True))
    assert broken <= rows * DELTA


def test_points_certified_one_by_one_do_not_hold_at_once() -> None:
    # Why the curve pays for its points: at level δ each, some point is wrong much more often.
    broken = 0
    for losses, uncertainty in zip(LOSSES, UNCERTAINTY, strict=True):
        risks = empirical_risks(losses, uncertainty, GRID)
        spread = np.sqrt(np.maximum(risks * (0.25 - risks), 0) / N)  # a mean's own normal interval
        broken += bool((risks + 1.645 * spread < TRUE).any())
    assert broken / SPLITS > MAX_VIOLATIONS


def test_the_curve_rises_and_is_each_points_own_bound_at_delta_over_its_points() -> None:
    losses, uncertainty = LOSSES[0], UNCERTAINTY[0]
    curve = uniform_curve(losses, uncertainty, GRID, delta=DELTA)
    risk = empirical_risks(losses, uncertainty, GRID)
    assert curve[0].bound == 0.0
    assert curve[0].escalation == 1.0
    assert curve[-1].escalation == 0.0
    assert [p.bound for p in curve] == sorted(p.bound for p in curve)
    single = hoeffding_bentkus_bound(float(risk[20]), N, DELTA / (GRID.size - 1))
    assert curve[20].bound == pytest.approx(single)


def test_risk_control_takes_the_last_threshold_that_fits() -> None:
    uncertainty = np.repeat([0.1, 0.5, 0.9], 100)
    losses = np.repeat([0.0, 0.1, 1.0], 100)
    grid = np.array([ESCALATE_ALL, 0.1, 0.5, KEEP_ALL])
    assert conformal_risk_threshold(losses, uncertainty, grid, alpha=0.05) == 0.5
    # 299 zeros and the one loss of 1 that might come next: 1/300 is the least it can promise.
    assert math.isnan(conformal_risk_threshold(losses, uncertainty, grid, alpha=0.003))


def test_segment_bounds_share_delta_among_the_segments() -> None:
    losses = LOSSES[0]
    segments = ["cold", "warm"] * (N // 2)
    bounds = segment_bounds(losses, segments, delta=DELTA)
    cold = hoeffding_bentkus_bound(float(losses[::2].mean()), N // 2, DELTA / 2)
    assert bounds["cold"] == pytest.approx(cold)
    assert set(bounds) == {"cold", "warm"}
