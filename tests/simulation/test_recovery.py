"""How soon an endpoint that was away is asked again, also when its peer is idle and fast."""

from __future__ import annotations

import pytest

from tierline.testing import simulate, steady_load

from .fleets import fault, fleet

AWAY_FROM, AWAY_FOR = 2.0, 5.0
BACK_AT = AWAY_FROM + AWAY_FOR


@pytest.mark.parametrize("kind", ["cut", "refuse", "errors"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_an_endpoint_that_came_back_is_found_and_used_again(kind: str, seed: int) -> None:
    run = simulate(
        fleet(edge=2, cloud=0),
        faults=(fault(kind, "edge-1", start=AWAY_FROM, length=AWAY_FOR),),
        load=steady_load(40, 40),
        seed=seed,
    ).check()
    asked = [e.at for e in run.trace.events if e.what == "sent" and "http://edge-1" in e.details]
    # A breaker that opened four times waits at most 8 s; the one that comes after it finds out.
    assert any(BACK_AT <= at <= BACK_AT + 8.5 for at in asked)
    settled = [at for at in asked if at >= 20.0]
    assert len(settled) >= 0.15 * 40 * 20  # of a fair share of half, while it starts slowly
