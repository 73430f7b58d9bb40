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
