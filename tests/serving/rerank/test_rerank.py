"""`/rerank` in four shapes: Cohere's by its own clients, Jina's and TEI's by their documents.

Provenance of the last two: Jina's and TEI's published OpenAPI documents (fields, defaults and the
bare array of TEI), as the projects' reference pages describe them in November 2026.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any

import cohere
import cohere.errors
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from processes import Served

from tierline import BadRequest, TierlineError
from tierline_serving.front.exchange import Refused
from tierline_serving.rerank.ranking import ranked, score_request
from tierline_serving.rerank.shapes import RerankRequest, Shape, read_rerank

HISTORY = "3, 4"
IDS = ["5", "6", "7", "8"]


def scores_by_v2(node: Served) -> dict[str, float]:
    """What the model says of each id, by the inference protocol."""
    ids = [int(each) for each in IDS]
    answered = node.post(
        "/v2/models/ranker/infer",
        {
            "inputs": [
                {"name": "history", "datatype": "INT64", "shape": [2], "data": [3, 4]},
                {"name": "id", "datatype": "INT64", "shape": [len(ids)], "data": ids},
            ]
        },
    )
    document: Any = answered.json
    return dict(zip(IDS, document["outputs"][0]["data"], strict=True))


def expected(node: Served) -> list[tuple[int, float]]:
    """Index and score in [0, 1], best first."""
    scores = scores_by_v2(node)
    pairs = [(i, 1 / (1 + math.exp(-scores[each]))) for i, each in enumerate(IDS)]
    return sorted(pairs, key=lambda pair: -pair[1])


def test_the_cohere_v2_client_gets_the_models_order(node: Served) -> None:
    with cohere.ClientV2(api_key="none", base_url=f"http://{node.address}") as client:
        answer = client.rerank(model="ranker", query=HISTORY, documents=IDS, top_n=3)
    got = [(result.index, result.relevance_score) for result in answer.results]
    assert [index for index, _ in got] == [index for index, _ in expected(node)][:3]
    assert [s for _, s in got] == pytest.approx([s for _, s in expected(node)][:3], abs=1e-6)
    assert answer.meta is not None
    assert answer.meta.api_version is not None
    assert answer.meta.api_version.version == "2"


def test_the_cohere_v1_client_gets_its_documents_back(node: Served) -> None:
    documents: Any = [{"id": each, "title": "boots"} for each in IDS]
    with cohere.Client(api_key="none", base_url=f"http://{node.address}") as client:
        plain = client.rerank(model="ranker", query="[3, 4]", documents=IDS, return_documents=True)
        shaped = client.rerank(model="ranker", query="3 4", documents=documents)
    assert [r.index for r in plain.results] == [i for i, _ in expected(node)]
    assert [r.index for r in shaped.results] == [i for i, _ in expected(node)]
    assert plain.results[0].document is not None
    assert plain.results[0].document.text == IDS[plain.results[0].index]


def test_the_asyncio_cohere_client_gets_the_same(node: Served) -> None:
    async def ask() -> list[int]:
        async with cohere.AsyncClientV2(
            api_key="none", base_url=f"http://{node.address}"
        ) as client:
            answer = await client.rerank(model="ranker", query=HISTORY, documents=IDS)
            return [result.index for result in answer.results]

    assert asyncio.run(ask()) == [index for index, _ in expected(node)]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"query": "waterproof boots"}, cohere.errors.UnprocessableEntityError),
        ({"documents": ["waterproof boots"]}, cohere.errors.UnprocessableEntityError),
        ({"model": "nobody"}, cohere.errors.NotFoundError),
        ({"model": "taste"}, cohere.errors.BadRequestError),
        ({"documents": ["41"]}, cohere.errors.BadRequestError),
        ({"documents": []}, cohere.errors.BadRequestError),
        ({"top_n": 0}, cohere.errors.BadRequestError),
    ],
)
def test_what_cannot_be_ranked_is_the_clients_own_error(
    node: Served, changes: dict[str, Any], error: type[Exception]
) -> None:
    arguments = {"model": "ranker", "query": HISTORY, "documents": IDS, **changes}
    with (
        cohere.ClientV2(api_key="none", base_url=f"http://{node.address}") as client,
        pytest.raises(error),
    ):
        client.rerank(**arguments)


def test_jina_gets_its_fields(node: Served) -> None:
    answered = node.post("/v1/rerank", {"model": "ranker", "query": HISTORY, "documents": IDS})
    document: Any = answered.json
    assert document["model"] == "ranker"
    assert document["usage"] == {"total_tokens": 0}
    assert [r["index"] for r in document["results"]] == [i for i, _ in expected(node)]
    assert document["results"][0]["document"] == {"text": IDS[document["results"][0]["index"]]}


def test_jina_may_leave_the_documents_out(node: Served) -> None:
    body = {"model": "ranker", "query": HISTORY, "documents": IDS, "return_documents": False}
    document: Any = node.post("/rerank", body).json
    assert all(set(result) == {"index", "relevance_score"} for result in document["results"])


def test_tei_gets_a_bare_array_and_needs_no_model(node: Served) -> None:
    answered: Any = node.post("/rerank", {"query": HISTORY, "texts": IDS}).json
    assert [each["index"] for each in answered] == [index for index, _ in expected(node)]
    assert set(answered[0]) == {"index", "score"}
    raw: Any = node.post(
        "/rerank", {"query": HISTORY, "texts": IDS, "raw_scores": True, "return_text": True}
    ).json
    scores = scores_by_v2(node)
    assert {each["text"]: each["score"] for each in raw} == pytest.approx(scores)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v2/rerank", {"message", "detail"}),
        ("/v1/rerank", {"message", "detail"}),
        ("/rerank", {"message", "detail", "error", "error_type"}),
    ],
)
def test_errors_are_in_the_shape_of_who_asks(node: Served, path: str, fields: set[str]) -> None:
    answered = node.post(path, {"model": "ranker", "query": "boots", "documents": ["1"]})
    document: Any = answered.json
    assert (answered.status, set(document)) == (422, fields)
    assert "the model asked reads none" in document["message"]
    assert node.ask("GET", path).status == 405


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"query": None}, "query must be the history"),
        ({"query": ["x"]}, "free text"),
        ({"query": "[1, 2"}, "free text"),
        ({"query": [1.5]}, "whole number"),
        ({"query": [True]}, "whole number"),
        ({"query": [2**63]}, "whole number"),
        ({"documents": [{"title": "boots"}]}, "needs an id"),
        ({"documents": [{"id": None}]}, "whole number"),
        ({"documents": [[1]]}, "whole number"),
        ({"documents": "1"}, "a list of at least one"),
        ({"documents": [1] * 10_001}, "at most 10000"),
        ({"model": 1}, "model must be a text"),
        ({"top_n": True}, "top_n"),
        ({"return_documents": "yes"}, "true or false"),
        ({"rank_fields": ["title"]}, "rank_fields"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    changes: dict[str, object], sentence: str
) -> None:
    body = {"model": "ranker", "query": [3], "documents": [1, 2], **changes}
    with pytest.raises((TierlineError, Refused)) as refused:
        score_request(read_rerank("/v1/rerank", body), "ranker")
    assert sentence in str(refused.value)


def test_a_query_must_be_there() -> None:
    with pytest.raises(BadRequest, match="query is missing"):
        read_rerank("/rerank", {"documents": [1]})


@given(
    scores=npst.arrays(np.float32, st.integers(1, 40), elements=st.floats(-200, 200, width=32)),
    top_n=st.none() | st.integers(1, 50),
)
def test_results_are_best_first_ties_as_they_came_and_scores_in_the_unit_interval(
    scores: Any, top_n: int | None
) -> None:
    documents = list(range(len(scores)))
    request = RerankRequest(shape=Shape.V1, query=[], documents=documents, model=None, top_n=top_n)
    results = ranked(request, scores)
    order = [result.index for result in results]
    wanted = sorted(documents, key=lambda i: (-float(scores[i]), i))
    assert order == wanted[: top_n or len(scores)]
    assert all(0.0 <= result.score <= 1.0 for result in results)
