"""Where a call turns: which attempt is its last, what it pays with, when it sleeps and hedges.

Calls begin at 1000 s here: a difference of instants is a span, and a sum of them is nonsense.
"""

from __future__ import annotations

from typing import Any

import pytest
from tenacity import RetryCallState
from tenacity.stop import stop_after_delay
from tenacity.wait import wait_base

from tierline import _exceptions as errors
from tierline._config import (
    BreakerPolicy,
    ClientConfig,
    Criticality,
    Endpoint,
    EscalationPolicy,
    HedgePolicy,
    LimiterPolicy,
    Mode,
    RetryPolicy,
    Sovereignty,
    Tier,
)
from tierline._core.breaker import State
from tierline._core.certified import ASK_AGAIN, Learn, Shadow
from tierline._core.commands import Finish, StartAttempt, WakeAt
from tierline._core.estimators import REFRESH
from tierline._core.fleet import Fleet
from tierline._sovereignty import FieldRule

from .certificates import EDGE_SURE, RECOMMEND
from .certified import ask, certified, failing, status
from .fixtures import CLOUD, PRIVATE, PUBLIC, SURE, UNSURE, Driver, config

BEGUN = 1000.0
AMPLE = RetryPolicy(attempts=6, per_tier=6, budget=1.0, floor=100.0)


def edges(count: int, **settings: Any) -> Fleet:
    """One edge tier of so many endpoints."""
    endpoints = tuple(Endpoint(url=f"http://e{i}:1") for i in range(count))
    tier = Tier(name="edge", kind="edge", endpoints=endpoints)
    return Fleet(ClientConfig(**{"tiers": (tier,), "retry": AMPLE, **settings}))


def measured(fleet: Fleet, latency: float, now: float = BEGUN) -> None:
    for _ in range(REFRESH):
        fleet.tiers[0].latencies("ranker").observe(latency, now)


def asks(driver: Driver) -> bool:
    return any(isinstance(command, StartAttempt) for command in driver.commands)


def wakes(driver: Driver) -> list[float]:
    return [command.at for command in driver.commands if isinstance(command, WakeAt)]


# -- first attempts ------------------------------------------------------------------------------


def test_whoever_is_asked_first_is_asked_first_though_tiers_before_it_were_full() -> None:
    fleet = Fleet(config(limiter=LimiterPolicy(initial=10)))
    for tier in fleet.tiers[:2]:
        for endpoint in tier.endpoints:
            endpoint.inflight = 9
    driver = Driver(fleet)
    assert (driver.started.endpoint.url, driver.started.kind) == (PUBLIC, "first")
    assert [each.kind for each in driver.succeed(CLOUD).answer.attempts] == ["first"]


def test_a_crowded_tier_lets_a_call_try_an_open_breaker_before_its_time() -> None:
    fleet = edges(2, breaker=BreakerPolicy(open_for=1.0), limiter=LimiterPolicy(initial=10))
    bad, full = fleet.tiers[0].endpoints
    bad.breaker("ranker").trip(BEGUN - 2.0, 1.0, "test")
    probe = bad.breaker("ranker").acquire(BEGUN - 1.0, 1.0)
    assert probe is not None
    bad.breaker("ranker").failed(probe, BEGUN - 1.0, 1.0)  # open for two seconds: not due yet
    full.inflight = 9
    driver = Driver(fleet, begin=BEGUN)
    assert driver.started.endpoint is bad
    assert bad.breaker("ranker").state is State.HALF_OPEN


# -- last attempts -------------------------------------------------------------------------------


@pytest.mark.parametrize("attempts", [1, 2, 3, 4])
def test_the_last_attempt_that_a_call_may_make_has_the_whole_time_and_no_other(
    attempts: int,
) -> None:
    retry = RetryPolicy(attempts=attempts, per_tier=6, budget=1.0, floor=100.0)
    driver = Driver(edges(6, retry=retry), begin=BEGUN)
    for number in range(1, attempts + 1):
        whole = driver.started.timeout_at == pytest.approx(BEGUN + 0.249)
        assert whole is (number == attempts)
        driver.fail(errors.Unavailable("down"), at=BEGUN + 0.001 * number)
    assert isinstance(driver.commands[-1], Finish)


