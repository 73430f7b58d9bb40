"""The runner settles every caller on its own: answered, failed, late, cancelled or abandoned."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import numpy as np
import pytest
from fake_scorer import POISON, FakeScorer, PoisonError, a_request, until

from tierline import BadRequest, DeadlineExceeded, Overloaded, Unavailable
from tierline.wire import ScoreReply, ScoreRequest
from tierline_serving.admission import MARGIN, WARM_AFTER
from tierline_serving.batching import BatchLimits, BatchReport, Runner

NEVER = 1e9  # a deadline nobody reaches, in monotonic seconds


class Clock:
    """Told the time, it tells the time."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def soon() -> float:
    return time.monotonic() + 20.0


@asynccontextmanager
async def running(
    scorer: FakeScorer, limits: BatchLimits | None = None, reports: list[BatchReport] | None = None
) -> AsyncIterator[Runner]:
    runner = Runner(scorer, limits, on_batch=None if reports is None else reports.append)
    runner.start()
    try:
        yield runner
    finally:
        scorer.gate.set()
        assert runner.close(timeout=20)
        assert scorer.is_closed


async def held(runner: Runner, scorer: FakeScorer) -> asyncio.Task[object]:
    """A first request that keeps the scoring thread busy until the gate opens."""
    scorer.gate.clear()
    first: asyncio.Task[object] = asyncio.create_task(runner.submit(a_request(1), soon()))
    await until(scorer.entered.is_set)
    return first


