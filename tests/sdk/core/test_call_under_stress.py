"""What one call does when time, room, budgets or endpoints run out, event by event."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierline import _exceptions as errors
from tierline._config import (
    BreakerPolicy,
    ClientConfig,
    Criticality,
    Endpoint,
    HedgePolicy,
    LimiterPolicy,
    Mode,
    RetryPolicy,
    Tier,
    TimeoutPolicy,
)
from tierline._core.breaker import State
from tierline._core.commands import Finish, StartAttempt, WakeAt
from tierline._core.estimators import REFRESH
from tierline._core.fleet import Fleet

from .fixtures import CLOUD, EDGE_A, EDGE_B, PRIVATE, SURE, UNSURE, Driver, config, reply

WRONG = reply(scores=SURE.scores[:2])


def zoned(zones: str, **settings: Any) -> Fleet:
    endpoints = tuple(
        Endpoint(url=f"http://e{i}:1", zone=zone if zone != "-" else None)
        for i, zone in enumerate(zones)
    )
    tier = Tier(name="edge", kind="edge", endpoints=endpoints)
    hedge = HedgePolicy(after=0.02, budget=1.0)
    return Fleet(ClientConfig(tiers=(tier,), hedge=hedge, **settings))


def measured(fleet: Fleet, latency: float, tier: int = 0, now: float = 0.0) -> None:
    for _ in range(REFRESH):
        fleet.tiers[tier].latencies("ranker").observe(latency, now)


# -- attempt timeouts and the gate before an attempt -----------------------------------------------


def test_an_attempt_gets_half_as_much_again_as_almost_all_took() -> None:
    fleet = Fleet(config())
    measured(fleet, 0.04)
    assert Driver(fleet).started.timeout_at == pytest.approx(0.06)


def test_a_timeout_has_a_floor_and_leaves_half_of_the_time_to_another() -> None:
    fleet = Fleet(config(timeout=TimeoutPolicy(floor=0.015)))
    measured(fleet, 0.001)
    assert Driver(fleet).started.timeout_at == pytest.approx(0.015)
    fleet = Fleet(config())
    measured(fleet, 0.2)
    assert Driver(fleet).started.timeout_at == pytest.approx((0.25 - 0.001) / 2)


def test_who_cannot_pay_for_another_attempt_is_not_cut_short() -> None:
    fleet = Fleet(config(retry=RetryPolicy(budget=0.0, floor=0.1)))  # one, in ten seconds
    measured(fleet, 0.005)
    driver = Driver(fleet, mode=Mode.EDGE_ONLY, key=None)
    assert driver.started.timeout_at == pytest.approx(0.01)
    driver.fail(errors.AttemptTimedOut("late"), at=0.01)
    assert driver.started.kind == "failover"
    patient = Driver(fleet, mode=Mode.EDGE_ONLY, key=None, begin=0.02)
    assert patient.started.timeout_at == pytest.approx(0.02 + 0.249)


def test_for_a_moment_after_a_refusal_nobody_counts_on_another_attempt() -> None:
    fleet = Fleet(config())
    measured(fleet, 0.005)
    fleet.tiers[0].budget.broke_until = 0.1
    assert Driver(fleet, begin=0.09).started.timeout_at == pytest.approx(0.09 + 0.249)
    assert Driver(fleet, begin=0.1).started.timeout_at == pytest.approx(0.1 + 0.01)


def test_a_breakers_probe_is_not_cut_by_what_was_measured_in_better_days() -> None:
    fleet = Fleet(config())
    measured(fleet, 0.005)
    for endpoint in fleet.tiers[0].endpoints:
        for _ in range(5):
            permit = endpoint.breaker("ranker").acquire(0.0, 1.0)
            assert permit is not None
            endpoint.breaker("ranker").failed(permit, 0.0, 0.0)
    driver = Driver(fleet, begin=2.0)
    assert driver.started.endpoint.breaker("ranker").state is State.HALF_OPEN
    assert driver.started.timeout_at == pytest.approx(2.0 + 0.249 / 2)


def test_no_further_attempt_is_made_with_less_time_than_the_fastest_tenth_takes() -> None:
    fleet = Fleet(config())
    measured(fleet, 0.05)
    driver = Driver(fleet, mode=Mode.EDGE_ONLY, key=None).fail(errors.Unavailable("x"), at=0.21)
    assert isinstance(driver.commands[-1], Finish)
    again = Driver(fleet, mode=Mode.EDGE_ONLY, key=None).fail(errors.Unavailable("x"), at=0.19)
    assert isinstance(again.commands[-1], StartAttempt)


def test_a_first_attempt_is_made_however_slow_the_tier_was_or_nobody_would_find_out() -> None:
    fleet = Fleet(config())
    measured(fleet, 5.0)
    assert Driver(fleet).started.endpoint.tier == "edge"


# -- hedges ----------------------------------------------------------------------------------------


def hedge_of(fleet: Fleet, at: float = 0.02, **options: Any) -> StartAttempt | None:
    driver = Driver(fleet, key=None, **options)
    assert any(isinstance(command, WakeAt) for command in driver.commands)
    commands = driver.call.wake(at)
    return next((c for c in commands if isinstance(c, StartAttempt)), None)


def test_a_hedge_goes_to_another_zone_and_to_none_when_there_is_none_well() -> None:
    for seed in range(20):
        fleet = zoned("aab")
        driver = Driver(fleet, key=None, seed=seed)
        first = driver.started.endpoint
        [hedge] = driver.call.wake(0.02)
        assert isinstance(hedge, StartAttempt)
        assert hedge.endpoint.zone != first.zone
    fleet = zoned("ab")
    driver = Driver(fleet, key=None)
    [other] = [e for e in fleet.endpoints() if e is not driver.started.endpoint]
    other.standing.probed(down=True, now=0.0)
    assert driver.call.wake(0.02) == []
    assert hedge_of(zoned("aa")) is not None  # one zone is no failure domain to avoid
    assert hedge_of(zoned("--")) is not None


def test_no_hedge_when_too_little_time_is_left_for_the_median() -> None:
    fleet = zoned("--")
    measured(fleet, 0.24)
    assert hedge_of(fleet) is None
    fleet = zoned("--")
    measured(fleet, 0.2)
    assert hedge_of(fleet) is not None


def test_no_hedge_into_a_half_open_breaker_or_a_full_endpoint() -> None:
    fleet = zoned("--", limiter=LimiterPolicy(initial=100))
    for endpoint in fleet.endpoints():
        endpoint.inflight = 80
    assert hedge_of(fleet) is None
    fleet = zoned("--")
    driver = Driver(fleet, key=None, begin=2.0)
    [other] = [e for e in fleet.endpoints() if e is not driver.started.endpoint]
    for _ in range(5):
        permit = other.breaker("ranker").acquire(0.0, 1.0)
        assert permit is not None
        other.breaker("ranker").failed(permit, 0.0, 0.0)
    assert other.breaker("ranker").acquire(2.0, 1.0) is not None  # half-open
    assert driver.call.wake(2.02) == []


def test_a_hedge_draws_on_its_own_budget_and_on_the_tiers() -> None:
    fleet = zoned("--", retry=RetryPolicy(budget=0.0, floor=0.1))
    before = fleet.hedges.balance(0.02)
    assert hedge_of(fleet) is not None
    assert fleet.hedges.balance(0.02) == before  # one more call earned what the hedge has spent
    left = fleet.hedges.balance(0.02)
    assert hedge_of(fleet) is None  # the floor is spent
    assert fleet.hedges.balance(0.02) == left + 1.0  # and its own budget was not touched for it
    assert fleet.tiers[0].amplification(0.02) == 1.5


def test_the_loser_of_a_hedge_is_no_failure_and_makes_the_tail_longer() -> None:
    fleet = zoned("--", retry=RetryPolicy(budget=1.0))
    latencies = fleet.tiers[0].latencies("ranker")
    for _ in range(REFRESH):
        driver = Driver(fleet, key=None)
        first = driver.started
        [hedge] = driver.call.wake(0.02)
        assert isinstance(hedge, StartAttempt)
        driver.call.attempt_succeeded(hedge.number, SURE, 0.03)
        assert first.endpoint.breaker("ranker").state is State.CLOSED
        assert first.endpoint.standing.failure_share(0.03) == 0.0
    assert latencies.slowest is not None
    assert latencies.slowest >= 0.03  # the first ones took at least that long


# -- room ------------------------------------------------------------------------------------------


def test_when_every_endpoint_is_full_the_cloud_is_asked_and_then_the_caller_told_so() -> None:
    fleet = Fleet(config(limiter=LimiterPolicy(initial=10)))
    for endpoint in fleet.tiers[0].endpoints:
        endpoint.inflight = 9
    assert Driver(fleet, key=None).started.endpoint.url == PRIVATE
    for endpoint in fleet.endpoints():
        endpoint.inflight = 9
    with pytest.raises(errors.Overloaded, match="as many calls as its limiter allows"):
        _ = Driver(fleet, key=None).answer


def test_the_lowest_kind_of_call_is_shed_first_and_the_critical_one_last() -> None:
    fleet = Fleet(config(limiter=LimiterPolicy(initial=20)))
    kinds = (Criticality.SHEDDABLE, Criticality.DEFAULT, Criticality.CRITICAL)
    admitted = dict.fromkeys(kinds, 0)
    for inflight in range(21):
        for endpoint in fleet.endpoints():
            endpoint.inflight = inflight
        for kind in kinds:
            driver = Driver(fleet, key=None, criticality=kind)
            if isinstance(driver.commands[0], StartAttempt):
                admitted[kind] += 1
                driver.call.cancel(0.0)
    assert list(admitted.values()) == [10, 18, 20]


def test_a_refusal_for_load_and_a_timeout_shrink_the_limit_and_errors_do_not() -> None:
    for error, shrinks in (
        (errors.Overloaded("full"), True),
        (errors.DeadlineExceeded("expired in the queue"), True),
        (errors.AttemptTimedOut("late"), True),
        (errors.ModelFailed("NaN"), False),
        (errors.ConnectFailed("refused"), False),
    ):
        driver = Driver(Fleet(config()))
        endpoint = driver.started.endpoint
        before = endpoint.limiter.limit
        driver.fail(error)
        assert (endpoint.limiter.limit < before) is shrinks


def test_an_attempt_that_lapsed_before_it_was_sent_teaches_nothing_of_the_endpoint() -> None:
    fleet = Fleet(config(breaker=BreakerPolicy(consecutive=1)))
    driver = Driver(fleet, mode=Mode.EDGE_ONLY)
    endpoint = driver.started.endpoint
    before = endpoint.limiter.limit, endpoint.latency.value(0.1)
    driver.fail(errors.AttemptLapsed("stood still"), at=0.1)
    assert endpoint.breaker("ranker").state is State.CLOSED
    assert (endpoint.limiter.limit, endpoint.latency.value(0.1)) == before
    assert driver.started.endpoint is not endpoint  # the call itself goes on elsewhere


def test_behind_a_breaker_that_closes_the_crowd_is_let_in_by_and_by() -> None:
    fleet = Fleet(config(limiter=LimiterPolicy(initial=100)))
    edge = fleet.tiers[0].endpoints[0]
    fleet.tiers[0].endpoints[1].standing.probed(down=True, now=0.0)
    for _ in range(5):
        permit = edge.breaker("ranker").acquire(0.0, 1.0)
        assert permit is not None
        edge.breaker("ranker").failed(permit, 0.0, 0.0)
    edge.standing.probed(down=False, now=0.0)
    for i in range(60):
        driver = Driver(fleet, begin=2.0 + i / 10, mode=Mode.EDGE_ONLY, seed=i)
        if driver.started.endpoint is edge:
            driver.succeed(SURE, at=2.001 + i / 10)
        else:
            driver.call.cancel(2.0 + i / 10)
        if edge.breaker("ranker").state is State.CLOSED:
            break
    assert edge.breaker("ranker").state is State.CLOSED
    assert edge.limiter.limit <= 9
    assert edge.standing.ramp_from is not None


def test_an_answer_that_almost_timed_out_does_not_raise_the_limit() -> None:
    for allowed, raises in ((0.01, False), (0.1, True)):
        fleet = Fleet(config(timeout=TimeoutPolicy(floor=allowed)))
        measured(fleet, 0.001)
        driver = Driver(fleet)
        limiter = driver.started.endpoint.limiter
        limiter.start_anew()
        before = limiter.limit
        driver.succeed(SURE, at=0.008)
        assert (limiter.limit > before) is raises


# -- what the end of an attempt teaches ------------------------------------------------------------


def test_a_failure_makes_an_endpoint_look_slow_and_an_answer_breaks_its_row() -> None:
    fleet = Fleet(config())
    driver = Driver(fleet)
    failed = driver.started.endpoint
    driver.fail(errors.Unavailable("x"), at=0.001)
    answered = driver.started.endpoint
    driver.succeed(SURE, at=0.02)
    assert failed.load(0.02) > 5 * answered.load(0.02)
    for _ in range(4):
        answered.standing.failed("ranker", 0.03, unreached=False)
    again = Driver(fleet, begin=0.04)
    assert again.started.endpoint is answered
    again.succeed(SURE, at=0.05)
    assert not answered.standing.failed("ranker", 0.06, unreached=False)  # not the fifth in a row


def test_a_call_begins_with_the_second_edge_tier_when_the_first_is_gone() -> None:
    tiers = tuple(
        Tier(name=name, kind="edge", endpoints=(Endpoint(url=f"http://{name}:1"),))
        for name in ("near", "far")
    )
    fleet = Fleet(ClientConfig(tiers=tiers))
    assert Driver(fleet).started.endpoint.tier == "near"
    fleet.tiers[0].endpoints[0].standing.probed(down=True, now=0.0)
    assert Driver(fleet, begin=0.2).started.endpoint.tier == "far"


def test_a_hedge_without_a_fixed_span_waits_for_the_measured_late_ones() -> None:
    fleet = Fleet(config(hedge=HedgePolicy(budget=1.0)))
    assert not any(isinstance(c, WakeAt) for c in Driver(fleet).commands)  # nothing is known yet
    for i in range(REFRESH):
        fleet.tiers[0].latencies("ranker").observe(0.03 if i > 29 else 0.01, 0.0)
    [wake] = [c for c in Driver(fleet).commands if isinstance(c, WakeAt)]
    assert wake.at == pytest.approx(0.03)
    fast = Fleet(config(hedge=HedgePolicy(budget=1.0)))
    measured(fast, 0.0001)
    assert WakeAt(0.001) in Driver(fast).commands


# -- budgets ---------------------------------------------------------------------------------------


def _outage(error: errors.TierlineError, calls: int, rate: float) -> tuple[int, Fleet]:
    """All attempts made while everything fails."""
    fleet = Fleet(config())
    attempts, dice = 0, random.Random(1)
    for i in range(calls):
        now = i / rate
        driver = Driver(fleet, key=None, begin=now, seed=dice.getrandbits(30))
        while not isinstance(driver.commands[-1], Finish):
            if isinstance(driver.commands[0], WakeAt):
                driver.commands = driver.call.wake(driver.commands[0].at)
                continue
            attempts += 1
            driver.fail(error, at=now + 0.001)
    return attempts, fleet


@pytest.mark.parametrize(
    "error",
    [errors.Unavailable("down"), errors.AttemptTimedOut("x"), errors.ModelFailed("NaN")],
    ids=lambda error: type(error).__name__,
)
def test_a_total_outage_adds_a_tenth_and_the_floor_at_most(error: errors.TierlineError) -> None:
    calls, rate = 3000, 100.0
    attempts, _ = _outage(error, calls, rate)
    floor = 1.0 * (calls / rate + 10)
    assert attempts <= 1.10 * calls + floor


def test_amplification_is_told_for_every_tier_and_for_all() -> None:
    fleet = Fleet(config())
    for i in range(20):
        Driver(fleet, key=None, begin=i / 10).succeed(SURE, at=i / 10)
    assert fleet.amplification(2.0) == 1.0
    Driver(fleet, key=None, begin=2.0).fail(errors.Unavailable("x"), at=2.0).succeed(SURE, at=2.0)
    assert fleet.tiers[0].amplification(2.0) == pytest.approx(22 / 21)
    assert fleet.amplification(2.0) == pytest.approx(22 / 21)
    assert fleet.tiers[1].amplification(2.0) == 1.0


# -- conservation ----------------------------------------------------------------------------------

OUTCOMES = st.sampled_from(
    [
        SURE,
        UNSURE,
        WRONG,
        errors.ConnectFailed("refused"),
        errors.AttemptTimedOut("late"),
        errors.Overloaded("full"),
        errors.ModelFailed("NaN"),
        errors.ModelNotFound("no such model"),
        errors.BadRequest("wrong"),
        "cancel",
        "late",
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.data(), st.booleans(), st.integers(1, 25))
def test_whatever_happens_every_place_is_given_back_and_every_call_ends_once(
    data: st.DataObject, hedging: bool, calls: int
) -> None:
    hedge = HedgePolicy(after=0.01, budget=1.0) if hedging else None
    fleet = Fleet(config(hedge=hedge, retry=RetryPolicy(budget=1.0, floor=10.0)))
    now = 0.0
    for i in range(calls):
        now += data.draw(st.sampled_from([0.0, 0.1, 3.0]))
        driver = Driver(fleet, begin=now, seed=i)
        commands, ends, out = list(driver.commands), 0, set[int]()
        while commands:
            command = commands.pop(0)
            now += 0.001
            if isinstance(command, Finish):
                ends += 1
            elif isinstance(command, WakeAt):
                now = max(now, command.at)
                commands += driver.call.wake(now)
            elif isinstance(command, StartAttempt):
                assert command.endpoint.url not in {EDGE_A, EDGE_B} or command.number <= 4
                outcome = data.draw(OUTCOMES)
                if outcome == "cancel":
                    driver.call.cancel(now)
                    ends += not ends
                    commands.clear()
                elif outcome == "late":
                    out.add(command.number)
                    commands += driver.call.attempt_failed(
                        command.number, errors.AttemptTimedOut("late"), command.timeout_at
                    )
                    assert driver.call.attempt_succeeded(command.number, SURE, now) == []
                elif isinstance(outcome, errors.TierlineError):
                    commands += driver.call.attempt_failed(command.number, outcome, now)
                else:
                    assert not isinstance(outcome, str)
                    commands += driver.call.attempt_succeeded(command.number, outcome, now)
        driver.call.cancel(now)
        assert ends == 1
    assert [endpoint.inflight for endpoint in fleet.endpoints()] == [0, 0, 0, 0]
    for endpoint in fleet.endpoints():
        assert endpoint.breaker("ranker")._leases == {}


def test_an_attempt_that_nobody_could_be_paid_to_follow_has_the_whole_time() -> None:
    retry = RetryPolicy(budget=0.1, floor=0.0)  # nothing earned yet, and nothing to start from
    for tiers in (config().tiers[:1], config().tiers[1:], config().tiers):
        fleet = Fleet(config(tiers=tiers, retry=retry))
        assert Driver(fleet).started.timeout_at == pytest.approx(0.249)
        for _ in range(10):
            fleet.tiers[-1].budget.requests.add(0.0)
        followed = Driver(fleet).started.timeout_at
        assert followed == pytest.approx(0.1245)


def test_a_fleet_without_edge_says_so_instead_of_blaming_one() -> None:
    fleet = Fleet(config(tiers=config().tiers[1:]))
    assert Driver(fleet).succeed(CLOUD).answer.reason == "no_edge"
    down = Fleet(config())
    for endpoint in down.tiers[0].endpoints:
        endpoint.breaker("ranker").trip(0.0, 0.5, "test")
    assert Driver(down).succeed(CLOUD).answer.reason == "edge_failed: breaker"
