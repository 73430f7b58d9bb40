"""Scenario after scenario: every property holds, whatever the seed brings."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from tierline.testing import run_seed

SEEDS = int(os.environ.get("TIERLINE_SEEDS", "200"))
FIRST = int(os.environ.get("TIERLINE_SEED", "0"))


@pytest.mark.slow
def test_every_property_holds_for_every_seed() -> None:
    seen: Counter[str] = Counter()
    for seed in range(FIRST, FIRST + SEEDS):
        seen += run_seed(seed).check().seen
    assert seen["end full"] > SEEDS
