"""A caller may give up at any await: nothing leaks, nobody is blamed, the next call is answered."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tierline import BreakerPolicy, ClientConfig, HedgePolicy
from tierline.testing import NodeProfile, Plan, Run, Schedule, run_plan, steady_load

from .fleets import fault, fleet

# One failure opens, so that a cancellation that is taken for one shows at once.
TOUCHY = BreakerPolicy(consecutive=1, minimum_calls=1, failure_rate=0.01)
ALWAYS_UNSURE = NodeProfile(doubt=1.0)
SITUATIONS: dict[str, tuple[ClientConfig, Schedule]] = {
    "answered": (fleet(edge=1, cloud=0, breaker=TOUCHY), ()),
    "escalated": (fleet(edge=1, cloud=1, breaker=TOUCHY), ()),
    "hedged": (fleet(edge=3, cloud=0, hedge=HedgePolicy(after=0.001, budget=1.0)), ()),
    "failed over": (fleet(edge=2, cloud=1), (fault("refuse", "edge-1", length=0.3),)),
    "backed off": (fleet(edge=1, cloud=0), (fault("busy", "edge-1", length=0.3),)),
    "lost": (fleet(edge=2, cloud=1, breaker=TOUCHY), (fault("cut", "edge-1", length=0.9),)),
}


def given_up_at(situation: str, await_number: int, seed: int) -> Run:
    config, faults = SITUATIONS[situation]
    load = list(steady_load(10.0, 2.0))
    load[0] = replace(load[0], at=0.0, given_up_at=await_number)
    profiles = {e.url: ALWAYS_UNSURE for t in config.tiers if t.kind == "edge" for e in t.endpoints}
    kept = (load[0], *load[12:])  # the rest comes when everything is mended
    plan = Plan(
        config=config, load=kept, faults=faults, profiles=profiles, must_heal_by=load[12].at
    )
    return run_plan(plan, seed=seed)


@pytest.mark.parametrize("situation", SITUATIONS)
def test_giving_up_at_any_await_leaks_nothing_and_blames_nobody(situation: str) -> None:
    for seed in range(4):
        awaits = 0
        while True:
            run = given_up_at(situation, awaits, seed).check()
            first = next(outcome for outcome in run.outcomes if outcome.call.number == 1)
            if first.name != "cancelled":
                break
            assert first.ended < 0.25
            awaits += 1
        assert awaits >= 1


def test_a_thousand_callers_who_give_up_open_no_breaker() -> None:
    config = fleet(edge=2, cloud=0, breaker=TOUCHY)
    load = [replace(call, given_up_at=0) for call in steady_load(500.0, 2.0)]
    run = run_plan(Plan(config=config, load=tuple(load)), seed=5).check()
    assert {outcome.name for outcome in run.outcomes} == {"cancelled"}
    assert not [event for event in run.trace.events if event.what == "breaker"]