class SlowScorer(FakeScorer):
    """Takes two seconds a batch, as the clock tells them."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        replies = super().score(requests)
        self._clock.now += 2.0
        return replies


async def warm_and_held(
    scorer: SlowScorer, clock: Clock, limits: BatchLimits
) -> tuple[Runner, asyncio.Task[ScoreReply]]:
    """A runner that knows what batches cost, and a request that keeps its thread busy."""
    runner = Runner(scorer, limits, clock=clock)
    runner.start()
    for _ in range(WARM_AFTER):
        await runner.submit(a_request(1), clock.now + 20.0)
    scorer.entered.clear()
    scorer.gate.clear()
    first = asyncio.create_task(runner.submit(a_request(1), clock.now + 20.0))
    await until(scorer.entered.is_set)
    return runner, first


def test_an_answer_carries_its_scores_and_its_times() -> None:
    async def scenario() -> None:
        async with running(FakeScorer()) as runner:
            reply = await runner.submit(a_request(3, 4), soon())
            assert reply.scores.tolist() == [3.0, 4.0]
            assert reply.scores.dtype == np.float32
            assert set(reply.timings) == {"queue", "compute"}
            assert all(0 <= seconds < 20 for seconds in reply.timings.values())

    asyncio.run(scenario())


def test_what_waits_while_a_batch_runs_is_scored_together() -> None:
    async def scenario() -> None:
        scorer, reports = FakeScorer(), list[BatchReport]()
        async with running(scorer, reports=reports) as runner:
            first = await held(runner, scorer)
            rest = [asyncio.create_task(runner.submit(a_request(i), soon())) for i in (2, 3, 4)]
            await until(lambda: runner.unanswered == 4)
            scorer.gate.set()
            await asyncio.gather(first, *rest)
            assert scorer.batches == [[1], [2, 3, 4]]
            await until(lambda: len(reports) == 2)
            assert [report.rows for report in reports] == [1, 3]

    asyncio.run(scenario())


def test_only_the_poisoned_request_of_a_batch_fails() -> None:
    async def scenario() -> None:
        scorer = FakeScorer()
        async with running(scorer) as runner:
            first = await held(runner, scorer)
            asked = [a_request(2), a_request(POISON), a_request(3), a_request(4)]
            rest = [asyncio.create_task(runner.submit(each, soon())) for each in asked]
            await until(lambda: runner.unanswered == 5)
            scorer.gate.set()
            await first
            ended = await asyncio.gather(*rest, return_exceptions=True)
            assert isinstance(ended[1], PoisonError)
            answered = [end.scores.tolist() for end in ended if not isinstance(end, BaseException)]
            assert answered == [[2.0], [3.0], [4.0]]

    asyncio.run(scenario())


def test_a_deadline_that_passes_in_the_queue_is_told_at_once_and_never_computed() -> None:
    async def scenario() -> None:
        scorer = FakeScorer()
        async with running(scorer) as runner:
            first = await held(runner, scorer)
            with pytest.raises(DeadlineExceeded, match="in the queue"):
                await runner.submit(a_request(2), time.monotonic() + 0.01)
            assert not first.done()
            scorer.gate.set()
            await first
            assert scorer.scored == [1]

    asyncio.run(scenario())


def test_a_deadline_that_passes_while_computing_is_told_at_once() -> None:
    async def scenario() -> None:
        scorer = FakeScorer()
        async with running(scorer) as runner:
            scorer.gate.clear()
            with pytest.raises(DeadlineExceeded, match="computing"):
                await runner.submit(a_request(1), time.monotonic() + 0.05)

    asyncio.run(scenario())


def test_a_deadline_already_past_is_refused() -> None:
    async def scenario() -> None:
        scorer = FakeScorer()
        async with running(scorer) as runner:
            with pytest.raises(DeadlineExceeded):
                await runner.submit(a_request(1), time.monotonic() - 1.0)
        assert scorer.scored == []

    asyncio.run(scenario())


def test_a_cancelled_caller_leaves_the_queue_and_its_neighbours_go_on() -> None:
    async def scenario() -> None:
        scorer = FakeScorer()
        async with running(scorer) as runner:
            first = await held(runner, scorer)
            leaver = asyncio.create_task(runner.submit(a_request(2), soon()))
            stayer = asyncio.create_task(runner.submit(a_request(3), soon()))
            await until(lambda: runner.unanswered == 3)
            leaver.cancel()
            await asyncio.wait({leaver})
            scorer.gate.set()
            await asyncio.gather(first, stayer)
            assert leaver.cancelled()
            assert scorer.scored == [1, 3]

    asyncio.run(scenario())


def test_the_result_of_a_caller_cancelled_while_computing_is_dropped() -> None:
    async def scenario() -> None:
        scorer = FakeScorer()
        async with running(scorer) as runner:
            first = await held(runner, scorer)
            first.cancel()
            scorer.gate.set()
            reply = await runner.submit(a_request(2), soon())
            assert reply.scores.tolist() == [2.0]

    asyncio.run(scenario())


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    async def scenario() -> None:
        scorer = FakeScorer()
        limits = BatchLimits(max_queue_requests=1)
        async with running(scorer, limits) as runner:
            first = await held(runner, scorer)
            second = asyncio.create_task(runner.submit(a_request(2), soon()))
            await until(lambda: runner.unanswered == 2)
            with pytest.raises(Overloaded, match="queue is full") as refused:
                await runner.submit(a_request(3), soon())
            assert refused.value.retry_after is not None
            assert refused.value.retry_after > 0
            scorer.gate.set()
            await asyncio.gather(first, second)

    asyncio.run(scenario())


def test_who_is_overtaken_by_the_critical_learns_it_while_the_batch_before_him_runs() -> None:
    clock = Clock()

    async def scenario() -> None:
        scorer = SlowScorer(clock)
        runner, first = await warm_and_held(scorer, clock, BatchLimits(max_batch_rows=1))
        overtaken = asyncio.create_task(runner.submit(a_request(2), clock.now + 5.0))
        await until(lambda: runner.unanswered == 2)
        critical: list[object] = []
        runner.enter(
            a_request(3),
            clock.now + 5.0,
            lambda _, outcome: critical.append(outcome),
            criticality="critical",
        )
        with pytest.raises(Overloaded, match="took its place"):
            await overtaken
        assert not scorer.gate.is_set()
        scorer.gate.set()
        await first
        await until(lambda: bool(critical))
        assert isinstance(critical[0], ScoreReply)
        assert 2 not in scorer.scored
        assert runner.close(timeout=20)

    asyncio.run(scenario())


def test_a_warm_endpoint_refuses_what_cannot_be_answered_in_time() -> None:
    clock = Clock()

    async def scenario() -> None:
        scorer = SlowScorer(clock)
        runner, first = await warm_and_held(scorer, clock, BatchLimits())
        assert runner.expected_wait() == pytest.approx(2.0)
        with pytest.raises(Overloaded, match="deadline cannot be met") as refused:
            await runner.submit(a_request(2), clock.now + 3.0)
        assert refused.value.retry_after == pytest.approx(1.0 + MARGIN)
        second = asyncio.create_task(runner.submit(a_request(3), clock.now + 5.0))
        await until(lambda: runner.unanswered == 2)
        scorer.gate.set()
        await asyncio.gather(first, second)
        assert 2 not in scorer.scored
        runner.forget_costs()
        assert runner.expected_wait() == 0.0
        assert runner.close(timeout=20)

    asyncio.run(scenario())


def test_what_expired_before_its_batch_is_never_computed_even_when_no_timer_has_rung() -> None:
    clock = Clock()

    async def scenario() -> None:
        scorer = FakeScorer()
        runner = Runner(scorer, clock=clock)
        runner.start()
        scorer.gate.clear()
        first = asyncio.create_task(runner.submit(a_request(1), clock.now + 100.0))
        await until(scorer.entered.is_set)
        second = asyncio.create_task(runner.submit(a_request(2), clock.now + 50.0))
        await until(lambda: runner.unanswered == 2)
        clock.now += 60.0
        scorer.gate.set()
        await first
        with pytest.raises(DeadlineExceeded, match="in the queue"):
            await second
        assert scorer.scored == [1]
        assert runner.close(timeout=20)

    asyncio.run(scenario())


def test_a_batch_that_outlives_its_loop_ends_its_thread_quietly() -> None:
    scorer = FakeScorer()
    runner = Runner(scorer)

    async def scenario() -> None:
        runner.start()
        first = await held(runner, scorer)
        first.cancel()

    asyncio.run(scenario())
    scorer.gate.set()
    assert runner.close(timeout=20)
    assert scorer.scored == [1]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_scoring_thread_that_died_is_not_queued_for() -> None:
    class Quitter(FakeScorer):
        def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
            raise SystemExit

    async def scenario() -> None:
        async with running(Quitter()) as runner:
            with pytest.raises(DeadlineExceeded):
                await runner.submit(a_request(1), time.monotonic() + 0.05)
            assert not runner.is_alive
            with pytest.raises(Unavailable):
                await runner.submit(a_request(1), soon())

    asyncio.run(scenario())


def test_a_request_larger_than_the_queue_is_a_bad_request() -> None:
    async def scenario() -> None:
        limits = BatchLimits(max_batch_rows=2, max_queue_rows=2)
        async with running(FakeScorer(), limits) as runner:
            with pytest.raises(BadRequest, match="costs 3 rows"):
                await runner.submit(a_request(1, 2, 3), soon())

    asyncio.run(scenario())


def test_abandoned_callers_learn_it_and_newcomers_are_refused() -> None:
    async def scenario() -> None:
        scorer = FakeScorer()
        async with running(scorer) as runner:
            first = await held(runner, scorer)
            second = asyncio.create_task(runner.submit(a_request(2), soon()))
            await until(lambda: runner.unanswered == 2)
            assert runner.abandon("leaving") == 2
            ended = await asyncio.gather(first, second, return_exceptions=True)
            assert [type(end) for end in ended] == [Unavailable, Unavailable]
            with pytest.raises(Unavailable):
                await runner.submit(a_request(3), soon())
            assert not runner.is_alive

    asyncio.run(scenario())


def test_a_scorer_still_at_work_is_not_closed_under_its_own_feet() -> None:
    async def scenario() -> None:
        scorer = FakeScorer()
        runner = Runner(scorer)
        runner.start()
        first = await held(runner, scorer)
        assert not runner.close(timeout=0.0)
        assert not scorer.is_closed
        scorer.gate.set()
        assert runner.close(timeout=20)
        with pytest.raises(Unavailable):
            await first

    asyncio.run(scenario())


def test_a_closed_runner_leaves_memory_though_deadlines_of_its_calls_are_still_to_come() -> None:
    async def scenario() -> None:
        scorer = FakeScorer()
        runner = Runner(scorer)
        runner.start()
        await runner.submit(a_request(1), time.monotonic() + 3600.0)
        assert runner.close(timeout=20)
        left = weakref.ref(scorer)  # what a runner would keep
        del runner, scorer
        gc.collect()
        assert left() is None

    asyncio.run(scenario())


def test_a_thousand_callers_from_one_loop_are_each_answered_with_their_own_scores() -> None:
    async def scenario() -> None:
        scorer = FakeScorer()
        async with running(scorer) as runner:
            replies = await asyncio.gather(
                *(runner.submit(a_request(index, 7), soon()) for index in range(1000, 2000))
            )
            assert [int(reply.scores[0]) for reply in replies] == list(range(1000, 2000))
            assert len(scorer.batches) < 1000
            assert max(len(batch) for batch in scorer.batches) <= runner.limits.max_batch_requests

    asyncio.run(scenario())


def test_one_thread_scores() -> None:
    async def scenario() -> None:
        before = threading.active_count()
        async with running(FakeScorer()) as runner:
            await asyncio.gather(*(runner.submit(a_request(i), NEVER) for i in range(20)))
            assert threading.active_count() == before + 1

    asyncio.run(scenario())
