"""How soon a client notices an endpoint that accepts and never answers, though hedges win."""

from __future__ import annotations

import pytest

from tierline import HedgePolicy
from tierline.testing import NodeProfile, Run, simulate, steady_load

from .fleets import fault, fleet

FROZEN_AT, RATE = 4.0, 60.0  # seconds; calls a second
EDGES = [f"http://edge-{i}" for i in (1, 2, 3)]


def run_for(seed: int, *, frozen: bool, seconds: float, compute: float) -> Run:
    profiles = {url: NodeProfile(compute=compute, workers=8) for url in EDGES}
    faults = (fault("freeze", "edge-1", start=FROZEN_AT, length=12.0),) if frozen else ()
    config = fleet(edge=3, cloud=0, hedge=HedgePolicy())
    load = steady_load(RATE, seconds, seed=seed)
    return simulate(config, faults=faults, load=load, profiles=profiles, seed=seed).check()


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("compute", [0.003, 0.02])
def test_a_frozen_one_of_three_is_noticed_within_ten_seconds(seed: int, compute: float) -> None:
    run = run_for(seed, frozen=True, seconds=14.0, compute=compute)
    opened = [e for e in run.trace.events if e.what == "breaker" and "open" in e.details]
    assert FROZEN_AT < opened[0].at < FROZEN_AT + 10.0
    assert {event.details[0] for event in opened} == {"http://edge-1"}


@pytest.mark.parametrize("compute", [0.003, 0.02])
def test_healthy_endpoints_are_hedged_and_none_is_suspected(compute: float) -> None:
    run = run_for(5, frozen=False, seconds=20.0, compute=compute)
    assert run.seen["attempt hedge ok"] + run.seen["attempt hedge abandoned"] > 20
    assert not [event for event in run.trace.events if event.what == "breaker"]
