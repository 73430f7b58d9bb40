"""Where a batch is scored: short ones on the loop itself, all others on the scoring thread."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Sequence

import pytest
from fake_scorer import FakeScorer, a_request, until

from tierline import DeadlineExceeded
from tierline.wire import ScoreReply, ScoreRequest
from tierline_serving.admission import WARM_AFTER
from tierline_serving.batching import BatchLimits, Pending, Runner
from tierline_serving.batching.pending import Outcome
from tierline_serving.batching.place import (
    BARRED_FIRST,
    INLINE_MOST,
    READ_LEAST,
    READ_MOST,
    TOO_LONG,
    Place,
    Took,
    reading_time,
)

LATER = 1000.0


class Clocked(FakeScorer):
    """Says which thread scored; every batch lasts ``fixed`` and ``per_row`` seconds a row."""

    def __init__(self, fixed: float, per_row: float) -> None:
        super().__init__()
        self.fixed, self.per_row = fixed, per_row
        self.now = 100.0
        self.threads: list[int] = []

    def clock(self) -> float:
        return self.now

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        self.threads.append(threading.get_ident())
        replies = super().score(requests)
        self.now += self.fixed + self.per_row * sum(map(self.rows, requests))
        return replies


async def warmed(scorer: Clocked, limits: BatchLimits | None = None) -> Runner:
    runner = Runner(scorer, limits, clock=scorer.clock, thread_clock=scorer.clock)
    runner.start()
    for size in range(WARM_AFTER):
        await runner.submit(a_request(*range(1, size + 2)), scorer.now + LATER)
    scorer.threads.clear()
    scorer.batches.clear()
    return runner


def test_short_batches_are_scored_on_the_loop_once_their_cost_is_known() -> None:
    async def scenario() -> None:
        scorer = Clocked(INLINE_MOST / 10, INLINE_MOST / 1000)
        runner = await warmed(scorer)
        reply = await runner.submit(a_request(3, 4), scorer.now + LATER)
        assert reply.scores.tolist() == [3.0, 4.0]
        assert scorer.threads == [threading.get_ident()]
        assert runner.close(timeout=20)

    asyncio.run(scenario())


def test_a_model_of_unknown_or_long_cost_never_blocks_the_loop() -> None:
    async def scenario() -> None:
        scorer = Clocked(INLINE_MOST * 2, 0.0)
        runner = await warmed(scorer)
        await runner.submit(a_request(3, 4), scorer.now + LATER)
        assert threading.get_ident() not in scorer.threads
        assert runner.close(timeout=20)

    asyncio.run(scenario())


def test_everything_read_in_one_turn_of_the_loop_is_scored_together_within_the_span() -> None:
    async def scenario() -> None:
        scorer = Clocked(0.0, INLINE_MOST / 10.5)
        runner = await warmed(scorer)
        asked = [runner.submit(a_request(i, i), scorer.now + LATER) for i in range(1, 9)]
        replies = await asyncio.gather(*asked)
        assert [reply.scores[0] for reply in replies] == list(range(1, 9))
        assert scorer.batches == [[1, 2, 3, 4, 5], [6, 7, 8]]
        assert set(scorer.threads) == {threading.get_ident()}
        assert runner.close(timeout=20)

    asyncio.run(scenario())


def test_a_request_too_long_for_the_loop_goes_to_the_thread_and_short_ones_come_back() -> None:
    async def scenario() -> None:
        scorer = Clocked(0.0, INLINE_MOST / 10.5)
        runner = await warmed(scorer, BatchLimits(max_batch_requests=1))
        large = runner.submit(a_request(*range(1, 21)), scorer.now + 1.0)
        small = runner.submit(a_request(50), scorer.now + 2.0)
        await asyncio.gather(large, small)
        await until(lambda: runner.unanswered == 0)
        assert scorer.threads[0] != threading.get_ident()
        assert scorer.threads[1] == threading.get_ident()
        assert runner.close(timeout=20)

    asyncio.run(scenario())


def test_what_expired_before_the_turn_is_never_computed() -> None:
    async def scenario() -> None:
        scorer = Clocked(INLINE_MOST / 10, 0.0)
        runner = await warmed(scorer)
        late = asyncio.create_task(runner.submit(a_request(1), scorer.now + 0.5))
        asyncio.get_running_loop().call_soon(setattr, scorer, "now", scorer.now + 1.0)
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded, match="in the queue"):
            await late
        assert scorer.scored == []
        assert runner.close(timeout=20)

    asyncio.run(scenario())


def test_a_caller_cancelled_before_the_turn_leaves_it() -> None:
    async def scenario() -> None:
        scorer = Clocked(INLINE_MOST / 10, 0.0)
        runner = await warmed(scorer)
        leaver = asyncio.create_task(runner.submit(a_request(1), scorer.now + LATER))
        stayer = asyncio.create_task(runner.submit(a_request(2), scorer.now + LATER))
        asyncio.get_running_loop().call_soon(leaver.cancel)
        await asyncio.wait({leaver, stayer})
        assert leaver.cancelled()
        assert stayer.result().scores.tolist() == [2.0]
        assert runner.close(timeout=20)

    asyncio.run(scenario())


def test_a_flood_of_requests_cannot_keep_the_loop_from_scoring_those_it_took() -> None:
    async def scenario() -> None:
        scorer = Clocked(INLINE_MOST / 10, 0.0)
        runner = await warmed(scorer)
        await runner.submit(a_request(1), scorer.now + LATER)
        answered: list[int] = []

        def done(pending: Pending, outcome: Outcome) -> None:
            answered.append(len(answered))

        for _ in range(20):  # all read in one turn of the loop, at some cost each
            runner.enter(a_request(1), scorer.now + LATER, done)
            scorer.now += READ_LEAST / 2
        assert len(answered) >= 15
        await until(lambda: len(answered) == 20)
        assert runner.close(timeout=20)

    asyncio.run(scenario())


def test_the_longer_the_last_batch_took_the_longer_callers_are_read() -> None:
    async def scenario() -> None:
        took = (READ_LEAST + INLINE_MOST) / 2
        read = reading_time(took)
        scorer = Clocked(took, 0.0)
        runner = await warmed(scorer)
        await runner.submit(a_request(1), scorer.now + LATER)
        answered: list[int] = []

        def done(pending: Pending, outcome: Outcome) -> None:
            answered.append(len(answered))

        runner.enter(a_request(1), scorer.now + LATER, done)
        scorer.now += read * 0.99
        runner.enter(a_request(1), scorer.now + LATER, done)
        assert answered == [], "a core that has become slower reads slower, too"
        scorer.now += read * 0.02
        runner.enter(a_request(1), scorer.now + LATER, done)
        assert len(answered) == 2
        assert runner.close(timeout=20)

    asyncio.run(scenario())


def test_neither_a_short_batch_nor_a_stop_sets_how_long_callers_are_read() -> None:
    assert reading_time(READ_LEAST / 100) == READ_LEAST
    assert reading_time(READ_MOST * 100) == READ_MOST


def test_turns_taken_early_do_not_add_up() -> None:
    async def scenario() -> None:
        scorer = Clocked(INLINE_MOST / 10, 0.0)
        runner = await warmed(scorer, BatchLimits(max_batch_requests=1))
        await runner.submit(a_request(1), scorer.now + LATER)
        answered: list[int] = []

        def done(pending: Pending, outcome: Outcome) -> None:
            answered.append(len(answered))

        for _ in range(40):
            runner.enter(a_request(1), scorer.now + LATER, done)
            scorer.now += READ_LEAST / 2  # every third call takes a turn early
        early = len(answered)
        assert 5 < early < 30
        for turn in range(1, 5):
            await asyncio.sleep(0)
            assert len(answered) == early + turn, "one batch, then the loop reads again"
        await until(lambda: len(answered) == 40)
        assert runner.close(timeout=20)

    asyncio.run(scenario())


def test_a_loop_held_up_twice_is_barred_for_longer_and_longer() -> None:
    place = Place(1000)
    for _ in range(WARM_AFTER):
        place.on_thread(10, INLINE_MOST / 100, INLINE_MOST)
    assert place.inline_rows(0.0) > 0
    seconds = TOO_LONG * INLINE_MOST * 1.1
    too_long = Took(seconds, INLINE_MOST / 100, waits=1)
    for _ in range(5):
        place.on_loop(10, Took(seconds, INLINE_MOST / 100), 0.0)
    assert place.inline_rows(0.0) > 0, "a neighbour took the core: a thread would fare no better"
    place.on_loop(10, too_long, 0.0)
    assert place.inline_rows(0.0) > 0, "once is a hiccup"
    place.on_loop(10, too_long, 0.0)
    assert place.inline_rows(BARRED_FIRST * 0.99) == 0
    assert place.inline_rows(BARRED_FIRST) > 0
    place.on_loop(10, too_long, 10.0)
    place.on_loop(10, too_long, 10.0)
    assert place.inline_rows(10.0 + BARRED_FIRST) == 0


def test_a_threads_batches_count_by_their_cpu_not_by_their_waits_for_the_interpreter() -> None:
    async def scenario() -> None:
        scorer = Clocked(INLINE_MOST * 5, 0.0)
        ticks = itertools.count()
        runner = Runner(
            scorer, clock=scorer.clock, thread_clock=lambda: 0.0, waits=lambda: next(ticks)
        )
        runner.start()
        for _ in range(WARM_AFTER + 1):
            await runner.submit(a_request(1), scorer.now + LATER)
        assert scorer.threads[-1] == threading.get_ident(), "it is tried on the loop"
        await runner.submit(a_request(1), scorer.now + LATER)
        await runner.submit(a_request(1), scorer.now + LATER)
        assert scorer.threads[-1] != threading.get_ident(), "and was not the whole truth"
        assert runner.close(timeout=20)

    asyncio.run(scenario())
