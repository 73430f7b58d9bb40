"""Three kinds of call beside each other: under twice the load, the least of them give way first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tierline import ClientConfig, Criticality, EscalationPolicy, LimiterPolicy
from tierline.testing import Load, NodeProfile, Run, simulate, steady_load

from .fleets import fleet

# Two endpoints of two workers and five milliseconds each answer 800 calls a second.
NODE = NodeProfile(workers=2, compute=0.005, spread=0.0, jitter=0.0, doubt=0.0, queue=64)
KINDS = (Criticality.CRITICAL, Criticality.DEFAULT, Criticality.SHEDDABLE, Criticality.SHEDDABLE)
FLEET = fleet(
    edge=2,
    cloud=0,
    deadline=0.1,
    limiter=LimiterPolicy(initial=16, maximum=16),
    escalation=EscalationPolicy(budget=0.0, burst=0.0),
)


def mixed(rate: float, seconds: float) -> Load:
    """A quarter critical, a quarter default, half sheddable, in turn; each with its own query."""
    load = steady_load(rate, seconds)
    return tuple(replace(call, criticality=KINDS[call.number % 4]) for call in load)


def overloaded(seed: int, config: ClientConfig = FLEET) -> Run:
    profiles = {e.url: NODE for tier in config.tiers for e in tier.endpoints}
    return simulate(
        config, faults=["none"], seed=seed, load=mixed(1600.0, 1.5), profiles=profiles
    ).check()


def served(run: Run, kind: Criticality) -> float:
    """The share of this kind's calls that a tier has answered, once the limits are found."""
    late = [o for o in run.outcomes if o.call.criticality is kind and o.call.at > 0.5]
    return sum(o.answer is not None and o.answer.tier == "edge" for o in late) / len(late)


@pytest.mark.parametrize("seed", [1, 2])
def test_under_twice_its_load_a_tier_sheds_the_sheddable_first_and_critical_calls_never(
    seed: int,
) -> None:
    run = overloaded(seed)
    critical, default, sheddable = (
        served(run, kind)
        for kind in (Criticality.CRITICAL, Criticality.DEFAULT, Criticality.SHEDDABLE)
    )
    assert critical >= 0.99
    assert critical >= default >= sheddable
    assert sheddable < 0.5
    late = [o for o in run.outcomes if o.call.at > 0.5]
    goodput = sum(o.answer is not None and o.answer.tier == "edge" for o in late)
    assert goodput >= 0.95 * 800.0 * 1.0  # of what the two can do in a second


def test_with_room_for_all_nobody_gives_way() -> None:
    profiles = {e.url: NODE for tier in FLEET.tiers for e in tier.endpoints}
    run = simulate(FLEET, faults=["none"], load=mixed(200.0, 1.0), profiles=profiles).check()
    assert {outcome.name for outcome in run.outcomes} == {"edge"}
