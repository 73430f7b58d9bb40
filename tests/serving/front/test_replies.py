"""Remembered headers give the very bytes that encoding anew gives, and refuse what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tierline import FrameError
from tierline.wire import ScoreReply, encode_reply
from tierline_serving.front.replies import MOST, Buffer, Replies

TIMES = st.one_of(st.floats(0.0, 1e9), st.sampled_from([-1.0, float("nan"), float("inf")]))
DOUBTS = st.one_of(st.none(), st.floats(0.0, 1.0), st.sampled_from([1.5, float("nan")]))


@st.composite
def replies(draw: st.DrawFn) -> ScoreReply:
    scores = np.arange(draw(st.integers(0, 5)), dtype=draw(st.sampled_from(["f4", "f4", "f8"])))
    names = draw(st.sampled_from([(), (), ("queue",), ("graph", "compute")]))
    return ScoreReply(
        draw(st.sampled_from(["ranker", "m", ""])),
        draw(st.sampled_from(["1@000000000000", "2@000000000000"])),
        scores[:: draw(st.sampled_from([1, 1, 2]))],
        draw(st.sampled_from([None, None, np.arange(len(scores))])),
        draw(DOUBTS),
        draw(st.one_of(st.none(), st.floats())),
        {name: draw(TIMES) for name in names},
    )


def encoded(encode: Callable[[], Sequence[Buffer]]) -> bytes | str:
    """The frame, or why there is none."""
    try:
        return b"".join(encode())
    except FrameError as error:
        return str(error)


@given(st.lists(st.tuples(replies(), TIMES, TIMES), max_size=12))
def test_a_reply_is_the_same_bytes_remembered_or_not(
    asked: list[tuple[ScoreReply, float, float]],
) -> None:
    remembering = Replies()
    for reply, queue, compute in asked:
        timed = reply._replace(timings={**reply.timings, "queue": queue, "compute": compute})
        remembered = encoded(partial(remembering.encode, reply, queue, compute))
        assert remembered == encoded(partial(encode_reply, timed))


def test_what_is_remembered_is_bounded() -> None:
    remembering = Replies()
    for rows in range(1, MOST + 50):
        scores = np.zeros(rows, np.float32)
        remembering.encode(ScoreReply("m", "1@000000000000", scores), 0.1, 0.2)
        assert len(remembering._known) <= MOST
