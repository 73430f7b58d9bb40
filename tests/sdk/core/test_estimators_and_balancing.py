"""Budgets never overspend, and every way of choosing an endpoint spreads as it says."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline._config import Balancing, ClientConfig, Endpoint, Tier
from tierline._core.estimators import LatencyWindow, PeakEwma, WindowCount, WindowedBudget
from tierline._core.fleet import Fleet, TierState


@given(
    st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=200),
    st.floats(0, 1),
    st.floats(0, 2),
)
def test_a_budget_never_spends_more_than_ratio_and_floor_allow(
    steps: list[tuple[float, bool]], ratio: float, floor: float
) -> None:
    calls = WindowCount()
    budget = WindowedBudget(calls, ratio=ratio, floor=floor)
    now, deposits, spent = 0.0, [], []
    for wait, is_deposit in steps:
        now += wait
        if is_deposit:
            calls.add(now)
            deposits.append(now)
        elif budget.withdraw(now):
            spent.append(now)
            window = [t for t in spent if int(t) > int(now) - WindowCount.SECONDS]
            earned = [t for t in deposits if int(t) > int(now) - WindowCount.SECONDS]
            assert len(window) <= ratio * len(earned) + floor * WindowCount.SECONDS + 1e-9


def test_a_budget_survives_a_clock_that_steps_back() -> None:
    calls = WindowCount()
    budget = WindowedBudget(calls, ratio=0.5)
    for now in (100.0, 50.0, 101.0, 20.0):
        calls.add(now)
    assert budget.balance(101.0) == pytest.approx(2.0)


def test_a_peak_is_believed_at_once_and_forgotten_slowly() -> None:
    latency = PeakEwma(decay=10.0)
    latency.observe(0.01, 0.0)
    latency.observe(1.0, 1.0)
    assert latency.value(1.0) == 1.0
    latency.observe(0.01, 2.0)
    assert 0.5 < latency.value(2.0) < 1.0
    assert latency.value(100.0) < 0.001


@given(st.lists(st.floats(0, 10), min_size=64, max_size=600))
def test_a_latency_window_gives_a_quantile_of_what_it_saw_last(values: list[float]) -> None:
    window = LatencyWindow(size=256, refresh=32)
    for value in values:
        window.observe(value)
    median = window.quantile(0.5)
    assert median is not None
    assert min(values) <= median <= max(values)
    assert median in values


def test_an_unknown_latency_is_said_to_be_unknown() -> None:
    assert LatencyWindow().quantile(0.5) is None


def _tier(balancing: Balancing, weights: tuple[float, ...] = (1, 1, 1, 1)) -> TierState:
    endpoints = tuple(Endpoint(url=f"http://e{i}:1", weight=w) for i, w in enumerate(weights))
    tier = Tier(name="edge", kind="edge", endpoints=endpoints, balancing=balancing)
    return Fleet(ClientConfig(tiers=(tier,))).tiers[0]


def _shares(tier: TierState, picks: int = 4000, key: str | None = None) -> Counter[str]:
    dice = random.Random(5)
    chosen = Counter[str]()
    for i in range(picks):
        endpoint = tier.pick("m", (), key if key else f"k{i}", 0.0, dice)
        assert endpoint is not None
        chosen[endpoint.url] += 1
    return chosen


def test_round_robin_gives_every_endpoint_the_same_share() -> None:
    assert set(_shares(_tier(Balancing.ROUND_ROBIN)).values()) == {1000}


@pytest.mark.parametrize("balancing", [Balancing.RANDOM, Balancing.LEAST_LOADED])
def test_even_endpoints_get_about_the_same_share(balancing: Balancing) -> None:
    assert all(850 < n < 1150 for n in _shares(_tier(balancing)).values())


def test_weights_are_the_shares() -> None:
    shares = _shares(_tier(Balancing.WEIGHTED, (1, 3, 4, 2)))
    assert shares["http://e1:1"] / 4000 == pytest.approx(0.3, abs=0.03)
    assert shares["http://e2:1"] / 4000 == pytest.approx(0.4, abs=0.03)


def test_the_lesser_loaded_endpoint_gets_more() -> None:
    tier = _tier(Balancing.LEAST_LOADED)
    for endpoint in tier.endpoints:
        endpoint.latency.observe(0.01, 0.0)
    tier.endpoints[0].latency.observe(0.1, 0.0)
    shares = _shares(tier)
    assert shares["http://e0:1"] == 0  # of two different ones it is always the worse


def test_consistent_hash_keeps_a_key_on_one_endpoint_and_moves_few_when_one_goes() -> None:
    tier = _tier(Balancing.CONSISTENT_HASH)
    assert len(_shares(tier, 50, key="user-1")) == 1
    dice = random.Random(1)
    keys = [f"user-{i}" for i in range(1000)]
    before = {key: tier.pick("m", (), key, 0.0, dice) for key in keys}
    gone = tier.endpoints[0]
    after = {key: tier.pick("m", (gone.url,), key, 0.0, dice) for key in keys}
    moved = [key for key in keys if before[key] is not after[key]]
    assert moved
    assert all(before[key] is gone for key in moved)
    spread = Counter(endpoint.url for endpoint in before.values() if endpoint)
    assert all(120 < n < 420 for n in spread.values())


def test_an_endpoint_with_an_open_breaker_is_not_picked() -> None:
    tier = _tier(Balancing.ROUND_ROBIN)
    breaker = tier.endpoints[2].breaker("m")
    for _ in range(5):
        permit = breaker.acquire(0.0, 1.0)
        assert permit is not None
        breaker.failed(permit, 0.0, 1.0)
    assert "http://e2:1" not in _shares(tier)
