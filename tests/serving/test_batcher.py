"""The batcher against a naive model: every ticket ends exactly once, whatever is asked of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tierline import Criticality
from tierline_serving.batching import Batcher, BatchLimits, Refusal
from tierline_serving.batching.limits import ROOM, YIELDS

LIMITS = BatchLimits(
    max_batch_rows=10,
    max_batch_requests=4,
    max_batch_bytes=50,
    max_queue_rows=25,
    max_queue_requests=8,
    max_queue_bytes=100,
)
PLENTY = BatchLimits(max_batch_rows=12, max_queue_rows=1000)


@dataclass
class Queued:
    """What the model knows of a ticket."""

    ticket: int
    rows: int
    size: int
    deadline: float
    due: float
    caller: str
    criticality: str


class BatcherAgainstModel(RuleBasedStateMachine):
    """The model keeps a plain list and says what any batch must satisfy, not how to draw it."""

    def __init__(self) -> None:
        super().__init__()
        self.batcher: Batcher[int] = Batcher(LIMITS)
        self.queue: dict[int, Queued] = {}
        self.ended: dict[int, str] = {}
        self.offered = 0
        self.now = 0.0

    def end(self, ticket: int, how: str) -> Queued:
        assert ticket not in self.ended, f"ticket {ticket} ended twice"
        self.ended[ticket] = how
        return self.queue.pop(ticket)

    @rule(
        rows=st.integers(1, 30),
        size=st.sampled_from([0, 1, 10, 60, 101]),
        patience=st.sampled_from([-1.0, 0.0, 1.0, 2.0, 5.0, math.inf]),
        caller=st.sampled_from("abc"),
        criticality=st.sampled_from(list(Criticality)),
    )
    def offer(
        self, rows: int, size: int, patience: float, caller: str, criticality: Criticality
    ) -> None:
        self.offered += 1
        ticket, deadline_at, room = self.offered, self.now + patience, ROOM[criticality]
        queued_rows = sum(each.rows for each in self.queue.values())
        queued_bytes = sum(each.size for each in self.queue.values())
        expected = None
        if patience <= 0:
            expected = Refusal.DEADLINE_PASSED
        elif rows > 25 or size > 100:
            expected = Refusal.TOO_LARGE
        elif not self.queue:
            pass
        elif queued_rows + rows > 25 * room:
            expected = Refusal.FULL_ROWS
        elif queued_bytes + size > 100 * room:
            expected = Refusal.FULL_BYTES
        elif len(self.queue) + 1 > int(8 * room):
            expected = Refusal.FULL_REQUESTS
        got = self.batcher.offer(
            ticket,
            rows,
            deadline_at,
            self.now,
            size=size,
            caller=caller,
            criticality=criticality,
        )
        assert got is expected
        due = deadline_at + YIELDS[criticality]
        self.queue[ticket] = Queued(ticket, rows, size, deadline_at, due, caller, criticality)
        if expected is not None:
            self.end(ticket, "refused")

    @rule(most=st.one_of(st.none(), st.integers(0, 12)))
    def take(self, most: int | None) -> None:
        late = {each.ticket for each in self.queue.values() if each.deadline <= self.now}
        batch = self.batcher.take(self.now, most)
        if batch is None:
            assert not late
            assert not self.queue or (most is not None and self.first().rows > most)
            return
        assert set(batch.expired) == late
        for ticket in batch.expired:
            self.end(ticket, "expired")
        if self.queue and (most is None or self.first().rows <= most):
            assert batch.tickets[0] == self.first().ticket, "who is due first is drawn first"
        drawn = [self.end(ticket, "scored") for ticket in batch.tickets]
        self.check_bounds(drawn, batch.rows, most)
        self.check_fairness(drawn, batch.rows, most)

    def first(self) -> Queued:
        return min(self.queue.values(), key=lambda each: (each.due, each.ticket))

    def check_bounds(self, drawn: list[Queued], rows: int, most: int | None) -> None:
        assert rows == sum(each.rows for each in drawn)
        assert len(drawn) <= LIMITS.max_batch_requests
        if most is not None:
            assert rows <= most
        if len(drawn) > 1:
            assert rows <= LIMITS.max_batch_rows
            assert sum(each.size for each in drawn) <= LIMITS.max_batch_bytes

    def check_fairness(self, drawn: list[Queued], rows: int, most: int | None) -> None:
        """Within a caller, no ticket left behind was due before one drawn; and the batch took what
        fitted: nobody is left who is due first and would still have fitted."""
        for each in drawn:
            for left in self.queue.values():
                if left.caller == each.caller:
                    assert (each.due, each.ticket) < (left.due, left.ticket)
        if self.queue and len(drawn) < LIMITS.max_batch_requests and drawn:
            budget = LIMITS.max_batch_rows if most is None else min(most, LIMITS.max_batch_rows)
            size = sum(each.size for each in drawn)
            heads = [self.head(caller) for caller in {each.caller for each in self.queue.values()}]
            assert any(
                rows + head.rows > budget or size + head.size > LIMITS.max_batch_bytes
                for head in heads
            )

    def head(self, caller: str) -> Queued:
        own = [each for each in self.queue.values() if each.caller == caller]
        return min(own, key=lambda each: (each.due, each.ticket))

    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        ticket = data.draw(st.integers(1, self.offered + 1))
        was_queued = ticket in self.queue
        assert self.batcher.withdraw(ticket) is was_queued
        if was_queued:
            self.end(ticket, "withdrawn")

    @rule()
    def expire(self) -> None:
        late = {each.ticket for each in self.queue.values() if each.deadline <= self.now}
        assert set(self.batcher.expire(self.now)) == late
        for ticket in late:
            self.end(ticket, "expired")

    @rule(
        criticality=st.sampled_from(list(Criticality)),
        row=st.sampled_from([0.0, 0.1, 0.5]),
    )
    def overtake(self, criticality: Criticality, row: float) -> None:
        """A row takes so long: whoever is late by that, and below this class, leaves."""
        late, rows = set(), 0
        for each in sorted(self.queue.values(), key=lambda each: (each.due, each.ticket)):
            is_below = YIELDS[each.criticality] > YIELDS[criticality]
            if is_below and self.now + row * (rows + each.rows) > each.deadline:
                late.add(each.ticket)
            else:
                rows += each.rows
        left = self.batcher.overtaken(criticality, lambda rows: self.now + row * rows)
        assert len(left) == len(set(left))
        assert set(left) == late
        for ticket in left:
            self.end(ticket, "overtaken")

    @rule(step=st.sampled_from([0.5, 1.0, 3.0]))
    def time_passes(self, step: float) -> None:
        self.now += step

    @rule()
    def clear(self) -> None:
        left = self.batcher.clear()
        assert list(left) == sorted(self.queue)
        for ticket in left:
            self.end(ticket, "cleared")

    @invariant()
    def nothing_is_lost_and_bounds_hold(self) -> None:
        queued = self.queue.values()
        assert self.batcher.queued_requests == len(queued) <= LIMITS.max_queue_requests
        rows = sum(each.rows for each in queued)
        assert self.batcher.queued_rows == rows <= LIMITS.max_queue_rows
        size = sum(each.size for each in queued)
        assert self.batcher.queued_bytes == size <= LIMITS.max_queue_bytes
        assert len(self.ended) + len(queued) == self.offered
        above: set[str] = set()
        for criticality in (Criticality.CRITICAL, Criticality.DEFAULT, Criticality.SHEDDABLE):
            above.add(criticality)
            before = sum(each.rows for each in queued if each.criticality in above)
            assert self.batcher.rows_before(criticality) == before
        if queued:
            assert self.batcher.can_take(self.first().rows)
            assert not self.batcher.can_take(self.first().rows - 1)


TestBatcherAgainstModel = BatcherAgainstModel.TestCase


def fill(batcher: Batcher[str], *tickets: tuple[str, int, float]) -> None:
    """Queue tickets whose caller is their first letter."""
    for name, rows, deadline_at in tickets:
        assert batcher.offer(name, rows, deadline_at, 0.0, caller=name[0]) is None


def test_the_earliest_deadline_is_scored_first() -> None:
    batcher: Batcher[str] = Batcher(BatchLimits(max_batch_requests=2))
    fill(batcher, ("late", 1, 9.0), ("soon", 1, 1.0), ("middle", 1, 5.0))
    batch = batcher.take(0.0)
    assert batch is not None
    assert batch.tickets == ("soon", "middle")


def test_a_caller_with_many_requests_leaves_room_for_one_with_few() -> None:
    batcher: Batcher[str] = Batcher(PLENTY)
    fill(batcher, *((f"a{i}", 3, 1.0 + i) for i in range(8)))
    fill(batcher, ("b0", 3, 50.0), ("b1", 3, 51.0))
    batch = batcher.take(0.0)
    assert batch is not None
    assert sorted(batch.tickets) == ["a0", "a1", "b0", "b1"]


def test_what_one_caller_does_not_use_of_his_share_goes_to_the_other() -> None:
    batcher: Batcher[str] = Batcher(PLENTY)
    fill(batcher, *((f"a{i}", 3, 1.0 + i) for i in range(8)))
    fill(batcher, ("b0", 2, 50.0))
    batch = batcher.take(0.0)
    assert batch is not None
    assert sorted(batch.tickets) == ["a0", "a1", "a2", "b0"]


def test_the_critical_go_first_and_the_sheddable_still_come_to_their_turn() -> None:
    batcher: Batcher[str] = Batcher(BatchLimits(max_batch_requests=1))
    for name in (Criticality.SHEDDABLE, Criticality.DEFAULT, Criticality.CRITICAL):
        batcher.offer(name, 1, 1.0, 0.0, criticality=name)
    first = batcher.take(0.0)
    assert first is not None
    assert first.tickets == ("critical",)
    later = 1.0 + YIELDS["sheddable"]
    assert batcher.offer("a critical one due later", 1, later, 0.0, criticality="critical") is None
    left = [batch.tickets for _ in range(3) if (batch := batcher.take(0.0)) is not None]
    assert left == [("default",), ("sheddable",), ("a critical one due later",)]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 6)), min_size=1, max_size=40))
def test_everything_queued_is_drawn_in_the_end_and_no_batch_is_empty(
    asked: list[tuple[str, int]],
) -> None:
    batcher: Batcher[int] = Batcher(PLENTY)
    for ticket, (caller, rows) in enumerate(asked):
        assert batcher.offer(ticket, rows, math.inf, 0.0, caller=caller) is None
    drawn: list[int] = []
    while (batch := batcher.take(0.0)) is not None:
        assert batch.tickets
        drawn += batch.tickets
    assert sorted(drawn) == list(range(len(asked)))
    assert not batcher._queues


def test_a_request_larger_than_a_batch_is_scored_alone() -> None:
    batcher: Batcher[str] = Batcher(LIMITS)
    fill(batcher, ("large", 20, math.inf), ("small", 1, math.inf))
    first, second = batcher.take(0.0), batcher.take(0.0)
    assert first is not None
    assert second is not None
    assert {first.tickets, second.tickets} == {("large",), ("small",)}


def test_withdrawn_tickets_leave_no_memory_behind() -> None:
    batcher: Batcher[int] = Batcher(LIMITS)
    for ticket in range(10_000):
        assert batcher.offer(ticket, 1, math.inf, 0.0) is None
        assert batcher.withdraw(ticket)
    assert len(batcher._deadlines) < 200
    assert sum(map(len, batcher._queues.values())) < 200


def test_a_ticket_cannot_be_queued_twice() -> None:
    batcher: Batcher[str] = Batcher(LIMITS)
    batcher.offer("a", 1, 1.0, 0.0)
    with pytest.raises(ValueError, match="already queued"):
        batcher.offer("a", 1, 1.0, 0.0)


def test_a_deadline_that_is_no_number_is_refused() -> None:
    batcher: Batcher[str] = Batcher(LIMITS)
    assert batcher.offer("a", 1, math.nan, 0.0) is Refusal.DEADLINE_PASSED


@pytest.mark.parametrize(
    "field",
    [f"max_{where}_{what}" for where in ("batch", "queue") for what in ("requests", "bytes")],
)
def test_limits_below_one_are_refused_by_name(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be at least 1"):
        BatchLimits(**{field: 0})


def test_a_queue_smaller_than_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="max_queue_rows must be at least max_batch_rows"):
        BatchLimits(max_batch_rows=10, max_queue_rows=9)
