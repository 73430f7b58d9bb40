"""A plan for shadows from a certificate's curve alone: how often which calls are shown."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tierline._core.shadow import TRUST, ShadowPlan
from tierline.certificate import ESCALATE_ALL, KEEP_ALL, CurvePoint

from .certificates import CERTIFICATE

RATE = 0.02


def planned(threshold: float, rate: float = RATE) -> ShadowPlan:
    plan = ShadowPlan.of(CERTIFICATE, threshold=threshold, rate=rate)
    assert plan is not None
    return plan


def test_its_bins_are_the_curves_and_expect_what_the_bound_rises_by() -> None:
    plan = planned(0.5)
    assert plan.edges == (0.25, 0.5, 0.75)
    losses = (0.02 / 0.3, 0.04 / 0.3, 0.06 / 0.2, 0.13 / 0.2)
    assert plan.expected == pytest.approx([TRUST * loss for loss in losses])


@pytest.mark.parametrize(("threshold", "kept"), [(0.25, 1), (0.5, 2), (0.75, 3), (1.0, 4)])
def test_so_many_of_all_calls_are_shadowed_as_the_rate_says(threshold: float, kept: int) -> None:
    plan = planned(threshold)
    shares = (0.3, 0.3, 0.2, 0.2)[:kept]
    shadowed = sum(s * c for s, c in zip(shares, plan.chances, strict=False))
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
