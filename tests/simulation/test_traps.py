"""Traps of the field, and survivors of mutation, that need no simulation to be seen."""

from __future__ import annotations

import pytest

from tierline import BreakerPolicy, RetryPolicy, Unavailable
from tierline._core.breaker import Breaker, State
from tierline._core.retrying import backoff
from tierline._transports.idle import IDLE_EXPIRY

SERVERS_KEEP_ALIVE = 5.0  # seconds; the default of uvicorn, gunicorn and Node.js


class Loaded:
    """Dice that always show the same."""

    def __init__(self, value: float) -> None:
        self._value = value

    def random(self) -> float:
        return self._value


def test_idle_connections_are_let_go_a_second_before_servers_do() -> None:
    assert IDLE_EXPIRY <= SERVERS_KEEP_ALIVE - 1.0


@pytest.mark.parametrize(("attempts", "longest"), [(1, 0.01), (2, 0.02), (4, 0.08), (9, 0.25)])
def test_backoff_is_uniform_up_to_a_doubling_and_capped_span(attempts: int, longest: float) -> None:
    policy = RetryPolicy(base=0.010, cap=0.250)
    for drawn in (0.0, 0.5, 1.0):
        waited = backoff(policy, Unavailable("down"), attempts, 0.1, Loaded(drawn))
        assert waited == pytest.approx(drawn * longest)


def test_a_breaker_allows_exactly_what_it_would_give_a_permit_for() -> None:
    breaker = Breaker(BreakerPolicy(consecutive=1, close_after=9))
    now = 100.0
    permit = breaker.acquire(now, 1.0)
    assert permit is not None
    breaker.failed(permit, now, 0.0)
    now += 1.0
    for successes in range(4):
        given = []
        while breaker.allows(now):
            permit = breaker.acquire(now, 1.0)
            assert permit is not None
            given.append(permit)
        assert breaker.acquire(now, 1.0) is None
        assert len(given) == min(4, 2**successes)
        breaker.succeeded(given[0], now)
        for permit in given[1:]:
            breaker.released(permit)
    assert breaker.state is State.HALF_OPEN
