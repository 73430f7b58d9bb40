"""Certificates, moving thresholds and shadows in simulated fleets: true, in budget, harmless."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tierline._config import Balancing, ClientConfig, EscalationPolicy, Mode, simple_tiers
from tierline.testing import Outcome, simulate
from tierline.testing.load import Load, steady_load
from tierline.testing.nodes import NodeProfile

EDGE, CLOUD = ["http://edge-1", "http://edge-2"], ["http://cloud-1"]
TIERS = simple_tiers(EDGE, CLOUD, Balancing.LEAST_LOADED)
SPAN = 4.0  # seconds


def recommendations(rate: float = 100.0) -> Load:
    """Plain calls for lists as long as the simulated certificates are about."""
    calls = steady_load(rate, SPAN)
    return tuple(replace(call, candidates=None, k=10, mode=Mode.SEQUENTIAL) for call in calls)


def config(**policy: object) -> ClientConfig:
    return ClientConfig(
        tiers=TIERS,
        escalation=EscalationPolicy(**policy),  # type: ignore[arg-type]  # named by the test
    )


def late(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Those begun once the endpoints have said what they serve."""
    return [outcome for outcome in outcomes if outcome.began > 0.5]


def test_answers_of_a_healthy_pair_are_certified_from_the_first_moments_on() -> None:
    run = simulate(
        config(budget=1.0, shadow=0.1), faults=["none"], load=recommendations(), seed=1
    ).check()
    told = [outcome.answer.certificate for outcome in late(run.outcomes) if outcome.answer]
    assert len(told) > 300
    assert all(said is not None and said.valid for said in told)
    assert 10 <= run.seen["shadow"] <= 0.1 * len(run.outcomes) + 5


def test_a_cloud_of_another_bundle_is_noticed_and_said() -> None:
    run = simulate(
        config(budget=1.0),
        faults=["none"],
        load=recommendations(),
        profiles={CLOUD[0]: NodeProfile(compute=0.01, bundle=2)},
        seed=2,
    ).check()
    told = [outcome.answer.certificate for outcome in late(run.outcomes) if outcome.answer]
    assert told
    assert all(said and said.reasons == ("the cloud changed since calibration",) for said in told)


@pytest.mark.parametrize("mode", ["budget_first", "quality_first"])
def test_a_moving_threshold_keeps_the_budget_under_every_fault(mode: str) -> None:
    for seed in range(6):
        simulate(
            config(mode=mode, budget=0.1, burst=3.0, shadow=0.2),
            faults=["all"],
            load=recommendations(50.0),
            profiles={url: NodeProfile(doubt=0.6) for url in EDGE},
            seed=seed,
        ).check()
