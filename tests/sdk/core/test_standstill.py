"""A process that stood still while attempts were out holds nothing of it against an endpoint."""

from __future__ import annotations

import random

import pytest

from tierline import _exceptions as errors
from tierline._config import (
    BreakerPolicy,
    ClientConfig,
    Endpoint,
    HealthPolicy,
    Sovereignty,
    Tier,
)
from tierline._core.breaker import State
from tierline._core.endpoints import EndpointState
from tierline._core.fleet import Fleet
from tierline._core.probing import Prober
from tierline._core.timeouts import LATE
from tierline._sovereignty import FieldRule

from .fixtures import EDGE_A, REQUEST, SURE, Driver, config

TOUCHY = BreakerPolicy(consecutive=1, minimum_calls=1, slow_rate=0.01)
LOST = [errors.AttemptTimedOut("slow"), errors.RemoteProtocolError("hung up")]


def alone(url: str = EDGE_A) -> Fleet:
    tier = Tier(name="edge", kind="edge", endpoints=(Endpoint(url=url),))
    return Fleet(ClientConfig(tiers=(tier,), breaker=TOUCHY))


def believed(endpoint: EndpointState, now: float) -> tuple[object, ...]:
    breaker = endpoint.breaker("ranker")
    standing = endpoint.standing
    return (
        breaker.state,
        breaker.generation,
        endpoint.limiter.limit,
        endpoint.latency.value(now),
        standing.failure_share(now),
        standing.is_plain,
    )


@pytest.mark.parametrize("lost", LOST, ids=lambda error: type(error).__name__)
def test_what_is_lost_while_the_process_stands_still_is_held_against_nobody(
    lost: errors.TierlineError,
) -> None:
    fleet = alone()
    [endpoint] = fleet.endpoints()
    before = believed(endpoint, 5.0)
    driver = Driver(fleet)
    driver.fail(lost, at=5.0)
    with pytest.raises(errors.DeadlineExceeded) as caught:
        _ = driver.answer
    assert [attempt.outcome for attempt in caught.value.attempts] == ["lapsed"]
    assert believed(endpoint, 5.0) == before
    assert fleet.tiers[0].latencies("ranker").slowest is None
    assert endpoint.inflight == 0


@pytest.mark.parametrize("lost", LOST, ids=lambda error: type(error).__name__)
def test_a_timer_that_is_a_little_late_excuses_nobody(lost: errors.TierlineError) -> None:
    fleet = alone()
    driver = Driver(fleet)
    allowed = driver.started.timeout_at
    driver.fail(lost, at=allowed + max(LATE, allowed / 2))
    assert fleet.endpoints()[0].breaker("ranker").state is State.OPEN


def test_what_an_endpoint_itself_said_is_held_against_it_whenever_it_is_read() -> None:
    for said in (errors.Unavailable("down"), errors.ConnectFailed("refused")):
        fleet = alone()
        Driver(fleet).fail(said, at=5.0)
        assert fleet.endpoints()[0].breaker("ranker").state is State.OPEN


def test_an_answer_found_after_a_standstill_is_given_and_is_not_slow() -> None:
    fleet = alone()
    [endpoint] = fleet.endpoints()
    fleet.tiers[0].latencies("ranker").usual = 0.001
    answer = Driver(fleet).succeed(SURE, at=5.0).answer
    assert answer.tier == "edge"
    assert endpoint.breaker("ranker").state is State.CLOSED
    assert endpoint.latency.value(5.0) == 0.0


def test_an_answer_within_its_time_that_took_long_is_slow() -> None:
    fleet = alone()
    fleet.tiers[0].latencies("ranker").usual = 0.001
    Driver(fleet).succeed(SURE, at=0.2)
    assert fleet.endpoints()[0].breaker("ranker").state is State.OPEN


def test_an_embedded_endpoint_answers_for_its_own_time() -> None:
    fleet = alone("embedded:bundle")
    fleet.tiers[0].latencies("ranker").usual = 0.001
    Driver(fleet).succeed(SURE, at=5.0)
    assert fleet.endpoints()[0].breaker("ranker").state is State.OPEN


def test_the_other_endpoint_is_asked_when_there_is_time_left() -> None:
    fleet = Fleet(config(tiers=config().tiers[:1]))
    driver = Driver(fleet, deadline=2.0)
    first = driver.started.endpoint.url
    driver.fail(LOST[0], at=driver.started.timeout_at * 1.6)
    assert driver.started.endpoint.url != first
    assert driver.started.kind == "failover"


def test_a_health_probe_heard_of_long_after_its_time_is_no_verdict() -> None:
    fleet = alone()
    prober = Prober(fleet, HealthPolicy(interval=1.0, timeout=0.1, down_after=1))
    prober.remember("edge", REQUEST)
    dice = random.Random(1)
    probe = prober.probe(0, 10.0, dice)
    assert probe is not None
    prober.failed(probe, LOST[0], 10.1 + LATE + 0.001)
    assert fleet.endpoints()[0].standing.is_plain
    prober.failed(probe, LOST[0], 10.1 + LATE - 0.001)
    assert not fleet.endpoints()[0].standing.is_plain


def test_what_an_endpoint_said_stays_withheld_when_the_process_stood_still() -> None:
    rules = (FieldRule(name="query.user", action="drop", trust="public"),)
    policy = Sovereignty(fields=rules, default="allow")
    driver = Driver(Fleet(config(tiers=config().tiers[:1], sovereignty=policy)), key=None)
    driver.fail(errors.RemoteProtocolError("not HTTP: 'user 4711'"), at=5.0)
    with pytest.raises(errors.DeadlineExceeded) as caught:
        _ = driver.answer
    told = f"{caught.value!r} {caught.value.__cause__!r} {caught.value.attempts!r}"
    assert "lapsed" in told
    assert "4711" not in told
