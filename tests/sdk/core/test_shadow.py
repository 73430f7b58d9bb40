"""Shadow sampling and the alarm: unbiased, seldom wrong however long it runs, and quick enough."""

from __future__ import annotations

import math
import random
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shadow_traffic import ALPHA, DELTA, RATE, Traffic, first_rings, log_wealth

from tierline._core.shadow import BETS, CERTAIN, LARGEST_FALL, SHIFT, RiskAlarm, ShadowPlan

TRAFFIC = {spread: Traffic(spread=spread) for spread in (False, True)}
PLAN = TRAFFIC[False].plan()


@pytest.mark.parametrize(("spread", "detected"), [(False, 0.95), (True, 0.7)])
def test_a_risk_of_eight_percent_is_noticed_within_ten_thousand_calls(
    spread: bool, detected: float
) -> None:
    traffic = TRAFFIC[spread]
    delays = first_rings(traffic, traffic.plan(), risk=0.08, runs=100, calls=10_000)
    assert np.median(delays) <= 7000
    assert np.isfinite(delays).mean() >= detected


@pytest.mark.parametrize("spread", [False, True])
def test_two_hundred_runs_without_a_change_ring_no_more_often_than_delta(spread: bool) -> None:
    traffic = TRAFFIC[spread]
    delays = first_rings(traffic, traffic.plan(), risk=0.05, runs=200, calls=10_000)
    assert np.isfinite(delays).mean() <= DELTA


def test_the_alarm_follows_the_formula_the_simulations_use() -> None:
    traffic = TRAFFIC[False]
    plan = traffic.plan()
    alarm = RiskAlarm(plan, alpha=ALPHA, delta=DELTA)
    u, losses = traffic.calls(np.random.default_rng(5), 2000, 0.08)
    dice, told = random.Random(6), []
    for uncertainty, loss in zip(u.tolist(), losses.tolist(), strict=True):
        if uncertainty > traffic.threshold:
            alarm.saw_escalated(ALPHA)
            told.append(-1.0)
            continue
        drawn = alarm.draws(uncertainty, dice)
        alarm.saw_kept(uncertainty, ALPHA, loss=loss if drawn else None)
        told.append(loss if drawn else -1.0)
    kept = (u <= traffic.threshold)[None]
    path = log_wealth(plan, alarm.bets, kept, u[None], np.array([told]))
    assert alarm.log_wealth == pytest.approx(path[0, -1])
    assert alarm.alarmed == bool((path >= -math.log(DELTA)).any())


def test_the_plan_shadows_two_percent_of_all_calls_and_the_risky_ones_more_often() -> None:
    traffic = TRAFFIC[False]
    plan = traffic.plan()
    u, _ = traffic.calls(np.random.default_rng(8), 100_000, 0.05)
    chances = np.where(
        u <= traffic.threshold,
        np.array(plan.chances)[np.searchsorted(np.array(plan.edges), u)],
        0.0,
    )
    assert chances.mean() == pytest.approx(RATE, rel=0.03)
    assert plan.chances[-1] > 2 * plan.chances[0]


def test_weighting_and_expecting_halve_the_variance_of_the_estimate() -> None:
    traffic = TRAFFIC[False]
    u, losses = traffic.calls(np.random.default_rng(3), 4000, 0.05)
    kept = u <= traffic.threshold
    uniform = (losses[kept] ** 2).sum() / 4000 / (RATE / kept.mean())
    assert traffic.plan().spread < 0.5 * uniform


@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.none() | st.floats(0, 1), st.booleans(), st.floats(0, 1)),
        max_size=200,
    )
)
def test_the_alarm_takes_any_sequence_and_never_stops_ringing(
    calls: list[tuple[float, float | None, bool, float]],
) -> None:
    alarm = RiskAlarm(PLAN, alpha=ALPHA, delta=DELTA)
    rang = False
    for uncertainty, loss, kept, bound in calls:
        if kept:
            alarm.saw_kept(uncertainty, bound, loss=loss)
        else:
            alarm.saw_escalated(bound)
        assert math.isfinite(alarm.log_wealth)
        rang = rang or alarm.log_wealth >= -math.log(DELTA)
        assert alarm.alarmed == rang


def test_losses_at_every_kept_call_ring_and_no_losses_never_do() -> None:
    plan = ShadowPlan.uniform(RATE, alpha=ALPHA)
    loud, still = (RiskAlarm(plan, alpha=ALPHA, delta=DELTA) for _ in range(2))
    for number in range(2000):
        loud.saw_kept(0.3, ALPHA, loss=1.0 if number % 50 == 0 else None)
        still.saw_kept(0.3, ALPHA, loss=0.0 if number % 50 == 0 else None)
    assert loud.alarmed
    assert not still.alarmed
    assert still.log_wealth < 0


def test_a_bound_that_is_honest_about_more_loss_does_not_ring() -> None:
    plan = ShadowPlan.uniform(RATE, alpha=ALPHA)
    alarm = RiskAlarm(plan, alpha=ALPHA, delta=DELTA)
    rng = random.Random(9)
    for _ in range(5000):
        alarm.saw_kept(0.3, 0.2, loss=0.15 if alarm.draws(0.3, rng) else None)
    assert not alarm.alarmed


