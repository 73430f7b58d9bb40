"""Until when an attempt may run, and what its end by that instant teaches."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierline import _exceptions as errors
from tierline._config import ClientConfig, Endpoint, RetryPolicy, Tier
from tierline._core.breaker import State
from tierline._core.fleet import Fleet

from .fixtures import EDGE_A, EDGE_B, SURE, Driver

TWO = (Tier(name="edge", kind="edge", endpoints=(Endpoint(url=EDGE_A), Endpoint(url=EDGE_B))),)


@pytest.mark.parametrize(("per_tier", "until"), [(1, 0.249), (2, 0.1245)])
def test_an_attempt_that_its_tier_allows_no_other_after_has_the_whole_time(
    per_tier: int, until: float
) -> None:
    fleet = Fleet(ClientConfig(tiers=TWO, retry=RetryPolicy(per_tier=per_tier)))
    assert Driver(fleet).started.timeout_at == pytest.approx(until)


ONE = (Tier(name="edge", kind="edge", endpoints=(Endpoint(url=EDGE_A),)),)
TAKES = 0.020  # seconds; the fastest answer
SPAN = st.sampled_from((0.25, 0.4))


def warm_fleet(answers: int = 64, **settings: object) -> Fleet:
    """One endpoint that has answered so often, within 20 to 40 ms."""
    fleet = Fleet(ClientConfig(tiers=ONE, **settings))  # type: ignore[arg-type]  # a ClientConfig's own fields
    for i in range(answers):
        begin = 0.01 * i
        took = TAKES + 0.020 * (i % 20) / 19
        Driver(fleet, begin=begin).succeed(SURE, at=begin + took)
    return fleet


def time_out(fleet: Fleet, begin: float, span: float) -> None:
    driver = Driver(fleet, begin=begin, deadline=begin + span, key=None)
    driver.fail(errors.AttemptTimedOut("silence"), at=driver.started.timeout_at)


def beliefs(fleet: Fleet) -> tuple[object, ...]:
    """All that keeps calls away from the endpoint."""
    [endpoint] = fleet.endpoints()
    breaker, standing = endpoint.breaker("ranker"), endpoint.standing
    return (
        (breaker.state, breaker.generation, breaker.opened_by, breaker.allows(99.0)),
        (standing.is_plain, standing.failure_share(2.0), standing.is_ejected),
        (endpoint.limiter.limit, endpoint.inflight),
    )


@pytest.mark.parametrize("answers", [3, 31])
def test_patience_of_hurried_calls_does_not_cut_the_attempts_of_others_short(answers: int) -> None:
    """What is known of the tail then is only for how long callers have waited."""
    fleet = warm_fleet(answers)
    fleet.tiers[0].endpoints = fleet.tiers[0].endpoints * 2  # somebody could follow
    latencies = fleet.tiers[0].latencies("ranker")
    for i in range(64):
        latencies.censored(0.004 + 1e-5 * i, 1.0)
    driver = Driver(fleet, begin=2.0, deadline=2.5)
    assert driver.started.timeout_at == pytest.approx(2.0 + (0.5 - 0.001) / 2)


def test_twenty_hurried_calls_in_a_row_are_held_against_nobody() -> None:
    fleet = warm_fleet()
    before = beliefs(fleet)
    for i in range(20):
        time_out(fleet, 1.0 + 0.01 * i, 0.9 * TAKES)
    assert beliefs(fleet) == before


def test_five_calls_in_a_row_with_time_for_most_answers_open_the_breaker() -> None:
    fleet = warm_fleet()
    for i in range(5):
        assert fleet.endpoints()[0].breaker("ranker").state is State.CLOSED
        time_out(fleet, 1.0 + 0.1 * i, 0.045)
    assert fleet.endpoints()[0].breaker("ranker").opened_by == "consecutive"


def test_where_nobody_was_ever_answered_every_timeout_counts() -> None:
    fleet = warm_fleet(answers=0)
    for i in range(5):
        time_out(fleet, 1.0 + 0.1 * i, 0.004)
    assert fleet.endpoints()[0].breaker("ranker").state is State.OPEN


def test_one_answer_is_enough_to_know_who_is_in_a_hurry() -> None:
    fleet = warm_fleet(answers=1)
    for i in range(20):
        time_out(fleet, 1.0 + 0.1 * i, 0.9 * TAKES)
    assert fleet.endpoints()[0].breaker("ranker").state is State.CLOSED
    for i in range(5):
        time_out(fleet, 5.0 + 0.1 * i, 1.1 * TAKES)
    assert fleet.endpoints()[0].breaker("ranker").state is State.OPEN


def test_a_hurried_probe_neither_opens_again_nor_keeps_its_place() -> None:
    fleet = warm_fleet()
    breaker = fleet.endpoints()[0].breaker("ranker")
    breaker.trip(1.0, 0.0, "test")
    for i in range(3):
        time_out(fleet, 3.0 + 0.1 * i, 0.9 * TAKES)
        assert breaker.state is State.HALF_OPEN
        assert breaker.allows(3.05 + 0.1 * i)


def test_a_node_that_drops_a_hurried_call_is_not_given_fewer() -> None:
    fleet = warm_fleet()
    [endpoint] = fleet.endpoints()
    limit = endpoint.limiter.limit
    late = errors.DeadlineExceeded("nobody waits any more")
    Driver(fleet, begin=1.0, deadline=1.0 + 0.9 * TAKES).fail(late, at=1.01)
    assert endpoint.limiter.limit == limit
    Driver(fleet, begin=2.0, deadline=2.25).fail(late, at=2.01)
    assert endpoint.limiter.limit < limit


def test_what_a_hurried_call_waited_weighs_on_the_choice_of_endpoint_and_no_more() -> None:
    fleet = warm_fleet()
    [endpoint] = fleet.endpoints()
    endpoint.latency.forget()
    time_out(fleet, 1.0, 0.9 * TAKES)
    assert endpoint.latency.value(1.0 + 0.9 * TAKES) == pytest.approx(0.017, rel=0.01)


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(("answered", "failed", "timed out")), SPAN, st.integers(0, 6)),
        max_size=30,
    )
)
@settings(max_examples=60)
def test_whatever_happens_hurried_calls_in_between_change_nothing(
    steps: list[tuple[str, float, int]],
) -> None:
    alone, mixed = warm_fleet(), warm_fleet()
    for i, (what, span, hurried) in enumerate(steps):
        begin = 1.0 + 0.5 * i
        for fleet in (alone, mixed):
            if not fleet.endpoints()[0].is_reachable("ranker", begin):
                continue
            driver = Driver(fleet, begin=begin, deadline=begin + span, key=None)
            if what == "answered":
                driver.succeed(SURE, at=begin + TAKES)
            elif what == "failed":
                driver.fail(errors.Unavailable("trouble"), at=begin + TAKES)
            else:
                driver.fail(errors.AttemptTimedOut("silence"), at=driver.started.timeout_at)
        for extra in range(hurried):
            at = begin + 0.42 + 0.01 * extra
            if mixed.endpoints()[0].breaker("ranker").state is State.CLOSED:
                time_out(mixed, at, 0.9 * TAKES)
        assert beliefs(mixed) == beliefs(alone)
