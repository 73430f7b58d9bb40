"""The client's process stands still again and again: its endpoints are well, and stay trusted."""

from __future__ import annotations

import pytest

from tierline import BreakerPolicy, ClientConfig, HedgePolicy, TimeoutPolicy
from tierline.testing import NodeProfile, Run, simulate, steady_load
from tierline.testing.loop import SimLoop

from .fleets import fault, fleet

TOUCHY: dict[str, object] = {
    "breaker": BreakerPolicy(consecutive=1, minimum_calls=1000),
    "timeout": TimeoutPolicy(multiple=20.0),  # or one in a thousand would be wrong by design
    "deadline": 4.0,  # what is left after a standstill is enough for a cloud that is well
}
FLEETS = {
    "one of each": fleet(edge=1, cloud=1, **TOUCHY),
    "three": fleet(edge=3, cloud=0, **TOUCHY),
    "hedged": fleet(edge=3, cloud=2, **TOUCHY, hedge=HedgePolicy(after=0.003, budget=1.0)),
}
DOUBTFUL = NodeProfile(doubt=0.5)


def stalled(config: ClientConfig, length: float, seed: int) -> Run:
    stalls = tuple(fault("stall", start=0.1 + 0.31 * i, length=length) for i in range(10))
    profiles = {e.url: DOUBTFUL for t in config.tiers if t.kind == "edge" for e in t.endpoints}
    load = steady_load(60.0, 3.5, seed=seed)
    return simulate(config, faults=stalls, seed=seed, load=load, profiles=profiles).check()


@pytest.mark.parametrize("length", [0.02, 0.2, 1.5])
@pytest.mark.parametrize("name", FLEETS)
def test_standing_still_opens_no_breaker_and_ejects_nobody(name: str, length: float) -> None:
    for seed in range(3):
        run = stalled(FLEETS[name], length, seed)
        assert not [event for event in run.trace.events if event.what == "breaker"]
        assert run.seen["ejected"] == 0
        assert run.seen["fault stall"] == 10


def test_an_endpoint_that_is_away_is_found_out_by_a_process_that_stands_still_now_and_then() -> (
    None
):
    config = fleet(edge=2, cloud=0, breaker=BreakerPolicy(consecutive=2))
    stalls = [fault("stall", start=0.2 + 0.5 * i, length=0.04) for i in range(7)]
    faults = (*stalls, fault("cut", "edge-1", length=4.0))
    run = simulate(config, faults=faults, seed=4, load=steady_load(40.0, 3.5)).check()
    assert [event for event in run.trace.events if event.what == "breaker"]


def test_the_world_goes_on_in_its_order_while_the_process_stands_still() -> None:
    loop = SimLoop(1)
    happened: list[tuple[float, str]] = []

    def say(what: str) -> None:
        happened.append((loop.time(), what))

    def echo() -> None:
        say("asked")
        loop.in_the_world(0.25, say, "answered")

    loop.call_later(0.15, say, "own timer")
    loop.in_the_world(0.1, echo)
    loop.in_the_world(0.3, say, "elsewhere")
    loop.in_the_world(5.0, say, "much later")
    loop.stall(1.0)
    assert happened == [(0.1, "asked"), (0.3, "elsewhere"), (0.35, "answered")]
    assert loop.time() == 1.0
    loop.close()