def test_what_may_be_shed_counts_on_half_of_the_budget_and_others_on_the_whole() -> None:
    """The floor is one in ten seconds: half of it pays for nothing."""
    for kind, timeout in (
        (Criticality.CRITICAL, 0.249 / 2),
        (Criticality.DEFAULT, 0.249 / 2),
        (Criticality.SHEDDABLE, 0.249),
    ):
        fleet = edges(2, retry=RetryPolicy(budget=0.0, floor=0.1))
        driver = Driver(fleet, begin=BEGUN, criticality=kind)
        assert driver.started.timeout_at == pytest.approx(BEGUN + timeout)


def test_an_attempt_is_made_with_just_the_time_that_the_fastest_tenth_takes() -> None:
    for latency, is_made in ((0.125, True), (0.1251, False)):
        fleet = edges(2)
        measured(fleet, latency)
        driver = Driver(fleet, begin=BEGUN, key=None)
        driver.fail(errors.Unavailable("down"), at=BEGUN + 0.125)
        assert asks(driver) is is_made


def test_only_a_calls_first_escalation_is_free_of_the_clouds_own_budget() -> None:
    for floor, asked in ((0.0, [PRIVATE]), (100.0, [PRIVATE, PUBLIC])):
        fleet = Fleet(config(retry=RetryPolicy(attempts=3, budget=0.0, floor=floor)))
        answer = failing(Driver(fleet).succeed(UNSURE), errors.Unavailable("down"))
        assert [each.endpoint for each in answer.attempts[1:]] == asked
        assert answer.reason == "escalation_failed: unavailable"


# -- what an attempt teaches depends on its call's time ------------------------------------------


def test_a_failure_weighs_as_much_as_the_time_of_its_call() -> None:
    driver = Driver(edges(2), begin=BEGUN)
    failed = driver.started.endpoint
    driver.fail(errors.Unavailable("down"), at=BEGUN + 0.01)
    assert failed.latency.value(BEGUN + 0.01) == pytest.approx(0.25)


@pytest.mark.parametrize(("latency", "state"), [(0.124, State.CLOSED), (0.126, State.OPEN)])
def test_an_answer_is_slow_that_takes_more_than_half_of_its_calls_time(
    latency: float, state: State
) -> None:
    breaker = BreakerPolicy(minimum_calls=1, slow_rate=1.0, slow_share=0.5)
    fleet = edges(1, breaker=breaker, retry=RetryPolicy(attempts=1))
    measured(fleet, 0.001)
    driver = Driver(fleet, begin=BEGUN)
    endpoint = driver.started.endpoint
    driver.succeed(SURE, at=BEGUN + latency)
    assert endpoint.breaker("ranker").state is state


# -- sleeping ------------------------------------------------------------------------------------


class HowLong(wait_base):
    """Waits as long again as the call has taken."""

    def __call__(self, retry_state: RetryCallState) -> float:
        taken = retry_state.seconds_since_start
        assert taken is not None
        return taken


def test_a_waiting_strategy_is_told_how_long_the_call_has_taken() -> None:
    retry = RetryPolicy(attempts=6, per_tier=6, budget=1.0, floor=100.0, wait=HowLong())
    driver = Driver(edges(1, retry=retry), begin=BEGUN)
    driver.fail(errors.Unavailable("down"), at=BEGUN + 0.0625)
    assert wakes(driver) == [BEGUN + 0.125]


def test_a_stopping_strategy_is_told_how_long_the_call_has_taken() -> None:
    retry = RetryPolicy(
        attempts=6, per_tier=6, budget=1.0, floor=100.0, stop=stop_after_delay(0.0625)
    )
    for taken, goes_on in ((0.0624, True), (0.0625, False)):
        driver = Driver(edges(2, retry=retry), begin=BEGUN)
        driver.fail(errors.Unavailable("down"), at=BEGUN + taken)
        assert asks(driver) is goes_on


def test_just_half_of_the_time_that_is_left_may_be_slept() -> None:
    for asked_for, sleeps in ((0.125, True), (0.1251, False)):
        busy = errors.Overloaded("busy")
        busy.retry_after = asked_for
        driver = Driver(edges(1), begin=BEGUN).fail(busy, at=BEGUN)
        assert (wakes(driver) == [BEGUN + asked_for]) is sleeps


