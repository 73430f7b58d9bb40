"""Where attempts go: a fast-failing endpoint is no sink, a slow one is left alone, an outage adds
little load."""

from __future__ import annotations

from collections import Counter

import pytest

from tierline import BreakerPolicy, ClientConfig, EjectionPolicy, LimiterPolicy
from tierline.testing import Run, Schedule, simulate, steady_load

from .fleets import fault, fleet

# The choice alone is judged here: nothing else keeps calls away from an endpoint.
NO_BREAKER = BreakerPolicy(consecutive=1_000_000, minimum_calls=1_000_000)
NO_EJECTION = EjectionPolicy(consecutive=1_000_000, minimum_calls=1_000_000)
NO_LIMIT = LimiterPolicy(initial=1_000_000, minimum=1_000_000, maximum=1_000_000)


def shares(run: Run, since: float) -> Counter[str]:
    """Attempts begun after an instant, by endpoint."""
    sent = [e for e in run.trace.events if e.what == "sent" and e.at >= since]
    return Counter(str(event.details[1]) for event in sent)


def run_for(config: ClientConfig, faults: Schedule, *, rate: float, seconds: float) -> Run:
    return simulate(config, faults=faults, load=steady_load(rate, seconds), seed=1).check()


def test_a_fast_failing_endpoint_gets_no_more_than_its_fair_share() -> None:
    config = fleet(edge=10, cloud=0, breaker=NO_BREAKER, ejection=NO_EJECTION)
    run = run_for(config, (fault("errors", "edge-1", length=10.0),), rate=300, seconds=10)
    sent = shares(run, 1.0)
    assert sent["http://edge-1"] <= sent.total() / 10


def test_an_endpoint_ten_times_slower_gets_two_percent_within_five_seconds() -> None:
    config = fleet(edge=5, cloud=0, breaker=NO_BREAKER, ejection=NO_EJECTION)
    run = run_for(config, (fault("slow", "edge-1", length=12.0, size=10.0),), rate=300, seconds=10)
    sent = shares(run, 5.0)
    assert sent["http://edge-1"] <= 0.02 * sent.total()


@pytest.mark.parametrize("kind", ["cut", "refuse", "errors", "busy", "nan"])
def test_a_total_outage_adds_a_tenth_and_the_floor_at_most(kind: str) -> None:
    config = fleet(edge=3, cloud=0, breaker=NO_BREAKER, limiter=NO_LIMIT)
    everywhere = tuple(fault(kind, f"edge-{i}", length=12.0) for i in range(1, 4))
    run = run_for(config, everywhere, rate=100, seconds=10)
    calls = len(run.outcomes)
    floor = 10.0 + 10.0  # one a second, and what the first ten seconds grant in advance
    free = 2 * calls if kind == "refuse" else 0  # a refused connection costs nobody anything
    assert run.attempts <= 1.10 * calls + floor + free
    assert run.attempts >= 1.05 * calls  # the budget is not nothing either
