"""Budgets never overspend, and every way of choosing an endpoint spreads as it says."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierline._config import Balancing, ClientConfig, Criticality, Endpoint, Tier
from tierline._core.budgets import SHARES, TierBudget, WindowCount, WindowedBudget
from tierline._core.estimators import SIZE, LatencyWindow, PeakEwma
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


@given(st.lists(st.floats(0.001, 10), min_size=64, max_size=1200))
def test_a_latency_window_gives_quantiles_of_what_it_saw_last(values: list[float]) -> None:
    window = LatencyWindow()
    for value in values:
        window.observe(value, 0.0)
    quantiles = [window.fastest, window.typical, window.late, window.slowest]
    assert all(quantile in values for quantile in quantiles)
    known = [quantile for quantile in quantiles if quantile is not None]
    assert known == sorted(known)


def test_an_unknown_latency_is_said_to_be_unknown() -> None:
    window = LatencyWindow()
    assert (window.typical, window.slowest, window.usual) == (None, None, math.inf)
    assert window.lately_typical(0.0) == window.lately_fastest(0.0) == 0.0


def test_the_median_of_a_window_is_that_of_its_last_values() -> None:
    window = LatencyWindow()
    for i in range(SIZE):
        window.observe(5.0, float(i))
    for i in range(SIZE):
        window.observe(float(i), 0.0)
    assert window.typical == SIZE / 2
    assert window.slowest == SIZE - 1


def test_what_was_given_up_makes_the_tail_longer_not_shorter() -> None:
    """Half of the attempts take 1 s and are given up after 10 ms for a hedge that wins."""
    window, naive = LatencyWindow(), LatencyWindow()
    for _ in range(64):
        window.observe(0.009, 0.0)
        window.censored(0.010, 0.0)
        naive.observe(0.009, 0.0)
    assert naive.slowest == 0.009
    assert window.slowest == 0.010
    window.observe(1.0, 0.0)
    for _ in range(31):
        window.observe(0.009, 0.0)
    assert window.late == window.slowest == 1.0  # all that was given up lasts as long as that


@given(st.lists(st.tuples(st.floats(0.001, 1), st.booleans()), min_size=32, max_size=32))
def test_censored_quantiles_are_never_below_those_of_the_answered_alone(
    values: list[tuple[float, bool]],
) -> None:
    window, answered = LatencyWindow(), [v for v, given_up in values if not given_up]
    for value, given_up in values:
        (window.censored if given_up else window.observe)(value, 0.0)
    assert window.typical is not None
    if answered and not any(given_up for _, given_up in values):
        assert window.typical == sorted(answered)[len(answered) // 2]
    if answered:
        assert window.typical >= sorted(answered)[0]


def test_timeouts_lift_the_measured_tail_soon() -> None:
    window = LatencyWindow()
    for _ in range(SIZE):
        window.observe(0.005, 0.0)
    for _ in range(4):
        window.timed_out(0.015, 1.0)
    assert window.slowest == 0.015


def test_every_latency_is_forgotten_when_as_many_newer_ones_are_known() -> None:
    window = LatencyWindow()
    for latency in [0.005] * SIZE + [9.0] + [0.005] * (2 * SIZE - 1):
        window.observe(latency, 0.0)
    assert window.slowest == 0.005


def test_a_stale_belief_keeps_nobody_away() -> None:
    window = LatencyWindow()
    for _ in range(32):
        window.observe(0.5, 100.0)
    assert window.lately_typical(105.0) == window.lately_fastest(105.0) == 0.5
    assert window.lately_typical(110.0) == window.lately_fastest(110.0) == 0.0


def test_a_tier_is_believed_to_be_slower_for_good_only_by_and_by() -> None:
    window = LatencyWindow()
    for _ in range(32):
        window.observe(0.01, 0.0)
    for _ in range(SIZE):
        window.observe(0.1, 1.0)
    assert window.usual < 0.011
    for i in range(SIZE):
        window.observe(0.1, 60.0 + i / 64)
    assert 0.015 < window.usual < 0.03  # doubled in a minute
    for _ in range(32):
        window.observe(0.1, 600.0)
    assert window.usual == 0.1


def test_a_tiers_budget_is_a_share_of_what_was_asked_of_it_and_one_floor_for_all() -> None:
    floor = WindowedBudget(WindowCount(), ratio=0.0, floor=0.2)  # two in ten seconds
    edge, cloud = TierBudget(0.1, floor), TierBudget(0.1, floor)
    for _ in range(30):
        edge.requests.add(0.0)
    assert [edge.withdraw(0.0) for _ in range(4)] == [True] * 4  # three earned, one of the floor
    assert [cloud.withdraw(0.0) for _ in range(2)] == [True, False]
    assert not edge.affords(0.0)
    assert edge.amplification(0.0) == pytest.approx(1 + 4 / 30)
    assert cloud.amplification(0.0) == 1.0  # nothing was asked of it
    assert edge.affords(10.0)  # the floor is new; what was earned is forgotten


def test_what_was_spent_in_busier_times_is_held_against_the_floor_in_quiet_ones() -> None:
    budget = TierBudget(0.1, WindowedBudget(WindowCount(), ratio=0.0, floor=0.2))
    for _ in range(20):
        budget.requests.add(1.5)
    assert [budget.withdraw(10.5) for _ in range(5)] == [True] * 4 + [False]  # two, and two
    refreshed = TierBudget(0.1, WindowedBudget(WindowCount(), ratio=0.0, floor=0.2))
    for _ in range(20):
        refreshed.requests.add(1.5)
    assert [refreshed.withdraw(10.5) for _ in range(2)] == [True] * 2  # both earned
    # A second later nothing is earned any more, and the two still count: the floor is taken up.
    assert not refreshed.affords(11.5)
    assert not refreshed.withdraw(11.5)
    assert refreshed.withdraw(21.0)


@pytest.mark.parametrize(("ratio", "floor"), [(0.2, 0.0), (0.0, 1.0)])
def test_what_may_be_shed_spends_half_of_a_budget_and_leaves_half_to_others(
    ratio: float, floor: float
) -> None:
    budget = TierBudget(ratio, WindowedBudget(WindowCount(), ratio=0.0, floor=floor))
    for _ in range(50):
        budget.requests.add(0.0)
    spent = {
        kind: sum(budget.withdraw(0.5, SHARES[kind]) for _ in range(20))
        for kind in (Criticality.SHEDDABLE, Criticality.DEFAULT)
    }
    assert spent == {Criticality.SHEDDABLE: 5, Criticality.DEFAULT: 5}


def test_a_refusal_of_what_may_be_shed_says_nothing_of_what_others_can_expect() -> None:
    budget = TierBudget(0.0, WindowedBudget(WindowCount(), ratio=0.0, floor=0.4))
    assert budget.withdraw(0.5, 0.5)
    assert budget.withdraw(0.5, 0.5)
    assert not budget.withdraw(0.5, 0.5)
    assert budget.broke_until < 0.5
    assert budget.withdraw(0.5)
    assert budget.withdraw(0.5)
    assert not budget.withdraw(0.5)
    assert budget.broke_until > 0.5


@given(st.lists(st.tuples(st.floats(0, 2), st.integers(0, 2), st.booleans()), max_size=300))
def test_no_order_of_events_makes_budgets_exceed_share_and_floor(
    steps: list[tuple[float, int, bool]],
) -> None:
    floor = WindowedBudget(WindowCount(), ratio=0.0, floor=0.5)
    budgets = [TierBudget(0.2, floor) for _ in range(3)]
    now, asked, spent = 0.0, [], []
    for wait, which, is_request in steps:
        now += wait
        if is_request:
            budgets[which].requests.add(now)
            asked.append((which, now))
            continue
        affordable = budgets[which].affords(now)
        assert budgets[which].withdraw(now) is affordable
        if affordable:
            spent.append((which, now))
            since = int(now) - WindowCount.SECONDS
            within = sum(to == which and int(at) > since for to, at in spent)
            earned = 0.2 * sum(to == which and int(at) > since for to, at in asked)
            assert within <= earned + 0.5 * WindowCount.SECONDS


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
