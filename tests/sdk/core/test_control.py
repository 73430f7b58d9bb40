"""Threshold tracker, hard cap, modes: the budget holds whatever the traffic, and says its price."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tierline._config import EscalationPolicy
from tierline._core.control import (
    FORCED,
    SPEND_WINDOW,
    EscalationBucket,
    EscalationControl,
    RecentShare,
    ThresholdTracker,
)
from tierline._exceptions import ConfigurationError
from tierline.certificate import (
    ESCALATE_ALL,
    KEEP_ALL,
    Certificate,
    CertificateStatus,
    CurvePoint,
    Subject,
)

SUBJECT = Subject(model="a" * 64, catalogue="b" * 64, quantization="c" * 64, cloud="d" * 64)
CERTIFICATE = Certificate(
    loss="L_agree@10",
    method="hoeffding-bentkus",
    slot="test",
    created="2026-11-21T07:00:00Z",
    alpha=0.05,
    delta=0.05,
    n=4000,
    threshold=0.6,
    curve=(
        CurvePoint(threshold=ESCALATE_ALL, bound=0.0, escalation=1.0),
        CurvePoint(threshold=0.6, bound=0.05, escalation=0.4),
        CurvePoint(threshold=0.8, bound=0.15, escalation=0.2),
        CurvePoint(threshold=KEEP_ALL, bound=0.25, escalation=0.0),
    ),
    subject=SUBJECT,
)


def said(control: EscalationControl) -> CertificateStatus:
    """What an answer given now would carry."""
    claim = control.claim(control.threshold)
    assert claim is not None
    return claim.status()


def _traffic(seed: int) -> list[float]:
    """10,000 uncertainties; after 4,000 the calls become much harder, after 7,000 much easier."""
    rng = random.Random(seed)
    shapes = [(2, 5)] * 4000 + [(6, 2)] * 3000 + [(1, 9)] * 3000
    return [rng.betavariate(*shape) for shape in shapes]


@pytest.mark.parametrize("budget", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ten_thousand_calls_with_traffic_steps_end_within_a_point_of_the_budget(
    budget: float, seed: int
) -> None:
    control = EscalationControl(EscalationPolicy(mode="budget_first", budget=budget))
    escalated = sum(control.decide(u).escalate for u in _traffic(seed))
    assert abs(escalated / 10_000 - budget) <= 0.011


@given(
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from([0.01, 0.1, 1.0]),
    st.lists(st.floats(-1, 2) | st.just(math.nan), max_size=300),
)
def test_the_tracker_holds_its_published_bound_for_any_sequence(
    budget: float, start: float, step: float, sequence: list[float]
) -> None:
    tracker = ThresholdTracker(budget, start=start, step=step)
    escalated = 0
    for number, uncertainty in enumerate(sequence, 1):
        escalated += tracker.observe(uncertainty)
        assert -step - 1e-9 <= tracker.threshold <= 1 + step + 1e-9
        assert abs(escalated - budget * number) <= (1 + 2 * step) / step + 1e-6


class BucketMachine(RuleBasedStateMachine):
    """In any run of N calls, at most ratio·N + burst get through."""

    RATIO, BURST = 0.25, 3.0

    def __init__(self) -> None:
        super().__init__()
        self.bucket = EscalationBucket(self.RATIO, burst=self.BURST)
        self.history: list[bool] = []

    @rule(calls=st.lists(st.booleans(), min_size=1, max_size=30))
    def traffic(self, calls: list[bool]) -> None:
        for wants in calls:
            self.bucket.earn()
            self.history.append(wants and self.bucket.withdraw())

    @invariant()
    def no_run_exceeds_the_cap(self) -> None:
        # The worst excess over ratio·N of any run, in one pass (Kadane).
        worst = running = 0.0
        for escalated in self.history:
            running = max(0.0, running + escalated - self.RATIO)
            worst = max(worst, running)
        assert worst <= self.BURST + 1e-9


TestBucket = BucketMachine.TestCase


@given(st.floats(0.01, 0.9), st.lists(st.floats(0, 1), max_size=400))
def test_the_default_burst_never_contradicts_the_tracker(
    budget: float, sequence: list[float]
) -> None:
    control = EscalationControl(EscalationPolicy(mode="budget_first", budget=budget, step=0.1))
    assert [control.decide(u).reason for u in sequence] == [""] * len(sequence)


def test_the_cap_is_hard_when_quality_asks_for_more() -> None:
    policy = EscalationPolicy(mode="quality_first", budget=0.1, cap=0.2, burst=5)
    control = EscalationControl(policy, CERTIFICATE)
    decisions = [control.decide(0.9) for _ in range(2000)]
    assert sum(d.escalate for d in decisions) <= 0.2 * 2000 + 5
    assert {d.reason for d in decisions if not d.escalate} == {FORCED}


def test_quality_first_escalates_whatever_the_certificate_demands_and_warns() -> None:
    policy = EscalationPolicy(mode="quality_first", budget=0.1, cap=1.0)
    control = EscalationControl(policy, CERTIFICATE)
    rng = random.Random(4)
    decisions = [(u, control.decide(u)) for u in (rng.random() for _ in range(3000))]
    assert all(d.escalate for u, d in decisions if u > CERTIFICATE.threshold)
    assert control.overspends
    status = said(control)
    assert (status.valid, status.alpha) == (True, 0.05)


def test_quality_first_spends_a_budget_that_quality_does_not_need() -> None:
    control = EscalationControl(EscalationPolicy(mode="quality_first", budget=0.7), CERTIFICATE)
    rng = random.Random(5)
    share = sum(control.decide(rng.random()).escalate for _ in range(5000)) / 5000
    assert share == pytest.approx(0.7, abs=0.03)
    assert not control.overspends


def test_budget_first_holds_the_budget_and_publishes_what_that_certifies() -> None:
    control = EscalationControl(EscalationPolicy(mode="budget_first", budget=0.25), CERTIFICATE)
    rng = random.Random(6)
    for _ in range(5000):
        control.decide(rng.random())
    status = said(control)
    assert control.threshold == pytest.approx(0.75, abs=0.1)
    assert status.threshold == control.threshold
    assert (status.alpha, status.valid) == (CERTIFICATE.bound_at(control.threshold), False)
    assert "above alpha" in status.reasons[0]


def test_a_cloud_that_stops_answering_voids_the_certificate_at_once() -> None:
    control = EscalationControl(
        EscalationPolicy(mode="quality_first", budget=0.5, cap=1.0), CERTIFICATE
    )
    for _ in range(100):
        assert control.decide(0.9).escalate
    before = said(control)
    for _ in range(10):
        control.decide(0.9)
        control.not_escalated()
    after = said(control)
    assert before.valid
    assert (after.valid, after.alpha) == (False, pytest.approx(0.05 + 10 / 110))
    assert "forced to the edge" in after.reasons[0]


def test_a_revoked_certificate_stays_revoked_and_the_budget_goes_to_the_most_uncertain() -> None:
    control = EscalationControl(EscalationPolicy(mode="quality_first", budget=0.1), CERTIFICATE)
    control.revoke("shadow traffic shows a loss above alpha")
    rng = random.Random(7)
    for _ in range(3000):
        control.decide(rng.random())
    status = said(control)
    assert not status.valid
    assert "shadow" in status.reasons[0]
    assert control.threshold == pytest.approx(0.9, abs=0.1)
    assert control.forced == 0.0


def test_without_a_certificate_there_is_nothing_to_say() -> None:
    control = EscalationControl(EscalationPolicy(mode="budget_first", budget=0.1))
    assert control.claim(0.5) is None


def test_quality_first_without_a_certificate_escalates_what_the_bundles_threshold_does() -> None:
    policy = EscalationPolicy(mode="quality_first", budget=0.1, cap=1.0)
    control = EscalationControl(policy, stated=0.4)
    rng = random.Random(9)
    decisions = [(u, control.decide(u)) for u in (rng.random() for _ in range(2000))]
    assert all(d.escalate for u, d in decisions if u > 0.4)


def test_a_fixed_threshold_rests_on_alpha_up_to_the_certified_one_and_on_the_curve_above() -> None:
    for threshold, alpha, valid in ((0.5, 0.05, True), (0.6, 0.05, True), (0.7, 0.15, False)):
        control = EscalationControl(EscalationPolicy(threshold=threshold), CERTIFICATE)
        status = said(control)
        assert (status.alpha, status.valid) == (alpha, valid)


def test_calls_that_neither_tier_answered_may_have_lost_everything() -> None:
    control = EscalationControl(EscalationPolicy(), CERTIFICATE, stated=0.5)
    for _ in range(99):
        control.told(forced=False)
    assert said(control).valid
    control.lost()
    status = said(control)
    assert (status.valid, status.alpha) == (False, pytest.approx(0.06))
    assert "answered by neither tier" in status.reasons[0]
    for _ in range(SPEND_WINDOW):
        control.told(forced=False)
    assert said(control).valid


def test_no_escalation_is_spent_on_a_cloud_that_cannot_be_asked() -> None:
    policy = EscalationPolicy(mode="budget_first", budget=0.2, burst=1)
    control = EscalationControl(policy)
    assert not control.decide(1.0, possible=False).escalate
    assert control.forced == 1.0
    assert control.decide(1.0).escalate


@pytest.mark.parametrize("budget", [0.0, 1.0])
def test_a_budget_of_nothing_and_of_everything_are_kept(budget: float) -> None:
    control = EscalationControl(EscalationPolicy(mode="budget_first", budget=budget))
    rng = random.Random(8)
    share = sum(control.decide(rng.random()).escalate for _ in range(10_000)) / 10_000
    assert share == pytest.approx(budget, abs=0.011)


def test_an_uncertainty_that_is_no_number_is_escalated() -> None:
    control = EscalationControl(EscalationPolicy(mode="budget_first", budget=0.2))
    assert control.decide(math.nan).escalate


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2)), max_size=60))
def test_the_recent_share_counts_the_last_calls_and_what_is_told_late(
    events: list[tuple[bool, int]],
) -> None:
    recent, marks = RecentShare(7), list[bool]()
    for happened, late in events:
        recent.add(happened)
        marks = [*marks, happened][-7:]
        for _ in range(late):
            recent.add_late()
            unmarked = [place for place, mark in enumerate(marks) if not mark]
            marks = [mark or place in unmarked[-1:] for place, mark in enumerate(marks)]
        assert recent.share == pytest.approx(sum(marks) / len(marks))


def test_what_happened_longer_ago_than_the_share_looks_back_is_forgotten() -> None:
    for calls_before in range(12):
        recent = RecentShare(4)
        for happened in [False] * calls_before + [True] + [False] * 4:
            recent.add(happened)
        assert recent.share == 0.0


def test_calls_that_overlap_and_fail_together_are_all_counted_as_forced() -> None:
    control = EscalationControl(
        EscalationPolicy(mode="quality_first", budget=0.5, cap=1.0), CERTIFICATE
    )
    for _ in range(10):
        assert control.decide(0.9).escalate
    for _ in range(10):  # the cloud went away while all ten were on their way
        control.not_escalated()
    assert control.forced == 1.0


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"mode": "cheap"}, "mode"),
        ({"budget": 1.5}, "budget"),
        ({"budget": math.nan}, "budget"),
        ({"step": 0.0}, "step"),
        ({"cap": 0.1}, "cap"),
        ({"burst": 0.5}, "burst"),
        ({"burst": math.inf}, "burst"),
        ({"threshold": 0.5}, "threshold"),
        ({"shadow": 1.5}, "shadow"),
        ({"mode": "fixed", "cap": 0.5}, "cap"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(change: dict[str, Any], key: str) -> None:
    sound: dict[str, Any] = {"mode": "budget_first", "budget": 0.2}
    with pytest.raises(ConfigurationError, match=f"escalation.{key}"):
        EscalationPolicy(**{**sound, **change})
