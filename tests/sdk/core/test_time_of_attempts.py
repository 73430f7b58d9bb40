"""Until when an attempt may run, and what its end by that instant teaches."""

from __future__ import annotations

import pytest

from tierline._config import ClientConfig, Endpoint, RetryPolicy, Tier
from tierline._core.fleet import Fleet

from .fixtures import EDGE_A, EDGE_B, Driver

TWO = (Tier(name="edge", kind="edge", endpoints=(Endpoint(url=EDGE_A), Endpoint(url=EDGE_B))),)


@pytest.mark.parametrize(("per_tier", "until"), [(1, 0.249), (2, 0.1245)])
def test_an_attempt_that_its_tier_allows_no_other_after_has_the_whole_time(
    per_tier: int, until: float
) -> None:
    fleet = Fleet(ClientConfig(tiers=TWO, retry=RetryPolicy(per_tier=per_tier)))
    assert Driver(fleet).started.timeout_at == pytest.approx(until)
