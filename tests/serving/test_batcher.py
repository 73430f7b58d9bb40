"""The batcher against a naive model: every ticket ends exactly once, whatever is asked of it."""

from __future__ import annotations

import math

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tierline_serving.batching import Batcher, BatchLimits, Refusal

LIMITS = BatchLimits(
    max_batch_rows=10, max_batch_requests=3, max_queue_rows=25, max_queue_requests=6
)


class BatcherAgainstModel(RuleBasedStateMachine):
    """The model keeps a plain list, sorts it at every take, and counts where tickets end."""

    def __init__(self) -> None:
        super().__init__()
        self.batcher: Batcher[int] = Batcher(LIMITS)
        self.queue: list[tuple[float, int, int]] = []  # deadline, ticket, rows
        self.ended: dict[int, str] = {}
        self.offered = 0
        self.now = 0.0

    def end(self, ticket: int, how: str) -> None:
        assert ticket not in self.ended, f"ticket {ticket} ended twice"
        self.ended[ticket] = how

    @rule(rows=st.integers(1, 30), patience=st.sampled_from([-1.0, 0.0, 1.0, 2.0, 5.0, math.inf]))
    def offer(self, rows: int, patience: float) -> None:
        self.offered += 1
        ticket, deadline_at = self.offered, self.now + patience
        queued = sum(item[2] for item in self.queue)
        expected = None
        if patience <= 0:
            expected = Refusal.DEADLINE_PASSED
        elif rows > LIMITS.max_queue_rows:
            expected = Refusal.TOO_LARGE
        elif len(self.queue) >= 6 or queued + rows > LIMITS.max_queue_rows:
            expected = Refusal.QUEUE_FULL
        assert self.batcher.offer(ticket, rows, deadline_at, self.now) is expected
        if expected is None:
            self.queue.append((deadline_at, ticket, rows))
        else:
            self.end(ticket, "refused")

    @rule()
    def take(self) -> None:
        self.queue.sort()
        expired = [item for item in self.queue if item[0] <= self.now]
        alive = [item for item in self.queue if item[0] > self.now]
        picked = alive[:1]
        for item in alive[1:]:
            rows = sum(each[2] for each in picked) + item[2]
            if len(picked) == LIMITS.max_batch_requests or rows > LIMITS.max_batch_rows:
                break
            picked.append(item)
        batch = self.batcher.take(self.now)
        assert (batch is None) == (not expired and not picked)
        if batch is None:
            return
        assert batch.tickets == tuple(item[1] for item in picked)
        assert batch.expired == tuple(item[1] for item in expired)
        assert batch.rows == sum(item[2] for item in picked)
        for ticket in batch.tickets:
            self.end(ticket, "scored")
        for ticket in batch.expired:
            self.end(ticket, "expired")
        self.queue = alive[len(picked) :]

    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        ticket = data.draw(st.integers(1, self.offered + 1))
        was_queued = any(item[1] == ticket for item in self.queue)
        assert self.batcher.withdraw(ticket) is was_queued
        if was_queued:
            self.queue = [item for item in self.queue if item[1] != ticket]
            self.end(ticket, "withdrawn")

    @rule(step=st.sampled_from([0.5, 1.0, 3.0]))
    def time_passes(self, step: float) -> None:
        self.now += step

    @rule()
    def clear(self) -> None:
        left = self.batcher.clear()
        assert sorted(left) == sorted(item[1] for item in self.queue)
        for ticket in left:
            self.end(ticket, "cleared")
        self.queue = []

    @invariant()
    def nothing_is_lost_and_bounds_hold(self) -> None:
        assert self.batcher.queued_requests == len(self.queue) <= LIMITS.max_queue_requests
        rows = sum(item[2] for item in self.queue)
        assert self.batcher.queued_rows == rows <= LIMITS.max_queue_rows
        assert len(self.ended) + len(self.queue) == self.offered


TestBatcherAgainstModel = BatcherAgainstModel.TestCase


def test_the_earliest_deadline_is_scored_first() -> None:
    batcher: Batcher[str] = Batcher(BatchLimits(max_batch_requests=2))
    for ticket, deadline_at in (("late", 9.0), ("soon", 1.0), ("middle", 5.0)):
        assert batcher.offer(ticket, 1, deadline_at, 0.0) is None
    batch = batcher.take(0.0)
    assert batch is not None
    assert batch.tickets == ("soon", "middle")


def test_a_request_larger_than_a_batch_is_scored_alone() -> None:
    batcher: Batcher[str] = Batcher(LIMITS)
    for ticket, rows in (("large", 20), ("small", 1)):
        assert batcher.offer(ticket, rows, math.inf, 0.0) is None
    first, second = batcher.take(0.0), batcher.take(0.0)
    assert first is not None
    assert second is not None
    assert (first.tickets, second.tickets) == (("large",), ("small",))


def test_withdrawn_tickets_leave_no_memory_behind() -> None:
    batcher: Batcher[int] = Batcher(LIMITS)
    for ticket in range(10_000):
        assert batcher.offer(ticket, 1, math.inf, 0.0) is None
        assert batcher.withdraw(ticket)
    assert len(batcher._heap) < 200


def test_a_ticket_cannot_be_queued_twice() -> None:
    batcher: Batcher[str] = Batcher(LIMITS)
    batcher.offer("a", 1, 1.0, 0.0)
    with pytest.raises(ValueError, match="already queued"):
        batcher.offer("a", 1, 1.0, 0.0)


def test_a_deadline_that_is_no_number_is_refused() -> None:
    batcher: Batcher[str] = Batcher(LIMITS)
    assert batcher.offer("a", 1, math.nan, 0.0) is Refusal.DEADLINE_PASSED


@pytest.mark.parametrize("field", ["max_batch_rows", "max_batch_requests", "max_queue_requests"])
def test_limits_below_one_are_refused_by_name(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be at least 1"):
        BatchLimits(**{field: 0})


def test_a_queue_smaller_than_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="max_queue_rows must be at least max_batch_rows"):
        BatchLimits(max_batch_rows=10, max_queue_rows=9)