# -- hedges --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("left", "is_planned"), [(0.1001, True), (0.1, False), (0.0625, False)])
def test_a_hedge_is_planned_only_before_the_deadline(left: float, is_planned: bool) -> None:
    fleet = edges(2, hedge=HedgePolicy(after=0.1))
    driver = Driver(fleet, begin=BEGUN, deadline=BEGUN + left)
    assert wakes(driver) == ([BEGUN + 0.1] if is_planned else [])


def test_a_hedge_is_sent_at_its_instant_and_not_before() -> None:
    fleet = edges(2, hedge=HedgePolicy(after=0.0625, budget=1.0))
    driver = Driver(fleet, begin=BEGUN)
    assert driver.call.wake(BEGUN + 0.0624) == []
    driver.commands = driver.call.wake(BEGUN + 0.0625)
    assert driver.started.kind == "hedge"


def test_a_hedge_needs_the_time_of_the_median_till_the_deadline() -> None:
    for latency, is_sent in ((0.1875, True), (0.1876, False)):
        fleet = edges(2, hedge=HedgePolicy(after=0.0625, budget=1.0))
        for number in range(REFRESH):
            took = 0.001 if number < REFRESH // 4 else latency  # the fastest do fit
            fleet.tiers[0].latencies("ranker").observe(took, BEGUN)
        driver = Driver(fleet, begin=BEGUN)
        driver.commands = driver.call.wake(BEGUN + 0.0625)
        assert asks(driver) is is_sent


# -- what is learnt of bundles -------------------------------------------------------------------


def test_an_edge_that_was_asked_alone_is_not_taken_for_the_cloud() -> None:
    fleet = certified()
    answer = ask(fleet, EDGE_SURE, mode=Mode.EDGE_ONLY)
    assert answer.tier == "edge"
    assert list(fleet.control("ranker").clouds) == [PRIVATE]
    assert status(ask(fleet, EDGE_SURE)).valid


def test_a_fleet_of_one_kind_keeps_no_account_of_what_its_clouds_serve() -> None:
    fleet = Fleet(config(tiers=config().tiers[1:]))
    assert Driver(fleet).succeed(CLOUD).answer.tier == "private"
    assert fleet.controls == {}


def test_a_bundle_is_asked_about_again_half_a_minute_later_and_not_before() -> None:
    fleet = Fleet(config())
    for at, asked in ((BEGUN, 1), (BEGUN + ASK_AGAIN - 0.001, 1), (BEGUN + ASK_AGAIN, 2)):
        Driver(fleet, begin=at).succeed(SURE, at=at)
        learning = [e for e in fleet.errands if isinstance(e, Learn) and e.bundle == SURE.bundle]
        assert len(learning) == asked


def hashed(**where: Any) -> Sovereignty:
    rule = FieldRule(name="query.history", action="hash", **where)
    return Sovereignty(fields=(rule,), default="allow", secret=b"k" * 32)


@pytest.mark.parametrize(
    ("options", "is_shown"),
    [
        ({}, True),
        ({"sovereignty": hashed(trust="public")}, True),  # the edge has seen it whole
        ({"sovereignty": hashed()}, False),
        ({"request": RECOMMEND._replace(k=5)}, False),  # the certificate is about lists of ten
    ],
)
def test_a_kept_call_is_shown_to_the_cloud_if_the_certificate_is_about_what_the_edge_saw(
    options: dict[str, Any], is_shown: bool
) -> None:
    fleet = certified(EscalationPolicy(burst=1e6, shadow=1.0))
    given = EDGE_SURE
    if "request" in options:
        assert given.items is not None
        given = given._replace(items=given.items[:5], scores=given.scores[:5])
    ask(fleet, given, **options)
    assert any(isinstance(errand, Shadow) for errand in fleet.errands) is is_shown


def test_a_call_that_slept_may_be_followed_by_as_many_attempts_as_before() -> None:
    retry = RetryPolicy(attempts=3, per_tier=3, budget=1.0, floor=100.0)
    answerless = Driver(edges(1, retry=retry), begin=0.0, key=None)
    with pytest.raises(errors.Unavailable) as caught:
        failing(answerless, errors.ConnectFailed("refused"))
    assert [each.kind for each in caught.value.attempts] == ["first", "retry", "retry"]
