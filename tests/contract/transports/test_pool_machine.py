"""Pools against a model: whatever the order of use, hang-ups and departures, none is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tierline._exceptions import AttemptTimedOut
from tierline._transports.idle import IDLE_EXPIRY, IdleConnections
from tierline._transports.slots import Slots
from tierline.testing.loop import SimLoop


class Connection:
    """A connection that retires at an instant, and may be closed by the endpoint."""

    def __init__(self, retire_at: float) -> None:
        self.retire_at = retire_at
        self.is_open = True


class IdleMachine(RuleBasedStateMachine):
    """Each connection is in one place: with a caller, idle, or given out to be closed."""

    def __init__(self) -> None:
        super().__init__()
        self.pool: IdleConnections[Connection] = IdleConnections()
        self.now = 0.0
        self.used: list[Connection] = []
        self.idle: list[tuple[float, Connection]] = []
        self.closed: list[Connection] = []

    @rule(age=st.floats(0.1, 20.0))
    def open(self, age: float) -> None:
        self.used.append(Connection(self.now + age))

    @precondition(lambda self: self.used)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        connection = self.used.pop(data.draw(st.integers(0, len(self.used) - 1)))
        fit = connection.is_open and self.now < connection.retire_at
        assert self.pool.put(connection, self.now) is fit
        if fit:
            self.idle.append((self.now, connection))
        else:
            self.closed.append(connection)

    @rule()
    def take(self) -> None:
        fresh = [(at, c) for at, c in self.idle if self.now - at < IDLE_EXPIRY]
        wanted = [c for _, c in fresh if c.is_open and self.now < c.retire_at]
        connection, to_close = self.pool.take(self.now)
        assert connection is (wanted[-1] if wanted else None)
        gone = {id(c) for c in to_close} | ({id(connection)} if connection is not None else set())
        self.idle = [(at, c) for at, c in self.idle if id(c) not in gone]
        assert all(self.now - at < IDLE_EXPIRY for at, _ in self.idle)
        assert not any(c in self.closed or c in self.used for c in to_close)
        self.closed += to_close
        if connection is not None:
            self.used.append(connection)

    @precondition(lambda self: self.idle)
    @rule(data=st.data())
    def hang_up(self, data: st.DataObject) -> None:
        _, connection = self.idle[data.draw(st.integers(0, len(self.idle) - 1))]
        connection.is_open = False

    @rule(span=st.floats(0.0, 6.0))
    def wait(self, span: float) -> None:
        self.now += span

    @rule()
    def clear(self) -> None:
        left = self.pool.clear()
        assert left == [c for _, c in self.idle]
        self.closed += left
        self.idle = []

    @invariant()
    def it_holds_what_the_model_holds(self) -> None:
        assert len(self.pool) == len(self.idle)


IdleMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_idle_machine = IdleMachine.TestCase


# A caller comes at an instant, waits so long for a slot, holds it so long, and may leave meanwhile.
TIMES = st.floats(0.0, 1.0)
CALLERS = st.lists(st.tuples(TIMES, TIMES, TIMES, st.none() | TIMES), min_size=1, max_size=25)


@given(st.integers(1, 3), CALLERS, st.integers(0, 9))
@settings(max_examples=80, deadline=None)
def test_slots_are_conserved_and_never_exceeded(
    count: int, callers: Sequence[tuple[float, float, float, float | None]], seed: int
) -> None:
    loop = SimLoop(seed)
    inside: set[int] = set()
    ended: dict[int, str] = {}

    async def caller(slots: Slots, number: int) -> None:
        comes, patience, holds, _ = callers[number]
        await asyncio.sleep(comes)
        try:
            await slots.acquire(loop.time() + patience)
        except AttemptTimedOut:
            ended[number] = "timed out"
            return
        inside.add(number)
        assert len(inside) <= count
        try:
            await asyncio.sleep(holds)
        finally:
            inside.discard(number)
            slots.release()
        ended[number] = "served"

    async def everybody() -> Slots:
        slots = Slots(count)
        tasks = [loop.create_task(caller(slots, number)) for number in range(len(callers))]
        for task, (_, _, _, leaves) in zip(tasks, callers, strict=True):
            if leaves is not None:
                loop.call_later(leaves, task.cancel)
        await asyncio.gather(*tasks, return_exceptions=True)
        return slots

    slots = loop.run(everybody())
    assert slots.free == count
    assert slots.waiting == 0
    assert loop.complaints == []
    for number, (_, _, _, leaves) in enumerate(callers):
        assert number in ended or leaves is not None
