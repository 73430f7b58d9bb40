"""No request ever reaches a tier its data policy forbids, whatever fails on the way."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierline import _exceptions as errors
from tierline._config import Endpoint, HedgePolicy, Mode, RetryPolicy, Sovereignty, Tier
from tierline._core.commands import StartAttempt, WakeAt
from tierline._core.fleet import Fleet

from .fixtures import CLOUD, SURE, UNSURE, Driver, config

REGIONS = ("eu", "us")
FAILURES = (
    errors.ConnectFailed("refused"),
    errors.AttemptTimedOut("late"),
    errors.Unavailable("draining"),
    errors.Overloaded("full"),
    errors.ModelFailed("NaN"),
)
policies = st.builds(
    Sovereignty,
    regions=st.none() | st.lists(st.sampled_from(REGIONS), min_size=1).map(tuple),
    trust=st.sampled_from(["private", "public"]),
)


def _tiers() -> tuple[Tier, ...]:
    places = (("edge", "private"), ("cloud", "private"), ("cloud", "public"))
    return tuple(
        Tier(
            name=f"{kind}-{trust}-{region}",
            kind=kind,
            region=region,
            trust=trust,
            endpoints=tuple(Endpoint(url=f"http://{kind}-{trust}-{region}-{i}:1") for i in (1, 2)),
        )
        for kind, trust in places
        for region in REGIONS
    )


@settings(max_examples=500)
@given(data=st.data(), of_client=policies, of_call=st.none() | policies, mode=st.sampled_from(Mode))
def test_no_attempt_of_any_kind_reaches_a_forbidden_tier(
    data: st.DataObject, of_client: Sovereignty, of_call: Sovereignty | None, mode: Mode
) -> None:
    settings = config(
        tiers=_tiers(),
        sovereignty=of_client,
        hedge=HedgePolicy(after=0.01, budget=1.0),
        retry=RetryPolicy(attempts=8, per_tier=3, budget=1.0, floor=100.0),
    )
    fleet = Fleet(settings)
    tiers = {tier.name: tier for tier in settings.tiers}
    driver = Driver(fleet, mode=mode, sovereignty=of_call, deadline=5.0)
    now, commands = 0.0, list(driver.commands)
    while commands:
        command = commands.pop(0)
        now += 0.005
        if isinstance(command, StartAttempt):
            tier = tiers[command.endpoint.tier]
            assert of_client.permits(tier)
            assert of_call is None or of_call.permits(tier)
            outcome = data.draw(st.sampled_from([SURE, UNSURE, CLOUD, *FAILURES]))
            if isinstance(outcome, Exception):
                commands += driver.call.attempt_failed(command.number, outcome, now)
            else:
                commands += driver.call.attempt_succeeded(command.number, outcome, now)
        elif isinstance(command, WakeAt):
            commands += driver.call.wake(max(now, command.at))


def test_a_policy_that_permits_no_tier_is_one_typed_error() -> None:
    driver = Driver(Fleet(config()), sovereignty=Sovereignty(regions=("mars",)))
    with pytest.raises(errors.NotPermitted, match="permits no tier"):
        _ = driver.answer


def test_a_private_request_is_never_escalated_to_the_public_cloud() -> None:
    driver = Driver(Fleet(config()), sovereignty=Sovereignty(trust="private")).succeed(UNSURE)
    driver.fail(errors.Unavailable("down"), at=0.02)
    while any(isinstance(c, WakeAt) for c in driver.commands):
        driver.commands = driver.call.wake(0.2)
        driver.fail(errors.Unavailable("down"), at=0.21)
    assert {a.tier for a in driver.answer.attempts} == {"edge", "private"}
    assert driver.answer.reason.startswith("escalation_failed")
