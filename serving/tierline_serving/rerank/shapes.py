"""Reads a rerank request in whichever shape it comes, and writes the answer in the same. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from tierline import BadRequest

MAX_DOCUMENTS: Final = 10_000  # the shapes' own services take a tenth of it


class Shape(Enum):
    """Whose request it is."""

    COHERE_V2 = "cohere v2"
    V1 = "cohere v1 and jina"  # one path for both: the answer holds what either reads
    TEI = "tei"


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankRequest:
    """What every shape asks: the documents, best first, at most ``top_n`` of them."""

    shape: Shape
    query: object  # a text, or a list of item ids
    documents: Sequence[object]
    model: str | None
    top_n: int | None = None
    returns_documents: bool = False
    raw_scores: bool = False


@dataclass(frozen=True, slots=True)
class Ranked:
    """One result: the document's place in the request, its score, itself."""

    index: int
    score: float
    document: object


def read_rerank(path: str, body: Mapping[str, object]) -> RerankRequest:
    """A request that came to ``path``. Raises BadRequest with a sentence."""
    shape = _shape(path, body)
    name = "texts" if shape is Shape.TEI else "documents"
    documents = body.get(name)
    if not isinstance(documents, list) or not documents:
        raise BadRequest(f"{name} must be a list of at least one document")
    if len(documents) > MAX_DOCUMENTS:
        raise BadRequest(f"{name} may be at most {MAX_DOCUMENTS}, got {len(documents)}")
    if "query" not in body:
        raise BadRequest("query is missing")
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise BadRequest("model must be a text")
    if body.get("rank_fields") not in (None, [], ["id"]):
        raise BadRequest("rank_fields can only be ['id']: documents are ranked by their item ids")
    wants = "return_text" if shape is Shape.TEI else "return_documents"
    # Jina's default is to return them; a Cohere client reads past them.
    return RerankRequest(
        shape=shape,
        query=body["query"],
        documents=documents,
        model=model or None,
        top_n=_top_n(body.get("top_n")),
        returns_documents=_flag(body, wants, default=shape is Shape.V1),
        raw_scores=_flag(body, "raw_scores", default=False),
    )


def write_rerank(
    request: RerankRequest, model: str, identifier: str, ranked: Sequence[Ranked]
) -> object:
    """The answer's JSON value."""
    if request.shape is Shape.TEI:
        return [_tei_result(request, each) for each in ranked]
    results = [_result(request, each) for each in ranked]
    version = "2" if request.shape is Shape.COHERE_V2 else "1"
    answer: dict[str, object] = {
        "id": identifier,
        "results": results,
        "meta": {"api_version": {"version": version}},
    }
    if request.shape is Shape.V1:
        # An answer does not tell how many tokens were read; nothing is billed by them.
        answer |= {"object": "list", "model": model, "usage": {"total_tokens": 0}}
    return answer


def write_error(shape: Shape | None, message: str, kind: str) -> dict[str, str]:
    """An error's JSON object; None where the shape could not be told: the fields of all."""
    cohere = {"message": message, "detail": message}
    tei = {"error": message, "error_type": kind}
    if shape is None:
        return {**cohere, **tei}
    return tei if shape is Shape.TEI else cohere


def shape_of_path(path: str) -> Shape | None:
    """The shape a path alone tells; None for ``/rerank``, which serves several."""
    return {"/v2/rerank": Shape.COHERE_V2, "/v1/rerank": Shape.V1}.get(path)


def _shape(path: str, body: Mapping[str, object]) -> Shape:
    return shape_of_path(path) or (Shape.TEI if "texts" in body else Shape.V1)


def _result(request: RerankRequest, ranked: Ranked) -> dict[str, object]:
    result: dict[str, object] = {"index": ranked.index, "relevance_score": ranked.score}
    if request.returns_documents:
        given = ranked.document
        result["document"] = given if isinstance(given, dict) else {"text": str(given)}
    return result


def _tei_result(request: RerankRequest, ranked: Ranked) -> dict[str, object]:
    result: dict[str, object] = {"index": ranked.index, "score": ranked.score}
    if request.returns_documents:
        result["text"] = str(ranked.document)
    return result


def _top_n(value: object) -> int | None:
    if value is None:
        return None
    if type(value) is not int or value < 1:
        raise BadRequest("top_n must be a whole number, at least 1")
    return value


def _flag(body: Mapping[str, object], name: str, *, default: bool) -> bool:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise BadRequest(f"{name} must be true or false")
    return value
