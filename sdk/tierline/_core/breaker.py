"""Whether one endpoint may be asked for one model: closed, open, half-open, by generation.

Every permit carries the generation it was given in; a result of an older generation changes
nothing, so a late success cannot close a breaker nor a late failure open it. Half-open permits are
leased: a probe that never reports counts as failed when its lease ends. A released permit (the
caller cancelled) is neutral and frees its place.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from tierline._config import BreakerPolicy

BUCKETS = 10
PROBE_LIMITS = (1, 2, 4)  # how many probes at once, as successes come in


class State(Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Permit(NamedTuple):
    """Leave to make one attempt. ``probe`` numbers half-open permits; None while closed."""

    generation: int
    probe: int | None


class Breaker:
    """One breaker. Told the time at every step; jitter comes as a number in [0, 1)."""

    __slots__ = (
        "_bad",
        "_consecutive",
        "_epoch",
        "_good",
        "_leases",
        "_opened_until",
        "_openings",
        "_policy",
        "_probes",
        "_successes",
        "_width",
        "generation",
        "state",
    )

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        self._width = policy.window / BUCKETS
        self.state = State.CLOSED
        self.generation = 0
        self._openings = 0  # in a row, for the doubling wait
        self._opened_until = 0.0
        self._leases: dict[int, float] = {}
        self._probes = 0
        self._successes = 0
        self._clear()

    def allows(self, now: float) -> bool:
        """Whether ``acquire`` would give a permit now."""
        if self.state is State.CLOSED:
            return True
        if self.state is State.OPEN:
            return now >= self._opened_until
        return self._live_leases(now) < self._probe_limit()

    def acquire(self, now: float, lease: float) -> Permit | None:
        """A permit, or None. ``lease`` is the seconds a half-open probe may take."""
        if self.state is State.CLOSED:
            return Permit(self.generation, None)
        if self.state is State.OPEN and now >= self._opened_until:
            self._enter(State.HALF_OPEN)
        if self.state is State.HALF_OPEN:
            self._expire(now)
        if self.state is not State.HALF_OPEN or len(self._leases) >= self._probe_limit():
            return None
        self._probes += 1
        self._leases[self._probes] = now + lease
        return Permit(self.generation, self._probes)

    def succeeded(self, permit: Permit, now: float) -> None:
        if permit.generation != self.generation:
            return
        if permit.probe is None:
            self._consecutive = 0
            self._turn(now)
            self._good[self._epoch % BUCKETS] += 1
        elif self._leases.pop(permit.probe, None) is not None:
            self._successes += 1
            if self._successes >= self._policy.close_after:
                self._openings = 0
                self._enter(State.CLOSED)

    def failed(self, permit: Permit, now: float, jitter: float) -> None:
        if permit.generation != self.generation:
            return
        if permit.probe is not None:
            if self._leases.pop(permit.probe, None) is not None:
                self._open(now, jitter)
            return
        self._consecutive += 1
        self._turn(now)
        self._bad[self._epoch % BUCKETS] += 1
        if self._consecutive >= self._policy.consecutive or self._rate_exceeded():
            self._open(now, jitter)

    def released(self, permit: Permit) -> None:
        """The attempt was cancelled: neither good nor bad, its place is free again."""
        if permit.probe is not None and permit.generation == self.generation:
            self._leases.pop(permit.probe, None)

    def _open(self, now: float, jitter: float) -> None:
        wait = min(self._policy.open_cap, self._policy.open_for * 2.0**self._openings)
        self._openings += 1
        self._opened_until = now + wait * (0.5 + 0.5 * jitter)  # equal jitter: half fixed
        self._enter(State.OPEN)

    def _enter(self, state: State) -> None:
        self.state = state
        self.generation += 1
        self._leases = {}
        self._successes = 0
        self._clear()

    def _expire(self, now: float) -> None:
        if any(until <= now for until in self._leases.values()):
            self._open(now, 0.5)  # a probe that never came back has failed

    def _live_leases(self, now: float) -> int:
        return sum(1 for until in self._leases.values() if until > now)

    def _probe_limit(self) -> int:
        return PROBE_LIMITS[min(self._successes, len(PROBE_LIMITS) - 1)]

    def _rate_exceeded(self) -> bool:
        good, bad = sum(self._good), sum(self._bad)
        seen = good + bad
        return seen >= self._policy.minimum_calls and bad >= self._policy.failure_rate * seen

    def _clear(self) -> None:
        self._consecutive = 0
        self._good = [0] * BUCKETS
        self._bad = [0] * BUCKETS
        self._epoch = -1

    def _turn(self, now: float) -> None:
        epoch = int(now / self._width)
        if epoch <= self._epoch:
            return
        if self._epoch < 0 or epoch - self._epoch >= BUCKETS:
            self._good = [0] * BUCKETS
            self._bad = [0] * BUCKETS
        else:
            for bucket in range(self._epoch + 1, epoch + 1):
                self._good[bucket % BUCKETS] = 0
                self._bad[bucket % BUCKETS] = 0
        self._epoch = epoch
