"""Corners of rules that few come by: nothing configured, nothing left, only one left."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tierline._config import (
    ClientConfig,
    Criticality,
    EjectionPolicy,
    Endpoint,
    EscalationPolicy,
    Mode,
    Tier,
)
from tierline._core.call import ScoreCall
from tierline._core.certified import Learn
from tierline._core.control import SPEND_WINDOW, EscalationControl
from tierline._core.ejection import Standing
from tierline._core.endings import answer_of
from tierline._core.endpoints import EndpointState
from tierline._core.errands import post_learning
from tierline._core.estimators import REFRESH, LatencyWindow
from tierline._core.fallback import LastGood
from tierline._core.fleet import Fleet
from tierline._core.hedging import can_still_win
from tierline._core.shadow import CERTAIN, RiskAlarm, ShadowPlan
from tierline.wire import ScoreReply, ScoreRequest

# -- coming back ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "policy",
    [EjectionPolicy(slow_start=0.0), EjectionPolicy(slow_start_from=1.0)],
    ids=["no time", "the whole share"],
)
def test_who_need_not_come_back_slowly_is_whole_at_once(policy: EjectionPolicy) -> None:
    standing = Standing(policy)
    standing.eject(0.0, 0.5)
    standing.advance(100.0)
    assert standing.is_plain
    assert standing.ramp_from is None


def fleet(count: int) -> Fleet:
    endpoints = tuple(Endpoint(url=f"http://e{i}") for i in range(count))
    return Fleet(ClientConfig(tiers=(Tier(name="edge", kind="edge", endpoints=endpoints),)))


def test_each_choice_made_in_panic_is_counted_once() -> None:
    tier = fleet(3).tiers[0]
    for endpoint in tier.endpoints[:2]:
        endpoint.standing.failed("m", 0.0, unreached=True)
        endpoint.standing.eject(0.0, 0.5)
    for choices in range(1, 4):
        tier.pick("m", {"http://e2"}, None, 0.0, random.Random(choices))
        assert tier.panics == choices


# -- budgets of escalations ----------------------------------------------------------------------


@pytest.mark.parametrize(("budget", "doubt"), [(0.0, 0.0), (1.0, 1.0)])
def test_who_demands_just_the_budget_does_not_overspend(budget: float, doubt: float) -> None:
    policy = EscalationPolicy(mode="quality_first", budget=budget)
    control = EscalationControl(policy, stated=0.5)
    for _ in range(SPEND_WINDOW):
        control.decide(doubt)
    assert control.demanded == budget
    assert not control.overspends


# -- what an endpoint is worth -------------------------------------------------------------------


def test_an_endpoint_of_twice_the_weight_expects_half_the_load() -> None:
    endpoints = (Endpoint(url="http://small"), Endpoint(url="http://large", weight=2.0))
    tier = Tier(name="edge", kind="edge", endpoints=endpoints)
    small, large = Fleet(ClientConfig(tiers=(tier,))).tiers[0].endpoints
    for endpoint in (small, large):
        endpoint.latency.observe(0.01, 0.0)
    assert large.load(0.0) == pytest.approx(small.load(0.0) / 2)


def test_a_hedge_wins_half_of_the_time_with_as_much_time_left_as_the_median() -> None:
    latencies = LatencyWindow()
    for _ in range(REFRESH):
        latencies.observe(0.25, 0.0)
    assert can_still_win(latencies, 0.25, 0.0)
    assert not can_still_win(latencies, 0.2499, 0.0)


@pytest.mark.parametrize("now", [0.0, 61_441.0, 1e9])
def test_latencies_may_first_be_measured_at_any_time_since_the_machine_began(now: float) -> None:
    latencies = LatencyWindow()
    for _ in range(REFRESH):
        latencies.observe(0.25, now)
    assert latencies.usual == latencies.usually_late == 0.25
    for _ in range(REFRESH):
        latencies.observe(0.5, 2 * now + 1e9)  # nobody asked for thirty years
    assert latencies.usual == latencies.typical


# -- last good answers ---------------------------------------------------------------------------


def asked(**candidates: list[int]) -> ScoreRequest:
    arrays = {name: np.array(values, np.int64) for name, values in candidates.items()}
    return ScoreRequest(model="m", query={}, candidates=arrays)


def test_a_last_good_answer_is_none_for_candidates_that_are_not_ids() -> None:
    last_good = LastGood()
    answer = ScoreReply(model="m", bundle="b", scores=np.array([0.5, 0.6], np.float32))
    last_good.remember("key", asked(id=[7, 8]), answer)
    assert last_good.answer("key", asked(id=[8, 7])) is not None
    assert last_good.answer("key", asked(price=[7, 8])) is None


def test_an_answer_about_no_candidate_is_no_last_good_one_for_any() -> None:
    last_good = LastGood()
    nothing = ScoreReply(model="m", bundle="b", scores=np.array([], np.float32))
    last_good.remember("key", asked(id=[]), nothing)
    assert last_good.answer("key", asked(id=[7])) is None


# -- errands -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("waiting", "taken_on"), [(63, True), (64, False)])
def test_no_errand_is_taken_on_while_sixty_four_wait(waiting: int, taken_on: bool) -> None:
    few = fleet(2)
    control = few.control("m").of("1@e", 0.5)
    few.errands.extend([Learn("m", "http://e0", "1@e")] * waiting)
    post_learning(few, "m", "http://e0", control, 0.0)
    assert (len(few.errands) > waiting) is taken_on
    assert (control.learn_at > 0.0) is taken_on


def test_of_nine_edge_bundles_the_one_met_first_is_forgotten() -> None:
    model = fleet(2).control("m")
    met = [model.of(f"1@{number}", 0.5) for number in range(8)]
    assert [model.of(f"1@{number}", 0.5) for number in range(8)] == met
    model.of("1@8", 0.5)
    assert model.of("1@1", 0.5) is met[1]
    assert model.of("1@0", 0.5) is not met[0]


# -- answers and alarms --------------------------------------------------------------------------


def test_a_reply_that_names_its_items_is_taken_at_its_word() -> None:
    given = ScoreReply(
        model="m", bundle="b", scores=np.array([0.5, 0.6], np.float32), items=np.array([8, 7])
    )
    answer = answer_of(
        asked(id=[7, 8]),
        given,
        tier="edge",
        quality="edge",
        reason="no_cloud",
        attempts=(),
        elapsed=0.0,
        claim=None,
    )
    assert answer.items is not None
    assert answer.items.tolist() == [8, 7]


@pytest.mark.parametrize(("promised", "tuned_as"), [(1.0, 1 - CERTAIN), (0.0, CERTAIN)])
def test_an_alarm_of_no_or_every_loss_bets_as_one_of_almost_none_or_all(
    promised: float, tuned_as: float
) -> None:
    plan = ShadowPlan.uniform(0.02, alpha=0.5)
    alarm = RiskAlarm(plan, alpha=promised, delta=0.05)
    assert alarm.bets == RiskAlarm(plan, alpha=tuned_as, delta=0.05).bets
    assert len(set(alarm.bets)) == 3


def test_callers_who_leave_teach_nothing_about_latencies() -> None:
    few = fleet(2)
    for number in range(4 * REFRESH):
        began = float(number)
        call = ScoreCall(
            asked(id=[7]),
            few,
            deadline=began + 0.25,
            mode=Mode.SEQUENTIAL,
            key=None,
            call_id="c",
            dice=random.Random(number),
        )
        call.begin(began)
        call.cancel(began + 0.2)
    latencies = few.tiers[0].latencies("m")
    assert (latencies.typical, latencies.slowest) == (None, None)


def test_a_suspicion_keeps_hedges_from_its_own_bundle_only() -> None:
    few = fleet(2)
    running, other = few.tiers[0].endpoints
    other.served("m").bundle = "1@good"

    def target() -> EndpointState | None:
        dice = random.Random(1)
        return few.tiers[0].hedge_target("m", running, (), 0.0, dice, Criticality.DEFAULT)

    for url in ("http://e0", "http://e1"):
        few.semantic.wrong("m", "1@bad", url, 0.0, 0.5)
    assert target() is other
    other.served("m").bundle = "1@bad"
    assert target() is None
