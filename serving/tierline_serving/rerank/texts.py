"""What a rerank request asks of a model that reads text. Pure.

The query is a text. The documents are texts (or objects with a ``text``), each encoded for this
request, or items of the catalogue by id (numbers, or objects with an ``id`` and no text); not both
in one request. A text of digits is a text.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tierline import BadRequest
from tierline.wire import CANDIDATE_IDS, ScoreRequest
from tierline_serving.rerank.shapes import RerankRequest
from tierline_serving.text_requests import TEXT, pack_text, pack_texts

_MAX_ID = 2**63 - 1


def text_request(request: RerankRequest, model: str) -> ScoreRequest:
    """What the model is asked. Raises BadRequest for what is malformed."""
    if not isinstance(request.query, str):
        raise BadRequest(f"query must be a text: {model} reads text")
    query = {TEXT: pack_text(request.query)}
    bare = [_bare(document) for document in request.documents]
    texts = [each for each in bare if isinstance(each, str)]
    if len(texts) == len(bare):
        return ScoreRequest(model=model, query=query, candidates={TEXT: pack_texts(texts)})
    if texts:
        raise BadRequest("documents must be all texts or all item ids, not some of each")
    ids = np.array(bare, np.int64)
    return ScoreRequest(model=model, query=query, candidates={CANDIDATE_IDS: ids})


def _bare(document: object) -> str | int:
    if isinstance(document, Mapping):
        document = document.get("text", document.get("id"))
    if isinstance(document, str):
        return document
    if type(document) is not int or not 0 <= document <= _MAX_ID:
        raise BadRequest("a document is a text, an item id, or an object with a text or an id")
    return document
