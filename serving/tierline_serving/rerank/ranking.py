"""What a rerank request asks of a model that ranks item ids, and its answer in order. Pure.

The documents are item ids: numbers, texts of digits, or objects with an ``id``. The query is the
history: a list of ids, or a text of ids. Free text needs a model that reads text (``texts``), and
guessing would be worse than saying so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tierline import BadRequest, ModelNotFound
from tierline.wire import CANDIDATE_IDS, ScoreRequest
from tierline_serving.front.exchange import Refused
from tierline_serving.requests import HISTORY
from tierline_serving.rerank.shapes import Ranked, RerankRequest
from tierline_serving.scorer import ModelInfo

RANKING_KINDS: Final = ("sequence", "text")
MAX_HISTORY: Final = 10_000  # ids in a query; a model looks at its last few dozen
_MAX_ID: Final = 2**63 - 1
_DIGITS: Final = re.compile(r"[0-9]{1,19}")
_ID_LIST: Final = re.compile(r"[\s,]*([0-9]{1,19}([\s,]+[0-9]{1,19})*)?[\s,]*", re.ASCII)

Ids = NDArray[np.int64]


def chosen_model(request: RerankRequest, models: Sequence[ModelInfo]) -> ModelInfo:
    """The model to ask: the one named, or the only one that ranks items or reads text.

    Raises ModelNotFound when that is not served or there is none, BadRequest when it does neither
    or there are several to choose from.
    """
    ranking = {info.name: info for info in models if info.kind in RANKING_KINDS}
    if request.model is not None:
        if request.model not in {info.name for info in models}:
            known = ", ".join(ranking) or "none"
            raise ModelNotFound(f"there is no model {request.model[:80]!r}; models: {known}")
        if request.model not in ranking:
            raise BadRequest(
                f"model {request.model!r} takes tensors, not documents: use /v2/…/infer"
            )
        return ranking[request.model]
    if not ranking:
        raise ModelNotFound("no model here ranks documents")
    if len(ranking) > 1:
        raise BadRequest(f"name the model; those that rank documents: {', '.join(ranking)}")
    return next(iter(ranking.values()))


def score_request(request: RerankRequest, model: str) -> ScoreRequest:
    """What the model is asked. Raises BadRequest for what is malformed, Refused for free text."""
    history = np.array(_history(request.query), np.int64)
    ids = np.array([_document_id(each) for each in request.documents], np.int64)
    return ScoreRequest(model=model, query={HISTORY: history}, candidates={CANDIDATE_IDS: ids})


def ranked(request: RerankRequest, scores: NDArray[np.float32]) -> list[Ranked]:
    """The documents best first, equal ones in the order they came.

    A score is the model's own with ``raw_scores``, else its logistic, in [0, 1]: that keeps the
    order and calibrates nothing.
    """
    order = np.argsort(-scores, kind="stable")[: request.top_n]
    raw = scores.astype(np.float64)
    with np.errstate(over="ignore"):
        shown = raw if request.raw_scores else 1.0 / (1.0 + np.exp(-raw))
    return [Ranked(int(i), float(shown[i]), request.documents[int(i)]) for i in order]


def _history(query: object) -> list[int]:
    if isinstance(query, str):
        query = _ids_in(query)
    if not isinstance(query, list):
        raise BadRequest("query must be the history: item ids in a list or a text")
    if len(query) > MAX_HISTORY:
        raise BadRequest(f"query may hold at most {MAX_HISTORY} ids, got {len(query)}")
    return [_id(each) for each in query]


def _ids_in(text: str) -> list[object]:
    stripped = text.strip()
    if stripped.startswith("[") and len(stripped) < 20 * MAX_HISTORY:
        try:
            listed = json.loads(stripped)
        except (ValueError, RecursionError):
            raise _needs_text_model("query") from None
        if isinstance(listed, list):
            return listed
    if not _ID_LIST.fullmatch(text):
        raise _needs_text_model("query")
    return list(re.findall(r"[0-9]+", text))


def _document_id(document: object) -> int:
    if not isinstance(document, dict):
        return _id(document)
    if "id" not in document:
        if isinstance(document.get("text"), str):
            return _id(document["text"])  # how a document that is a plain text may be wrapped
        raise BadRequest("a document that is an object needs an id")
    return _id(document["id"])


def _id(value: object) -> int:
    if isinstance(value, str):
        if not _DIGITS.fullmatch(value.strip()):
            raise _needs_text_model("documents")
        value = int(value)
    if type(value) is not int or not 0 <= value <= _MAX_ID:
        raise BadRequest("an item id must be a whole number")
    return value


def _needs_text_model(part: str) -> Refused:
    return Refused(
        "bad_request",
        f"{part} holds free text, and the model asked reads none: name a model of kind text, or "
        "give item ids (documents as ids or objects with an id, the query as ids of the history)",
        422,  # not 501: stock clients try a 5xx again, in vain
    )
