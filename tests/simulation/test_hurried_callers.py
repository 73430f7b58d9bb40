"""Callers with less time than answers take: they cost the patient ones nothing, and who only ever
has little time still finds out that an endpoint is gone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tierline import ClientConfig
from tierline.testing import NodeProfile, Run, Schedule, simulate, steady_load

from .fleets import fault, fleet

TAKES = 0.02  # seconds; the median of an answer
PATIENT, RATE = 0.4, 100.0  # seconds; calls a second


def run_for(config: ClientConfig, hurry: float, every: int, faults: Schedule = ()) -> Run:
    """Every so many calls one has time; all others have ``hurry`` seconds."""
    steady = steady_load(RATE, 6.0, seed=hurry)
    load = tuple(replace(c, deadline=hurry if i % every else PATIENT) for i, c in enumerate(steady))
    slow = NodeProfile(compute=TAKES, workers=8, doubt=0.0)
    profiles = {e.url: slow for tier in config.tiers for e in tier.endpoints}
    return simulate(config, faults=faults, load=load, profiles=profiles, seed=1).check()


@pytest.mark.parametrize("endpoints", [1, 3])
@pytest.mark.parametrize("every", [2, 10])
@pytest.mark.parametrize("hurry", [0.4 * TAKES, 0.8 * TAKES, 1.2 * TAKES])
def test_calls_that_cannot_be_answered_in_their_time_are_held_against_nobody(
    endpoints: int, every: int, hurry: float
) -> None:
    run = run_for(fleet(edge=endpoints, cloud=0), hurry, every)
    assert not [event for event in run.trace.events if event.what == "breaker"]
    assert run.seen["ejected"] == 0
    patient = [outcome for outcome in run.outcomes if outcome.call.deadline == PATIENT]
    assert {outcome.name for outcome in patient} == {"edge"}
    assert len(patient) == RATE * 6.0 / every


@pytest.mark.parametrize("kind", ["cut", "freeze"])
@pytest.mark.parametrize("hurry", [2.0 * TAKES, 3.0 * TAKES, 4.0 * TAKES])
def test_who_has_time_for_most_answers_notices_that_there_are_none(kind: str, hurry: float) -> None:
    gone = (fault(kind, "edge-1", start=3.0, length=9.0),)
    run = run_for(fleet(edge=1, cloud=0), hurry, 1_000_000, gone)
    opened = [e.at for e in run.trace.events if e.what == "breaker" and "open" in e.details]
    assert 3.0 < opened[0] < 3.5
