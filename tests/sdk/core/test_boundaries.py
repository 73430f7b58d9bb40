"""Where exactly a rule begins to hold: "at", "at least", "more than" and "within" are kept."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tierline import _exceptions as errors
from tierline._config import (
    Balancing,
    BreakerPolicy,
    ClientConfig,
    EjectionPolicy,
    Endpoint,
    EscalationPolicy,
    LimiterPolicy,
    RetryPolicy,
    Tier,
)
from tierline._core.breaker import Breaker, State
from tierline._core.budgets import WindowCount, WindowedBudget
from tierline._core.ejection import Outliers, Standing
from tierline._core.escalation import START_GATE, Pressure
from tierline._core.estimators import REFRESH, SIZE, LatencyWindow
from tierline._core.fallback import LastGood, Prior, prior_reply
from tierline._core.fleet import Fleet
from tierline._core.limiter import PAUSE, Limiter
from tierline._core.retrying import LONGEST_PUSHBACK, pushback
from tierline._core.tiers import TierState
from tierline._core.timeouts import LATE
from tierline._core.windows import OutcomeWindow
from tierline.wire import ScoreRequest

from .fixtures import REQUEST, SURE, Driver, config, reply

# -- breakers ------------------------------------------------------------------------------------


def judged(outcomes: str, policy: BreakerPolicy) -> State:
    """The state after these outcomes: "." good, "x" failed, "s" slow."""
    breaker = Breaker(policy)
    for outcome in outcomes:
        permit = breaker.acquire(1.0, 1.0)
        assert permit is not None
        if outcome == "x":
            breaker.failed(permit, 1.0, 0.0)
        else:
            breaker.succeeded(permit, 1.0, slow=outcome == "s")
    return breaker.state


def test_a_probe_has_failed_at_the_very_end_of_its_grace() -> None:
    breaker = Breaker(BreakerPolicy(consecutive=1))
    permit = breaker.acquire(-9.0, 1.0)
    assert permit is not None
    breaker.failed(permit, -9.0, 0.0)
    assert breaker.acquire(-0.5, 0.5) is not None
    assert breaker.acquire(0.0, 0.5) is None  # its lease has ended
    assert breaker.acquire(LATE - 0.001, 0.5) is None
    assert breaker.state is State.HALF_OPEN
    assert breaker.acquire(LATE, 0.5) is None
    assert breaker.state is State.OPEN


@pytest.mark.parametrize(("took", "state"), [(0.125, State.CLOSED), (0.126, State.OPEN)])
def test_an_answer_is_slow_beyond_half_of_its_calls_time(took: float, state: State) -> None:
    touchy = BreakerPolicy(minimum_calls=1, slow_rate=0.5, slow_share=0.5)
    tiers = (Tier(name="edge", kind="edge", endpoints=(Endpoint(url="http://edge-1"),)),)
    fleet = Fleet(ClientConfig(tiers=tiers, breaker=touchy))
    for _ in range(REFRESH):
        Driver(fleet).succeed(SURE)
    Driver(fleet, begin=128.0).succeed(SURE, 128.0 + took)
    assert fleet.tiers[0].endpoints[0].breaker(REQUEST.model).state is state


RATES = BreakerPolicy(minimum_calls=4, failure_rate=0.5, slow_rate=0.75, consecutive=99)


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        (".x.", State.CLOSED),  # three were seen, not four
        (".x.x", State.OPEN),  # half of four
        ("..x.x", State.CLOSED),  # two of five
        ("..x.xx", State.OPEN),
        ("ss.", State.CLOSED),
        ("s.ss", State.OPEN),  # three of four
        (".s.ss", State.CLOSED),  # three of five
        ("xs.s", State.OPEN),  # a failure is the slowest answer of all
    ],
)
def test_rates_are_reached_at_their_figure_and_not_before_the_fewest_calls(
    outcomes: str, state: State
) -> None:
    assert judged(outcomes, RATES) is state


def test_an_open_breaker_lets_through_at_the_end_of_its_wait_and_not_before() -> None:
    breaker = Breaker(BreakerPolicy(open_for=1.0))
    breaker.trip(10.0, 1.0, "test")
    assert not breaker.allows(10.999)
    assert breaker.acquire(10.999, 1.0) is None
    assert breaker.allows(11.0)
    assert breaker.acquire(11.0, 1.0) is not None


# -- budgets -------------------------------------------------------------------------------------


def test_a_budget_spends_when_a_whole_one_is_earned_and_not_before() -> None:
    calls = WindowCount()
    budget = WindowedBudget(calls, ratio=0.25)
    for _ in range(3):
        calls.add(5.0)
        assert not budget.withdraw(5.0)
    calls.add(5.0)
    assert budget.withdraw(5.0)
    assert not budget.withdraw(5.0)


def test_what_was_counted_is_forgotten_when_its_second_is_ten_seconds_old() -> None:
    for begun in (0.0, 0.5, 7.3):
        count = WindowCount()
        count.add(begun)
        count.add(begun + 1.0)
        assert [count.total(int(begun) + later) for later in (1.0, 9.9, 10.0, 11.0)] == [2, 2, 1, 0]


def test_a_clock_that_jumps_far_ahead_forgets_everything() -> None:
    count = WindowCount()
    for second in range(10):
        count.add(float(second))
    assert [count.total(9.0), count.total(14.0), count.total(1e9)] == [10, 5, 0]


# -- ejection ------------------------------------------------------------------------------------

FAR = EjectionPolicy(minimum_calls=4, failure_share=0.25, consecutive=99, jitter=0.0)


def fares(good: int, bad: int) -> Standing:
    standing = Standing(FAR)
    for _ in range(good):
        standing.succeeded(1.0)
    for _ in range(bad):
        standing.failed("m", 1.0, unreached=False)
    return standing


@pytest.mark.parametrize(
    ("good", "bad", "peers", "ejected"),
    [
        (3, 0, (8, 0), True),  # with the one to come a quarter of four
        (2, 0, (8, 0), False),  # one of three
        (4, 0, (8, 0), False),  # one of five
        (3, 0, (7, 1), True),  # twice its peer's share at least: an eighth
        (3, 0, (6, 1), False),  # a seventh
    ],
)
def test_an_outlier_fails_in_a_quarter_of_four_calls_and_twice_as_often_as_its_peers(
    good: int, bad: int, peers: tuple[int, int], ejected: bool
) -> None:
    one, peer = fares(good, bad), fares(*peers)
    outliers = Outliers(FAR, [one, peer])
    assert outliers.failed(one, "m", 1.0, unreached=False, jitter=0.5) is ejected


def test_an_ejection_is_over_at_its_instant() -> None:
    standing = fares(3, 1)
    standing.eject(10.0, 0.5)
    assert standing.is_out("m", 10.999)
    assert not standing.is_out("m", 11.0)


# -- limits --------------------------------------------------------------------------------------


def test_two_drops_within_a_pause_cut_once_and_at_its_end_twice() -> None:
    for gap, limit in ((0.999 * PAUSE, 90.0), (PAUSE, 81.0)):
        limiter = Limiter(LimiterPolicy(initial=100))
        limiter.dropped(1.0)
        limiter.dropped(1.0 + gap)
        assert limiter.limit == pytest.approx(limit)


def test_a_limit_moves_after_so_many_answers_and_when_half_of_it_is_in_use() -> None:
    for answers, inflight, grown in ((4, 8, False), (5, 8, True), (5, 7, False)):
        limiter = Limiter(LimiterPolicy(initial=16, samples=5))
        for _ in range(answers):
            limiter.answered(0.01, inflight, 1.0, 1.0)
        assert (limiter.limit > 16) is grown


# -- escalation ----------------------------------------------------------------------------------


def test_an_answer_just_at_the_threshold_is_certain() -> None:
    at, above = reply(uncertainty=0.5), reply(uncertainty=float(np.nextafter(0.5, 1.0)))
    assert Driver(Fleet(config())).succeed(at).answer.reason == "certain"
    assert Driver(Fleet(config())).succeed(above).started.kind == "escalation"


def test_one_in_sixty_four_is_the_most_doubtful_of_the_last_sixty_four() -> None:
    pressure = Pressure(EscalationPolicy(ease_below=0.5))
    assert pressure.admits(0.95, 1.0)
    for _ in range(62):
        assert pressure.admits(0.6, 1.0)
    assert not pressure.admits(0.6, 0.5 / 64)  # the sixty-fourth: the first is still known
    assert pressure.admits(0.6, 0.5 / 64)  # and now it is not: all are alike


def test_the_threshold_does_not_move_before_sixteen_doubts_are_known() -> None:
    pressure = Pressure(EscalationPolicy(ease_below=0.5))
    assert all(pressure.admits(0.9, 0.01) for _ in range(15))
    assert not pressure.admits(0.6, 0.01)


def test_a_call_with_less_than_the_start_gate_left_asks_nobody() -> None:
    fleet = Fleet(config())
    asked = Driver(fleet, begin=0.0, deadline=START_GATE)
    assert asked.started.number == 1
    with pytest.raises(errors.DeadlineExceeded):
        _ = Driver(fleet, begin=0.0, deadline=0.999 * START_GATE).answer


# -- retries -------------------------------------------------------------------------------------


def test_an_endpoint_may_ask_for_no_time_and_for_almost_an_hour() -> None:
    for after, heard in ((0.0, 0.0), (3599.0, 3599.0), (LONGEST_PUSHBACK, None), (-1e-9, None)):
        busy = errors.Overloaded("busy")
        busy.retry_after = after
        assert pushback(busy) == heard


def test_two_refused_connections_are_free_and_the_third_is_not() -> None:
    endpoints = tuple(Endpoint(url=f"http://e{i}:1") for i in range(6))
    tier = Tier(name="edge", kind="edge", endpoints=endpoints)
    retry = RetryPolicy(attempts=6, per_tier=6, budget=0.0, floor=0.0)
    driver = Driver(Fleet(ClientConfig(tiers=(tier,), retry=retry)), key=None)
    for refused in (1, 2):
        driver.fail(errors.ConnectFailed("refused"), 0.001 * refused)
        assert driver.started.kind == "failover"
    driver.fail(errors.ConnectFailed("refused"), 0.003)
    with pytest.raises(errors.Unavailable) as caught:
        _ = driver.answer
    assert len(caught.value.attempts) == 3


def test_a_call_makes_as_many_attempts_as_it_may_and_none_more() -> None:
    endpoints = tuple(Endpoint(url=f"http://e{i}:1") for i in range(6))
    tier = Tier(name="edge", kind="edge", endpoints=endpoints)
    for attempts, per_tier, most in ((3, 6, 3), (6, 2, 2), (1, 6, 1)):
        retry = RetryPolicy(attempts=attempts, per_tier=per_tier, budget=1.0, floor=10.0)
        driver = Driver(Fleet(ClientConfig(tiers=(tier,), retry=retry)), key=None)
        made = 1
        while made < 9:
            driver.fail(errors.Unavailable("down"), 0.001 * made)
            if not driver.commands or not hasattr(driver.commands[0], "endpoint"):
                break
            made += 1
        assert made == most


# -- fallbacks -----------------------------------------------------------------------------------

PRIOR = Prior("v0@prior", np.array([-np.inf, 0.1, 0.4, 0.3], np.float32))


def asked(*ids: int) -> ScoreRequest:
    return REQUEST._replace(candidates={"id": np.array(ids, np.int64)})


@pytest.mark.parametrize(
    ("ids", "scores"), [((1, 3), [0.1, 0.3]), ((0, 1), None), ((1, 4), None), ((), None)]
)
def test_a_prior_answers_for_its_first_to_its_last_item(
    ids: tuple[int, ...], scores: list[float] | None
) -> None:
    answered = prior_reply(PRIOR, asked(*ids))
    assert (answered is None) is (scores is None)
    if answered is not None:
        np.testing.assert_allclose(answered.scores, np.array(scores, np.float32))


def test_a_prior_recommends_what_it_has_and_says_where_nothing_is_left() -> None:
    request = ScoreRequest(model="ranker", query={"history": np.array([3])}, k=4)
    answered = prior_reply(PRIOR, request)
    assert answered is not None
    assert answered.items is not None
    assert answered.items.tolist() == [2, 1, -1, -1]
    assert answered.scores.tolist() == pytest.approx([0.4, 0.1, -np.inf, -np.inf])


def test_of_the_last_good_answers_the_least_lately_used_goes_first() -> None:
    kept = LastGood(capacity=2)
    for key in ("a", "b", "a", "c"):
        kept.remember(key, REQUEST, SURE)
    assert [kept.answer(key, REQUEST) is not None for key in "abc"] == [True, False, True]


def test_a_last_good_recommendation_must_be_as_long_as_what_is_asked() -> None:
    kept = LastGood()
    asked_for = ScoreRequest(model="ranker", query={}, k=3)
    kept.remember("u", asked_for, reply(items=np.array([5, 6, 7], np.int64)))
    shorter = kept.answer("u", asked_for._replace(k=2))
    assert shorter is not None
    assert shorter.items is not None
    assert shorter.items.tolist() == [5, 6]
    assert kept.answer("u", asked_for) is not None
    assert kept.answer("u", asked_for._replace(k=4)) is None


# -- choice --------------------------------------------------------------------------------------


def ring(size: int) -> TierState:
    endpoints = tuple(Endpoint(url=f"http://e{i}:1") for i in range(size))
    tier = Tier(name="edge", kind="edge", endpoints=endpoints, balancing=Balancing.CONSISTENT_HASH)
    return Fleet(ClientConfig(tiers=(tier,))).tiers[0]


def test_a_key_whose_endpoint_has_too_much_goes_where_it_would_go_without_that_endpoint() -> None:
    dice = random.Random(1)
    full, without = ring(5), ring(5)
    for i in range(200):
        key = f"user-{i}"
        own = full.pick("m", (), key, 0.0, dice)
        assert own is not None
        own.inflight = 100
        spilt = full.pick("m", (), key, 0.0, dice)
        own.inflight = 0
        elsewhere = without.pick("m", {own.url}, key, 0.0, dice)
        assert spilt is not None
        assert elsewhere is not None
        assert spilt.url == elsewhere.url


def test_two_of_three_healthy_endpoints_keep_all_but_a_fifteenth_at_the_first_tier() -> None:
    tiers = tuple(
        Tier(
            name=name,
            kind="edge",
            endpoints=tuple(Endpoint(url=f"http://{name}{i}:1") for i in range(3)),
        )
        for name in ("near", "far")
    )
    fleet = Fleet(ClientConfig(tiers=tiers))
    fleet.tiers[0].endpoints[0].breaker("ranker").trip(0.0, 1.0, "test")
    begun = []
    for seed in range(1500):
        driver = Driver(fleet, seed=seed)
        begun.append(driver.started.endpoint.tier)
        driver.call.cancel(0.0)
    assert begun.count("near") / 1500 == pytest.approx(1.4 * 2 / 3, abs=0.02)


def test_failures_and_answers_leave_a_long_window_at_the_same_time() -> None:
    window = OutcomeWindow(20.0)
    window.bad(1.0)
    window.good(1.0, slow=False)
    window.bad(11.0)
    window.good(11.0, slow=True)
    assert window.totals(11.0) == (2, 2, 1)
    assert window.totals(20.5) == (1, 1, 1)
    assert window.totals(31.0) == (0, 0, 0)


def test_quantiles_of_latencies_are_those_of_the_sample() -> None:
    window = LatencyWindow()
    for place in range(SIZE):
        window.observe((place + 1) / SIZE, 0.0)
    found = (window.fastest, window.typical, window.late, window.slowest)
    assert found == pytest.approx((0.1, 0.5, 0.95, 0.999), abs=2.0 / SIZE)