@pytest.mark.parametrize("alpha", [0.05, 1.0])
def test_bets_are_as_large_as_no_estimate_can_ruin_and_the_spread_advises(alpha: float) -> None:
    plan = ShadowPlan(edges=(0.5,), chances=(0.1, 0.5), expected=(0.2, 0.3), spread=1e-9)
    alarm = RiskAlarm(plan, alpha=alpha, delta=0.05)
    assert alarm.bets == pytest.approx([LARGEST_FALL / 2.8] * len(BETS))  # 1 + 0.2 (1/0.1 - 1)
    alarm = RiskAlarm(replace(plan, spread=1e3), alpha=alpha, delta=0.05)
    best = SHIFT * min(alpha, 1 - CERTAIN) / 1e3
    assert alarm.bets == pytest.approx([scale * best for scale in BETS], rel=1e-12)


@pytest.mark.parametrize(
    ("alpha", "delta"), [(-0.01, 0.05), (1.01, 0.05), (0.05, 0.0), (0.05, 1.0), (0.05, 1.01)]
)
def test_an_alarm_for_a_promise_that_makes_no_sense_is_refused(alpha: float, delta: float) -> None:
    with pytest.raises(ValueError, match="expected alpha in"):
        RiskAlarm(PLAN, alpha=alpha, delta=delta)


class Loaded(random.Random):
    """Dice that always show one number."""

    def __init__(self, shown: float) -> None:
        super().__init__(0)
        self.shown = shown

    def random(self) -> float:
        return self.shown


def test_a_call_is_shown_when_the_dice_are_below_its_chance_and_not_when_they_reach_it() -> None:
    plan = ShadowPlan(edges=(0.5,), chances=(0.25, 1.0), expected=(0.0, 0.0), spread=1.0)
    alarm = RiskAlarm(plan, alpha=ALPHA, delta=DELTA)
    assert alarm.draws(0.5, Loaded(0.2499))
    assert not alarm.draws(0.5, Loaded(0.25))
    assert alarm.draws(0.51, Loaded(0.999))


def test_the_alarm_rings_as_soon_as_the_wealth_reaches_its_level() -> None:
    plan = ShadowPlan(edges=(), chances=(1.0,), expected=(0.0,), spread=1e-9)
    alarm, just, too_high = (RiskAlarm(plan, alpha=ALPHA, delta=DELTA) for _ in range(3))
    alarm.saw_kept(0.3, ALPHA, loss=1.0)
    just._level = alarm.log_wealth
    too_high._level = math.nextafter(alarm.log_wealth, math.inf)
    for other in (just, too_high):
        other.saw_kept(0.3, ALPHA, loss=1.0)
    assert just.alarmed
    assert not too_high.alarmed


def test_a_loss_outside_the_unit_interval_is_an_error() -> None:
    alarm = RiskAlarm(ShadowPlan.uniform(RATE, alpha=ALPHA), alpha=ALPHA, delta=DELTA)
    for loss in (-0.01, 1.01, math.nan):
        with pytest.raises(ValueError, match="loss"):
            alarm.saw_kept(0.3, ALPHA, loss=loss)
    for loss in (0.0, 1.0):
        alarm.saw_kept(0.3, ALPHA, loss=loss)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"chances": (0.1,)}, "expected 2 chances and expected losses for 1 edges"),
        ({"chances": (0.0, 0.1)}, "chances must lie in"),
        ({"chances": (0.1, 1.01)}, "chances must lie in"),
        ({"expected": (0.1, 1.2)}, "expected losses must lie in"),
        ({"expected": (-0.01, 0.2)}, "expected losses must lie in"),
        ({"edges": (0.5, 0.4), "chances": (0.1,) * 3, "expected": (0.1,) * 3}, "must rise"),
        ({"edges": (0.5, 0.5), "chances": (0.1,) * 3, "expected": (0.1,) * 3}, "must rise"),
        ({"spread": 0.0}, "the spread be positive"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(change: dict[str, object], said: str) -> None:
    sound: dict[str, object] = {
        "edges": (0.5,), "chances": (0.1, 0.2), "expected": (0.1, 0.2), "spread": 1.0,
    }  # fmt: skip
    with pytest.raises(ValueError, match=said):
        ShadowPlan(**{**sound, **change})  # type: ignore[arg-type]  # wrong on purpose


def test_a_plan_is_made_by_name_and_stays_as_it_was_made() -> None:
    with pytest.raises(TypeError, match="positional"):
        ShadowPlan((), (0.1,), (0.0,), 1.0)  # type: ignore[misc]  # wrong on purpose
    with pytest.raises(FrozenInstanceError):
        PLAN.spread = 2.0  # type: ignore[misc]  # wrong on purpose
    assert not hasattr(PLAN, "__dict__")


def test_a_plan_for_a_threshold_that_keeps_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no call is kept"):
        ShadowPlan.fit(np.array([0.5]), np.array([0.1]), threshold=0.1, rate=RATE)
