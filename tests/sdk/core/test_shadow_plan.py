"""A plan for shadows from a certificate's curve alone: how often which calls are shown."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import numpy as np
import pytest

from tierline._core.shadow import LEAST_WEIGHT, TRUST, ShadowPlan
from tierline.certificate import ESCALATE_ALL, KEEP_ALL, CurvePoint

from .certificates import CERTIFICATE

RATE = 0.02
SHARES = (0.3, 0.3, 0.2, 0.2)  # of all calls, in the bins of the certificate's curve
LOSSES = (0.02 / 0.3, 0.04 / 0.3, 0.06 / 0.2, 0.13 / 0.2)  # of a call there


def planned(threshold: float, rate: float = RATE) -> ShadowPlan:
    plan = ShadowPlan.of(CERTIFICATE, threshold=threshold, rate=rate)
    assert plan is not None
    return plan


def test_its_bins_are_the_curves_and_expect_what_the_bound_rises_by() -> None:
    plan = planned(0.5)
    assert plan.edges == (0.25, 0.5, 0.75)
    assert plan.expected == pytest.approx([TRUST * loss for loss in LOSSES])


@pytest.mark.parametrize(("threshold", "kept"), [(0.25, 1), (0.5, 2), (0.75, 3), (1.0, 4)])
def test_so_many_of_all_calls_are_shadowed_as_the_rate_says(threshold: float, kept: int) -> None:
    plan = planned(threshold)
    shadowed = sum(s * c for s, c in zip(SHARES[:kept], plan.chances, strict=False))
    assert shadowed == pytest.approx(RATE)


def test_the_riskier_a_call_the_likelier_it_is_shown() -> None:
    chances = planned(1.0).chances
    assert list(chances) == sorted(chances)
    assert chances[-1] > chances[0]


def test_a_rate_of_all_shows_every_kept_call() -> None:
    plan = planned(0.25, rate=0.3)
    assert plan.chances[0] == pytest.approx(1.0)
    assert max(plan.chances) <= 1.0


def test_a_margin_in_the_first_bin_does_not_make_it_look_worse_than_the_next() -> None:
    curve = (
        CurvePoint(threshold=ESCALATE_ALL, bound=0.0, escalation=1.0),
        CurvePoint(threshold=0.25, bound=0.15, escalation=0.7),
        CurvePoint(threshold=0.5, bound=0.18, escalation=0.4),
        CurvePoint(threshold=KEEP_ALL, bound=0.4, escalation=0.0),
    )
    plan = ShadowPlan.of(replace(CERTIFICATE, curve=curve), threshold=0.5, rate=RATE)
    assert plan is not None
    assert plan.expected[0] == plan.expected[1] == pytest.approx(TRUST * 0.1)


def test_points_closer_than_a_tenth_of_the_calls_fall_into_one_bin() -> None:
    fine = tuple(
        CurvePoint(threshold=i / 100, bound=0.2 * i / 100, escalation=1 - i / 100)
        for i in range(1, 100)
    )
    curve = (
        CurvePoint(threshold=ESCALATE_ALL, bound=0.0, escalation=1.0),
        *fine,
        CurvePoint(threshold=KEEP_ALL, bound=0.2, escalation=0.0),
    )
    plan = ShadowPlan.of(replace(CERTIFICATE, curve=curve), threshold=0.5, rate=RATE)
    assert plan is not None
    assert plan.edges == pytest.approx([i / 10 for i in range(1, 10)])
    assert plan.expected == pytest.approx([TRUST * 0.2] * 10)


def of_curve(*points: tuple[float, float, float], threshold: float) -> ShadowPlan | None:
    """From (threshold, bound, escalation) of each point."""
    curve = tuple(CurvePoint(threshold=t, bound=b, escalation=e) for t, b, e in points)
    certificate = replace(CERTIFICATE, curve=curve, threshold=curve[-1].threshold)
    return ShadowPlan.of(certificate, threshold=threshold, rate=RATE)


def test_a_tenth_of_the_calls_may_lack_a_billionth_of_them() -> None:
    for tenth, edges in ((0.1 - 1e-9, (0.2,)), (0.1 - 2e-9, ())):
        points = ((-1.0, 0.0, tenth), (0.2, 0.01, 0.0), (0.5, 0.02, 0.0), (1.0, 0.03, 0.0))
        plan = of_curve(*points, threshold=1.0)
        assert plan is not None
        assert plan.edges == edges


def test_the_last_calls_have_a_bin_of_their_own_however_few_they_are() -> None:
    points = ((-1.0, 0.0, 1.0), (0.5, 0.05, 0.05), (0.8, 0.06, 0.03), (1.0, 0.1, 0.0))
    plan = of_curve(*points, threshold=1.0)
    assert plan is not None
    assert plan.edges == (0.5,)
    assert plan.expected == pytest.approx([TRUST * 0.05 / 0.95, TRUST * 1.0])


def test_where_no_calibration_call_lay_the_whole_is_expected_to_be_lost() -> None:
    plan = of_curve((-1.0, 0.0, 1.0), (0.5, 0.05, 0.0), (1.0, 0.1, 0.0), threshold=1.0)
    assert plan is not None
    assert plan.edges == (0.5,)
    assert plan.expected == pytest.approx([TRUST * 0.05, TRUST * 1.0])
    assert plan.chances[0] == pytest.approx(RATE)


def test_no_bin_looks_worse_than_the_last_one() -> None:
    plan = of_curve((-1.0, 0.0, 1.0), (0.3, 0.1, 0.6), (0.6, 0.3, 0.2), (1.0, 0.32, 0.0),
                    threshold=0.6)  # fmt: skip
    assert plan is not None
    assert plan.expected == pytest.approx([TRUST * 0.1] * 3)


@pytest.mark.parametrize("points", [[(1.0, 0.25, 0.0)], [(0.0, 0.1, 0.0), (1.0, 0.25, 0.0)]])
def test_a_curve_that_tells_no_call_from_another_has_all_shown_alike(
    points: list[tuple[float, float, float]],
) -> None:
    assert of_curve(*points, threshold=1.0) == ShadowPlan.uniform(RATE, alpha=0.25)


def test_a_curve_that_promises_no_loss_at_all_is_watched_too() -> None:
    plan = of_curve((1.0, 0.0, 0.0), threshold=1.0)
    assert plan is not None
    assert plan.chances == (RATE,)


def test_a_threshold_of_nothing_still_keeps_calls_that_are_wholly_certain() -> None:
    assert planned(0.0).chances[0] == pytest.approx(RATE / SHARES[0])


def test_nothing_is_planned_for_a_threshold_that_keeps_nothing() -> None:
    assert ShadowPlan.of(CERTIFICATE, threshold=ESCALATE_ALL, rate=RATE) is None


def varies_by(expected: float, loss: float) -> float:
    """What (l − f)² is on average where losses vary half as much as their mean allows."""
    return loss * (1 - loss) / 2 + (loss - expected) ** 2


@pytest.mark.parametrize(("threshold", "kept"), [(0.25, 1), (0.5, 2), (0.75, 3), (1.0, 4)])
def test_the_spread_is_what_the_estimate_of_kept_calls_varies_by(
    threshold: float, kept: int
) -> None:
    plan = planned(threshold)
    parts = zip(SHARES[:kept], plan.expected, LOSSES, plan.chances, strict=False)
    spread = sum(share * varies_by(f, loss) / chance for share, f, loss, chance in parts)
    assert plan.spread == pytest.approx(spread, rel=1e-3)


def test_chances_grow_with_how_far_losses_lie_from_what_is_expected() -> None:
    plan = planned(1.0)
    wanted = [sqrt(varies_by(f, loss)) for f, loss in zip(plan.expected, LOSSES, strict=True)]
    rates = [chance / weight for chance, weight in zip(plan.chances, wanted, strict=True)]
    assert rates == pytest.approx([rates[0]] * 4, rel=1e-3)


def test_no_kept_call_is_shown_less_than_three_tenths_as_often_as_the_mean() -> None:
    curve = (
        CurvePoint(threshold=ESCALATE_ALL, bound=0.0, escalation=1.0),
        CurvePoint(threshold=0.5, bound=0.0, escalation=0.5),
        CurvePoint(threshold=KEEP_ALL, bound=0.25, escalation=0.0),
    )
    plan = ShadowPlan.of(replace(CERTIFICATE, curve=curve), threshold=1.0, rate=RATE)
    assert plan is not None
    harmless, risky = sqrt(1e-6), sqrt(varies_by(TRUST * 0.5, 0.5) + 1e-6)
    mean = (harmless + risky) / 2
    assert plan.chances[0] / plan.chances[1] == pytest.approx(LEAST_WEIGHT * mean / risky)


def test_that_mean_is_over_the_calls_that_are_kept() -> None:
    points = ((-1.0, 0.0, 1.0), (0.3, 0.0, 0.75), (0.6, 0.125, 0.5), (1.0, 0.625, 0.0))
    plan = of_curve(*points, threshold=0.6)
    assert plan is not None
    risky = sqrt(varies_by(TRUST * 0.5, 0.5) + 1e-6)
    mean = (sqrt(1e-6) + risky) / 2  # a quarter of all calls in each of the two
    assert plan.chances[0] / plan.chances[1] == pytest.approx(LEAST_WEIGHT * mean / risky)


def test_a_plan_from_a_hundred_calls_has_a_bin_for_each_ten() -> None:
    doubt = np.arange(1, 101) / 100
    plan = ShadowPlan.fit(doubt, doubt**2, threshold=1.0, rate=RATE)
    assert plan.edges == pytest.approx([i / 10 for i in range(1, 10)], abs=0.011)


def test_a_plan_from_a_single_call_at_the_threshold_knows_its_loss() -> None:
    plan = ShadowPlan.fit(np.array([0.5]), np.array([0.1]), threshold=0.5, rate=1.0)
    assert plan.edges == (0.5,)
    assert plan.expected == pytest.approx([TRUST * 0.1, 0.0])
    assert plan.chances[0] == 1.0
    assert plan.spread == pytest.approx((0.1 - TRUST * 0.1) ** 2)


@pytest.mark.parametrize("rate", [0.0, 1.01])
def test_a_rate_that_is_no_share_of_the_calls_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match=f"rate {rate} is none"):
        ShadowPlan.fit(np.array([0.5]), np.array([0.1]), threshold=0.5, rate=rate)


def test_a_plan_from_calls_says_what_their_estimate_varies_by() -> None:
    rng = np.random.default_rng(4)
    doubt = rng.random(5000)
    losses = np.where(rng.random(5000) < doubt**2, rng.random(5000), 0.0)
    kept = doubt <= 0.7
    plan = ShadowPlan.fit(doubt, losses, threshold=0.7, rate=RATE)
    place = [plan.bin_of(u) for u in doubt[kept].tolist()]
    chance, guess = np.array(plan.chances)[place], np.array(plan.expected)[place]
    assert chance.sum() / 5000 == pytest.approx(RATE)
    assert plan.spread == pytest.approx(((losses[kept] - guess) ** 2 / chance).sum() / 5000)
    for part in set(place):
        here = np.array(place) == part
        assert plan.expected[part] == pytest.approx(TRUST * losses[kept][here].mean())
