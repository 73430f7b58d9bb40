"""What a client keeps of bundles: thresholds, certificates, alarms, and whose cloud is whose."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tierline._config import EscalationPolicy
from tierline._core.certified import BundleControl, ModelControl, Shadow
from tierline._core.control import EscalationBucket
from tierline._core.endings import answer_of
from tierline._core.shadow import RiskAlarm, ShadowPlan
from tierline._types import Answer
from tierline.certificate import KEEP_ALL
from tierline.wire import ScoreReply

from .certificates import (
    CERTIFICATE,
    CLOUD_BUNDLE,
    CLOUD_LIST,
    EDGE_BUNDLE,
    EDGE_SURE,
    OTHER,
    RECOMMEND,
    SAME,
    edge_description,
    listing,
)
from .fixtures import PRIVATE, REQUEST, reply

WATCHED = EscalationPolicy(shadow=0.1)


def model(policy: EscalationPolicy = WATCHED) -> ModelControl:
    return ModelControl(policy, EscalationBucket(policy.ratio, burst=policy.allowance))


def described(policy: EscalationPolicy = WATCHED, **changes: Any) -> BundleControl:
    """The control of an edge bundle that was described so."""
    known = model(policy)
    control = known.of(EDGE_BUNDLE, 0.5)
    known.edge_described(EDGE_BUNDLE, {**edge_description(), **changes})
    known.cloud_answered(PRIVATE, CLOUD_BUNDLE)
    return control


# -- thresholds ----------------------------------------------------------------------------------


def test_a_bundle_keeps_the_threshold_it_stated_first() -> None:
    known = model()
    one = known.of("1@a", None)
    assert one.stated is None
    assert known.of("1@a", 0.5) is one
    assert one.stated == 0.5
    known.of("1@b", 0.3)
    assert known.of("1@a", 0.7).stated == 0.5


@pytest.mark.parametrize(("stated", "kept"), [(0.25, 0.25), (1, 1.0), ("high", None), (None, None)])
def test_a_bundle_that_was_described_before_it_answered_has_the_threshold_it_described(
    stated: object, kept: float | None
) -> None:
    known = model()
    known.edge_described(EDGE_BUNDLE, {**edge_description(), "threshold": stated})
    assert known.current is not None
    assert (known.current.bundle, known.current.stated) == (EDGE_BUNDLE, kept)


# -- certificates --------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "is_one"), [(0, False), (1, True)])
def test_a_certificate_is_about_lists_of_one_item_at_least(length: int, is_one: bool) -> None:
    certificate = replace(CERTIFICATE, loss=f"L_agree@{length}")
    control = described(details=edge_description(certificate)["details"])
    assert (control.certificate is not None) is is_one
    if is_one:
        assert control.uncovered(RECOMMEND._replace(k=1)) == ()


@pytest.mark.parametrize(
    ("policy", "threshold", "bound"),
    [
        (WATCHED, 0.5, 0.05),
        (EscalationPolicy(mode="budget_first", budget=0.4, shadow=0.1), 0.5, 0.06),
        (EscalationPolicy(mode="budget_first", budget=0.39, shadow=0.1), 0.75, 0.12),
        (EscalationPolicy(mode="quality_first", budget=0.1, shadow=0.1), 0.5, 0.05),
    ],
)
def test_the_alarm_watches_the_threshold_that_calls_will_be_held_against(
    policy: EscalationPolicy, threshold: float, bound: float
) -> None:
    plan = ShadowPlan.of(CERTIFICATE, threshold=threshold, rate=0.1)
    assert plan is not None
    alarm = described(policy).alarm
    assert alarm is not None
    assert alarm.bets == RiskAlarm(plan, alpha=bound, delta=CERTIFICATE.delta).bets
    assert alarm._plan == plan


def test_a_certificate_of_a_single_threshold_is_watched_like_any_other() -> None:
    single = replace(CERTIFICATE, curve=CERTIFICATE.curve[-1:], threshold=KEEP_ALL)
    control = described(details=edge_description(single)["details"])
    assert control.certificate == single
    assert control.alarm is not None


# -- shadows -------------------------------------------------------------------------------------


def answered(given: ScoreReply, request: Any = RECOMMEND) -> Answer:
    return answer_of(
        request,
        given,
        tier="private",
        quality="full",
        reason="cloud_only",
        attempts=(),
        elapsed=0.0,
        claim=None,
    )


def expected(control: BundleControl, doubt: float, loss: float) -> float:
    """The wealth of a new alarm of this control that saw one such call."""
    assert control.certificate is not None
    plan = ShadowPlan.of(control.certificate, threshold=0.5, rate=0.1)
    assert plan is not None
    alarm = RiskAlarm(plan, alpha=0.05, delta=0.05)
    alarm.saw_kept(doubt, 0.05, loss=loss)
    return alarm.log_wealth


@pytest.mark.parametrize(("items", "loss"), [(SAME, 0.0), (OTHER, 1.0)])
@pytest.mark.parametrize("doubt", [0.1, 0.3])
def test_a_shadowed_list_tells_the_alarm_its_loss_at_the_doubt_it_was_kept_with(
    items: list[int], loss: float, doubt: float
) -> None:
    control = described()
    shadow = Shadow(RECOMMEND, None, control, EDGE_SURE._replace(uncertainty=doubt), 0.05)
    control.saw(shadow, answered(listing(CLOUD_BUNDLE, items)))
    assert control.alarm is not None
    assert control.alarm.log_wealth == pytest.approx(expected(control, doubt, loss))


@pytest.mark.parametrize(("cloud", "loss"), [([0.3, 0.1, 0.2], 0.0), ([0.1, 0.3, 0.2], 0.21)])
def test_of_scores_for_given_candidates_the_order_is_compared(
    cloud: list[float], loss: float
) -> None:
    control = described(kind="ranking")
    shadow = Shadow(REQUEST, None, control, reply(uncertainty=0.3), 0.05)
    scored = reply(uncertainty=None, threshold=None, scores=np.array(cloud, np.float32))
    control.saw(shadow, answered(scored, REQUEST))
    assert control.alarm is not None
    assert control.alarm.log_wealth == pytest.approx(expected(control, 0.3, loss), rel=1e-4)


def test_a_shadow_nobody_answered_tells_the_alarm_nothing() -> None:
    control = described()
    control.saw(Shadow(RECOMMEND, None, control, EDGE_SURE, 0.05), None)
    assert control.alarm is not None
    assert control.alarm.log_wealth == 0.0


# -- the cloud -----------------------------------------------------------------------------------


def test_the_clouds_bundle_of_a_pair_is_known_while_it_is_among_the_last_eight() -> None:
    known = model()
    control = known.of(EDGE_BUNDLE, 0.5)
    known.edge_described(EDGE_BUNDLE, edge_description())
    assert known.partner(control) is None
    known.cloud_answered(PRIVATE, CLOUD_BUNDLE)
    for number in range(7):
        known.cloud_answered(PRIVATE, f"2@{number:012d}")
        assert known.partner(control) == CLOUD_BUNDLE
    known.cloud_answered(PRIVATE, f"2@{7:012d}")
    assert known.partner(control) is None
    known.cloud_answered(PRIVATE, CLOUD_LIST.bundle)
    assert known.partner(control) == CLOUD_BUNDLE
