"""A request larger than a batch is scored in parts, and nobody can tell from its answer."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from fake_scorer import POISON, FakeScorer, PoisonError, a_request, until
from hypothesis import given
from hypothesis import strategies as st

from tierline import DeadlineExceeded
from tierline.wire import ScoreReply, ScoreRequest
from tierline_serving.batching import BatchLimits, Runner
from tierline_serving.batching.parts import join, split

SMALL = BatchLimits(max_batch_rows=4, max_queue_rows=40)


@given(rows=st.integers(1, 50), most=st.integers(1, 20))
def test_parts_are_the_request_in_order_and_none_is_too_large(rows: int, most: int) -> None:
    request = a_request(*range(rows))
    parts = split(request, rows, most)
    sizes = [len(part.candidates["id"]) for part in parts if part.candidates is not None]
    assert sum(sizes) == rows
    assert max(sizes) <= most
    whole = np.concatenate([part.candidates["id"] for part in parts if part.candidates])
    assert whole.tolist() == list(range(rows))


def test_what_has_no_rows_to_split_by_stays_whole() -> None:
    request = ScoreRequest("ranker", {}, None, k=10)
    assert split(request, 100, 10) == [request]


@given(st.lists(st.tuples(st.integers(1, 9), st.floats(0, 1)), min_size=1, max_size=6))
def test_the_uncertainty_of_parts_is_their_mean_by_rows(parts: list[tuple[int, float]]) -> None:
    replies = [
        ScoreReply("m", "b", np.zeros(rows, np.float32), uncertainty=doubt) for rows, doubt in parts
    ]
    whole = join(replies)
    expected = np.average([doubt for _, doubt in parts], weights=[rows for rows, _ in parts])
    assert whole.uncertainty == pytest.approx(float(expected))


async def started(scorer: FakeScorer) -> Runner:
    runner = Runner(scorer, SMALL)
    runner.start()
    return runner


def soon() -> float:
    return asyncio.get_running_loop().time() + 20.0


def test_a_large_request_comes_back_whole_and_small_ones_are_scored_between_its_parts() -> None:
    async def scenario() -> None:
        scorer = FakeScorer()
        runner = await started(scorer)
        scorer.gate.clear()
        large = asyncio.create_task(runner.submit(a_request(*range(1, 19)), soon() + 5))
        await until(scorer.entered.is_set)
        small = asyncio.create_task(runner.submit(a_request(100, 101), soon()))
        await until(lambda: runner.unanswered == 6)
        scorer.gate.set()
        replies = await asyncio.gather(large, small)
        assert replies[0].scores.tolist() == list(range(1, 19))
        assert replies[1].scores.tolist() == [100.0, 101.0]
        assert scorer.batches[1][0] == 100, "it was due before the other parts"
        assert runner.close(timeout=20)

    asyncio.run(scenario())


def test_a_part_that_fails_fails_the_whole_once_and_nothing_is_left_of_it() -> None:
    async def scenario() -> None:
        scorer = FakeScorer()
        runner = await started(scorer)
        with pytest.raises(PoisonError):
            await runner.submit(a_request(POISON, *range(1, 30)), soon())
        await until(lambda: runner.unanswered == 0)
        assert runner.close(timeout=20)

    asyncio.run(scenario())


def test_a_cancelled_large_request_leaves_with_all_its_parts() -> None:
    async def scenario() -> None:
        scorer = FakeScorer()
        runner = await started(scorer)
        scorer.gate.clear()
        first = asyncio.create_task(runner.submit(a_request(50), soon()))
        await until(scorer.entered.is_set)
        large = asyncio.create_task(runner.submit(a_request(*range(1, 19)), soon()))
        await until(lambda: runner.unanswered == 6)
        large.cancel()
        await asyncio.wait({large})
        assert runner.unanswered == 1
        scorer.gate.set()
        await first
        assert scorer.scored == [50]
        assert runner.close(timeout=20)

    asyncio.run(scenario())


def test_a_large_request_that_runs_out_of_time_fails_once() -> None:
    async def scenario() -> None:
        scorer = FakeScorer()
        runner = await started(scorer)
        scorer.gate.clear()
        first = asyncio.create_task(runner.submit(a_request(50), soon()))
        await until(scorer.entered.is_set)
        with pytest.raises(DeadlineExceeded, match="in the queue"):
            await runner.submit(a_request(*range(1, 19)), soon() - 19.99)
        assert runner.unanswered == 1
        scorer.gate.set()
        await first
        assert runner.close(timeout=20)

    asyncio.run(scenario())


def test_a_request_that_fills_the_whole_queue_is_taken_whole_or_not_at_all() -> None:
    async def scenario() -> None:
        scorer = FakeScorer()
        runner = await started(scorer)
        reply = await runner.submit(a_request(*range(1, 41)), soon())
        assert reply.scores.tolist() == list(range(1, 41))
        assert runner.close(timeout=20)

    asyncio.run(scenario())
