"""The breaker against a plain model of it, and the traps other breakers fall into."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tierline._config import BreakerPolicy
from tierline._core.breaker import PROBE_LIMITS, Breaker, Permit, State

POLICY = BreakerPolicy(consecutive=3, minimum_calls=10, open_for=1.0, close_after=5)
LEGAL = {
    (State.CLOSED, State.OPEN),
    (State.OPEN, State.HALF_OPEN),
    (State.HALF_OPEN, State.OPEN),
    (State.HALF_OPEN, State.CLOSED),
}


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
    assert breaker.acquire(1.6, 0.5) is None  # the lease is over
    assert breaker.acquire(1.7, 0.5) is None  # and nothing has come since: open again
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


def _slow_calls(breaker: Breaker, slow: int, of: int, now: float = 0.0) -> None:
    for i in range(of):
        breaker.succeeded(_permit(breaker, now), now, slow=i >= of - slow)
        if breaker.state is not State.CLOSED:
            return


def test_four_of_five_slow_answers_open_it_though_none_failed() -> None:
    breaker = Breaker(POLICY)
    _slow_calls(breaker, slow=7, of=10)
    assert breaker.state is State.CLOSED
    breaker = Breaker(POLICY)
    _slow_calls(breaker, slow=8, of=10)
    assert (breaker.state, breaker.opened_by) == (State.OPEN, "slow")


def test_a_slow_probe_is_a_success_or_a_tier_grown_slower_would_never_come_back() -> None:
    breaker = _opened()
    for i in range(5):
        breaker.succeeded(_permit(breaker, 1.0 + i), 1.0 + i, slow=True)
    assert breaker.state is State.CLOSED


def _close(breaker: Breaker, now: float) -> None:
    for _ in range(POLICY.close_after):
        breaker.succeeded(_permit(breaker, now), now)
    assert breaker.state is State.CLOSED


def _fail_open(breaker: Breaker, now: float) -> None:
    for _ in range(3):
        breaker.failed(_permit(breaker, now), now, 1.0)


def test_the_doubling_is_forgotten_only_after_a_minute_of_health() -> None:
    for healthy, wait in ((59.9, 2.0), (60.0, 1.0)):
        breaker = _opened()
        _close(breaker, 1.0)
        again = 1.0 + healthy
        _fail_open(breaker, again)
        assert breaker.acquire(again + wait - 0.01, 1.0) is None
        assert breaker.acquire(again + wait, 1.0) is not None


def test_a_call_that_would_else_be_refused_may_try_it_before_a_doubled_wait_is_over() -> None:
    breaker = _opened()
    breaker.failed(_permit(breaker, 1.0), 1.0, 1.0)  # now it waits for two seconds
    assert not breaker.allows(2.5)
    assert not breaker.allows_early(1.9)
    assert breaker.allows_early(2.0)
    assert breaker.acquire(2.5, 1.0) is None
    assert breaker.acquire(2.5, 1.0, early=True) is not None
    assert breaker.acquire(2.5, 1.0, early=True) is None  # still one probe at a time


def test_answered_health_probes_make_it_due_and_closing_it_is_still_for_real_calls() -> None:
    breaker = _opened()
    breaker.hasten(0.2)
    assert breaker.state is State.OPEN
    assert breaker.acquire(0.2, 1.0) is not None
    assert breaker.acquire(0.2, 1.0) is None


def test_a_hung_probe_is_judged_by_whoever_looks_so_that_nothing_sticks() -> None:
    breaker = _opened()
    _permit(breaker, 1.0, lease=0.5)
    assert not breaker.allows(1.6)
    assert not breaker.allows(1.7)
    assert (breaker.state, breaker.opened_by) == (State.OPEN, "lease")
    assert breaker.allows(10.0)


def test_a_report_just_behind_the_first_look_after_a_standstill_still_counts() -> None:
    breaker = _opened()
    probe = _permit(breaker, 1.0, lease=0.5)
    assert not breaker.allows(4.0)  # nothing ran for three seconds; somebody looks first
    assert breaker.acquire(4.04, 0.5) is None
    breaker.succeeded(probe, 4.04)
    assert breaker.state is State.HALF_OPEN
    assert breaker.allows(4.04)
    second = _permit(breaker, 4.04, lease=0.5)
    assert not breaker.allows(4.6) or breaker.state is State.HALF_OPEN
    breaker.succeeded(second, 4.6)
    assert breaker.state is State.HALF_OPEN  # an earlier doubt is forgotten with its reason


class BreakerMachine(RuleBasedStateMachine):
    """Whatever happens in whatever order: limits hold, generations only grow, nothing leaks."""

    @initialize()
    def start(self) -> None:
        self.breaker = Breaker(POLICY)
        self.now = 0.0
        self.out: list[tuple[Permit, float]] = []
        self.generation = 0
        self.state = State.CLOSED

    @rule(lease=st.floats(0.01, 2.0), early=st.booleans())
    def acquire(self, lease: float, early: bool) -> None:
        allows = self.breaker.allows_early if early else self.breaker.allows
        allowed = allows(self.now)
        permit = self.breaker.acquire(self.now, lease, early=early)
        assert (permit is not None) is allowed
        if permit is not None:
            self.out.append((permit, self.now + lease))
            if permit.probe is None:
                assert self.breaker.state is State.CLOSED

    @precondition(lambda self: self.out)
    @rule(
        data=st.data(),
        outcome=st.sampled_from(["succeeded", "slow", "failed", "released", "outrun"]),
    )
    def report(self, data: st.DataObject, outcome: str) -> None:
        permit, _ = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        stale = permit.generation != self.breaker.generation
        before = (self.breaker.state, self.breaker.generation)
        if outcome in ("succeeded", "slow"):
            self.breaker.succeeded(permit, self.now, slow=outcome == "slow")
        elif outcome == "failed":
            self.breaker.failed(permit, self.now, 0.5)
        else:
            if outcome == "outrun":
                self.breaker.outrun(permit, self.now, 0.5)
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
        if self.breaker.generation != self.generation:
            steps = self.breaker.generation - self.generation
            assert steps > 1 or (self.state, self.breaker.state) in LEGAL
            self.state = self.breaker.state
        assert self.breaker.generation >= self.generation
        self.generation = self.breaker.generation


BreakerMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
test_breaker_machine = BreakerMachine.TestCase
