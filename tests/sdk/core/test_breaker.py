"""The breaker against a plain model of it, and the traps other breakers fall into."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tierline._config import BreakerPolicy
from tierline._core.breaker import PROBE_LIMITS, Breaker, Permit, State

POLICY = BreakerPolicy(consecutive=3, minimum_calls=10, open_for=1.0, close_after=5)


def _permit(breaker: Breaker, now: float, lease: float = 1.0) -> Permit:
    permit = breaker.acquire(now, lease)
    assert permit is not None
    return permit


def _opened(now: float = 0.0) -> Breaker:
    breaker = Breaker(POLICY)
    for _ in range(3):
        breaker.failed(_permit(breaker, now), now, 1.0)
    assert breaker.state is State.OPEN
    return breaker


def test_consecutive_failures_open_it_and_the_wait_lets_one_probe_through() -> None:
    breaker = _opened()
    assert breaker.acquire(0.5, 1.0) is None
    assert breaker.acquire(1.0, 1.0) is not None
    assert breaker.state is State.HALF_OPEN


def test_half_open_admits_one_of_a_thousand_callers() -> None:
    breaker = _opened()
    assert sum(breaker.acquire(1.0, 1.0) is not None for _ in range(1000)) == 1


def test_a_failure_rate_opens_it_though_failures_alternate_with_successes() -> None:
    breaker = Breaker(POLICY)
    for _ in range(5):
        breaker.succeeded(_permit(breaker, 0.0), 0.0)
        breaker.failed(_permit(breaker, 0.0), 0.0, 0.0)
    assert breaker.state is State.OPEN


def test_failures_older_than_the_window_are_forgotten() -> None:
    breaker = Breaker(POLICY)
    for now in (0.0, 0.0, 100.0, 100.0):
        breaker.succeeded(_permit(breaker, now), now)
        breaker.failed(_permit(breaker, now), now, 0.0)
    for _ in range(4):
        breaker.succeeded(_permit(breaker, 200.0), 200.0)
    breaker.failed(_permit(breaker, 200.0), 200.0, 0.0)
    assert breaker.state is State.CLOSED


def test_a_late_success_of_an_older_generation_does_not_close_it() -> None:
    breaker = Breaker(POLICY)
    old = _permit(breaker, 0.0)
    for _ in range(3):
        breaker.failed(_permit(breaker, 0.0), 0.0, 1.0)
    breaker.acquire(1.0, 1.0)
    breaker.succeeded(old, 1.1)
    assert breaker.state is State.HALF_OPEN


def test_a_late_failure_of_an_older_generation_does_not_open_it() -> None:
    breaker = Breaker(POLICY)
    stale = [_permit(breaker, 0.0) for _ in range(5)]
    for _ in range(3):
        breaker.failed(_permit(breaker, 0.0), 0.0, 1.0)
    for i in range(5):
        breaker.succeeded(_permit(breaker, 1.0 + i), 1.0 + i)
    assert breaker.state is State.CLOSED
    for permit in stale:
        breaker.failed(permit, 7.0, 1.0)
    assert breaker.state is State.CLOSED


def test_a_probe_that_never_reports_loses_its_lease_and_counts_as_failed() -> None:
    breaker = _opened()
    _permit(breaker, 1.0, lease=0.5)
    assert breaker.acquire(1.4, 0.5) is None
    assert breaker.acquire(1.6, 0.5) is None  # the lease is over: open again
    assert breaker.state is State.OPEN
    assert breaker.acquire(10.0, 0.5) is not None


def test_a_cancelled_probe_is_neutral_and_gives_its_place_back() -> None:
    breaker = _opened()
    breaker.released(_permit(breaker, 1.0))
    assert breaker.state is State.HALF_OPEN
    assert breaker.acquire(1.1, 1.0) is not None


def test_each_reopening_waits_twice_as_long_up_to_the_cap() -> None:
    breaker = _opened()
    now, waits = 0.0, []
    for _ in range(7):
        opened = now
        while breaker.acquire(now, 1.0) is None:
            now += 0.5
        waits.append(now - opened)
        breaker.failed(Permit(breaker.generation, breaker._probes), now, 1.0)
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


class BreakerMachine(RuleBasedStateMachine):
    """Whatever happens in whatever order: limits hold, generations only grow, nothing leaks."""

    @initialize()
    def start(self) -> None:
        self.breaker = Breaker(POLICY)
        self.now = 0.0
        self.out: list[tuple[Permit, float]] = []
        self.generation = 0

    @rule(lease=st.floats(0.01, 2.0))
    def acquire(self, lease: float) -> None:
        allowed = self.breaker.allows(self.now)
        permit = self.breaker.acquire(self.now, lease)
        if permit is None:
            return
        assert allowed
        self.out.append((permit, self.now + lease))

    @precondition(lambda self: self.out)
    @rule(data=st.data(), outcome=st.sampled_from(["succeeded", "failed", "released"]))
    def report(self, data: st.DataObject, outcome: str) -> None:
        permit, _ = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        stale = permit.generation != self.breaker.generation
        before = (self.breaker.state, self.breaker.generation)
        if outcome == "succeeded":
            self.breaker.succeeded(permit, self.now)
        elif outcome == "failed":
            self.breaker.failed(permit, self.now, 0.5)
        else:
            self.breaker.released(permit)
        if stale or outcome == "released":
            assert (self.breaker.state, self.breaker.generation) == before

    @rule(span=st.floats(0.0, 40.0))
    def wait(self, span: float) -> None:
        self.now += span

    @invariant()
    def probes_stay_within_their_limit(self) -> None:
        if not hasattr(self, "breaker"):
            return
        live = [
            permit
            for permit, until in self.out
            if permit.generation == self.breaker.generation
            and permit.probe is not None
            and until > self.now
        ]
        if self.breaker.state is State.HALF_OPEN:
            assert len(live) <= max(PROBE_LIMITS)
        assert self.breaker.generation >= self.generation
        self.generation = self.breaker.generation


BreakerMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
test_breaker_machine = BreakerMachine.TestCase
