"""Attempts that hedges outrun: no failures, but five in a row show an endpoint that is gone."""

from __future__ import annotations

import pytest

from tierline import _exceptions as errors
from tierline._config import BreakerPolicy, ClientConfig, Endpoint, HedgePolicy, RetryPolicy, Tier
from tierline._core.breaker import OUTRUN, Breaker, State
from tierline._core.commands import StartAttempt, WakeAt
from tierline._core.fleet import Fleet

from .fixtures import EDGE_A, EDGE_B, SURE, Driver

TAKES, LATE = 0.010, 0.020  # seconds; most answers, and one in ten
HEDGED = HedgePolicy(after=LATE, budget=1.0)
AMPLE = RetryPolicy(budget=1.0)


def outrun(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        permit = breaker.acquire(0.0, 1.0)
        assert permit is not None
        breaker.outrun(permit, 0.0, 0.0)
        breaker.released(permit)


@pytest.mark.parametrize(("consecutive", "enough"), [(1, OUTRUN), (5, OUTRUN), (8, 8)])
def test_as_many_in_a_row_as_cannot_be_chance_open_it(consecutive: int, enough: int) -> None:
    breaker = Breaker(BreakerPolicy(consecutive=consecutive))
    outrun(breaker, enough - 1)
    assert breaker.state is State.CLOSED
    outrun(breaker)
    assert (breaker.state, breaker.opened_by) == (State.OPEN, "outrun")


def test_one_answer_between_begins_the_count_anew() -> None:
    breaker = Breaker(BreakerPolicy())
    for _ in range(20):
        outrun(breaker, OUTRUN - 1)
        permit = breaker.acquire(0.0, 1.0)
        assert permit is not None
        breaker.succeeded(permit, 0.0)
    assert breaker.state is State.CLOSED


def test_failures_among_them_count_along_but_they_are_no_failures_themselves() -> None:
    breaker = Breaker(BreakerPolicy(consecutive=3, minimum_calls=1, failure_rate=1.0))
    outrun(breaker, OUTRUN - 1)
    permit = breaker.acquire(0.0, 1.0)
    assert permit is not None
    breaker.failed(permit, 0.0, 0.0)
    assert breaker.opened_by == "rate"  # the only outcome in its window
    patient = Breaker(BreakerPolicy(consecutive=3))
    outrun(patient, OUTRUN - 1)
    permit = patient.acquire(0.0, 1.0)
    assert permit is not None
    patient.failed(permit, 0.0, 0.0)
    assert patient.opened_by == "outrun"


def test_a_probe_that_is_outrun_and_a_permit_of_yesterday_change_nothing() -> None:
    breaker = Breaker(BreakerPolicy())
    yesterday = breaker.acquire(0.0, 1.0)
    assert yesterday is not None
    breaker.trip(0.0, 0.0, "test")
    probe = breaker.acquire(5.0, 1.0)
    assert probe is not None
    for permit in [probe, yesterday] * OUTRUN:
        breaker.outrun(permit, 5.0, 0.0)
    assert breaker.state is State.HALF_OPEN


# -- calls -----------------------------------------------------------------------------------


def warm_fleet(answers: int = 60) -> Fleet:
    """Two endpoints, of which one in ten answers took long."""
    ends = (Endpoint(url=EDGE_A), Endpoint(url=EDGE_B))
    tiers = (Tier(name="edge", kind="edge", endpoints=ends),)
    fleet = Fleet(ClientConfig(tiers=tiers, hedge=HEDGED, retry=AMPLE))
    for i in range(answers):
        begin = 0.01 * i
        driver = Driver(fleet, begin=begin, seed=i)
        driver.succeed(SURE, at=begin + (LATE if i % 10 == 0 else TAKES))
    return fleet


def hedged_call(fleet: Fleet, begin: float, seed: int, *, hedge_takes: float, wait: float) -> str:
    """A call whose hedge wins: the endpoint of the attempt that lost."""
    driver = Driver(fleet, begin=begin, seed=seed, key=None)
    loser = driver.started.endpoint.url
    assert any(isinstance(command, WakeAt) for command in driver.commands)
    driver.commands = driver.call.wake(begin + wait)
    [hedge] = [c for c in driver.commands if isinstance(c, StartAttempt)]
    driver.call.attempt_succeeded(hedge.number, SURE, begin + wait + hedge_takes)
    return loser


def openings(fleet: Fleet) -> list[str]:
    return [e.breaker("ranker").opened_by for e in fleet.endpoints()]


def outrun_calls(fleet: Fleet, *, hedge_takes: float, wait: float) -> None:
    for i in range(20):
        now = 10.0 + i
        if all(e.breaker("ranker").state is State.CLOSED for e in fleet.endpoints()):
            hedged_call(fleet, now, i, hedge_takes=hedge_takes, wait=wait)


def test_an_endpoint_whose_attempts_are_all_outrun_in_good_time_is_left_alone() -> None:
    fleet = warm_fleet()
    outrun_calls(fleet, hedge_takes=TAKES, wait=1.2 * LATE)
    assert "outrun" in openings(fleet)
    assert all(endpoint.inflight == 0 for endpoint in fleet.endpoints())
    assert not any(endpoint.standing.is_ejected for endpoint in fleet.endpoints())


@pytest.mark.parametrize(
    ("answers", "hedge_takes", "wait", "why"),
    [
        (60, 3 * LATE, 1.2 * LATE, "the hedge was late, too: it may be the tier, or this process"),
        (20, TAKES, 1.2 * LATE, "nobody knows yet what is late"),
    ],
)
def test_else_a_lost_attempt_is_held_against_nobody(
    answers: int, hedge_takes: float, wait: float, why: str
) -> None:
    fleet = warm_fleet(answers)
    outrun_calls(fleet, hedge_takes=hedge_takes, wait=wait)
    assert openings(fleet) == ["", ""], why


def test_an_attempt_that_lost_before_it_was_late_is_held_against_nobody() -> None:
    fleet = warm_fleet()
    for i in range(20):
        driver = Driver(fleet, begin=10.0 + i, seed=i, key=None)
        driver.commands = driver.call.wake(10.0 + i + LATE)
        [hedge] = [c for c in driver.commands if isinstance(c, StartAttempt)]
        driver.call.attempt_succeeded(hedge.number, SURE, 10.0 + i + LATE)
    assert openings(fleet) == ["", ""]


def test_callers_who_give_up_are_held_against_nobody_however_long_they_waited() -> None:
    fleet = warm_fleet()
    for i in range(20):
        driver = Driver(fleet, begin=10.0 + i, seed=i, key=None)
        driver.call.cancel(10.0 + i + 5 * LATE)
    assert openings(fleet) == ["", ""]


def test_a_failed_hedge_outruns_nobody() -> None:
    fleet = warm_fleet()
    for i in range(4):
        driver = Driver(fleet, begin=10.0 + i, seed=i, key=None)
        first = driver.started.number
        driver.commands = driver.call.wake(10.0 + i + 1.2 * LATE)
        driver.fail(errors.ConnectFailed("refused"), at=10.0 + i + 1.5 * LATE)
        driver.call.attempt_succeeded(first, SURE, 10.0 + i + 1.6 * LATE)
    assert "outrun" not in openings(fleet)
