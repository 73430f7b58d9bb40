"""Kind tensor at the edge: the graph's answers per row, whoever else is in the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bundles
from hypothesis import given
from hypothesis import strategies as st
from tiny_bundles import FEATURES

from tierline import BadRequest, BundleRefused, ModelFailed
from tierline.wire import ScoreRequest
from tierline_edge.scorer import EdgeScorer, load_scorer


def ask(seed: int, rows: int) -> ScoreRequest:
    dice = np.random.default_rng(seed)
    return ScoreRequest(
        model="taste",
        query={"user": dice.standard_normal(FEATURES).astype(np.float32)},
        candidates={"item": dice.standard_normal((rows, FEATURES)).astype(np.float32)},
    )


def test_every_row_meets_the_query(tensor: EdgeScorer) -> None:
    request = ask(1, 5)
    assert request.candidates is not None
    tensor.validate(request)
    (reply,) = tensor.score([request])
    items, user = (
        np.asarray(each, np.float64) for each in (request.candidates["item"], request.query["user"])
    )
    expected = items @ user
    np.testing.assert_allclose(reply.scores, expected, atol=1e-6)
    assert reply.uncertainty == pytest.approx(float((1 / (1 + np.exp(-expected))).mean()))
    assert reply.threshold == 0.6


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(1, 9)), min_size=1, max_size=6))
def test_an_answer_does_not_depend_on_its_batch_mates(
    tensor: EdgeScorer, asked: list[tuple[int, int]]
) -> None:
    requests = [ask(*each) for each in asked]
    for request, together in zip(requests, tensor.score(requests), strict=True):
        (alone,) = tensor.score([request])
        assert together.scores.tobytes() == alone.scores.tobytes()
        assert together.uncertainty == alone.uncertainty


@given(st.lists(st.lists(st.integers(1, 9), min_size=2, max_size=5), min_size=2, max_size=4))
def test_answers_stay_as_they_are_whatever_batch_comes_next(
    tensor: EdgeScorer, batches: list[list[int]]
) -> None:
    kept = []
    for number, sizes in enumerate(batches):
        requests = [ask(10 * number + i, rows) for i, rows in enumerate(sizes)]
        kept += zip(requests, tensor.score(requests), strict=True)
    for request, reply in kept:
        assert reply.scores.tobytes() == tensor.score([request])[0].scores.tobytes()


@given(st.integers(0, 99), st.integers(1, 30))
def test_a_row_scores_the_same_alone_as_in_a_crowd(
    tensor: EdgeScorer, seed: int, rows: int
) -> None:
    crowd = ask(seed, rows)
    assert crowd.candidates is not None
    (reply,) = tensor.score([crowd])
    for row in range(rows):
        item = crowd.candidates["item"][row : row + 1]
        single = ScoreRequest(model="taste", query=crowd.query, candidates={"item": item})
        (alone,) = tensor.score([single])
        assert alone.scores[0] == reply.scores[row]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"candidates": None, "k": 3}, "cannot recommend"),
        ({"query": {}}, "query must be named"),
        ({"candidates": {"item": np.zeros((2, 4), np.float32), "x": np.zeros(2)}}, "must be named"),
        ({"candidates": {"item": np.zeros((0, 4), np.float32)}}, "there are no candidates"),
        ({"candidates": {"item": np.float32(1)}}, "there are no candidates"),
        ({"candidates": {"item": np.zeros((2, 5), np.float32)}}, "must have shape"),
        ({"candidates": {"item": np.zeros((2, 4))}}, "must be float32, got float64"),
        ({"query": {"user": np.zeros((1, 4), np.float32)}}, "must have shape"),
        ({"query": {"user": np.full(4, np.nan, np.float32)}}, "not finite"),
    ],
)
def test_a_request_that_does_not_fit_is_told_why(
    tensor: EdgeScorer, change: dict[str, Any], sentence: str
) -> None:
    fields: dict[str, Any] = {
        "model": "taste",
        "query": {"user": np.zeros(4, np.float32)},
        "candidates": {"item": np.zeros((2, 4), np.float32)},
    }
    with pytest.raises(BadRequest, match=sentence):
        tensor.validate(ScoreRequest(**(fields | change)))


def test_candidate_tensors_of_different_lengths_are_told_apart(tmp_path: Path) -> None:
    spec = {"dtype": "float32", "shape": ["rows", FEATURES], "role": "candidate"}
    bundle = tiny_bundles.write_tensor(
        tmp_path, inputs=[{"name": "user", **spec}, {"name": "item", **spec}]
    )
    scorer = load_scorer(bundle, threads=1)
    four, five = np.zeros((4, FEATURES), np.float32), np.zeros((5, FEATURES), np.float32)
    request = ScoreRequest(model="taste", query={}, candidates={"user": four, "item": five})
    with pytest.raises(BadRequest, match="equally many rows"):
        scorer.validate(request)


def test_scores_that_are_not_finite_are_no_answer(tmp_path: Path) -> None:
    bundle = tiny_bundles.write_tensor(tmp_path, model=tiny_bundles.ranker("Sqrt"))
    request = ScoreRequest(
        model="taste",
        query={"user": np.ones(4, np.float32)},
        candidates={"item": -np.ones((2, 4), np.float32)},
    )
    with pytest.raises(ModelFailed, match="not finite"):
        load_scorer(bundle, threads=1).score([request])


def test_inputs_without_an_axis_of_candidates_are_refused(tmp_path: Path) -> None:
    spec = {"dtype": "float32", "shape": ["rows", FEATURES], "role": "query"}
    bundle = tiny_bundles.write_tensor(
        tmp_path, inputs=[{"name": "user", **spec}, {"name": "item", **spec}]
    )
    with pytest.raises(BundleRefused, match="at least one of role candidate"):
        load_scorer(bundle, threads=1)


def test_inputs_that_the_graph_does_not_have_are_refused(tmp_path: Path) -> None:
    spec = {"dtype": "float32", "shape": ["rows", FEATURES], "role": "candidate"}
    bundle = tiny_bundles.write_tensor(tmp_path, inputs=[{"name": "product", **spec}])
    with pytest.raises(BundleRefused, match="product"):
        load_scorer(bundle, threads=1)
