"""`/rerank` for a model that reads text: what it is asked, and which model is chosen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tierline import BadRequest, ModelNotFound
from tierline.wire import ScoreRequest
from tierline_serving.rerank.ranking import chosen_model
from tierline_serving.rerank.shapes import read_rerank
from tierline_serving.rerank.texts import text_request
from tierline_serving.scorer import ModelInfo
from tierline_serving.text_requests import read_text, read_texts


def _info(name: str, kind: str) -> ModelInfo:
    return ModelInfo(
        name=name, bundle="1@000000000000", kind=kind, tier="cloud", engine="torch", kernels="cpu"
    )


SEARCH, RANKER, CLICKS = (
    _info("search", "text"),
    _info("ranker", "sequence"),
    _info("clicks", "tensor"),
)


def _asked(documents: Sequence[object], query: object = "warm shoes") -> ScoreRequest:
    body = {"query": query, "documents": list(documents)}
    return text_request(read_rerank("/v1/rerank", body), "search")


@pytest.mark.parametrize(
    "documents", [["red shoes", "17"], [{"text": "red shoes", "id": 4}, {"text": "17"}]]
)
def test_texts_travel_as_utf8(documents: list[object]) -> None:
    request = _asked(documents)
    assert request.candidates is not None
    assert read_text(request.query["text"]) == "warm shoes"
    assert read_texts(request.candidates["text"]) == ["red shoes", "17"]


def test_items_of_the_catalogue_are_asked_by_id() -> None:
    request = _asked([4, {"id": 2}])
    assert request.candidates is not None
    np.testing.assert_array_equal(request.candidates["id"], [4, 2])


@pytest.mark.parametrize(
    ("documents", "query", "sentence"),
    [
        (["a", 4], "x", "all texts or all item ids"),
        ([{"title": "a"}], "x", "a document is a text, an item id"),
        ([True], "x", "a document is a text, an item id"),
        ([-1], "x", "a document is a text, an item id"),
        ([{"text": 4.5}], "x", "a document is a text, an item id"),
        ([" "], "x", "something to read"),
        (["a"], "", "something to read"),
        (["a"], [3, 4], "query must be a text: search reads text"),
    ],
)
def test_what_makes_no_sense_is_refused(
    documents: list[object], query: object, sentence: str
) -> None:
    with pytest.raises(BadRequest, match=sentence):
        _asked(documents, query)


def test_the_only_model_that_can_is_chosen() -> None:
    request = read_rerank("/rerank", {"query": "x", "texts": ["a"]})
    assert chosen_model(request, [CLICKS, SEARCH]) is SEARCH
    assert chosen_model(request, [RANKER]) is RANKER
    with pytest.raises(BadRequest, match="name the model; those that rank documents: search, rank"):
        chosen_model(request, [SEARCH, RANKER])
    with pytest.raises(ModelNotFound, match="no model here ranks documents"):
        chosen_model(request, [CLICKS])


def test_a_model_that_takes_tensors_is_not_asked() -> None:
    request = read_rerank("/rerank", {"query": "x", "texts": ["a"], "model": "clicks"})
    with pytest.raises(BadRequest, match="takes tensors, not documents"):
        chosen_model(request, [CLICKS, SEARCH])
