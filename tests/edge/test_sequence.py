"""Kind sequence at the edge: NumPy's answers, whoever else is in the batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny_bundles
from asking import answer, ask, candidate_lists, histories, questions
from hypothesis import given
from hypothesis import strategies as st
from tiny_bundles import ITEMS, expected_state, int8_rows, item_rows

from tierline import BadRequest, ModelFailed
from tierline.wire import ScoreRequest
from tierline_edge.scorer import EdgeScorer, load_scorer


@pytest.mark.parametrize("history", [[], [3], [1, 2, 3, 4, 5, 6], [9, 8, 7, 6, 5, 4, 3, 2, 1]])
def test_candidates_score_as_numpy_says(sequence: EdgeScorer, history: list[int]) -> None:
    reply = answer(sequence, ask(history, [5, 40, 5, 1]))
    hidden, doubt = expected_state(np.array(history, np.int64), item_rows())
    np.testing.assert_allclose(reply.scores, item_rows()[[5, 40, 5, 1]] @ hidden, atol=1e-5)
    assert reply.uncertainty == pytest.approx(doubt, abs=1e-5)
    assert (reply.threshold, reply.bundle, reply.items) == (0.6, sequence.info.bundle, None)


def test_candidates_of_an_int8_table_score_by_its_dequantized_rows(
    int8_sequence: EdgeScorer,
) -> None:
    reply = answer(int8_sequence, ask([3, 4], [5, 6, 7]))
    hidden, _ = expected_state(np.array([3, 4]), int8_rows())
    np.testing.assert_allclose(reply.scores, int8_rows()[[5, 6, 7]] @ hidden, atol=1e-5)


def test_recommend_returns_the_best_items_that_are_not_in_the_history(
    sequence: EdgeScorer,
) -> None:
    reply = answer(sequence, ask([3, 17, 3], 5))
    hidden, _ = expected_state(np.array([3, 17, 3]), item_rows())
    scores = item_rows() @ hidden
    scores[[0, 3, 17]] = -np.inf
    order = np.argsort(-scores)[:5]
    assert reply.items is not None
    assert reply.items.tolist() == order.tolist()
    np.testing.assert_allclose(reply.scores, scores[order], atol=1e-5)


def test_recommend_leaves_out_history_beyond_what_the_encoder_sees(sequence: EdgeScorer) -> None:
    history = [40, 39, *range(1, 9)]
    reply = answer(sequence, ask(history, ITEMS))
    assert reply.items is not None
    assert not set(reply.items.tolist()) & set(history)


def test_more_than_the_catalogue_has_is_filled_with_minus_one(sequence: EdgeScorer) -> None:
    reply = answer(sequence, ask([1, 2], ITEMS + 3))
    assert reply.items is not None
    assert sorted(reply.items[:-5].tolist()) == list(range(3, ITEMS + 1))
    assert reply.items[-5:].tolist() == [-1] * 5
    assert np.isneginf(reply.scores[-5:]).all()


@given(st.lists(questions, min_size=1, max_size=20))
def test_an_answer_does_not_depend_on_its_batch_mates(
    sequence: EdgeScorer, int8_sequence: EdgeScorer, asked: list[tuple[list[int], Any]]
) -> None:
    requests = [ask(*each) for each in asked]
    for scorer in (sequence, int8_sequence):
        for request, together in zip(requests, scorer.score(requests), strict=True):
            (alone,) = scorer.score([request])
            assert together.scores.tobytes() == alone.scores.tobytes()
            assert together.uncertainty == alone.uncertainty
            if alone.items is not None and together.items is not None:
                assert together.items.tolist() == alone.items.tolist()


@given(st.lists(histories, min_size=2, max_size=9), st.integers(1, 9), st.integers(0, ITEMS))
def test_requests_with_equally_many_candidates_score_as_each_does_alone(
    sequence: EdgeScorer, asked: list[list[int]], wanted: int, first: int
) -> None:
    requests = [
        ask(history, [1 + (first + i * n) % ITEMS for n in range(wanted)])
        for i, history in enumerate(asked)
    ]
    for request, together in zip(requests, sequence.score(requests), strict=True):
        assert together.scores.tobytes() == answer(sequence, request).scores.tobytes()


def test_twenty_recommendations_at_once_are_those_of_twenty_calls(sequence: EdgeScorer) -> None:
    requests = [ask([1 + n, 2 + n], 5 + n % 3) for n in range(20)]
    for request, together in zip(requests, sequence.score(requests), strict=True):
        alone = answer(sequence, request)
        assert together.scores.tobytes() == alone.scores.tobytes()
        assert alone.items is not None
        assert together.items is not None
        assert together.items.tolist() == alone.items.tolist()


@given(histories, candidate_lists)
def test_a_candidate_scores_the_same_alone_as_in_a_crowd(
    sequence: EdgeScorer, history: list[int], wanted: list[int]
) -> None:
    crowd = answer(sequence, ask(history, wanted)).scores
    alone = [answer(sequence, ask(history, [item])).scores[0] for item in wanted]
    assert crowd.tolist() == [float(score) for score in alone]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"query": {}}, "the query must be"),
        ({"query": {"history": np.array([1]), "age": np.array([1])}}, "the query must be"),
        ({"query": {"history": np.array([1.0])}}, "must be a list of item ids"),
        ({"query": {"history": np.array([[1]])}}, "must be a list of item ids"),
        ({"query": {"history": np.array([0])}}, "holds item 0; ids go from 1 to 40"),
        ({"query": {"history": np.array([1, 41])}}, "holds item 41"),
        ({"candidates": {"id": np.zeros(0, np.int64)}}, "there are no candidates"),
        ({"candidates": {"id": np.array([-1])}}, "holds item -1"),
        ({"candidates": {"sku": np.array([1])}}, "are item ids"),
        ({"candidates": None, "k": 0}, "k must be from 1"),
        ({"candidates": None, "k": None}, "k must be from 1"),
        ({"candidates": None, "k": 10**6}, "k must be from 1"),
    ],
)
def test_a_request_that_does_not_fit_is_told_why(
    sequence: EdgeScorer, change: dict[str, Any], sentence: str
) -> None:
    fields: dict[str, Any] = {
        "model": "ranker",
        "query": {"history": np.array([1])},
        "candidates": {"id": np.array([1])},
    }
    with pytest.raises(BadRequest, match=sentence):
        sequence.validate(ScoreRequest(**(fields | change)))


def test_a_row_costs_as_many_as_it_has_candidates(sequence: EdgeScorer) -> None:
    assert sequence.rows(ask([1], [1, 2, 3])) == 3
    assert sequence.rows(ask([1], 10)) == 1


def test_scores_that_are_not_finite_are_no_answer(tmp_path: Any) -> None:
    # Six such rows still add up to a float32; the product of the last one and a state of ±1 not.
    rows = np.full((ITEMS + 1, tiny_bundles.DIM), 5.5e37, np.float32)
    rows[0] = 0.0
    rows[ITEMS] *= np.sign(tiny_bundles.encoder_weights()[0].sum(axis=0))
    bundle = tiny_bundles.write_sequence(
        tmp_path,
        files={"big.npy": tiny_bundles.npy(rows), "items.npy": tiny_bundles.npy(rows)},
        tables={"items": {"values": "big.npy"}},
    )
    with pytest.raises(ModelFailed, match="a score is not finite"):
        load_scorer(bundle, threads=1).score([ask([1], [1, ITEMS])])


def test_the_prior_is_the_bundles(sequence: EdgeScorer) -> None:
    prior = sequence.prior()
    assert prior is not None
    assert prior.shape == (ITEMS + 1,)
