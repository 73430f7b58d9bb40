"""Corners of rules that few come by: nothing configured, nothing left, only one left."""

from __future__ import annotations

import random

import pytest

from tierline._config import ClientConfig, EjectionPolicy, Endpoint, EscalationPolicy, Tier
from tierline._core.control import SPEND_WINDOW, EscalationControl
from tierline._core.ejection import Standing
from tierline._core.fleet import Fleet

# -- coming back ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "policy",
    [EjectionPolicy(slow_start=0.0), EjectionPolicy(slow_start_from=1.0)],
    ids=["no time", "the whole share"],
)
def test_who_need_not_come_back_slowly_is_whole_at_once(policy: EjectionPolicy) -> None:
    standing = Standing(policy)
    standing.eject(0.0, 0.5)
    standing.advance(100.0)
    assert standing.is_plain
    assert standing.ramp_from is None


def fleet(count: int) -> Fleet:
    endpoints = tuple(Endpoint(url=f"http://e{i}") for i in range(count))
    return Fleet(ClientConfig(tiers=(Tier(name="edge", kind="edge", endpoints=endpoints),)))


def test_each_choice_made_in_panic_is_counted_once() -> None:
    tier = fleet(3).tiers[0]
    for endpoint in tier.endpoints[:2]:
        endpoint.standing.failed("m", 0.0, unreached=True)
        endpoint.standing.eject(0.0, 0.5)
    for choices in range(1, 4):
        tier.pick("m", {"http://e2"}, None, 0.0, random.Random(choices))
        assert tier.panics == choices


# -- budgets of escalations ----------------------------------------------------------------------


@pytest.mark.parametrize(("budget", "doubt"), [(0.0, 0.0), (1.0, 1.0)])
def test_who_demands_just_the_budget_does_not_overspend(budget: float, doubt: float) -> None:
    policy = EscalationPolicy(mode="quality_first", budget=budget)
    control = EscalationControl(policy, stated=0.5)
    for _ in range(SPEND_WINDOW):
        control.decide(doubt)
    assert control.demanded == budget
    assert not control.overspends
