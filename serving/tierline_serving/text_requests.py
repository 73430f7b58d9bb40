"""Whether a request fits a model of kind ``text``, and how texts travel as tensors. Pure.

A text is its UTF-8 bytes, uint8 [n]. Several are uint8 [texts, longest], each filled up with zeros
(a text holds no NUL). The query is ``{"text": …}``; candidates are item ids or documents of their
own, ``{"text": …}`` too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tierline import BadRequest
from tierline.wire import CANDIDATE_IDS, ScoreRequest
from tierline_serving.requests import MAX_K
from tierline_serving.text_spec import TextSpec

TEXT: Final = "text"
MAX_TEXT_BYTES: Final = 16_384  # a model reads its first few hundred tokens
MAX_PACKED_BYTES: Final = 2**24  # a frame's: one long text makes all the rows beside it as long
DOCUMENT_ROWS: Final = 64  # a document is encoded, an item's vectors are there: so much dearer

Bytes = NDArray[np.uint8]


def pack_text(text: str) -> Bytes:
    """A text as uint8 [n]. Raises BadRequest for one that is empty, too long or no Unicode."""
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRequest(f"a text is no valid Unicode: {error.reason}") from error
    if not data.strip(b" \t\r\n") or b"\0" in data:
        raise BadRequest("a text must hold something to read, and no NUL")
    if len(data) > MAX_TEXT_BYTES:
        raise BadRequest(f"a text may be {MAX_TEXT_BYTES} bytes of UTF-8, got {len(data)}")
    return np.frombuffer(data, np.uint8)


def pack_texts(texts: Sequence[str]) -> Bytes:
    """Texts as uint8 [texts, longest], filled up with zeros. Raises BadRequest."""
    rows = [pack_text(text) for text in texts]
    longest = max(map(len, rows), default=0)
    if len(rows) * longest > MAX_PACKED_BYTES:
        raise BadRequest(f"{len(rows)} texts of up to {longest} bytes are too much for one request")
    packed = np.zeros((len(rows), longest), np.uint8)
    for row, data in zip(packed, rows, strict=True):
        row[: len(data)] = data
    return packed


def read_text(data: NDArray[np.generic]) -> str:
    """The text in uint8 [n]. Raises BadRequest."""
    if data.ndim != 1 or data.dtype != np.uint8:
        raise BadRequest(f"a text is its UTF-8 bytes, uint8 [n], got {data.dtype} {data.shape}")
    try:
        text = data.tobytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(f"a text is no UTF-8: {error.reason} at byte {error.start}") from error
    pack_text(text)
    return text


def read_texts(packed: NDArray[np.generic]) -> list[str]:
    """The texts in uint8 [texts, longest]. Raises BadRequest."""
    if packed.ndim != 2 or packed.dtype != np.uint8:
        raise BadRequest(
            f"texts are UTF-8 bytes, uint8 [texts, longest], got {packed.dtype} {packed.shape}"
        )
    ends = packed.shape[1] - (packed[:, ::-1] != 0).argmax(axis=1) if packed.size else []
    return [read_text(row[:end]) for row, end in zip(packed, ends, strict=True)]


class TextRequests:
    """Requests of kind ``text``: a query's text, and item ids, documents or ``k``."""

    def __init__(self, spec: TextSpec) -> None:
        self._items = spec.items
        self._rescored = spec.rescored

    def validate(self, request: ScoreRequest) -> None:
        """Raise BadRequest with a sentence when the request does not fit."""
        if set(request.query) != {TEXT}:
            raise BadRequest(f"the query must be {{'text': bytes}}, got {sorted(request.query)}")
        read_text(request.query[TEXT])
        if request.candidates is None:
            if request.k is None or not 1 <= request.k <= MAX_K:
                raise BadRequest(f"k must be from 1 to {MAX_K}, got {request.k}")
            return
        names = sorted(request.candidates)
        if names == [TEXT]:
            if not read_texts(request.candidates[TEXT]):
                raise BadRequest("there are no candidates; give at least one text")
        elif names == [CANDIDATE_IDS]:
            self._check_ids(request.candidates[CANDIDATE_IDS])
        else:
            raise BadRequest(f"candidates are item ids ('id') or texts ('text'), got {names}")

    def rows(self, request: ScoreRequest) -> int:
        """What it costs, in items whose token vectors are at hand."""
        if request.candidates is None:
            return max(self._rescored, request.k or 1)
        if TEXT in request.candidates:
            return DOCUMENT_ROWS * len(request.candidates[TEXT])
        return len(request.candidates[CANDIDATE_IDS])

    def _check_ids(self, ids: NDArray[np.generic]) -> None:
        if ids.ndim != 1 or ids.dtype.kind not in "iu" or ids.size == 0:
            raise BadRequest(f"candidates must be item ids, got {ids.dtype} {ids.shape}")
        low, high = int(ids.min()), int(ids.max())
        if low < 1 or high > self._items:
            wrong = low if low < 1 else high
            raise BadRequest(f"candidates hold item {wrong}; ids go from 1 to {self._items}")
