"""The threshold is the bundle's while budget and cloud are ample, and rises as either runs low."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline import _exceptions as errors
from tierline._config import EscalationPolicy, LimiterPolicy, RetryPolicy
from tierline._core.commands import StartAttempt
from tierline._core.escalation import (
    CERTAIN,
    ESCALATE,
    FEWEST,
    START_GATE,
    Pressure,
    is_uncertain,
    refusal,
    verdict,
)
from tierline._core.fleet import Fleet
from tierline.wire import ScoreReply

from .fixtures import PRIVATE, Driver, config, reply


def warmed(doubts: list[float], policy: EscalationPolicy | None = None) -> Pressure:
    pressure = Pressure(policy or EscalationPolicy())
    for doubt in doubts:
        pressure.admits(doubt, 1.0)
    return pressure


DOUBTS = [0.505 + i / 128 for i in range(64)]


@given(st.floats(0, 1), st.floats(0.2, 1.0))
def test_while_enough_is_left_every_doubtful_call_is_escalated(doubt: float, left: float) -> None:
    assert warmed(DOUBTS).admits(doubt, left)


def test_the_most_certain_calls_stay_first_as_less_is_left() -> None:
    for left, part in ((0.15, 0.75), (0.1, 0.5), (0.05, 0.25), (0.0, 0.0)):
        pressure = warmed(DOUBTS)
        dice = random.Random(1)
        drawn = [dice.choice(DOUBTS) for _ in range(2000)]
        admitted = [doubt for doubt in drawn if pressure.admits(doubt, left)]
        assert len(admitted) / 2000 == pytest.approx(part, abs=0.06)
        refused = [doubt for doubt in drawn if doubt not in admitted]
        if admitted and refused:
            assert sum(refused) / len(refused) < sum(admitted) / len(admitted) - 0.1


def test_it_rises_at_once_and_falls_only_past_a_dead_band() -> None:
    pressure = warmed(DOUBTS)
    assert not pressure.admits(0.6, 0.1)  # half is admitted
    assert not pressure.admits(0.74, 0.115)  # 0.575 of them: within the dead band
    assert pressure.admits(0.70, 0.13)  # 0.65: past it
    assert pressure.admits(0.505, 0.2)  # the whole: whatever the band


def test_with_too_few_doubts_known_it_stays_where_it_is() -> None:
    pressure = warmed(DOUBTS[: FEWEST - 2])
    assert pressure.admits(0.5, 0.0)


def test_only_the_last_sixty_four_doubts_count() -> None:
    for calls, admitted in ((63, False), (64, True)):
        pressure = warmed([0.95] + [0.6] * (calls - 1))
        assert pressure.admits(0.6, 0.002) is admitted  # one in a hundred: the most doubtful known


def test_it_is_down_again_when_there_is_just_enough_left_for_all() -> None:
    pressure = warmed(DOUBTS)
    assert not pressure.admits(0.5, 0.19)  # 95 % of them: the whole lies within the dead band
    assert not pressure.admits(0.5, 0.19)
    assert pressure.admits(0.5, 0.2)


def test_it_can_be_turned_off() -> None:
    pressure = warmed(DOUBTS, EscalationPolicy(ease_below=0.0))
    assert pressure.admits(0.5, 0.0)


# -- verdicts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [reply(0.9, threshold=None), reply(None, threshold=0.5)])
def test_an_answer_without_a_doubt_or_without_a_threshold_is_certain(given: ScoreReply) -> None:
    assert not is_uncertain(EscalationPolicy(), given)


def test_for_a_call_just_at_a_moving_threshold_the_cloud_is_not_even_looked_at() -> None:
    fleet = Fleet(config(escalation=EscalationPolicy(mode="quality_first")))
    control = fleet.control("ranker").of("1@e", 0.5)
    nowhere: list[Any] = [None]  # whoever looks at it fails
    assert verdict(fleet, control, nowhere, "ranker", reply(0.5), 0.25, 0.0) == CERTAIN
    with pytest.raises(AttributeError):
        verdict(fleet, control, nowhere, "ranker", reply(0.5001), 0.25, 0.0)


def test_after_an_alarm_a_call_just_at_the_threshold_is_kept() -> None:
    fleet = Fleet(config())
    control, cloud = fleet.control("ranker").of("1@e", 0.5), fleet.tiers[1:]
    control.revoke("rang")
    verdicts = [verdict(fleet, control, cloud, "ranker", reply(u), 0.25, 0.0) for u in (0.5, 0.51)]
    assert verdicts == [CERTAIN, ESCALATE]


def test_a_call_that_has_just_the_clouds_median_left_is_escalated() -> None:
    fleet = Fleet(config())
    cloud = fleet.tiers[1:]
    assert refusal(fleet, cloud, "ranker", 0.9, START_GATE, 0.0) == ""
    assert refusal(fleet, cloud, "ranker", 0.9, 0.999 * START_GATE, 0.0) == "deadline"
    for _ in range(32):
        cloud[0].latencies("ranker").observe(0.125, 0.0)
    assert refusal(fleet, cloud, "ranker", 0.9, 0.125, 0.0) == ""
    assert refusal(fleet, cloud, "ranker", 0.9, 0.1249, 0.0) == "deadline"


# -- in a call -----------------------------------------------------------------------------------


def escalates(fleet: Fleet, doubt: float, now: float = 0.01) -> bool:
    driver = Driver(fleet, key=None, begin=now).succeed(reply(uncertainty=doubt), at=now)
    if any(isinstance(c, StartAttempt) for c in driver.commands):
        driver.succeed(reply(uncertainty=None, threshold=None), at=now)
        return True
    assert driver.answer.reason.startswith("escalation_refused")
    return False


def test_as_tokens_run_low_the_most_doubtful_calls_get_them() -> None:
    fleet = Fleet(config(escalation=EscalationPolicy(budget=0.1, burst=40.0)))
    dice = random.Random(4)
    doubts = [0.5 + 0.5 * dice.random() for _ in range(400)]
    went = [doubt for doubt in doubts if escalates(fleet, doubt)]
    assert 60 <= len(went) <= 80  # 40 and a tenth of 400, less what waits for a worse call
    early, late = went[:30], went[40:]
    assert sum(late) / len(late) > sum(early) / len(early) + 0.05


def test_a_cloud_without_room_takes_only_the_most_doubtful() -> None:
    fleet = Fleet(
        config(
            escalation=EscalationPolicy(budget=1.0, burst=1000.0),
            limiter=LimiterPolicy(initial=100, maximum=100),
        )
    )
    for doubt in DOUBTS:
        assert escalates(fleet, doubt)
    for tier in fleet.tiers[1:]:
        tier.endpoints[0].inflight = 89
    assert escalates(fleet, 0.98)
    driver = Driver(fleet, key=None).succeed(reply(uncertainty=0.52))
    assert driver.answer.reason == "escalation_refused: threshold"
    for tier in fleet.tiers[1:]:
        tier.endpoints[0].inflight = 20
    assert Driver(fleet, key=None).succeed(reply(uncertainty=0.52)).started.endpoint.url == PRIVATE


def test_a_stale_latency_of_the_cloud_does_not_keep_calls_away_for_good() -> None:
    fleet = Fleet(config(escalation=EscalationPolicy(burst=1000.0)))
    for _ in range(32):
        fleet.tiers[1].latencies("ranker").observe(10.0, 0.0)
    driver = Driver(fleet, key=None, begin=5.0).succeed(reply(uncertainty=0.9), at=5.01)
    assert driver.answer.reason == "escalation_refused: deadline"
    assert escalates(fleet, 0.9, now=10.5)


def test_a_cloud_that_was_away_is_asked_again_when_its_breakers_wait_is_over() -> None:
    ample = EscalationPolicy(budget=1.0, burst=1000.0)
    fleet = Fleet(config(escalation=ample, retry=RetryPolicy(per_tier=1)))
    dice = random.Random(8)

    def answered_by_the_cloud(now: float, *, cloud_is_up: bool) -> bool:
        given = reply(uncertainty=0.5 + 0.5 * dice.random())
        driver = Driver(fleet, key=None, begin=now).succeed(given, at=now)
        while any(isinstance(c, StartAttempt) for c in driver.commands):
            if cloud_is_up:
                driver.succeed(reply(uncertainty=None, threshold=None), at=now)
            else:
                driver.fail(errors.ConnectFailed("cut"), at=now)
        return driver.answer.tier != "edge"

    for i in range(300):  # thirty seconds with doubtful calls and no cloud
        assert not answered_by_the_cloud(0.1 * i, cloud_is_up=False)
    back = [answered_by_the_cloud(30.0 + 0.1 * i, cloud_is_up=True) for i in range(300)]
    assert all(back[-50:])
