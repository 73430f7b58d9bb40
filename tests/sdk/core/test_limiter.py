"""The limit follows what an endpoint can take: down under drops, up again at once, never astray."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tierline._config import Criticality, LimiterPolicy
from tierline._core.limiter import ANEW, Limiter

SPAN = 0.25


def test_sixteen_callers_are_never_refused_at_the_start() -> None:
    room = Limiter(LimiterPolicy()).room
    assert room[Criticality.DEFAULT] >= 64
    assert room[Criticality.SHEDDABLE] >= 16


def test_the_lesser_kind_of_call_gives_way_first() -> None:
    room = Limiter(LimiterPolicy(initial=20)).room
    assert room[Criticality.SHEDDABLE] < room[Criticality.DEFAULT] < room[Criticality.CRITICAL]
    least = Limiter(LimiterPolicy(initial=1)).room
    assert set(least.values()) == {1}


def test_a_drop_cuts_to_nine_tenths_once_a_round_trip() -> None:
    limiter = Limiter(LimiterPolicy(initial=100))
    for _ in range(50):
        limiter.dropped(1.0)
    assert limiter.limit == pytest.approx(90)
    limiter.dropped(1.06)
    assert limiter.limit == pytest.approx(81)


def test_drops_that_go_on_bring_it_down_to_one_and_good_answers_up_again() -> None:
    limiter = Limiter(LimiterPolicy())
    for i in range(200):
        limiter.dropped(i * 0.05)
    assert limiter.limit == 1
    for _ in range(200):
        limiter.answered(0.01, 1, SPAN, 20.0)
    assert limiter.limit == 128  # where the cuts began, and not beyond


def sheddable(limiter: Limiter) -> int:
    return limiter.room[Criticality.SHEDDABLE]


def test_what_may_be_shed_and_is_refused_loses_its_own_room_and_nobody_elses() -> None:
    limiter = Limiter(LimiterPolicy(initial=100))
    limiter.shed(1.0)
    limiter.shed(1.04)  # the same round trip
    assert (limiter.limit, sheddable(limiter)) == (100, 45)
    limiter.shed(1.06)
    assert (limiter.limit, sheddable(limiter)) == (100, 40)
    assert limiter.room[Criticality.DEFAULT] == 90
    limiter.dropped(1.1)
    assert (limiter.limit, sheddable(limiter)) == (90, 36)


def test_refusals_that_go_on_leave_what_may_be_shed_one_and_good_answers_give_it_all_back() -> None:
    limiter = Limiter(LimiterPolicy(initial=100))
    for i in range(200):
        limiter.shed(i * 0.05)
    assert sheddable(limiter) == 1
    for _ in range(40):
        limiter.answered(0.2, 8, SPAN, 20.0)  # late ones are no sign of room
    assert sheddable(limiter) == 1
    for _ in range(50):
        limiter.answered(0.01, 8, SPAN, 20.0)
    assert sheddable(limiter) == 25
    for _ in range(51):
        limiter.answered(0.01, 8, SPAN, 20.0)
    assert (limiter.limit, sheddable(limiter)) == (100, 50)


def test_answers_that_come_late_do_not_raise_it() -> None:
    limiter = Limiter(LimiterPolicy())
    limiter.start_anew()
    for _ in range(40):
        limiter.answered(0.2, 8, SPAN, 1.0)
    assert limiter.limit == ANEW


def test_behind_a_closed_breaker_it_starts_anew_from_a_few() -> None:
    limiter = Limiter(LimiterPolicy())
    limiter.start_anew()
    assert limiter.limit == ANEW
    for _ in range(8):
        limiter.answered(0.01, 8, SPAN, 1.0)
    assert limiter.limit == 2 * ANEW  # doubled in one round trip


def _windows(limiter: Limiter, latency: float, inflight: int, windows: int, start: float) -> None:
    for second in range(windows):
        for _ in range(60):
            limiter.answered(latency, inflight, SPAN, start + second)


def test_it_neither_grows_nor_shrinks_while_it_is_not_in_use() -> None:
    limiter = Limiter(LimiterPolicy())
    _windows(limiter, 0.01, 10, 20, 0.0)
    _windows(limiter, 0.2, 10, 20, 20.0)
    assert limiter.limit == 128


def test_it_grows_by_its_root_while_in_use_up_to_the_maximum() -> None:
    limiter = Limiter(LimiterPolicy(initial=100))
    _windows(limiter, 0.01, 60, 1, 0.0)
    assert limiter.limit == 110
    _windows(limiter, 0.01, 250, 40, 1.0)
    assert limiter.limit == 256


def test_a_queue_that_eats_the_callers_time_shrinks_it_by_half_a_second_at_most() -> None:
    limiter = Limiter(LimiterPolicy(initial=100))
    _windows(limiter, 0.01, 60, 1, 0.0)
    before = limiter.limit
    _windows(limiter, 0.24, 100, 1, 1.0)
    assert before / 2 <= limiter.limit < before * 0.6


def test_a_slower_tier_whose_callers_still_have_time_is_not_throttled() -> None:
    limiter = Limiter(LimiterPolicy())
    _windows(limiter, 0.002, 100, 10, 0.0)
    high = limiter.limit
    _windows(limiter, 0.060, 200, 30, 10.0)  # thirty times as slow: a quarter of the time
    assert limiter.limit >= high


def _closed_loop(capacity: int, service: float, callers: int, seconds: float) -> Limiter:
    """So many callers at once on an endpoint that computes ``capacity`` at a time, in order;
    what waits longer than the deadline is a timeout."""
    limiter = Limiter(LimiterPolicy())
    free = deque([0.0] * capacity)
    now, out = 0.0, deque[tuple[float, float]]()
    while now < seconds:
        now += service / capacity / 2
        while out and out[0][0] <= now:
            done, begun = out.popleft()
            latency = done - begun
            if latency > SPAN:
                limiter.dropped(now)
            else:
                limiter.answered(latency, len(out) + 1, SPAN, now)
        while len(out) < min(callers, limiter.room[Criticality.DEFAULT]):
            ends = max(now, free.popleft()) + service
            free.append(ends)
            out.append((ends, now))
    return limiter


def test_under_twice_its_load_an_endpoint_keeps_answering_in_time() -> None:
    limiter = _closed_loop(capacity=5, service=0.02, callers=500, seconds=20.0)
    in_time = SPAN * 5 / 0.02  # as many as it answers within the deadline
    assert 5 <= limiter.limit <= 1.2 * in_time


class LimiterMachine(RuleBasedStateMachine):
    """Whatever happens: within its bounds, rooms in order, and every limit can recover."""

    @initialize(low=st.integers(1, 4), more=st.integers(0, 50), most=st.integers(0, 200))
    def start(self, low: int, more: int, most: int) -> None:
        self.policy = LimiterPolicy(minimum=low, initial=low + more, maximum=low + more + most)
        self.limiter = Limiter(self.policy)
        self.now = 0.0

    @rule(latency=st.floats(0.0, 2.0), inflight=st.integers(1, 300), times=st.integers(1, 80))
    def answer(self, latency: float, inflight: int, times: int) -> None:
        before = self.limiter.limit
        for _ in range(times):
            self.limiter.answered(latency, inflight, SPAN, self.now)
        if inflight < before / 2 and latency <= SPAN / 4:
            assert self.limiter.limit >= before

    @rule()
    def drop(self) -> None:
        before = self.limiter.limit
        self.limiter.dropped(self.now)
        assert self.limiter.limit <= before

    @rule()
    def shed(self) -> None:
        limit, before = self.limiter.limit, self.limiter.room[Criticality.SHEDDABLE]
        self.limiter.shed(self.now)
        assert self.limiter.limit == limit
        assert self.limiter.room[Criticality.SHEDDABLE] <= before

    @rule()
    def close(self) -> None:
        self.limiter.start_anew()
        assert self.limiter.limit <= max(ANEW, self.policy.minimum)

    @rule(span=st.floats(0, 5))
    def wait(self, span: float) -> None:
        self.now += span

    @precondition(lambda self: hasattr(self, "limiter"))
    @invariant()
    def it_stays_within_bounds(self) -> None:
        if not hasattr(self, "limiter"):
            return
        assert self.policy.minimum <= self.limiter.limit <= self.policy.maximum
        room = self.limiter.room
        assert 1 <= room[Criticality.SHEDDABLE] <= room[Criticality.DEFAULT]
        assert room[Criticality.DEFAULT] <= room[Criticality.CRITICAL] <= self.policy.maximum

    def teardown(self) -> None:
        if not hasattr(self, "limiter"):
            return
        aim = min(self.policy.initial, self.limiter.limit)
        for i in range(600):
            self.limiter.answered(0.001, 300, SPAN, self.now + 100.0 + i)
        assert self.limiter.limit >= aim
        assert self.limiter.room[Criticality.SHEDDABLE] == max(1, int(self.limiter.limit / 2))


LimiterMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_limiter_machine = LimiterMachine.TestCase


def test_every_window_needs_as_many_answers_as_the_first() -> None:
    limiter = Limiter(LimiterPolicy(initial=10, samples=5))
    moves = []
    for number in range(20):
        before = limiter.limit
        limiter.answered(0.01, 100, SPAN, 2.0 * number)
        if limiter.limit != before:
            moves.append(number)
    assert moves == [4, 9, 14, 19]


def test_it_moves_once_an_update_and_no_more() -> None:
    limiter = Limiter(LimiterPolicy(initial=16, samples=1, update=1.0))
    limits = []
    for now in (0.0, 0.5, 0.99, 1.0, 1.5, 2.0):
        limiter.answered(0.01, 100, SPAN, now)
        limits.append(limiter.limit)
    assert limits[0] == limits[1] == limits[2] == 20.0
    assert limits[3] == limits[4] == 20.0 + 20.0**0.5
    assert limits[5] > limits[4]


def test_only_the_crowd_of_its_own_window_makes_it_grow() -> None:
    limiter = Limiter(LimiterPolicy(initial=16, samples=2, update=1.0))
    for inflight in (8, 1):
        limiter.answered(0.01, inflight, SPAN, 0.0)
    assert limiter.limit == 20.0  # half of it was in use once
    for inflight in (9, 1):
        limiter.answered(0.01, inflight, SPAN, 1.0)
    assert limiter.limit == 20.0


def test_it_shrinks_in_proportion_to_what_is_longer_than_usual() -> None:
    policy = LimiterPolicy(initial=100, samples=1, update=1.0, tolerance=1.5)
    limiter = Limiter(policy)
    limiter.answered(0.5, 100, 0.0, 0.0)  # the first is what is usual: it grows
    assert limiter.limit == 110.0
    limiter.answered(1.0, 110, 0.0, 1.0)  # usual is now 0.525, so 0.7875 in good time
    assert limiter.limit == pytest.approx(110.0 * 0.7875)
    limiter.answered(0.25, 110, 0.0, 2.0)  # usual falls by half of the way: 0.3875
    grown = 110.0 * 0.7875 + (110.0 * 0.7875) ** 0.5
    assert limiter.limit == pytest.approx(grown)
    limiter.answered(0.75, 110, 0.0, 3.0)  # usual 0.405625
    assert limiter.limit == pytest.approx(grown * 1.5 * 0.405625 / 0.75)


def test_answers_that_took_no_time_make_it_grow() -> None:
    limiter = Limiter(LimiterPolicy(initial=100, samples=1))
    limiter.answered(0.0, 100, 0.0, 0.0)
    assert limiter.limit == 110.0


def test_two_cuts_lie_a_usual_answer_apart() -> None:
    limiter = Limiter(LimiterPolicy(initial=100, samples=1, maximum=100))
    limiter.answered(0.25, 1, SPAN, 0.0)
    limiter.dropped(1.0)
    limiter.dropped(1.2)
    assert limiter.limit == pytest.approx(90.0)
    limiter.dropped(1.25)
    assert limiter.limit == pytest.approx(81.0)


def test_after_a_cut_an_answer_just_in_good_time_raises_it_and_a_later_one_does_not() -> None:
    limiter = Limiter(LimiterPolicy(initial=100))
    limiter.dropped(1.0)
    limiter.answered(0.0625, 1, SPAN, 1.0)  # a quarter of the time its call has
    assert limiter.limit == pytest.approx(91.0)
    limiter.answered(0.0626, 1, SPAN, 1.0)
    assert limiter.limit == pytest.approx(91.0)


def test_a_limit_of_a_few_is_not_raised_by_a_new_start() -> None:
    low = Limiter(LimiterPolicy(initial=5))
    low.start_anew()
    assert low.limit == 5
    for _ in range(20):
        low.answered(0.01, 1, SPAN, 0.0)
    assert low.limit == 5
