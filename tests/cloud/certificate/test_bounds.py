"""Bounds and p-values: equal to MAPIE's recorded values, and to sums written out by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline_cloud.certificate import (
    METHODS,
    CalibrationRefused,
    hoeffding_bentkus_bound,
    hoeffding_bentkus_p_value,
    signed_gap_bound,
    upper_bound,
)
from tierline_cloud.certificate.bounds import (
    bernstein_bound,
    binomial_cdf,
    critical_risk,
    empirical_bernstein_bound,
    smallest_sample,
    wsr_bound,
    wsr_p_value,
)

# Recorded from MAPIE 1.6.0 (its file says how): installing it would pull scikit-learn and scipy.
MAPIE = json.loads((Path(__file__).parent / "mapie_values.json").read_text("utf-8"))


def test_p_values_equal_those_of_mapie() -> None:
    worst = max(
        abs(hoeffding_bentkus_p_value(risk, n, alpha, binary=binary) - theirs)
        for n, alpha, risk, binary, theirs in MAPIE["p_values"]
    )
    assert len(MAPIE["p_values"]) == 240
    assert worst <= 1e-9


def test_small_p_values_equal_those_of_mapie_relatively_too() -> None:
    for n, alpha, risk, binary, theirs in MAPIE["p_values"]:
        ours = hoeffding_bentkus_p_value(risk, n, alpha, binary=binary)
        assert ours == pytest.approx(theirs, rel=1e-8)


def test_the_empirical_bernstein_bound_equals_that_of_mapie() -> None:
    for n, delta, mean, deviation, theirs in MAPIE["bernstein"]:
        assert bernstein_bound(mean, deviation, n, delta) == pytest.approx(theirs, abs=1e-12)


@given(st.integers(1, 60), st.integers(-1, 61), st.floats(0.01, 0.99))
def test_the_binomial_distribution_equals_its_sum(n: int, k: int, p: float) -> None:
    by_hand = math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(min(k, n) + 1))
    assert binomial_cdf(k, n, p) == pytest.approx(by_hand, abs=1e-12)


@pytest.mark.parametrize(("alpha", "n"), [(0.005, 598), (0.01, 299), (0.02, 149), (0.05, 59)])
def test_the_smallest_sample_is_the_published_one_and_one_less_fails(alpha: float, n: int) -> None:
    assert smallest_sample(alpha, 0.05) == n
    assert hoeffding_bentkus_p_value(0.0, n, alpha) <= 0.05
    assert hoeffding_bentkus_p_value(0.0, n - 1, alpha) > 0.05
    assert critical_risk(n - 1, alpha, 0.05) == -1.0


def test_349_losses_certify_five_percent_at_half_of_it() -> None:
    assert critical_risk(349, 0.05, 0.05) >= 0.025
    assert critical_risk(340, 0.05, 0.05) < 0.025


@given(st.integers(20, 3000), st.floats(0, 0.6), st.floats(0.001, 0.3))
def test_the_hoeffding_bentkus_bound_is_where_the_p_value_reaches_delta(
    n: int, risk: float, delta: float
) -> None:
    bound = hoeffding_bentkus_bound(risk, n, delta)
    assert risk <= bound <= 1
    if bound < 1 - 1e-9:  # a bound of 1 is no claim: nothing to check about it
        assert hoeffding_bentkus_p_value(risk, n, bound + 1e-9) <= delta
        assert hoeffding_bentkus_p_value(risk, n, bound - 1e-9) >= delta * 0.999


@given(st.lists(st.floats(0, 1), min_size=2, max_size=40), st.sampled_from([0.05, 0.2]))
def test_the_betting_bound_equals_a_loop_over_the_published_formulas(
    values: list[float], delta: float
) -> None:
    def peak(m: float) -> float:
        best, wealth, total, squares, spread = -math.inf, 0.0, 0.5, 0.25, 0.25
        for i, x in enumerate(values, 1):
            wealth += math.log(
                max(
                    1
                    - min(1.0, math.sqrt(2 * math.log(1 / delta) / (len(values) * spread)))
                    * (x - m),
                    1e-300,
                )
            )
            best = max(best, wealth)
            total += x
            squares += (x - total / (i + 1)) ** 2
            spread = squares / (i + 1)
        return best

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if peak(middle) >= math.log(1 / delta) else (middle, high)
    assert wsr_bound(np.array(values), delta) == pytest.approx(high, abs=1e-9)


def test_the_betting_p_value_crosses_delta_at_the_betting_bound() -> None:
    losses = np.random.default_rng(1).beta(0.3, 3.0, 500)
    bound = wsr_bound(losses, 0.05)
    assert wsr_p_value(losses, bound + 1e-6, 0.05) <= 0.05
    assert wsr_p_value(losses, bound - 1e-6, 0.05) > 0.05


@pytest.mark.parametrize("method", METHODS)
def test_bounds_lie_above_the_mean_and_shrink_with_the_sample(method: str) -> None:
    losses = np.random.default_rng(2).beta(0.3, 3.0, 8000)
    small, large = (upper_bound(losses[:n], 0.05, method) for n in (800, 8000))
    assert losses[:800].mean() < small < 1
    assert large - losses.mean() < small - losses[:800].mean()


def test_low_variance_makes_the_adaptive_bounds_tighter_than_hoeffding_bentkus() -> None:
    losses = np.random.default_rng(3).beta(5.0, 95.0, 4000)
    hb, wsr, bernstein = (upper_bound(losses, 0.05, method) for method in METHODS)
    assert wsr < bernstein < hb


def test_a_single_loss_bounds_nothing() -> None:
    assert empirical_bernstein_bound(np.array([0.0]), 0.05) == 1.0
    assert wsr_bound(np.array([1.0]), 0.05) == 1.0


def test_a_method_nobody_knows_is_named_in_the_refusal() -> None:
    with pytest.raises(ValueError, match="'clt'"):
        upper_bound(np.zeros(5), 0.05, "clt")


@pytest.mark.parametrize("values", [[0.5, 1.5], [-0.1, 0.2], [math.nan], []])
def test_losses_outside_the_unit_interval_are_refused(values: list[float]) -> None:
    with pytest.raises(CalibrationRefused):
        upper_bound(np.array(values), 0.05, "hoeffding-bentkus")


def _label_differences(n: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """q(cloud) − q(edge): 5 % of users change, either way, and the means are equal."""
    rng = np.random.default_rng(4)
    return np.where(rng.random(n) < 0.05, rng.choice([-0.35, 0.35], n), 0.0)


def test_a_signed_label_bound_covers_the_gap_and_a_clipped_one_would_be_vacuous() -> None:
    signed = _label_differences(11_000)
    bound = signed_gap_bound(signed, 0.05)
    assert signed.mean() < bound < 0.003
    # What clipping reports: several times the bound, though the models are equally good.
    assert np.maximum(signed, 0).mean() > 2 * bound


def test_label_losses_clipped_at_zero_are_refused() -> None:
    with pytest.raises(CalibrationRefused, match="clipped"):
        signed_gap_bound(np.maximum(_label_differences(11_000), 0), 0.05)


def test_label_losses_outside_their_range_are_refused() -> None:
    with pytest.raises(CalibrationRefused, match=r"\[-1, 1\]"):
        signed_gap_bound(np.array([0.1, 1.2]), 0.05)
