"""A full SASRec served: the torch model's answers, whoever else is in the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cloud_bundles
import numpy as np
import pytest
import torch
from cloud_bundles import CONFIG, HISTORY, ITEMS
from hypothesis import given
from hypothesis import strategies as st

from tierline import BadRequest, BundleRefused, ConfigurationError
from tierline.wire import ScoreRequest
from tierline_cloud.serve.scorer import TorchScorer, load_scorer
from tierline_serving.bundle import Bundle

histories = st.lists(st.integers(1, ITEMS), max_size=12)
wishes = st.lists(st.integers(1, ITEMS), min_size=1, max_size=20) | st.integers(1, ITEMS + 5)


def ask(history: list[int], wanted: list[int] | int) -> ScoreRequest:
    query = {"history": np.array(history, np.int64)}
    if isinstance(wanted, int):
        return ScoreRequest(model="ranker", query=query, k=wanted)
    return ScoreRequest(model="ranker", query=query, candidates={"id": np.array(wanted, np.int64)})


def all_scores(history: list[int]) -> Any:
    """Every item's score by the torch model itself: float32 [ITEMS + 1]."""
    ids = np.zeros((1, HISTORY), np.int64)
    recent = history[-HISTORY:]
    if recent:
        ids[0, -len(recent) :] = recent
    model = cloud_bundles.sasrec()
    with torch.inference_mode():
        return (model.hidden(torch.from_numpy(ids)) @ model.table.T)[0].numpy()


@pytest.mark.parametrize("history", [[], [7], list(range(1, 13))])
def test_candidates_score_as_the_model_says(sequence: TorchScorer, history: list[int]) -> None:
    (reply,) = sequence.score([ask(history, [1, 60, 30])])
    np.testing.assert_allclose(reply.scores, all_scores(history)[[1, 60, 30]], atol=1e-5)
    assert (reply.uncertainty, reply.items, reply.bundle) == (None, None, sequence.info.bundle)


def test_recommend_returns_the_best_items_that_are_not_in_the_history(
    sequence: TorchScorer,
) -> None:
    (reply,) = sequence.score([ask([7, 9], 6)])
    scores = np.array(all_scores([7, 9]))
    scores[[0, 7, 9]] = -np.inf
    assert reply.items is not None
    assert reply.items.tolist() == np.argsort(-scores)[:6].tolist()


def test_more_than_the_catalogue_has_is_filled_with_minus_one(sequence: TorchScorer) -> None:
    (reply,) = sequence.score([ask([7], ITEMS + 2)])
    assert reply.items is not None
    assert reply.items[-3:].tolist() == [-1] * 3
    assert np.isneginf(reply.scores[-3:]).all()


@given(st.lists(st.tuples(histories, wishes), min_size=1, max_size=11))
def test_an_answer_does_not_depend_on_its_batch_mates(
    sequence: TorchScorer, asked: list[tuple[list[int], Any]]
) -> None:
    requests = [ask(*each) for each in asked]
    for request, together in zip(requests, sequence.score(requests), strict=True):
        (alone,) = sequence.score([request])
        assert together.scores.tobytes() == alone.scores.tobytes()
        if together.items is not None and alone.items is not None:
            assert together.items.tolist() == alone.items.tolist()


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (ask([0], [1]), "holds item 0"),
        (ask([1], [ITEMS + 1]), "holds item 61"),
        (ask([1], []), "there are no candidates"),
        (ask([1], 0), "k must be from 1"),
    ],
)
def test_a_request_that_does_not_fit_is_told_why(
    sequence: TorchScorer, request_: ScoreRequest, sentence: str
) -> None:
    with pytest.raises(BadRequest, match=sentence):
        sequence.validate(request_)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sequence": {"items": ITEMS, "max_history": HISTORY + 1, "dim": 16}}, "positions"),
        ({"sequence": {"items": ITEMS, "max_history": HISTORY, "dim": 8}}, "60 items of 16"),
        ({"runtime": {"architecture": "bert4rec"}}, "'bert4rec' is unknown"),
        ({"runtime": {"architecture": "sasrec", "config": {"n_items": 0}}}, "does not load"),
        ({"runtime": {"architecture": "sasrec", "config": {"rows": 1}}}, "does not load"),
        (
            {"runtime": {"architecture": "sasrec", "config": {**CONFIG.to_json(), "blocks": 3}}},
            "Missing key",
        ),
    ],
)
def test_a_bundle_that_contradicts_itself_is_refused(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    if "runtime" in changes:
        runtime = {"engine": "torch", "entry": "model.safetensors", **changes["runtime"]}
        changes = {"runtime": runtime}
    bundle = cloud_bundles.write_sasrec(tmp_path, **changes)
    with pytest.raises(BundleRefused, match=sentence):
        load_scorer(bundle, threads=1)


def test_threads_below_one_are_refused(sasrec_bundle: Bundle) -> None:
    with pytest.raises(ConfigurationError, match="threads: must be at least 1"):
        load_scorer(sasrec_bundle, threads=0)


def test_the_prior_is_the_bundles(sequence: TorchScorer) -> None:
    prior = sequence.prior()
    assert prior is not None
    assert prior.shape == (ITEMS + 1,)
