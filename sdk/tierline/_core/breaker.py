"""Whether one endpoint may be asked for one model: closed, open, half-open, by generation.

Every permit carries the generation it was given in; a result of an older generation changes
nothing, so a late success cannot close a breaker nor a late failure open it. Half-open permits are
leased: a probe that never reports counts as failed when its lease has ended and two looks, a little
apart, have found it out still (after this process stood still, a report may be just behind the
first look). A released permit (the
caller cancelled) is neutral and frees its place.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

from tierline._config import BreakerPolicy
from tierline._core.timeouts import LATE
from tierline._core.windows import OutcomeWindow

PROBE_LIMITS = (1, 2, 4)  # how many probes at once, as successes come in
OUTRUN = 5  # in a row by chance, each with 1/20: three in ten million


class State(Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


CLOSED: Final = State.CLOSED  # for every call: a member costs 60 ns to look up in Python 3.11


class Permit(NamedTuple):
    """Leave to make one attempt. ``probe`` numbers half-open permits; None while closed."""

    generation: int
    probe: int | None


class Breaker:
    """One breaker. Told the time at every step; jitter comes as a number in [0, 1)."""

    __slots__ = (
        "_closed_at",
        "_closed_permit",
        "_consecutive",
        "_leases",
        "_opened_at",
        "_opened_until",
        "_openings",
        "_overdue_at",
        "_policy",
        "_probes",
        "_successes",
        "_unanswered",
        "_window",
        "generation",
        "opened_by",
        "state",
    )

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        self.state = State.CLOSED
        self.generation = 0
        self.opened_by = ""  # "consecutive" | "outrun" | "rate" | "slow" | "probe" | "lease" | …
        self._openings = 0  # without a healthy spell between, for the doubling wait
        self._opened_at = 0.0
        self._opened_until = 0.0
        self._closed_at: float | None = None
        self._closed_permit = Permit(0, None)
        self._leases: dict[int, float] = {}
        self._overdue_at: float | None = None  # when a lease was first seen to have ended
        self._probes = 0
        self._successes = 0
        self._consecutive = 0  # failures in a row
        self._unanswered = 0  # likewise, and attempts that a hedge has outrun
        self._window = OutcomeWindow(policy.window)

    def allows(self, now: float) -> bool:
        """Whether ``acquire`` would give a permit now. A probe that has hung is judged here too."""
        if self.state is State.CLOSED:
            return True
        if self.state is State.OPEN:
            return now >= self._opened_until
        self._expire(now)
        return self.state is State.HALF_OPEN and len(self._leases) < self._probe_limit()

    def allows_early(self, now: float) -> bool:
        """Whether ``acquire`` would give a permit to a call that would else be refused: for it, an
        open breaker is due after its shortest wait."""
        if self.state is State.OPEN:
            return now >= min(self._opened_until, self._opened_at + self._policy.open_for)
        return self.allows(now)

    def hasten(self, now: float) -> None:
        """Health probes are answered: an open breaker is due for a probe of its own."""
        self._opened_until = min(self._opened_until, now)

    def acquire(self, now: float, lease: float, *, early: bool = False) -> Permit | None:
        """A permit, or None. ``lease`` is the seconds a half-open probe may take; ``early`` asks
        for a call that would else be refused."""
        if self.state is CLOSED:
            return self._closed_permit
        if self.state is State.OPEN and (self.allows_early if early else self.allows)(now):
            self._enter(State.HALF_OPEN)
        if self.state is State.HALF_OPEN:
            self._expire(now)
        if self.state is not State.HALF_OPEN or len(self._leases) >= self._probe_limit():
            return None
        self._probes += 1
        self._leases[self._probes] = now + lease
        return Permit(self.generation, self._probes)

    def succeeded(self, permit: Permit, now: float, *, slow: bool = False) -> None:
        """The attempt was answered; ``slow`` counts towards the slow-call rate."""
        if permit.generation != self.generation:
            return
        if permit.probe is None:
            self._consecutive = self._unanswered = 0
            self._window.good(now, slow=slow)
            if slow:
                self._judge_slow(now)
        elif self._leases.pop(permit.probe, None) is not None:
            self._successes += 1
            if self._successes >= self._policy.close_after:
                self._closed_at = now
                self._enter(State.CLOSED)

    def failed(self, permit: Permit, now: float, jitter: float) -> None:
        """The attempt failed, and the endpoint is to blame for this model."""
        if permit.generation != self.generation:
            return
        if permit.probe is not None:
            if self._leases.pop(permit.probe, None) is not None:
                self._open(now, jitter, "probe")
            return
        self._consecutive += 1
        self._unanswered += 1
        self._window.bad(now)
        if self._consecutive >= self._policy.consecutive:
            self._open(now, jitter, "consecutive")
            return
        good, bad, _ = self._window.totals(now)
        seen = good + bad
        if seen >= self._policy.minimum_calls and bad >= self._policy.failure_rate * seen:
            self._open(now, jitter, "rate")
            return
        self._judge_unanswered(now, jitter)

    def outrun(self, permit: Permit, now: float, jitter: float) -> None:
        """A hedge elsewhere was answered while the attempt was overdue, as one in twenty is: no
        failure. But several in a row, failures among them and no answer, open the breaker."""
        if permit.probe is None and permit.generation == self.generation:
            self._unanswered += 1
            self._judge_unanswered(now, jitter)

    def released(self, permit: Permit) -> None:
        """The attempt was cancelled: neither good nor bad, its place is free again."""
        if permit.probe is not None and permit.generation == self.generation:
            self._leases.pop(permit.probe, None)

    def trip(self, now: float, jitter: float, reason: str) -> None:
        """Open it for what was learnt elsewhere."""
        self._open(now, jitter, reason)

    def _judge_unanswered(self, now: float, jitter: float) -> None:
        if self._unanswered >= max(OUTRUN, self._policy.consecutive):
            self._open(now, jitter, "outrun")

    def _judge_slow(self, now: float) -> None:
        good, bad, slow = self._window.totals(now)
        seen = good + bad
        # Failures count as slow: a timeout is the slowest answer of all.
        if seen >= self._policy.minimum_calls and slow + bad >= self._policy.slow_rate * seen:
            self._open(now, 0.5, "slow")

    def _open(self, now: float, jitter: float, reason: str) -> None:
        if self._closed_at is not None and now - self._closed_at >= self._policy.healthy_for:
            self._openings = 0
        wait = min(self._policy.open_cap, self._policy.open_for * 2.0 ** min(self._openings, 60))
        self._openings += 1
        self._closed_at = None
        self._opened_at = now
        self._opened_until = now + wait * (0.5 + 0.5 * jitter)  # equal jitter: half fixed
        self.opened_by = reason
        self._enter(State.OPEN)

    def _enter(self, state: State) -> None:
        self.state = state
        self.generation += 1
        self._closed_permit = Permit(self.generation, None)
        self._leases = {}
        self._overdue_at = None
        self._successes = 0
        self._consecutive = self._unanswered = 0
        self._window.clear()

    def _expire(self, now: float) -> None:
        if all(now < until for until in self._leases.values()):
            self._overdue_at = None
        elif self._overdue_at is None:
            self._overdue_at = now
        elif now - self._overdue_at >= LATE:
            self._open(now, 0.5, "lease")  # a probe that never came back has failed

    def _probe_limit(self) -> int:
        return PROBE_LIMITS[min(self._successes, len(PROBE_LIMITS) - 1)]
