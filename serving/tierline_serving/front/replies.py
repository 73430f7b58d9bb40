"""Writes reply frames, and remembers their headers: the same model answers again and again.

What is remembered is a frame that ``encode_reply`` wrote; only its numbers are put in anew. Where
each stands was found by writing numbers that nothing else looks like.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final, NamedTuple

import numpy as np

from tierline.wire import ScoreReply, encode_reply

MOST: Final = 512  # headers kept; then all are forgotten
_TIMES: Final = ("queue", "compute")
_NUMBER: Final = Struct(">d")  # as msgpack writes a float
_MARKS: Final[tuple[float, ...]] = (0.3141592653589793, 27182818.284590452, 57721566.490153286)
_FLOAT32: Final = np.dtype("<f4")
_NO_END: Final = float("inf")

Buffer = bytes | bytearray | memoryview
Key = tuple[str, str, int, bool, float | None]


class _Header(NamedTuple):
    """The bytes before the scores, and where the uncertainty and the two times stand in them."""

    before: bytes
    places: tuple[int, ...]


class Replies:
    """Encodes replies like ``encode_reply``, and remembers."""

    def __init__(self) -> None:
        self._known: dict[Key, _Header] = {}

    def encode(self, reply: ScoreReply) -> Sequence[Buffer]:
        """The frame of a reply, as parts; the scores are not copied. Raises FrameError."""
        model, bundle, scores, items, doubt, threshold, timings = reply
        queue, compute = timings.get("queue"), timings.get("compute")
        if (
            items is not None
            or tuple(timings) != _TIMES
            or type(queue) is not float
            or type(compute) is not float
            or not 0.0 <= queue < _NO_END
            or not 0.0 <= compute < _NO_END
            or (doubt is not None and (type(doubt) is not float or not 0.0 <= doubt <= 1.0))
            or scores.dtype != _FLOAT32
            or not scores.size
            or not scores.flags.c_contiguous
        ):
            return encode_reply(reply)
        key = (model, bundle, len(scores), doubt is None, threshold)
        known = self._known.get(key)
        if known is None:
            known = self._remember(key, reply)
        before = bytearray(known.before)
        numbers = (queue, compute) if doubt is None else (doubt, queue, compute)
        for place, number in zip(known.places, numbers, strict=True):
            _NUMBER.pack_into(before, place, number)
        return (before, scores.data.cast("B"))

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
        known = self._known[key] = _Header(before, tuple(places))
        return known
