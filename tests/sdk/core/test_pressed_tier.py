"""A tier of which every endpoint has just refused for load: a second attempt would wait as long as
the first, so that the first has all the time."""

from __future__ import annotations

import pytest

from tierline import _exceptions as errors
from tierline._config import ClientConfig, Criticality, Endpoint, Mode, RetryPolicy, Tier
from tierline._core.commands import StartAttempt
from tierline._core.fleet import Fleet

from .fixtures import EDGE_A, EDGE_B, SURE, Driver, config

EDGE = (Tier(name="edge", kind="edge", endpoints=(Endpoint(url=EDGE_A), Endpoint(url=EDGE_B))),)
AMPLE = RetryPolicy(attempts=3, budget=1.0, floor=100.0)
BUSY = errors.Overloaded("try elsewhere")
WHOLE, HALF = 0.249, 0.1245


def pressed(fleet: Fleet, at: float = 1.0) -> Fleet:
    """One call, refused by both edge endpoints at ``at``."""
    driver = Driver(fleet, begin=at, mode=Mode.EDGE_ONLY, key=None)
    driver.fail(BUSY, at=at).fail(BUSY, at=at)
    return fleet


def time_of_the_next(fleet: Fleet, begin: float, **options: object) -> float:
    return Driver(fleet, begin=begin, key=None, **options).started.timeout_at - begin


@pytest.mark.parametrize(("after", "allowed"), [(0.0, WHOLE), (0.499, WHOLE), (0.5, HALF)])
def test_for_half_a_second_a_first_attempt_has_the_whole_time(after: float, allowed: float) -> None:
    fleet = pressed(Fleet(ClientConfig(tiers=EDGE, retry=AMPLE)))
    assert time_of_the_next(fleet, 1.0 + after) == pytest.approx(allowed)


def test_while_one_endpoint_has_not_refused_time_is_left_to_ask_it() -> None:
    fleet = Fleet(ClientConfig(tiers=EDGE, retry=AMPLE))
    Driver(fleet, begin=1.0, key=None).fail(BUSY, at=1.0).succeed(SURE, at=1.01)
    assert time_of_the_next(fleet, 1.1) == pytest.approx(HALF)


def test_an_endpoint_that_refused_long_ago_counts_as_one_that_did_not() -> None:
    fleet = pressed(Fleet(ClientConfig(tiers=EDGE, retry=AMPLE)))
    Driver(fleet, begin=1.4, key=None).fail(BUSY, at=1.4).succeed(SURE, at=1.41)
    assert time_of_the_next(fleet, 1.49) == pytest.approx(WHOLE)
    assert time_of_the_next(fleet, 1.51) == pytest.approx(HALF)


def test_an_endpoint_that_nobody_would_ask_has_no_say() -> None:
    fleet = Fleet(ClientConfig(tiers=EDGE, retry=AMPLE))
    fleet.endpoints()[0].breaker("ranker").trip(0.9, 0.0, "test")
    Driver(fleet, begin=1.0, key=None).fail(BUSY, at=1.0)
    assert fleet.tiers[0].pressed_until == pytest.approx(1.5)


def test_time_is_left_for_another_tier_that_may_have_room() -> None:
    fleet = pressed(Fleet(config(retry=AMPLE)))
    assert time_of_the_next(fleet, 1.1, mode=Mode.SEQUENTIAL) == pytest.approx(HALF)
    assert time_of_the_next(fleet, 1.1, mode=Mode.EDGE_ONLY) == pytest.approx(WHOLE)


@pytest.mark.parametrize("error", [BUSY, errors.DeadlineExceeded("nobody waits any more")])
def test_what_hurried_calls_are_refused_presses_nobody(error: errors.TierlineError) -> None:
    fleet = Fleet(ClientConfig(tiers=EDGE, retry=AMPLE))
    for turn in range(64):
        begin = 0.01 * turn
        Driver(fleet, begin=begin, key=None).succeed(SURE, at=begin + 0.02)
    two = [Driver(fleet, begin=1.0, deadline=1.01, key=None) for _ in range(2)]
    assert {hurried.started.endpoint.url for hurried in two} == {EDGE_A, EDGE_B}
    for hurried in two:
        hurried.fail(error, at=1.0)
    assert time_of_the_next(fleet, 1.1) < HALF


def asked_after_a_refusal(fleet: Fleet, kind: Criticality, at: float = 1.1) -> bool:
    """Whether a call that one endpoint refuses asks the other."""
    options = {"mode": Mode.EDGE_ONLY, "key": None, "criticality": kind}
    driver = Driver(fleet, begin=at, **options).fail(BUSY, at=at)
    return any(isinstance(command, StartAttempt) for command in driver.commands)


def test_there_what_may_be_shed_has_no_second_attempt_and_the_rest_has() -> None:
    for kind in Criticality:
        fleet = pressed(Fleet(ClientConfig(tiers=EDGE, retry=AMPLE)))
        assert asked_after_a_refusal(fleet, kind) is (kind is not Criticality.SHEDDABLE)


def test_elsewhere_what_may_be_shed_is_tried_again() -> None:
    fleet = Fleet(ClientConfig(tiers=EDGE, retry=AMPLE))
    assert asked_after_a_refusal(fleet, Criticality.SHEDDABLE)


def test_a_refusal_leaves_more_important_calls_their_room() -> None:
    fleet = Fleet(ClientConfig(tiers=EDGE, retry=AMPLE))
    for turn in range(200):
        begin = 1.0 + 0.06 * turn
        Driver(fleet, begin=begin, key=None, criticality=Criticality.SHEDDABLE).fail(BUSY, at=begin)
    rooms = [endpoint.limiter.room for endpoint in fleet.endpoints()]
    fresh = Fleet(ClientConfig(tiers=EDGE)).endpoints()[0].limiter.room
    assert all(room[Criticality.CRITICAL] == fresh[Criticality.CRITICAL] for room in rooms)
    assert any(room[Criticality.SHEDDABLE] < fresh[Criticality.SHEDDABLE] for room in rooms)
