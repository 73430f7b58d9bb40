"""Remembers where the tensors of a frame lie, so that the next with that header is not parsed.

Callers ask the same thing of other data: model, names, dtypes and shapes repeat, and with them the
header's every byte. What is remembered is what ``decode_request`` made of such a frame before; what
a header does not say (the frame's length, the zeros between tensors) is checked each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tierline.wire import Limits, ScoreRequest, decode_request

MOST: Final = 512  # layouts kept; then all are forgotten, and the common ones are back at once
LONGEST: Final = 2048  # bytes of a header worth keeping
_PREAMBLE: Final = 8  # magic, version and the header's length, as tierline.wire.frames has them
_ALIGNMENT: Final = 16
_ZEROS: Final = bytes(_ALIGNMENT)

Place = tuple[str, np.dtype[np.generic], tuple[int, ...], int]  # name, dtype, shape, offset


class _Layout:
    """One header's meaning."""

    __slots__ = ("candidates", "gaps", "k", "length", "model", "query", "version")

    def __init__(
        self,
        request: ScoreRequest,
        length: int,
        places: Sequence[Place],
        gaps: Sequence[tuple[int, int]],
    ) -> None:
        first = len(request.query)
        self.length = length
        self.model = request.model
        self.version = request.version
        self.k = request.k
        self.query = tuple(places[:first])
        self.candidates = None if request.candidates is None else tuple(places[first:])
        self.gaps = tuple(gaps)


class Layouts:
    """Decodes frames like ``decode_request``, and remembers."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._known: dict[bytes, _Layout] = {}

    def decode(self, data: bytes | bytearray | memoryview, start: int = 0) -> ScoreRequest:
        """The request in the frame that begins at ``start`` and ends with ``data``. Raises
        FrameError."""
        if type(data) is not bytes:
            return decode_request(data[start:], self._limits)
        tensors = start + _PREAMBLE
        tensors += int.from_bytes(data[start + 4 : tensors], "little")
        header = data[start:tensors]
        known = self._known.get(header)
        length = len(data) - start
        if known is None or length != known.length or not _has_zeros(data, start, known.gaps):
            request = decode_request(data[start:], self._limits)
            if len(header) <= LONGEST:
                self._remember(header, request, length)
            return request
        candidates = known.candidates
        return ScoreRequest(
            known.model,
            _views(data, start, known.query),
            None if candidates is None else _views(data, start, candidates),
            known.k,
            known.version,
        )

    def _remember(self, header: bytes, request: ScoreRequest, length: int) -> None:
        arrays = [*request.query.values(), *(request.candidates or {}).values()]
        if any(array.dtype == np.bool_ for array in arrays):
            return  # their bytes must be looked at each time
        gaps: list[tuple[int, int]] = []
        places: list[Place] = []
        at = len(header)
        for name, array in (*request.query.items(), *(request.candidates or {}).items()):
            start = at + (-at % _ALIGNMENT)
            if start != at:
                gaps.append((at, start))
            places.append((name, array.dtype, array.shape, start))
            at = start + array.nbytes
        if len(self._known) >= MOST:
            self._known.clear()
        self._known[header] = _Layout(request, length, places, gaps)


def _views(data: bytes, start: int, places: tuple[Place, ...]) -> dict[str, NDArray[np.generic]]:
    return {name: np.ndarray(shape, dtype, data, start + at) for name, dtype, shape, at in places}


def _has_zeros(data: bytes, start: int, gaps: tuple[tuple[int, int], ...]) -> bool:
    return all(data[start + at : start + to] == _ZEROS[: to - at] for at, to in gaps)
