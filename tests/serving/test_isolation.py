"""A batch that raises is taken apart until only the offenders fail."""

from __future__ import annotations

from collections.abc import Sequence

from fake_scorer import POISON, FakeScorer, PoisonError, a_request
from hypothesis import given
from hypothesis import strategies as st

from tierline import ModelFailed
from tierline.wire import ScoreReply, ScoreRequest
from tierline_serving.batching.isolation import run_limit, score_each


def always(index: int) -> bool:
    return True


@given(size=st.integers(1, 64), data=st.data())
def test_up_to_two_offenders_fail_alone(size: int, data: st.DataObject) -> None:
    poisoned = data.draw(st.sets(st.integers(0, size - 1), max_size=2))
    requests = [a_request(POISON if i in poisoned else i) for i in range(size)]
    isolated = score_each(FakeScorer().score, requests, always)
    failed = {i for i, out in enumerate(isolated.outcomes) if isinstance(out, PoisonError)}
    assert failed == poisoned
    for index, outcome in enumerate(isolated.outcomes):
        if index not in poisoned:
            assert isinstance(outcome, ScoreReply)
            assert outcome.scores.tolist() == [index]


@given(size=st.integers(1, 64), data=st.data())
def test_any_number_of_offenders_costs_bounded_runs_and_settles_everybody(
    size: int, data: st.DataObject
) -> None:
    poisoned = data.draw(st.sets(st.integers(0, size - 1)))
    requests = [a_request(POISON if i in poisoned else i) for i in range(size)]
    scorer = FakeScorer()
    isolated = score_each(scorer.score, requests, always)
    assert isolated.runs == len(scorer.batches) <= run_limit(size)
    assert all(outcome is not None for outcome in isolated.outcomes)
    assert all(isinstance(isolated.outcomes[index], PoisonError) for index in poisoned)


def test_a_good_batch_runs_once() -> None:
    assert score_each(FakeScorer().score, [a_request(1), a_request(2)], always).runs == 1


def test_a_request_nobody_wants_any_more_is_not_scored_again() -> None:
    scorer = FakeScorer()
    requests = [a_request(POISON), a_request(1), a_request(2), a_request(3)]
    isolated = score_each(scorer.score, requests, lambda index: index != 3)
    assert isolated.outcomes[3] is None
    assert scorer.scored.count(3) == 1


def test_a_scorer_that_answers_too_few_replies_fails_them_all() -> None:
    def forgetful(requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        return []

    isolated = score_each(forgetful, [a_request(1)], always)
    assert isinstance(isolated.outcomes[0], ModelFailed)
