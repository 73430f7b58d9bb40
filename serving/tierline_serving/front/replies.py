"""Writes reply frames, and remembers their headers: the same model answers again and again.

What is remembered is a frame that ``encode_reply`` wrote; only its numbers are put in anew. Where
each stands was found by writing numbers that nothing else looks like.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final

import numpy as np

from tierline.wire import ScoreReply, encode_reply

MOST: Final = 512  # headers kept; then all are forgotten
_NUMBER: Final = Struct(">d")  # as msgpack writes a float
_MARKS: Final[tuple[float, ...]] = (0.3141592653589793, 27182818.284590452, 57721566.490153286)
_FLOAT32: Final = np.dtype("<f4")
_NO_END: Final = float("inf")

Buffer = bytes | bytearray | memoryview
Key = tuple[str, str, int, bool, float | None]


class _Header:
    """The bytes before the scores, and where the uncertainty and the two times stand in them."""

    __slots__ = ("before", "places")

    def __init__(self, before: bytes, places: Sequence[int]) -> None:
        self.before = before
        self.places = places


class Replies:
    """Encodes replies like ``encode_reply``, and remembers."""

    def __init__(self) -> None:
        self._known: dict[Key, _Header] = {}

    def encode(self, reply: ScoreReply, queue: float, compute: float) -> Sequence[Buffer]:
        """The frame of a reply that took these seconds, as parts; the scores are not copied.
        Raises FrameError."""
        model, bundle, scores, items, doubt, threshold, timings = reply
        if (
            items is not None
            or timings
            or not 0.0 <= queue < _NO_END
            or not 0.0 <= compute < _NO_END
            or (doubt is not None and (type(doubt) is not float or not 0.0 <= doubt <= 1.0))
            or scores.dtype != _FLOAT32
            or not scores.size
            or not scores.flags.c_contiguous
        ):
            times = {**timings, "queue": queue, "compute": compute}
            return encode_reply(reply._replace(timings=times))
        key = (model, bundle, len(scores), doubt is None, threshold)
        known = self._known.get(key)
        if known is None:
            known = self._remember(key, reply)
        before = bytearray(known.before)
        places = known.places
        if doubt is not None:
            _NUMBER.pack_into(before, places[0], doubt)
        _NUMBER.pack_into(before, places[-2], queue)
        _NUMBER.pack_into(before, places[-1], compute)
        return (before, scores.data)

    def _remember(self, key: Key, reply: ScoreReply) -> _Header:
        doubt, queue, compute = _MARKS
        marked = reply._replace(
            uncertainty=None if reply.uncertainty is None else doubt,
            timings={"queue": queue, "compute": compute},
        )
        before = bytes(encode_reply(marked)[0])
        marks = _MARKS if reply.uncertainty is not None else _MARKS[1:]
        places = [before.find(b"\xcb" + _NUMBER.pack(mark)) + 1 for mark in marks]
        assert all(places), "encode_reply writes each number once"
        if len(self._known) >= MOST:
            self._known.clear()
        known = self._known[key] = _Header(before, places)
        return known
