"""Breakers under a thousand callers: few probes, leases that end, late results ignored."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tierline import BreakerPolicy
from tierline.testing import Load, Plan, Run, Schedule, run_plan, steady_load

from .fleets import fault, fleet

CROWD = 1000
PROBES = 4  # half-open permits out at once, at most


def crowd_at(instant: float, first: int) -> Load:
    """A thousand calls within one millisecond."""
    load = steady_load(CROWD * 1000.0, 0.001)
    return tuple(
        replace(call, number=first + i, at=instant + call.at, deadline=0.2)
        for i, call in enumerate(load)
    )


def crowded(faults: Schedule, *, seed: int = 0, rate: float = 20.0, consecutive: int = 5) -> Run:
    """Failures open the only breaker; then the crowd comes, then some stragglers."""
    load = steady_load(rate, 1.0)
    load += crowd_at(3.5, first=len(load) + 1)
    late = steady_load(10.0, 6.0, start=5.0)
    load += tuple(replace(call, number=len(load) + 1 + i) for i, call in enumerate(late))
    config = fleet(edge=1, cloud=0, breaker=BreakerPolicy(open_cap=2.0, consecutive=consecutive))
    return run_plan(Plan(config=config, load=load, faults=faults), seed=seed)


def asked(run: Run, start: float, end: float) -> int:
    """Attempts that began between two instants."""
    return sum(event.what == "sent" and start <= event.at < end for event in run.trace.events)


@pytest.mark.parametrize("seed", range(3))
def test_half_open_admits_no_more_than_its_permits(seed: int) -> None:
    run = crowded((fault("refuse", "edge-1", length=1.2),), seed=seed).check()
    first_probe = next(e.at for e in run.trace.events if e.what == "sent" and e.at >= 3.5)
    assert asked(run, first_probe, first_probe + 0.001) == 1
    assert all(outcome.answer for outcome in run.outcomes if outcome.call.at >= 9.0)


def test_a_hung_probe_loses_its_lease_and_the_breaker_opens_again() -> None:
    hung = (fault("refuse", "edge-1", length=1.2), fault("freeze", "edge-1", start=1.2, length=3.0))
    run = crowded(hung).check()
    states = [event.details[1] for event in run.trace.events if event.what == "breaker"]
    assert states[:4] == ["open", "half_open", "open", "half_open"]
    assert asked(run, 3.5, 4.2) <= PROBES
    assert states[-1] == "closed"


def test_results_from_before_the_break_do_not_close_it() -> None:
    # Answers to calls of the last 150 ms are still on their way when two failures open it.
    slow = (
        fault("drip", "edge-1", length=0.5, size=0.15),
        fault("reset", "edge-1", start=0.5, length=1.0),
    )
    run = crowded(slow, rate=100.0, consecutive=2).check()
    opened, probed = [e.at for e in run.trace.events if e.what == "breaker"][:2]
    late = [e for e in run.trace.events if e.what == "ok" and opened < e.at < probed]
    assert len(late) >= 5
    assert probed - opened >= 0.5  # half of open_for is fixed, the rest is jitter
