"""A short loss of capacity at 90 % load: with both protections it heals, without it never does."""

from __future__ import annotations

import pytest

from tierline.testing.metastability import LOSS_AT, VARIANTS, Variant, experiment

NAIVE, ONLY_BUDGET, _, BOTH, SHIPPED = VARIANTS
HEALS_WITHIN = 3.0  # seconds after the capacity is back


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_budget_and_dropping_expired_work_heal_within_three_seconds(seed: int) -> None:
    timeline = experiment(BOTH, seed=seed, seconds=11)
    assert min(timeline.good[: int(LOSS_AT)]) == 1.0
    assert timeline.good[int(LOSS_AT)] < 0.5  # the loss was felt
    assert timeline.healed_after is not None
    assert timeline.healed_after <= HEALS_WITHIN


@pytest.mark.slow
@pytest.mark.parametrize("variant", [NAIVE, ONLY_BUDGET], ids=lambda variant: variant.name)
def test_without_them_it_never_heals(variant: Variant) -> None:
    timeline = experiment(variant, seconds=10)
    assert timeline.healed_after is None
    assert max(timeline.good[int(LOSS_AT) + 1 :]) < 0.1


@pytest.mark.slow
def test_what_ships_heals() -> None:
    timeline = experiment(SHIPPED, seconds=13)
    assert timeline.healed_after is not None
