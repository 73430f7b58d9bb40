"""The control of escalations, call by call: what lies just at a threshold, a budget or an end."""

from __future__ import annotations

import pytest

from tierline._config import EscalationPolicy
from tierline._core.control import (
    EscalationBucket,
    EscalationControl,
    RecentShare,
    ThresholdTracker,
)
from tierline._core.shadow import RiskAlarm, ShadowPlan

from .certificates import CERTIFICATE

QUALITY = EscalationPolicy(mode="quality_first", budget=0.2, cap=1.0)
BUDGET = EscalationPolicy(mode="budget_first", budget=0.2)


def test_a_doubt_just_at_the_threshold_does_not_lie_above_it() -> None:
    tracker = ThresholdTracker(0.2, start=0.5, step=0.1)
    assert not tracker.observe(0.5)
    assert tracker.threshold == pytest.approx(0.48)
    assert tracker.observe(0.49)
    assert tracker.threshold == pytest.approx(0.56)


def test_a_call_just_at_the_threshold_is_kept_and_demands_nothing() -> None:
    control = EscalationControl(QUALITY, stated=0.5)
    assert control.decide(0.5) == (False, 0.5, "")
    assert control.demanded == control.forced == 0.0
    assert control.decide(0.5) == (True, pytest.approx(0.498), "")


def test_a_whole_token_is_one_and_less_is_none() -> None:
    bucket = EscalationBucket(0.25, burst=1.0)
    assert bucket.has_one
    assert bucket.withdraw()
    for _ in range(4):
        assert not bucket.has_one
        assert not bucket.withdraw()
        bucket.earn()
    assert bucket.has_one
    assert bucket.withdraw()


def test_shares_are_of_the_last_thousand_calls() -> None:
    recent = RecentShare()
    recent.add(True)
    for _ in range(999):
        recent.add(False)
    assert (recent.seen, recent.share) == (1000, 0.001)
    recent.add(False)
    assert (recent.seen, recent.share) == (1000, 0.0)


@pytest.mark.parametrize(("demanded", "overspends"), [(237, False), (238, True)])
def test_overspending_is_three_standard_deviations_above_the_budget(
    demanded: int, overspends: bool
) -> None:
    control = EscalationControl(QUALITY, stated=0.5)
    for call in range(1000):  # spread evenly: so many of a thousand; σ is 12.6 calls
        above = (call + 1) * demanded // 1000 > call * demanded // 1000
        control.decide(1.0 if above else 0.0)
    assert control.demanded == demanded / 1000
    assert control.overspends is overspends


def test_of_fewer_than_a_thousand_calls_nobody_says_that_they_overspend() -> None:
    control = EscalationControl(QUALITY, stated=0.5)
    for _ in range(999):
        control.decide(1.0)
    assert not control.overspends
    control.decide(1.0)
    assert control.overspends


def test_who_follows_the_traffic_rests_on_the_curve_below_the_certified_threshold_too() -> None:
    fixed, quality, budget = (
        EscalationControl(policy, CERTIFICATE) for policy in (EscalationPolicy(), QUALITY, BUDGET)
    )
    assert [control.rests_on(0.25) for control in (fixed, quality, budget)] == [None, None, 0.25]
    assert [control.bound(0.25) for control in (fixed, quality, budget)] == [0.05, 0.05, 0.02]
    quality.revoke("rang")
    assert (quality.rests_on(0.25), quality.bound(0.25)) == (0.25, 0.02)


def test_a_threshold_that_stays_learns_what_the_budget_would_make_of_it_while_it_is_watched() -> (
    None
):
    still, watched = (EscalationControl(EscalationPolicy(), stated=0.5) for _ in range(2))
    watched.alarm = RiskAlarm(ShadowPlan.uniform(0.02, alpha=0.05), alpha=0.05, delta=0.05)
    for control in (still, watched):
        control.told(forced=False, uncertainty=0.1)
        control.told(forced=False)
        assert control.threshold == 0.5
        control.revoke("rang")
    assert still.threshold == 0.5
    assert watched.threshold == pytest.approx(0.5 - 0.01 * 0.2)
