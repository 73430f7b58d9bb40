"""Who said when to come back is not asked sooner, whatever happens elsewhere in the meantime."""

from __future__ import annotations

import pytest

from tierline import _exceptions as errors
from tierline._config import HedgePolicy, RetryPolicy
from tierline._core.commands import WakeAt
from tierline._core.fleet import Fleet

from .fixtures import EDGE_A, EDGE_B, SURE, Driver, config

EDGES_ONLY = config().tiers[:1]


def patient_fleet(**changes: object) -> Fleet:
    retry = RetryPolicy(attempts=6, per_tier=3, budget=1.0, floor=10.0)
    return Fleet(config(tiers=EDGES_ONLY, retry=retry, **changes))


def busy(retry_after: float | None) -> errors.Overloaded:
    error = errors.Overloaded("busy")
    error.retry_after = retry_after
    return error


def wake_at(driver: Driver) -> float:
    [wake] = [c for c in driver.commands if isinstance(c, WakeAt)]
    return wake.at


def other(url: str) -> str:
    return EDGE_B if url == EDGE_A else EDGE_A


@pytest.mark.parametrize("seed", range(8))
def test_a_failure_elsewhere_does_not_shorten_what_the_first_endpoint_asked_for(seed: int) -> None:
    driver = Driver(patient_fleet(), seed=seed)
    first = driver.started.endpoint.url
    driver.fail(busy(0.05), 0.01)
    assert driver.started.endpoint.url == other(first)
    driver.fail(errors.ModelFailed("nan"), 0.02)
    woken = wake_at(driver)
    driver.commands = driver.call.wake(woken)
    asked = driver.started.endpoint.url
    assert asked == other(first) or woken >= 0.06


def test_when_all_have_asked_for_time_the_first_to_be_ready_is_asked_then() -> None:
    driver = Driver(patient_fleet())
    first = driver.started.endpoint.url
    driver.fail(busy(0.03), 0.01)
    driver.fail(busy(0.08), 0.02)
    assert wake_at(driver) == pytest.approx(0.04)
    driver.commands = driver.call.wake(wake_at(driver))
    assert driver.started.endpoint.url == first
    assert driver.succeed(SURE, 0.05).answer.tier == "edge"


@pytest.mark.parametrize("seed", range(8))
def test_a_pushback_heard_while_a_hedge_is_out_outlasts_the_hedges_failure(seed: int) -> None:
    driver = Driver(patient_fleet(hedge=HedgePolicy(after=0.01, budget=1.0)), seed=seed)
    first = driver.started
    hedge = driver.call.wake(0.01)[0]
    driver.commands = driver.call.attempt_failed(first.number, busy(0.04), 0.012)
    assert driver.commands == []
    driver.commands = driver.call.attempt_failed(hedge.number, errors.ModelFailed("nan"), 0.015)  # type: ignore[union-attr]  # a hedge is an attempt
    woken = wake_at(driver)
    driver.commands = driver.call.wake(woken)
    assert driver.started.endpoint.url == other(first.endpoint.url) or woken >= 0.052


@pytest.mark.parametrize(("asked_for", "waits"), [(0.11, True), (0.12, False)])
def test_half_of_the_time_that_is_left_may_be_waited_and_no_more(
    asked_for: float, waits: bool
) -> None:
    driver = Driver(patient_fleet())  # until 0.25 s
    driver.fail(busy(asked_for), 0.02).fail(busy(asked_for), 0.02)
    assert any(isinstance(c, WakeAt) for c in driver.commands) is waits


def test_a_pushback_that_does_not_fit_the_deadline_is_not_waited_for() -> None:
    driver = Driver(patient_fleet())
    driver.fail(busy(5.0), 0.01)
    driver.fail(busy(5.0), 0.02)
    with pytest.raises(errors.Overloaded):
        _ = driver.answer


@pytest.mark.parametrize("nonsense", [-1.0, float("nan"), float("inf"), 1e9, None])
def test_nonsense_is_no_pushback(nonsense: float | None) -> None:
    driver = Driver(patient_fleet())
    driver.fail(busy(nonsense), 0.01)
    driver.fail(errors.ModelFailed("nan"), 0.02)
    assert 0.02 <= wake_at(driver) <= 0.02 + 0.25
